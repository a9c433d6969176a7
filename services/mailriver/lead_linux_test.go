package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"mailriver/pkg/httpserver/api/apitest"
	"mailriver/pkg/kafka/kafkatest"
)

// columns is the width of the terminal.
const columns = 80

// transcript is a dialog with the command line on a terminal, as a person sees
// it. It is kept in testdata: UPDATE_GOLDEN=1 (make golden) rewrites it; look at
// the difference.
type transcript struct {
	t       *testing.T
	text    strings.Builder
	plain   func(string) string // takes out what differs from run to run; nil: nothing does
	environ []string
}

// run shows a command, what it says, and its status where that is not 0. A line
// of a table that is wider than the terminal fails the test.
func (d *transcript) run(command string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	tty, shown := screen(d.t)
	var errs strings.Builder
	status := mailriver(ctx, append([]string{"lead"}, strings.Fields(command)...), d.environ, strings.NewReader(""), tty, &errs)
	out := shown()
	if !strings.HasSuffix(command, "json") && !strings.HasSuffix(command, "csv") {
		for line := range strings.Lines(out) {
			if strings.Contains(line, longAddress) {
				continue // a text, which a terminal wraps
			}
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
				d.t.Errorf("lead %s: a line has %d columns, want at most %d:\n%s", command, n, columns, line)
			}
		}
	}
	text := fmt.Sprintf("$ mailriver lead %s\n%s%s", command, out, errs.String())
	if status != 0 {
		text += fmt.Sprintf("[status %d]\n", status)
	}
	if d.plain != nil {
		text = d.plain(text)
	}
	d.text.WriteString(text + "\n")
}

// compare holds the dialog against testdata.
func (d *transcript) compare(path string) {
	d.t.Helper()
	got := strings.TrimSuffix(d.text.String(), "\n")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			d.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	if got != string(want) {
		d.t.Errorf("%s\n%s\nwant (UPDATE_GOLDEN=1 rewrites it)\n%s", path, got, want)
	}
}

// recorded is a lead scoring API of answers that were recorded, each of which is
// as the document of the API says.
func recorded(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../leadscoring/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string][]byte{}
	for request, name := range map[string]string{
		"/v1/leads/ada@example.com":                     "show",
		"/v1/leads/ada@example.com/explain":             "explain",
		"/v1/leads/ada@example.com/history":             "history",
		"/v1/leads/" + longAddress:                      "show_long",
		"/v1/leads?limit=20&profile=marketing":          "top",
		"/v1/leads?limit=1&profile=marketing&stage=hot": "top_more",
		"/v1/rules": "rules",
	} {
		answer, err := os.ReadFile("testdata/lead/answers/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		answers[request] = answer
	}
	document := apitest.Open(t, text)
	server := httptest.NewServer(document.Handler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.RequestURI()]
		if !ok {
			t.Errorf("there is no answer to %s", r.URL.RequestURI())
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write(answer)
	})))
	t.Cleanup(server.Close)
	return server.URL
}

const longAddress = "maximiliane.von.hohenzollern-sigmaringen@procurement.subsidiary.example.co.uk"

// Every command that asks the API, in each format, on a terminal of 80 columns.
func TestLead_golden(t *testing.T) {
	url := recorded(t)
	tests := map[string][]string{
		"show":    {"show ada@example.com", "show " + longAddress},
		"top":     {"top --profile marketing", "top --profile marketing --stage hot --limit 1"},
		"explain": {"explain ada@example.com"},
		"history": {"history ada@example.com"},
		"rules":   {"rules"},
	}
	for name, commands := range tests {
		t.Run(name, func(t *testing.T) {
			t.Chdir("testdata/lead") // there is no mailriver.yaml
			d := &transcript{t: t, environ: []string{"MAILRIVER_LEADSCORING_CLIENT_URL=" + url}}
			for _, command := range commands {
				d.run(command)
			}
			for _, format := range []string{"csv", "json"} {
				d.run(commands[0] + " --output " + format)
			}
			d.compare(name + ".txt")
		})
	}
}

// What the service itself answers to one who has no leads yet, and who asks for
// what is not there. Red when the texts of the API and of the command line stop
// fitting together.
func TestLead_goldenErrors(t *testing.T) {
	cluster := kafkatest.New(t)
	registry := srfake.New()
	t.Cleanup(registry.Close)
	address, away := freeAddress(t), freeAddress(t)
	made := call(t, nil, "api-key", "new", "--name", "crm", "--scope", "read")
	key, section, _ := strings.Cut(made.out, "\n\n")
	_, keys, _ := strings.Cut(section, "keys:")
	config := file(t, "mailriver.yaml", fmt.Sprintf(`
data_dir: %q
instance: test
kafka: { brokers: [%q], topic_prefix: %q }
registry: { url: %q }
clickhouse: { url: "http://%s/mailriver" }
admin: { addr: "127.0.0.1:0" }
telemetry: { log_level: error }
leadscoring_client: { url: "http://%s" }
leadscoring:
  group: %q
  profiles:
    - { name: marketing, half_life: 168h, rules: [{ name: click, when: 'event_type == "clicked"', points: 10 }], stages: [{ name: warm, enter: 25, leave: 15 }] }
    - { name: success, half_life: 720h, rules: [{ name: open, when: 'event_type == "opened"', points: 1 }] }
  api:
    addr: %q
    keys:%s`, t.TempDir(), cluster.Config.Brokers[0], cluster.Config.TopicPrefix, registry.URL(), away, address,
		cluster.Group("leadscoring"), address, strings.ReplaceAll(keys, "\n", "\n    ")))
	// Topics and schemas come before ClickHouse, which is not there.
	if got := call(t, nil, "setup", "--config", config); !strings.Contains(got.errors, "clickhouse") {
		t.Fatalf("setup = %+v, want that it came as far as ClickHouse", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan said, 1)
	go func() {
		var out, errs strings.Builder
		status := mailriver(ctx, []string{"leadscoring", "--config", config}, nil, strings.NewReader(""), &out, &errs)
		done <- said{status, out.String(), errs.String()}
	}()
	t.Cleanup(func() {
		cancel()
		if got := <-done; got.status != 0 {
			t.Errorf("leadscoring = %+v, want status 0", got)
		}
	})
	environ := []string{"MAILRIVER_CONFIG=" + config, "MAILRIVER_LEADSCORING_CLIENT_KEY=" + key}
	until(t, "top", func() bool { return call(t, environ, "lead", "top", "--profile", "success").status == 0 })

	t.Chdir("testdata/lead")
	d := &transcript{t: t, environ: environ, plain: func(text string) string {
		return strings.NewReplacer(away, "127.0.0.1:8099", address, "127.0.0.1:8083").Replace(anyTime.ReplaceAllString(text, "2026-11-24T12:00:05Z"))
	}}
	for _, command := range []string{
		// Nobody has points yet.
		"show ada@example.com", "explain ada@example.com", "history ada@example.com", "top --profile success",
		"top --profile marketing --stage warm", "top --profile marketing --output json", "top --profile marketing --output csv",
		"history ada@example.com --output json", "explain ada@example.com --output csv",
		// What is not there.
		"top", "top --profile sales", "top --profile marketing --stage hot", "explain ada@example.com --profile sales",
		"history ada@example.com --profile sales", "show ada", "history ada@",
		// What is wrong with the arguments.
		"show", "top --limit 0", "rules extra", "explain ada@example.com --output xml", "show ada@example.com --url localhost:8083",
		"deliveries list --state lost", "deliveries list --recipient ada", "deliveries retry", "rules test rules.yaml --to 1h",
		// Nobody answers, or nobody who knows.
		"show ada@example.com --url http://" + away,
	} {
		d.run(command)
	}
	d.environ = []string{"MAILRIVER_CONFIG=" + config, "MAILRIVER_LEADSCORING_CLIENT_KEY=mr_hunter2"}
	d.run("top --profile marketing")
	d.environ = d.environ[:1]
	d.run("rules")
	d.compare("errors.txt")
	if strings.Contains(d.text.String(), "hunter2") {
		t.Error("an error shows the key")
	}
}

// Deliveries are read from their topic, and retried by it. What is in it was
// recorded: it stays readable.
func TestLead_goldenDeliveries(t *testing.T) {
	cluster := kafkatest.New(t)
	recorded, err := os.ReadFile("testdata/lead/deliveries.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	producer, err := cluster.Clients.Producer(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	for line := range strings.Lines(string(recorded)) {
		var d struct {
			Signal struct {
				ID string `json:"signal_id"`
			}
			Endpoint string
		}
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatal(err)
		}
		record := &kgo.Record{
			Topic: cluster.Topics.LeadDeliveries, Key: []byte(d.Signal.ID + ":" + d.Endpoint), Value: []byte(strings.TrimSpace(line)),
		}
		if err := producer.ProduceSync(t.Context(), record).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	config := file(t, "mailriver.yaml", fmt.Sprintf("kafka: { brokers: [%q], topic_prefix: %q }\ntelemetry: { log_level: error }\ndata_dir: %q\n",
		cluster.Config.Brokers[0], cluster.Config.TopicPrefix, t.TempDir()))
	t.Chdir("testdata/lead")
	today := regexp.MustCompile(time.Now().UTC().Format("2006-01-") + `\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	d := &transcript{t: t, environ: []string{"MAILRIVER_CONFIG=" + config}, plain: func(text string) string {
		return today.ReplaceAllString(text, "2026-11-24T12:00:05Z")
	}}
	for _, command := range []string{
		"deliveries list", "deliveries list --state dead --output csv", "deliveries list --webhook crm --recipient ada@EXAMPLE.com --output json",
		"deliveries list --state skipped", "deliveries list --profile success", "deliveries list --limit 1",
		"deliveries retry 5e8f4d2c-9a1b-8c3d-a4e5-f60718293a4b:crm", "deliveries list --state pending --output csv",
		"deliveries retry 5e8f4d2c-9a1b-8c3d-a4e5-f60718293a4b:none 0b6d3f0e-52c1-8a44-9e07-3f1c2a5b7d90:crm",
		"deliveries retry 71c2b9aa-0d3e-8f15-8b62-c4d5e6f70812:sales-team --output json",
	} {
		d.run(command)
	}
	d.compare("deliveries.txt")
}

// Rules are tried on a file of events, and a file with mistakes is told all of
// them.
func TestLead_goldenRulesTest(t *testing.T) {
	t.Chdir("testdata/lead")
	d := &transcript{t: t}
	for _, command := range []string{
		"rules test rules.yaml", "rules test rules.yaml --events events.jsonl", "rules test rules.yaml --events events.jsonl --limit 1",
		"rules test rules.yaml --events events.jsonl --output csv", "rules test rules.yaml --events events.jsonl --output json",
		"rules test same.yaml --events events.jsonl", "rules test wrong.yaml", "rules test none.yaml", "rules test rules.yaml --events none.jsonl",
		"rules test rules.yaml --events rules.yaml",
	} {
		d.run(command)
	}
	d.compare("rules_test.txt")
}

// until waits for something to be so.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(kafkatest.Patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %s", what, kafkatest.Patience)
		case <-tick.C:
		}
	}
}
