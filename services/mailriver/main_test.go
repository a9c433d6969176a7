package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mailriver/services/assembly"
)

// said is what a command left behind.
type said struct {
	status      int
	out, errors string
}

// call is the command line of a person in an empty folder.
func call(t *testing.T, environ []string, args ...string) said {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errs strings.Builder
	status := mailriver(ctx, args, environ, strings.NewReader(""), &out, &errs)
	if ctx.Err() != nil {
		t.Fatalf("mailriver %q did not end within a minute", args)
	}
	return said{status, out.String(), errs.String()}
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMailriver_usage(t *testing.T) {
	t.Chdir(t.TempDir()) // no mailriver.yaml
	services := strings.Join(assembly.ServiceNames(), ", ")
	tests := []struct {
		args string
		want string // the whole of standard error
	}{
		{"nope", `mailriver: no service is called "nope": there are ` + services + "\nrun `mailriver --help` for how to use it\n"},
		{"receiver,nope", `mailriver: no service is called "nope": there are ` + services + "\nrun `mailriver --help` for how to use it\n"},
		{"receiver,", `mailriver: no service is called "": there are ` + services + "\nrun `mailriver --help` for how to use it\n"},
		{"loader,receiver,loader", "mailriver: service loader is named twice\nrun `mailriver --help` for how to use it\n"},
		{
			"receiver loader", "mailriver: takes no arguments, got \"loader\": several services are one list, as in receiver,loader\n" +
				"run `mailriver receiver --help` for how to use it\n",
		},
		{
			"nope loader", "mailriver: takes one list of services, separated by commas without spaces; got 2 arguments\n" +
				"run `mailriver --help` for how to use it\n",
		},
		{"--bogus", "mailriver: unknown flag: --bogus\nrun `mailriver --help` for how to use it\n"},
		{"receiver --bogus", "mailriver: unknown flag: --bogus\nrun `mailriver receiver --help` for how to use it\n"},
		{"setup --output xml", "mailriver: output: is \"xml\", must be table, json or csv\nrun `mailriver setup --help` for how to use it\n"},
		{
			"tail --from yesterday", "mailriver: from: is \"yesterday\", must be start, end, a duration ago such as 15m, or a time such as " +
				"2026-11-23T12:00:00Z\nrun `mailriver tail --help` for how to use it\n",
		},
		{"tail --limit -1", "mailriver: limit: is -1, must not be negative\nrun `mailriver tail --help` for how to use it\n"},
		{
			"simulate --events -1", "mailriver: events: is -1, must not be negative\n" +
				"run `mailriver simulate --help` for how to use it\n",
		},
		{
			"simulate --rate -1 --attempts -2 --concurrency -3", "mailriver: rate: is -1, must not be negative\n" +
				"attempts: is -2, must not be negative\nconcurrency: is -3, must not be negative\n" +
				"run `mailriver simulate --help` for how to use it\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got := call(t, nil, strings.Fields(tt.args)...)
			if want := (said{2, "", tt.want}); got != want {
				t.Errorf("mailriver %s =\n%+v, want\n%+v", tt.args, got, want)
			}
		})
	}
}

// Where the text is that of the command line's library, or long, it is enough
// that it names what is wrong.
func TestMailriver_usageNames(t *testing.T) {
	t.Chdir(t.TempDir())
	for args, want := range map[string]string{
		"tail extra":           `"extra"`,
		"config bogus":         `"bogus"`,
		"config print extra":   `"extra"`,
		"simulate bogus":       `"bogus"`,
		"tail --limit x":       `"--limit"`,
		"tail --type nope":     `type: "nope" is no event type: there are accepted, `,
		"setup --timeout soon": `"--timeout"`,
	} {
		got := call(t, nil, strings.Fields(args)...)
		if got.status != 2 || got.out != "" || !strings.Contains(got.errors, want) {
			t.Errorf("mailriver %s = %+v, want 2 and a message with %s", args, got, want)
		}
	}
}

const badConfig = `data_dir: ""
kafka:
  broker: ["localhost:9092"]
  replication_factor: -1
loader:
  max_rows: 0
  max_wait: 5
sources:
  - name: Mail Gun
    provider: mailgun
    keys: ["${env:NOT_SET}"]
  - name: acme
    provider: acme
`

// Unknown keys and values of the wrong form come first, all of them, by line;
// when the file can be read, everything that it says wrong comes in one message.
func TestMailriver_badConfig(t *testing.T) {
	path := file(t, "bad.yaml", badConfig)
	got := call(t, []string{"MAILRIVER_LOADER_MAX_ROW=5"}, "config", "check", "--config", path)
	want := said{2, "", "mailriver: configuration: " + path + ": line 3: unknown key broker\n" +
		path + ": line 7: `5` is not a duration with a unit, such as 500ms, 10s, 5m or 168h\n" +
		"MAILRIVER_LOADER_MAX_ROW: no key of the configuration has this name\n"}
	if got != want {
		t.Errorf("config check =\n%+v, want\n%+v", got, want)
	}

	path = file(t, "readable.yaml", strings.NewReplacer("broker:", "brokers:", "max_wait: 5", "max_wait: 5s").Replace(badConfig))
	for _, command := range []string{"config check", "config print", "receiver", "receiver,loader", "setup", "tail", "simulate", "audit"} {
		got := call(t, nil, append(strings.Fields(command), "--config", path)...)
		want := said{2, "", "mailriver: configuration: data_dir: is required\n" +
			"kafka.replication_factor: is -1, must not be negative\n" +
			"loader.max_rows: is 0, must be at least 1\n" +
			"sources[0] (Mail Gun): name: must be a-z, 0-9, _ and -, begin with a letter or digit, and have at most 64 characters\n" +
			"sources[0] (Mail Gun): keys[0]: ${env:NOT_SET}: the variable is not set\n" +
			"sources[1] (acme): provider: is \"acme\", must be one of sendgrid, mailgun, postmark, ses, mandrill\n"}
		if command == "audit" {
			want.out = got.out // what it prints beside is its own affair
		}
		if got != want {
			t.Errorf("%s =\n%+v, want\n%+v", command, got, want)
		}
	}
}

func TestMailriver_configFile(t *testing.T) {
	t.Chdir(t.TempDir())
	valid := func(sources int) said {
		return said{0, fmt.Sprintf("configuration is valid: %d sources\n", sources), ""}
	}
	if got := call(t, nil, "config", "check"); got != valid(0) {
		t.Errorf("config check without a file = %+v, want %+v", got, valid(0))
	}
	one := file(t, "one.yaml", "sources:\n  - {name: a, provider: mailgun, keys: [k]}\n")
	if got := call(t, []string{"MAILRIVER_CONFIG=" + one}, "config", "check"); got != valid(1) {
		t.Errorf("config check with MAILRIVER_CONFIG = %+v, want %+v", got, valid(1))
	}
	two := "sources:\n  - {name: a, provider: mailgun, keys: [k]}\n  - {name: b, provider: postmark, unverified: true}\n"
	if err := os.WriteFile(assembly.DefaultFile, []byte(two), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := call(t, nil, "config", "check"); got != valid(2) {
		t.Errorf("config check beside %s = %+v, want %+v", assembly.DefaultFile, got, valid(2))
	}
	if got := call(t, nil, "config", "check", "--config", one); got != valid(1) {
		t.Errorf("config check --config = %+v, want %+v", got, valid(1))
	}
	absent := filepath.Join(t.TempDir(), "absent.yaml")
	want := said{2, "", "mailriver: configuration: configuration file: open " + absent + ": no such file or directory\n"}
	if got := call(t, nil, "config", "check", "--config", absent); got != want {
		t.Errorf("config check --config absent = %+v, want %+v", got, want)
	}
}

func TestMailriver_configPrint(t *testing.T) {
	const secret = "hunter2"
	path := file(t, "mailriver.yaml", `
kafka: { sasl: { mechanism: plain, username: u, password: hunter2 } }
registry: { url: "http://u:hunter2@registry:8081" }
clickhouse: { url: "http://u:hunter2@clickhouse:8123/mailriver" }
sources:
  - { name: a, provider: mailgun, keys: [hunter2, "${env:KEY}"] }
  - { name: b, provider: postmark, basic_auth: ["u:hunter2"] }
`)
	got := call(t, []string{"KEY=hunter2", "MAILRIVER_LOADER_MAX_ROWS=7"}, "config", "print", "--config", path)
	if got.status != 0 || strings.Contains(got.out+got.errors, secret) {
		t.Errorf("config print = %+v, want status 0 and no %s", got, secret)
	}
	for _, want := range []string{
		"max_rows: 7\n", "password: '***'\n", "url: http://***@registry:8081\n", "- ${env:KEY}\n", "dedup_window: 168h0m0s\n",
	} {
		if !strings.Contains(got.out, want) {
			t.Errorf("config print lacks %q:\n%s", want, got.out)
		}
	}
	// What is printed is a configuration, but for the secrets.
	printed := file(t, "printed.yaml", strings.ReplaceAll(got.out, "***", "user:password"))
	if again := call(t, []string{"KEY=x"}, "config", "print", "--config", printed); again.status != 0 {
		t.Errorf("config print of what it printed = %+v, want status 0", again)
	}
}

func TestMailriver_help(t *testing.T) {
	t.Chdir(t.TempDir())
	bare, help := call(t, nil), call(t, nil, "--help")
	if bare != help || help.status != 0 {
		t.Errorf("mailriver = %+v, want the same as with --help and status 0", bare)
	}
	commands := 0
	each(root(nil), func(cmd *cobra.Command) {
		commands++
		if cmd.Short == "" || !strings.HasPrefix(cmd.Short, strings.ToUpper(cmd.Short[:1])) || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: says %q of itself, want a capital and no full stop", cmd.CommandPath(), cmd.Short)
		}
		args := strings.Fields(cmd.CommandPath())[1:]
		got := call(t, nil, append(args, "--help")...)
		if got.status != 0 || got.errors != "" || !strings.Contains(got.out, cmd.UseLine()) {
			t.Errorf("%s --help = %+v, want its usage", cmd.CommandPath(), got)
		}
		if len(args) == 1 && !regexp.MustCompile(`(?m)^  `+cmd.Name()+` `).MatchString(help.out) {
			t.Errorf("mailriver --help does not list %s", cmd.Name())
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if strings.Contains(f.Usage, "`") {
				kind, _ := pflag.UnquoteUsage(f)
				t.Errorf("%s --%s: its help shows %q as the type of its value: no backquotes there", cmd.CommandPath(), f.Name, kind)
			}
		})
	})
	for _, s := range assembly.Services() {
		if !regexp.MustCompile(`(?m)^  ` + s.Name + ` `).MatchString(help.out) {
			t.Errorf("mailriver --help does not list %s", s.Name)
		}
	}
	if commands < 10 {
		t.Errorf("%d commands were looked at, want all", commands)
	}
}

func root(environ []string) *cobra.Command { return (&command{environ: environ}).root() }

// each visits every command below the given one.
func each(cmd *cobra.Command, visit func(*cobra.Command)) {
	for _, sub := range cmd.Commands() {
		visit(sub)
		each(sub, visit)
	}
}

func TestMailriver_version(t *testing.T) {
	got := call(t, nil, "version")
	if got.status != 0 || got.errors != "" || !regexp.MustCompile(`^mailriver \S+\n$`).MatchString(got.out) {
		t.Errorf("version = %+v, want one line with it", got)
	}
}

// A receiver that is not there is said at once, before eight attempts at every
// request, and names how to name another.
func TestMailriver_simulate_nobodyAnswers(t *testing.T) {
	t.Chdir(t.TempDir())
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	config := configOfSimulator(t, ":"+port)
	got := call(t, nil, "simulate", "--events", "5", "--config", config)
	want := "mailriver: nothing answers at http://localhost:" + port + ": start the receiver, or name another with --url\n"
	if got.status != 1 || got.out != "" || got.errors != want {
		t.Errorf("simulate = %+v, want 1 and %s", got, want)
	}
}

// Without --url the requests go where the configuration says that the receiver
// listens.
func TestMailriver_simulate_url(t *testing.T) {
	t.Chdir(t.TempDir())
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	defer receiver.Close()
	config := configOfSimulator(t, strings.TrimPrefix(receiver.URL, "http://"))
	got := call(t, nil, "simulate", "--events", "5", "--source", "mailgun", "--output", "csv", "--config", config)
	if got.status != 0 || !strings.Contains(got.out, "\nevents,5\n") || got.errors != "" {
		t.Errorf("simulate = %+v, want 0 and 5 events", got)
	}
}

func TestMailriver_simulate_sources(t *testing.T) {
	t.Chdir(t.TempDir())
	config := configOfSimulator(t, ":8080")
	for args, want := range map[string]string{
		"--source nope": "mailriver: source nope: is not in the configuration\nrun `mailriver simulate --help` for how to use it\n",
		"--keys none":   "(make them with `mailriver simulate keys --keys none`)\n",
	} {
		got := call(t, nil, append([]string{"simulate", "--config", config}, strings.Fields(args)...)...)
		if got.status == 0 || got.out != "" || !strings.HasSuffix(got.errors, want) {
			t.Errorf("simulate %s = %+v, want a message that ends in %q", args, got, want)
		}
	}
}

// configOfSimulator is a configuration with a source for each provider, whose
// keys are in data_dir.
func configOfSimulator(t *testing.T, receiver string) string {
	t.Helper()
	dir := t.TempDir()
	keys := call(t, nil, "simulate", "keys", "--keys", filepath.Join(dir, "keys"), "--cert-host", freeAddress(t))
	if keys.status != 0 {
		t.Fatalf("simulate keys = %+v, want 0", keys)
	}
	path := filepath.Join(dir, "mailriver.yaml")
	text := fmt.Sprintf("data_dir: %q\nreceiver: { addr: %q }\n%s", dir, receiver, keys.out)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// freeAddress is one that nobody listens on, but for bad luck.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// Every command and flag that a page names exists.
func TestDocs(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"../../docs/operations/*.md", "../../*.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, more...)
	}
	// A command is in backquotes, or a line of a block of code.
	line := regexp.MustCompile("(?m)(?:`|^(?:\\$ |bin/)?)mailriver ([a-z][^`\n|#]*)")
	found := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range line.FindAllStringSubmatch(string(text), -1) {
			found++
			if problem := unknown(strings.Fields(m[1])); problem != "" {
				t.Errorf("%s: `mailriver %s`: %s", page, strings.TrimSpace(m[1]), problem)
			}
		}
	}
	if found == 0 {
		t.Error("no page names a command")
	}
}

// unknown says what of a command line does not exist.
func unknown(words []string) string {
	cmd, rest, err := root(nil).Find(words)
	if err != nil {
		return err.Error()
	}
	if cmd.Parent() == nil { // a list of services
		if err := assembly.CheckNames(strings.Split(words[0], ",")); err != nil {
			return err.Error()
		}
	}
	for _, word := range rest {
		name, _, _ := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		if strings.HasPrefix(word, "--") && name != "help" && cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil {
			return "there is no flag --" + name
		}
	}
	return ""
}
