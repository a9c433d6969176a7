// Package avro writes and reads records in Confluent wire format: 0x00, the
// schema id as four bytes big-endian, the Avro record. It also speaks to the
// schema registry.
//
// It is the only user of goavro and of the registry client. goavro is the codec,
// one codec per field: an Avro record is the plain concatenation of its fields'
// encodings (Avro 1.12, "Records"), and coding field by field costs a third of
// building a map for each record. A test of package eventavro holds both against
// each other.
//
// goavro does not resolve a reader's against a writer's schema. A record is
// therefore decoded by the schema that it was written with, found by its id,
// and its fields go by name into the Go value: unknown ones are skipped, missing
// ones stay zero.
//
// It knows no schema: which field goes where is a table of [Field], kept beside
// the type that it fills (packages eventavro and suppressionavro). It does not
// check vocabularies, and does not produce or consume.
package avro

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/linkedin/goavro/v2"
)

const magic = 0x00

// headerSize is the length of what precedes the record: magic byte and id.
const headerSize = 5

// schemaField is a field of a parsed record schema.
type schemaField struct {
	name     string
	optional bool // a union of null and one other type, null first
	zero     any  // what a field that cannot be null holds for "not said"
	codec    *goavro.Codec
}

// parseFields splits a record schema into its fields. Logical types are taken
// off: they do not change the bytes, and plain numbers are cheaper than
// time.Time in between.
func parseFields(schema string) ([]schemaField, error) {
	var record struct {
		Type   string `json:"type"`
		Fields []struct {
			Name string          `json:"name"`
			Type json.RawMessage `json:"type"`
		} `json:"fields"`
	}
	if err := json.Unmarshal([]byte(schema), &record); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	if record.Type != "record" {
		return nil, fmt.Errorf("schema: is %q, want a record", record.Type)
	}
	fields := make([]schemaField, 0, len(record.Fields))
	for _, f := range record.Fields {
		var typ any
		if err := json.Unmarshal(f.Type, &typ); err != nil {
			return nil, fmt.Errorf("schema: field %s: %w", f.Name, err)
		}
		field := schemaField{name: f.Name}
		if union, ok := typ.([]any); ok && len(union) == 2 && union[0] == "null" {
			field.optional = true
			typ = union[1]
		}
		typ = plainType(typ)
		field.zero = zeroOf(typ)
		text, err := json.Marshal(typ)
		if err != nil {
			return nil, fmt.Errorf("schema: field %s: %w", f.Name, err)
		}
		if field.codec, err = goavro.NewCodec(string(text)); err != nil {
			return nil, fmt.Errorf("schema: field %s: %w", f.Name, err)
		}
		fields = append(fields, field)
	}
	return fields, nil
}

// zeroOf returns the native zero of a type, as goavro wants it.
func zeroOf(typ any) any {
	if complex, ok := typ.(map[string]any); ok {
		typ = complex["type"]
	}
	switch typ {
	case "int":
		return int32(0)
	case "long":
		return int64(0)
	case "boolean":
		return false
	case "array":
		return []any{}
	case "map":
		return map[string]any{}
	}
	return ""
}

// plainType removes logicalType at every depth.
func plainType(typ any) any {
	switch t := typ.(type) {
	case map[string]any:
		plain := make(map[string]any, len(t))
		for key, value := range t {
			if key != "logicalType" {
				plain[key] = plainType(value)
			}
		}
		return plain
	case []any:
		plain := make([]any, len(t))
		for i, value := range t {
			plain[i] = plainType(value)
		}
		return plain
	}
	return typ
}

// Encoder writes records by one registered schema. It is safe for concurrent use.
type Encoder[T any] struct {
	header [headerSize]byte
	steps  []encodeStep[T]
}

type encodeStep[T any] struct {
	schemaField
	get func(*T) any
}

// NewEncoder returns the encoder for a schema and its registered id. Every
// field of the schema must be in fields.
func NewEncoder[T any](schema string, id int, fields Fields[T]) (*Encoder[T], error) {
	parsed, err := parseFields(schema)
	if err != nil {
		return nil, err
	}
	enc := &Encoder[T]{header: [headerSize]byte{magic}}
	binary.BigEndian.PutUint32(enc.header[1:], uint32(id))
	for _, f := range parsed {
		access, ok := fields[f.name]
		if !ok {
			return nil, fmt.Errorf("schema: field %s is not a field of %T", f.name, *new(T))
		}
		enc.steps = append(enc.steps, encodeStep[T]{f, access.Get})
	}
	return enc, nil
}

// Append adds the encoded record to buf and returns the longer slice.
func (enc *Encoder[T]) Append(buf []byte, r *T) ([]byte, error) {
	buf = append(buf, enc.header[:]...)
	var err error
	for i := range enc.steps {
		step := &enc.steps[i]
		value := step.get(r)
		if step.optional {
			// The branch of a union is its index as a zigzag varint.
			if value == nil {
				buf = append(buf, 0)
				continue
			}
			buf = append(buf, 2)
		} else if value == nil {
			value = step.zero
		}
		if buf, err = step.codec.BinaryFromNative(buf, value); err != nil {
			return nil, fmt.Errorf("field %s: %w", step.name, err)
		}
	}
	return buf, nil
}

// Fields are the fields of T by their names in the schema.
type Fields[T any] map[string]Field[T]

// Field reads and writes one field of a record. Get returns nil for "not said";
// Set takes what goavro decodes, and ignores a type it does not expect.
type Field[T any] struct {
	Get func(*T) any
	Set func(*T, any)
}

// Text is a string; the empty one is null.
func Text[T any](at func(*T) *string) Field[T] {
	return Field[T]{
		Get: func(r *T) any {
			if s := *at(r); s != "" {
				return strings.ToValidUTF8(s, "\uFFFD") // Avro strings are UTF-8
			}
			return nil
		},
		Set: func(r *T, v any) {
			if s, ok := v.(string); ok {
				*at(r) = s
			}
		},
	}
}

// Number is an int; 0 is null.
func Number[T any](at func(*T) *int32) Field[T] {
	return Field[T]{
		Get: func(r *T) any {
			if n := *at(r); n != 0 {
				return n
			}
			return nil
		},
		Set: func(r *T, v any) {
			switch n := v.(type) {
			case int32:
				*at(r) = n
			case int64:
				*at(r) = int32(n)
			}
		},
	}
}

// Flag is a boolean.
func Flag[T any](at func(*T) *bool) Field[T] {
	return Field[T]{
		Get: func(r *T) any { return *at(r) },
		Set: func(r *T, v any) {
			if b, ok := v.(bool); ok {
				*at(r) = b
			}
		},
	}
}

// Instant is a time in microseconds; the zero time is null.
func Instant[T any](at func(*T) *time.Time) Field[T] {
	return Field[T]{
		Get: func(r *T) any {
			if t := *at(r); !t.IsZero() {
				return t.UnixMicro()
			}
			return nil
		},
		Set: func(r *T, v any) {
			if n, ok := v.(int64); ok {
				*at(r) = time.UnixMicro(n).UTC()
			}
		},
	}
}

// List is an array of strings.
func List[T any](at func(*T) *[]string) Field[T] {
	return Field[T]{
		Get: func(r *T) any {
			strs := *at(r)
			native := make([]any, len(strs))
			for i, s := range strs {
				native[i] = strings.ToValidUTF8(s, "\uFFFD")
			}
			return native
		},
		Set: func(r *T, v any) {
			native, _ := v.([]any)
			var strs []string
			for _, element := range native {
				if s, ok := element.(string); ok {
					strs = append(strs, s)
				}
			}
			*at(r) = strs
		},
	}
}

// Long is a long.
func Long[T any](at func(*T) *int64) Field[T] {
	return Field[T]{
		Get: func(r *T) any { return *at(r) },
		Set: func(r *T, v any) {
			if n, ok := v.(int64); ok {
				*at(r) = n
			}
		},
	}
}

// Records is an array of records. A field of a record that gives null is left to
// the default that its schema must have then.
func Records[T, E any](at func(*T) *[]E, fields Fields[E]) Field[T] {
	return Field[T]{
		Get: func(r *T) any {
			elements := *at(r)
			native := make([]any, len(elements))
			for i := range elements {
				record := make(map[string]any, len(fields))
				for name, field := range fields {
					if v := field.Get(&elements[i]); v != nil {
						record[name] = v
					}
				}
				native[i] = record
			}
			return native
		},
		Set: func(r *T, v any) {
			native, _ := v.([]any)
			if len(native) == 0 {
				return
			}
			elements := make([]E, len(native))
			for i := range native {
				record, _ := native[i].(map[string]any)
				for name, v := range record {
					if field, known := fields[name]; known {
						field.Set(&elements[i], v)
					}
				}
			}
			*at(r) = elements
		},
	}
}

// Double is a double.
func Double[T any](at func(*T) *float64) Field[T] {
	return Field[T]{
		Get: func(r *T) any { return *at(r) },
		Set: func(r *T, v any) {
			if n, ok := v.(float64); ok {
				*at(r) = n
			}
		},
	}
}

// Longs is an array of longs.
func Longs[T any](at func(*T) *[]int64) Field[T] {
	return Field[T]{
		Get: func(r *T) any {
			numbers := *at(r)
			native := make([]any, len(numbers))
			for i, n := range numbers {
				native[i] = n
			}
			return native
		},
		Set: func(r *T, v any) {
			native, _ := v.([]any)
			if len(native) == 0 {
				return
			}
			numbers := make([]int64, 0, len(native))
			for _, element := range native {
				if n, ok := element.(int64); ok {
					numbers = append(numbers, n)
				}
			}
			*at(r) = numbers
		},
	}
}

// ZeroableInstant is a time that the schema writes as 0 for "not said": in a
// nested record a union would cost a map for each element.
func ZeroableInstant[T any](at func(*T) *time.Time) Field[T] {
	field := Instant(at)
	set := field.Set
	field.Set = func(r *T, v any) {
		if n, ok := v.(int64); ok && n != 0 {
			set(r, v)
		}
	}
	return field
}
