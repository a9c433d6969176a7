package e2e

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/embedded"
	"mailriver/pkg/event"
	"mailriver/pkg/simulate"
)

// books is what `mailriver audit --output json` prints.
type books struct {
	Balanced   bool
	Partitions []struct {
		Requests, Events, Published, Duplicates, Missing, Rows int
		RawInFlight                                            int `json:"raw_in_flight"`
		RowsInFlight                                           int `json:"rows_in_flight"`
	}
	Findings []struct {
		Kind    string
		EventID string `json:"event_id"`
		Origin  string
	}
	Found map[string]int
}

func (r *river) audit() books {
	r.t.Helper()
	out, status := r.run("audit", "--from", "1h", "--output", "json", "--limit", "1000")
	var b books
	if err := json.Unmarshal([]byte(out), &b); err != nil {
		r.t.Fatalf("audit, status %d: %v in %s", status, err, out)
	}
	if (status == 0) != b.Balanced || status > 1 {
		r.t.Errorf("audit ends with status %d and balanced %t", status, b.Balanced)
	}
	return b
}

// settled waits until nothing is in flight.
func (r *river) settled() books {
	r.t.Helper()
	var b books
	eventually(r.t, "nothing in flight", func() error {
		b = r.audit()
		for _, p := range b.Partitions {
			if p.RawInFlight+p.RowsInFlight > 0 {
				return fmt.Errorf("in flight: %+v", p)
			}
		}
		return nil
	})
	return b
}

// named returns the findings of a kind by event, and fails when there are
// others than those kinds.
func (b books) named(t *testing.T, kind string, others ...string) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for _, f := range b.Findings {
		if f.Kind == kind {
			ids[f.EventID] = f.Origin
		}
	}
	for found := range b.Found {
		if found != kind && !strings.Contains(strings.Join(others, " "), found) {
			t.Errorf("found %v, want %s and %q only", b.Found, kind, others)
		}
	}
	return ids
}

// exec changes something in ClickHouse behind Mailriver's back.
func (r *river) exec(sql string) {
	r.t.Helper()
	resp, err := http.Post(r.clickhouse+"/?"+url.Values{"query": {sql}}.Encode(), "text/plain", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		r.t.Fatalf("%s: %s", sql, resp.Status)
	}
}

// The books balance after ordinary traffic with redeliveries. Then a row is
// deleted, a batch is inserted twice, and offsets are skipped: each is found and
// named.
func TestAudit(t *testing.T) {
	r := newRiver(t, "")
	r.start()
	requests, _ := r.generate(simulate.Options{Seed: 19, Events: 600, Duplicates: 0.2, Reorder: 0.1})
	half := len(requests) / 2
	if _, err := (simulate.Sender{}).Send(t.Context(), each(requests[:half])); err != nil {
		t.Fatal(err)
	}
	b := r.settled()
	published, duplicates, rows := 0, 0, 0
	for _, p := range b.Partitions {
		published, duplicates, rows = published+p.Published, duplicates+p.Duplicates, rows+p.Rows
	}
	if !b.Balanced || published == 0 || published != rows || duplicates == 0 {
		t.Fatalf("audit = %+v, want balanced books with duplicates", b)
	}

	deleted, err := r.query("SELECT toString(event_id) FROM mailriver.events ORDER BY event_id LIMIT 1 FORMAT TSV")
	if err != nil {
		t.Fatal(err)
	}
	r.exec("ALTER TABLE mailriver.events DELETE WHERE event_id = '" + deleted + "' SETTINGS mutations_sync = 1")
	b = r.audit()
	if got := b.named(t, "row_missing", "rollup_differs"); len(got) != 1 || got[deleted] == "" || b.Found["rollup_differs"] != 1 {
		t.Errorf("a deleted row: found %v, named %v, want %s and its roll-up", b.Found, got, deleted)
	}

	batch, err := r.query("SELECT toString(event_id) FROM mailriver.events ORDER BY event_id LIMIT 7 FORMAT TSV")
	if err != nil {
		t.Fatal(err)
	}
	twice := strings.Fields(batch)
	r.exec("INSERT INTO mailriver.events SELECT * FROM mailriver.events WHERE event_id IN ('" + strings.Join(twice, "','") +
		"') SETTINGS insert_deduplicate = 0")
	b = r.audit()
	doubled := b.named(t, "row_doubled", "row_missing", "rollup_differs")
	for _, id := range twice {
		if doubled[id] == "" {
			t.Errorf("row_doubled does not name %s: %v", id, doubled)
		}
	}
	if len(doubled) != len(twice) || len(b.named(t, "row_missing", "row_doubled", "rollup_differs")) != 1 {
		t.Errorf("a batch inserted twice: found %v, want %d doubled and the row that was deleted", b.Found, len(twice))
	}

	told := map[event.ID]bool{}
	for _, request := range requests[:half] {
		for _, e := range request.Truth {
			told[e.ID] = true
		}
	}
	r.skip(requests[half:])
	missing := r.settled().named(t, "event_missing", "row_missing", "row_doubled", "rollup_differs")
	skipped := map[string]bool{}
	for _, request := range requests[half:] {
		for _, e := range request.Truth {
			if id := e.ID.String(); !told[e.ID] {
				skipped[id] = true
				if !strings.HasPrefix(missing[id], "email.raw.v1/") {
					t.Errorf("%s was skipped and is not named", id)
				}
			}
		}
	}
	if len(skipped) == 0 || len(missing) != len(skipped) {
		t.Errorf("%d events are named as missing, %d were skipped", len(missing), len(skipped))
	}
}

// skip receives requests and moves the normalizer's group past them, while the
// normalizer does not run.
func (r *river) skip(requests []simulate.Request) {
	r.t.Helper()
	if err := r.process.stop(); err != nil {
		r.t.Fatal(err)
	}
	env, err := embedded.Start(r.t.Context(), embedded.Options{
		DataDir: r.dir, KafkaAddr: r.kafka, RegistryAddr: strings.TrimPrefix(r.registry, "http://"),
		ClickHouseAddr: strings.TrimPrefix(r.clickhouse, "http://"), Library: r.library,
		Logger: slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		if err := env.Close(); err != nil {
			r.t.Error(err)
		}
	})
	defer stop()
	r.process = startProcess(r.t, filepath.Join(bin, "mailriver"), environ(), "receiver", "--config", r.config)
	r.awaitReady()
	if _, err := (simulate.Sender{}).Send(r.t.Context(), each(requests)); err != nil {
		r.t.Fatal(err)
	}
	if err := r.process.stop(); err != nil {
		r.t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka))
	if err != nil {
		r.t.Fatal(err)
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	ends, err := admin.ListEndOffsets(r.t.Context(), "email.raw.v1")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := admin.CommitAllOffsets(r.t.Context(), "mailriver.normalizer", ends.Offsets()); err != nil {
		r.t.Fatal(err)
	}
	stop()
	r.start()
}
