package replica

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	metricnoop "go.opentelemetry.io/otel/metric/noop"

	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
)

// address is the prefix of entry i: entries come in a random order of keys, as
// addresses do.
func address(i int) string {
	return fmt.Sprintf("user%016x@example.com", uint64(i)*0x9e3779b97f4a7c15)
}

func benchEntry(i int) (key, value []byte) {
	value = make([]byte, 120) // of which half is not compressible
	for at := 0; at+8 <= 60; at += 8 {
		binary.LittleEndian.PutUint64(value[at:], uint64(i*8+at)*0x9e3779b97f4a7c15)
	}
	return []byte(address(i) + "\x00address"), value
}

// benchCount is how many entries the benchmarks of reads have.
// MAILRIVER_BENCH_ENTRIES says otherwise.
func benchCount(b *testing.B) int {
	text := os.Getenv("MAILRIVER_BENCH_ENTRIES")
	if text == "" {
		return 1_000_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// unfollowed are the collaborators of a copy that is never Run.
func unfollowed() Deps {
	return Deps{
		Map:    func(*kgo.Record) (key, value []byte, err error) { return nil, nil, nil },
		Reader: func(...kgo.Opt) (*kgo.Client, error) { return nil, ErrClosed },
		Admin:  (&kafka.Clients{}).Admin,
		Meter:  metricnoop.Meter{}, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}
}

func filled(b *testing.B, n int, filter bool) *Copy {
	b.Helper()
	dir := b.TempDir()
	cfg := Config{Topic: "bench", Dir: dir, Prefixed: true, Filter: filter}
	deps := unfollowed()
	c, err := Open(cfg, deps)
	if err != nil {
		b.Fatal(err)
	}
	begun := time.Now()
	mapped := make([]entry, 0, perPoll)
	for i := range n {
		key, value := benchEntry(i)
		mapped = append(mapped, entry{key: key, value: value})
		if len(mapped) == cap(mapped) || i == n-1 {
			if _, err := c.store.apply(mapped, map[int32]int64{0: int64(i + 1)}); err != nil {
				b.Fatal(err)
			}
			mapped = mapped[:0]
		}
	}
	wrote := time.Since(begun)
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
	begun = time.Now()
	if c, err = Open(cfg, deps); err != nil {
		b.Fatal(err)
	}
	opened := time.Since(begun)
	begun = time.Now()
	if err := c.store.learn(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d entries: written in %s, opened again in %s, filter %t made in %s, %d MB on disk",
		n, wrote, opened, filter, time.Since(begun), diskBytes(b, dir)>>20)
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
	return c
}

func diskBytes(b *testing.B, dir string) (total int64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return total
}

// BenchmarkLookup asks for 10,000 prefixes, of which one in twenty has an entry.
func BenchmarkLookup(b *testing.B) {
	n := benchCount(b)
	for _, filter := range []bool{false, true} {
		b.Run(fmt.Sprintf("filter %t", filter), func(b *testing.B) { lookups(b, filled(b, n, filter), n) })
	}
}

func lookups(b *testing.B, c *Copy, n int) {
	const asked = 10_000
	for _, one := range []int{20, 1} {
		b.Run(fmt.Sprintf("one in %d present", one), func(b *testing.B) {
			lists := make([][][]byte, 20)
			for round := range lists {
				for i := range asked {
					at := (i*7919 + round*104729) % n
					if i%one != 0 {
						at += n // absent
					}
					lists[round] = append(lists[round], []byte(address(at)))
				}
			}
			round := 0
			for b.Loop() {
				round++
				found := 0
				err := c.Lookup(lists[round%len(lists)], func(int, []byte, []byte) bool { found++; return true })
				if err != nil || found != asked/one {
					b.Fatalf("found %d, %v, want %d", found, err, asked/one)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/10k")
		})
	}
}

// BenchmarkGet asks for one key at a time.
func BenchmarkGet(b *testing.B) {
	n := benchCount(b)
	c := filled(b, n, false) // which Get does not ask
	for _, absent := range []int{0, n} {
		b.Run(fmt.Sprintf("absent %t", absent > 0), func(b *testing.B) {
			keys := make([][]byte, 100_000)
			for i := range keys {
				keys[i], _ = benchEntry((i*7919)%n + absent)
			}
			i := 0
			for b.Loop() {
				i++
				if _, ok, err := c.Get(keys[i%len(keys)]); err != nil || ok != (absent == 0) {
					b.Fatal(ok, err)
				}
			}
		})
	}
}

// BenchmarkRebuild fills an empty copy from a topic of half a million records,
// on the broker of kafkatest, which runs in this process and takes its share. The
// ratio is to a client that polls the same topic and does nothing else.
func BenchmarkRebuild(b *testing.B) {
	const n = 500_000
	cluster := kafkatest.New(b)
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{Topic: cluster.Topics.Dedup}
		records[i].Key, records[i].Value = benchEntry(i)
	}
	for part := range slices.Chunk(records, 100_000) {
		cluster.Produce(b, part...)
	}
	clear(records)

	poll := func() time.Duration {
		client, err := cluster.Clients.Reader(kgo.ConsumeTopics(cluster.Topics.Dedup))
		if err != nil {
			b.Fatal(err)
		}
		defer client.Close()
		begun := time.Now()
		for got := 0; got < n; {
			got += client.PollRecords(context.Background(), perPoll).NumRecords()
		}
		return time.Since(begun)
	}
	build := func() time.Duration {
		var read atomic.Int64
		c, err := Open(Config{Topic: cluster.Topics.Dedup, Dir: b.TempDir(), Prefixed: true}, Deps{
			Map: func(r *kgo.Record) (key, value []byte, err error) {
				read.Add(1)
				return r.Key, r.Value, nil
			},
			Reader: cluster.Clients.Reader, Admin: cluster.Clients.Admin,
			Meter: metricnoop.Meter{}, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		})
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		begun := time.Now()
		go func() { done <- c.Run(ctx) }()
		if err := c.Complete(ctx, []int32{0}); err != nil {
			b.Fatal(err)
		}
		took := time.Since(begun)
		stop()
		if err := <-done; err != nil || read.Load() != n {
			b.Fatalf("Run() = %v after %d records, want %d", err, read.Load(), n)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		return took
	}
	var polled, built time.Duration
	rounds := 0
	for b.Loop() {
		polled += poll()
		built += build()
		rounds++
	}
	b.ReportMetric(float64(n*rounds)/built.Seconds(), "entries/s")
	b.ReportMetric(float64(n*rounds)/polled.Seconds(), "polled/s")
	b.ReportMetric(polled.Seconds()/built.Seconds(), "of_polling")
}
