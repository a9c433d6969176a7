package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

type loaderSection struct {
	MaxRows int           `yaml:"max_rows"`
	MaxWait time.Duration `yaml:"max_wait"`
	Ratio   float64       `yaml:"ratio"`
	Paused  bool          `yaml:"paused"`
}

type limits struct {
	Addr string `yaml:"addr"`
}

type receiverSection struct {
	HTTP    limits   `yaml:",inline"`
	Proxies []string `yaml:"trusted_proxies"`
}

type source struct {
	Name string   `yaml:"name"`
	Keys []Secret `yaml:"keys"`
}

type root struct {
	Loader   loaderSection     `yaml:"loader"`
	Receiver receiverSection   `yaml:"receiver"`
	URL      string            `yaml:"url"`
	Token    Secret            `yaml:"token"`
	Tokens   []Secret          `yaml:"tokens"`
	Limit    *int              `yaml:"limit"`
	Labels   map[string]string `yaml:"labels"`
	Sources  []source          `yaml:"sources"`
}

func defaults() root {
	return root{
		Loader:   loaderSection{MaxRows: 10, MaxWait: time.Second},
		Receiver: receiverSection{HTTP: limits{Addr: ":8080"}, Proxies: []string{"10.0.0.0/8"}},
	}
}

func TestParse(t *testing.T) {
	want := func(change func(*root)) root {
		r := defaults()
		change(&r)
		return r
	}
	tests := []struct {
		name    string
		text    string
		environ []string
		want    root
	}{
		{name: "nothing", want: defaults()},
		{name: "only comments", text: "# nothing\n", want: defaults()},
		{name: "empty section", text: "loader:\n", want: defaults()},
		{
			name: "file over defaults",
			text: "loader:\n  max_wait: 168h\nreceiver:\n  addr: \":9\"\n",
			want: want(func(r *root) { r.Loader.MaxWait = 168 * time.Hour; r.Receiver.HTTP.Addr = ":9" }),
		},
		{
			name:    "environment over file",
			text:    "loader: {max_rows: 5, max_wait: 2s}\n",
			environ: []string{"MAILRIVER_LOADER_MAX_ROWS=7", "PATH=/bin", "MAILRIVER_RECEIVER_ADDR=:1"},
			want: want(func(r *root) {
				r.Loader.MaxRows, r.Loader.MaxWait, r.Receiver.HTTP.Addr = 7, 2*time.Second, ":1"
			}),
		},
		{
			name: "every kind of variable",
			environ: []string{
				"MAILRIVER_LOADER_MAX_WAIT=1m30s", "MAILRIVER_LOADER_RATIO=0.5", "MAILRIVER_LOADER_PAUSED=true",
				"MAILRIVER_RECEIVER_TRUSTED_PROXIES=192.0.2.0/24, 198.51.100.0/24,", "MAILRIVER_LIMIT=3",
				"MAILRIVER_URL=a=b",
			},
			want: want(func(r *root) {
				r.Loader = loaderSection{MaxRows: 10, MaxWait: 90 * time.Second, Ratio: 0.5, Paused: true}
				r.Receiver.Proxies = []string{"192.0.2.0/24", "198.51.100.0/24"}
				r.Limit = new(3)
				r.URL = "a=b"
			}),
		},
		{
			name:    "empty variable is a value",
			environ: []string{"MAILRIVER_RECEIVER_ADDR=", "MAILRIVER_RECEIVER_TRUSTED_PROXIES="},
			want:    want(func(r *root) { r.Receiver.HTTP.Addr, r.Receiver.Proxies = "", []string{} }),
		},
		{
			name: "variables of other use",
			environ: []string{
				"MAILRIVER_CONFIG=x", "MAILRIVER_REQUIRE=kafka", "MAILRIVER_DATA_DIR=/tmp", "MAILRIVER_CHDB_LIBRARY=x",
				"MAILRIVER_CLICKHOUSE_URL=http://x", "MAILRIVER_LOADER_SERVICE_HOST=10.0.0.1",
				"MAILRIVER_LOADER_SERVICE_PORT=80", "MAILRIVER_LOADER_SERVICE_PORT_HTTP=80",
				"MAILRIVER_LOADER_PORT=tcp://10.0.0.1:80", "MAILRIVER_LOADER_PORT_80_TCP=tcp://10.0.0.1:80",
				"MAILRIVER_LOADER_PORT_80_TCP_PROTO=tcp", "MAILRIVER_LOADER_PORT_80_TCP_PORT=80",
				"MAILRIVER_LOADER_PORT_80_TCP_ADDR=10.0.0.1", "MAILRIVER_SERVICE_HOST=10.0.0.1", "MAILRIVER_PORT=x",
				"MAILRIVER_IMAGE=x",
			},
			want: defaults(),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := defaults()
			if err := Parse(&got, "file.yaml", []byte(tt.text), tt.environ); err != nil {
				t.Fatalf("Parse() = %v, want nil", err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Parse() gave\n%+v, want\n%+v", got, tt.want)
			}
		})
	}
}

func TestParse_errors(t *testing.T) {
	tests := []struct {
		name    string
		text    string
		environ []string
		want    string // the whole message
	}{
		{
			name: "all of them at once",
			text: "loader:\n  max_row: 1\n  max_wait: 7d\n  max_rows: many\nnosuch: 1\n",
			environ: []string{
				"MAILRIVER_LOADER_MAX_ROW=1", "MAILRIVER_LOADER_MAX_WAIT=5", "MAILRIVER_SOURCES_0_NAME=x",
				"MAILRIVER_SOURCES=", "MAILRIVER_LABELS=a", "MAILRIVER_LOADER_RATIO=half", "MAILRIVER_LOADER_PAUSED=maybe",
				"MAILRIVER_LIMIT=99999999999999999999",
			},
			want: "file.yaml: line 2: unknown key max_row\n" +
				"file.yaml: line 3: `7d` is not a duration with a unit, such as 500ms, 10s, 5m or 168h\n" +
				"file.yaml: line 4: `many` is not a whole number\n" +
				"file.yaml: line 5: unknown key nosuch\n" +
				"MAILRIVER_LABELS (labels): cannot be set by a variable, only in the file\n" +
				"MAILRIVER_LIMIT (limit): \"99999999999999999999\" is not a whole number of this size\n" +
				"MAILRIVER_LOADER_MAX_ROW: no key of the configuration has this name\n" +
				"MAILRIVER_LOADER_MAX_WAIT (loader.max_wait): \"5\" is not a duration with a unit, such as 500ms, 10s, 5m or 168h\n" +
				"MAILRIVER_LOADER_PAUSED (loader.paused): \"maybe\" is not true or false\n" +
				"MAILRIVER_LOADER_RATIO (loader.ratio): \"half\" is not a number\n" +
				"MAILRIVER_SOURCES (sources): cannot be set by a variable, only in the file\n" +
				"MAILRIVER_SOURCES_0_NAME: sources: cannot be set by a variable, only in the file",
		},
		{
			name: "a duration needs its unit",
			text: "loader: {max_wait: 5}",
			want: "file.yaml: line 1: `5` is not a duration with a unit, such as 500ms, 10s, 5m or 168h",
		},
		{
			name: "wrong shapes",
			text: "loader: [1]\nreceiver: x\nurl: {a: b}\n",
			want: "file.yaml: line 1: seq is not a section with keys\n" +
				"file.yaml: line 2: `x` is not a section with keys\n" +
				"file.yaml: line 3: map is not a text",
		},
		{
			name: "a misplaced secret is not shown",
			text: "tokens: hunter2\ntoken: [hunter2]\nsources:\n  - keys: hunter2\n",
			want: "file.yaml: line 1: must be a list\n" +
				"file.yaml: line 2: a secret must be a text\n" +
				"file.yaml: line 4: must be a list",
		},
		{
			name: "a key twice",
			text: "url: a\nurl: b\n",
			want: "file.yaml: line 2: mapping key \"url\" already defined at line 1",
		},
		{
			name: "no YAML",
			text: "loader: {",
			want: "file.yaml: line 1: did not find expected node content",
		},
		{
			name: "two documents",
			text: "url: a\n---\nurl: b\n",
			want: "file.yaml: holds more than one YAML document",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := defaults()
			err := Parse(&cfg, "file.yaml", []byte(tt.text), tt.environ)
			if err == nil || err.Error() != tt.want {
				t.Errorf("Parse() =\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}

func TestParse_twoKeysOneVariable(t *testing.T) {
	var cfg struct {
		Kafka struct {
			CA string `yaml:"tls_ca"`
			T  struct {
				CA string `yaml:"ca"`
			} `yaml:"tls"`
		} `yaml:"kafka"`
	}
	err := Parse(&cfg, "", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "MAILRIVER_KAFKA_TLS_CA") {
		t.Errorf("Parse() = %v, want an error that names MAILRIVER_KAFKA_TLS_CA", err)
	}
}

func TestParse_keyComesBeforeOtherUse(t *testing.T) {
	var cfg struct {
		ClickHouse struct {
			URL string `yaml:"url"`
		} `yaml:"clickhouse"`
	}
	if err := Parse(&cfg, "", nil, []string{"MAILRIVER_CLICKHOUSE_URL=http://ch:8123"}); err != nil {
		t.Fatal(err)
	}
	if cfg.ClickHouse.URL != "http://ch:8123" {
		t.Errorf("clickhouse.url = %q, want the variable's value", cfg.ClickHouse.URL)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mailriver.yaml")
	if err := os.WriteFile(path, []byte("url: here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := defaults()
	if err := Load(&cfg, path, []string{"MAILRIVER_LOADER_MAX_ROWS=2"}); err != nil {
		t.Fatal(err)
	}
	if cfg.URL != "here" || cfg.Loader.MaxRows != 2 {
		t.Errorf("Load() gave url %q, max_rows %d, want here, 2", cfg.URL, cfg.Loader.MaxRows)
	}
	if err := Load(&cfg, path+".absent", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load(absent) = %v, want fs.ErrNotExist", err)
	}
	if err := Load(&cfg, "", nil); err != nil {
		t.Errorf("Load(no file) = %v, want nil", err)
	}
}

func TestSecret_isNeverShown(t *testing.T) {
	const text = "hunter2"
	hidden := struct{ keys []Secret }{[]Secret{NewSecret(text)}}
	shown := source{Name: "s", Keys: []Secret{NewSecret(text)}}
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("x", "secret", NewSecret(text), "source", shown, "hidden", hidden)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", NewSecret(text), "source", shown, "hidden", hidden)
	asJSON, err := json.Marshal(shown)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := Print(shown)
	if err != nil {
		t.Fatal(err)
	}
	all := []string{log.String(), string(asJSON), string(asYAML)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		all = append(all, fmt.Sprintf(verb, NewSecret(text)), fmt.Sprintf(verb, shown), fmt.Sprintf(verb, &shown),
			fmt.Sprintf(verb, hidden))
	}
	for _, printed := range all {
		if strings.Contains(printed, text) || strings.Contains(printed, fmt.Sprintf("%x", text)) {
			t.Errorf("the secret is in %s", printed)
		}
	}
	if got := fmt.Sprintf("%v", NewSecret(text)); got != Redacted {
		t.Errorf("%%v of a secret = %q, want %q", got, Redacted)
	}
	if got := NewSecret("${file:/run/key}").String(); got != "${file:/run/key}" {
		t.Errorf("String() of a reference = %q, want the reference", got)
	}
}

func TestSecret_Resolve(t *testing.T) {
	env := func(name string) (string, bool) {
		value, ok := map[string]string{"SET": "from env", "EMPTY": ""}[name]
		return value, ok
	}
	files := func(path string) ([]byte, error) {
		content, ok := map[string]string{"/key": "from file\r\n", "/empty": "\n", "/two": "a\nb\n"}[path]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return []byte(content), nil
	}
	tests := []struct {
		secret     string
		want       string
		wantErr    string
		unreadable bool
	}{
		{secret: "literal", want: "literal"},
		{secret: " spaces stay ", want: " spaces stay "},
		{secret: "pa$${x}", want: "pa$${x}"},
		{secret: "${env:SET}", want: "from env"},
		{secret: "${file:/key}", want: "from file"},
		{secret: "${file:/two}", want: "a\nb"},
		{secret: "", wantErr: "is empty"},
		{secret: "${env:UNSET}", wantErr: "${env:UNSET}: the variable is not set"},
		{secret: "${env:EMPTY}", wantErr: "${env:EMPTY}: the variable is not set"},
		{secret: "${vault:x}", wantErr: "starts with ${ and is neither ${env:NAME} nor ${file:PATH}"},
		{secret: "${file:/no}", wantErr: "${file:/no}: secret cannot be read: file does not exist", unreadable: true},
		{secret: "${file:/empty}", wantErr: "${file:/empty}: secret cannot be read: the file is empty", unreadable: true},
	}
	for _, tt := range tests {
		got, err := NewSecret(tt.secret).Resolve(env, files)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != tt.want || text != tt.wantErr || errors.Is(err, ErrUnreadable) != tt.unreadable {
			t.Errorf("Resolve(%q) = %q, %v, want %q, %q", tt.secret, got, err, tt.want, tt.wantErr)
		}
	}
	if _, err := (Secret{}).Resolve(env, files); err == nil {
		t.Error("Resolve() of the zero secret = nil, want an error")
	}
}

func TestRedactURL(t *testing.T) {
	tests := []struct{ in, want string }{
		{"plain text", "plain text"},
		{"http://host:8123/db", "http://host:8123/db"},
		{"http://user:pass@host:8123/db", "http://***@host:8123/db"},
		{"clickhouse://user:p%40ss@host/db?x=1", "clickhouse://***@host/db?x=1"},
		{"http://user:pa/ss@host/db", "http://***@host/db"},
		{"http://user:p@ss@host/db", "http://***@host/db"},
		{"http://host/db?user=u&password=hunter2&x=1", "http://host/db?user=u&password=***&x=1"},
		{"http://host/a@b", "http://host/a@b"},
	}
	for _, tt := range tests {
		if got := RedactURL(tt.in); got != tt.want {
			t.Errorf("RedactURL(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestPrint(t *testing.T) {
	cfg := defaults()
	cfg.URL = "http://user:hunter2@host/"
	cfg.Token = NewSecret("hunter2")
	cfg.Sources = []source{{Name: "s", Keys: []Secret{NewSecret("${file:/k}"), NewSecret("hunter2")}}}
	got, err := Print(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := `loader:
  max_rows: 10
  max_wait: 1s
  ratio: 0
  paused: false
receiver:
  addr: :8080
  trusted_proxies:
    - 10.0.0.0/8
url: http://***@host/
token: '***'
tokens: []
limit: null
labels: {}
sources:
  - name: s
    keys:
      - ${file:/k}
      - '***'
`
	if string(got) != want {
		t.Errorf("Print() =\n%s\nwant\n%s", got, want)
	}
}

func TestProblems(t *testing.T) {
	var inner, outer Problems
	inner.Must(true, "fine: is fine")
	inner.Must(false, "max_rows: is %d, must be at least 1", 0)
	inner.Add(nil)
	inner.Add(errors.Join(errors.New("a: is wrong"), errors.New("b: is wrong")))
	inner.Add(fmt.Errorf("c: %w: %w", errors.New("one"), errors.New("error")))
	outer.Add(Prefix("loader.", inner.Err()))
	outer.Add(Prefix("kafka.", nil))
	want := "loader.max_rows: is 0, must be at least 1\nloader.a: is wrong\nloader.b: is wrong\nloader.c: one: error"
	if err := outer.Err(); err == nil || err.Error() != want {
		t.Errorf("Err() = %v, want %s", err, want)
	}
	if err := new(Problems).Err(); err != nil {
		t.Errorf("Err() of no problems = %v, want nil", err)
	}
}
