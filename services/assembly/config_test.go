package assembly_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"mailriver/pkg/config"
	"mailriver/pkg/simulate"
	"mailriver/services/assembly"
	"mailriver/services/receiver"
)

func TestDefaultConfig(t *testing.T) {
	if err := assembly.DefaultConfig().Validate(); err != nil {
		t.Errorf("DefaultConfig().Validate() = %v, want nil", err)
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mailriver.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// In every section, however deep, a key that does not exist is named.
func TestLoad_unknownKeys(t *testing.T) {
	var root yaml.Node
	if err := root.Encode(assembly.DefaultConfig()); err != nil {
		t.Fatal(err)
	}
	var wanted []string
	var spoil func(node *yaml.Node, path string)
	spoil = func(node *yaml.Node, path string) {
		for i := 0; i < len(node.Content); i += 2 {
			if value := node.Content[i+1]; value.Kind == yaml.MappingNode {
				spoil(value, path+"_"+node.Content[i].Value)
			}
		}
		key := "nosuch" + path
		wanted = append(wanted, key)
		node.Content = append(node.Content,
			&yaml.Node{Kind: yaml.ScalarNode, Value: key}, &yaml.Node{Kind: yaml.ScalarNode, Value: "1"})
	}
	spoil(&root, "")
	text, err := yaml.Marshal(&root)
	if err != nil {
		t.Fatal(err)
	}
	_, err = assembly.Load(write(t, string(text)), nil)
	if err == nil {
		t.Fatal("Load() = nil, want an error")
	}
	lines := strings.Split(err.Error(), "\n")
	for _, key := range wanted {
		found := false
		for _, line := range lines {
			found = found || strings.HasSuffix(line, ": unknown key "+key)
		}
		if !found {
			t.Errorf("Load() does not name %s:\n%v", key, err)
		}
	}
	if len(lines) != len(wanted) {
		t.Errorf("Load() reports %d mistakes, want %d:\n%v", len(lines), len(wanted), err)
	}
}

// Each section's mistakes are reported under its name.
func TestLoad_sections(t *testing.T) {
	text := `
data_dir: ""
drain_delay: -1s
kafka: { brokers: [], sasl: { mechanism: kerberos } }
registry: { url: registry }
clickhouse: { url: "ftp://x" }
telemetry: { log_level: loud }
admin: { addr: here }
receiver: { max_in_flight: 0 }
normalizer: { max_records: 0 }
loader: { max_rows: 0 }
unsubscribe: { base_url: "http://mail.example.com", keys: [short] }
sources: [{ name: a, provider: postmark }]
`
	_, err := assembly.Load(write(t, text), nil)
	want := `configuration: data_dir: is required
drain_delay: is -1s, must not be negative
kafka.brokers: at least one host:port is required
kafka.sasl.mechanism: is "kerberos", want plain, scram-sha-256 or scram-sha-512
registry.url: must be an http or https URL, for example http://localhost:8081
clickhouse.url: scheme is "ftp", want http, https or clickhouse
telemetry.log_level: is "loud", must be debug, info, warn or error
admin.addr: is "here", must be host:port or :port
receiver.max_in_flight: is 0, must be at least 1
normalizer.max_records: is 0, must be at least 1
loader.max_rows: is 0, must be at least 1
unsubscribe.base_url: is "http://mail.example.com", must begin with https:// (RFC 8058); http:// is for trying on localhost
sources[0] (a): nothing verifies it: set basic_auth, allow_ips or unverified: true
unsubscribe.keys[0]: has 5 characters, must have at least 32: make one with ` + "`openssl rand -base64 32`"
	if err == nil || err.Error() != want {
		t.Errorf("Load() =\n%v\nwant\n%s", err, want)
	}
}

// Secrets are looked up in the environment that was passed in.
func TestLoad_secrets(t *testing.T) {
	path := write(t, `
kafka: { sasl: { mechanism: plain, username: u, password: "${env:KAFKA_PASSWORD}" } }
clickhouse: { password: "${file:/nowhere/password}" }
`)
	_, err := assembly.Load(path, nil)
	want := "configuration: kafka.sasl.password: ${env:KAFKA_PASSWORD}: the variable is not set\n" +
		"clickhouse.password: ${file:/nowhere/password}: secret cannot be read: open /nowhere/password: no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("Load() =\n%v\nwant\n%s", err, want)
	}
	_, err = assembly.Load(path, []string{"KAFKA_PASSWORD=x", "MAILRIVER_CLICKHOUSE_PASSWORD=y"})
	if err != nil {
		t.Errorf("Load() with the variables = %v, want nil", err)
	}
}

// The key of links to opt out need not be readable where no receiver runs, and
// is not told where it is wrong.
func TestLoad_unsubscribeKeys(t *testing.T) {
	cfg, err := assembly.Load(write(t, `unsubscribe: { keys: ["${file:/nowhere/key}"] }`), nil)
	if err != nil {
		t.Errorf("Load() without the file of the key = %v, want nil", err)
	}
	if keys, err := cfg.UnsubscribeKeys(); keys != nil || !errors.Is(err, config.ErrUnreadable) {
		t.Errorf("UnsubscribeKeys() = %v, %v, want %v", keys, err, config.ErrUnreadable)
	}
	const key = "0123456789abcdefghijklmnopqrstuvwxyz"
	_, err = assembly.Load(write(t, `unsubscribe: { keys: [`+key+`, `+key+`] }`), nil)
	if want := "configuration: unsubscribe.keys[1]: is keys[0] again"; err == nil || err.Error() != want {
		t.Errorf("Load() with a key twice = %v, want %s", err, want)
	}
	if cfg, err = assembly.Load(write(t, `unsubscribe: { keys: [`+key+`] }`), nil); err != nil {
		t.Fatal(err)
	}
	if keys, err := cfg.UnsubscribeKeys(); keys == nil || err != nil {
		t.Errorf("UnsubscribeKeys() = %v, %v, want keys", keys, err)
	}
	if keys, err := assembly.DefaultConfig().UnsubscribeKeys(); keys != nil || err != nil {
		t.Errorf("UnsubscribeKeys() of the defaults = %v, %v, want none", keys, err)
	}
}

func TestSimulatedSources(t *testing.T) {
	keys, err := simulate.GenerateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	own := secrets("a key of the provider")
	tests := []struct {
		name    string
		sources []receiver.Source
		only    []string
		want    string // the error
	}{
		{name: "none", want: "the configuration has no source that can be simulated"},
		{
			name: "keys that are not the simulator's",
			sources: []receiver.Source{
				{Name: "sg", Provider: "sendgrid", Keys: own},
				{Name: "ses", Provider: "ses", TopicARNs: []string{"arn:aws:sns:us-east-1:123456789012:x"}},
			},
			want: "source sg: keys: none is the public half of the simulator's key in " + keys.Dir + "\n" +
				"source ses: cert_hosts and topic_arns: are required, the simulator cannot sign as AWS",
		},
		{
			name:    "a secret that is not there",
			sources: []receiver.Source{{Name: "mg", Provider: "mailgun", Keys: secrets("${env:NOT_SET}")}},
			want:    "source mg: keys[0]: ${env:NOT_SET}: the variable is not set",
		},
		{
			name:    "one that is not configured",
			sources: []receiver.Source{{Name: "mg", Provider: "mailgun", Keys: own}},
			only:    []string{"mg", "nope"},
			want:    "source nope: is not in the configuration",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := assembly.DefaultConfig()
			cfg.Sources = tt.sources
			_, err := assembly.SimulatedSources(cfg, keys, "http://localhost:8080", tt.only)
			if err == nil || err.Error() != tt.want {
				t.Errorf("SimulatedSources() = %v, want %s", err, tt.want)
			}
		})
	}
}

// What `mailriver simulate keys` prints can be simulated, every provider of it.
func TestSimulatedSources_ofItsKeys(t *testing.T) {
	keys, err := simulate.GenerateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := assembly.Load(write(t, keys.ConfigYAML("http://localhost:8080", "127.0.0.1:8443")), nil)
	if err != nil {
		t.Fatal(err)
	}
	sources, err := assembly.SimulatedSources(cfg, keys, "http://localhost:8080/", nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sources {
		got = append(got, s.Provider)
		if want := "http://localhost:8080/webhooks/" + s.Name; s.Endpoint != want {
			t.Errorf("%s posts to %s, want %s", s.Name, s.Endpoint, want)
		}
	}
	if want := []string{"sendgrid", "mailgun", "postmark", "ses", "mandrill"}; !reflect.DeepEqual(got, want) {
		t.Errorf("SimulatedSources() are of %q, want %q", got, want)
	}
	if got := assembly.CertHost(sources); got != "127.0.0.1:8443" {
		t.Errorf("CertHost() = %s, want 127.0.0.1:8443", got)
	}
}

func secrets(texts ...string) []config.Secret {
	var list []config.Secret
	for _, text := range texts {
		list = append(list, config.NewSecret(text))
	}
	return list
}

func TestLocalURL(t *testing.T) {
	for addr, want := range map[string]string{
		":8080": "http://localhost:8080", "0.0.0.0:80": "http://localhost:80", "[::]:80": "http://localhost:80",
		"127.0.0.1:80": "http://127.0.0.1:80", "[::1]:80": "http://[::1]:80", "host:80": "http://host:80",
	} {
		if got := assembly.LocalURL(addr); got != want {
			t.Errorf("LocalURL(%q) = %s, want %s", addr, got, want)
		}
	}
}
