package leadavro

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
)

// packed is the version of the packed form. A state is read and written for
// nearly every event, and holds up to hundreds of contributions: as records of
// Avro each would be a map to goavro, which takes ten times as long and four
// times the space. Nobody else needs them; what others need are the standings.
const packed = 1

// pack writes what a score is made of:
//
//	version, and the words that are used: event types (length, text), rules (8 bytes each)
//	contributions: event id (16 bytes), revision, microseconds since the one before, type (its
//	               number among the words), message and link (8 bytes each, 0 is none),
//	               rules (their numbers among the words)
//	deliveries:    message (8 bytes), microseconds since the one before
//
// Every list has its length before it. Numbers without a size are varints. Equal
// states have equal bytes.
func pack(st *lead.State) []byte {
	out := make([]byte, 0, 64+48*len(st.Contributions)+16*len(st.Deliveries))
	var types []event.Type
	var rules []int64
	for i := range st.Contributions {
		c := &st.Contributions[i]
		if !slices.Contains(types, c.Type) {
			types = append(types, c.Type)
		}
		for _, rule := range c.Rules {
			if !slices.Contains(rules, rule) {
				rules = append(rules, rule)
			}
		}
	}
	out = append(out, packed)
	out = binary.AppendUvarint(out, uint64(len(types)))
	for _, typ := range types {
		out = binary.AppendUvarint(out, uint64(len(typ)))
		out = append(out, typ...)
	}
	out = binary.AppendUvarint(out, uint64(len(rules)))
	for _, rule := range rules {
		out = binary.BigEndian.AppendUint64(out, uint64(rule))
	}
	out = binary.AppendUvarint(out, uint64(len(st.Contributions)))
	at := int64(0)
	for i := range st.Contributions {
		c := &st.Contributions[i]
		out = append(out, c.EventID[:]...)
		out = binary.AppendVarint(out, int64(c.Revision))
		out = binary.AppendVarint(out, c.At.UnixMicro()-at)
		at = c.At.UnixMicro()
		out = binary.AppendUvarint(out, uint64(slices.Index(types, c.Type)))
		out = binary.BigEndian.AppendUint64(out, uint64(c.Message))
		out = binary.BigEndian.AppendUint64(out, uint64(c.Link))
		out = binary.AppendUvarint(out, uint64(len(c.Rules)))
		for _, rule := range c.Rules {
			out = binary.AppendUvarint(out, uint64(slices.Index(rules, rule)))
		}
	}
	out = binary.AppendUvarint(out, uint64(len(st.Deliveries)))
	at = 0
	for _, d := range st.Deliveries {
		out = binary.BigEndian.AppendUint64(out, uint64(d.Message))
		out = binary.AppendVarint(out, d.At.UnixMicro()-at)
		at = d.At.UnixMicro()
	}
	return out
}

var errPacked = errors.New("packed state is broken, or of another version")

// unpack reads what pack wrote, into a state that has none of it yet.
func unpack(data []byte, st *lead.State) error {
	r := &reader{data: data}
	if version := r.take(1); version == nil || version[0] != packed {
		return errPacked
	}
	types := make([]event.Type, r.length(1))
	for i := range types {
		types[i] = event.Type(r.take(r.length(1)))
	}
	rules := make([]int64, r.length(8))
	for i := range rules {
		rules[i] = r.fixed()
	}
	if n := r.length(len(event.ID{}) + 20); n > 0 {
		st.Contributions = make([]lead.Contribution, n)
	}
	var all []int64 // one allocation for most: each event has a rule or two
	at := int64(0)
	for i := range st.Contributions {
		c := &st.Contributions[i]
		copy(c.EventID[:], r.take(len(c.EventID)))
		c.Revision = int32(r.varint())
		at += r.varint()
		c.At = time.UnixMicro(at).UTC()
		if n := r.uvarint(); n < uint64(len(types)) {
			c.Type = types[n]
		} else {
			r.broken = true
		}
		c.Message, c.Link = r.fixed(), r.fixed()
		n := r.length(1)
		if all == nil {
			all = make([]int64, 0, 2*len(st.Contributions))
		}
		from := len(all)
		for range n {
			if rule := r.uvarint(); rule < uint64(len(rules)) {
				all = append(all, rules[rule])
			} else {
				r.broken = true
			}
		}
		if n > 0 {
			c.Rules = all[from:len(all):len(all)]
		}
	}
	if n := r.length(9); n > 0 {
		st.Deliveries = make([]lead.Delivery, n)
	}
	at = 0
	for i := range st.Deliveries {
		st.Deliveries[i].Message = r.fixed()
		at += r.varint()
		st.Deliveries[i].At = time.UnixMicro(at).UTC()
	}
	if r.broken || len(r.data) > 0 {
		return errPacked
	}
	return nil
}

// reader takes values off the front of bytes. Behind the first that is not there
// it gives zeroes.
type reader struct {
	data   []byte
	broken bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.data) {
		r.broken, r.data = true, nil
		return nil
	}
	head := r.data[:n]
	r.data = r.data[n:]
	return head
}

func (r *reader) fixed() int64 {
	if bytes := r.take(8); bytes != nil {
		return int64(binary.BigEndian.Uint64(bytes))
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	r.take(r.size(n))
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.data)
	r.take(r.size(n))
	return v
}

// size is that of a varint; one that has no end is longer than what is left.
func (r *reader) size(n int) int {
	if n <= 0 {
		return len(r.data) + 1
	}
	return n
}

// length is that of a list whose elements have at least so many bytes: more than
// there can be is not made room for.
func (r *reader) length(atLeast int) int {
	n := r.uvarint()
	if n > uint64(len(r.data)/atLeast) {
		r.broken, r.data = true, nil
		return 0
	}
	return int(n)
}
