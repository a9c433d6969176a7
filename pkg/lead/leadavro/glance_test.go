package leadavro_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"

	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/schemas"
)

// inNoStage is what a glance must say, as the decoder of whole records sees it.
func inNoStage(t testing.TB, value []byte, rules string) bool {
	t.Helper()
	record, err := leadavro.NewHeadDecoder(registry(schemas.LeadScoreV1)).Decode(t.Context(), value)
	if err != nil || record.Rules != rules {
		return false
	}
	for _, s := range record.Standings {
		if s.Stage != "" {
			return false
		}
	}
	return true
}

// A glance sees what the decoder sees, of any record that the encoder writes.
func TestGlance_agrees(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	glance := leadavro.NewGlance(registry(schemas.LeadScoreV1))
	seen := map[bool]int{}
	for range 2000 {
		record := leadavro.Record{State: random(r, r.IntN(4)), Rules: []string{"", "f", "fingerprint"}[r.IntN(3)]}
		record.Recipient = strings.Repeat("x", r.IntN(3)*r.IntN(90))
		for range r.IntN(4) {
			s := lead.Standing{Profile: strings.Repeat("p", 1+r.IntN(80)), Score: r.NormFloat64(), At: start}
			if r.IntN(4) == 0 {
				s.Stage = "warm"
			}
			record.Standings = append(record.Standings, s)
		}
		value := encode(t, record)
		got, want := glance.InNoStage(t.Context(), value, "fingerprint"), inNoStage(t, value, "fingerprint")
		if got != want {
			t.Fatalf("InNoStage(%+v) = %t, want %t", record, got, want)
		}
		seen[got]++
		cut := value[:r.IntN(len(value))]
		if glance.InNoStage(t.Context(), cut, "fingerprint") && !inNoStage(t, cut, "fingerprint") {
			t.Fatalf("InNoStage(the first %d bytes of %+v) = true, and the decoder refuses them", len(cut), record)
		}
	}
	if seen[true] < 100 || seen[false] < 100 {
		t.Errorf("answers = %v, want many of both", seen)
	}
}

// What is said of one layout is not said of another, whatever the bytes are. It
// turns red without the comparison of schemas.
func TestGlance_layouts(t *testing.T) {
	value := encode(t, leadavro.Record{State: lead.State{Recipient: "j@e.org"}, Rules: "f", Standings: []lead.Standing{{Profile: "p"}}})
	var indented any
	if err := json.Unmarshal([]byte(schemas.LeadScoreV1), &indented); err != nil {
		t.Fatal(err)
	}
	reprinted, err := json.Marshal(indented)
	if err != nil {
		t.Fatal(err)
	}
	without := strings.NewReplacer(`{"type": "long", "logicalType": "timestamp-micros"}`, `"long"`, "io.mailriver.lead.v1", "x").
		Replace(schemas.LeadScoreV1)
	replaced := func(old, by string) string {
		t.Helper()
		schema := strings.Replace(schemas.LeadScoreV1, old, by, 1)
		if schema == schemas.LeadScoreV1 {
			t.Fatalf("the schema has no %s", old)
		}
		return schema
	}
	for _, tt := range []struct {
		name, schema string
		want         bool
	}{
		{"this build's", schemas.LeadScoreV1, true},
		{"printed by the registry in its own way", string(reprinted), true},
		{"other names of types, no logical types", without, true},
		{"a new field at the end", replaced(`"name": "state"`, `"name": "new", "type": "long"}, {"name": "state"`), true},
		{"a new field before rules", replaced(`{"name": "rules"`, `{"name": "new", "type": "string"}, {"name": "rules"`), false},
		{"a new field of a standing", replaced(`{"name": "stage"`, `{"name": "new", "type": "string"}, {"name": "stage"`), false},
		{"a field renamed", replaced(`"name": "stage"`, `"name": "phase"`), false},
		{"a field of another type", replaced(`"name": "score", "type": "double"`, `"name": "score", "type": "float"`), false},
		{"a field that can be null", replaced(`"name": "recipient", "type": "string"`, `"name": "recipient", "type": ["null", "string"]`), false},
		{"no rules", replaced(`"name": "rules"`, `"name": "law"`), false},
		{"no record", `"string"`, false},
		{"no schema", `{`, false},
	} {
		if got := leadavro.NewGlance(registry(tt.schema)).InNoStage(t.Context(), value, "f"); got != tt.want {
			t.Errorf("%s: InNoStage() = %t, want %t", tt.name, got, tt.want)
		}
	}
}

// flaky answers from the second time on.
type flaky struct{ asked int }

func (f *flaky) SchemaByID(context.Context, int) (sr.Schema, error) {
	if f.asked++; f.asked == 1 {
		return sr.Schema{}, errors.New("registry is down")
	}
	return sr.Schema{Schema: schemas.LeadScoreV1}, nil
}

// A registry that is down for a moment does not make a glance blind for ever, and
// one that has answered is not asked again.
func TestGlance_registry(t *testing.T) {
	value := encode(t, leadavro.Record{State: lead.State{Recipient: "j@e.org"}, Rules: "f"})
	schemas := &flaky{}
	glance := leadavro.NewGlance(schemas)
	for i, want := range []bool{false, true, true} {
		if got := glance.InNoStage(t.Context(), value, "f"); got != want {
			t.Errorf("InNoStage(), time %d = %t, want %t", i+1, got, want)
		}
	}
	if schemas.asked != 2 {
		t.Errorf("registry was asked %d times, want 2", schemas.asked)
	}
}

// Nothing is allocated for a record, or a glance would not be worth it.
func TestGlance_allocations(t *testing.T) {
	value := encode(t, leadavro.Record{State: lead.State{Recipient: "j@e.org"}, Rules: "f", Standings: []lead.Standing{{Profile: "p"}}})
	glance := leadavro.NewGlance(registry(schemas.LeadScoreV1))
	if n := testing.AllocsPerRun(100, func() { glance.InNoStage(t.Context(), value, "f") }); n != 0 {
		t.Errorf("InNoStage() allocates %v times, want 0", n)
	}
}

// FuzzGlance: no bytes panic, and what a glance is sure of the decoder says too.
func FuzzGlance(f *testing.F) {
	for _, stage := range []string{"", "warm"} {
		f.Add(encode(f, leadavro.Record{
			State: lead.State{Recipient: "j@e.org"}, Rules: "f", Standings: []lead.Standing{{Profile: "p", Stage: stage, At: start}},
		}))
	}
	glance := leadavro.NewGlance(registry(schemas.LeadScoreV1))
	f.Fuzz(func(t *testing.T, value []byte) {
		if glance.InNoStage(t.Context(), value, "f") && !inNoStage(t, value, "f") {
			t.Errorf("InNoStage(%x) = true, and the decoder says otherwise", value)
		}
	})
}
