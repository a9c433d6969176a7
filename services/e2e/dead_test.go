package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/simulate"
)

// letters runs a dead command that prints a list as JSON.
func (r *river) letters(status int, args ...string) []map[string]any {
	r.t.Helper()
	out, got := r.run(append([]string{"dead"}, append(args, "--output", "json")...)...)
	if got != status {
		r.t.Errorf("mailriver dead %s: status %d, want %d", strings.Join(args, " "), got, status)
	}
	var list []map[string]any
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		r.t.Fatalf("mailriver dead %s: %v in %s", strings.Join(args, " "), err, out)
	}
	return list
}

// plant writes a letter as an older normalizer or loader would have left it.
func (r *river) plant(from *kgo.Record, stage, reason string) {
	r.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka))
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	headers := append([]kgo.RecordHeader{
		{Key: "reason", Value: []byte(reason)},
		{Key: "error", Value: []byte("planted")},
		{Key: "stage", Value: []byte(stage)},
		{Key: "origin", Value: fmt.Appendf(nil, "%s/%d/%d", from.Topic, from.Partition, from.Offset)},
	}, from.Headers...)
	letter := &kgo.Record{Topic: "email.dead.v1", Key: from.Key, Value: from.Value, Headers: headers}
	if err := client.ProduceSync(r.t.Context(), letter).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
}

// first returns a record of a topic.
func (r *river) first(topic string) *kgo.Record {
	r.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka), kgo.ConsumeTopics(topic),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(r.t.Context())
		if err := fetches.Err(); err != nil {
			r.t.Fatal(err)
		}
		if records := fetches.Records(); len(records) > 0 {
			return records[0]
		}
	}
}

// Letters are listed, shown and retried once, and the books balance afterwards.
func TestDeadLetters(t *testing.T) {
	r := newRiver(t, "")
	r.start()
	requests, truth := r.generate(simulate.Options{Seed: 23, Events: 100})
	if _, err := (simulate.Sender{}).Send(t.Context(), each(requests)); err != nil {
		t.Fatal(err)
	}
	r.awaitRows(len(truth))

	// Genuine and unreadable: it stays a letter, whatever is done.
	for _, request := range requests {
		if request.Provider != "postmark" {
			continue
		}
		post, err := http.NewRequestWithContext(t.Context(), http.MethodPost, request.URL, strings.NewReader("{\"a\": \x1b[2J"))
		if err != nil {
			t.Fatal(err)
		}
		post.Header = request.Header
		resp, err := http.DefaultClient.Do(post)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("an unreadable body: %v, %v, want 200", resp, err)
		}
		_ = resp.Body.Close()
		break
	}
	eventually(t, "a letter", func() error {
		if list := r.letters(0, "list", "--reason", "bad_body", "--provider", "postmark"); len(list) != 1 {
			return fmt.Errorf("%d letters", len(list))
		}
		return nil
	})
	place := fmt.Sprint(r.letters(0, "list")[0]["letter"])
	if out, status := r.run("dead", "show", place); status != 0 || !strings.Contains(out, `{"a": \x1b[2J`) || !strings.Contains(out, "bad_body") {
		t.Errorf("dead show, status %d: %q, want the reason and the body, escaped", status, out)
	}
	if list := r.letters(1, "retry", place); len(list) != 1 || list[0]["outcome"] != "still_refused" {
		t.Errorf("dead retry = %v, want still_refused", list)
	}

	// Two letters of code that is mended by now: the raw record of one, and the
	// row of the other.
	r.plant(r.first("email.raw.v1"), "normalizer", "bad_element")
	canonical := r.first("email.events.v1")
	id := ""
	for _, h := range canonical.Headers {
		if h.Key == "ce_id" {
			id = string(h.Value)
		}
	}
	r.exec("ALTER TABLE mailriver.events DELETE WHERE event_id = '" + id + "' SETTINGS mutations_sync = 1")
	r.plant(canonical, "loader", "row_refused")
	if list := r.letters(0, "retry", "--reason", "bad_element,row_refused", "--dry-run"); len(list) != 2 || list[0]["outcome"] != "would_retry" {
		t.Errorf("dead retry --dry-run = %v, want two that would be retried", list)
	}
	outcomes := map[any]any{}
	for _, letter := range r.letters(0, "retry", "--reason", "bad_element,row_refused") {
		outcomes[letter["stage"]] = letter["outcome"]
	}
	if outcomes["normalizer"] != "published" || outcomes["loader"] != "inserted" {
		t.Errorf("dead retry = %v, want published and inserted", outcomes)
	}
	if list := r.letters(0, "retry", "--reason", "bad_element,row_refused"); len(list) != 0 {
		t.Errorf("a second retry = %v, want nothing", list)
	}
	if open, all := r.letters(0, "list"), r.letters(0, "list", "--all"); len(open) != 1 || len(all) != 3 {
		t.Errorf("%d letters are open of %d, want 1 of 3", len(open), len(all))
	}
	r.awaitRows(len(truth))
	r.compare(truth)
	b := r.settled()
	b.named(t, "rollup_differs") // of the row that was deleted behind Mailriver's back
	if b.Found["rollup_differs"] != 1 {
		t.Errorf("audit found %v, want the roll-up only", b.Found)
	}
}
