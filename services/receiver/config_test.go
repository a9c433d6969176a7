package receiver

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/esp"
	"mailriver/pkg/esp/mailgun"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/esp/mandrill"
	"mailriver/pkg/esp/postmark"
	"mailriver/pkg/esp/sendgrid"
	"mailriver/pkg/esp/ses"
)

func TestConfig_Validate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("DefaultConfig().Validate() = %v, want nil", err)
	}
	cfg := DefaultConfig()
	cfg.HTTP.Addr = "here"
	cfg.HTTP.WriteTimeout, cfg.HTTP.DrainTimeout = 11*time.Second, time.Second
	cfg.AckTimeout, cfg.MaxInFlight, cfg.MaxInFlightBytes, cfg.MaxBody = 20*time.Second, 0, 0, -1
	cfg.TrustedProxies = []string{"10.0.0.0/8", "proxy"}
	want := `addr: is "here", must be host:port or :port
ack_timeout: is 20s, must be below 10s, where the first providers stop waiting
write_timeout: is 11s, must exceed read_timeout and ack_timeout together (30s) or the answer is cut off
drain_timeout: is 1s, must exceed ack_timeout (20s) or shutdown cuts requests off
max_in_flight: is 0, must be at least 1
max_in_flight_bytes: is 0, must be at least 1
max_body: is -1, must not be negative
trusted_proxies[1]: "proxy" is neither an address nor a network (192.0.2.0/24)`
	if err := cfg.Validate(); err == nil || err.Error() != want {
		t.Errorf("Validate() =\n%v\nwant\n%s", err, want)
	}
}

func surroundings(providers ...esp.Provider) Surroundings {
	return Surroundings{
		Providers: providers,
		LookupEnv: func(name string) (string, bool) { return "user:pass", name == "PAIR" },
		ReadFile: func(path string) ([]byte, error) {
			if path == "notpem" {
				return []byte("x"), nil
			}
			return nil, fs.ErrNotExist
		},
		Now: time.Now,
	}
}

// TestCheckSources_designExample reads the sources as the design shows them.
func TestCheckSources_designExample(t *testing.T) {
	key, err := os.ReadFile("testdata/sendgrid_key.txt")
	if err != nil {
		t.Fatal(err)
	}
	text := `
receiver: { trusted_proxies: ["10.0.0.0/8"] }
sources:
  - name: sendgrid
    provider: sendgrid
    keys: ["` + strings.TrimSpace(string(key)) + `"]
  - name: mailgun
    provider: mailgun
    keys: ["${file:/run/secrets/mailgun}"]
  - name: postmark
    provider: postmark
    basic_auth: ["user:password"]
    allow_ips: ["3.134.147.250/32"]
  - name: ses
    provider: ses
    topic_arns: ["arn:aws:sns:us-east-1:123456789012:ses-events"]
    # cert_hosts: ["sns.us-east-1.amazonaws.com"]
  - name: mandrill
    provider: mandrill
    keys: ["webhook-key"]
    url: "https://hooks.example.com/webhooks/mandrill"
    rate_limit: { per_second: 200, burst: 400 }
`
	cfg := struct {
		Receiver Config   `yaml:"receiver"`
		Sources  []Source `yaml:"sources"`
	}{Receiver: DefaultConfig()}
	if err := config.Parse(&cfg, "mailriver.yaml", []byte(text), nil); err != nil {
		t.Fatal(err)
	}
	real := surroundings(sendgrid.Provider, mailgun.Provider, postmark.Provider, ses.Provider, mandrill.Provider)
	if err := CheckSources(cfg.Receiver, cfg.Sources, real); err != nil {
		t.Errorf("CheckSources() = %v, want nil", err)
	}
	printed, err := config.Print(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{strings.TrimSpace(string(key)), "user:password", "webhook-key"} {
		if strings.Contains(string(printed), secret) {
			t.Errorf("%s is in the printed configuration", secret)
		}
	}
}

func TestCheckSources(t *testing.T) {
	cfg := DefaultConfig()
	tests := []struct {
		name    string
		sources []Source
		want    string // the whole message
	}{
		{name: "none"},
		{name: "every good one", sources: twoSources()},
		{
			name: "every mistake at once",
			sources: []Source{
				{Name: "a", Provider: "signed", Keys: secrets("k")},
				{Name: "a", Provider: "nobody"},
				{Name: "pm", Provider: "plain"},
				{Name: "Shop/1", Provider: "plain", Unverified: true},
				{Provider: "signed"},
				{Name: "keys", Provider: "signed", Keys: secrets("good", "malformed hunter2", "malformed hunter3")},
			},
			want: `sources[1] (a): name: is that of sources[0] too
sources[1] (a): provider: is "nobody", must be one of signed, plain
sources[2] (pm): nothing verifies it: set basic_auth, allow_ips or unverified: true
sources[3] (Shop/1): name: must be a-z, 0-9, _ and -, begin with a letter or digit, and have at most 64 characters
sources[4]: name: must be a-z, 0-9, _ and -, begin with a letter or digit, and have at most 64 characters
sources[4]: keys: at least one is required
sources[5] (keys): keys[1]: cannot be read
sources[5] (keys): keys[2]: cannot be read`,
		},
		{
			name:    "a setting that would verify nothing",
			sources: []Source{{Name: "a", Provider: "plain", Keys: secrets("k"), URL: "u", CAFile: "ca", AllowSHA1: true, Unverified: true}},
			want: `sources[0] (a): keys: plain signs nothing, so this would verify nothing
sources[0] (a): url: plain signs nothing, so this would verify nothing
sources[0] (a): ca_file: plain signs nothing, so this would verify nothing
sources[0] (a): allow_sha1: plain signs nothing, so this would verify nothing`,
		},
		{
			name:    "keys and unverified",
			sources: []Source{{Name: "a", Provider: "signed", Keys: secrets("k"), Unverified: true}},
			want:    `sources[0] (a): unverified: is true, and keys or topic_arns are set: remove one of the two`,
		},
		{
			name:    "raw delivery alone",
			sources: []Source{{Name: "a", Provider: "signed", Keys: secrets("k"), RawDelivery: true}},
			want:    `sources[0] (a): raw_delivery: carries no signature: set basic_auth, allow_ips or unverified: true`,
		},
		{
			name: "addresses, credentials and limits",
			sources: []Source{{
				Name: "a", Provider: "plain", AllowIPs: []string{"192.0.2.1", "192.0.2.0/33", "example.com"},
				BasicAuth: secrets("nopassword", "user:", "${env:PAIR}", "${env:UNSET}", "${vault:x}", ""),
				MaxBody:   -1, RateLimit: RateLimit{Burst: -1},
			}},
			want: `sources[0] (a): allow_ips[1]: "192.0.2.0/33" is neither an address nor a network (192.0.2.0/24)
sources[0] (a): allow_ips[2]: "example.com" is neither an address nor a network (192.0.2.0/24)
sources[0] (a): max_body: is -1, must not be negative
sources[0] (a): rate_limit.burst: is -1, must not be negative
sources[0] (a): rate_limit.per_second: is required beside burst
sources[0] (a): basic_auth[3]: ${env:UNSET}: the variable is not set
sources[0] (a): basic_auth[4]: starts with ${ and is neither ${env:NAME} nor ${file:PATH}
sources[0] (a): basic_auth[5]: is empty
sources[0] (a): basic_auth[0]: must be user:password
sources[0] (a): basic_auth[1]: must be user:password`,
		},
		{
			name:    "a body that could never be held",
			sources: []Source{{Name: "a", Provider: "plain", Unverified: true, MaxBody: 1 << 40}},
			want:    `sources[0] (a): max_body: is 1099511627776, more than receiver.max_in_flight_bytes (268435456)`,
		},
		{
			name:    "files that are not there yet are no mistake",
			sources: []Source{{Name: "a", Provider: "signed", Keys: secrets("${file:/absent}"), CAFile: "absent"}},
		},
		{
			name:    "a CA file without a certificate",
			sources: []Source{{Name: "a", Provider: "signed", Keys: secrets("k"), CAFile: "notpem"}},
			want:    `sources[0] (a): ca_file: holds no PEM certificate`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckSources(cfg, tt.sources, surroundings(signed(), plain()))
			if got := errorText(err); got != tt.want {
				t.Errorf("CheckSources() =\n%s\nwant\n%s", got, tt.want)
			}
			if strings.Contains(errorText(err), "hunter") {
				t.Error("a key is in the message")
			}
		})
	}
}

// Mailriver's own changes suppress and lift addresses: nobody may post them.
// Red without the check of Provider.Own.
func TestCheckSources_ownChanges(t *testing.T) {
	err := CheckSources(DefaultConfig(), []Source{
		{Name: "crm", Provider: "mailriver", BasicAuth: secrets("user:password")},
		{Name: "mailriver", Provider: "plain", Unverified: true},
	}, surroundings(signed(), plain(), mailriver.Provider))
	want := `sources[0] (crm): provider: mailriver is for changes that Mailriver makes itself, no endpoint accepts them; must be one of signed, plain
sources[1] (mailriver): name: is that of Mailriver's own changes, choose another`
	if got := errorText(err); got != want {
		t.Errorf("CheckSources() =\n%s\nwant\n%s", got, want)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestNew_reportsEverything(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxInFlight = 0
	f := newFixture(t, DefaultConfig(), nil, &acknowledging{})
	_, err := New(cfg, []Source{{Name: "pm", Provider: "plain"}}, f.service.deps)
	want := `receiver.max_in_flight: is 0, must be at least 1
sources[0] (pm): nothing verifies it: set basic_auth, allow_ips or unverified: true`
	if got := errorText(err); got != want {
		t.Errorf("New() =\n%s\nwant\n%s", got, want)
	}
}

func TestSender(t *testing.T) {
	trusted, err := networks("", []string{"10.0.0.0/8", "fd00::/8", "203.0.113.1"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name      string
		peer      string
		forwarded []string
		want      string
	}{
		{"no proxy", "192.0.2.1:5000", nil, "192.0.2.1"},
		{"header of a stranger", "192.0.2.1:5000", []string{"198.51.100.1"}, "192.0.2.1"},
		{"one proxy", "10.0.0.1:5000", []string{"198.51.100.1"}, "198.51.100.1"},
		{"two proxies", "10.0.0.1:5000", []string{"198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"two headers", "10.0.0.1:5000", []string{"198.51.100.1", "203.0.113.1"}, "198.51.100.1"},
		{"invented before", "10.0.0.1:5000", []string{"192.0.2.7, 198.51.100.1"}, "198.51.100.1"},
		{"proxy without the header", "10.0.0.1:5000", nil, "10.0.0.1"},
		{"only proxies", "10.0.0.1:5000", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"unreadable", "10.0.0.1:5000", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"empty entries", "10.0.0.1:5000", []string{"198.51.100.1,, "}, "198.51.100.1"},
		{"with port", "10.0.0.1:5000", []string{"198.51.100.1:44"}, "198.51.100.1"},
		{"IPv6", "[fd00::1]:5000", []string{"2001:db8::1"}, "2001:db8::1"},
		{"IPv6 in brackets", "[fd00::1]:5000", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"IPv6 in brackets with port", "[fd00::1]:5000", []string{"[2001:db8::1]:44"}, "2001:db8::1"},
		{"IPv4 as IPv6", "[::ffff:10.0.0.1]:5000", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"Unix socket", "@", []string{"198.51.100.1"}, ""},
	}
	for _, tt := range tests {
		if got := addressText(sender(tt.peer, tt.forwarded, trusted)); got != tt.want {
			t.Errorf("%s: sender(%q, %q) = %q, want %q", tt.name, tt.peer, tt.forwarded, got, tt.want)
		}
	}
}

func TestNetworks(t *testing.T) {
	got, err := networks("allow_ips", []string{"192.0.2.1", "192.0.2.77/24", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		address string
		want    bool
	}{
		{"192.0.2.1", true}, {"192.0.2.200", true}, {"192.0.3.1", false}, {"2001:db8::5", true}, {"2001:db9::5", false},
	} {
		if in := contains(got, netip.MustParseAddr(tt.address)); in != tt.want {
			t.Errorf("contains(%s) = %t, want %t", tt.address, in, tt.want)
		}
	}
	if contains(got, netip.Addr{}) {
		t.Error("contains(no address) = true, want false")
	}
	if _, err := networks("x", []string{"192.0.2.0/24/1"}); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("networks() = %v, want an error", err)
	}
}

// Red when the setting does not reach the verifier.
func TestNewSource_allowSHA1(t *testing.T) {
	for _, allow := range []bool{false, true} {
		var got []bool
		p := signed()
		p.NewVerifier = func(s esp.Settings) (esp.Verifier, error) {
			got = append(got, s.AllowSHA1)
			return signed().NewVerifier(s)
		}
		source := Source{Name: "a", Provider: p.Name, Keys: secrets("k"), AllowSHA1: allow}
		if err := CheckSources(DefaultConfig(), []Source{source}, surroundings(p)); err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0] != allow {
			t.Errorf("AllowSHA1 of the settings = %v, want [%t]", got, allow)
		}
	}
}
