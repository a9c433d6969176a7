package clickhouse_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailriver/pkg/audit"
	"mailriver/pkg/clickhouse"
	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/embedded/embeddedtest"
	"mailriver/pkg/event"
)

func TestRestore(t *testing.T) {
	server := embeddedtest.ClickHouse(t)
	for name, test := range map[string]func(*testing.T, *clickhousetest.Database){
		"nothing is missing": testRestoreNothing,
		"some are missing":   testRestoreSome,
		"more than one look": testRestoreMany,
		"broken off":         testRestoreBrokenOff,
		"overtaken":          testRestoreOvertaken,
		"at once":            testRestoreAtOnce,
		"beside inserts":     testRestoreBesideInserts,
	} {
		t.Run(name, func(t *testing.T) { test(t, clickhousetest.Open(t, server)) })
	}
}

// inserted puts rows in under the token 1.
func inserted(t *testing.T, db *clickhousetest.Database, rows []event.Event) []event.Event {
	t.Helper()
	if err := db.Insert(t.Context(), "1", rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

// lose takes rows out of events while the log of tokens stays.
func lose(t *testing.T, db *clickhousetest.Database, where string) {
	t.Helper()
	if err := db.Exec(t.Context(), "ALTER TABLE events DELETE WHERE "+where+" SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
}

func restore(t *testing.T, db *clickhousetest.Database, rows []event.Event, want int) {
	t.Helper()
	if restored, err := db.Restore(t.Context(), "1", rows); err != nil || restored != want {
		t.Errorf("Restore() = %d, %v, want %d", restored, err, want)
	}
}

// exact checks that each event is there once, in table and roll-up, and that no
// table is left behind.
func exact(t *testing.T, db *clickhousetest.Database, rows []event.Event) {
	t.Helper()
	ids, err := db.IDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for _, row := range rows {
		if ids[row.ID.String()] != 1 {
			wrong++
		}
	}
	if wrong > 0 || len(ids) != len(rows) {
		t.Errorf("%d of %d events are not there once; the table holds %d", wrong, len(rows), len(ids))
	}
	if counted, err := db.Counted(t.Context()); err != nil || counted != len(rows) {
		t.Errorf("the roll-up counts %d, %v, want %d", counted, err, len(rows))
	}
	if got := value(t, db, "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE 'restore%'"); got != "[]" {
		t.Errorf("tables left behind = %s, want none", got)
	}
}

func testRestoreNothing(t *testing.T, db *clickhousetest.Database) {
	rows := inserted(t, db, months(clickhousetest.Rows("a", 9)))
	restore(t, db, rows, 0)
	exact(t, db, rows)
}

func testRestoreSome(t *testing.T, db *clickhousetest.Database) {
	for name, tt := range map[string]struct {
		where string
		lost  int
	}{
		"a month":           {"toYYYYMM(received_at) = 202611", 6},
		"everything":        {"1", 9},
		"one of each month": {"toString(event_id) IN ('%s', '%s')", 2},
	} {
		t.Run(name, func(t *testing.T) {
			if err := db.Exec(t.Context(), "TRUNCATE TABLE events"); err != nil {
				t.Fatal(err)
			}
			if err := db.Exec(t.Context(), "TRUNCATE TABLE events_hourly"); err != nil {
				t.Fatal(err)
			}
			rows := inserted(t, db, months(clickhousetest.Rows("a", 9)))
			where := tt.where
			if strings.Contains(where, "%s") {
				where = fmt.Sprintf(where, rows[0].ID, rows[1].ID)
			}
			lose(t, db, where)
			restore(t, db, rows, tt.lost)
			restore(t, db, rows, 0)
			exact(t, db, rows)
		})
	}
}

// testRestoreMany restores more rows than one query looks for.
func testRestoreMany(t *testing.T, db *clickhousetest.Database) {
	rows := inserted(t, db, clickhousetest.Rows("a", 12_000))
	lose(t, db, "minute(occurred_at) < 30")
	begun := time.Now()
	restore(t, db, rows, 6_000)
	t.Logf("half of 12,000 rows restored in %s", time.Since(begun))
	begun = time.Now()
	restore(t, db, rows, 0)
	t.Logf("12,000 rows looked for in %s", time.Since(begun))
	exact(t, db, rows)
}

// through returns the database over a wire that loses the answers to some
// requests.
func through(t *testing.T, db *clickhousetest.Database, answered func(request string) bool) *clickhouse.Client {
	t.Helper()
	u, err := url.Parse(db.Config.URL)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: u.Scheme, Host: u.Host})
	wire := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if answered(r.URL.RawQuery + string(body)) {
			forward.ServeHTTP(w, r)
			return
		}
		forward.ServeHTTP(httptest.NewRecorder(), r)
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(wire.Close)
	u.Host = strings.TrimPrefix(wire.URL, "http://")
	cfg := db.Config
	cfg.URL = u.String()
	return open(t, cfg)
}

// testRestoreBrokenOff breaks a restore off behind each of its steps, as when the
// process is killed there, and repeats it. Rows of it must not come twice.
func testRestoreBrokenOff(t *testing.T, db *clickhousetest.Database) {
	rows := inserted(t, db, months(clickhousetest.Rows("a", 9)))
	for steps := int32(1); !t.Failed(); steps++ {
		lose(t, db, "toYYYYMM(received_at) = 202611")
		var n atomic.Int32
		client := through(t, db, func(string) bool { return n.Add(1) < steps })
		_, broken := client.Restore(t.Context(), "1", rows)
		if _, err := db.Restore(t.Context(), "1", rows); err != nil {
			t.Fatal(err)
		}
		exact(t, db, rows)
		if t.Failed() {
			t.Logf("broken off behind request %d", steps)
		}
		if broken == nil {
			if steps < 6 {
				t.Errorf("Restore() took %d requests, want one for each step", steps-1)
			}
			return
		}
	}
}

// testRestoreOvertaken lets another restore of the range do its work between the
// first look and the table. Without the second look, rows come twice.
func testRestoreOvertaken(t *testing.T, db *clickhousetest.Database) {
	rows := inserted(t, db, months(clickhousetest.Rows("a", 9)))
	lose(t, db, "toYYYYMM(received_at) = 202611")
	overtaken := false
	client := through(t, db, func(request string) bool {
		if !overtaken && strings.Contains(request, "CREATE TABLE") {
			overtaken = true
			restore(t, db, rows, 6)
		}
		return true
	})
	if n, err := client.Restore(t.Context(), "1", rows); n != 0 || err != nil || !overtaken {
		t.Errorf("Restore() = %d, %v, overtaken %t, want 0 and true", n, err, overtaken)
	}
	exact(t, db, rows)
}

// testRestoreAtOnce restores one range from several sides, as a process does that
// is believed dead. Without dropping the tables of the others, rows come twice.
func testRestoreAtOnce(t *testing.T, db *clickhousetest.Database) {
	rows := inserted(t, db, months(clickhousetest.Rows("a", 90)))
	for range 5 {
		lose(t, db, "toYYYYMM(received_at) = 202611")
		var all sync.WaitGroup
		var mu sync.Mutex
		total, failed := 0, 0
		for range 4 {
			all.Go(func() {
				restored, err := db.Restore(t.Context(), "1", rows)
				mu.Lock()
				defer mu.Unlock()
				total += restored
				if err != nil {
					failed++
				}
			})
		}
		all.Wait()
		t.Logf("%d rows restored, %d of 4 failed", total, failed)
		if _, err := db.Restore(t.Context(), "1", rows); err != nil { // alone, it does not fail
			t.Fatal(err)
		}
		exact(t, db, rows)
	}
}

// testRestoreBesideInserts restores while others insert into the same month.
func testRestoreBesideInserts(t *testing.T, db *clickhousetest.Database) {
	rows := inserted(t, db, months(clickhousetest.Rows("a", 9)))
	lose(t, db, "toYYYYMM(received_at) = 202611")
	all := append([]event.Event(nil), rows...)
	var others sync.WaitGroup
	for n := range 3 {
		more := months(clickhousetest.Rows(fmt.Sprint("more", n), 200))
		all = append(all, more...)
		others.Go(func() {
			for i := 0; i < len(more); i += 20 {
				if err := db.Insert(t.Context(), fmt.Sprint("more", n, "-", i), more[i:i+20]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	restore(t, db, rows, 6)
	others.Wait()
	exact(t, db, all)
}

// A cluster's tables are not MergeTree, and have no such gap.
func TestRestore_onCluster(t *testing.T) {
	cfg := clickhouse.DefaultConfig()
	cfg.URL, cfg.Cluster = "http://127.0.0.1:1/mailriver", "main" // nobody answers there
	if n, err := open(t, cfg).Restore(t.Context(), "1", clickhousetest.Rows("a", 1)); n != 0 || err != nil {
		t.Errorf("Restore() on a cluster = %d, %v, want nothing done", n, err)
	}
}

// disk is an engine that is stopped and started again on its data.
func disk(t *testing.T, dir string) (*clickhousetest.Database, func()) {
	t.Helper()
	engine := embeddedtest.Engine(t, dir)
	cfg := clickhouse.DefaultConfig()
	cfg.URL = "http://" + engine.Addr() + "/" + clickhouse.DefaultDatabase
	return clickhousetest.At(t, cfg), func() {
		if err := engine.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLostPart is the state that a ClickHouse leaves which is killed between the
// token in its log and the part in its place; it shows what a repeated insert
// makes of it, and what mends it. Without Restore, the rows stay lost.
func TestLostPart(t *testing.T) {
	type state struct {
		db   *clickhousetest.Database
		rows []event.Event
	}
	// lost inserts, loses the part of a table, and inserts again.
	lost := func(t *testing.T, table string, month int) state {
		dir := t.TempDir()
		db, stop := disk(t, dir)
		s := state{rows: inserted(t, db, months(clickhousetest.Rows("a", 9)))}
		parts := db.Parts(t, table, month)
		stop()
		for _, part := range parts {
			clickhousetest.LosePart(t, part)
		}
		s.db, _ = disk(t, dir)
		inserted(t, s.db, s.rows)
		return s
	}
	t.Run("events", func(t *testing.T) {
		for month, n := range map[int]int{202610: 3, 202611: 6} {
			s := lost(t, "events", month)
			if ids, err := s.db.IDs(t.Context()); err != nil || len(ids) != 9-n {
				t.Fatalf("the repeated insert leaves %d events, %v, want %d: is the part lost?", len(ids), err, 9-n)
			}
			restore(t, s.db, s.rows, n)
			exact(t, s.db, s.rows)
			inserted(t, s.db, s.rows) // and after that the token holds as before
			exact(t, s.db, s.rows)
		}
	})
	// What is summed does not tell whose it is, so nothing mends it in passing:
	// audit names it, and a replay of the month computes it anew.
	t.Run("events_hourly", func(t *testing.T) {
		s := lost(t, "events_hourly", month)
		restore(t, s.db, s.rows, 0)
		books := audit.ClickHouse{Client: s.db.Client}
		day := time.Date(2026, 11, 3, 0, 0, 0, 0, time.UTC)
		found, err := books.Rollups(t.Context(), day.AddDate(0, -1, 0), day)
		want := audit.Rollup{Month: month, Source: "shop", EventType: string(event.Delivered), Events: 6}
		if err != nil || len(found) != 1 || found[0] != want {
			t.Fatalf("Rollups() = %+v, %v, want %+v", found, err, want)
		}
		swap(t, begin(t, correct(t, s.db, time.Minute, s.rows...)), true)
		exact(t, s.db, s.rows)
		if found, err = books.Rollups(t.Context(), day.AddDate(0, -1, 0), day); err != nil || len(found) != 0 {
			t.Errorf("Rollups() after the replay = %+v, %v, want none", found, err)
		}
	})
}
