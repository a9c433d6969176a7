package spill

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// BenchmarkAppend is what requests that come together pay for being on the disk,
// and how many of them share a sync.
func BenchmarkAppend(b *testing.B) {
	var syncs atomic.Int64
	fs := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync && strings.HasSuffix(op.Path, ".spill") {
			syncs.Add(1)
		}
		return nil
	}))
	cfg := DefaultConfig()
	cfg.Dir, cfg.MaxBytes = b.TempDir(), 64<<30
	s, err := Open(cfg, testDeps(fs, nil))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	record := newRecord(1)
	record.Value = make([]byte, 4<<10)
	b.SetBytes(int64(len(encode(record))))
	b.SetParallelism(128)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Append(b.Context(), record); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/float64(max(syncs.Load(), 1)), "records/sync")
}
