package spill

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// segment is one file. Its fields are guarded by the store's mu, but for the
// name, and for damaged and drained, which only the owner of the moment uses:
// Open, then Drain, or the writer of a file that never held anything.
type segment struct {
	name      string
	records   int64
	bytes     int64
	first     time.Time // of its first record
	notBefore time.Time // when it may be drained; zero is at once
	damaged   bool      // its end cannot be read
	drained   bool      // only its file is left to remove
}

func (s *segment) add(at time.Time, size int64) {
	if s.records == 0 {
		s.first = at
	}
	s.records++
	s.bytes += size
}

const (
	segmentSuffix = ".spill"
	damagedSuffix = ".damaged" // after segmentSuffix
)

func segmentName(n uint64) string { return fmt.Sprintf("%020d%s", n, segmentSuffix) }

func isSegment(name string) bool { return strings.HasSuffix(name, segmentSuffix) }

// segmentNumber reads the name of a segment, damaged or not.
func segmentNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(strings.TrimSuffix(name, damagedSuffix), segmentSuffix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && n < math.MaxUint64
}

// An entry is a version, the topic with its length before it, and the record as
// Kafka itself encodes one. Its framing and checksums are those of package
// record, in which Pebble keeps its own manifest.
const version = 1

func encode(r *kgo.Record) []byte {
	k := kmsg.Record{TimestampDelta64: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
	size := 64 + len(r.Topic) + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		k.Headers = append(k.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		size += 2*binary.MaxVarintLen32 + len(h.Key) + len(h.Value)
	}
	b := append(make([]byte, 0, size), version)
	b = binary.AppendUvarint(b, uint64(len(r.Topic)))
	b = append(b, r.Topic...)
	return k.AppendTo(b)
}

var errEntry = errors.New("entry cannot be decoded")

func decode(b []byte) (*kgo.Record, error) {
	if len(b) == 0 || b[0] != version {
		return nil, fmt.Errorf("%w: it is not of version %d", errEntry, version)
	}
	length, n := binary.Uvarint(b[1:])
	if n <= 0 || length > uint64(len(b)-1-n) {
		return nil, fmt.Errorf("%w: its topic is cut off", errEntry)
	}
	b = b[1+n:]
	var k kmsg.Record
	if err := k.ReadFrom(b[length:]); err != nil {
		return nil, fmt.Errorf("%w: %w", errEntry, err)
	}
	r := &kgo.Record{
		Topic: string(b[:length]), Key: k.Key, Value: k.Value, Timestamp: time.UnixMilli(k.TimestampDelta64).UTC(),
	}
	for _, h := range k.Headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return r, nil
}

// isDamage tells what is wrong with the bytes of a file from what is wrong with
// reading them.
func isDamage(err error) bool {
	for _, damage := range []error{
		errEntry, record.ErrInvalidChunk, record.ErrZeroedChunk, record.ErrUnexpectedEOF, io.ErrUnexpectedEOF,
	} {
		if errors.Is(err, damage) {
			return true
		}
	}
	return false
}

// scan reads a file in order, as far as it can be read.
func (s *Store) scan(name string, each func(r *kgo.Record, size int64)) (err error) {
	file, err := s.deps.FS.Open(s.deps.FS.PathJoin(s.cfg.Dir, name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	reader := record.NewReader(file, 0)
	for {
		next, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		payload, err := io.ReadAll(next)
		if err != nil {
			return err
		}
		r, err := decode(payload)
		if err != nil {
			return err
		}
		each(r, int64(len(payload)))
	}
}
