package chdb

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
)

// open connects the driver as the services do.
func open(t testing.TB, p *Process, method clickhouse.CompressionMethod) driver.Conn {
	t.Helper()
	conn, err := clickhouse.Open(&clickhouse.Options{
		Protocol:    clickhouse.HTTP,
		Addr:        []string{p.Addr()},
		Auth:        clickhouse.Auth{Database: "default", Username: "default"},
		Compression: &clickhouse.Compression{Method: method},
		DialTimeout: time.Minute,
		ReadTimeout: time.Minute,
	})
	if err != nil {
		t.Fatalf("clickhouse.Open() = %v, want nil", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("conn.Close() = %v, want nil", err)
		}
	})
	return conn
}

// TestDriver writes and reads every type that a table of the project has, with
// each way to compress.
func TestDriver(t *testing.T) {
	p := startIn(t, t.TempDir())
	for _, method := range []clickhouse.CompressionMethod{
		clickhouse.CompressionNone, clickhouse.CompressionLZ4, clickhouse.CompressionZSTD, clickhouse.CompressionGZIP,
	} {
		t.Run(method.String(), func(t *testing.T) {
			ctx := t.Context()
			conn := open(t, p, method)
			if err := conn.Ping(ctx); err != nil {
				t.Fatalf("Ping() = %v, want nil", err)
			}
			v, err := conn.ServerVersion()
			if err != nil || v.Version.Major < 24 || v.Timezone.String() != "UTC" {
				t.Errorf("ServerVersion() = %v, %v, want one that is not old, in UTC", v, err)
			}
			if err := conn.Exec(ctx, `CREATE OR REPLACE TABLE types (
				id UUID,
				at DateTime64(6, 'UTC'),
				day Date,
				kind LowCardinality(String),
				maybe LowCardinality(Nullable(String)),
				code Nullable(Int32),
				tags Array(String),
				kinds Array(LowCardinality(String)),
				meta Map(String, String),
				lows Map(LowCardinality(String), UInt64),
				ip Nullable(IPv6),
				flag Bool,
				score Float64,
				money Decimal(18, 4),
				pair Tuple(a UInt8, b String),
				big UInt256,
				fixed FixedString(4),
				level Enum8('low' = 1, 'high' = 2)
			) ENGINE = MergeTree ORDER BY at`); err != nil {
				t.Fatalf("CREATE TABLE = %v, want nil", err)
			}
			at := time.Date(2026, 11, 24, 12, 13, 14, 123456000, time.UTC)
			const rows = 7_000
			batch, err := conn.PrepareBatch(ctx,
				"INSERT INTO types (id, at, kind, maybe, code, tags, kinds, meta, lows, flag, score)")
			if err != nil {
				t.Fatalf("PrepareBatch() = %v, want nil", err)
			}
			text, code := "some", int32(550)
			for i := range rows {
				var maybe *string
				var number *int32
				if i%2 == 1 {
					maybe, number = &text, &code
				}
				if err := batch.Append(
					uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)), at.Add(time.Duration(i)*time.Microsecond), fmt.Sprint("k", i%7),
					maybe, number, []string{"a", "b"}, []string{"x", fmt.Sprint(i % 3)},
					map[string]string{"n": fmt.Sprint(i)}, map[string]uint64{"n": uint64(i)}, i%3 == 0, float64(i)/4,
				); err != nil {
					t.Fatalf("Append() = %v, want nil", err)
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatalf("Send() = %v, want nil", err)
			}

			got, err := conn.Query(ctx, "SELECT id, at, kind, maybe, code, tags, kinds, meta, lows, flag, score FROM types ORDER BY at SETTINGS max_block_size = 1000")
			if err != nil {
				t.Fatalf("Query() = %v, want nil", err)
			}
			defer func() { _ = got.Close() }()
			i := 0
			for ; got.Next(); i++ {
				var (
					id          uuid.UUID
					when        time.Time
					kind        string
					maybe       *string
					number      *int32
					tags, kinds []string
					meta        map[string]string
					lows        map[string]uint64
					flag        bool
					score       float64
				)
				if err := got.Scan(&id, &when, &kind, &maybe, &number, &tags, &kinds, &meta, &lows, &flag, &score); err != nil {
					t.Fatalf("Scan(row %d) = %v, want nil", i, err)
				}
				if id != uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)) || !when.Equal(at.Add(time.Duration(i)*time.Microsecond)) ||
					kind != fmt.Sprint("k", i%7) || (maybe != nil) != (i%2 == 1) || (number != nil) != (i%2 == 1) ||
					!reflect.DeepEqual(tags, []string{"a", "b"}) || !reflect.DeepEqual(kinds, []string{"x", fmt.Sprint(i % 3)}) ||
					meta["n"] != fmt.Sprint(i) || lows["n"] != uint64(i) || flag != (i%3 == 0) || score != float64(i)/4 {
					t.Fatalf("row %d = %v %v %v %v %v %v %v %v %v %v %v", i, id, when, kind, maybe, number, tags, kinds, meta, lows, flag, score)
				}
			}
			if got.Err() != nil || i != rows {
				t.Errorf("read %d rows, %v, want %d, nil", i, got.Err(), rows)
			}

			// The rest of the types, with their defaults, has to come through too.
			var n uint64
			all, err := conn.Query(ctx, "SELECT * FROM types LIMIT 10")
			if err != nil {
				t.Fatalf("Query(*) = %v, want nil", err)
			}
			defer func() { _ = all.Close() }()
			for all.Next() {
				n++
			}
			if all.Err() != nil || n != 10 || len(all.Columns()) != 18 {
				t.Errorf("SELECT * = %d rows of %d columns, %v, want 10 of 18, nil", n, len(all.Columns()), all.Err())
			}
			if err := conn.QueryRow(ctx, "SELECT count() FROM types WHERE kind = {kind:String}", clickhouse.Named("kind", "k1")).Scan(&n); err != nil || n != rows/7 {
				t.Errorf("a query with a parameter = %d, %v, want %d, nil", n, err, rows/7)
			}
			none, err := conn.Query(ctx, "SELECT id FROM types WHERE 0")
			if err != nil {
				t.Fatalf("Query(no rows) = %v, want nil", err)
			}
			if none.Next() || none.Err() != nil {
				t.Errorf("a query without rows has one, or %v", none.Err())
			}
			_ = none.Close()

			err = conn.Exec(ctx, "SELECT * FROM nope")
			if ex, ok := errors.AsType[*clickhouse.Exception](err); !ok || ex.Code != 60 {
				t.Errorf("an unknown table = %v, want exception 60", err)
			}
			broken, err := conn.Query(ctx, "SELECT repeat('x', 100), throwIf(number = 900000) FROM numbers(1000000) SETTINGS max_block_size = 1000")
			if err == nil {
				for broken.Next() {
				}
				err = broken.Err()
				_ = broken.Close()
			}
			if ex, ok := errors.AsType[*clickhouse.Exception](err); !ok || ex.Code != 395 {
				t.Errorf("an error after a part of the answer = %v, want exception 395", err)
			}
		})
	}
}
