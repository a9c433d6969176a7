package leadavro

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"sync"

	"mailriver/pkg/avro"
	"mailriver/schemas"
)

// Glance recognizes records of leads in no stage, which are nearly all leads, by
// their first bytes and without allocating. It is for whoever goes through
// millions of records for those that are in one. It is safe for concurrent use.
//
// It knows the bytes of one layout, that of this build's schema up to the field
// rules, and is sure of nothing else: a [Decoder] is asked about the others.
type Glance struct {
	schemas avro.Schemas
	layout  any // that of this build; nil if it has none, and nothing is recognized

	mu    sync.RWMutex
	known map[uint32]bool // by id of a schema: whether it has that layout
}

// NewGlance returns a glance that asks the registry for what it has not seen.
func NewGlance(registry avro.Schemas) *Glance {
	return &Glance{schemas: registry, layout: layoutOf(schemas.LeadScoreV1), known: map[uint32]bool{}}
}

// InNoStage reports that a record is one of rules with this fingerprint, and has
// a recipient who is in no stage of any profile. False says nothing.
func (g *Glance) InNoStage(ctx context.Context, value []byte, rules string) bool {
	const header = 1 + 4 // of Confluent's wire format: a zero and the id of the schema
	if len(value) < header || value[0] != 0 || !g.readable(ctx, binary.BigEndian.Uint32(value[1:])) {
		return false
	}
	r := &reader{data: value[header:]}
	if len(r.text()) == 0 {
		return false
	}
	r.varint() // updated_at
	// The profiles, in blocks behind their lengths, up to one of no length.
	for n := r.varint(); n != 0; n = r.varint() {
		if n < 0 {
			return false // a block that tells its size: no writer of ours makes one
		}
		for range n {
			r.text() // profile
			r.take(8)
			if len(r.text()) > 0 || r.broken {
				return false
			}
			r.varint() // at
		}
	}
	// Comparing with a string that is made of bytes makes none.
	return string(r.text()) == rules && !r.broken
}

// text takes a string of Avro.
func (r *reader) text() []byte {
	n := r.varint()
	if n < 0 || n > int64(len(r.data)) {
		r.broken, r.data = true, nil
		return nil
	}
	return r.take(int(n))
}

// readable reports whether a schema has the layout. One that cannot be had now is
// asked for again; whoever decodes the record says why.
func (g *Glance) readable(ctx context.Context, id uint32) bool {
	g.mu.RLock()
	readable, known := g.known[id]
	g.mu.RUnlock()
	if known {
		return readable
	}
	schema, err := g.schemas.SchemaByID(ctx, int(id))
	if err != nil {
		return false
	}
	readable = g.layout != nil && reflect.DeepEqual(layoutOf(schema.Schema), g.layout)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.known[id] = readable
	return readable
}

// layoutOf is what decides about the bytes of a record up to the field rules: the
// types of fields in their order, without names of types, docs and defaults.
// Names of fields are kept, since they decide what is meant. It is nil for what is
// no record with such a field.
func layoutOf(schema string) any {
	var record struct {
		Type   string           `json:"type"`
		Fields []map[string]any `json:"fields"`
	}
	if json.Unmarshal([]byte(schema), &record) != nil || record.Type != "record" {
		return nil
	}
	var head []any
	for _, field := range record.Fields {
		head = append(head, field["name"], bare(field["type"]))
		if field["name"] == "rules" {
			return head
		}
	}
	return nil
}

// bare is a type without what does not change its bytes.
func bare(typ any) any {
	switch t := typ.(type) {
	case map[string]any:
		switch t["type"] {
		case "array":
			return []any{"array", bare(t["items"])}
		case "record":
			inner := []any{"record"}
			fields, _ := t["fields"].([]any)
			for _, f := range fields {
				field, _ := f.(map[string]any)
				inner = append(inner, field["name"], bare(field["type"]))
			}
			return inner
		case "map", "enum", "fixed": // this build's head has none of them
			return t
		}
		return bare(t["type"])
	}
	return typ
}
