package embedded

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Files of ours in the broker's directory.
const (
	cleanFile    = "clean.json"   // there after a clean stop, and only then
	decisionFile = "decision.bin" // the last decision to commit a transaction
)

// store keeps what the broker does not: the decision to commit a transaction,
// before the broker begins to write what follows from it.
//
// One decision is enough, because the broker handles one request at a time:
// when the next one is decided, the one before is complete.
type store struct {
	dir      string
	decision *os.File

	mu     sync.Mutex
	staged map[producer][]stagedOffset
}

// producer is one transaction: clients of today get a new epoch for each, and
// the others end one before they begin the next.
type producer struct {
	ID    int64
	Epoch int16
}

// stagedOffset is an offset that becomes the group's when the transaction
// commits.
type stagedOffset struct {
	Group       string
	Topic       string // or its id, as the client sent it
	TopicID     [16]byte
	Partition   int32
	Offset      int64
	LeaderEpoch int32
	Metadata    *string
}

// decision is a transaction that is to be committed.
type decision struct {
	Producer producer
	NewEpoch bool // the broker gives the producer a new epoch afterwards
	Offsets  []stagedOffset
	// PIDsSize is the length of the broker's log of producers when this was
	// decided. The broker writes to it last, so while the length is the same,
	// the transaction is not complete.
	PIDsSize int64
}

// openStore prepares the directory for the broker: after anything but a clean
// stop it is repaired first.
func openStore(dir string, log *slog.Logger) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &store{dir: dir, staged: make(map[producer][]stagedOffset)}
	clean, err := s.loadClean()
	if err != nil {
		return nil, err
	}
	if !clean {
		if err := repair(dir, log); err != nil {
			return nil, fmt.Errorf("repair %s after an unclean stop: %w", dir, err)
		}
	}
	s.decision, err = os.OpenFile(filepath.Join(dir, decisionFile), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// cleanState goes from a clean stop to the next start: a transaction that is
// open meanwhile can go on.
type cleanState struct {
	Staged []stagedTransaction `json:"staged"`
}

type stagedTransaction struct {
	Producer producer
	Offsets  []stagedOffset
}

// loadClean reads and removes the sign of a clean stop.
func (s *store) loadClean() (bool, error) {
	path := filepath.Join(s.dir, cleanFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var state cleanState
	if err := json.Unmarshal(b, &state); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	for _, tx := range state.Staged {
		s.staged[tx.Producer] = tx.Offsets
	}
	if err := os.Remove(path); err != nil {
		return false, err
	}
	return true, syncDir(s.dir)
}

// closeClean is the end of a clean stop, after the broker's.
func (s *store) closeClean() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var state cleanState
	for p, offsets := range s.staged {
		state.Staged = append(state.Staged, stagedTransaction{p, offsets})
	}
	b, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return errors.Join(s.close(), replaceFile(filepath.Join(s.dir, cleanFile), b))
}

func (s *store) close() error { return s.decision.Close() }

// stage remembers the offsets that a producer adds to its transaction. Whether
// the broker accepts them is not seen here; a client that is refused aborts.
func (s *store) stage(req *kmsg.TxnOffsetCommitRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := producer{req.ProducerID, req.ProducerEpoch}
	if _, open := s.staged[p]; !open {
		s.forget(p.ID)
	}
	for _, topic := range req.Topics {
		for _, partition := range topic.Partitions {
			s.staged[p] = append(s.staged[p], stagedOffset{
				Group:       req.Group,
				Topic:       topic.Topic,
				TopicID:     topic.TopicID,
				Partition:   partition.Partition,
				Offset:      partition.Offset,
				LeaderEpoch: partition.LeaderEpoch,
				Metadata:    partition.Metadata, // the request is not reused
			})
		}
	}
}

func (s *store) forget(id int64) {
	for p := range s.staged {
		if p.ID == id {
			delete(s.staged, p)
		}
	}
}

// decide writes down that a transaction is to be committed. An abort needs
// nothing: what is not committed is aborted.
func (s *store) decide(req *kmsg.EndTxnRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := producer{req.ProducerID, req.ProducerEpoch}
	if req.Commit {
		d := decision{Producer: p, NewEpoch: req.Version >= 5, Offsets: s.staged[p]}
		info, err := os.Stat(filepath.Join(s.dir, pidsLog))
		switch {
		case err == nil:
			d.PIDsSize = info.Size()
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
		if err := writeDecision(s.decision, d); err != nil {
			return err
		}
	}
	s.forget(p.ID)
	return nil
}

// A decision is written over the one before: its length and checksum, and then
// itself. One that is torn was not followed by anything yet.
const decisionHeader = 8

func writeDecision(f *os.File, d decision) error {
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	buf := make([]byte, decisionHeader, decisionHeader+len(b))
	binary.LittleEndian.PutUint32(buf, uint32(len(b)))
	binary.LittleEndian.PutUint32(buf[4:], crc32.Checksum(b, castagnoli))
	if _, err := f.WriteAt(append(buf, b...), 0); err != nil {
		return err
	}
	return f.Sync()
}

// readDecision returns the last decision, if there is one.
func readDecision(path string) (d decision, ok bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return d, false, nil
	}
	if err != nil {
		return d, false, err
	}
	if len(b) < decisionHeader {
		return d, false, nil
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n == 0 || n > len(b)-decisionHeader {
		return d, false, nil
	}
	body := b[decisionHeader : decisionHeader+n]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return d, false, nil
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return d, false, fmt.Errorf("%s: %w", path, err)
	}
	return d, true, nil
}

// What follows is the broker's own log of small entries: length, checksum and
// version before each, all little-endian.
const (
	groupsLog   = "groups.log"
	pidsLog     = "pids.log"
	entryHeader = 10
	diskVersion = 1 // of everything that kfake writes
)

// castagnoli is the table of every checksum that Kafka has.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendLog is a log as it is on disk, without what is torn at its end.
type appendLog struct {
	path    string
	raw     []byte
	torn    bool
	entries []json.RawMessage
}

func readLog(path string) (*appendLog, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l := &appendLog{path: path}
	at := 0
	for at+entryHeader <= len(b) {
		n := int(binary.LittleEndian.Uint32(b[at:])) // of version and data
		if n < 2 || n > len(b)-at-8 {
			break
		}
		payload := b[at+8 : at+8+n]
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[at+4:]) {
			break
		}
		if v := binary.LittleEndian.Uint16(payload); v != diskVersion {
			return nil, fmt.Errorf("%s: an entry of version %d, this program knows %d", path, v, diskVersion)
		}
		l.entries = append(l.entries, payload[2:])
		at += 8 + n
	}
	l.raw, l.torn = b[:at], at < len(b)
	return l, nil
}

// rewrite replaces the log if something is to be cut off or added.
func (l *appendLog) rewrite(add ...any) error {
	if !l.torn && len(add) == 0 {
		return nil
	}
	out := slices.Clone(l.raw)
	for _, entry := range add {
		b, err := json.Marshal(entry)
		if err != nil {
			return err
		}
		payload := append(binary.LittleEndian.AppendUint16(nil, diskVersion), b...)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(payload)))
		out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(payload, castagnoli))
		out = append(out, payload...)
	}
	return replaceFile(l.path, out)
}

// readJSON reads one of the broker's JSON files; it reports false if there is
// none.
func readJSON(path string, v any) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return true, nil
}
