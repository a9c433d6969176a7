package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/simulate"
)

// mistake is a place where an older build knew less than this one.
type mistake struct{ file, today, older string }

// mistakes of an older build: wrong values of several providers, a key that puts
// the event on another partition, and an element that became a dead letter.
func mistakes() []mistake {
	return []mistake{
		{
			"pkg/esp/postmark/parse.go",
			"return class{typ: event.Bounced, kind: event.KindHard}, true",
			"return class{typ: event.Bounced, kind: event.KindSoft}, true",
		},
		{
			"services/normalizer/transform.go",
			"if verdict, evidence := machine.Stateless(e); verdict != \"\" {",
			"if verdict, evidence := machine.Stateless(e); verdict != \"\" && e.Type != event.Opened {",
		},
		{
			"pkg/esp/sendgrid/parse.go",
			"if err := n.read(element); err != nil {",
			"err := n.read(element)\nif err == nil && n.event == \"deferred\" {\n" +
				"err = fault.Permanentf(fault.BadElement, \"not known yet\")\n}\nif err != nil {",
		},
		{
			"pkg/esp/mandrill/parse.go",
			"e.Recipient = esp.Address(m.email)",
			"_ = m.email",
		},
		{
			"pkg/bounce/bounce.go",
			"case 1, 6, 10:\n\t\t\treturn event.KindHard, event.CauseUnknownRecipient, true",
			"case 1, 6, 10:\n\t\t\treturn event.KindUndetermined, event.CauseOther, true",
		},
	}
}

// olderBuild builds an all-in-one of this source with the mistakes in it, whose
// version is "older". The source itself stays as it is.
func olderBuild(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	texts := map[string]string{}
	for _, m := range mistakes() {
		path, err := filepath.Abs(filepath.Join("..", "..", m.file))
		if err != nil {
			t.Fatal(err)
		}
		if texts[path] == "" {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			texts[path] = string(text)
		}
		if n := strings.Count(texts[path], m.today); n != 1 {
			t.Fatalf("%s holds %q %d times, want once: bring the mistakes of this test up to date", m.file, m.today, n)
		}
		texts[path] = strings.Replace(texts[path], m.today, m.older, 1)
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for path, text := range texts {
		older := filepath.Join(dir, fmt.Sprintf("%d.go", len(overlay.Replace)))
		if err := os.WriteFile(older, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[path] = older
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "mailriver-allinone")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", list, "-ldflags", "-X main.version=older",
		"-o", out, "mailriver/services/allinone")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build -overlay: %v\n%s", err, text)
	}
	return out
}

// rollup counts the groups in which events_hourly and events do not agree.
const rollup = `SELECT count() FROM (
	SELECT received_month, hour, source, provider, event_type, bounce_kind, bounce_cause, recipient_domain, stream, machine,
		is_test, is_duplicate_hint, sum(n) AS difference
	FROM (
		SELECT received_month, hour, source, provider, event_type, bounce_kind, bounce_cause, recipient_domain, stream, machine,
			is_test, is_duplicate_hint, toInt64(events) AS n
		FROM mailriver.events_hourly
		UNION ALL
		SELECT toYYYYMM(received_at) AS received_month, toStartOfHour(occurred_at) AS hour, source, provider, event_type,
			bounce_kind, bounce_cause, recipient_domain, stream, machine, is_test, is_duplicate_hint, toInt64(-1) AS n
		FROM mailriver.events
	)
	GROUP BY ALL
	HAVING difference != 0
)`

// exact checks what an analyst counts, without FINAL.
func (r *river) exact(n int) {
	r.t.Helper()
	for _, question := range []struct{ sql, want string }{
		{"SELECT count(), uniqExact(event_id) FROM mailriver.events", fmt.Sprintf("%d\t%d", n, n)},
		{"SELECT sum(events) FROM mailriver.events_hourly", fmt.Sprint(n)},
		{rollup, "0"},
	} {
		if got, err := r.query(question.sql); err != nil || got != question.want {
			r.t.Errorf("%.80s = %q, %v, want %q", question.sql, got, err, question.want)
		}
	}
}

// state is everything that a replay may change: the rows, the roll-up, and the
// ends of the topics.
func (r *river) state() string {
	r.t.Helper()
	rows, err := r.query("SELECT count(), sum(cityHash64(toString(tuple(*)))) FROM mailriver.events")
	if err != nil {
		r.t.Fatal(err)
	}
	hours, err := r.query("SELECT sum(events), uniqExact(tuple(* EXCEPT events)) FROM mailriver.events_hourly")
	if err != nil {
		r.t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka))
	if err != nil {
		r.t.Fatal(err)
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	ends, err := admin.ListEndOffsets(r.t.Context(), "email.events.v1", "email.dedup.v1", "email.dead.v1")
	if err != nil {
		r.t.Fatal(err)
	}
	text := rows + "; " + hours
	for _, end := range ends.Offsets().Sorted() {
		text += fmt.Sprintf("; %s/%d ends at %d", end.Topic, end.Partition, end.At)
	}
	return text
}

// replayed is what `mailriver replay --output json` prints.
type replayed struct {
	Records, Ahead, Unchanged, Changed, New, Gone, Duplicates, Unreadable, Refused, Published int
	Fields                                                                                    map[string]int
	Differences                                                                               []struct{ What string }
	Months                                                                                    []struct {
		Behind, Absent int
		Replaced       bool
	}
}

func (r *river) replay(args ...string) replayed {
	r.t.Helper()
	out, status := r.run(append([]string{"replay"}, append(args, "--output", "json")...)...)
	var report replayed
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 0 {
		r.t.Fatalf("mailriver replay %s: status %d, %v in %s", strings.Join(args, " "), status, err, out)
	}
	return report
}

// watch asks ClickHouse until it is stopped, as a dashboard does. No answer may
// hold an event twice, and a month has either none of the corrections or all.
func (r *river) watch() (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	asked := 0
	revised := map[string][]string{} // by month, what was seen
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			text, err := r.query("SELECT toYYYYMM(received_at) AS month, count() - uniqExact(event_id), countIf(revision > 0) FROM mailriver.events GROUP BY month")
			if err != nil {
				r.t.Errorf("while a replay runs: %v", err)
				return
			}
			asked++
			for line := range strings.Lines(text) {
				month := strings.Fields(line)
				if month[1] != "0" {
					r.t.Errorf("while a replay runs: %s events of %s are there twice", month[1], month[0])
					return
				}
				if !slices.Contains(revised[month[0]], month[2]) {
					revised[month[0]] = append(revised[month[0]], month[2])
				}
			}
		}
	}()
	return func() {
		cancel()
		<-done
		if asked == 0 {
			r.t.Error("nobody asked while the replay ran")
		}
		for month, seen := range revised {
			if len(seen) > 2 || seen[0] != "0" {
				r.t.Errorf("while a replay runs, %s of %s are corrected, want none and then all", seen, month)
			}
		}
	}
}

// revisions returns what stands on the canonical topic for each event, in the
// order of the revisions.
func (r *river) revisions() map[event.ID][]event.Event {
	r.t.Helper()
	out, status := r.run("tail", "--from", "start", "--follow=false")
	if status != 0 {
		r.t.Fatalf("tail: status %d", status)
	}
	all := map[event.ID][]event.Event{}
	dec := json.NewDecoder(strings.NewReader(out))
	for dec.More() {
		var e event.Event
		if err := dec.Decode(&e); err != nil {
			r.t.Fatal(err)
		}
		list := append(all[e.ID], e)
		// They may lie on two partitions, and come in any order then.
		for i := len(list) - 1; i > 0 && list[i].Revision < list[i-1].Revision; i-- {
			list[i], list[i-1] = list[i-1], list[i]
		}
		all[e.ID] = list
	}
	return all
}

// A build that knew less has published and loaded; today's build corrects that,
// while traffic goes on. The older build is this source with five mistakes in
// it, and what must change is told by the simulator, not by the replay: turns red
// when a changed event is left out, published under another id or without a
// higher revision, when the loader inserts revisions beside their row, and when a
// replay touches what it need not.
func TestReplay(t *testing.T) {
	older := olderBuild(t)
	r := newRiver(t, "")
	r.process = startProcess(t, older, environ("MAILRIVER_CHDB_LIBRARY="+r.library), "--config", r.config, "--data-dir", r.dir)
	r.awaitReady()
	requests, truth := r.generate(simulate.Options{Seed: 29, Events: 2000, Duplicates: 0.1, Reorder: 0.1})
	if _, err := (simulate.Sender{}).Send(t.Context(), each(requests)); err != nil {
		t.Fatal(err)
	}
	r.settled()

	wrong, fields, never := map[event.ID]bool{}, map[string]int{}, maps.Clone(truth)
	providers := map[string]bool{}
	for _, row := range r.rows() {
		delete(never, row.ID)
		for _, d := range simulate.Compare(truth[row.ID], row) {
			wrong[row.ID], providers[row.Provider] = true, true
			fields[d.Field]++
		}
	}
	if len(never) == 0 || len(providers) != 5 || fields["machine"] == 0 || fields["recipient"] == 0 || fields["bounce_kind"] == 0 {
		t.Fatalf("the older build has %d events wrong, of %v, and %d never; want some of each provider", len(wrong), providers, len(never))
	}

	if err := r.process.stop(); err != nil {
		t.Fatal(err)
	}
	r.start()
	before := r.state()
	dry := r.replay("raw", "--from", "1h", "--dry-run", "--limit", "1000000")
	if dry.Changed != len(wrong) || dry.New != len(never) || dry.Gone != 0 || dry.Unchanged != len(truth)-len(wrong)-len(never) {
		t.Errorf("dry run: changed %d, new %d, gone %d, unchanged %d, want %d, %d, 0, %d",
			dry.Changed, dry.New, dry.Gone, dry.Unchanged, len(wrong), len(never), len(truth)-len(wrong)-len(never))
	}
	if !maps.Equal(dry.Fields, fields) {
		t.Errorf("dry run: fields %v, want %v", dry.Fields, fields)
	}
	listed := len(never)
	for _, n := range fields {
		listed += n
	}
	if len(dry.Differences) != listed || dry.Published != 0 {
		t.Errorf("dry run: %d differences, %d published, want %d and none", len(dry.Differences), dry.Published, listed)
	}
	if after := r.state(); after != before {
		t.Errorf("a dry run changed something: %s, was %s", after, before)
	}

	// The real one, while other events come in.
	more, told := r.generate(simulate.Options{Seed: 31, Events: 600, Duplicates: 0.1})
	sent := make(chan error, 1)
	go func() {
		_, err := simulate.Sender{Rate: 150}.Send(t.Context(), each(more))
		sent <- err
	}()
	stop := r.watch()
	report := r.replay("raw", "--from", "1h")
	stop()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if report.Changed != len(wrong) || report.New != len(never) || report.Published != len(wrong)+len(never) {
		t.Errorf("replay: changed %d, new %d, published %d, want %d, %d and both", report.Changed, report.New, report.Published, len(wrong), len(never))
	}
	maps.Copy(truth, told)
	r.awaitRows(len(truth))
	r.compare(truth)
	r.exact(len(truth))
	if got, err := r.query("SELECT countIf(revision = 1), countIf(revision > 1) FROM mailriver.events"); err != nil || got != fmt.Sprintf("%d\t0", len(wrong)) {
		t.Errorf("rows of revision 1, and above = %q, %v, want %d and none", got, err, len(wrong))
	}
	r.published(truth, wrong, never)

	if b := r.settled(); !b.Balanced {
		t.Errorf("audit after the replay found %v, want balanced books", b.Found)
	}
	before = r.state()
	again := r.replay("raw", "--from", "1h")
	if again.Changed+again.New+again.Gone+again.Published != 0 || again.Unchanged != len(truth) {
		t.Errorf("a second replay: %+v, want %d unchanged and nothing else", again, len(truth))
	}
	for _, m := range again.Months {
		if m.Replaced {
			t.Errorf("a second replay swapped a month: %+v", m)
		}
	}
	if after := r.state(); after != before {
		t.Errorf("a second replay changed something: %s, was %s", after, before)
	}

	t.Run("events", func(t *testing.T) { r.rebuild(truth) })
}

// published checks the canonical topic: what was wrong has two revisions, the
// latter as it should be, and all else has one.
func (r *river) published(truth map[event.ID]event.Event, wrong map[event.ID]bool, never map[event.ID]event.Event) {
	r.t.Helper()
	all := r.revisions()
	for id, want := range truth {
		list := all[id]
		last := int32(0)
		if wrong[id] {
			last = 1
		}
		if len(list) != int(last)+1 || list[last].Revision != last || list[0].Revision != 0 {
			r.t.Errorf("%s %s %s stands %d times on the topic, want revisions up to %d", want.Provider, want.Type, id, len(list), last)
			continue
		}
		for _, difference := range simulate.Compare(want, list[last]) {
			r.t.Errorf("%s %s %s, revision %d: %s", want.Provider, want.Type, id, last, difference)
		}
		if _, new := never[id]; (wrong[id] || new) && list[last].NormalizerVersion == "older" {
			r.t.Errorf("%s %s %s, revision %d: is of the older build", want.Provider, want.Type, id, last)
		}
	}
	if len(all) != len(truth) {
		r.t.Errorf("%d events stand on the topic, want %d", len(all), len(truth))
	}
}

// rebuild damages the table by hand, in every way that there is, and has it
// rebuilt from the canonical topic.
func (r *river) rebuild(truth map[event.ID]event.Event) {
	r.t.Helper()
	const now = " SETTINGS mutations_sync = 1"
	r.exec("ALTER TABLE mailriver.events DELETE WHERE cityHash64(event_id) % 3 = 0" + now)
	r.exec("ALTER TABLE mailriver.events UPDATE subject = 'damaged', bounce_cause = '' WHERE cityHash64(event_id) % 3 = 1" + now)
	r.exec("INSERT INTO mailriver.events SELECT * FROM mailriver.events WHERE cityHash64(event_id) % 5 = 0 SETTINGS insert_deduplicate = 0")
	if got, err := r.query(rollup); err != nil || got == "0" {
		r.t.Fatalf("groups of the roll-up that differ = %s, %v, want some: the damage is none", got, err)
	}
	report := r.replay("events", "--consumer", "loader", "--from", "1h")
	if report.Refused+report.Unreadable != 0 {
		r.t.Errorf("replay events: %+v, want nothing refused", report)
	}
	r.compare(truth)
	r.exact(len(truth))
}
