// Package suppressionavro turns the state of a suppressed address into Avro and
// back: the table between package suppression and its schema, and the subject
// in the registry.
//
// A record holds the facts, which decide, and the entries that the writer's
// policy read off them, for readers that have no policy. How records are coded
// is the business of package avro.
package suppressionavro

import (
	"context"
	"time"

	"mailriver/pkg/avro"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/suppression"
	"mailriver/schemas"
)

// Record is the value of a record of the suppressions topic.
type Record struct {
	suppression.State
	Folded  string              // the address in the form in which spellings are equal
	Entries []suppression.Entry // strongest first; those that have expired as well
	Policy  string              // fingerprint of the policy that made the entries
}

// NewRecord evaluates a state.
func NewRecord(s suppression.State, p *suppression.Policy, fingerprint string) Record {
	return Record{State: s, Folded: p.Fold(s.Address), Entries: suppression.Evaluate(s, p).Entries, Policy: fingerprint}
}

// Encoder writes records by one registered schema.
type Encoder = avro.Encoder[Record]

// Decoder reads records by the schema that each was written with.
type Decoder = avro.Decoder[Record]

// NewEncoder returns the encoder for this build's schema and its registered id.
func NewEncoder(id int) (*Encoder, error) {
	return avro.NewEncoder(schemas.SuppressionV1, id, fields())
}

// NewDecoder returns a decoder of whole records.
func NewDecoder(registry avro.Schemas) *Decoder {
	return avro.NewDecoder(registry, fields(), check)
}

// NewHeadDecoder returns a decoder that leaves the facts out, for look-ups.
func NewHeadDecoder(registry avro.Schemas) *Decoder {
	head := fields()
	delete(head, "facts")
	delete(head, "updated_at")
	return avro.NewDecoder(registry, head, check).Partial()
}

// ParseKey returns the record, with nothing but address and scope, whose key this
// is. It is what is left of one that was removed from the topic.
func ParseKey(key []byte) (Record, bool) {
	s, ok := suppression.ParseKey(string(key))
	return Record{State: s}, ok
}

func check(r *Record) error {
	if r.Address == "" || r.ScopeKind == "" {
		return fault.Permanentf(fault.BadAvro, "address or scope_kind is missing")
	}
	return nil
}

// Lookup returns the id of this build's schema under the subject of the topic.
func Lookup(ctx context.Context, registry *avro.Registry, topic string) (int, error) {
	return avro.Lookup(ctx, registry, topic, schemas.SuppressionV1)
}

// strongest is the first entry, made when a field of it is set: the fields of an
// entry follow each other in the schema.
func (r *Record) strongest() *suppression.Entry {
	if len(r.Entries) == 0 {
		r.Entries = []suppression.Entry{{Address: r.Address, ScopeKind: r.ScopeKind, ScopeID: r.ScopeID}}
	}
	return &r.Entries[0]
}

// ofEntry is a field of the strongest entry, null where there is none.
func ofEntry(field avro.Field[suppression.Entry]) avro.Field[Record] {
	return avro.Field[Record]{
		Get: func(r *Record) any {
			if len(r.Entries) == 0 {
				return nil
			}
			return field.Get(&r.Entries[0])
		},
		Set: func(r *Record, v any) { field.Set(r.strongest(), v) },
	}
}

func fields() avro.Fields[Record] {
	weaker := avro.Records(func(list *[]suppression.Entry) *[]suppression.Entry { return list }, entryFields())
	return avro.Fields[Record]{
		"address":        avro.Text(func(r *Record) *string { return &r.Address }),
		"address_folded": avro.Text(func(r *Record) *string { return &r.Folded }),
		"scope_kind":     avro.Text(func(r *Record) *string { return &r.ScopeKind }),
		"scope_id":       avro.Text(func(r *Record) *string { return &r.ScopeID }),
		"suppressed": {
			Get: func(r *Record) any { return len(r.Entries) > 0 },
			Set: func(*Record, any) {},
		},
		"reason":     ofEntry(avro.Text(func(e *suppression.Entry) *string { return (*string)(&e.Reason) })),
		"since":      ofEntry(avro.Instant(func(e *suppression.Entry) *time.Time { return &e.Since })),
		"expires_at": ofEntry(avro.Instant(func(e *suppression.Entry) *time.Time { return &e.ExpiresAt })),
		"provider":   ofEntry(avro.Text(func(e *suppression.Entry) *string { return &e.Provider })),
		"source":     ofEntry(avro.Text(func(e *suppression.Entry) *string { return &e.Source })),
		"event_id":   ofEntry(avro.Text(func(e *suppression.Entry) *string { return &e.EventID })),
		"note":       ofEntry(avro.Text(func(e *suppression.Entry) *string { return &e.Note })),
		"weaker": {
			Get: func(r *Record) any {
				var rest []suppression.Entry
				if len(r.Entries) > 1 {
					rest = r.Entries[1:]
				}
				return weaker.Get(&rest)
			},
			Set: func(r *Record, v any) {
				var rest []suppression.Entry
				weaker.Set(&rest, v)
				for _, e := range rest {
					e.Address, e.ScopeKind, e.ScopeID = r.Address, r.ScopeKind, r.ScopeID
					r.Entries = append(r.Entries, e)
				}
			},
		},
		"policy": avro.Text(func(r *Record) *string { return &r.Policy }),
		"updated_at": {
			Get: func(r *Record) any {
				if len(r.Facts) == 0 {
					return int64(0)
				}
				return r.Facts[len(r.Facts)-1].At.UnixMicro()
			},
			Set: func(*Record, any) {},
		},
		"facts": avro.Records(func(r *Record) *[]suppression.Fact { return &r.Facts }, factFields()),
	}
}

func entryFields() avro.Fields[suppression.Entry] {
	return avro.Fields[suppression.Entry]{
		"reason":     avro.Text(func(e *suppression.Entry) *string { return (*string)(&e.Reason) }),
		"since":      avro.Instant(func(e *suppression.Entry) *time.Time { return &e.Since }),
		"expires_at": avro.ZeroableInstant(func(e *suppression.Entry) *time.Time { return &e.ExpiresAt }),
		"provider":   avro.Text(func(e *suppression.Entry) *string { return &e.Provider }),
		"source":     avro.Text(func(e *suppression.Entry) *string { return &e.Source }),
		"event_id":   avro.Text(func(e *suppression.Entry) *string { return &e.EventID }),
		"note":       avro.Text(func(e *suppression.Entry) *string { return &e.Note }),
	}
}

func factFields() avro.Fields[suppression.Fact] {
	return avro.Fields[suppression.Fact]{
		"event_id": {
			Get: func(f *suppression.Fact) any { return f.EventID.String() },
			Set: func(f *suppression.Fact, v any) {
				if s, ok := v.(string); ok {
					f.EventID, _ = event.ParseID(s) // a writer of ours never writes another form
				}
			},
		},
		"revision":   avro.Number(func(f *suppression.Fact) *int32 { return &f.Revision }),
		"effect":     avro.Text(func(f *suppression.Fact) *string { return (*string)(&f.Effect) }),
		"reason":     avro.Text(func(f *suppression.Fact) *string { return (*string)(&f.Reason) }),
		"at":         avro.Instant(func(f *suppression.Fact) *time.Time { return &f.At }),
		"expires_at": avro.ZeroableInstant(func(f *suppression.Fact) *time.Time { return &f.ExpiresAt }),
		"provider":   avro.Text(func(f *suppression.Fact) *string { return &f.Provider }),
		"source":     avro.Text(func(f *suppression.Fact) *string { return &f.Source }),
		"event_type": avro.Text(func(f *suppression.Fact) *string { return (*string)(&f.EventType) }),
		"message":    avro.Long(func(f *suppression.Fact) *int64 { return &f.Message }),
		"given":      avro.Text(func(f *suppression.Fact) *string { return &f.Given }),
		"detail":     avro.Text(func(f *suppression.Fact) *string { return &f.Detail }),
		"actor":      avro.Text(func(f *suppression.Fact) *string { return &f.Actor }),
	}
}
