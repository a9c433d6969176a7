// Package spill keeps Kafka records on disk while Kafka does not take them, and
// gives them to Kafka, oldest first, when it does again.
//
// Guarantee: a record whose Append returned nil is on the disk, synced, and
// stays there until Kafka has acknowledged it; a crash at any point loses none.
// It may be produced more than once: after a crash in the middle of a drain, the
// segment in hand is produced again from its beginning.
//
// It holds one folder of segment files and no client of Kafka: the caller says
// how to produce. It does not decide what goes to the disk and what to Kafka
// directly, does not remove duplicates, and is no queue between processes: a
// folder has one owner.
package spill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/config"
)

// Config bounds the spill.
type Config struct {
	// Dir is the folder of the segments, on a disk that survives a restart. It
	// holds personal data. Empty is a folder in data_dir.
	Dir string `yaml:"dir"`
	// MaxBytes bounds the records on disk. The files are larger by a few bytes
	// for each record.
	MaxBytes int64 `yaml:"max_bytes"`
	// SegmentBytes is the size at which a file is followed by the next one. It
	// bounds what a drain holds in memory and produces twice after a crash.
	SegmentBytes int64 `yaml:"segment_bytes"`
	// RetryWait is between two attempts to drain.
	RetryWait time.Duration `yaml:"retry_wait"`
}

// DefaultConfig returns a configuration that is valid as it stands, without a
// folder.
func DefaultConfig() Config {
	return Config{MaxBytes: 1 << 30, SegmentBytes: 4 << 20, RetryWait: time.Second}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Must(c.SegmentBytes >= 1, "segment_bytes: is %d, must be at least 1", c.SegmentBytes)
	problems.Must(c.MaxBytes >= c.SegmentBytes, "max_bytes: is %d, must be at least segment_bytes (%d)",
		c.MaxBytes, c.SegmentBytes)
	problems.Must(c.RetryWait > 0, "retry_wait: is %s, must be positive", c.RetryWait)
	return problems.Err()
}

// Deps are the store's collaborators. All are required.
type Deps struct {
	FS     vfs.FS // vfs.Default in production
	Meter  metric.Meter
	Logger *slog.Logger
	Now    func() time.Time
}

// Errors of [Store.Append] beside those of the disk.
var (
	ErrFull   = errors.New("spill is full")
	ErrBehind = errors.New("disk does not keep up")
	ErrClosed = errors.New("spill is closed")
)

// maxWriting bounds the bytes in memory that wait for the disk.
const maxWriting = 64 << 20

// ErrInUse is returned by [Open] for a folder that another process has open.
var ErrInUse = errors.New("in use by another process")

// Store is the spill. Its methods may be called at the same time.
type Store struct {
	cfg     Config
	deps    Deps
	lock    io.Closer
	metrics *metrics
	commits sync.WaitGroup

	// write is held while a group goes to the disk. It guards what is written
	// to, and is never taken while mu is held.
	write  sync.Mutex
	active *segment // in segments, too; nil between two files
	file   vfs.File
	log    *record.Writer
	next   uint64

	// mu is never held over a call to the disk.
	mu       sync.Mutex
	closed   bool
	pending  *group
	held     int64 // bytes of segments, and of what is about to be written
	writing  int64 // bytes of what is about to be written
	segments []*segment
	kept     int64         // files with an end that cannot be read, which are for a person
	added    chan struct{} // holds one signal that there is something to drain
}

// group is what shares one fsync: everything that came while the one before was
// written.
type group struct {
	entries []entry
	done    chan struct{}
	err     error // once done is closed
}

// entry is one record on its way to the disk.
type entry struct {
	payload []byte
	at      time.Time
}

// Open opens the folder, which it makes if need be, and reads what it holds.
func Open(cfg Config, deps Deps) (*Store, error) {
	if deps.FS == nil || deps.Meter == nil || deps.Logger == nil || deps.Now == nil {
		return nil, errors.New("spill: a dependency is missing")
	}
	if cfg.Dir == "" {
		return nil, errors.New("spill: dir: is required")
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("spill: %w", err)
	}
	s := &Store{cfg: cfg, deps: deps, next: 1, added: make(chan struct{}, 1)}
	if err := makeDir(deps.FS, cfg.Dir); err != nil {
		return nil, fmt.Errorf("spill: %w", err)
	}
	var err error
	if s.lock, err = deps.FS.Lock(deps.FS.PathJoin(cfg.Dir, "LOCK")); err != nil {
		return nil, fmt.Errorf("spill: folder %s is %w, or cannot be locked: give each process an instance name, "+
			"or a folder, of its own: %w", cfg.Dir, ErrInUse, err)
	}
	if err := s.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("spill: %w", err), s.lock.Close())
	}
	if s.metrics, err = newMetrics(deps.Meter, s); err != nil {
		return nil, errors.Join(fmt.Errorf("spill: metrics: %w", err), s.lock.Close())
	}
	if d := s.Depth(); d.Records > 0 {
		deps.Logger.Warn("the spill holds records of an earlier run", "records", d.Records, "bytes", d.Bytes,
			"oldest", d.Oldest)
		s.signal()
	}
	return s, nil
}

// makeDir makes the folder and those above it, each synced into its parent.
func makeDir(fs vfs.FS, dir string) error {
	var missing []string
	for at := dir; ; at = fs.PathDir(at) {
		if _, err := fs.Stat(at); err == nil {
			break
		}
		if missing = append(missing, at); fs.PathDir(at) == at {
			break
		}
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil { // it will hold personal data
		return err
	}
	for _, made := range slices.Backward(missing) {
		if err := syncDir(fs, fs.PathDir(made)); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// recover finds out what the folder holds.
func (s *Store) recover() error {
	names, err := s.deps.FS.List(s.cfg.Dir)
	if err != nil {
		return err
	}
	slices.Sort(names) // by number, so by age
	for _, name := range names {
		number, ok := segmentNumber(name)
		if !ok {
			continue
		}
		s.next = max(s.next, number+1)
		if !isSegment(name) {
			s.kept++
			continue
		}
		seg := &segment{name: name}
		err := s.scan(name, func(r *kgo.Record, size int64) {
			seg.add(r.Timestamp, size)
		})
		switch {
		case isDamage(err):
			// The usual cause is a crash within a write that was never
			// acknowledged. It cannot be told from damage, so it is kept.
			seg.damaged = true
			s.deps.Logger.Warn("a segment of the spill cannot be read to its end", "file", name,
				"readable", seg.records, "err", err)
		case err != nil:
			return fmt.Errorf("read %s: %w", name, err)
		}
		if seg.records == 0 {
			seg.drained = true
		}
		s.segments = append(s.segments, seg)
		s.held += seg.bytes
	}
	return nil
}

// Append returns nil when the record is on the disk. An error says nothing
// about whether it will be produced. The record is not kept, and must not
// change while Append runs.
func (s *Store) Append(ctx context.Context, r *kgo.Record) error {
	err := s.append(ctx, r)
	s.metrics.countAppend(ctx, err)
	return err
}

func (s *Store) append(ctx context.Context, r *kgo.Record) error {
	e := entry{payload: encode(r), at: r.Timestamp}
	size := int64(len(e.payload))

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	if s.held+size > s.cfg.MaxBytes {
		held := s.held
		s.mu.Unlock()
		return fmt.Errorf("%w: it holds %d bytes of %d", ErrFull, held, s.cfg.MaxBytes)
	}
	if s.writing > 0 && s.writing+size > maxWriting {
		s.mu.Unlock()
		return ErrBehind
	}
	s.held += size
	s.writing += size
	g := s.pending
	if g == nil {
		g = &group{done: make(chan struct{})}
		s.pending = g
		// Not in this goroutine: a disk that hangs must not hold a request
		// beyond its time.
		s.commits.Go(func() { s.commit(g) })
	}
	g.entries = append(g.entries, e)
	s.mu.Unlock()

	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return fmt.Errorf("disk did not answer in time: %w", ctx.Err())
	}
}

// commit writes a group once the one before is on the disk. Until then, others
// join it.
func (s *Store) commit(g *group) {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	s.pending = nil
	s.mu.Unlock()
	g.err = s.writeGroup(g.entries)
	close(g.done)
}

// writeGroup needs write. Whatever fails ends the file: after a failed write or
// sync nobody knows what of it will be on the disk, and asking again could
// succeed without having written anything.
func (s *Store) writeGroup(entries []entry) error {
	err := s.writeActive(entries)
	var size int64
	for _, e := range entries {
		size += int64(len(e.payload))
	}
	s.mu.Lock()
	first := err == nil && s.records() == 0
	s.writing -= size
	if err != nil {
		s.held -= size
	} else {
		for _, e := range entries {
			s.active.add(e.at, int64(len(e.payload)))
		}
	}
	s.mu.Unlock()
	if err != nil {
		s.deps.Logger.Error("the spill cannot be written", "records", len(entries), "err", err)
		return errors.Join(err, s.closeActive())
	}
	if first {
		s.deps.Logger.Warn("records go to the spill", "dir", s.cfg.Dir)
	}
	s.signal()
	if s.active.bytes >= s.cfg.SegmentBytes {
		if err := s.closeActive(); err != nil {
			s.deps.Logger.Error("a segment of the spill cannot be closed", "err", err) // it is synced
		}
	}
	return nil
}

func (s *Store) writeActive(entries []entry) error {
	if s.active == nil {
		if err := s.openActive(); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if _, err := s.log.WriteRecord(e.payload); err != nil {
			return err
		}
	}
	return s.file.Sync()
}

// openActive begins a file. Its entry in the folder is synced before anything
// in it counts.
func (s *Store) openActive() error {
	seg, file, err := s.create()
	if err != nil {
		return err
	}
	s.active, s.file, s.log = seg, file, record.NewWriter(file)
	s.mu.Lock()
	s.segments = append(s.segments, seg)
	s.mu.Unlock()
	return nil
}

// create needs write.
func (s *Store) create() (*segment, vfs.File, error) {
	fs, seg := s.deps.FS, &segment{name: segmentName(s.next)}
	s.next++
	path := fs.PathJoin(s.cfg.Dir, seg.name)
	file, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, nil, err
	}
	if err := syncDir(fs, s.cfg.Dir); err != nil {
		return nil, nil, errors.Join(err, file.Close(), fs.Remove(path))
	}
	return seg, file, nil
}

// closeActive ends the active file; what it holds can be drained. It needs
// write.
func (s *Store) closeActive() error {
	if s.active == nil {
		return nil
	}
	seg, file := s.active, s.file
	s.active, s.file, s.log = nil, nil, nil
	err := file.Close()
	if seg.records > 0 {
		return err
	}
	// Nothing in it counts, and on a full disk every byte does.
	removed := s.remove(seg)
	if removed != nil {
		s.mu.Lock()
		seg.drained = true // whoever drains tries again
		s.mu.Unlock()
	}
	return errors.Join(err, removed)
}

// seal makes sure that nothing is written to a segment any more.
func (s *Store) seal(seg *segment) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.active != seg {
		return nil
	}
	return s.closeActive()
}

// remove forgets a segment that is drained, and deletes its file. A file with
// an end that cannot be read is kept under another name.
func (s *Store) remove(seg *segment) error {
	fs, path := s.deps.FS, s.deps.FS.PathJoin(s.cfg.Dir, seg.name)
	var err error
	if seg.damaged {
		err = fs.Rename(path, path+damagedSuffix)
	} else {
		err = fs.Remove(path)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.segments = slices.DeleteFunc(s.segments, func(other *segment) bool { return other == seg })
	s.held -= seg.bytes
	if seg.damaged {
		s.kept++
	}
	s.mu.Unlock()
	if seg.damaged {
		s.deps.Logger.Error("a damaged segment of the spill is kept for you to look at", "file", path+damagedSuffix)
	}
	// Were this lost, the segment would come back, and be produced twice.
	return syncDir(fs, s.cfg.Dir)
}

// signal says that there may be something to drain.
func (s *Store) signal() {
	select {
	case s.added <- struct{}{}:
	default:
	}
}

// records needs mu.
func (s *Store) records() (n int64) {
	for _, seg := range s.segments {
		n += seg.records
	}
	return n
}

// Depth is what the spill holds.
type Depth struct {
	Records int64
	Bytes   int64
	Oldest  time.Time // zero when it is empty
	// Kept is the number of files that could not be read to their end and were
	// put aside. Their readable part was drained.
	Kept int64
}

// Depth returns what is held. A segment that is being drained counts until all
// of it is acknowledged.
func (s *Store) Depth() Depth {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Depth{Kept: s.kept}
	for _, seg := range s.segments {
		d.Records += seg.records
		d.Bytes += seg.bytes
		if !seg.first.IsZero() && (d.Oldest.IsZero() || seg.first.Before(d.Oldest)) {
			d.Oldest = seg.first
		}
	}
	return d
}

// Degraded returns an error that says what is held, or nil when nothing is.
func (s *Store) Degraded(context.Context) error {
	d := s.Depth()
	if d.Records == 0 {
		return nil
	}
	return fmt.Errorf("%d records (%d of %d bytes) wait for Kafka, the oldest for %s",
		d.Records, d.Bytes, s.cfg.MaxBytes, s.deps.Now().Sub(d.Oldest).Round(time.Second))
}

// Close waits for what is being written. Drain must have returned.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.commits.Wait()
	s.write.Lock()
	defer s.write.Unlock()
	return errors.Join(s.closeActive(), s.metrics.stop(), s.lock.Close())
}
