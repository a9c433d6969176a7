package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

// This file replaces rows of events and of its roll-up, a month at a time, so
// that a query of one table and month sees either all of the old rows or all of
// the new ones.
//
// The new rows are staged in a table of their own. For each month an empty shadow
// of events and one of events_hourly are made; a fence is set; the caller makes
// sure that no insert is under way; the shadows are filled; and ALTER TABLE ...
// REPLACE PARTITION swaps them in. No insert may come between filling and
// swapping: the swap would lose it.
//
// A fence expires, so that a holder that died does not stop the loader for ever.
// Whoever finds one expired drops its shadows, and waits until nothing uses them
// (DROP ... SYNC), before it goes on. A holder that was only slow then has nothing
// left to swap in: its ALTER fails. So no clock has to be trusted for correctness;
// the lease only says for how long the loader waits for a dead holder.

// fencesTable is made by schemas/clickhouse/0012_replay_fences.sql.
const fencesTable = "replay_fences"

// ErrFenced means that somebody else holds the fence.
var ErrFenced = errors.New("another replay holds the fence")

type fence struct {
	token, holder string
	expired       bool
}

// fences returns those that are not released.
func (c *Client) fences(ctx context.Context) ([]fence, error) {
	var list []fence
	err := c.Each(ctx, "SELECT token, any(holder), toUInt8(max(expires_at) <= now64(6)) FROM "+c.table(fencesTable)+
		" GROUP BY token HAVING NOT max(released) ORDER BY token", nil, func(row []any) error {
		var f fence
		f.token, _ = row[0].(string)
		f.holder, _ = row[1].(string)
		expired, _ := row[2].(uint8)
		f.expired = expired == 1
		list = append(list, f)
		return nil
	})
	return list, err
}

// Closed reports whether a fence stands, so that no insert into events may begin.
// It takes away those that have expired.
func (c *Client) Closed(ctx context.Context) (bool, error) {
	if c.cfg.Cluster != "" {
		return false, nil // no replay swaps there, see [Client.Correct]
	}
	list, err := c.fences(ctx)
	if err != nil {
		return false, err
	}
	closed := false
	for _, f := range list {
		if !f.expired {
			closed = true
			continue
		}
		if err := c.release(ctx, f); err != nil {
			return false, fmt.Errorf("take away the expired fence of %s: %w", f.holder, err)
		}
	}
	return closed, nil
}

// release takes a fence away. Its shadows go first: what is not there cannot be
// swapped in.
func (c *Client) release(ctx context.Context, f fence) error {
	for _, shadow := range []string{eventsShadow(f.token), hourlyShadow(f.token)} {
		if err := c.Exec(ctx, "DROP TABLE IF EXISTS "+c.table(shadow)+" SYNC"); err != nil {
			return err
		}
	}
	return c.writeFence(ctx, f, 0, true)
}

func (c *Client) writeFence(ctx context.Context, f fence, lease time.Duration, released bool) error {
	return c.Exec(ctx, fmt.Sprintf(
		"INSERT INTO %s SELECT %s, %s, now64(6), now64(6) + toIntervalMillisecond(%d), %t",
		c.table(fencesTable), sqlString(f.token), sqlString(f.holder), lease.Milliseconds(), released))
}

func sqlString(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

const replayPrefix = "replay_"

func eventsShadow(token string) string { return replayPrefix + token + "_events" }
func hourlyShadow(token string) string { return replayPrefix + token + "_hourly" }

// Correction is a set of rows on their way into events.
type Correction struct {
	c      *Client
	token  string
	holder string
	lease  time.Duration
	begun  int // swaps
}

// CanCorrect reports why [Client.Correct] is of no use here.
func (c *Client) CanCorrect() error {
	if c.cfg.Cluster != "" {
		return errors.New("clickhouse: a replay cannot swap partitions of a cluster: " +
			"REPLACE PARTITION swaps that of one shard, and the shards would change one after the other")
	}
	return nil
}

// Correct begins a correction. The holder is for people; the lease is how long
// the loader waits for a holder that died. It drops what corrections of more than
// a day ago left behind.
func (c *Client) Correct(ctx context.Context, holder string, lease time.Duration) (*Correction, error) {
	if err := c.CanCorrect(); err != nil {
		return nil, err
	}
	if err := c.sweep(ctx); err != nil {
		return nil, err
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails, by its documentation
	k := &Correction{c: c, token: hex.EncodeToString(random[:]), holder: holder, lease: lease}
	return k, c.Exec(ctx, "CREATE TABLE "+k.staged()+" AS "+c.table("events"))
}

func (c *Client) sweep(ctx context.Context) error {
	old, err := c.Query(ctx, `SELECT name FROM system.tables WHERE database = {database:String}
AND match(name, '^replay_[0-9a-f]{16}_') AND metadata_modification_time < now() - INTERVAL 1 DAY`,
		map[string]any{"database": c.database})
	if err != nil {
		return err
	}
	for _, row := range old.Rows {
		name, _ := row[0].(string)
		if err := c.Exec(ctx, "DROP TABLE IF EXISTS "+c.table(name)+" SYNC"); err != nil {
			return err
		}
	}
	return nil
}

func (k *Correction) staged() string { return k.c.table(replayPrefix + k.token + "_staged") }

// Close drops the staged rows.
func (k *Correction) Close(ctx context.Context) error {
	return k.c.Exec(ctx, "DROP TABLE IF EXISTS "+k.staged()+" SYNC")
}

// Stage adds rows, and returns how many of them ClickHouse refuses; those are
// left out. No event may be staged twice.
func (k *Correction) Stage(ctx context.Context, rows []event.Event) (refused int, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	err = k.c.insert(ctx, replayPrefix+k.token+"_staged", "", rows)
	if _, row := fault.Reason(err); !row {
		return 0, err
	}
	if len(rows) == 1 {
		return 1, nil
	}
	for _, half := range [][]event.Event{rows[:len(rows)/2], rows[len(rows)/2:]} {
		n, err := k.Stage(ctx, half)
		if err != nil {
			return refused, err
		}
		refused += n
	}
	return refused, nil
}

// Months returns the months (yyyymm of received_at) that staged rows are in.
func (k *Correction) Months(ctx context.Context) ([]int, error) {
	answer, err := k.c.Query(ctx, "SELECT DISTINCT toInt64(toYYYYMM(received_at)) AS m FROM "+k.staged()+" ORDER BY m", nil)
	if err != nil {
		return nil, err
	}
	var months []int
	for _, row := range answer.Rows {
		month, _ := row[0].(int64)
		months = append(months, int(month))
	}
	return months, nil
}

// Difference is what lies between the staged rows of a month and the table.
type Difference struct {
	Staged int64 // rows
	Absent int64 // of them, events that are not in the table at all
	Behind int64 // of them, events that the table has in an earlier revision
	Newer  int64 // rows of the table with a later revision than the staged one
	Rollup int64 // keys whose count in events_hourly is not that of events
}

// Compare compares a month. While rows are inserted, the roll-up may look
// different for a moment.
func (k *Correction) Compare(ctx context.Context, month int) (Difference, error) {
	var d Difference
	q := k.queries(month)
	keys, err := k.rollup(ctx, fmt.Sprintf("(SELECT * FROM %s WHERE %s)", q.live, q.month))
	if err != nil {
		return d, err
	}
	for _, count := range []struct {
		into *int64
		sql  string
	}{
		{&d.Staged, "SELECT toInt64(count()) FROM " + q.staged + " WHERE " + q.month},
		{&d.Absent, "SELECT toInt64(count()) FROM " + q.staged + " WHERE " + q.month + " AND event_id NOT IN (" + q.present + ")"},
		{&d.Behind, "SELECT toInt64(countIf(l.revision < s.revision)) FROM " + q.joined},
		{&d.Newer, "SELECT toInt64(countIf(l.revision > s.revision)) FROM " + q.joined},
		{&d.Rollup, fmt.Sprintf(`SELECT toInt64(count()) FROM (SELECT %[1]s, sum(n) AS total FROM (
SELECT %[1]s, toInt64(events) AS n FROM (%[2]s) UNION ALL
SELECT %[1]s, -toInt64(events) AS n FROM %[3]s WHERE received_month = %[4]d
) GROUP BY %[1]s HAVING total != 0)`, keys.names, keys.query, k.c.table("events_hourly"), month)},
	} {
		if *count.into, err = k.c.count(ctx, count.sql); err != nil {
			return d, err
		}
	}
	return d, nil
}

type queries struct {
	live, staged string // tables
	month        string // condition
	ids          string // staged ids of the month
	present      string // those of them that are in the table
	joined       string // rows of the table l and the staged ones s of the same events
}

func (k *Correction) queries(month int) queries {
	q := queries{live: k.c.table("events"), staged: k.staged(), month: fmt.Sprintf("toYYYYMM(received_at) = %d", month)}
	q.ids = "SELECT event_id FROM " + q.staged + " WHERE " + q.month
	q.present = "SELECT event_id FROM " + q.live + " WHERE " + q.month + " AND event_id IN (" + q.ids + ")"
	q.joined = fmt.Sprintf(`(SELECT event_id, revision FROM %s WHERE %s AND event_id IN (%s)) AS l
INNER JOIN (SELECT event_id, revision FROM %s WHERE %s) AS s ON l.event_id = s.event_id`, q.live, q.month, q.ids, q.staged, q.month)
	return q
}

func (c *Client) count(ctx context.Context, sql string) (int64, error) {
	answer, err := c.Query(ctx, sql, nil)
	if err != nil {
		return 0, err
	}
	if len(answer.Rows) != 1 {
		return 0, fmt.Errorf("clickhouse: query: %d rows, want one", len(answer.Rows))
	}
	n, ok := answer.Rows[0][0].(int64)
	if !ok {
		return 0, fmt.Errorf("clickhouse: query: the answer is a %T, want a number", answer.Rows[0][0])
	}
	return n, nil
}

// rollup is how events_hourly is computed.
type rollup struct {
	names string // its columns but events
	query string // the rows, with all columns
}

var fromEvents = regexp.MustCompile("(?i)\\bFROM\\s+(?:`?[A-Za-z0-9_-]+`?\\.)?`?events`?(?:\\s|$)")

// rollup returns the query of the materialized view over other rows. It is asked
// from the server, so that there is one definition, and a migration can change it.
func (k *Correction) rollup(ctx context.Context, rows string) (rollup, error) {
	params := map[string]any{"database": k.c.database}
	view, err := k.c.Query(ctx, "SELECT as_select FROM system.tables WHERE database = {database:String} AND name = 'events_hourly_mv'", params)
	if err != nil {
		return rollup{}, err
	}
	if len(view.Rows) != 1 {
		return rollup{}, errors.New("clickhouse: events_hourly_mv does not exist: run `mailriver setup`")
	}
	query, _ := view.Rows[0][0].(string)
	if places := fromEvents.FindAllStringIndex(query, -1); len(places) != 1 {
		return rollup{}, fmt.Errorf("clickhouse: the query of events_hourly_mv reads events in %d places, want one: %s", len(places), query)
	}
	query = fromEvents.ReplaceAllLiteralString(query, "FROM "+rows+" ")
	columns, err := k.c.Query(ctx, `SELECT name FROM system.columns
WHERE database = {database:String} AND table = 'events_hourly' AND name != 'events' ORDER BY position`, params)
	if err != nil {
		return rollup{}, err
	}
	var names []string
	for _, row := range columns.Rows {
		name, _ := row[0].(string)
		names = append(names, quote(name))
	}
	return rollup{strings.Join(names, ", "), query}, nil
}

// Swap is the correction of one month. Its steps are Close, Fill, Replace; Release
// ends it, whatever became of the others.
type Swap struct {
	k     *Correction
	month int
	fence fence

	renewing sync.WaitGroup
	stop     context.CancelFunc
}

// Begin makes the shadows of a month, empty. They are made before the fence is
// set and never again: when somebody drops them, the swap is over.
func (k *Correction) Begin(ctx context.Context, month int) (*Swap, error) {
	k.begun++
	s := &Swap{
		k: k, month: month, stop: func() {},
		fence: fence{token: fmt.Sprintf("%s_%d_%d", k.token, month, k.begun), holder: k.holder},
	}
	for shadow, table := range map[string]string{
		eventsShadow(s.fence.token): "events", hourlyShadow(s.fence.token): "events_hourly",
	} {
		if err := k.c.Exec(ctx, "CREATE TABLE "+k.c.table(shadow)+" AS "+k.c.table(table)); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Close sets the fence, and renews it until Release. It fails with ErrFenced when
// somebody else holds one; after Release another swap may be begun then. Inserts may still be under way when it returns; none begins any
// more.
func (s *Swap) Close(ctx context.Context) error {
	c := s.k.c
	if err := s.renew(ctx); err != nil {
		return err
	}
	list, err := c.fences(ctx)
	if err != nil {
		return err
	}
	// Looked at after the own one is set: of two that set theirs at once, at
	// least one sees the other.
	for _, f := range list {
		switch {
		case f.token == s.fence.token:
		case f.expired:
			if err := c.release(ctx, f); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: %s", ErrFenced, f.holder)
		}
	}
	renewing, stop := context.WithCancel(ctx)
	s.stop = stop
	s.renewing.Go(func() {
		tick := time.NewTicker(max(s.k.lease/4, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-renewing.Done():
				return
			case <-tick.C:
				_ = s.renew(renewing) // Replace finds out when the fence is lost
			}
		}
	})
	return nil
}

func (s *Swap) renew(ctx context.Context) error {
	return s.k.c.writeFence(ctx, s.fence, s.k.lease, false)
}

// Fill fills the shadows: rows of the table, with staged ones in the place of
// those of the same event, and the roll-up of both. With absent, staged events
// that are not in the table go in too. The fence must be closed, and no insert
// under way. It returns the rows of the shadow.
func (s *Swap) Fill(ctx context.Context, absent bool) (rows int64, err error) {
	c, q := s.k.c, s.k.queries(s.month)
	shadow := c.table(eventsShadow(s.fence.token))
	kept := q.month + " AND event_id NOT IN (" + q.ids + ")"
	put := q.month
	if !absent {
		put += " AND event_id IN (" + q.present + ")"
	}
	// Day by day, so that no statement takes long.
	days, err := c.Query(ctx, "SELECT DISTINCT toString(toDate(received_at)) AS day FROM "+q.live+" WHERE "+q.month+" ORDER BY day", nil)
	if err != nil {
		return 0, err
	}
	const once = " SETTINGS insert_deduplicate = 0"
	for _, row := range days.Rows {
		day, _ := row[0].(string)
		err := c.Exec(ctx, "INSERT INTO "+shadow+" SELECT * FROM "+q.live+" WHERE "+kept+
			" AND toDate(received_at) = toDate("+sqlString(day)+")"+once)
		if err != nil {
			return 0, err
		}
	}
	if err := c.Exec(ctx, "INSERT INTO "+shadow+" SELECT * FROM "+q.staged+" WHERE "+put+once); err != nil {
		return 0, err
	}
	var want int64
	for _, part := range []string{q.live + " WHERE " + kept, q.staged + " WHERE " + put} {
		n, err := c.count(ctx, "SELECT toInt64(count()) FROM "+part)
		if err != nil {
			return 0, err
		}
		want += n
	}
	if rows, err = c.count(ctx, "SELECT toInt64(count()) FROM "+shadow); err != nil {
		return 0, err
	}
	if rows != want {
		return 0, fmt.Errorf("clickhouse: the shadow of %d holds %d rows, want %d", s.month, rows, want)
	}
	computed, err := s.k.rollup(ctx, shadow)
	if err != nil {
		return 0, err
	}
	return rows, c.Exec(ctx, fmt.Sprintf("INSERT INTO %s (%s, events) SELECT %s, events FROM (%s)%s",
		c.table(hourlyShadow(s.fence.token)), computed.names, computed.names, computed.query, once))
}

// Replace swaps the shadows in. After an error the table of events, that of the
// roll-up or both are as they were: the same correction again brings both to it.
func (s *Swap) Replace(ctx context.Context) error {
	if err := s.renew(ctx); err != nil {
		return err
	}
	for _, swap := range []struct{ table, shadow string }{
		{"events", eventsShadow(s.fence.token)}, {"events_hourly", hourlyShadow(s.fence.token)},
	} {
		err := s.k.c.Exec(ctx, fmt.Sprintf("ALTER TABLE %s REPLACE PARTITION ID '%d' FROM %s",
			s.k.c.table(swap.table), s.month, s.k.c.table(swap.shadow)))
		if answer, ok := errors.AsType[*Error](err); ok && answer.Code == codeUnknownTable {
			return fmt.Errorf("%s of %d: the fence expired and was taken away; run the same again: %w", swap.table, s.month, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Release drops the shadows and takes the fence away.
func (s *Swap) Release(ctx context.Context) error {
	s.stop()
	s.renewing.Wait()
	return s.k.c.release(ctx, s.fence)
}
