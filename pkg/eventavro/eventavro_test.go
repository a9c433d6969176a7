package eventavro_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
	"github.com/twmb/franz-go/pkg/sr"

	"mailriver/pkg/avro"
	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/fault"
	"mailriver/schemas"
)

// schemaMap answers by id, as the registry does.
type schemaMap map[int]sr.Schema

func (m schemaMap) SchemaByID(_ context.Context, id int) (sr.Schema, error) {
	if s, ok := m[id]; ok {
		return s, nil
	}
	return sr.Schema{}, &sr.ResponseError{StatusCode: 404, ErrorCode: 40403}
}

func schemaOf(text string) sr.Schema { return sr.Schema{Schema: text, Type: sr.TypeAvro} }

// random fills every field of an event, or leaves it zero.
func random(r *rand.Rand, fill float64) event.Event {
	var e event.Event
	v := reflect.ValueOf(&e).Elem()
	word := func() string {
		words := []string{"a", "Grüße", "smtp; 550 5.1.1 no such user", "\u0000", strings.Repeat("x", 300), "日本語"}
		return words[r.IntN(len(words))]
	}
	for i := range v.NumField() {
		f := v.Field(i)
		if r.Float64() > fill {
			continue
		}
		switch f.Interface().(type) {
		case string, event.Type:
			f.SetString(word())
		case int32, int64:
			f.SetInt(int64(r.Int32()) - 1<<30)
		case bool:
			f.SetBool(true)
		case time.Time:
			f.Set(reflect.ValueOf(time.UnixMicro(r.Int64N(4e15)).UTC()))
		case []string:
			f.Set(reflect.ValueOf([]string{word(), word()}))
		case map[string]string:
			f.Set(reflect.ValueOf(map[string]string{word(): word()}))
		case *bool:
			f.Set(reflect.ValueOf(new(r.IntN(2) == 0)))
		case *int32:
			f.Set(reflect.ValueOf(new(r.Int32N(9))))
		case event.ID:
		default:
			panic("a field of an unexpected type: " + v.Type().Field(i).Name)
		}
	}
	e.ID = event.NewID("p", "s", word(), word())
	if e.Type == "" {
		e.Type = event.Delivered
	}
	if e.OccurredAt.IsZero() {
		e.OccurredAt = time.UnixMicro(1).UTC()
	}
	if e.ReceivedAt.IsZero() {
		e.ReceivedAt = time.UnixMicro(1).UTC()
	}
	return e
}

func TestRoundTrip(t *testing.T) {
	enc, err := eventavro.NewEncoder(schemas.EmailEventV1, 7)
	if err != nil {
		t.Fatal(err)
	}
	dec := eventavro.NewDecoder(schemaMap{7: schemaOf(schemas.EmailEventV1)})
	r := rand.New(rand.NewPCG(1, 2))
	for _, fill := range []float64{0, 0.3, 1} {
		for range 200 {
			want := random(r, fill)
			value, err := enc.Append(nil, &want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := dec.Decode(context.Background(), value)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("Decode() = %+v, %v, want %+v", got, err, want)
			}
		}
	}
}

// The record codec of goavro, given the same values, is the oracle of the
// field-by-field encoding.
func TestAppend_givesWhatTheRecordCodecGives(t *testing.T) {
	enc, err := eventavro.NewEncoder(schemas.EmailEventV1, 7)
	if err != nil {
		t.Fatal(err)
	}
	plain := strings.NewReplacer(`, "logicalType": "uuid"`, "", `, "logicalType": "timestamp-micros"`, "").Replace(schemas.EmailEventV1)
	oracle, err := goavro.NewCodec(plain)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		e := random(r, 0.5)
		value, err := enc.Append([]byte("before"), &e)
		if err != nil {
			t.Fatal(err)
		}
		record := value[len("before")+5:]
		native, rest, err := oracle.NativeFromBinary(record)
		if err != nil || len(rest) != 0 {
			t.Fatalf("oracle: %v, %d bytes left", err, len(rest))
		}
		if len(e.Metadata) > 1 {
			continue // the order of a map is not fixed
		}
		again, err := oracle.BinaryFromNative(nil, native)
		if err != nil || !bytes.Equal(again, record) {
			t.Fatalf("oracle gives %x, %v; got %x", again, err, record)
		}
		if id := native.(map[string]any)["event_id"]; id != e.ID.String() {
			t.Fatalf("event_id = %v, want %s", id, e.ID)
		}
	}
}

// The schema, the event and the table between them name the same fields.
func TestSchema_holdsEveryFieldOfTheEvent(t *testing.T) {
	var record struct {
		Fields []struct{ Name, Doc string }
	}
	if err := json.Unmarshal([]byte(schemas.EmailEventV1), &record); err != nil {
		t.Fatal(err)
	}
	inSchema := map[string]bool{}
	for _, f := range record.Fields {
		inSchema[f.Name] = true
		if f.Doc == "" {
			t.Errorf("field %s has no doc", f.Name)
		}
	}
	for field := range reflect.TypeFor[event.Event]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !inSchema[name] {
			t.Errorf("field %s of the event is not in the schema", name)
		}
		delete(inSchema, name)
	}
	for name := range inSchema {
		t.Errorf("field %s of the schema is not in the event", name)
	}
}

// A consumer of today reads what a writer of another version wrote.
func TestDecode_byTheWritersSchema(t *testing.T) {
	newer := strings.Replace(schemas.EmailEventV1, `{"name": "event_type"`,
		`{"name": "future", "type": ["null", {"type": "array", "items": ["null", "string"]}], "default": null}, {"name": "event_type"`, 1)
	codec, err := goavro.NewCodec(`{"type":"record","name":"EmailEvent","fields":[
		{"name":"event_id","type":"string"},
		{"name":"future","type":["null",{"type":"array","items":["null","string"]}]},
		{"name":"event_type","type":"string"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	id := event.NewID("p", "s", "r")
	body, err := codec.BinaryFromNative([]byte{0, 0, 0, 0, 9}, map[string]any{
		"event_id":   id.String(),
		"future":     goavro.Union("array", []any{goavro.Union("string", "x"), nil}),
		"event_type": "opened",
	})
	if err != nil {
		t.Fatal(err)
	}
	dec := eventavro.NewDecoder(schemaMap{9: schemaOf(codec.Schema()), 10: schemaOf(newer)})
	got, err := dec.Decode(context.Background(), body)
	if want := (event.Event{ID: id, Type: event.Opened}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Decode() = %+v, %v, want %+v", got, err, want)
	}
}

type deadRegistry struct{}

func (deadRegistry) SchemaByID(context.Context, int) (sr.Schema, error) {
	return sr.Schema{}, errors.New("connection refused")
}

func TestDecode_faults(t *testing.T) {
	enc, err := eventavro.NewEncoder(schemas.EmailEventV1, 7)
	if err != nil {
		t.Fatal(err)
	}
	e := random(rand.New(rand.NewPCG(5, 6)), 1)
	good, err := enc.Append(nil, &e)
	if err != nil {
		t.Fatal(err)
	}
	known := schemaMap{7: schemaOf(schemas.EmailEventV1), 8: {Schema: `{}`, Type: sr.TypeJSON}, 9: schemaOf(`{"type":"string"}`)}
	withID := func(id byte) []byte { b := bytes.Clone(good); b[4] = id; return b }
	tests := []struct {
		name   string
		from   avro.Schemas
		value  []byte
		reason string // "" is retryable
	}{
		{"empty", known, nil, fault.BadEnvelope},
		{"wrong magic", known, append([]byte{1}, good[1:]...), fault.BadEnvelope},
		{"unknown id", known, withID(99), fault.UnknownSchema},
		{"not Avro", known, withID(8), fault.UnknownSchema},
		{"not a record", known, withID(9), fault.UnknownSchema},
		{"cut short", known, good[:len(good)-1], fault.BadAvro},
		{"bytes left over", known, append(bytes.Clone(good), 0), fault.BadAvro},
		{"registry away", deadRegistry{}, good, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := eventavro.NewDecoder(tt.from).Decode(context.Background(), tt.value)
			reason, _ := fault.Reason(err)
			if err == nil || reason != tt.reason {
				t.Errorf("Decode() = %v, want reason %q", err, tt.reason)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	enc, err := eventavro.NewEncoder(schemas.EmailEventV1, 7)
	if err != nil {
		f.Fatal(err)
	}
	e := random(rand.New(rand.NewPCG(5, 6)), 1)
	good, err := enc.Append(nil, &e)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	dec := eventavro.NewDecoder(schemaMap{7: schemaOf(schemas.EmailEventV1)})
	f.Fuzz(func(t *testing.T, value []byte) {
		if _, err := dec.Decode(context.Background(), value); err != nil {
			if _, permanent := fault.Reason(err); !permanent {
				t.Errorf("Decode() = %v, want a permanent error", err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	enc, _ := eventavro.NewEncoder(schemas.EmailEventV1, 7)
	e := random(rand.New(rand.NewPCG(5, 6)), 0.5)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = enc.Append(buf[:0], &e)
	}
}

func BenchmarkDecode(b *testing.B) {
	enc, _ := eventavro.NewEncoder(schemas.EmailEventV1, 7)
	e := random(rand.New(rand.NewPCG(5, 6)), 0.5)
	value, _ := enc.Append(nil, &e)
	dec := eventavro.NewDecoder(schemaMap{7: schemaOf(schemas.EmailEventV1)})
	b.ReportAllocs()
	for b.Loop() {
		_, _ = dec.Decode(context.Background(), value)
	}
}
