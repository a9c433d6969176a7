package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailriver/pkg/clickhouse"
	"mailriver/pkg/event"
)

// ClickHouse is the [Warehouse] of a database.
type ClickHouse struct{ Client *clickhouse.Client }

// halfSQL is the first half of event_id as a number, as half computes it.
const halfSQL = "reinterpretAsUInt64(reverse(substring(UUIDToNum(event_id), 1, 8)))"

// where selects the rows of a query. What it writes into SQL are numbers.
func (q Query) where() string {
	var ranges []string
	if len(q.Windows) == 0 {
		for p, from := range q.Span.From {
			if to := q.Span.To[p]; to > from {
				ranges = append(ranges, fmt.Sprintf("(raw_partition = %d AND raw_offset >= %d AND raw_offset < %d)", p, from, to))
			}
		}
	}
	for _, w := range q.Windows {
		p, first := int32(w[0]), w[1]*q.Size
		from, to := max(first, q.Span.From[p]), min(first+q.Size, q.Span.To[p])
		ranges = append(ranges, fmt.Sprintf("(raw_partition = %d AND raw_offset >= %d AND raw_offset < %d)", p, from, to))
	}
	if len(ranges) == 0 {
		ranges = []string{"0"}
	}
	slices.Sort(ranges)
	conditions := []string{
		"raw_topic = {topic:String}",
		fmt.Sprintf("received_at >= fromUnixTimestamp64Micro(%d, 'UTC')", q.From.UnixMicro()),
		fmt.Sprintf("received_at <= fromUnixTimestamp64Micro(%d, 'UTC')", q.To.UnixMicro()),
		"(" + strings.Join(ranges, " OR ") + ")",
	}
	if q.Of > 1 {
		conditions = append(conditions, fmt.Sprintf("%s %% %d = %d", halfSQL, q.Of, q.Part))
	}
	return strings.Join(conditions, " AND ")
}

// Sums implements [Warehouse].
func (c ClickHouse) Sums(ctx context.Context, q Query) ([]Sum, error) {
	sql := fmt.Sprintf(`SELECT toInt32(raw_partition), toInt64(intDiv(raw_offset, %d)) AS window, toUInt64(count()),
sum(%s + toUInt64(toUInt32(revision)) * toUInt64(%d))
FROM events WHERE %s GROUP BY raw_partition, window`, q.Size, halfSQL, uint64(revisionFactor), q.where())
	var sums []Sum
	err := c.Client.Each(ctx, sql, map[string]any{"topic": q.Span.Topic}, func(row []any) error {
		var s Sum
		if err := scan(row, &s.Partition, &s.Window, &s.Count, &s.Hash); err != nil {
			return err
		}
		sums = append(sums, s)
		return nil
	})
	return sums, err
}

const rowColumns = "toString(event_id), toInt32(raw_partition), toInt64(raw_offset), toUInt64(count()), toInt32(max(revision))"

// Rows implements [Warehouse].
func (c ClickHouse) Rows(ctx context.Context, q Query, each func(Row) error) error {
	sql := "SELECT " + rowColumns + " FROM events WHERE " + q.where() + " GROUP BY event_id, raw_partition, raw_offset"
	return c.rows(ctx, sql, map[string]any{"topic": q.Span.Topic}, each)
}

// Find implements [Warehouse].
func (c ClickHouse) Find(ctx context.Context, ids []event.ID) (rows []Row, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = "'" + id.String() + "'" // hexadecimal digits and hyphens
	}
	sql := "SELECT " + rowColumns + " FROM events WHERE event_id IN (" + strings.Join(list, ",") +
		") GROUP BY event_id, raw_partition, raw_offset"
	err = c.rows(ctx, sql, nil, func(row Row) error {
		rows = append(rows, row)
		return nil
	})
	return rows, err
}

func (c ClickHouse) rows(ctx context.Context, sql string, params map[string]any, each func(Row) error) error {
	return c.Client.Each(ctx, sql, params, func(cells []any) error {
		var row Row
		var id string
		if err := scan(cells, &id, &row.Partition, &row.Offset, &row.Count, &row.Revision); err != nil {
			return err
		}
		var err error
		if row.ID, err = event.ParseID(id); err != nil {
			return err
		}
		return each(row)
	})
}

// Rollups implements [Warehouse].
func (c ClickHouse) Rollups(ctx context.Context, from, to time.Time) ([]Rollup, error) {
	month := func(t time.Time) int { return t.UTC().Year()*100 + int(t.UTC().Month()) }
	first := time.Date(from.UTC().Year(), from.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	behind := time.Date(to.UTC().Year(), to.UTC().Month()+1, 1, 0, 0, 0, 0, time.UTC)
	sql := fmt.Sprintf(`SELECT toUInt32(month), toString(source) AS source, toString(event_type) AS event_type,
toInt64(sum(single)) AS singles, toInt64(sum(hourly)) AS hours
FROM (
SELECT toYYYYMM(received_at) AS month, source, event_type, count() AS single, 0 AS hourly FROM events
WHERE received_at >= fromUnixTimestamp64Micro(%d, 'UTC') AND received_at < fromUnixTimestamp64Micro(%d, 'UTC')
GROUP BY month, source, event_type
UNION ALL
SELECT received_month AS month, source, event_type, 0 AS single, sum(events) AS hourly FROM events_hourly
WHERE received_month >= %d AND received_month <= %d GROUP BY month, source, event_type
) GROUP BY month, source, event_type HAVING singles != hours ORDER BY month, source, event_type`,
		first.UnixMicro(), behind.UnixMicro(), month(from), month(to))
	var differing []Rollup
	err := c.Client.Each(ctx, sql, nil, func(cells []any) error {
		var u Rollup
		if err := scan(cells, &u.Month, &u.Source, &u.EventType, &u.Events, &u.Hourly); err != nil {
			return err
		}
		differing = append(differing, u)
		return nil
	})
	return differing, err
}

// scan copies cells, whose types the SQL above casts.
func scan(cells []any, targets ...any) error {
	if len(cells) != len(targets) {
		return fmt.Errorf("audit: %d columns, want %d", len(cells), len(targets))
	}
	for i, target := range targets {
		ok := false
		switch t := target.(type) {
		case *int32:
			*t, ok = cells[i].(int32)
		case *int64:
			*t, ok = cells[i].(int64)
		case *uint32:
			*t, ok = cells[i].(uint32)
		case *uint64:
			*t, ok = cells[i].(uint64)
		case *string:
			*t, ok = cells[i].(string)
		}
		if !ok {
			return fmt.Errorf("audit: column %d is a %T, not what was asked for", i+1, cells[i])
		}
	}
	return nil
}
