package leadavro_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/schemas"
)

// registry knows one schema.
type registry string

func (r registry) SchemaByID(context.Context, int) (sr.Schema, error) {
	return sr.Schema{Schema: string(r)}, nil
}

const day = 24 * time.Hour

var start = time.Date(2026, 3, 1, 12, 0, 0, 123_456_000, time.UTC)

func encode(t testing.TB, r leadavro.Record) []byte {
	t.Helper()
	encoder, err := leadavro.NewEncoder(7)
	if err != nil {
		t.Fatal(err)
	}
	out, err := encoder.Append(nil, &r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func decode(t testing.TB, value []byte) (leadavro.Record, error) {
	t.Helper()
	return leadavro.NewDecoder(registry(schemas.LeadScoreV1)).Decode(t.Context(), value)
}

// random has states of every size, with values at the ends of their ranges.
func random(r *rand.Rand, size int) lead.State {
	st := lead.State{Recipient: "jane@example.com"}
	at := start.Add(-time.Duration(r.Int64N(1 << 55)))
	types := []event.Type{event.Clicked, event.Opened, "", "a word of tomorrow"}
	for i := range size {
		at = at.Add(time.Duration(r.Int64N(1<<40)) * time.Microsecond)
		c := lead.Contribution{
			EventID: event.NewID("p", "s", fmt.Sprint(i)), Revision: r.Int32() - r.Int32(), At: at.Truncate(time.Microsecond),
			Type: types[r.IntN(len(types))], Message: r.Int64(), Link: -r.Int64N(2),
		}
		for n := range int64(r.IntN(4)) {
			c.Rules = append(c.Rules, n<<60|r.Int64N(8))
		}
		st.Contributions = append(st.Contributions, c)
	}
	for range r.IntN(9) {
		st.Deliveries = append(st.Deliveries, lead.Delivery{Message: r.Int64(), At: at.Truncate(time.Microsecond)})
	}
	return st
}

func TestRecord_roundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 2, 5, 64, 1000} {
		want := leadavro.Record{State: random(r, size), Rules: "fingerprint", Standings: []lead.Standing{
			{Profile: "marketing", Score: 1.0 / 3, Stage: "hot", At: start}, {Profile: "success"},
		}, Segments: []lead.Membership{{Segment: "fading", Since: start}, {Segment: "sales-ready", Since: start.Add(-day)}}}
		value := encode(t, want)
		got, err := decode(t, value)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("a record of %d contributions is read as\n%+v, want\n%+v", size, got, want)
		}
		// What is cut off or followed by more is refused, and not half read.
		for range 50 {
			if _, err := decode(t, value[:r.IntN(len(value))]); err == nil {
				t.Error("a part of a record is one")
			}
		}
	}
}

// The bytes are pinned: topics hold them for ever.
func TestRecord_bytes(t *testing.T) {
	st := lead.State{Recipient: "j@e.org", Contributions: []lead.Contribution{
		{EventID: event.ID{1, 2}, At: time.UnixMicro(3).UTC(), Type: "clicked", Message: 4, Link: 5, Rules: []int64{6, 7}},
		{EventID: event.ID{8}, Revision: 1, At: time.UnixMicro(9).UTC(), Type: "clicked", Rules: []int64{7}},
	}, Deliveries: []lead.Delivery{{Message: 4, At: time.UnixMicro(2).UTC()}}}
	got := hex.EncodeToString(encode(t, leadavro.Record{
		State: st, Rules: "f", Standings: []lead.Standing{{Profile: "p", Score: 1, Stage: "s", At: time.UnixMicro(9).UTC()}},
		Segments: []lead.Membership{{Segment: "g", Since: time.UnixMicro(8).UTC()}},
	}))
	want := strings.Join([]string{
		"00", "00000007", // schema 7
		"0e" + hex.EncodeToString([]byte("j@e.org")), "12", // updated at 9
		"02", "0270", "000000000000f03f", "0273", "12", "00", // one standing
		"0266",                   // fingerprint
		"02", "0267", "10", "00", // one segment
		"e201",                                             // 113 bytes
		"01",                                               // version
		"01", "07" + hex.EncodeToString([]byte("clicked")), // types
		"02", "0000000000000006", "0000000000000007", // rules
		"02", // contributions
		"01020000000000000000000000000000", "00", "06", "00", "0000000000000004", "0000000000000005", "02", "00", "01",
		"08000000000000000000000000000000", "02", "0c", "00", "0000000000000000", "0000000000000000", "01", "01",
		"01", "0000000000000004", "04", // deliveries
	}, "")
	if got != want {
		t.Errorf("Append() =\n%s, want\n%s", got, want)
	}
}

func TestDecode_refuses(t *testing.T) {
	whole := encode(t, leadavro.Record{State: lead.State{Recipient: "j@e.org", Contributions: []lead.Contribution{
		{EventID: event.ID{1}, At: start, Type: "clicked"},
	}}})
	nobody := encode(t, leadavro.Record{})
	i := bytes.Index(whole, []byte("\x01\x01\x07clicked")) // the version, before the types
	newer := slices.Clone(whole)
	newer[i] = 2
	for _, tt := range []struct {
		name  string
		value []byte
		want  string
	}{
		{"no recipient", nobody, "recipient is missing"},
		{"another version", newer, "packed state is broken, or of another version"},
	} {
		_, err := decode(t, tt.value)
		if reason, permanent := fault.Reason(err); !permanent || reason != fault.BadAvro || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Decode() = %v, want a permanent error %q", tt.name, err, tt.want)
		}
	}
}

// A state that is broken is refused, before room is made for what it claims to
// hold.
func TestDecode_brokenStates(t *testing.T) {
	whole := encode(t, leadavro.Record{State: lead.State{Recipient: "j@e.org"}})
	prefix, empty := whole[:len(whole)-6], []byte("\x01\x00\x00\x00\x00")
	if !bytes.Equal(whole[len(prefix):], append([]byte{10}, empty...)) {
		t.Fatalf("an empty state is % x, want % x", whole[len(prefix):], empty)
	}
	const huge = "\xff\xff\xff\xff\xff\xff\xff\x7f"
	one := "\x01\x01\x00\x00\x01" + strings.Repeat("\x00", 16+1+1) // a type, no rule, a contribution of no revision or time
	for _, tt := range []struct{ name, state string }{
		{"nothing", ""},
		{"the version alone", "\x01"},
		{"more behind it", string(empty) + "\x00"},
		{"types", "\x01" + huge + "\x00\x00\x00"},
		{"a long type", "\x01\x01" + huge + "\x00\x00\x00"},
		{"rules", "\x01\x00" + huge + "\x00\x00"},
		{"contributions", "\x01\x00\x00" + huge + "\x00"},
		{"deliveries", "\x01\x00\x00\x00" + huge},
		{"a number without end", "\x01\x00\x00\x00" + strings.Repeat("\xff", 12)},
		{"a type that is not there", one + "\x01" + strings.Repeat("\x00", 16) + "\x00" + "\x00"},
		{"a rule that is not there", one + "\x00" + strings.Repeat("\x00", 16) + "\x01\x00" + "\x00"},
		{"rules of an event", one + "\x00" + strings.Repeat("\x00", 16) + huge + "\x00"},
	} {
		value := binary.AppendVarint(slices.Clone(prefix), int64(len(tt.state)))
		r, err := decode(t, append(value, tt.state...))
		if reason, permanent := fault.Reason(err); !permanent || reason != fault.BadAvro {
			t.Errorf("%s: Decode() = %+v, %v, want a permanent error", tt.name, r, err)
		}
	}
	good := one + "\x00" + strings.Repeat("\x00", 16) + "\x00" + "\x00"
	value := binary.AppendVarint(slices.Clone(prefix), int64(len(good)))
	if r, err := decode(t, append(value, good...)); err != nil || len(r.Contributions) != 1 {
		t.Errorf("the state that the others break: %+v, %v, want one contribution", r, err)
	}
}

func TestSignal_roundTrip(t *testing.T) {
	e := event.Event{
		ID: event.NewID("p", "s", "r"), Type: event.Clicked, Provider: "ses", Source: "ses-eu", RecipientNormalized: "jane@example.com",
		OccurredAt: start, CampaignID: "spring", URL: "https://example.com",
	}
	encoder, err := leadavro.NewSignalEncoder(3)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[event.ID]bool{}
	for _, crossing := range []lead.Crossing{
		{Profile: "marketing", Stage: "hot", Up: true, Score: 61.5},
		{Profile: "marketing", Stage: "hot", Score: 61.5},
		{Profile: "marketing", Stage: "warm", Up: true, Score: 61.5},
		{Profile: "success", Stage: "hot", Up: true, Score: 61.5},
	} {
		want := leadavro.NewSignal(&e, crossing)
		if seen[want.ID] || want.ID.IsZero() || want.ID != leadavro.NewSignal(&e, crossing).ID {
			t.Errorf("the id of %+v is that of another, or not always the same", crossing)
		}
		seen[want.ID] = true
		value, err := encoder.Append(nil, &want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := leadavro.NewSignalDecoder(registry(schemas.LeadSignalV1)).Decode(t.Context(), value)
		if err != nil || got != want {
			t.Errorf("a signal is read as\n%+v (%v), want\n%+v", got, err, want)
		}
	}
	if _, err := leadavro.NewSignalDecoder(registry(schemas.LeadSignalV1)).Decode(t.Context(), nil); err == nil {
		t.Error("Decode(nothing) = nil, want an error")
	}
}

func TestChange_roundTrip(t *testing.T) {
	encoder, err := leadavro.NewChangeEncoder(4)
	if err != nil {
		t.Fatal(err)
	}
	one := leadavro.Change{
		Recipient: "jane@example.com", Segment: "fading", Entered: true, At: start, Because: leadavro.BecauseTime, EventID: event.ID{1},
	}
	left, later, another, other := one, one, one, one
	left.Entered = false
	later.At = start.Add(time.Microsecond) // found again at the same event, once corrected
	another.EventID, another.Because = event.ID{2}, leadavro.BecauseEvent
	other.Segment = "sales-ready"
	seen := map[event.ID]bool{}
	for _, c := range []leadavro.Change{one, left, later, another, other} {
		want := leadavro.NewChange(c)
		if seen[want.ID] || want.ID.IsZero() || want != leadavro.NewChange(c) {
			t.Errorf("the id of %+v is that of another, or not always the same", c)
		}
		seen[want.ID] = true
		value, err := encoder.Append(nil, &want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := leadavro.NewChangeDecoder(registry(schemas.SegmentV1)).Decode(t.Context(), value)
		if err != nil || got != want {
			t.Errorf("a change is read as\n%+v (%v), want\n%+v", got, err, want)
		}
	}
	if _, err := leadavro.NewChangeDecoder(registry(schemas.SegmentV1)).Decode(t.Context(), nil); err == nil {
		t.Error("Decode(nothing) = nil, want an error")
	}
}

// FuzzDecode: no bytes panic or are given more memory than they have use for, and
// what is read is written as it was, if it was written by this package.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 3, 20} {
		f.Add(encode(f, leadavro.Record{State: random(r, size), Rules: "x"}))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		record, err := decode(t, value)
		if err != nil {
			return
		}
		if n := len(record.Contributions); n > len(value)/36 {
			t.Errorf("%d contributions out of %d bytes", n, len(value))
		}
		again, err := decode(t, encode(t, record))
		if err != nil || !reflect.DeepEqual(again, record) {
			t.Errorf("read, written and read: %+v (%v), want %+v", again, err, record)
		}
	})
}
