package suppressionavro_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
	"mailriver/schemas"
)

const schemaID = 5

type registry struct{}

func (registry) SchemaByID(_ context.Context, id int) (sr.Schema, error) {
	if id != schemaID {
		return sr.Schema{}, errors.New("connection refused")
	}
	return sr.Schema{Schema: schemas.SuppressionV1, Type: sr.TypeAvro}, nil
}

func random(r *rand.Rand) suppressionavro.Record {
	p := suppression.DefaultPolicy()
	s := suppression.State{Address: fmt.Sprintf("Jane%d@example.com", r.IntN(100)), ScopeKind: event.ScopeStream, ScopeID: "news"}
	for i := range 1 + r.IntN(6) {
		f := suppression.Fact{
			EventID: event.NewID("p", "s", fmt.Sprint(r.Int64(), i)), Revision: int32(r.IntN(2)), Effect: suppression.Suppress,
			Reason: suppression.Reasons()[r.IntN(6)], At: time.UnixMicro(1.7e15 + r.Int64N(1e12)).UTC(),
			Provider: "ses", Source: "ses-eu", EventType: event.Bounced, Message: r.Int64N(5), Detail: "unknown_recipient 5.1.1",
		}
		if r.IntN(3) == 0 {
			f.Effect, f.ExpiresAt, f.Actor, f.Given = suppression.Lift, f.At.Add(time.Hour), "ops", "stream:news"
		}
		s = s.Add(f)
	}
	return suppressionavro.NewRecord(s, &p, p.Fingerprint())
}

func TestRoundTrip(t *testing.T) {
	enc, err := suppressionavro.NewEncoder(schemaID)
	if err != nil {
		t.Fatal(err)
	}
	whole, head := suppressionavro.NewDecoder(registry{}), suppressionavro.NewHeadDecoder(registry{})
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		want := random(r)
		value, err := enc.Append(nil, &want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := whole.Decode(t.Context(), value)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("Decode() = %+v, %v,\nwant %+v", got, err, want)
		}
		want.Facts = nil
		got, err = head.Decode(t.Context(), value)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("Decode() of the head = %+v, %v,\nwant %+v", got, err, want)
		}
	}
}

func TestDecode_faults(t *testing.T) {
	enc, err := suppressionavro.NewEncoder(schemaID)
	if err != nil {
		t.Fatal(err)
	}
	nobody := suppressionavro.Record{}
	empty, err := enc.Append(nil, &nobody)
	if err != nil {
		t.Fatal(err)
	}
	away := append([]byte(nil), empty...)
	away[4]++
	for _, tt := range []struct {
		name, reason string
		value        []byte
	}{
		{"no address", fault.BadAvro, empty},
		{"no envelope", fault.BadEnvelope, []byte("{}")},
		{"registry away", "", away},
	} {
		_, err := suppressionavro.NewDecoder(registry{}).Decode(t.Context(), tt.value)
		if reason, _ := fault.Reason(err); err == nil || reason != tt.reason {
			t.Errorf("%s: Decode() = %v, want reason %q", tt.name, err, tt.reason)
		}
	}
}

// Readers of other languages go by the documentation in the schema.
func TestSchema_everyFieldIsDocumented(t *testing.T) {
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case []any:
			for _, element := range v {
				walk(path, element)
			}
		case map[string]any:
			name, _ := v["name"].(string)
			if name != "" {
				path += "/" + name
				if doc, _ := v["doc"].(string); doc == "" {
					t.Errorf("%s has no doc", path)
				}
			}
			for _, key := range []string{"fields", "items", "type"} {
				walk(path, v[key])
			}
		}
	}
	var schema any
	if err := json.Unmarshal([]byte(schemas.SuppressionV1), &schema); err != nil {
		t.Fatal(err)
	}
	walk("", schema)
}

func BenchmarkDecode(b *testing.B) {
	enc, err := suppressionavro.NewEncoder(schemaID)
	if err != nil {
		b.Fatal(err)
	}
	p := suppression.DefaultPolicy()
	s := suppression.State{Address: "jane@example.com", ScopeKind: event.ScopeAddress}.Add(suppression.Fact{
		EventID: event.NewID("p", "s", "r"), Effect: suppression.Suppress, Reason: suppression.HardBounce, At: time.UnixMicro(1.7e15),
		Provider: "ses", Source: "ses", EventType: event.Bounced, Message: 1 << 60, Detail: "unknown_recipient 5.1.1",
	})
	record := suppressionavro.NewRecord(s, &p, p.Fingerprint())
	value, err := enc.Append(nil, &record)
	if err != nil {
		b.Fatal(err)
	}
	for _, d := range []struct {
		name string
		*suppressionavro.Decoder
	}{{"whole", suppressionavro.NewDecoder(registry{})}, {"head", suppressionavro.NewHeadDecoder(registry{})}} {
		b.Run(d.name, func(b *testing.B) {
			b.ReportMetric(float64(len(value)), "bytes")
			for b.Loop() {
				if _, err := d.Decode(context.Background(), value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
