package simulate_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"

	"go.yaml.in/yaml/v3"

	"mailriver/pkg/simulate"
)

func TestGenerateKeys_keepsWhatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "keys")
	if _, err := simulate.LoadKeys(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadKeys(empty) = %v, want fs.ErrNotExist", err)
	}
	first, err := simulate.GenerateKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := simulate.GenerateKeys(dir)
	if err != nil || !reflect.DeepEqual(first, again) {
		t.Errorf("GenerateKeys() twice differs (%v)", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 11 {
		t.Errorf("%d files (%v), want 11", len(entries), err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v), want 0600", entry.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder has mode %v (%v), want 0700", info.Mode(), err)
	}
	if !regexp.MustCompile(`^[A-Za-z0-9]+:[A-Za-z0-9]{32}$`).MatchString(first.Text("postmark.auth")) {
		t.Errorf("postmark user and password = %q, want letters and digits", first.Text("postmark.auth"))
	}

	other, err := simulate.GenerateKeys(t.TempDir())
	if err != nil || other.Text("mailgun.key") == first.Text("mailgun.key") {
		t.Errorf("two folders have one key (%v)", err)
	}

	// A damaged folder is reported, not filled with other keys.
	private, err := os.ReadFile(filepath.Join(dir, "sendgrid.key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "sendgrid.key.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := simulate.GenerateKeys(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("GenerateKeys(damaged) = %v, want an error that is not fs.ErrNotExist", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sendgrid.key.pem"), private, 0o600); err != nil {
		t.Fatal(err)
	}
	// One of an earlier release, or of an attempt that was not finished, lacks the
	// keys of a provider: these are made, the others stay.
	if err := os.Remove(filepath.Join(dir, "sns.topic")); err != nil {
		t.Fatal(err)
	}
	if _, err := simulate.LoadKeys(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadKeys(unfinished) = %v, want fs.ErrNotExist", err)
	}
	k, err := simulate.GenerateKeys(dir)
	if err != nil || bytes.Equal(k.File("sns.key.pem"), first.File("sns.key.pem")) {
		t.Errorf("GenerateKeys(unfinished) = %v, want a new key of SNS", err)
	}
	if k.Text("mailgun.key") != first.Text("mailgun.key") || k.Text("sendgrid.pub") != first.Text("sendgrid.pub") {
		t.Error("GenerateKeys(unfinished) replaced keys that were there")
	}
}

func TestKeys_sendgridPublicIsItsOwn(t *testing.T) {
	keys := newKeys(t)
	der, err := base64.StdEncoding.DecodeString(keys.Text("sendgrid.pub"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(keys.File("sendgrid.key.pem"))
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil || !private.(*ecdsa.PrivateKey).PublicKey.Equal(public) {
		t.Errorf("the public key is another's (%v)", err)
	}
}

func TestKeys_configYAML(t *testing.T) {
	keys := newKeys(t)
	type source struct {
		Name, Provider, URL string
		Keys                []string
		BasicAuth           []string `yaml:"basic_auth"`
		TopicARNs           []string `yaml:"topic_arns"`
		CertHosts           []string `yaml:"cert_hosts"`
		CAFile              string   `yaml:"ca_file"`
	}
	var got struct{ Sources []source }
	if err := yaml.Unmarshal([]byte(keys.ConfigYAML("http://127.0.0.1:8080/", certHost)), &got); err != nil {
		t.Fatal(err)
	}
	file := func(name string) []string { return []string{"${file:" + filepath.Join(keys.Dir, name) + "}"} }
	want := []source{
		{Name: "sendgrid", Provider: "sendgrid", Keys: file("sendgrid.pub")},
		{Name: "mailgun", Provider: "mailgun", Keys: file("mailgun.key")},
		{Name: "postmark", Provider: "postmark", BasicAuth: file("postmark.auth")},
		{Name: "ses", Provider: "ses", TopicARNs: []string{keys.Text("sns.topic")}, CertHosts: []string{certHost}, CAFile: filepath.Join(keys.Dir, "ca.pem")},
		{Name: "mandrill", Provider: "mandrill", Keys: file("mandrill.key"), URL: "http://127.0.0.1:8080/webhooks/mandrill"},
	}
	if !reflect.DeepEqual(got.Sources, want) {
		t.Errorf("ConfigYAML() = %+v, want %+v", got.Sources, want)
	}
}

func TestCertServer(t *testing.T) {
	keys := newKeys(t)
	server, err := simulate.OpenCertServer(t.Context(), keys, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()

	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(keys.File("ca.pem")) {
		t.Fatal("ca.pem holds no certificate")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	get := func(url string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}

	source := only(keys.Sources(base, server.Host()), "ses")[0]
	if status, body := get(source.CertURL); status != 200 || body != string(keys.File("sns.cert.pem")) {
		t.Errorf("GET %s = %d, %q, want the certificate", source.CertURL, status, body)
	}
	if !regexp.MustCompile(`^/SimpleNotificationService-[0-9a-f]{32}\.pem$`).MatchString(keys.CertPath()) {
		t.Errorf("CertPath() = %s", keys.CertPath())
	}
	for _, path := range []string{"/SimpleNotificationService-00.pem", "/sns.key.pem"} {
		if status, _ := get("https://" + server.Host() + path); status != 404 {
			t.Errorf("GET %s = %d, want 404", path, status)
		}
	}
	if status, _ := get("https://" + server.Host() + "/?Action=Unsubscribe"); status != 400 || server.Confirmations() != 0 {
		t.Errorf("GET Unsubscribe = %d with %d confirmations, want 400 and none", status, server.Confirmations())
	}
	if status, _ := get(server.SubscribeURL("7a7a")); status != 200 || server.Confirmations() != 1 {
		t.Errorf("GET SubscribeURL = %d with %d confirmations, want 200 and 1", status, server.Confirmations())
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run() = %v, want nil after its context ended", err)
	}
}
