package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr/srfake"

	"mailriver/pkg/esplist/esplisttest"
	"mailriver/pkg/kafka/kafkatest"
)

// installation is a normalizer and a suppression service on a broker, run by
// the command line as a person would.
type installation struct {
	t       *testing.T
	config  string // file
	mailgun *esplisttest.Mailgun
}

func install(t *testing.T) *installation {
	t.Helper()
	cluster := kafkatest.New(t)
	registry := srfake.New()
	t.Cleanup(registry.Close)
	in := &installation{t: t, mailgun: esplisttest.NewMailgun(t)}
	api := freeAddress(t)
	in.config = file(t, "mailriver.yaml", fmt.Sprintf(`
data_dir: %q
instance: test
kafka: { brokers: [%q], topic_prefix: %q }
registry: { url: %q }
clickhouse: { url: "http://%s/mailriver" }
admin: { addr: "127.0.0.1:0" }
telemetry: { log_level: error }
normalizer: { group: %q }
suppression: { api: { addr: %q }, group: %q }
suppression_client: { url: "http://%s" }
suppression_sync:
  - { name: mg, provider: mailgun, key: %q, domain: %q, base_url: %q }
`, t.TempDir(), cluster.Config.Brokers[0], cluster.Config.TopicPrefix, registry.URL(), freeAddress(t),
		cluster.Group("normalizer"), api, cluster.Group("suppression"), api, in.mailgun.Key, in.mailgun.Domain, in.mailgun.URL))

	// Topics and schemas come before ClickHouse, which is not there.
	if got := call(t, nil, "setup", "--config", in.config); !strings.Contains(got.errors, "clickhouse") {
		t.Fatalf("setup = %+v, want that it came as far as ClickHouse", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan said, 1)
	go func() {
		var out, errs strings.Builder
		status := mailriver(ctx, []string{"normalizer,suppression", "--config", in.config}, nil, strings.NewReader(""), &out, &errs)
		done <- said{status, out.String(), errs.String()}
	}()
	t.Cleanup(func() {
		cancel()
		if got := <-done; got.status != 0 {
			t.Errorf("normalizer,suppression = %+v, want status 0", got)
		}
	})
	in.until("check", "ready@example.com")
	return in
}

// run is one command with the input.
func (in *installation) run(stdin string, args ...string) said {
	in.t.Helper()
	ctx, cancel := context.WithTimeout(in.t.Context(), time.Minute)
	defer cancel()
	var out, errs strings.Builder
	status := mailriver(ctx, append([]string{"suppress", "--config", in.config}, args...), nil, strings.NewReader(stdin), &out, &errs)
	return said{status, out.String(), errs.String()}
}

// until repeats a command until it succeeds.
func (in *installation) until(args ...string) said {
	in.t.Helper()
	deadline := time.After(kafkatest.Patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		got := in.run("", args...)
		if got.status == 0 {
			return got
		}
		select {
		case <-deadline:
			in.t.Fatalf("suppress %q = %+v after %s, want status 0", args, got, kafkatest.Patience)
		case <-tick.C:
		}
	}
}

// untilSuppressed waits for what was imported.
func (in *installation) untilSuppressed(address string) {
	in.t.Helper()
	deadline := time.After(kafkatest.Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for in.run("", "check", address, "--fail-if-suppressed").status != 3 {
		select {
		case <-deadline:
			in.t.Fatalf("%s is not suppressed after %s", address, kafkatest.Patience)
		case <-tick.C:
		}
	}
}

var (
	anyTime = regexp.MustCompile(`20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`)
	anyID   = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	spaces  = regexp.MustCompile(`[ ─]+`)
)

// plain is text without what differs from run to run, and without columns.
func plain(text string) string {
	text = anyID.ReplaceAllString(anyTime.ReplaceAllString(text, "TIME"), "ID")
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(spaces.ReplaceAllString(line, " ")); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// One life of a list, by its commands, against the service as it is shipped.
func TestSuppress(t *testing.T) {
	in := install(t)
	expect := func(got said, status int, out, errors string) {
		t.Helper()
		if got.status != status || plain(got.out) != out || plain(got.errors) != errors {
			t.Errorf("got %d\n%s\n%s\nwant %d\n%s\n%s", got.status, plain(got.out), plain(got.errors), status, out, errors)
		}
	}

	expect(in.run("", "add", "Ann@Example.com", "--note", "asked by phone"), 0, `Ann@Example.com is suppressed (as of TIME)
REASON SCOPE SINCE PROVIDER NOTE
manual all mail TIME mailriver asked by phone`, "")
	expect(in.run("", "add", "bob+x/y@example.com", "--reason", "unsubscribe", "--scope-kind", "stream", "--scope-id", "news",
		"--expires", "720h"), 0, `bob+x/y@example.com is suppressed (as of TIME)
REASON SCOPE SINCE EXPIRES AT PROVIDER
unsubscribe stream news TIME TIME mailriver`, "")

	// What was opted out of in a stream counts for mail of that stream alone.
	expect(in.run("", "check", "ann@example.com", "bob+x/y@example.com", "carol@example.com"), 0,
		`ADDRESS SUPPRESSED REASON SCOPE SINCE EXPIRES AT PROVIDER NOTE
ann@example.com true manual all mail TIME mailriver asked by phone
bob+x/y@example.com false unsubscribe stream news TIME TIME mailriver
carol@example.com false`, "1 of 3 suppressed, as of TIME")
	expect(in.run("", "check", "bob+x/y@example.com", "--stream", "news", "--fail-if-suppressed", "--output", "csv"), 3,
		`address,suppressed,reason,scope_kind,scope_id,since,expires_at,provider,source,note,event_id
bob+x/y@example.com,true,unsubscribe,stream,news,TIME,TIME,mailriver,mailriver,,ID`,
		"mailriver: 1 of 1 addresses are suppressed")
	expect(in.run("\ufeffann@example.com\r\n\r\nnobody\r\ncarol@example.com", "check", "--file", "-", "--output", "csv"), 1,
		`address,suppressed,reason,scope_kind,scope_id,since,expires_at,provider,source,note,event_id
ann@example.com,true,manual,address,,TIME,,mailriver,mailriver,asked by phone,ID
carol@example.com,false,,,,,,,,,`, `mailriver: line 3: "nobody" is no address`)

	expect(in.run("", "lift", "ann@example.com", "--note", "a mistake"), 0, "ann@example.com is not suppressed (as of TIME)", "")
	expect(in.run("", "explain", "ann@example.com"), 0, `ann@example.com is not suppressed (as of TIME)
TIME EVENT SAYS POLICY
TIME suppression_changed mailriver suppress manual for all mail: asked by phone (by loopback) lifted by event ID of TIME
TIME suppression_changed mailriver lift for all mail: a mistake (by loopback) lifts what is older, for every reason`, "")
	expect(in.run("", "explain", "carol@example.com"), 0,
		"carol@example.com is not suppressed (as of TIME)\nNothing is known about it.", "")
	expect(in.run("", "add", "nobody"), 2, "",
		"mailriver: address: is \"nobody\", must be local-part@domain\nrun `mailriver suppress add --help` for how to use it")
	expect(in.run("", "lift", "ann@example.com", "--scope-kind", "list"), 2, "",
		"mailriver: scope_id: is required with the scope_kind \"list\"\nrun `mailriver suppress lift --help` for how to use it")

	t.Run("import and export", func(t *testing.T) { testFiles(t, in) })
	t.Run("sync", func(t *testing.T) { testSync(t, in) })
}

func testFiles(t *testing.T, in *installation) {
	// A record over two lines, a bad line for each who looks: the reader here,
	// and the service, which numbers what it was sent.
	text := `address,scope_kind,scope_id,reason,since,expires_at,note
dan@example.com,,,complaint,2026-01-02T03:04:05Z,,"two
lines"
nobody,,,manual,,,
eve@example.com,,,manual,2026-01-01T00:00:00Z,2026-02-01T00:00:00Z,past
fay@example.com,list,weekly,unsubscribe,2026-01-02T03:04:06Z,,
`
	want := said{1, `ENTRIES COUNT
complaint for all mail 1
unsubscribe for list 1
all 2
bad lines 2`, `line 4: address: is "nobody", which is no address
line 5: expires_at: is past
they are in Kafka, and in the list as soon as the services have got to them
mailriver: some lines were left out`}
	got := in.run(text, "import", "-")
	if got.status != want.status || plain(got.out) != want.out || plain(got.errors) != want.errors {
		t.Errorf("import = %d\n%s\n%s\nwant %d\n%s\n%s", got.status, plain(got.out), plain(got.errors), want.status, want.out, want.errors)
	}
	in.untilSuppressed("dan@example.com")

	// What comes out goes in again, and changes nothing: one fact for one line.
	// Red when the client writes an entry otherwise the second time.
	exported := in.until("export", "--reason", "complaint")
	if lines := strings.Split(strings.TrimSpace(exported.out), "\n"); len(lines) != 2 ||
		!strings.HasPrefix(lines[1], "dan@example.com,address,,complaint,2026-01-02T03:04:05Z,,mailriver,mailriver,") {
		t.Errorf("export = %s", exported.out)
	}
	again := in.run(text, "import", "-")
	in.run("address\ngus@example.com\n", "import", "-")
	in.untilSuppressed("gus@example.com")
	explained := in.run("", "explain", "dan@example.com", "--output", "csv")
	rows, err := csv.NewReader(strings.NewReader(explained.out)).ReadAll()
	if err != nil || len(rows) != 2 || again.status != 1 {
		t.Errorf("explain after two imports of one line = %d rows, %v, want a header and one:\n%s", len(rows), err, explained.out)
	}
}

func testSync(t *testing.T, in *installation) {
	old := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	in.mailgun.Put("complaints", "theirs@example.com", "", old)
	in.mailgun.Put("bounces", "both@example.com", "550 no such user", old)
	if got := in.run("", "add", "both@example.com", "--reason", "hard_bounce"); got.status != 0 {
		t.Fatalf("add = %+v", got)
	}
	if got := in.run("", "add", "ours@example.com", "--reason", "hard_bounce"); got.status != 0 {
		t.Fatalf("add = %+v", got)
	}
	rows := func(got said) map[string]string {
		t.Helper()
		table, err := csv.NewReader(strings.NewReader(got.out)).ReadAll()
		if err != nil || got.status != 0 {
			t.Fatalf("sync = %+v, %v, want status 0", got, err)
		}
		found := map[string]string{}
		for _, row := range table[1:] {
			found[row[1]] = strings.TrimSpace(row[0] + " " + row[7])
		}
		return found
	}
	compared := rows(in.run("", "sync", "--provider", "mailgun", "--output", "csv"))
	if compared["theirs@example.com"] != "missing_here" || compared["ours@example.com"] != "missing_there" || compared["both@example.com"] != "" {
		t.Errorf("sync = %v", compared)
	}
	for _, r := range in.mailgun.Requests() {
		if !strings.HasPrefix(r, http.MethodGet) {
			t.Errorf("a comparison sent %s", r)
		}
	}
	done := rows(in.run("", "sync", "--provider", "mailgun", "--apply", "--import", "--output", "csv"))
	if done["theirs@example.com"] != "missing_here imported" || done["ours@example.com"] != "missing_there added" {
		t.Errorf("sync --apply --import = %v", done)
	}
	in.untilSuppressed("theirs@example.com")
	explained := in.run("", "explain", "theirs@example.com")
	if want := "TIME suppression_changed mailriver suppress complaint for all mail: on the list of mailgun (by cli) suppresses"; !strings.HasSuffix(plain(explained.out), want) {
		t.Errorf("explain = %s\nwant at its end %s", plain(explained.out), want)
	}
	// A second run finds the two lists agreed.
	if again := rows(in.run("", "sync", "--provider", "mailgun", "--output", "csv")); again["theirs@example.com"] != "" || again["ours@example.com"] != "" {
		t.Errorf("sync after all was brought over = %v", again)
	}
	if got := in.run("", "sync", "--provider", "ses"); got.status != 2 || !strings.Contains(got.errors, "suppression_sync: has no list of ses") {
		t.Errorf("sync --provider ses = %+v", got)
	}
	in.mailgun.Always(esplisttest.Answer{Status: http.StatusUnauthorized, Body: "Forbidden"})
	got := in.run("", "sync", "--provider", "mailgun")
	if got.status != 1 || got.out != "" || !strings.Contains(got.errors, "HTTP 401") || strings.Contains(got.errors, in.mailgun.Key) {
		t.Errorf("sync with a wrong key = %+v, want 1, the status and no key", got)
	}
}

// answering is an API that gives one answer.
func answering(t *testing.T, status int, body string, header ...string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// An error says what to do next, and never shows the key.
func TestSuppress_advice(t *testing.T) {
	t.Chdir(t.TempDir())
	problem := func(status int, detail string) string {
		return answering(t, status, fmt.Sprintf(`{"status":%d,"detail":%q}`, status, detail), "Content-Type", "application/problem+json")
	}
	nobody := "http://" + freeAddress(t)
	elsewhere := answering(t, http.StatusNotFound, "<html>")
	tests := []struct {
		name, url, want string
	}{
		{"nobody", nobody, "start it with `mailriver suppression`, or name another with --url or suppression_client.url\n"},
		{"something else", elsewhere, "mailriver: 404 Not Found, which is no answer of the suppression API\nis " + elsewhere + " its address?"},
		{"no key", problem(401, "this API key is not valid"), "mailriver: this API key is not valid\nmake one with `mailriver api-key new --name NAME`"},
		{"no right", problem(403, "the API key crm has not the scope write"), "mailriver: the API key crm has not the scope write\n`mailriver api-key new"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := call(t, []string{"MAILRIVER_SUPPRESSION_CLIENT_KEY=mr_hunter2"}, "suppress", "add", "a@example.com", "--url", tt.url)
			if got.status != 1 || got.out != "" || !strings.Contains(got.errors, tt.want) || strings.Contains(got.errors, "hunter2") {
				t.Errorf("suppress add = %+v, want 1 and %q", got, tt.want)
			}
		})
	}
}

// An import that breaks off says from where to go on, and what is sent from
// there on is the rest. The line is that of the file, which has a record over
// two lines.
func TestSuppress_importBreaksOff(t *testing.T) {
	t.Chdir(t.TempDir())
	var text strings.Builder
	text.WriteString("address,reason,note\n\"first@example.com\",manual,\"two\nlines\"\n")
	for i := range 6000 {
		fmt.Fprintf(&text, "u%d@example.com,manual,\n", i)
	}
	path := filepath.Join(t.TempDir(), "list.csv")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var calls, entries atomic.Int64
	var broken atomic.Bool
	broken.Store(true)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		decoder, n := json.NewDecoder(r.Body), 0
		for ; decoder.More(); n++ {
			var entry struct{ Address string }
			if err := decoder.Decode(&entry); err != nil || entry.Address == "" {
				t.Errorf("entry %d of a request: %v", n, err)
				break
			}
		}
		w.Header().Set("Content-Type", "application/json")
		if calls.Add(1) > 1 && broken.Load() {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"status":500,"detail":"something went wrong here"}`)
			return
		}
		entries.Add(int64(n))
		fmt.Fprintf(w, `{"taken":%d,"bad_lines":0,"errors":[]}`, n)
	}))
	defer api.Close()

	got := call(t, nil, "suppress", "import", path, "--url", api.URL, "--output", "json")
	var report importReport
	if err := json.Unmarshal([]byte(got.out), &report); err != nil || got.status != 1 {
		t.Fatalf("import = %+v, %v, want 1 and a report", got, err)
	}
	want := fmt.Sprintf("mailriver: something went wrong here\nwhat is before line %[1]d is done: go on with --from-line %[1]d, "+
		"or run all of it again, which changes nothing twice\n", report.GoOnAt)
	if report.GoOnAt != 5003 || report.Taken != 5000 || got.errors != want {
		t.Errorf("import = %+v, %q, want to go on at 5003 after 5000", report, got.errors)
	}
	broken.Store(false)
	got = call(t, nil, "suppress", "import", path, "--url", api.URL, "--from-line", fmt.Sprint(report.GoOnAt))
	if got.status != 0 || entries.Load() != 6001 {
		t.Errorf("import --from-line = %+v, %d entries in all, want 0 and 6001", got, entries.Load())
	}
}

// What is wrong with the arguments is told before anything is asked.
func TestSuppress_usage(t *testing.T) {
	t.Chdir(t.TempDir())
	for args, want := range map[string]string{
		"check":                                   "addresses or --file: one of the two is required",
		"check a@example.com --file x":            "addresses or --file: one of the two is required",
		"check nobody":                            `"nobody" is no address`,
		"check a@example.com --scope-id x":        "scope-id: needs --scope-kind",
		"check a@example.com --scope-kind x":      `scope-kind: is "x", must be one of address, `,
		"check a@example.com --output xml":        `output: is "xml"`,
		"add a@example.com --reason x":            `reason: is "x", must be one of `,
		"add a@example.com --expires soon":        `expires: is "soon", must be a duration`,
		"add a@example.com --expires -1h":         `expires: is "-1h", which is past`,
		"list --limit 0":                          "limit: is 0, must be 1 to 10000",
		"list --since -1h":                        `since: is "-1h", must be a duration ago`,
		"import x --layout y":                     `layout: is "y", must be one of `,
		"import x --format xml":                   `format: is "xml", must be csv or ndjson`,
		"import x --from-line -1":                 "from-line: is -1, must not be negative",
		"export --layout y":                       `layout: is "y", must be one of `,
		"sync --provider mandrill":                `provider: is "mandrill", must be one of ses, sendgrid, postmark, mailgun`,
		"sync --provider mailgun --limit -1":      "limit: is -1, must not be negative",
		"explain":                                 "accepts 1 arg(s), received 0",
		"explain a@example.com --url ftp://x":     `url: is "ftp://x", must be http://host:port`,
		"lift a@example.com --scope-kind nothing": `scope-kind: is "nothing"`,
	} {
		got := call(t, nil, append([]string{"suppress"}, strings.Fields(args)...)...)
		if got.status != 2 || got.out != "" || !strings.HasPrefix(got.errors, "mailriver: "+want) {
			t.Errorf("suppress %s = %+v, want 2 and %s", args, got, want)
		}
	}
}
