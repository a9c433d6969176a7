package clickhouse

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailriver/pkg/event"
)

// This file puts rows back that ClickHouse holds for inserted and does not have.
//
// A MergeTree table with a deduplication window writes the token of a part into
// its log, and renames the part into place after that. A server that is killed
// in between drops the part when it starts, and keeps the token: the repeated
// insert is ignored, and its rows are nowhere. The views behind the table are
// tried by tokens of their own, so the repeated insert has brought them up to
// date; only the table itself lacks the rows, and an insert would count them in
// the views again.
//
// So the rows go into a table of their own, to which no view is attached, and
// its partitions are attached to events, which no view sees either.
//
// Two that restore one range at once, because a process that is believed dead is
// not, must not both attach. Each makes a table of its own, then drops those of
// all others for that range (DROP ... SYNC waits until nothing uses them), and
// only then looks what is missing. Of the two, the one that drops later finds
// what the other has attached, and the other has nothing left to attach. No
// clock is involved; if each drops the table of the other, both fail, and try
// again.

const restorePrefix = "restore_"

// lookUp is how many events are looked for in one query, so that it stays below
// the usual max_query_size of 256 KiB.
const lookUp = 5_000

// Restore adds those of the rows whose events are not in the table, and leaves
// the roll-ups alone. It is for rows that were inserted under the token, when
// the server may have been killed since; they must be committed nowhere else. It
// returns how many were missing. It may be repeated after an error, and then adds
// only what is still missing.
//
// On a cluster it does nothing: there, Keeper takes token and part in one step.
func (c *Client) Restore(ctx context.Context, token string, rows []event.Event) (restored int, err error) {
	if c.cfg.Cluster != "" || len(rows) == 0 {
		return 0, nil
	}
	tables := restoreTables(token)
	absent, err := c.absent(ctx, rows)
	if err != nil {
		return 0, err
	}
	if len(absent) == 0 {
		// A restore that was killed after it was done leaves its table.
		return 0, c.dropRestores(ctx, tables, "")
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails, by its documentation
	own := tables + hex.EncodeToString(random[:])
	if err := c.Exec(ctx, "CREATE TABLE "+c.table(own)+" AS "+c.table("events")); err != nil {
		return 0, err
	}
	if err := c.dropRestores(ctx, tables, own); err != nil {
		return 0, err
	}
	if absent, err = c.absent(ctx, rows); err != nil {
		return 0, err
	}
	if err := c.insert(ctx, own, "", absent); err != nil {
		return 0, err
	}
	for _, month := range months(absent) {
		err := c.Exec(ctx, fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION ID '%d' FROM %s", c.table("events"), month, c.table(own)))
		if err != nil {
			return 0, err
		}
	}
	return len(absent), c.dropRestores(ctx, tables, "")
}

// restoreTables is how the names of the tables begin that restore the rows of a
// token.
func restoreTables(token string) string {
	sum := sha256.Sum256([]byte(token))
	return restorePrefix + hex.EncodeToString(sum[:8]) + "_"
}

// dropRestores drops the tables whose names begin so, but one.
func (c *Client) dropRestores(ctx context.Context, prefix, but string) error {
	list, err := c.Query(ctx, `SELECT name FROM system.tables
WHERE database = {database:String} AND startsWith(name, {prefix:String}) AND name != {but:String}`,
		map[string]any{"database": c.database, "prefix": prefix, "but": but})
	if err != nil {
		return err
	}
	for _, row := range list.Rows {
		name, _ := row[0].(string)
		if err := c.Exec(ctx, "DROP TABLE IF EXISTS "+c.table(name)+" SYNC"); err != nil {
			return err
		}
	}
	return nil
}

// absent returns the rows whose events are not in the table.
func (c *Client) absent(ctx context.Context, rows []event.Event) ([]event.Event, error) {
	var absent []event.Event
	for some := range slices.Chunk(rows, lookUp) {
		present, err := c.present(ctx, some)
		if err != nil {
			return nil, err
		}
		for _, row := range some {
			if !present[row.ID.String()] {
				absent = append(absent, row)
			}
		}
	}
	return absent, nil
}

// present returns which events are in the table. Of what ClickHouse could use to
// find them, only the source and received_at never change, and so bound the
// search: to months, and in them to parts that hold rows of that time.
func (c *Client) present(ctx context.Context, rows []event.Event) (map[string]bool, error) {
	var ids strings.Builder
	var sources []string
	first, last := received(rows[0]), received(rows[0])
	for i, row := range rows {
		if i > 0 {
			ids.WriteByte(',')
		}
		ids.WriteString(row.ID.String()) // hexadecimal digits and hyphens
		if !slices.Contains(sources, row.Source) {
			sources = append(sources, row.Source)
		}
		if at := received(row); at.Before(first) {
			first = at
		} else if at.After(last) {
			last = at
		}
	}
	sql := fmt.Sprintf(`SELECT DISTINCT toString(event_id) FROM %s
WHERE received_at >= fromUnixTimestamp64Micro(%d, 'UTC') AND received_at <= fromUnixTimestamp64Micro(%d, 'UTC')
AND source IN {sources:Array(String)} AND event_id IN (SELECT toUUID(arrayJoin(splitByChar(',', '%s'))))`,
		c.table("events"), first.UnixMicro(), last.UnixMicro(), ids.String())
	present := make(map[string]bool, len(rows))
	err := c.Each(ctx, sql, map[string]any{"sources": sources}, func(row []any) error {
		id, _ := row[0].(string)
		present[id] = true
		return nil
	})
	return present, err
}

// months returns the partitions of the rows, in order.
func months(rows []event.Event) []int {
	var list []int
	for _, row := range rows {
		at := received(row)
		if month := at.Year()*100 + int(at.Month()); !slices.Contains(list, month) {
			list = append(list, month)
		}
	}
	slices.Sort(list)
	return list
}

// received is received_at as the table holds it.
func received(row event.Event) time.Time {
	if row.ReceivedAt.IsZero() {
		return minTime.UTC()
	}
	return row.ReceivedAt.UTC()
}
