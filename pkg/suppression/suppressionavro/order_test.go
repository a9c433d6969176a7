package suppressionavro_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
)

// randomLog is a log of n events about three spellings of two mailboxes, of
// every kind, at few moments. The same event has the same content, unless it is
// corrected.
func randomLog(r *rand.Rand, n int, corrections bool) []event.Event {
	one := func(words ...string) string { return words[r.IntN(len(words))] }
	base := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	types := []event.Type{
		event.Bounced, event.Bounced, event.Bounced, event.Complained, event.Unsubscribed, event.Resubscribed,
		event.SuppressionChanged, event.SuppressionChanged, event.SuppressionChanged, event.Rejected, event.Delivered,
	}
	types = append(types, event.Types()...)
	var log []event.Event
	for len(log) < n {
		e := event.Event{
			Type:                types[r.IntN(len(types))],
			Provider:            one("ses", "mailgun", event.ProviderMailriver),
			Source:              one("eu", "us"),
			RecipientNormalized: one("jane@example.com", "Jane@example.com", "joe@example.com"),
			OccurredAt:          base.Add(time.Duration(r.IntN(90)) * 12 * time.Hour),
			ProviderMessageID:   one("", "1", "2", "3", "4", "5", "6", "7"),
			BounceKind:          one(event.KindHard, event.KindSoft, event.KindBlock),
			BounceCause:         one(event.CauseUnknownRecipient, event.CauseMailboxFull, event.CauseReputation),
			RejectReason: one("", event.RejectPreviouslyBounced, event.RejectPreviouslyComplained,
				event.RejectPreviouslyUnsubscribed, event.RejectInvalidAddress, event.RejectPolicy),
			ScopeKind:         one("", event.ScopeAddress, event.ScopeAccount, event.ScopeStream, event.ScopeGroup),
			ScopeID:           one("", "7", "a|b"),
			SuppressionAction: one(event.SuppressionAdd, event.SuppressionRemove, event.SuppressionAdd, ""),
			IsTest:            r.IntN(30) == 0, RecipientAmbiguous: r.IntN(30) == 0,
		}
		if r.IntN(3) > 0 {
			e.OccurredAt = e.OccurredAt.Add(time.Duration(r.IntN(4)) * 400 * time.Millisecond)
		}
		if r.IntN(3) == 0 {
			e.SuppressionExpiresAt = e.OccurredAt.Add(time.Duration(r.IntN(60)-5) * 24 * time.Hour)
		}
		if e.Provider == event.ProviderMailriver {
			e.Metadata = map[string]string{
				"reason": one("", "complaint", "manual", "unsubscribe", "hard_bounce", "soft_bounce"), "note": "n", "actor": "a",
			}
		}
		e.ID = event.NewID(e.Provider, e.Source, e.RecipientNormalized, fmt.Sprint(len(log)))
		if corrections && len(log) > 0 && r.IntN(4) == 0 {
			old := log[r.IntN(len(log))]
			e.ID, e.RecipientNormalized, e.Revision = old.ID, old.RecipientNormalized, old.Revision+1
		}
		log = append(log, e)
	}
	return log
}

// table is the suppressions topic: the newest record of each key.
type table struct {
	t       *testing.T
	enc     *suppressionavro.Encoder
	dec     *suppressionavro.Decoder
	policy  *suppression.Policy
	records map[string][]byte
}

func newTable(t *testing.T, p *suppression.Policy) *table {
	t.Helper()
	enc, err := suppressionavro.NewEncoder(schemaID)
	if err != nil {
		t.Fatal(err)
	}
	return &table{t: t, enc: enc, dec: suppressionavro.NewDecoder(registry{}), policy: p, records: map[string][]byte{}}
}

func (b *table) state(key string) (s suppression.State) {
	b.t.Helper()
	value, ok := b.records[key]
	if !ok {
		return s
	}
	record, err := b.dec.Decode(b.t.Context(), value)
	if err != nil {
		b.t.Fatal(err)
	}
	return record.State
}

func (b *table) put(s suppression.State) {
	b.t.Helper()
	record := suppressionavro.NewRecord(s, b.policy, b.policy.Fingerprint())
	value, err := b.enc.Append(nil, &record)
	if err != nil {
		b.t.Fatal(err)
	}
	b.records[s.Key()] = value
}

// fold writes its states and reads them back every few events, as a service does
// that is restarted.
func (b *table) fold(log []event.Event) *table {
	b.t.Helper()
	for batch := range slices.Chunk(log, 20) {
		states := map[string]suppression.State{}
		for i := range batch {
			placed, _ := suppression.Classify(&batch[i], b.policy)
			for _, p := range placed {
				s := suppression.State{Address: batch[i].RecipientNormalized, ScopeKind: p.ScopeKind, ScopeID: p.ScopeID}
				key := s.Key()
				if held, ok := states[key]; ok {
					s = held
				} else if old := b.state(key); old.Address != "" {
					s = old
				}
				states[key] = s.Add(p.Fact)
			}
		}
		for _, s := range states {
			b.put(s)
		}
	}
	return b
}

func (b *table) merge(other *table) *table {
	b.t.Helper()
	for key := range other.records {
		b.put(suppression.Merge(b.state(key), other.state(key)))
	}
	return b
}

// answers are the entries of each mailbox in each scope, its spellings joined in
// the order in which they are given.
func (b *table) answers(backwards bool) map[string][]suppression.Entry {
	b.t.Helper()
	keys := slices.Sorted(maps.Keys(b.records))
	if backwards {
		slices.Reverse(keys)
	}
	joined := map[string]suppression.State{}
	for _, key := range keys {
		scope, address, _ := suppression.KeyParts(key)
		mailbox := scope + "|" + b.policy.Fold(address)
		joined[mailbox] = suppression.Merge(joined[mailbox], b.state(key))
	}
	answers := map[string][]suppression.Entry{}
	for mailbox, s := range joined {
		answers[mailbox] = suppression.Evaluate(s, b.policy).Entries
	}
	return answers
}

func (b *table) equal(want *table, what string) {
	b.t.Helper()
	if !maps.EqualFunc(b.records, want.records, bytes.Equal) {
		for key := range want.records {
			if !bytes.Equal(b.records[key], want.records[key]) {
				b.t.Fatalf("%s: the record of %s is another:\n%+v\nwant\n%+v", what, key, b.state(key), want.state(key))
			}
		}
		b.t.Fatalf("%s: %d records, want %d", what, len(b.records), len(want.records))
	}
	if got, wanted := b.answers(true), want.answers(false); !reflect.DeepEqual(got, wanted) {
		b.t.Fatalf("%s: entries = %+v,\nwant %+v", what, got, wanted)
	}
}

// The state depends on the set of events, not on their order or number: any
// order, any copies, any split whose parts are joined in any way, and any replay
// end in the same bytes. What makes it so is State.Add and Merge: with a state
// that kept the last fact to arrive, or counted arrivals, each part would fail.
func TestRecords_dependOnTheSetOfEvents(t *testing.T) {
	all := suppression.DefaultPolicy()
	all.SoftBounce.Suppress, all.SoftBounce.Messages = true, 3
	all.HardBounce.LiftedBy = append(all.HardBounce.LiftedBy, suppression.ByDelivery)
	all.Complaint.Expires = 20 * 24 * time.Hour
	usual := suppression.DefaultPolicy()
	for _, tt := range []struct {
		name        string
		policy      suppression.Policy
		events      int
		corrections bool // only below the bound: see suppression.Merge
		rounds      int
	}{
		{"few", usual, 40, false, 6},
		{"few, everything on", all, 40, false, 6},
		{"corrected", usual, 40, true, 6},
		{"above the bound", all, 1600, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			entries, most := 0, 0
			for round := range tt.rounds {
				r := rand.New(rand.NewPCG(uint64(round), 17))
				log := randomLog(r, tt.events, tt.corrections)
				want := newTable(t, &tt.policy).fold(log)
				for _, e := range want.answers(false) {
					entries += len(e)
				}
				for key := range want.records {
					most = max(most, len(want.state(key).Facts))
				}

				shuffled := slices.Clone(log)
				r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
				newTable(t, &tt.policy).fold(shuffled).equal(want, "in another order")

				copies := slices.Clone(log)
				for range len(log) / 2 {
					copies = slices.Insert(copies, r.IntN(len(copies)), log[r.IntN(len(log))])
				}
				newTable(t, &tt.policy).fold(copies).equal(want, "with copies")

				split := make([][]event.Event, 1+r.IntN(6))
				for _, e := range shuffled {
					i := r.IntN(len(split))
					split[i] = append(split[i], e)
				}
				var parts []*table
				for _, part := range split {
					parts = append(parts, newTable(t, &tt.policy).fold(part))
				}
				for len(parts) > 1 { // any tree: two at random, until one is left
					r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
					parts[1].merge(parts[0])
					parts = parts[1:]
				}
				parts[0].equal(want, "in parts")

				replayed := parts[0].fold(log[len(log)/3:])
				replayed.equal(want, "replayed")
			}
			if entries == 0 {
				t.Error("the logs make no entries")
			}
			if above := tt.events > 1000; above != (most > 3*suppression.KeptFacts) {
				t.Errorf("the largest state has %d facts, %d kept of a kind", most, suppression.KeptFacts)
			}
		})
	}
}

// A fact whose event has no time, and an entry that ended in 1970: a record must
// be able to hold what an event can say.
func TestRecord_extremes(t *testing.T) {
	p := suppression.DefaultPolicy()
	e := event.Event{
		Type: event.SuppressionChanged, Provider: event.ProviderMailriver, SuppressionAction: event.SuppressionAdd,
		RecipientNormalized: "jane@example.com", SuppressionExpiresAt: time.UnixMicro(0), ScopeKind: event.ScopeAddress,
	}
	b := newTable(t, &p).fold([]event.Event{e})
	entries := suppression.Evaluate(b.state("address|jane@example.com"), &p).Entries
	if len(entries) != 1 || entries[0].ExpiresAt.IsZero() {
		t.Errorf("entries read back = %+v, want one that has expired", entries)
	}
}
