package clickhouse_test

import (
	"fmt"
	"testing"

	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/embedded/embeddedtest"
)

// BenchmarkInsert inserts ranges of the loader's default size.
func BenchmarkInsert(b *testing.B) {
	db := clickhousetest.Open(b, embeddedtest.ClickHouse(b))
	rows := clickhousetest.Rows("a", 50_000)
	n := 0
	for b.Loop() {
		n++
		if err := db.Insert(b.Context(), fmt.Sprint(n), rows); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n*len(rows))/b.Elapsed().Seconds(), "rows/s")
}
