package simulate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Keys are what the simulated providers sign with, and what a receiver needs to
// verify them. They are files in a folder, readable by their owner only.
type Keys struct {
	Dir   string            // absolute
	files map[string][]byte // by name
}

// File returns the content of a file, nil if there is none of that name.
func (k Keys) File(name string) []byte { return k.files[name] }

// Text returns the content of a file that holds one line, without its end.
func (k Keys) Text(name string) string { return strings.TrimSpace(string(k.files[name])) }

// LoadKeys reads the keys of a folder. An error that is [fs.ErrNotExist] means
// that the folder lacks those of a provider.
func LoadKeys(dir string) (Keys, error) {
	k, missing, err := readKeys(dir)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("keys: %s holds none for %s: %w", k.Dir, missing[0].name, fs.ErrNotExist)
	}
	if err != nil {
		return Keys{}, err
	}
	return k, nil
}

// readKeys reads what a folder holds, and says of which vendors it holds
// nothing. The last file of a vendor is written last: without it, the others are
// of an attempt that was not finished.
func readKeys(dir string) (k Keys, missing []vendor, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return Keys{}, nil, fmt.Errorf("keys: %w", err)
	}
	k = Keys{Dir: dir, files: map[string][]byte{}}
	var errs []error
	for _, v := range vendors() {
		if len(v.files) == 0 {
			continue
		}
		_, err := os.Stat(filepath.Join(dir, v.files[len(v.files)-1]))
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, v)
			continue
		}
		for _, name := range v.files {
			content, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				// Not wrapped: a folder that lost one file is damaged, not empty.
				errs = append(errs, fmt.Errorf("keys: %s: %s", name, err.Error()))
			}
			k.files[name] = content
		}
	}
	return k, missing, errors.Join(errs...)
}

// GenerateKeys returns the keys of a folder, and makes those that it lacks. It
// never replaces a key that is there.
func GenerateKeys(dir string) (Keys, error) {
	k, missing, err := readKeys(dir)
	if err != nil {
		return Keys{}, err
	}
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return Keys{}, fmt.Errorf("keys: %w", err)
	}
	for _, v := range missing {
		made, err := v.secrets(time.Now())
		if err != nil {
			return Keys{}, fmt.Errorf("keys of %s: %w", v.name, err)
		}
		for _, name := range v.files {
			if err := writeWhole(filepath.Join(k.Dir, name), made[name]); err != nil {
				return Keys{}, fmt.Errorf("keys: %w", err)
			}
			k.files[name] = made[name]
		}
	}
	return k, nil
}

// writeWhole leaves either the whole file or none.
func writeWhole(path string, content []byte) error {
	part, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = part.Write(content)
	if err := errors.Join(err, part.Close()); err != nil {
		return errors.Join(err, os.Remove(part.Name()))
	}
	return os.Rename(part.Name(), path)
}

// secretFile makes a file that holds one line.
func secretFile(name string, draw func() string) func(time.Time) (map[string][]byte, error) {
	return func(time.Time) (map[string][]byte, error) {
		return map[string][]byte{name: []byte(draw() + "\n")}, nil
	}
}

// privatePEM is a private key in PKCS #8.
func privatePEM(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// Files of SES: the key and the certificate that sign messages, and a server that
// hands the certificate out, on 127.0.0.1 and localhost, with its own root.
const (
	snsKeyFile     = "sns.key.pem" // RSA
	snsCertFile    = "sns.cert.pem"
	caFile         = "ca.pem"
	serverCertFile = "certserver.cert.pem"
	serverKeyFile  = "certserver.key.pem"
	topicFile      = "sns.topic"
)

func snsSecrets(now time.Time) (map[string][]byte, error) {
	files := map[string][]byte{topicFile: []byte("arn:aws:sns:us-east-1:123456789012:ses-events\n")}
	sns, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	server, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if files[snsKeyFile], err = privatePEM(sns); err != nil {
		return nil, err
	}
	if files[serverKeyFile], err = privatePEM(server); err != nil {
		return nil, err
	}
	root := certificate("Mailriver simulator CA", 1, now)
	root.IsCA, root.BasicConstraintsValid = true, true
	root.KeyUsage = x509.KeyUsageCertSign
	leaf := certificate("localhost", 2, now)
	leaf.DNSNames, leaf.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	signing := certificate("sns.amazonaws.com", 3, now)
	for _, c := range []struct {
		file     string
		template *x509.Certificate
		public   any
	}{{caFile, root, &ca.PublicKey}, {serverCertFile, leaf, &server.PublicKey}, {snsCertFile, signing, &sns.PublicKey}} {
		der, err := x509.CreateCertificate(rand.Reader, c.template, root, c.public, ca)
		if err != nil {
			return nil, err
		}
		files[c.file] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return files, nil // the key of the CA is forgotten: it signs nothing else
}

func certificate(name string, serial int64, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

// secret draws n letters and digits.
func secret(n int) string {
	text := make([]byte, n)
	for i := range text {
		x, err := rand.Int(rand.Reader, big.NewInt(int64(len(base62))))
		if err != nil {
			return "" // crypto/rand does not fail
		}
		text[i] = base62[x.Int64()]
	}
	return string(text)
}

// CertPath is the path of the SNS signing certificate on the certificate
// server. It names the certificate, as that of AWS does.
func (k Keys) CertPath() string {
	sum := sha256.Sum256(k.File(snsCertFile))
	return "/SimpleNotificationService-" + hex.EncodeToString(sum[:16]) + ".pem"
}

// Configured is what the configuration of a receiver says of a source, secrets
// in clear.
type Configured struct {
	Keys      []string
	BasicAuth string // the first pair, user:password
	URL       string
	TopicARNs []string
	CertHosts []string
}

// Source returns what signs for a configured source: its own keys where those
// sign, and the private halves of keys where the configuration holds public
// ones.
func (k Keys) Source(name, provider, endpoint string, c Configured) (Source, error) {
	s := Source{
		Name: name, Provider: provider, Endpoint: endpoint, PublicURL: c.URL, BasicAuth: c.BasicAuth,
	}
	v, ok := vendorOf(provider)
	switch {
	case !ok:
		return Source{}, fmt.Errorf("provider: %s cannot be simulated", provider)
	case v.adopt != nil:
		if err := v.adopt(k, &s, c); err != nil {
			return Source{}, err
		}
	default:
		s.Keys = c.Keys
	}
	return s, nil
}

// Sources are one source of each provider, named like it, posting to
// base/webhooks/NAME. The host (host:port) is that of the certificate server.
func (k Keys) Sources(base, certHost string) []Source {
	var sources []Source
	for _, v := range vendors() {
		endpoint := endpointOf(base, v.name)
		s, err := k.Source(v.name, v.name, endpoint, k.Configured(v.name, endpoint, certHost))
		if err != nil {
			continue // not possible: these are its own keys
		}
		sources = append(sources, s)
	}
	return sources
}

func endpointOf(base, name string) string { return strings.TrimSuffix(base, "/") + "/webhooks/" + name }

// Configured is what a receiver makes of the settings in [Keys.ConfigYAML] of a
// provider's source.
func (k Keys) Configured(provider, endpoint, certHost string) Configured {
	var c Configured
	v, ok := vendorOf(provider)
	if !ok {
		return c
	}
	for _, set := range v.settings(k, endpoint, certHost) {
		text := set.text
		if set.file != "" {
			text = k.Text(set.file)
		}
		switch set.key {
		case "keys":
			c.Keys = append(c.Keys, text)
		case "basic_auth":
			c.BasicAuth = text
		case "url":
			c.URL = text
		case "topic_arns":
			c.TopicARNs = append(c.TopicARNs, text)
		case "cert_hosts":
			c.CertHosts = append(c.CertHosts, text)
		}
	}
	return c
}

// ConfigYAML renders the section "sources" of a configuration that verifies
// [Keys.Sources] of the same arguments. Secrets stay in their files.
func (k Keys) ConfigYAML(base, certHost string) string {
	lists := []string{"keys", "basic_auth", "topic_arns", "cert_hosts"}
	var b strings.Builder
	b.WriteString("sources:\n")
	for _, v := range vendors() {
		fmt.Fprintf(&b, "  - name: %s\n    provider: %s\n", v.name, v.name)
		for _, set := range v.settings(k, endpointOf(base, v.name), certHost) {
			value := yamlText(set.text)
			if set.file != "" {
				value = yamlText("${file:" + filepath.Join(k.Dir, set.file) + "}")
			}
			if slices.Contains(lists, set.key) {
				value = "[" + value + "]"
			}
			fmt.Fprintf(&b, "    %s: %s\n", set.key, value)
		}
	}
	return b.String()
}

// yamlText is a double-quoted YAML scalar: JSON's strings are among them.
func yamlText(text string) string { return quoted(text) }
