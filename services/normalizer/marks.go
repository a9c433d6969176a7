package normalizer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"mailriver/pkg/event"
)

// marks is the local copy of the dedup topic: which events were published, and
// how far the topic has been read. It can be deleted at any time; the topic
// fills it again.
//
// Writes are not synced. What a power failure takes is the newest part of the
// write-ahead log, marks and read positions together, and is read again.
type marks struct {
	db *pebble.DB
}

// Keys: 'e' + event id -> Unix seconds of the request; 'p' + partition ->
// offset of the dedup topic to read next.
const (
	prefixEvent    = 'e'
	prefixPosition = 'p'
)

func openMarks(dir string, log *slog.Logger) (*marks, error) {
	cache := pebble.NewCache(64 << 20)
	defer cache.Unref()
	options := &pebble.Options{
		Cache:        cache,
		MemTableSize: 16 << 20,
		Logger:       pebbleLog{log},
	}
	// Nearly every look-up is for an event that is not there.
	for i := range options.Levels {
		options.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(dir, options)
	if err != nil {
		return nil, fmt.Errorf("dedup store %s: %w (it is a cache: another process may hold it, or delete the folder)", dir, err)
	}
	return &marks{db}, nil
}

func (m *marks) close() error { return m.db.Close() }

func eventKey(id event.ID) []byte { return append([]byte{prefixEvent}, id[:]...) }

func positionKey(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefixPosition}, uint32(partition))
}

// has reports whether the event was published within the window before at.
func (m *marks) has(id event.ID, at time.Time, window time.Duration) (bool, error) {
	value, closer, err := m.db.Get(eventKey(id))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, &storeError{err}
	}
	marked := time.Unix(int64(binary.BigEndian.Uint64(value)), 0)
	return at.Sub(marked) <= window, closer.Close()
}

// position returns the offset of the dedup topic to read next, if any is known.
func (m *marks) position(partition int32) (offset int64, known bool, err error) {
	value, closer, err := m.db.Get(positionKey(partition))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, &storeError{err}
	}
	return int64(binary.BigEndian.Uint64(value)), true, closer.Close()
}

// storeError is a failure of the local store: not Kafka's, and not waited out.
type storeError struct{ err error }

func (e *storeError) Error() string { return "dedup store: " + e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// mark is one published event.
type mark struct {
	id event.ID
	at time.Time // when its request was received
}

// add stores marks and, where given, the positions behind them, in one batch.
func (m *marks) add(list []mark, positions map[int32]int64) error {
	batch := m.db.NewBatch()
	defer func() { _ = batch.Close() }() // in memory only
	for _, entry := range list {
		value := binary.BigEndian.AppendUint64(nil, uint64(entry.at.Unix()))
		if err := batch.Set(eventKey(entry.id), value, nil); err != nil {
			return &storeError{err}
		}
	}
	for partition, offset := range positions {
		value := binary.BigEndian.AppendUint64(nil, uint64(offset))
		if err := batch.Set(positionKey(partition), value, nil); err != nil {
			return &storeError{err}
		}
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return &storeError{err}
	}
	return nil
}

// sweep deletes marks older than before and returns how many.
func (m *marks) sweep(before time.Time) (deleted int, err error) {
	iter, err := m.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{prefixEvent}, UpperBound: []byte{prefixEvent + 1},
	})
	if err != nil {
		return 0, &storeError{err}
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	batch := m.db.NewBatch()
	for valid := iter.First(); valid; valid = iter.Next() {
		if int64(binary.BigEndian.Uint64(iter.Value())) >= before.Unix() {
			continue
		}
		if err := batch.Delete(iter.Key(), nil); err != nil {
			return deleted, &storeError{err}
		}
		deleted++
		if batch.Count() == 10_000 {
			if err := batch.Commit(pebble.NoSync); err != nil {
				return deleted, &storeError{err}
			}
			batch = m.db.NewBatch()
		}
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return deleted, &storeError{err}
	}
	return deleted, nil
}

// pebbleLog passes on what an operator may have to know.
type pebbleLog struct{ log *slog.Logger }

func (l pebbleLog) Infof(string, ...any) {}
func (l pebbleLog) Errorf(format string, args ...any) {
	l.log.Error("dedup store", "err", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Fatalf(format string, args ...any) {
	// Pebble calls it for corruption or a full disk. The contract of its
	// Logger is that Fatalf does not return.
	l.log.Error("dedup store", "err", fmt.Sprintf(format, args...))
	panic("dedup store: " + fmt.Sprintf(format, args...))
}
