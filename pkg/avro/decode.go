package avro

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/twmb/franz-go/pkg/sr"

	"mailriver/pkg/fault"
)

// Schemas is the part of *sr.Client that a Decoder uses.
type Schemas interface {
	SchemaByID(ctx context.Context, id int) (sr.Schema, error)
}

// Decoder reads records by the schema that each was written with. Schemas are
// asked for once per id and kept: an id never changes its meaning. It is safe
// for concurrent use.
type Decoder[T any] struct {
	schemas Schemas
	fields  Fields[T]
	check   func(*T) error
	partial bool

	mu    sync.RWMutex
	plans map[uint32][]decodeStep[T]
}

type decodeStep[T any] struct {
	schemaField
	set func(*T, any) // nil: a field that this build does not know
}

// NewDecoder returns a decoder that asks schemas for what it has not seen. Check
// is asked about each record that was read; its error should be permanent.
func NewDecoder[T any](schemas Schemas, fields Fields[T], check func(*T) error) *Decoder[T] {
	return &Decoder[T]{schemas: schemas, fields: fields, check: check, plans: map[uint32][]decodeStep[T]{}}
}

// Partial makes the decoder stop behind the last field that it has a place for.
// What follows is neither read nor checked. For records whose head is wanted
// often and whose tail is long.
func (d *Decoder[T]) Partial() *Decoder[T] {
	return &Decoder[T]{schemas: d.schemas, fields: d.fields, check: d.check, partial: true, plans: map[uint32][]decodeStep[T]{}}
}

// Decode reads one record value. Its errors are permanent, except those of a
// registry that does not answer.
func (d *Decoder[T]) Decode(ctx context.Context, value []byte) (T, error) {
	if len(value) < headerSize || value[0] != magic {
		return *new(T), fault.Permanentf(fault.BadEnvelope, "value of %d bytes is not Confluent wire format", len(value))
	}
	id := binary.BigEndian.Uint32(value[1:])
	steps, err := d.plan(ctx, id)
	if err != nil {
		return *new(T), err
	}
	var r T
	rest := value[headerSize:]
	for i := range steps {
		step := &steps[i]
		if step.optional {
			if len(rest) == 0 {
				return *new(T), fault.Permanentf(fault.BadAvro, "schema %d: field %s: short buffer", id, step.name)
			}
			branch := rest[0]
			rest = rest[1:]
			if branch == 0 {
				continue
			}
			if branch != 2 {
				return *new(T), fault.Permanentf(fault.BadAvro, "schema %d: field %s: no such union branch", id, step.name)
			}
		}
		var native any
		if native, rest, err = step.codec.NativeFromBinary(rest); err != nil {
			return *new(T), fault.Permanentf(fault.BadAvro, "schema %d: field %s: %w", id, step.name, err)
		}
		if step.set != nil {
			step.set(&r, native)
		}
	}
	if len(rest) > 0 && !d.partial {
		return *new(T), fault.Permanentf(fault.BadAvro, "schema %d: %d bytes after the record", id, len(rest))
	}
	if err := d.check(&r); err != nil {
		return *new(T), fmt.Errorf("schema %d: %w", id, err)
	}
	return r, nil
}

func (d *Decoder[T]) plan(ctx context.Context, id uint32) ([]decodeStep[T], error) {
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
		steps = append(steps, decodeStep[T]{f, d.fields[f.name].Set})
	}
	for d.partial && len(steps) > 0 && steps[len(steps)-1].set == nil {
		steps = steps[:len(steps)-1]
	}
	d.mu.Lock()
	d.plans[id] = steps
	d.mu.Unlock()
	return steps, nil
}
