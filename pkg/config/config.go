// Package config fills a configuration struct: its defaults, then one YAML
// file, then environment variables. It also keeps secrets from being printed
// and collects what is wrong.
//
// It knows no service and no key. A struct's own yaml tags name its keys, and
// its own Validate method says what a value must be.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Load is [Parse] of the file at path. An empty path means no file.
func Load(into any, path string, environ []string) error {
	if path == "" {
		return Parse(into, "", nil, environ)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration file: %w", err)
	}
	return Parse(into, path, text, environ)
}

// Parse puts the YAML text and then the environment over what into, a pointer
// to a struct, already holds. Unknown keys and values of the wrong type are
// errors; all of them are reported at once, those of the file by line number.
// The name is that of the file, for messages.
//
// environ has the form of os.Environ. The variable of a key is MAILRIVER_ and
// the path of yaml keys in upper case, joined by underscores: loader.max_rows
// is MAILRIVER_LOADER_MAX_ROWS. An empty value is a value. Lists of scalars are
// separated by commas. Lists of objects (as sources) and maps can be set in the
// file only.
//
// A variable that starts like a section and names no key of it is an error.
// Left alone are variables of other use (MAILRIVER_CONFIG, MAILRIVER_DATA_DIR
// and a few for tests), unless a key has that name, and those that Kubernetes
// makes for a service (MAILRIVER_LOADER_SERVICE_HOST, MAILRIVER_LOADER_PORT).
func Parse(into any, name string, text []byte, environ []string) error {
	return errors.Join(parseYAML(into, name, text), applyEnviron(into, environ))
}

func parseYAML(into any, name string, text []byte) error {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	err := decoder.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil // empty, or comments only
	}
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
		var problems Problems
		for _, text := range wrong.Errors {
			problems.Add(fmt.Errorf("%s: %s", name, plain(text)))
		}
		return problems.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: holds more than one YAML document", name)
	}
	return nil
}

var (
	unknownField = regexp.MustCompile(`^(line \d+): field (.+) not found in type \S+$`)
	wrongType    = regexp.MustCompile("(?s)^(line \\d+): cannot unmarshal (!!\\S+)( `.*`)? into (\\S+)$")
)

// plain says for people what package yaml says for programmers. The value is
// left out where it may be a secret.
func plain(text string) string {
	if m := unknownField.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("%s: unknown key %s", m[1], m[2])
	}
	m := wrongType.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	line, value, goType := m[1], m[3], m[4]
	switch {
	case strings.HasSuffix(goType, "config.Secret"):
		value = "" // what stands there may be the secret itself
	case value == "":
		value = " " + strings.TrimPrefix(m[2], "!!")
	}
	want := goType
	switch {
	case goType == "time.Duration":
		want = durationForm
	case strings.HasPrefix(goType, "[]"):
		want = "a list"
	case goType == "config.Secret":
		want = "a text"
	case goType == "string":
		want = "a text"
	case goType == "bool":
		want = "true or false"
	case strings.HasPrefix(goType, "int"), strings.HasPrefix(goType, "uint"):
		want = "a whole number"
	case strings.HasPrefix(goType, "float"):
		want = "a number"
	case strings.Contains(goType, "."):
		want = "a section with keys"
	}
	if value == "" {
		return fmt.Sprintf("%s: must be %s", line, want)
	}
	return fmt.Sprintf("%s:%s is not %s", line, value, want)
}

const durationForm = "a duration with a unit, such as 500ms, 10s, 5m or 168h"

// Print returns the configuration as YAML, with every [Secret] and every
// credential within a URL replaced by ***.
func Print(cfg any) ([]byte, error) {
	var root yaml.Node
	if err := root.Encode(cfg); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	redactURLs(&root)
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := encoder.Encode(&root); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return text.Bytes(), nil
}

func redactURLs(node *yaml.Node) {
	if node.Kind == yaml.ScalarNode {
		node.Value = RedactURL(node.Value)
	}
	for _, child := range node.Content {
		redactURLs(child)
	}
}
