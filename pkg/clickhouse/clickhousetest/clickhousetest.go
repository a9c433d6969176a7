// Package clickhousetest gives a test a sink for events: one in memory that
// remembers tokens and refuses rows as the table does, or a real ClickHouse with
// the migrations applied. Conform says what both must do, so that the one in
// memory cannot drift from the real one.
package clickhousetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"mailriver/pkg/clickhouse"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/schemas"
)

// Memory is a sink that keeps rows in memory. Its zero value is empty and ready.
type Memory struct {
	mu      sync.Mutex
	tokens  map[string][]event.ID
	rows    []event.Event
	counted int // by the roll-up
	fail    func(op, token string) error
	lax     bool
}

// Relax makes the sink take every row from now on, as a table does whose
// constraints were dropped.
func (m *Memory) Relax() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lax = true
}

// Fail makes f decide the fate of each call before anything else: op is insert,
// restore, probe or ping. A nil f ends that.
func (m *Memory) Fail(f func(op, token string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
}

func (m *Memory) state() (fail func(op, token string) error, lax bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fail, m.lax
}

// Insert keeps the rows unless the token was seen.
func (m *Memory) Insert(ctx context.Context, token string, rows []event.Event) error {
	if err := m.check(ctx, "insert", token, rows); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens == nil {
		m.tokens = make(map[string][]event.ID)
	}
	if _, seen := m.tokens[token]; !seen {
		m.tokens[token] = make([]event.ID, len(rows))
		for i := range rows {
			m.tokens[token][i] = rows[i].ID
		}
		m.rows = append(m.rows, rows...)
		m.counted += len(rows)
	}
	return nil
}

// Restore keeps those of the rows that are not there.
func (m *Memory) Restore(ctx context.Context, token string, rows []event.Event) (restored int, err error) {
	if err := m.check(ctx, "restore", token, rows); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, row := range rows {
		if !slices.ContainsFunc(m.rows, func(have event.Event) bool { return have.ID == row.ID }) {
			m.rows = append(m.rows, row)
			restored++
		}
	}
	return restored, nil
}

// Lose takes the rows of a token away and remembers the token, as ClickHouse may
// when it is killed. The roll-up counts them still, because a repeated insert
// brings it up to date.
func (m *Memory) Lose(token string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = slices.DeleteFunc(m.rows, func(row event.Event) bool { return slices.Contains(m.tokens[token], row.ID) })
}

// Probe reports whether the rows would be taken.
func (m *Memory) Probe(ctx context.Context, rows []event.Event) error {
	return m.check(ctx, "probe", "", rows)
}

// Ping reports whether calls would be answered.
func (m *Memory) Ping(ctx context.Context) error { return m.check(ctx, "ping", "", nil) }

func (m *Memory) check(ctx context.Context, op, token string, rows []event.Event) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fail, lax := m.state()
	if fail != nil {
		if err := fail(op, token); err != nil {
			return err
		}
	}
	if lax {
		return nil
	}
	oldest := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range rows {
		e := &rows[i]
		for column, ok := range map[string]bool{
			"event_id":    !e.ID.IsZero(),
			"event_type":  e.Type != "",
			"occurred_at": !e.OccurredAt.Before(oldest),
			"received_at": !e.ReceivedAt.Before(oldest),
		} {
			if !ok {
				return fault.Permanentf(fault.RowRefused, "VIOLATED_CONSTRAINT: constraint %s_is_set on column %s", column, column)
			}
		}
	}
	return nil
}

// Rows returns a copy of what was inserted.
func (m *Memory) Rows() []event.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]event.Event(nil), m.rows...)
}

// IDs returns how often each event is in the sink.
func (m *Memory) IDs(context.Context) (map[string]int, error) {
	ids := make(map[string]int)
	for _, row := range m.Rows() {
		ids[row.ID.String()]++
	}
	return ids, nil
}

// Counted returns what the roll-up would hold.
func (m *Memory) Counted(context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counted, nil
}

// Database is a migrated database of one test on a real ClickHouse.
type Database struct {
	*clickhouse.Client
	Config clickhouse.Config
}

// Migrations returns the released migrations.
func Migrations(t testing.TB) clickhouse.Migrations {
	t.Helper()
	m, err := clickhouse.ReadMigrations(schemas.ClickHouse)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Empty returns the configuration of a database that does not exist, on the
// server at a URL. What the test makes of it is dropped, unless the test fails.
func Empty(t testing.TB, server string) clickhouse.Config {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	var random [6]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	name := "mailriver_test_" + hex.EncodeToString(random[:])
	u.Path = "/" + name
	config := clickhouse.DefaultConfig()
	config.URL = u.String()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("database %s is kept", name)
			return
		}
		u.Path = "/default" // from within it cannot be dropped
		outside := config
		outside.URL = u.String()
		client, err := clickhouse.Open(outside, "")
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close() //nolint:errcheck // a test ends
		if err := client.Exec(context.Background(), "DROP DATABASE IF EXISTS "+name); err != nil {
			t.Error(err)
		}
	})
	return config
}

// Open returns a migrated database of its own for the test, on the server at a
// URL.
func Open(t testing.TB, server string) *Database {
	t.Helper()
	return At(t, Empty(t, server))
}

// At returns the database of a configuration, migrated.
func At(t testing.TB, config clickhouse.Config) *Database {
	t.Helper()
	client, err := clickhouse.Open(config, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if _, err := client.Migrate(t.Context(), Migrations(t)); err != nil {
		t.Fatal(err)
	}
	return &Database{client, config}
}

// IDs returns how often each event is in the table.
func (d *Database) IDs(ctx context.Context) (map[string]int, error) {
	ids := make(map[string]int)
	err := d.Each(ctx, "SELECT toString(event_id) FROM events", nil, func(row []any) error {
		ids[fmt.Sprint(row[0])]++
		return nil
	})
	return ids, err
}

// Counted returns what the roll-up holds.
func (d *Database) Counted(ctx context.Context) (int, error) {
	answer, err := d.Query(ctx, "SELECT toInt64(sum(events)) FROM events_hourly", nil)
	if err != nil {
		return 0, err
	}
	n, _ := answer.Rows[0][0].(int64)
	return int(n), nil
}

// Parts returns the folders of the parts of a table that a month of received_at
// is in.
func (d *Database) Parts(t testing.TB, table string, month int) []string {
	t.Helper()
	var folders []string
	err := d.Each(t.Context(), `SELECT path FROM system.parts
WHERE active AND database = currentDatabase() AND table = {table:String} AND partition_id = {month:String} ORDER BY name`,
		map[string]any{"table": table, "month": fmt.Sprint(month)}, func(row []any) error {
			folders = append(folders, fmt.Sprint(row[0]))
			return nil
		})
	if err != nil || len(folders) == 0 {
		t.Fatalf("parts of %s in %d = %v, %v, want some", table, month, folders, err)
	}
	return folders
}

// LosePart makes of the folder of a part what a ClickHouse leaves that is killed
// after it has logged the token and before it has the part in place. It must be
// stopped.
func LosePart(t testing.TB, folder string) {
	t.Helper()
	in, part := filepath.Split(filepath.Clean(folder))
	if err := os.Rename(folder, filepath.Join(in, "tmp_insert_"+part)); err != nil {
		t.Fatal(err)
	}
}
