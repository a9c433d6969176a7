package clickhouse_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"mailriver/pkg/clickhouse"
	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/embedded/embeddedtest"
	"mailriver/pkg/event"
)

const month = 202611

func TestSwap(t *testing.T) {
	server := embeddedtest.ClickHouse(t)
	for name, test := range map[string]func(*testing.T, *clickhousetest.Database){
		"replaces":         testReplaces,
		"two at once":      testTwoAtOnce,
		"expired":          testExpired,
		"renewed":          testRenewed,
		"newer revision":   testNewer,
		"roll-up is apart": testRollupApart,
	} {
		t.Run(name, func(t *testing.T) { test(t, clickhousetest.Open(t, server)) })
	}
}

// months puts rows into November and, every third of them, October.
func months(rows []event.Event) []event.Event {
	for i := range rows {
		rows[i].ReceivedAt = time.Date(2026, 11, 3, 4, 5, 6, 0, time.UTC).Add(time.Duration(i) * time.Hour)
		if i%3 == 0 {
			rows[i].ReceivedAt = time.Date(2026, 10, 3, 4, 5, 6, 0, time.UTC)
		}
		rows[i].OccurredAt = rows[i].ReceivedAt.Add(-time.Minute)
	}
	return rows
}

func corrected(rows []event.Event, at ...int) []event.Event {
	var out []event.Event
	for _, i := range at {
		row := rows[i]
		row.Revision++
		row.Type, row.BounceKind, row.Subject = event.Bounced, event.KindHard, "corrected"
		out = append(out, row)
	}
	return out
}

func value(t *testing.T, db *clickhousetest.Database, sql string) string {
	t.Helper()
	answer, err := db.Query(t.Context(), sql, nil)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return fmt.Sprint(answer.Rows)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after a minute", what)
		}
		<-tick.C
	}
}

func correct(t *testing.T, db *clickhousetest.Database, lease time.Duration, rows ...event.Event) *clickhouse.Correction {
	t.Helper()
	k, err := db.Correct(t.Context(), "a test", lease)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if refused, err := k.Stage(t.Context(), rows); err != nil || refused != 0 {
		t.Fatalf("Stage() = %d, %v, want none refused", refused, err)
	}
	return k
}

func begin(t *testing.T, k *clickhouse.Correction) *clickhouse.Swap {
	t.Helper()
	s, err := k.Begin(t.Context(), month)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Release(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func swap(t *testing.T, s *clickhouse.Swap, absent bool) int64 {
	t.Helper()
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, err := s.Fill(t.Context(), absent)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

func closed(t *testing.T, db *clickhousetest.Database, want bool) {
	t.Helper()
	if got, err := db.Closed(t.Context()); err != nil || got != want {
		t.Errorf("Closed() = %t, %v, want %t", got, err, want)
	}
}

func testReplaces(t *testing.T, db *clickhousetest.Database) {
	rows := months(clickhousetest.Rows("a", 30))
	if err := db.Insert(t.Context(), "1", rows[:28]); err != nil {
		t.Fatal(err)
	}
	// 28 and 29 are not in the table.
	k := correct(t, db, time.Minute, corrected(rows, 1, 2, 28, 29)...)
	refused := corrected(rows, 4, 5)
	refused[1].Type = ""
	if n, err := k.Stage(t.Context(), refused); err != nil || n != 1 {
		t.Errorf("Stage() with a bad row = %d, %v, want 1 refused", n, err)
	}
	if got, err := k.Months(t.Context()); err != nil || fmt.Sprint(got) != "[202611]" {
		t.Errorf("Months() = %v, %v, want 202611", got, err)
	}
	want := clickhouse.Difference{Staged: 5, Absent: 2, Behind: 3}
	if got, err := k.Compare(t.Context(), month); err != nil || got != want {
		t.Errorf("Compare() = %+v, %v, want %+v", got, err, want)
	}
	closed(t, db, false)
	s := begin(t, k)
	if n := swap(t, s, false); n != 18 {
		t.Errorf("Fill() = %d rows, want 18", n)
	}
	closed(t, db, true)
	if err := s.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed(t, db, false)
	if got, err := k.Compare(t.Context(), month); err != nil || got != (clickhouse.Difference{Staged: 5, Absent: 2}) {
		t.Errorf("Compare() after the swap = %+v, %v", got, err)
	}
	for sql, want := range map[string]string{
		"SELECT count(), uniqExact(event_id), countIf(revision = 1), countIf(subject = 'corrected') FROM events": "[[28 28 3 3]]",
		"SELECT sum(events), sumIf(events, event_type = 'bounced' AND bounce_kind = 'hard') FROM events_hourly":  "[[28 3]]",
		"SELECT count() FROM system.tables WHERE database = currentDatabase() AND name LIKE 'replay\\_%'":        "[[2]]", // fences, staged
	} {
		if got := value(t, db, sql); got != want {
			t.Errorf("%s = %s, want %s", sql, got, want)
		}
	}
	s = begin(t, k)
	if n := swap(t, s, true); n != 20 {
		t.Errorf("Fill() with the absent ones = %d rows, want 20", n)
	}
	if got := value(t, db, "SELECT count(), (SELECT sum(events) FROM events_hourly) FROM events"); got != "[[30 30]]" {
		t.Errorf("rows and roll-up = %s, want 30 each", got)
	}
	// The table takes and deduplicates inserts as before.
	for range 2 {
		if err := db.Insert(t.Context(), "2", months(clickhousetest.Rows("b", 3))); err != nil {
			t.Fatal(err)
		}
	}
	if got := value(t, db, "SELECT count(), (SELECT sum(events) FROM events_hourly) FROM events"); got != "[[33 33]]" {
		t.Errorf("rows and roll-up after an insert = %s, want 33 each", got)
	}
}

// Without the look at other fences after the own one is set, both would swap.
func testTwoAtOnce(t *testing.T, db *clickhousetest.Database) {
	rows := months(clickhousetest.Rows("a", 9))
	if err := db.Insert(t.Context(), "1", rows); err != nil {
		t.Fatal(err)
	}
	first := begin(t, correct(t, db, time.Minute, corrected(rows, 1)...))
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := begin(t, correct(t, db, time.Minute, corrected(rows, 2)...))
	if err := second.Close(t.Context()); !errors.Is(err, clickhouse.ErrFenced) {
		t.Errorf("Close() beside another = %v, want ErrFenced", err)
	}
}

// A holder whose fence expired, and was taken away by the loader, swaps nothing:
// rows that the loader inserted meanwhile would be gone. Without the drop of the
// shadows in Closed, Replace succeeds here.
func testExpired(t *testing.T, db *clickhousetest.Database) {
	rows := months(clickhousetest.Rows("a", 9))
	if err := db.Insert(t.Context(), "1", rows); err != nil {
		t.Fatal(err)
	}
	s := begin(t, correct(t, db, time.Millisecond, corrected(rows, 1)...))
	alive, die := context.WithCancel(t.Context())
	if err := s.Close(alive); err != nil {
		t.Fatal(err)
	}
	die() // nobody renews it any more
	if _, err := s.Fill(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the fence is open", func() bool {
		is, err := db.Closed(t.Context())
		return err == nil && !is
	})
	if err := db.Insert(t.Context(), "2", months(clickhousetest.Rows("b", 9))); err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(t.Context()); err == nil {
		t.Error("Replace() after the fence was taken away = nil, want an error")
	}
	if got := value(t, db, "SELECT count(), countIf(revision > 0), (SELECT sum(events) FROM events_hourly) FROM events"); got != "[[18 0 18]]" {
		t.Errorf("rows, corrected and roll-up = %s, want 18, 0 and 18", got)
	}
}

func testRenewed(t *testing.T, db *clickhousetest.Database) {
	const lease = 400 * time.Millisecond
	rows := months(clickhousetest.Rows("a", 9))
	if err := db.Insert(t.Context(), "1", rows); err != nil {
		t.Fatal(err)
	}
	s := begin(t, correct(t, db, lease, corrected(rows, 1)...))
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the fence is renewed behind its first end", func() bool {
		return value(t, db, "SELECT max(set_at) > min(expires_at) FROM replay_fences") == "[[1]]"
	})
	closed(t, db, true)
	if _, err := s.Fill(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(t.Context()); err != nil {
		t.Errorf("Replace() under a renewed fence = %v, want nil", err)
	}
}

func testNewer(t *testing.T, db *clickhousetest.Database) {
	rows := months(clickhousetest.Rows("a", 9))
	rows[1].Revision = 2
	if err := db.Insert(t.Context(), "1", rows); err != nil {
		t.Fatal(err)
	}
	rows[1].Revision = 0
	k := correct(t, db, time.Minute, corrected(rows, 1)...)
	if got, err := k.Compare(t.Context(), month); err != nil || got.Newer != 1 {
		t.Errorf("Compare() = %+v, %v, want one newer row", got, err)
	}
}

// A crash between the two swaps leaves the roll-up behind; that is seen.
func testRollupApart(t *testing.T, db *clickhousetest.Database) {
	rows := months(clickhousetest.Rows("a", 9))
	if err := db.Insert(t.Context(), "1", rows); err != nil {
		t.Fatal(err)
	}
	if err := db.Exec(t.Context(), "INSERT INTO events_hourly SELECT * FROM events_hourly WHERE received_month = 202611"); err != nil {
		t.Fatal(err)
	}
	k := correct(t, db, time.Minute, corrected(rows, 1)...)
	if got, err := k.Compare(t.Context(), month); err != nil || got.Rollup == 0 {
		t.Errorf("Compare() = %+v, %v, want keys of the roll-up that differ", got, err)
	}
	s := begin(t, k)
	swap(t, s, false)
	if got, err := k.Compare(t.Context(), month); err != nil || got.Rollup != 0 {
		t.Errorf("Compare() after the swap = %+v, %v, want none", got, err)
	}
}

// The shards of a cluster cannot be swapped in one step.
func TestCanCorrect(t *testing.T) {
	cfg := clickhouse.DefaultConfig()
	if err := open(t, cfg).CanCorrect(); err != nil {
		t.Errorf("CanCorrect() on one server = %v, want nil", err)
	}
	cfg.Cluster = "main"
	client := open(t, cfg)
	if err := client.CanCorrect(); err == nil {
		t.Error("CanCorrect() on a cluster = nil, want an error")
	}
	if _, err := client.Correct(t.Context(), "a test", time.Minute); err == nil {
		t.Error("Correct() on a cluster = nil, want an error")
	}
}
