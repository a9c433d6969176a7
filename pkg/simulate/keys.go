package simulate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Keys are what the simulated providers sign with, and what a receiver needs to
// verify them. They are files in a folder, one for each, readable by their owner
// only.
type Keys struct {
	Dir string // absolute

	SendgridKeyPEM []byte // P-256
	SendgridPublic string // base64 of the SubjectPublicKeyInfo, as SendGrid shows it
	MailgunKey     string
	PostmarkAuth   string // user:password
	MandrillKey    string
	TopicARN       string
	SNSKeyPEM      []byte // RSA, of the SNS signing certificate
	SNSCertPEM     []byte
	CAPEM          []byte // root of the certificate server
	ServerCertPEM  []byte // of the certificate server, for 127.0.0.1 and localhost
	ServerKeyPEM   []byte
}

// Names of the files. That of the topic is written last: a folder without it
// was not finished.
const (
	sendgridKeyFile    = "sendgrid.key.pem"
	sendgridPublicFile = "sendgrid.pub"
	mailgunFile        = "mailgun.key"
	postmarkFile       = "postmark.auth"
	mandrillFile       = "mandrill.key"
	snsKeyFile         = "sns.key.pem"
	snsCertFile        = "sns.cert.pem"
	caFile             = "ca.pem"
	serverCertFile     = "certserver.cert.pem"
	serverKeyFile      = "certserver.key.pem"
	topicFile          = "sns.topic"
)

func (k *Keys) files() []struct {
	name  string
	bytes *[]byte
	text  *string
} {
	return []struct {
		name  string
		bytes *[]byte
		text  *string
	}{
		{sendgridKeyFile, &k.SendgridKeyPEM, nil},
		{sendgridPublicFile, nil, &k.SendgridPublic},
		{mailgunFile, nil, &k.MailgunKey},
		{postmarkFile, nil, &k.PostmarkAuth},
		{mandrillFile, nil, &k.MandrillKey},
		{snsKeyFile, &k.SNSKeyPEM, nil},
		{snsCertFile, &k.SNSCertPEM, nil},
		{caFile, &k.CAPEM, nil},
		{serverCertFile, &k.ServerCertPEM, nil},
		{serverKeyFile, &k.ServerKeyPEM, nil},
		{topicFile, nil, &k.TopicARN},
	}
}

// LoadKeys reads the keys of a folder. An error that is [fs.ErrNotExist] means
// that the folder holds none.
func LoadKeys(dir string) (Keys, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Keys{}, fmt.Errorf("keys: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, topicFile)); err != nil {
		return Keys{}, fmt.Errorf("keys: %w", err)
	}
	k := Keys{Dir: dir}
	var errs []error
	for _, f := range k.files() {
		content, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			// Not wrapped: a folder that lost one file is damaged, not empty.
			errs = append(errs, fmt.Errorf("keys: %s: %s", f.name, err.Error()))
			continue
		}
		if f.text != nil {
			*f.text = strings.TrimSpace(string(content))
		} else {
			*f.bytes = content
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Keys{}, err
	}
	return k, nil
}

// GenerateKeys returns the keys of a folder, and makes them first when it holds
// none. It never replaces a key that a finished folder has.
func GenerateKeys(dir string) (Keys, error) {
	k, err := LoadKeys(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return Keys{}, fmt.Errorf("keys: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Keys{}, fmt.Errorf("keys: %w", err)
	}
	if k, err = newKeys(time.Now()); err != nil {
		return Keys{}, fmt.Errorf("keys: %w", err)
	}
	k.Dir = dir
	for _, f := range k.files() {
		content := []byte(nil)
		if f.text != nil {
			content = []byte(*f.text + "\n")
		} else {
			content = *f.bytes
		}
		if err := writeWhole(filepath.Join(dir, f.name), content); err != nil {
			return Keys{}, fmt.Errorf("keys: %w", err)
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

func newKeys(now time.Time) (Keys, error) {
	k := Keys{
		MailgunKey:   "key-" + secret(32),
		PostmarkAuth: "postmark:" + secret(32), // letters and digits: other characters do not survive every URL
		MandrillKey:  secret(22),
		TopicARN:     "arn:aws:sns:us-east-1:123456789012:ses-events",
	}
	sendgrid, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Keys{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&sendgrid.PublicKey)
	if err != nil {
		return Keys{}, err
	}
	k.SendgridPublic = base64.StdEncoding.EncodeToString(spki)
	sns, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return Keys{}, err
	}
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Keys{}, err
	}
	server, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Keys{}, err
	}
	for _, private := range []struct {
		into *[]byte
		key  any
	}{{&k.SendgridKeyPEM, sendgrid}, {&k.SNSKeyPEM, sns}, {&k.ServerKeyPEM, server}} {
		der, err := x509.MarshalPKCS8PrivateKey(private.key)
		if err != nil {
			return Keys{}, err
		}
		*private.into = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}

	root := certificate("Mailriver simulator CA", 1, now)
	root.IsCA, root.BasicConstraintsValid = true, true
	root.KeyUsage = x509.KeyUsageCertSign
	leaf := certificate("localhost", 2, now)
	leaf.DNSNames, leaf.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	signing := certificate("sns.amazonaws.com", 3, now)
	for _, c := range []struct {
		into     *[]byte
		template *x509.Certificate
		public   any
	}{{&k.CAPEM, root, &ca.PublicKey}, {&k.ServerCertPEM, leaf, &server.PublicKey}, {&k.SNSCertPEM, signing, &sns.PublicKey}} {
		der, err := x509.CreateCertificate(rand.Reader, c.template, root, c.public, ca)
		if err != nil {
			return Keys{}, err
		}
		*c.into = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return k, nil // the key of the CA is forgotten: it signs nothing else
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
	sum := sha256.Sum256(k.SNSCertPEM)
	return "/SimpleNotificationService-" + hex.EncodeToString(sum[:16]) + ".pem"
}

// Sources are one source of each provider, named like it, posting to
// base/webhooks/NAME. The host (host:port) is that of the certificate server.
func (k Keys) Sources(base, certHost string) []Source {
	base = strings.TrimSuffix(base, "/")
	var sources []Source
	for _, name := range Providers() {
		s := Source{Name: name, Provider: name, Endpoint: base + "/webhooks/" + name}
		switch name {
		case "sendgrid":
			s.PrivateKeyPEM = k.SendgridKeyPEM
		case "mailgun":
			s.Keys = []string{k.MailgunKey}
		case "postmark":
			s.BasicAuth = k.PostmarkAuth
		case "ses":
			s.PrivateKeyPEM, s.TopicARN, s.CertURL = k.SNSKeyPEM, k.TopicARN, "https://"+certHost+k.CertPath()
		case "mandrill":
			s.Keys, s.PublicURL = []string{k.MandrillKey}, s.Endpoint
		}
		sources = append(sources, s)
	}
	return sources
}

// ConfigYAML renders the section "sources" of a configuration that verifies
// [Keys.Sources] of the same arguments. Secrets stay in their files.
func (k Keys) ConfigYAML(base, certHost string) string {
	file := func(name string) string { return yamlText("${file:" + filepath.Join(k.Dir, name) + "}") }
	var b strings.Builder
	b.WriteString("sources:\n")
	for _, s := range k.Sources(base, certHost) {
		fmt.Fprintf(&b, "  - name: %s\n    provider: %s\n", s.Name, s.Provider)
		switch s.Provider {
		case "sendgrid":
			fmt.Fprintf(&b, "    keys: [%s]\n", file(sendgridPublicFile))
		case "mailgun":
			fmt.Fprintf(&b, "    keys: [%s]\n", file(mailgunFile))
		case "postmark":
			fmt.Fprintf(&b, "    basic_auth: [%s]\n", file(postmarkFile))
		case "ses":
			fmt.Fprintf(&b, "    topic_arns: [%s]\n", yamlText(k.TopicARN))
			fmt.Fprintf(&b, "    cert_hosts: [%s]\n", yamlText(certHost))
			fmt.Fprintf(&b, "    ca_file: %s\n", yamlText(filepath.Join(k.Dir, caFile)))
		case "mandrill":
			fmt.Fprintf(&b, "    keys: [%s]\n", file(mandrillFile))
			fmt.Fprintf(&b, "    url: %s\n", yamlText(s.PublicURL))
		}
	}
	return b.String()
}

// yamlText is a double-quoted YAML scalar: JSON's strings are among them.
func yamlText(text string) string { return quoted(text) }
