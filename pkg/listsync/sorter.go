package listsync

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2"

	"mailriver/pkg/suppression"
)

// maxAddress is longer than any address can be (RFC 5321, 4.5.3.1).
const maxAddress = 1000

// side is whose list an entry is of.
type side byte

const (
	ours   side = 'o'
	theirs side = 't'
)

// sorter sorts the entries of both lists by address, on disk. A key is the
// folded address, which has no control characters, a zero, the side, and what
// tells entries of one address apart; the value is the entry.
type sorter struct {
	dir   string
	db    *pebble.DB
	batch *pebble.Batch
}

// batchBytes is how much is collected before it is written.
const batchBytes = 1 << 20

func openSorter(dir string) (*sorter, error) {
	dir, err := os.MkdirTemp(dir, "mailriver-listsync-") // for this user only
	if err != nil {
		return nil, err
	}
	cache := pebble.NewCache(16 << 20)
	defer cache.Unref()
	db, err := pebble.Open(dir, &pebble.Options{
		Cache:        cache,
		MemTableSize: 32 << 20,
		DisableWAL:   true, // nothing of it outlives the process
		Logger:       silent{},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), os.RemoveAll(dir))
	}
	return &sorter{dir: dir, db: db, batch: db.NewBatch()}, nil
}

// silent keeps what Pebble tells of its work out of the output of a command.
// Its errors are returned by its calls.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}

func (silent) Fatalf(format string, args ...any) {
	// Pebble calls it for corruption or a full disk. The contract of its Logger
	// is that Fatalf does not return.
	panic("listsync: " + fmt.Sprintf(format, args...))
}

func (s *sorter) close() error {
	return errors.Join(s.batch.Close(), s.db.Close(), os.RemoveAll(s.dir))
}

// put takes an entry. One that differs from another in nothing that matters
// here replaces it.
func (s *sorter) put(folded string, of side, e suppression.Entry) error {
	value, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("entry: %w", err)
	}
	key := append([]byte(folded), 0, byte(of))
	for _, part := range []string{e.ScopeKind, e.ScopeID, string(e.Reason), e.Provider, e.Source} {
		key = binary.AppendUvarint(key, uint64(len(part)))
		key = append(key, part...)
	}
	if !e.ExpiresAt.IsZero() {
		key = append(key, 'x') // neither hides the other
	}
	if err := s.batch.Set(key, value, nil); err != nil {
		return err
	}
	if s.batch.Len() < batchBytes {
		return nil
	}
	return s.flush()
}

func (s *sorter) flush() error {
	if err := s.batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("%s: %w", s.dir, err)
	}
	if err := s.batch.Close(); err != nil {
		return err
	}
	s.batch = s.db.NewBatch()
	return nil
}

// addresses calls each for every address, in order, with what either list has
// of it.
func (s *sorter) addresses(each func(here, there []suppression.Entry) error) (err error) {
	iter, err := s.db.NewIter(nil)
	if err != nil {
		return fmt.Errorf("%s: %w", s.dir, err)
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	var (
		current     []byte
		here, there []suppression.Entry
	)
	for iter.First(); iter.Valid(); iter.Next() {
		end := bytes.IndexByte(iter.Key(), 0)
		if found := iter.Key()[:end]; !bytes.Equal(found, current) {
			if len(here)+len(there) > 0 {
				if err := each(here, there); err != nil {
					return err
				}
			}
			current, here, there = append(current[:0], found...), nil, nil
		}
		var e suppression.Entry
		if err := json.Unmarshal(iter.Value(), &e); err != nil {
			return fmt.Errorf("entry: %w", err)
		}
		if side(iter.Key()[end+1]) == ours {
			here = append(here, e)
		} else {
			there = append(there, e)
		}
	}
	if err := iter.Error(); err != nil {
		return fmt.Errorf("%s: %w", s.dir, err)
	}
	if len(here)+len(there) > 0 {
		return each(here, there)
	}
	return nil
}
