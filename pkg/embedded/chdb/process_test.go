package chdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

func kill(t testing.TB, p *Process) {
	t.Helper()
	pid := p.PID()
	if pid == 0 {
		return
	}
	child, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("kill %d: %v", pid, err)
	}
}

func TestFindLibrary(t *testing.T) {
	dir := t.TempDir()
	installed := filepath.Join(dir, ".chdb", "node_modules", "@chdb", "lib-darwin-arm64", "libchdb.dylib")
	if err := os.MkdirAll(filepath.Dir(installed), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(installed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, goos, goarch, given string
		want, wantErr             string
	}{
		{name: "installed", goos: "darwin", goarch: "arm64", want: installed},
		{name: "given", goos: "linux", goarch: "amd64", given: installed, want: installed},
		{name: "given and not there", goos: "linux", goarch: "amd64", given: "/nowhere", wantErr: "at the given path"},
		{name: "linux", goos: "linux", goarch: "amd64", wantErr: "npm install --prefix .chdb @chdb/lib-linux-x64-gnu "},
		{name: "linux on arm", goos: "linux", goarch: "arm64", wantErr: "npm install --prefix .chdb @chdb/lib-linux-arm64-gnu "},
		{name: "macOS on Intel", goos: "darwin", goarch: "amd64", wantErr: "npm install --prefix .chdb @chdb/lib-darwin-x64 "},
		{name: "windows", goos: "windows", goarch: "amd64", wantErr: "there is none for windows/amd64"},
		{name: "linux on riscv", goos: "linux", goarch: "riscv64", wantErr: "there is none for linux/riscv64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := findLibrary(tt.goos, tt.goarch, tt.given, t.TempDir(), dir)
			if got != tt.want || (err == nil) != (tt.wantErr == "") {
				t.Fatalf("findLibrary() = %q, %v, want %q and error %q", got, err, tt.want, tt.wantErr)
			}
			if err != nil && (!errors.Is(err, ErrNoLibrary) || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("findLibrary() = %v, want %v with %q", err, ErrNoLibrary, tt.wantErr)
			}
		})
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(path, 0)
	if err != nil {
		t.Fatalf("Lock() = %v, want nil", err)
	}
	if _, err := Lock(path, 0); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("Lock() again = %v, want %v with the process", err, ErrLocked)
	}
	got := make(chan error, 1)
	go func() {
		second, err := Lock(path, time.Minute)
		if err == nil {
			second()
		}
		got <- err
	}()
	unlock()
	if err := <-got; err != nil {
		t.Errorf("Lock() of one that is being released = %v, want nil", err)
	}
}

func TestStartErrors(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	p, err := Start(t.Context(), Options{Dir: t.TempDir(), Addr: "127.0.0.1:0", Library: "/dev/null", Logger: quiet})
	if err == nil {
		_ = p.Close()
		t.Fatal("Start(not a library) = nil, want an error")
	}
	if !strings.Contains(err.Error(), "open /dev/null") {
		t.Errorf("Start(not a library) = %v, want what the child says", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(canceled, Options{Dir: t.TempDir(), Addr: "127.0.0.1:0", Library: "/dev/null", Logger: quiet}); err == nil {
		t.Error("Start(canceled) = nil, want an error")
	}
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Options{Dir: damaged, Addr: "127.0.0.1:0", Library: libraryPath(t), Logger: quiet}); err == nil {
		t.Error("Start(damaged directory) = nil, want an error")
	}
}

// TestGivenUp takes the library away from a running engine and kills it.
func TestGivenUp(t *testing.T) {
	lib := filepath.Join(t.TempDir(), "libchdb.so")
	if err := os.Symlink(libraryPath(t), lib); err != nil {
		t.Fatal(err)
	}
	wait := defaultPatience()
	wait.first, wait.longest, wait.failures = time.Millisecond, time.Millisecond, 3
	p, err := startProcess(t.Context(), Options{
		Dir: t.TempDir(), Addr: "127.0.0.1:0", Library: lib, MaxMemory: 1 << 30, Logger: slog.New(slog.DiscardHandler),
	}, wait)
	if err != nil {
		t.Fatalf("startProcess() = %v, want nil", err)
	}
	defer func() { _ = p.Close() }()
	if err := p.Err(); err != nil {
		t.Errorf("Err() while it runs = %v, want nil", err)
	}
	if err := os.Remove(lib); err != nil {
		t.Fatal(err)
	}
	kill(t, p)
	<-p.Done()
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "given up after 3 starts") {
		t.Errorf("Err() = %v, want that it was given up", err)
	}
}

func TestCloseEndsQueries(t *testing.T) {
	p := startIn(t, t.TempDir())
	const endless = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))"
	ended := make(chan struct{})
	req := newPost(t, p, endless)
	go func() {
		defer close(ended)
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	eventually(t, "the query runs", func() bool {
		return must(t, p, "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%'") == "2"
	})
	if err := p.Close(); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	<-ended
	if p.PID() != 0 || p.Err() != nil {
		t.Errorf("PID() = %d, Err() = %v after Close, want 0, nil", p.PID(), p.Err())
	}
}

// TestSQL runs what the project's tables and their maintenance need.
func TestSQL(t *testing.T) {
	p := startIn(t, t.TempDir())
	for _, sql := range []string{
		"CREATE DATABASE IF NOT EXISTS mailriver",
		`CREATE TABLE mailriver.events (
			event_id UUID, occurred_at DateTime64(6, 'UTC'), event_type LowCardinality(String),
			metadata Map(LowCardinality(String), String), smtp_code Nullable(UInt16), revision UInt32
		) ENGINE = ReplacingMergeTree(revision) PARTITION BY toYYYYMM(occurred_at) ORDER BY event_id
		TTL toDateTime(occurred_at) + INTERVAL 10 YEAR`,
		"CREATE TABLE mailriver.events_new AS mailriver.events",
		`INSERT INTO mailriver.events VALUES
			('00000000-0000-4000-8000-000000000001', '2026-01-02 03:04:05.678901', 'opened', {'a': 'b'}, NULL, 0),
			('00000000-0000-4000-8000-000000000001', '2026-01-02 03:04:05.678901', 'opened', {'a': 'c'}, 250, 1),
			('00000000-0000-4000-8000-000000000002', '2001-02-02 03:04:05.000000', 'clicked', {}, NULL, 0)`,
		`INSERT INTO mailriver.events_new SELECT * REPLACE ('delivered' AS event_type) FROM mailriver.events`,
		"ALTER TABLE mailriver.events REPLACE PARTITION 202601 FROM mailriver.events_new",
		"EXCHANGE TABLES mailriver.events AND mailriver.events_new",
	} {
		must(t, p, sql)
	}
	tests := []struct{ sql, want string }{
		{
			"SELECT event_type, metadata['a'], smtp_code, occurred_at FROM mailriver.events FINAL ORDER BY event_id",
			"delivered\tc\t250\t2026-01-02 03:04:05.678901",
		}, // and the TTL took the other
		{"SELECT event_type FROM mailriver.events_new FINAL", "delivered"},
		{"SELECT DISTINCT engine FROM system.tables WHERE database = 'mailriver'", "ReplacingMergeTree"},
	}
	for _, tt := range tests {
		if got := must(t, p, tt.sql); got != tt.want {
			t.Errorf("%s = %q, want %q", tt.sql, got, tt.want)
		}
	}
}

// TestExactlyOnce is what the loader relies on: a range that is inserted again
// with its token is counted once, in the table and behind its views, over
// several partitions, and also when the engine is killed at any moment.
func TestExactlyOnce(t *testing.T) {
	p := startIn(t, t.TempDir())
	const window = "SETTINGS non_replicated_deduplication_window = 1000"
	for _, sql := range []string{
		`CREATE TABLE events (n UInt64, at DateTime64(6, 'UTC'), kind LowCardinality(String))
			ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY n ` + window,
		`CREATE TABLE daily (day Date, kind LowCardinality(String), events UInt64)
			ENGINE = SummingMergeTree PARTITION BY toYYYYMM(day) ORDER BY (day, kind) ` + window,
		"CREATE MATERIALIZED VIEW daily_mv TO daily AS SELECT toDate(at) AS day, kind, count() AS events FROM events GROUP BY day, kind",
		`CREATE TABLE uniques (kind LowCardinality(String), n AggregateFunction(uniqExact, UInt64), c AggregateFunction(count))
			ENGINE = AggregatingMergeTree ORDER BY kind ` + window,
		"CREATE MATERIALIZED VIEW uniques_mv TO uniques AS SELECT kind, uniqExactState(n) AS n, countState() AS c FROM events GROUP BY kind",
	} {
		must(t, p, sql)
	}
	const rows = 40
	insert := func(rng int) error {
		ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{
			"insert_deduplication_token":                         fmt.Sprintf("range-%d", rng),
			"deduplicate_blocks_in_dependent_materialized_views": 1,
		}))
		conn, err := clickhouse.Open(&clickhouse.Options{
			Protocol: clickhouse.HTTP, Addr: []string{p.Addr()}, DialTimeout: time.Minute, ReadTimeout: time.Minute,
		})
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		batch, err := conn.PrepareBatch(ctx, "INSERT INTO events")
		if err != nil {
			return err
		}
		for i := range rows {
			at := time.Date(2026, time.Month(1+i%2), 1+i%5, 0, 0, 0, 0, time.UTC) // two partitions
			if err := batch.Append(uint64(rng*rows+i), at, fmt.Sprint("k", i%3)); err != nil {
				return err
			}
		}
		return batch.Send()
	}
	again := func(rng int) {
		eventually(t, "an insert succeeds", func() bool { return insert(rng) == nil })
	}

	const kills = 8
	ranges := 0
	for n := range kills {
		// Some ranges in peace, each sent three times, the last one after a kill.
		for range 3 {
			again(ranges)
			again(ranges)
			ranges++
		}
		kill(t, p)
		again(ranges - 1)

		// And one that the kill may hit anywhere.
		killed := make(chan struct{})
		time.AfterFunc(time.Duration(3*n)*time.Millisecond, func() {
			defer close(killed)
			kill(t, p)
		})
		for ; !closed(killed); ranges++ {
			if insert(ranges) != nil {
				break
			}
		}
		<-killed
		again(ranges)
		ranges++
	}
	want := strconv.Itoa(ranges * rows)
	for _, sql := range []string{
		"SELECT count() FROM events",
		"SELECT uniqExact(n) FROM events",
		"SELECT sum(events) FROM daily",
		"SELECT countMerge(c) FROM uniques",
		"SELECT sum(u) FROM (SELECT uniqExactMerge(n) AS u FROM uniques GROUP BY kind)",
	} {
		if got := must(t, p, sql); got != want {
			t.Errorf("%s = %s, want %s", sql, got, want)
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestWaitsForTheEngine asks while there is no engine: the socket is the
// parent's, so the request waits for the next child.
func TestWaitsForTheEngine(t *testing.T) {
	p := startIn(t, t.TempDir())
	addr := p.Addr()
	kill(t, p)
	eventually(t, "the child is gone", func() bool { return p.PID() == 0 })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := roundTrip(t, req); r.status != http.StatusOK {
		t.Errorf("GET /ping without an engine = %d, want 200 when there is one", r.status)
	}
}
