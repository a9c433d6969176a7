package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Redacted stands for a secret wherever one would be shown.
const Redacted = "***"

// Secret is a configured secret: its text, ${env:NAME} for an environment
// variable, or ${file:PATH} for the contents of a file.
//
// No way of printing it shows the text: fmt, slog, YAML and JSON all give ***,
// or the reference, which is no secret. The text hides behind a pointer because
// fmt reads unexported fields without asking their methods.
type Secret struct {
	text *string
}

// NewSecret returns the secret that a configuration file would give for text.
func NewSecret(text string) Secret { return Secret{&text} }

// IsZero reports whether nothing is configured.
func (s Secret) IsZero() bool { return s.text == nil || *s.text == "" }

// IsFile reports whether the secret is a file's content, which can appear and
// change while the process runs.
func (s Secret) IsFile() bool {
	kind, _, ok := s.reference()
	return ok && kind == "file"
}

// ErrUnreadable is what [Secret.Resolve] returns for a file that cannot be read
// just now. Its other errors are mistakes in the configuration.
var ErrUnreadable = errors.New("secret cannot be read")

var reference = regexp.MustCompile(`^\$\{(env|file):([^}]+)\}$`)

func (s Secret) reference() (kind, name string, ok bool) {
	if s.text == nil {
		return "", "", false
	}
	m := reference.FindStringSubmatch(*s.text)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// Resolve returns the secret itself. Line ends at the end of a file are not
// part of it. Errors name the reference and never the text.
func (s Secret) Resolve(lookupEnv func(string) (string, bool), readFile func(string) ([]byte, error)) (string, error) {
	kind, name, ok := s.reference()
	switch {
	case s.IsZero():
		return "", errors.New("is empty")
	case !ok && strings.HasPrefix(*s.text, "${"):
		return "", errors.New("starts with ${ and is neither ${env:NAME} nor ${file:PATH}")
	case !ok:
		return *s.text, nil
	case kind == "env":
		value, set := lookupEnv(name)
		if !set || value == "" {
			return "", fmt.Errorf("%s: the variable is not set", s)
		}
		return value, nil
	}
	content, err := readFile(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", s, ErrUnreadable, err)
	}
	value := strings.TrimRight(string(content), "\r\n")
	if value == "" {
		// A file that is being written is empty for a moment.
		return "", fmt.Errorf("%s: %w: the file is empty", s, ErrUnreadable)
	}
	return value, nil
}

// String returns the reference, or *** for a text.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	if _, _, ok := s.reference(); ok {
		return *s.text
	}
	return Redacted
}

// Format implements fmt.Formatter for every verb, %#v and %x included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler, which JSON uses too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML implements yaml.Marshaler.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Secret) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: a secret must be a text", node.Line)}}
	}
	*s = NewSecret(node.Value)
	return nil
}

var (
	anyUserinfo = regexp.MustCompile(`^([a-zA-Z][a-zA-Z0-9+.-]*://).*@`)
	secretQuery = regexp.MustCompile(`(?i)([?&][^=&#]*(?:password|secret|token)=)[^&#]*`)
)

// RedactURL returns text with the credentials of a URL replaced by ***: user
// information, and query parameters whose name says so. What is no URL comes
// back as it is.
func RedactURL(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	text = secretQuery.ReplaceAllString(text, "${1}"+Redacted)
	parsed, err := url.Parse(text)
	if err == nil && parsed.User == nil {
		return text
	}
	// Also a URL that does not parse may hold a password: a / within it, say.
	return anyUserinfo.ReplaceAllString(text, "${1}"+Redacted+"@")
}
