package spill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

const dir = "/data/receiver/one/spill"

// testConfig makes segments of ten records or so.
func testConfig(dir string) Config {
	return Config{Dir: dir, MaxBytes: 1 << 20, SegmentBytes: 2000, RetryWait: time.Millisecond}
}

var start = time.Date(2026, time.November, 24, 12, 0, 0, 0, time.UTC)

// testDeps reports to reader, if there is one.
func testDeps(fs vfs.FS, reader sdkmetric.Reader) Deps {
	var opts []sdkmetric.Option
	if reader != nil {
		opts = append(opts, sdkmetric.WithReader(reader))
	}
	return Deps{
		FS: fs, Meter: sdkmetric.NewMeterProvider(opts...).Meter("test"), Logger: slog.New(slog.DiscardHandler),
		Now: time.Now,
	}
}

func open(t *testing.T, cfg Config, deps Deps) *Store {
	t.Helper()
	s, err := Open(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return s
}

func newRecord(n int) *kgo.Record {
	return &kgo.Record{
		Topic: "email.raw.v1", Key: fmt.Appendf(nil, "key-%06d", n),
		Value:     []byte(strings.Repeat("v", 150)),
		Timestamp: start.Add(time.Duration(n) * time.Millisecond),
		Headers:   []kgo.RecordHeader{{Key: "provider", Value: []byte("ses")}},
	}
}

func fill(t *testing.T, s *Store, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := s.Append(t.Context(), newRecord(n)); err != nil {
			t.Fatalf("Append(%d) = %v", n, err)
		}
	}
}

func keys(from, to int) (list []string) {
	for n := from; n < to; n++ {
		list = append(list, string(newRecord(n).Key))
	}
	return list
}

// inOrder is a Kafka that answers each record before it sees the next.
func inOrder(answer func(*kgo.Record) error) Produce {
	return func(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) { promise(r, answer(r)) }
}

// broker keeps the records that it acknowledged.
type broker struct {
	mu      sync.Mutex
	records []*kgo.Record
	answer  func(*kgo.Record) error // nil takes everything
}

func (b *broker) produce(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
	b.mu.Lock()
	var err error
	if b.answer != nil {
		err = b.answer(r)
	}
	if err == nil {
		b.records = append(b.records, r)
	}
	b.mu.Unlock()
	promise(r, err)
}

func (b *broker) keys() (list []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.records {
		list = append(list, string(r.Key))
	}
	return list
}

func (b *broker) setAnswer(answer func(*kgo.Record) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = answer
}

// drainUntil drains until ok, and waits for the drain to end.
func drainUntil(t *testing.T, s *Store, produce Produce, what string, ok func() bool) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Drain(ctx, produce) }()
	waitFor(t, what, ok)
	stop()
	if err := <-done; err != nil {
		t.Errorf("Drain() = %v", err)
	}
}

func empty(s *Store) func() bool { return func() bool { return s.Depth().Records == 0 } }

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}

func files(t *testing.T, fs vfs.FS, dir, suffix string) (list []string) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, suffix) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

func TestDrain_inOrder(t *testing.T) {
	fs := vfs.NewMem()
	s := open(t, testConfig(dir), testDeps(fs, nil))
	fill(t, s, 0, 100)
	if n := len(files(t, fs, dir, ".spill")); n < 5 {
		t.Fatalf("%d segments, want several", n)
	}
	var b broker
	drainUntil(t, s, b.produce, "the drain", empty(s))
	if got := b.keys(); !slices.Equal(got, keys(0, 100)) {
		t.Errorf("drained %v, want all in order", got)
	}
	for n, got := range b.records {
		want := newRecord(n)
		if got.Topic != want.Topic || string(got.Value) != string(want.Value) ||
			!got.Timestamp.Equal(want.Timestamp) || !reflect.DeepEqual(got.Headers, want.Headers) {
			t.Fatalf("record %d = %+v, want %+v", n, got, want)
		}
	}
	if left := files(t, fs, dir, ".spill"); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
}

// Without the Sync of the file, or that of its folder, in writeActive and
// create, nothing is left after the crash.
func TestAppend_survivesPowerLoss(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, testConfig(dir), testDeps(fs, nil))
	fill(t, s, 0, 25)
	after := open(t, testConfig(dir), testDeps(fs.CrashClone(vfs.CrashCloneCfg{}), nil))
	if d := after.Depth(); d.Records != 25 || !d.Oldest.Equal(start) {
		t.Errorf("Depth() after the crash = %+v, want 25 records since %s", d, start)
	}
	var b broker
	drainUntil(t, after, b.produce, "the drain", empty(after))
	if got := b.keys(); !slices.Equal(got, keys(0, 25)) {
		t.Errorf("after the crash: %v, want %v", got, keys(0, 25))
	}
}

// What was not synced may be on the disk in part. Whatever was acknowledged
// before the power went is there, and nothing that cannot be read stops it.
func TestAppend_tornWrites(t *testing.T) {
	for seed := range uint64(20) {
		fs := vfs.NewCrashableMem()
		s := open(t, testConfig(dir), testDeps(fs, nil))
		var acknowledged atomic.Int64
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for n := range 25 {
					if err := s.Append(t.Context(), newRecord(worker*25+n)); err != nil {
						t.Errorf("Append() = %v", err)
					}
					acknowledged.Add(1)
				}
			})
		}
		waitFor(t, "some records", func() bool { return acknowledged.Load() > int64(seed)*4 })
		sure := acknowledged.Load()
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(seed, 1))})
		wg.Wait()

		after := open(t, testConfig(dir), testDeps(crashed, nil))
		if got := after.Depth().Records; got < sure {
			t.Errorf("seed %d: %d records after the crash, want at least the %d acknowledged", seed, got, sure)
		}
		fill(t, after, 100, 101)
		var b broker
		drainUntil(t, after, b.produce, "the drain", empty(after))
		if got := b.keys(); !slices.Contains(got, "key-000100") || int64(len(got)) <= sure {
			t.Errorf("seed %d: drained %d records, want more than %d", seed, len(got), sure)
		}
	}
}

// All that comes while a sync runs shares the next one.
func TestAppend_sharesSyncs(t *testing.T) {
	const together = 50
	var syncs atomic.Int64
	begun, release := make(chan struct{}), make(chan struct{})
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync && strings.HasSuffix(op.Path, ".spill") && syncs.Add(1) == 1 {
			close(begun)
			<-release
		}
		return nil
	}))
	cfg := testConfig(dir)
	cfg.SegmentBytes = 1 << 20
	s := open(t, cfg, testDeps(fs, nil))
	var wg sync.WaitGroup
	send := func(n int) {
		wg.Go(func() {
			if err := s.Append(t.Context(), newRecord(n)); err != nil {
				t.Errorf("Append() = %v", err)
			}
		})
	}
	send(0)
	select {
	case <-begun:
	case <-time.After(30 * time.Second):
		t.Fatal("the first record was not synced")
	}
	for n := range together {
		send(n + 1)
	}
	waitFor(t, "the others to join", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.pending != nil && len(s.pending.entries) == together
	})
	close(release)
	wg.Wait()
	if got := syncs.Load(); got != 2 {
		t.Errorf("%d syncs for 1 and %d records, want 2", got, together)
	}
}

// A disk that hangs does not hold a request, nor does what waits for it fill the
// memory.
func TestAppend_diskHangs(t *testing.T) {
	release := make(chan struct{})
	var begun sync.Once
	hangs := make(chan struct{})
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync && strings.HasSuffix(op.Path, ".spill") {
			begun.Do(func() { close(hangs) })
			<-release
		}
		return nil
	}))
	cfg := testConfig(dir)
	cfg.MaxBytes = 1 << 30
	s := open(t, cfg, testDeps(fs, nil))
	big := newRecord(0)
	big.Value = make([]byte, maxWriting*2/3)
	ctx, giveUp := context.WithCancel(t.Context())
	go func() { <-hangs; giveUp() }()
	if err := s.Append(ctx, big); !errors.Is(err, context.Canceled) {
		t.Errorf("Append() to a disk that hangs = %v, want the end of the context", err)
	}
	if err := s.Append(t.Context(), big); !errors.Is(err, ErrBehind) {
		t.Errorf("Append() behind it = %v, want %v", err, ErrBehind)
	}
	close(release)
	waitFor(t, "the disk", func() bool { return s.Depth().Records == 1 })
}

func TestAppend_bounded(t *testing.T) {
	fs := vfs.NewMem()
	cfg := testConfig(dir)
	cfg.MaxBytes = 20_000
	s := open(t, cfg, testDeps(fs, nil))
	n, err := 0, error(nil)
	for ; err == nil; n++ {
		err = s.Append(t.Context(), newRecord(n))
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("Append() to a full spill = %v, want %v", err, ErrFull)
	}
	var onDisk int64
	for _, name := range files(t, fs, dir, ".spill") {
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		onDisk += info.Size()
	}
	// Each record has a header of 7 bytes in the file.
	if most := cfg.MaxBytes + int64(n)*7; onDisk > most || onDisk < cfg.MaxBytes/2 {
		t.Errorf("%d bytes on disk, want at most %d and not much less", onDisk, most)
	}
	var b broker
	drainUntil(t, s, b.produce, "the drain", empty(s))
	if got := b.keys(); len(got) != n-1 {
		t.Errorf("drained %d records, want the %d that were taken", len(got), n-1)
	}
	fill(t, s, n, n+1)
}

// A write or a sync that fails is an error and no crash, and what failed is not
// counted. The disk is asked again with the next record, in a new file: the
// state of the old one is not known.
func TestAppend_diskFull(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpCreate} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			var full atomic.Bool
			mem := vfs.NewMem()
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if full.Load() && op.Kind == kind && strings.HasSuffix(op.Path, ".spill") {
					return syscall.ENOSPC
				}
				return nil
			}))
			cfg := testConfig(dir)
			if kind == errorfs.OpCreate {
				cfg.SegmentBytes = 1 // each record needs a file
			}
			reader := sdkmetric.NewManualReader()
			s := open(t, cfg, testDeps(fs, reader))
			fill(t, s, 0, 3)
			before := files(t, mem, dir, ".spill")
			full.Store(true)
			for range 5 {
				if err := s.Append(t.Context(), newRecord(900)); !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("Append() on a full disk = %v, want %v", err, syscall.ENOSPC)
				}
			}
			if got := files(t, mem, dir, ".spill"); !slices.Equal(got, before) {
				t.Errorf("files after failures = %v, want %v as before", got, before)
			}
			full.Store(false)
			fill(t, s, 3, 6)
			if kind != errorfs.OpCreate && len(files(t, mem, dir, ".spill")) == len(before) {
				t.Error("the file whose write failed was written to again")
			}
			if d := s.Depth(); d.Records != 6 {
				t.Errorf("Depth() = %+v, want 6 records", d)
			}
			if got := metricText(t, reader, "mailriver.spill.rejected"); got != "reason=disk:5" {
				t.Errorf("rejected = %s, want reason=disk:5", got)
			}
			var b broker
			drainUntil(t, s, b.produce, "the drain", empty(s))
			if got := b.keys(); !slices.Equal(got, keys(0, 6)) {
				t.Errorf("drained %v, want %v", got, keys(0, 6))
			}
		})
	}
}

func TestAppend_afterClose(t *testing.T) {
	s := open(t, testConfig(dir), testDeps(vfs.NewMem(), nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), newRecord(0)); !errors.Is(err, ErrClosed) {
		t.Errorf("Append() after Close() = %v, want %v", err, ErrClosed)
	}
}

// Kafka acknowledges some records of a segment and fails others. Those are tried
// again, alone, and the file stays until the last is acknowledged.
func TestDrain_deletesOnlyWhatIsAcknowledged(t *testing.T) {
	fs := vfs.NewMem()
	s := open(t, testConfig(dir), testDeps(fs, nil))
	fill(t, s, 0, 5)
	var attempts atomic.Int64
	b := &broker{}
	b.setAnswer(func(r *kgo.Record) error {
		if string(r.Key) == "key-000003" {
			attempts.Add(1)
			return kerr.NotLeaderForPartition
		}
		return nil
	})
	drainUntil(t, s, b.produce, "some attempts", func() bool { return attempts.Load() > 3 })
	if got, want := b.keys(), []string{"key-000000", "key-000001", "key-000002", "key-000004"}; !slices.Equal(got, want) {
		t.Errorf("acknowledged %v, want %v once each", got, want)
	}
	if left := files(t, fs, dir, ".spill"); len(left) != 1 || s.Depth().Records != 5 {
		t.Errorf("%v with %d records is left, want the one segment", left, s.Depth().Records)
	}
	b.setAnswer(nil)
	drainUntil(t, s, b.produce, "the drain", empty(s))
	if got := b.keys(); !slices.Contains(got, "key-000003") {
		t.Errorf("acknowledged %v, key-000003 is missing", got)
	}
}

// A record that Kafka does not take as it is does not hold up the others, and is
// not lost.
func TestDrain_refusedRecords(t *testing.T) {
	for _, total := range []int{1, 30} {
		t.Run(fmt.Sprint(total), func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			reader := sdkmetric.NewManualReader()
			s := open(t, testConfig(dir), testDeps(mem, reader))
			fill(t, s, 0, total)
			b := &broker{answer: func(r *kgo.Record) error {
				if string(r.Key) == "key-000000" {
					return kerr.MessageTooLarge
				}
				return nil
			}}
			drainUntil(t, s, b.produce, "the others", func() bool {
				return s.Depth().Records == 1 && len(b.keys()) == total-1 &&
					metricText(t, reader, "mailriver.spill.refused") != ""
			})
			if got := b.keys(); !slices.Equal(got, keys(1, total)) {
				t.Errorf("acknowledged %v, want all others", got)
			}
			b.setAnswer(nil)
			after := open(t, testConfig(dir), testDeps(mem.CrashClone(vfs.CrashCloneCfg{}), nil))
			if got := after.Depth().Records; got != 1 {
				t.Errorf("%d records after a crash, want the one that was set aside", got)
			}
			drainUntil(t, s, b.produce, "the last one", empty(s))
			if got := b.keys(); got[len(got)-1] != "key-000000" {
				t.Errorf("acknowledged %v, want key-000000 last", got)
			}
		})
	}
}

// TestDrain_killed kills another process with SIGKILL in the middle of a drain,
// and drains what it left.
func TestDrain_killed(t *testing.T) {
	const total = 200
	dir := filepath.Join(t.TempDir(), "receiver", "one")
	s, err := Open(testConfig(dir), testDeps(vfs.Default, nil))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s, 0, total)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := runChild(t, "drain", dir)
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the child ended with %v, want it killed; %s", err, stderr)
	}
	before := strings.Fields(stdout)
	if !slices.Equal(before, keys(0, killAfter)) {
		t.Fatalf("acknowledged before the kill: %v, want the first %d", before, killAfter)
	}

	after := open(t, testConfig(dir), testDeps(vfs.Default, nil))
	var b broker
	drainUntil(t, after, b.produce, "the rest", empty(after))
	rest := b.keys()
	if len(rest) == 0 {
		t.Fatal("nothing was left")
	}
	first := slices.Index(keys(0, total), rest[0])
	if !slices.Equal(rest, keys(first, total)) || first > killAfter {
		t.Errorf("after the kill: %v, want everything from at most %d on, in order", rest, killAfter)
	}
	if perSegment := 12; killAfter-first > perSegment {
		t.Errorf("%d records were produced twice, want those of one segment at most", killAfter-first)
	}
}

func TestOpen_twoProcesses(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir), testDeps(vfs.Default, nil))
	_, stderr, err := runChild(t, "open", dir)
	if err == nil || !strings.Contains(stderr, dir) || !strings.Contains(stderr, ErrInUse.Error()) {
		t.Errorf("Open() in a second process = %v, %q, want it to say that %s is in use", err, stderr, dir)
	}
	if _, err := Open(testConfig(dir), testDeps(vfs.Default, nil)); !errors.Is(err, ErrInUse) {
		t.Errorf("Open() again = %v, want %v", err, ErrInUse)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err := runChild(t, "open", dir); err != nil {
		t.Errorf("Open() after Close() = %v, %s", err, stderr)
	}
}

// A byte of the disk changes. What stands before it in its file is drained, and
// the file kept for a person; the other files are not touched by it.
func TestOpen_damagedSegment(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(testConfig(dir), testDeps(vfs.Default, nil))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s, 0, 60)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	segments := files(t, vfs.Default, dir, ".spill")
	path := filepath.Join(dir, segments[1])
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}

	reader := sdkmetric.NewManualReader()
	after := open(t, testConfig(dir), testDeps(vfs.Default, reader))
	readable := after.Depth().Records
	if readable >= 60 || readable < 40 {
		t.Errorf("%d records can be read, want some of 60", readable)
	}
	var b broker
	drainUntil(t, after, b.produce, "the drain", empty(after))
	got := b.keys()
	if int64(len(got)) != readable || got[0] != "key-000000" || got[len(got)-1] != "key-000059" {
		t.Errorf("drained %v, want the %d that can be read", got, readable)
	}
	if kept := files(t, vfs.Default, dir, ".damaged"); !slices.Equal(kept, []string{segments[1] + ".damaged"}) {
		t.Errorf("kept %v, want %s", kept, segments[1])
	}
	if got := metricText(t, reader, "mailriver.spill.damaged"); got != ":1" {
		t.Errorf("damaged = %s, want 1", got)
	}
	if left := files(t, vfs.Default, dir, ".spill"); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
}

func TestMetrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	deps := testDeps(vfs.NewMem(), reader)
	deps.Now = func() time.Time { return start.Add(time.Minute) }
	s := open(t, testConfig(dir), deps)
	want := func(step string, metrics map[string]string) {
		t.Helper()
		for name, want := range metrics {
			if got := metricText(t, reader, "mailriver.spill."+name); got != want {
				t.Errorf("%s: %s = %q, want %q", step, name, got, want)
			}
		}
	}
	want("empty", map[string]string{"records": ":0", "size": ":0", "oldest_age": ":0", "appended": ""})
	if err := s.Degraded(t.Context()); err != nil {
		t.Errorf("Degraded() when empty = %v, want nil", err)
	}
	fill(t, s, 0, 3)
	size := int64(0)
	for n := range 3 {
		size += int64(len(encode(newRecord(n))))
	}
	want("filled", map[string]string{
		"records": ":3", "size": fmt.Sprint(":", size), "oldest_age": ":60", "appended": ":3", "drained": "",
	})
	wantText := fmt.Sprintf("3 records (%d of 1048576 bytes) wait for Kafka, the oldest for 1m0s", size)
	if err := s.Degraded(t.Context()); err == nil || err.Error() != wantText {
		t.Errorf("Degraded() = %v, want %q", err, wantText)
	}
	var b broker
	drainUntil(t, s, b.produce, "the drain", empty(s))
	want("drained", map[string]string{"records": ":0", "size": ":0", "oldest_age": ":0", "drained": ":3"})
	if err := s.Degraded(t.Context()); err != nil {
		t.Errorf("Degraded() when drained = %v, want nil", err)
	}
}

// metricText returns the points of a metric as "label=value:number", sorted.
func metricText(t *testing.T, reader *sdkmetric.ManualReader, name string) string {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var points []string
	add := func(labels, value any) { points = append(points, fmt.Sprintf("%v:%v", labels, value)) }
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					label := ""
					for _, kv := range p.Attributes.ToSlice() {
						label = string(kv.Key) + "=" + kv.Value.String()
					}
					add(label, p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add("", p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					add("", p.Value)
				}
			}
		}
	}
	slices.Sort(points)
	return strings.Join(points, " ")
}

func TestConfig_Validate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("DefaultConfig().Validate() = %v, want nil", err)
	}
	bad := Config{MaxBytes: -1}
	err := bad.Validate()
	for _, key := range []string{"max_bytes: is -1", "segment_bytes: is 0", "retry_wait: is 0s"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("Validate() = %v, want it to say %q", err, key)
		}
	}
}

func TestOpen_missing(t *testing.T) {
	if _, err := Open(testConfig(dir), Deps{}); err == nil {
		t.Error("Open() without dependencies = nil, want an error")
	}
	if _, err := Open(testConfig(""), testDeps(vfs.NewMem(), nil)); err == nil {
		t.Error("Open() without a folder = nil, want an error")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(newRecord(1)))
	f.Add(encode(&kgo.Record{}))
	f.Add([]byte{version, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(b)
		if err != nil {
			if !isDamage(err) {
				t.Errorf("decode() = %v, want damage", err)
			}
			return
		}
		again, err := decode(encode(r))
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Errorf("decode(encode(%+v)) = %+v, %v", r, again, err)
		}
	})
}
