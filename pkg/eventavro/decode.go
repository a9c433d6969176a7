package eventavro

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/twmb/franz-go/pkg/sr"

	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

// Schemas is the part of *sr.Client that a Decoder uses.
type Schemas interface {
	SchemaByID(ctx context.Context, id int) (sr.Schema, error)
}

// Decoder reads events by the schema that each was written with. Schemas are
// asked for once per id and kept: an id never changes its meaning. It is safe
// for concurrent use.
type Decoder struct {
	schemas Schemas
	fields  map[string]accessor

	mu    sync.RWMutex
	plans map[uint32][]decodeStep
}

type decodeStep struct {
	schemaField
	set func(*event.Event, any) // nil: a field that this build does not know
}

// NewDecoder returns a decoder that asks schemas for what it has not seen.
func NewDecoder(schemas Schemas) *Decoder {
	return &Decoder{schemas: schemas, fields: fieldsByName(), plans: map[uint32][]decodeStep{}}
}

// Decode reads one record value. Its errors are permanent, except those of a
// registry that does not answer.
func (d *Decoder) Decode(ctx context.Context, value []byte) (event.Event, error) {
	if len(value) < headerSize || value[0] != magic {
		return event.Event{}, fault.Permanentf(fault.BadEnvelope, "value of %d bytes is not Confluent wire format", len(value))
	}
	id := binary.BigEndian.Uint32(value[1:])
	steps, err := d.plan(ctx, id)
	if err != nil {
		return event.Event{}, err
	}
	var e event.Event
	rest := value[headerSize:]
	for i := range steps {
		step := &steps[i]
		if step.optional {
			if len(rest) == 0 {
				return event.Event{}, fault.Permanentf(fault.BadAvro, "schema %d: field %s: short buffer", id, step.name)
			}
			branch := rest[0]
			rest = rest[1:]
			if branch == 0 {
				continue
			}
			if branch != 2 {
				return event.Event{}, fault.Permanentf(fault.BadAvro, "schema %d: field %s: no such union branch", id, step.name)
			}
		}
		var native any
		if native, rest, err = step.codec.NativeFromBinary(rest); err != nil {
			return event.Event{}, fault.Permanentf(fault.BadAvro, "schema %d: field %s: %w", id, step.name, err)
		}
		if step.set != nil {
			step.set(&e, native)
		}
	}
	if len(rest) > 0 {
		return event.Event{}, fault.Permanentf(fault.BadAvro, "schema %d: %d bytes after the record", id, len(rest))
	}
	if e.ID.IsZero() {
		return event.Event{}, fault.Permanentf(fault.BadAvro, "schema %d: event_id is missing or no UUID", id)
	}
	return e, nil
}

func (d *Decoder) plan(ctx context.Context, id uint32) ([]decodeStep, error) {
	d.mu.RLock()
	steps, ok := d.plans[id]
	d.mu.RUnlock()
	if ok {
		return steps, nil
	}
	schema, err := d.schemas.SchemaByID(ctx, int(id))
	if err != nil {
		if answer, found := errors.AsType[*sr.ResponseError](err); found && answer.StatusCode == http.StatusNotFound {
			return nil, fault.Permanentf(fault.UnknownSchema, "schema %d: %w", id, err)
		}
		return nil, fmt.Errorf("schema %d: registry: %w", id, err)
	}
	if schema.Type != sr.TypeAvro {
		return nil, fault.Permanentf(fault.UnknownSchema, "schema %d: is %s, want Avro", id, schema.Type)
	}
	parsed, err := parseFields(schema.Schema)
	if err != nil {
		return nil, fault.Permanentf(fault.UnknownSchema, "schema %d: %w", id, err)
	}
	for _, f := range parsed {
		steps = append(steps, decodeStep{f, d.fields[f.name].set})
	}
	d.mu.Lock()
	d.plans[id] = steps
	d.mu.Unlock()
	return steps, nil
}
