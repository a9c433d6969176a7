package embedded

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// repair brings the broker's directory to a state in which a clean stop could
// have left it, see the package comment. It can be interrupted at any point
// and be run again.
func repair(dir string, log *slog.Logger) error {
	var meta struct {
		Version int `json:"version"`
	}
	found, err := readJSON(filepath.Join(dir, "meta.json"), &meta)
	if err != nil || !found {
		return err // nothing was ever written
	}
	if meta.Version != diskVersion {
		return fmt.Errorf("data of version %d, this program knows %d", meta.Version, diskVersion)
	}
	r := &repairer{dir: dir, log: log, started: time.Now()}
	if err := r.read(); err != nil {
		return err
	}
	if err := r.endTransactions(); err != nil {
		return err
	}
	if err := r.writeState(); err != nil {
		return err
	}
	log.Info("embedded kafka repaired after an unclean stop", "partitions", len(r.partitions),
		"committed", r.committed, "aborted", r.aborted, "took", time.Since(r.started).Round(time.Millisecond).String())
	return nil
}

type repairer struct {
	dir     string
	log     *slog.Logger
	started time.Time

	topicByID  map[[16]byte]string
	partitions []*partition
	groups     *appendLog
	pids       *appendLog
	producers  map[int64]pidEntry // as the log of producers leaves them
	decided    *decision          // to be completed

	committed, aborted int
}

// pidEntry is an entry of the log of producers.
type pidEntry struct {
	Type    string `json:"type"` // init, endtx, timeout
	PID     int64  `json:"pid"`
	Epoch   int16  `json:"epoch"`
	TxID    string `json:"txid,omitempty"`
	Timeout int32  `json:"timeout,omitempty"`
	Commit  *bool  `json:"commit,omitempty"`
}

// groupEntry is an entry of the log of groups; only commits are written here.
type groupEntry struct {
	Type       string  `json:"type"`
	Group      string  `json:"g"`
	Topic      string  `json:"t,omitempty"`
	Partition  int32   `json:"p,omitempty"`
	Offset     int64   `json:"o,omitempty"`
	Epoch      int32   `json:"e,omitempty"`
	Metadata   *string `json:"m,omitempty"`
	LastCommit *int64  `json:"lc,omitempty"`
}

func (r *repairer) read() error {
	// What it says about open transactions is older than the data.
	if err := os.Remove(filepath.Join(r.dir, "session_state.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var err error
	if r.groups, err = readLog(filepath.Join(r.dir, groupsLog)); err != nil {
		return err
	}
	if r.pids, err = readLog(filepath.Join(r.dir, pidsLog)); err != nil {
		return err
	}
	r.producers = make(map[int64]pidEntry)
	for _, raw := range r.pids.entries {
		var e pidEntry
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("%s: %w", r.pids.path, err)
		}
		if e.Type != "init" { // the others say only what has changed
			was := r.producers[e.PID]
			was.Epoch, was.PID = e.Epoch, e.PID
			e = was
		}
		r.producers[e.PID] = e
	}
	d, ok, err := readDecision(filepath.Join(r.dir, decisionFile))
	if err != nil {
		return err
	}
	if ok && d.PIDsSize == int64(len(r.pids.raw)) && r.producers[d.Producer.ID].Epoch == d.Producer.Epoch {
		r.decided = &d
	}

	var topics struct {
		Topics []struct {
			Name       string `json:"name"`
			ID         string `json:"id"`
			Partitions int    `json:"partitions"`
		} `json:"topics"`
	}
	if _, err := readJSON(filepath.Join(r.dir, "topics.json"), &topics); err != nil {
		return err
	}
	r.topicByID = make(map[[16]byte]string)
	for _, topic := range topics.Topics {
		id, err := base64.StdEncoding.DecodeString(topic.ID)
		if err != nil || len(id) != 16 {
			return fmt.Errorf("topic %s: id %q is not one", topic.Name, topic.ID)
		}
		r.topicByID[[16]byte(id)] = topic.Name
		for number := range topic.Partitions {
			p := &partition{
				topic:  topic.Name,
				number: int32(number),
				dir:    filepath.Join(r.dir, "partitions", fmt.Sprintf("%s-%d", url.PathEscape(topic.Name), number)),
			}
			if err := p.read(r.log); err != nil {
				return fmt.Errorf("partition %s/%d: %w", topic.Name, number, err)
			}
			r.partitions = append(r.partitions, p)
		}
	}
	return nil
}

// endTransactions writes the markers that are missing: for the decided
// transaction its commit, for every other one an abort.
func (r *repairer) endTransactions() error {
	abortedProducers := make(map[int64]bool)
	for _, p := range r.partitions {
		for _, id := range slices.Sorted(maps.Keys(p.open)) {
			tx := p.open[id]
			commit := r.decided != nil && r.decided.Producer == producer{id, tx.epoch}
			if err := p.end(id, tx, commit); err != nil {
				return fmt.Errorf("partition %s/%d: %w", p.topic, p.number, err)
			}
			if !commit {
				abortedProducers[id] = true
			}
		}
	}
	r.aborted = len(abortedProducers)

	var commits, pids []any
	if d := r.decided; d != nil {
		r.committed = 1
		now := r.started.UnixMilli()
		for _, o := range d.Offsets {
			topic := o.Topic
			if topic == "" {
				topic = r.topicByID[o.TopicID]
			}
			commits = append(commits, groupEntry{
				Type: "commit", Group: o.Group, Topic: topic, Partition: o.Partition,
				Offset: o.Offset, Epoch: o.LeaderEpoch, Metadata: o.Metadata, LastCommit: &now,
			})
		}
		pids = append(pids, pidEntry{Type: "endtx", PID: d.Producer.ID, Epoch: d.Producer.Epoch, Commit: new(true)})
		if d.NewEpoch {
			pids = append(pids, r.nextEpoch(d.Producer.ID, true))
		}
	}
	// A producer that still lives, in another process, must not go on with a
	// transaction of which the first half is aborted.
	for _, id := range slices.Sorted(maps.Keys(abortedProducers)) {
		if _, known := r.producers[id]; known {
			pids = append(pids, r.nextEpoch(id, false))
		}
	}
	if err := r.groups.rewrite(commits...); err != nil {
		return err
	}
	return r.pids.rewrite(pids...)
}

func (r *repairer) nextEpoch(id int64, committed bool) pidEntry {
	e := r.producers[id]
	e.Type, e.PID, e.Commit = "init", id, &committed
	if e.Epoch < math.MaxInt16-1 {
		e.Epoch++
	}
	r.producers[id] = e
	return e
}

// seqWindow is what the broker remembers of a producer in a partition.
type seqWindow struct {
	PID       int64       `json:"pid"`
	Topic     string      `json:"topic"`
	Partition int32       `json:"partition"`
	Entries   [5]seqEntry `json:"entries"`
	Count     uint8       `json:"count"`
	At        uint8       `json:"at"`
	Epoch     int16       `json:"epoch"`
	Seen      bool        `json:"seen"`
	NextSeq   int32       `json:"next_seq"`
}

type seqEntry struct {
	FirstSeq int32 `json:"first_seq"`
	NextSeq  int32 `json:"next_seq"`
	Offset   int64 `json:"offset"`
}

// add remembers a batch, as the broker did when it took it.
func (w *seqWindow) add(b batch) {
	next := int32((int64(b.firstSeq) + int64(b.records)) % math.MaxInt32)
	if !w.Seen || w.Epoch != b.epoch {
		w.Entries, w.Count, w.At = [5]seqEntry{}, 0, 0
	}
	w.Seen, w.Epoch, w.NextSeq = true, b.epoch, next
	w.Entries[w.At] = seqEntry{FirstSeq: b.firstSeq, NextSeq: next, Offset: b.offset}
	w.At = (w.At + 1) % uint8(len(w.Entries))
	w.Count = min(w.Count+1, uint8(len(w.Entries)))
}

// writeState writes the files that the broker reads beside the data.
func (r *repairer) writeState() error {
	windows := struct {
		Version int          `json:"version"`
		Windows []*seqWindow `json:"windows"`
	}{Version: diskVersion}
	for _, p := range r.partitions {
		if err := p.writeSnapshot(); err != nil {
			return fmt.Errorf("partition %s/%d: %w", p.topic, p.number, err)
		}
		for _, id := range slices.Sorted(maps.Keys(p.windows)) {
			if _, known := r.producers[id]; known {
				windows.Windows = append(windows.Windows, p.windows[id])
			}
		}
	}
	b, err := json.Marshal(windows)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(r.dir, "seq_windows.json"), b)
}

// partition is one log, read from its first batch to its last.
type partition struct {
	topic  string
	number int32
	dir    string

	segments []*segment
	start    int64 // offset of the first record
	next     int64 // offset after the last one
	epoch    int32
	first    int64 // timestamp of the first batch
	latest   int64 // largest timestamp
	open     map[int64]*openTx
	aborted  []abortedTx
	windows  map[int64]*seqWindow
}

type segment struct {
	Base     int64 `json:"base_offset"`
	Size     int64 `json:"size"`
	MinEpoch int32 `json:"min_epoch,omitempty"`
	MaxEpoch int32 `json:"max_epoch,omitempty"`

	index []byte
}

type openTx struct {
	epoch int16
	first int64
}

type abortedTx struct {
	ProducerID  int64 `json:"producer_id"`
	FirstOffset int64 `json:"first_offset"`
	LastOffset  int64 `json:"last_offset"`
}

var errDamaged = errors.New("damaged, not only torn at its end; restore the directory or delete it")

func (p *partition) read(log *slog.Logger) error {
	p.open = make(map[int64]*openTx)
	p.windows = make(map[int64]*seqWindow)
	files, err := os.ReadDir(p.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		if base, ok := strings.CutSuffix(f.Name(), ".dat"); ok {
			offset, err := strconv.ParseInt(base, 10, 64)
			if err != nil {
				return fmt.Errorf("file %s: %w", f.Name(), err)
			}
			p.segments = append(p.segments, &segment{Base: offset})
		}
	}
	slices.SortFunc(p.segments, func(a, b *segment) int { return int(min(max(a.Base-b.Base, -1), 1)) })
	for i, s := range p.segments {
		if i == 0 {
			p.start, p.next = s.Base, s.Base
		}
		torn, err := p.readSegment(s)
		if err != nil {
			return err
		}
		switch {
		case torn == 0:
		case i < len(p.segments)-1:
			return fmt.Errorf("segment %d at byte %d: %w", s.Base, s.Size, errDamaged)
		default:
			log.Warn("embedded kafka: a batch that was never acknowledged is cut off",
				"topic", p.topic, "partition", p.number, "bytes", torn)
			if err := truncate(p.data(s), s.Size); err != nil {
				return err
			}
		}
		if err := p.fixIndex(s); err != nil {
			return err
		}
	}
	return nil
}

func (p *partition) data(s *segment) string {
	return filepath.Join(p.dir, strconv.FormatInt(s.Base, 10)+".dat")
}

func (p *partition) index(s *segment) string {
	return filepath.Join(p.dir, strconv.FormatInt(s.Base, 10)+".idx")
}

// readSegment reads the batches of a segment, one at a time, and returns how
// many bytes at its end are none.
func (p *partition) readSegment(s *segment) (torn int64, err error) {
	f, err := os.Open(p.data(s))
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	in := bufio.NewReaderSize(f, 1<<20)
	var buf []byte
	for {
		b, raw, err := readBatch(in, info.Size()-s.Size, buf)
		if errors.Is(err, errTorn) {
			return info.Size() - s.Size, nil
		}
		if err != nil {
			return 0, err
		}
		if b.offset != p.next {
			return 0, fmt.Errorf("segment %d at byte %d: offset %d follows %d: %w", s.Base, s.Size, b.offset, p.next, errDamaged)
		}
		buf = raw
		p.add(s, b)
		if s.Size == info.Size() {
			return 0, nil
		}
	}
}

// add takes a batch that is in the segment's file.
func (p *partition) add(s *segment, b batch) {
	if p.first == 0 {
		p.first = b.firstTimestamp
	}
	p.latest = max(p.latest, b.maxTimestamp)
	p.epoch = b.leaderEpoch
	if s.Size == 0 {
		s.MinEpoch = b.leaderEpoch
	}
	s.MinEpoch, s.MaxEpoch = min(s.MinEpoch, b.leaderEpoch), max(s.MaxEpoch, b.leaderEpoch)
	s.Size += b.size
	s.index = append(s.index, indexEntry(b, p.latest)...)
	p.next = b.offset + int64(b.lastDelta) + 1

	switch {
	case b.control():
		if tx := p.open[b.producer]; tx != nil && !b.commit {
			p.aborted = append(p.aborted, abortedTx{b.producer, tx.first, b.offset})
		}
		delete(p.open, b.producer)
		return
	case b.transactional() && p.open[b.producer] == nil:
		p.open[b.producer] = &openTx{epoch: b.epoch, first: b.offset}
	}
	if b.producer >= 0 && b.firstSeq >= 0 {
		w := p.windows[b.producer]
		if w == nil {
			w = &seqWindow{PID: b.producer, Topic: p.topic, Partition: p.number}
			p.windows[b.producer] = w
		}
		w.add(b)
	}
}

// fixIndex writes the index if it is not what the segment says. Everything in
// it follows from the batches.
func (p *partition) fixIndex(s *segment) error {
	b, err := os.ReadFile(p.index(s))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil && sameIndex(b, s.index) {
		return nil
	}
	return replaceFile(p.index(s), s.index)
}

// end appends the marker that ends a transaction.
func (p *partition) end(id int64, tx *openTx, commit bool) error {
	s := p.segments[len(p.segments)-1]
	raw := marker(p.next, p.epoch, id, tx.epoch, commit)
	b, err := parseBatch(raw)
	if err != nil {
		return err
	}
	if err := appendFile(p.data(s), raw); err != nil {
		return err
	}
	before := len(s.index)
	p.add(s, b)
	return appendFile(p.index(s), s.index[before:])
}

// writeSnapshot writes what the broker would write in a clean stop.
func (p *partition) writeSnapshot() error {
	if len(p.segments) == 0 {
		return nil
	}
	path := filepath.Join(p.dir, "snapshot.json")
	snapshot := struct {
		Version          int         `json:"version"`
		HighWatermark    int64       `json:"high_watermark"`
		LastStableOffset int64       `json:"last_stable_offset"`
		LogStartOffset   int64       `json:"log_start_offset"`
		Epoch            int32       `json:"epoch"`
		MaxTimestamp     int64       `json:"max_timestamp"`
		CreatedAt        time.Time   `json:"created_at"`
		AbortedTxns      []abortedTx `json:"aborted_txns,omitempty"`
		Segments         []*segment  `json:"segments"`
	}{}
	if _, err := readJSON(path, &snapshot); err != nil {
		return err
	}
	if snapshot.CreatedAt.IsZero() {
		snapshot.CreatedAt = time.UnixMilli(p.first)
	}
	snapshot.Version = diskVersion
	snapshot.HighWatermark, snapshot.LastStableOffset, snapshot.LogStartOffset = p.next, p.next, p.start
	snapshot.Epoch, snapshot.MaxTimestamp = p.epoch, p.latest
	snapshot.AbortedTxns, snapshot.Segments = p.aborted, p.segments
	b, err := json.Marshal(snapshot)
	if err != nil {
		return err
	}
	return replaceFile(path, b)
}

// batch is the header of a record batch.
type batch struct {
	offset                       int64
	size                         int64 // on disk
	leaderEpoch                  int32
	attributes                   uint16
	lastDelta                    int32
	firstTimestamp, maxTimestamp int64
	producer                     int64
	epoch                        int16
	firstSeq                     int32
	records                      int32
	commit                       bool // of a control batch
}

func (b batch) transactional() bool { return b.attributes&0x10 != 0 }
func (b batch) control() bool       { return b.attributes&0x20 != 0 }

const (
	batchPrefix = 12 // offset and length
	batchHeader = 61
	batchCRC    = 21 // what the checksum covers begins here
)

var errTorn = errors.New("not a whole batch")

// readBatch reads the next of the remaining bytes, using buf if it is large
// enough.
func readBatch(in io.Reader, remaining int64, buf []byte) (b batch, raw []byte, err error) {
	if remaining < batchHeader {
		return b, nil, errTorn
	}
	raw = slices.Grow(buf[:0], batchHeader)[:batchPrefix]
	if _, err := io.ReadFull(in, raw); err != nil {
		return b, nil, err
	}
	size := int64(binary.BigEndian.Uint32(raw[8:])) + batchPrefix
	if size < batchHeader || size > remaining {
		return b, nil, errTorn
	}
	raw = slices.Grow(raw, int(size))[:size]
	if _, err := io.ReadFull(in, raw[batchPrefix:]); err != nil {
		return b, nil, err
	}
	b, err = parseBatch(raw)
	return b, raw, err
}

func parseBatch(raw []byte) (batch, error) {
	be := binary.BigEndian
	if raw[16] != 2 || crc32.Checksum(raw[batchCRC:], castagnoli) != be.Uint32(raw[17:]) {
		return batch{}, errTorn
	}
	b := batch{
		offset:         int64(be.Uint64(raw)),
		size:           int64(len(raw)),
		leaderEpoch:    int32(be.Uint32(raw[12:])),
		attributes:     be.Uint16(raw[21:]),
		lastDelta:      int32(be.Uint32(raw[23:])),
		firstTimestamp: int64(be.Uint64(raw[27:])),
		maxTimestamp:   int64(be.Uint64(raw[35:])),
		producer:       int64(be.Uint64(raw[43:])),
		epoch:          int16(be.Uint16(raw[51:])),
		firstSeq:       int32(be.Uint32(raw[53:])),
		records:        int32(be.Uint32(raw[57:])),
	}
	if b.control() {
		var rec kmsg.Record
		var key kmsg.ControlRecordKey
		if err := rec.ReadFrom(raw[batchHeader:]); err == nil && key.ReadFrom(rec.Key) == nil {
			b.commit = key.Type == kmsg.ControlRecordKeyTypeCommit
		}
	}
	return b, nil
}

// marker is the control batch with which a coordinator ends a transaction.
func marker(offset int64, leaderEpoch int32, id int64, epoch int16, commit bool) []byte {
	key := kmsg.ControlRecordKey{Type: kmsg.ControlRecordKeyTypeAbort}
	if commit {
		key.Type = kmsg.ControlRecordKeyTypeCommit
	}
	value := kmsg.EndTxnMarker{}
	rec := kmsg.Record{Key: key.AppendTo(nil), Value: value.AppendTo(nil)}
	rec.Length = int32(len(rec.AppendTo(nil)) - 1) // without itself, which is one byte
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{
		FirstOffset:          offset,
		PartitionLeaderEpoch: leaderEpoch,
		Magic:                2,
		Attributes:           0x30, // control, transactional
		FirstTimestamp:       now,
		MaxTimestamp:         now,
		ProducerID:           id,
		ProducerEpoch:        epoch,
		FirstSequence:        -1,
		NumRecords:           1,
		Records:              rec.AppendTo(nil),
	}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-batchPrefix))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[batchCRC:], castagnoli))
	return raw
}

const indexSize = 15

// indexEntry is what the broker's index says of a batch: version, checksum,
// epoch, largest timestamp so far, and whether it is part of a transaction.
func indexEntry(b batch, latest int64) []byte {
	e := make([]byte, indexSize)
	e[0] = diskVersion
	binary.LittleEndian.PutUint32(e[2:], uint32(b.leaderEpoch))
	binary.LittleEndian.PutUint64(e[6:], uint64(latest))
	if b.transactional() && !b.control() {
		e[14] = 1
	}
	e[1] = byte(crc32.Checksum(e[2:], castagnoli))
	return e
}

// sameIndex compares without the timestamps, which the broker computes anew,
// and the checksums over them.
func sameIndex(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for at := 0; at < len(a); at += indexSize {
		x, y := a[at:at+indexSize], b[at:at+indexSize]
		if x[0] != y[0] || string(x[2:6]) != string(y[2:6]) || x[14] != y[14] ||
			x[1] != byte(crc32.Checksum(x[2:], castagnoli)) {
			return false
		}
	}
	return true
}

func truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

func appendFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
