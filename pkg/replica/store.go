package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// store is the copy on disk: entries, and in the same batches how far the topic
// has been read.
//
// Writes are not synced. What a power failure takes is the newest part of the
// write-ahead log, entries and positions together, and is read again.
type store struct {
	db *pebble.DB

	// Reads hold life shared, so that close waits for them.
	life   sync.RWMutex
	closed bool

	// writing is held by a batch of the topic, and by a sweep from its look at
	// an entry to its deletion: the topic may bring a newer one between them.
	writing sync.Mutex

	filter atomic.Pointer[filter] // nil: all look-ups ask Pebble
}

// Keys of the store: entries behind 'e', positions by partition behind 'p', and
// one key each for what the copy is of and when it was true.
const (
	spaceEntry    = 'e'
	spacePosition = 'p'
	keyIdentity   = "i" // topic and format
	keyTopicID    = "t"
	keyBegun      = "b" // when the copy began at the start of the topic
	keyAsOf       = "a"
)

// ErrClosed is returned by reads after Close.
var ErrClosed = errors.New("replica: closed")

// storeError is a failure of the local store: not Kafka's, and not waited out.
type storeError struct{ err error }

func (e *storeError) Error() string { return "replica store: " + e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

func storeFailure(err error) error {
	if err == nil {
		return nil
	}
	return &storeError{err}
}

func openStore(cfg Config, log *slog.Logger) (*store, error) {
	cache := pebble.NewCache(cfg.CacheBytes)
	defer cache.Unref()
	options := &pebble.Options{
		Cache:        cache,
		MemTableSize: uint64(cfg.MemTableBytes),
		Logger:       pebbleLog{log},
	}
	if cfg.Prefixed {
		options.Comparer = prefixComparer()
	}
	// Most look-ups are for what is not there.
	for i := range options.Levels {
		options.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(cfg.Dir, options)
	if err != nil {
		return nil, fmt.Errorf("replica store %s: %w (it is a cache: another process may hold it, or delete the folder)",
			cfg.Dir, err)
	}
	s := &store{db: db}
	if cfg.Filter {
		s.filter.Store(newFilter(cfg.Prefixed))
	}
	if err := s.identify(cfg.Topic + "\n" + cfg.Format); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// identify empties a store that is a copy of something else.
func (s *store) identify(identity string) error {
	is, ok, err := s.value([]byte(keyIdentity))
	if err != nil || ok && string(is) == identity {
		return err
	}
	batch := s.db.NewBatch()
	defer func() { _ = batch.Close() }() // in memory only
	err = batch.DeleteRange([]byte{0}, []byte{0xff}, nil)
	if err == nil {
		err = batch.Set([]byte(keyIdentity), []byte(identity), nil)
	}
	if err == nil {
		err = batch.Commit(pebble.NoSync)
	}
	return storeFailure(err)
}

// prefixComparer orders bytes as they are, and tells Pebble that what comes
// before the first zero byte is the prefix of a key.
func prefixComparer() *pebble.Comparer {
	c := *pebble.DefaultComparer
	c.Name = "mailriver.replica.prefix"
	c.Split = func(key []byte) int {
		if i := bytes.IndexByte(key, 0); i >= 0 {
			return i
		}
		return len(key)
	}
	// No prefix holds a zero byte, so the next one ends with a 1.
	c.ImmediateSuccessor = func(dst, a []byte) []byte { return append(append(dst, a...), 1) }
	return &c
}

func (s *store) close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.db.Close()
}

// state is what the store says about itself.
type state struct {
	id          kadm.TopicID
	begun, asOf time.Time
}

func (s *store) state() (state, error) {
	var st state
	id, _, err := s.value([]byte(keyTopicID))
	if err != nil {
		return st, err
	}
	copy(st.id[:], id)
	if st.begun, err = s.moment(keyBegun); err != nil {
		return st, err
	}
	st.asOf, err = s.moment(keyAsOf)
	return st, err
}

func (s *store) moment(key string) (time.Time, error) {
	value, ok, err := s.value([]byte(key))
	if err != nil || !ok {
		return time.Time{}, err
	}
	return time.UnixMicro(int64(binary.BigEndian.Uint64(value))).UTC(), nil
}

func momentValue(at time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(at.UnixMicro()))
}

func (s *store) setAsOf(at time.Time) error {
	return storeFailure(s.db.Set([]byte(keyAsOf), momentValue(at), pebble.NoSync))
}

func (s *store) positions() (map[int32]int64, error) {
	positions := map[int32]int64{}
	err := s.scan([]byte{spacePosition}, []byte{spacePosition + 1}, func(key, value []byte) bool {
		positions[int32(binary.BigEndian.Uint32(key[1:]))] = int64(binary.BigEndian.Uint64(value))
		return true
	})
	return positions, err
}

// discard deletes all entries and positions. The store is then of the topic with
// the id, begun now.
func (s *store) discard(id kadm.TopicID, now time.Time) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	batch := s.db.NewBatch()
	defer func() { _ = batch.Close() }() // in memory only
	err := batch.DeleteRange([]byte{spaceEntry}, []byte{spaceEntry + 1}, nil)
	if err == nil {
		err = batch.DeleteRange([]byte{spacePosition}, []byte{spacePosition + 1}, nil)
	}
	if err == nil {
		err = batch.Delete([]byte(keyAsOf), nil)
	}
	if err == nil {
		err = batch.Set([]byte(keyTopicID), id[:], nil)
	}
	if err == nil {
		err = batch.Set([]byte(keyBegun), momentValue(now), nil)
	}
	if err == nil {
		err = batch.Commit(pebble.NoSync)
	}
	if full := s.filter.Load(); full != nil && err == nil {
		empty := newFilter(full.prefixed)
		empty.complete.Store(true)
		s.filter.Store(empty)
	}
	return storeFailure(err)
}

// learn completes the filter of a store that was opened with entries. Those that
// are applied meanwhile are added by apply.
func (s *store) learn(ctx context.Context) error {
	f := s.filter.Load()
	if f == nil || f.complete.Load() {
		return nil
	}
	err := s.scan([]byte{spaceEntry}, []byte{spaceEntry + 1}, func(key, _ []byte) bool {
		f.add(key[1:])
		return ctx.Err() == nil
	})
	if err == nil && ctx.Err() == nil {
		f.complete.Store(true)
	}
	return err
}

// entry is what Map made of a record. An empty key is nothing.
type entry struct {
	key, value []byte
	err        error
}

// perTask is how many records one processor maps before it looks for more.
const perTask = 256

// mapAll works on all processors. The results stand in the order of the records.
func mapAll(f func(*kgo.Record) (key, value []byte, err error), records []*kgo.Record) []entry {
	mapped := make([]entry, len(records))
	var next atomic.Int64
	var wg sync.WaitGroup
	work := func() {
		for {
			from := int(next.Add(perTask)) - perTask
			if from >= len(records) {
				return
			}
			for i := from; i < min(from+perTask, len(records)); i++ {
				if records[i].Attrs.IsControl() {
					continue
				}
				e := &mapped[i]
				if e.key, e.value, e.err = f(records[i]); e.err != nil {
					e.key = nil
				}
			}
		}
	}
	for range min(runtime.GOMAXPROCS(0), (len(records)+perTask-1)/perTask) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	return mapped
}

// apply stores entries in their order and the positions behind them in one
// batch. It returns how many entries there were.
func (s *store) apply(mapped []entry, positions map[int32]int64) (applied int, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	size := 0
	for i := range mapped {
		size += len(mapped[i].key) + len(mapped[i].value) + 16
	}
	batch := s.db.NewBatchWithSize(size)
	defer func() { _ = batch.Close() }() // in memory only
	filter := s.filter.Load()
	for i := range mapped {
		e := &mapped[i]
		switch {
		case len(e.key) == 0:
			continue
		case e.value == nil:
			op := batch.DeleteDeferred(len(e.key) + 1)
			putKey(op.Key, e.key)
			err = op.Finish()
		default:
			op := batch.SetDeferred(len(e.key)+1, len(e.value))
			putKey(op.Key, e.key)
			copy(op.Value, e.value)
			err = op.Finish()
			filter.add(e.key) // before the batch can be read
		}
		if err != nil {
			return 0, &storeError{err}
		}
		applied++
	}
	for partition, offset := range positions {
		key := binary.BigEndian.AppendUint32([]byte{spacePosition}, uint32(partition))
		value := binary.BigEndian.AppendUint64(nil, uint64(offset))
		if err := batch.Set(key, value, nil); err != nil {
			return 0, &storeError{err}
		}
	}
	return applied, storeFailure(batch.Commit(pebble.NoSync))
}

func putKey(dst, key []byte) {
	dst[0] = spaceEntry
	copy(dst[1:], key)
}

func entryKey(key []byte) []byte {
	full := make([]byte, len(key)+1)
	putKey(full, key)
	return full
}

// value returns a copy of the value of a key of the store.
func (s *store) value(key []byte) (value []byte, ok bool, err error) {
	s.life.RLock()
	defer s.life.RUnlock()
	if s.closed {
		return nil, false, ErrClosed
	}
	found, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, &storeError{err}
	}
	value = append([]byte{}, found...)
	return value, true, storeFailure(closer.Close())
}

// scan calls yield with the keys of the store in [from, to) until it returns
// false.
func (s *store) scan(from, to []byte, yield func(key, value []byte) bool) error {
	return s.read(&pebble.IterOptions{LowerBound: from, UpperBound: to}, func(iter *pebble.Iterator) {
		for valid := iter.First(); valid && yield(iter.Key(), iter.Value()); valid = iter.Next() {
		}
	})
}

// alive returns ErrClosed after close.
func (s *store) alive() error {
	s.life.RLock()
	defer s.life.RUnlock()
	if s.closed {
		return ErrClosed
	}
	return nil
}

// read gives an iterator to use, and returns its errors.
func (s *store) read(options *pebble.IterOptions, use func(*pebble.Iterator)) (err error) {
	s.life.RLock()
	defer s.life.RUnlock()
	if s.closed {
		return ErrClosed
	}
	iter, err := s.db.NewIter(options)
	if err != nil {
		return &storeError{err}
	}
	use(iter)
	return storeFailure(iter.Close()) // its own errors too
}

// seeking are the options of look-ups, most of which are for what is not there:
// by default Pebble reads the lowest level, which holds nearly everything,
// without its filters. Its Get always does.
func seeking() *pebble.IterOptions {
	return &pebble.IterOptions{
		LowerBound: []byte{spaceEntry}, UpperBound: []byte{spaceEntry + 1},
		UseL6Filters: true,
	}
}

// Get returns a copy of the value of a key.
func (c *Copy) Get(key []byte) (value []byte, ok bool, err error) {
	full := entryKey(key)
	err = c.store.read(seeking(), func(iter *pebble.Iterator) {
		if ok = iter.SeekPrefixGE(full) && bytes.Equal(iter.Key(), full); ok {
			value = append([]byte{}, iter.Value()...)
		}
	})
	return value, ok && err == nil, err
}

// Scan calls yield with the entries whose keys are in [from, to), in order,
// until it returns false. An empty bound is none. The slices are yield's until
// it returns; it must not call the copy.
func (c *Copy) Scan(from, to []byte, yield func(key, value []byte) bool) error {
	upper := []byte{spaceEntry + 1}
	if len(to) > 0 {
		upper = entryKey(to)
	}
	return c.store.scan(entryKey(from), upper, func(key, value []byte) bool { return yield(key[1:], value) })
}

// Filtered reports that look-ups of most absent prefixes are answered from
// memory: see Filter of [Config].
func (c *Copy) Filtered() bool {
	f := c.store.filter.Load()
	return f != nil && f.complete.Load()
}

// Lookup calls yield with every entry that has one of the given prefixes, which
// is all before the zero byte, and with the prefix's index. A copy that is not
// Prefixed is looked up by whole keys. The order is that of the keys. The slices
// are yield's until it returns; it must not call the copy.
//
// One iterator serves all prefixes, and filters answer for most of those that
// have no entries.
func (c *Copy) Lookup(prefixes [][]byte, yield func(i int, key, value []byte) bool) error {
	filter := c.store.filter.Load()
	var order []int
	for i, prefix := range prefixes {
		if c.cfg.Prefixed && bytes.IndexByte(prefix, 0) >= 0 {
			continue // no prefix; the part before the zero byte is another one
		}
		if !filter.absent(prefix) {
			order = append(order, i)
		}
	}
	if len(order) == 0 {
		return c.store.alive()
	}
	// An iterator that is sent forward starts where it stands.
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(prefixes[a], prefixes[b]) })
	return c.store.read(seeking(), func(iter *pebble.Iterator) {
		key := []byte{spaceEntry}
		for _, i := range order {
			key = append(key[:1], prefixes[i]...)
			for valid := iter.SeekPrefixGE(key); valid; valid = iter.Next() {
				if !yield(i, iter.Key()[1:], iter.Value()) {
					return
				}
			}
			if iter.Error() != nil {
				return // read reports it
			}
		}
	})
}

// perSweep is after how many entries a sweep lets the topic's batches through.
const perSweep = 50_000

// Sweep deletes from the copy, not from the topic, the entries that expired says
// yes to, and returns how many. It is for copies whose topic forgets by age: a
// copy that is made again may hold such entries again.
func (c *Copy) Sweep(expired func(key, value []byte) bool) (deleted int, err error) {
	from := []byte{spaceEntry}
	for from != nil {
		var n int
		if n, from, err = c.store.sweep(from, expired); err != nil {
			return deleted, err
		}
		deleted += n
	}
	return deleted, nil
}

// sweep does a part and returns where the next one begins, nil after the last.
func (s *store) sweep(from []byte, expired func(key, value []byte) bool) (deleted int, next []byte, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.life.RLock()
	defer s.life.RUnlock()
	if s.closed {
		return 0, nil, ErrClosed
	}
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{spaceEntry + 1}})
	if err != nil {
		return 0, nil, &storeError{err}
	}
	defer func() { err = errors.Join(err, storeFailure(iter.Close())) }()
	batch := s.db.NewBatch()
	defer func() { _ = batch.Close() }() // in memory only
	seen := 0
	for valid := iter.First(); valid; valid = iter.Next() {
		if seen++; seen > perSweep {
			next = bytes.Clone(iter.Key())
			break
		}
		if !expired(iter.Key()[1:], iter.Value()) {
			continue
		}
		if err := batch.Delete(iter.Key(), nil); err != nil {
			return 0, nil, &storeError{err}
		}
		deleted++
	}
	return deleted, next, storeFailure(batch.Commit(pebble.NoSync))
}

// pebbleLog passes on what an operator may have to know.
type pebbleLog struct{ log *slog.Logger }

func (l pebbleLog) Infof(string, ...any) {}
func (l pebbleLog) Errorf(format string, args ...any) {
	l.log.Error("replica store", "err", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Fatalf(format string, args ...any) {
	// Pebble calls it for corruption or a full disk. The contract of its
	// Logger is that Fatalf does not return.
	l.log.Error("replica store", "err", fmt.Sprintf(format, args...))
	panic("replica store: " + fmt.Sprintf(format, args...))
}
