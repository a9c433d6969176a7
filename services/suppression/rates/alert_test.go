package rates

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/schemas"
)

const (
	eventSchema = 7
	alertSchema = 8
)

// registry knows the two schemas.
type registry struct{}

func (registry) SchemaByID(_ context.Context, id int) (sr.Schema, error) {
	switch id {
	case eventSchema:
		return sr.Schema{Schema: schemas.EmailEventV1, Type: sr.TypeAvro}, nil
	case alertSchema:
		return sr.Schema{Schema: schemas.AlertV1, Type: sr.TypeAvro}, nil
	}
	return sr.Schema{}, errors.New("connection refused")
}

func someAlert() Alert {
	a := Alert{
		Rate: HardBounce, Sender: "shop.example", Level: Warning, Previous: Critical, Value: 0.021, Threshold: 0.05,
		Events: 21, Volume: 1000, MinVolume: 1000, WindowStart: noon.Add(-24 * time.Hour), WindowEnd: noon, DecidedAt: noon.Add(time.Microsecond),
		PreviousID: event.NewID("p", "s", "r"),
	}
	a.ID = a.identity()
	return a
}

func TestAlert_roundTrip(t *testing.T) {
	enc, err := NewEncoder(alertSchema)
	if err != nil {
		t.Fatal(err)
	}
	first := someAlert()
	first.PreviousID, first.Value = event.ID{}, 0
	for _, want := range []Alert{someAlert(), first} {
		value, err := enc.Append(nil, &want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewDecoder(registry{}).Decode(t.Context(), value)
		if err != nil || got != want {
			t.Errorf("Decode() = %+v, %v, want %+v", got, err, want)
		}
	}
	value, err := enc.Append(nil, &Alert{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewDecoder(registry{}).Decode(t.Context(), value)
	if reason, _ := fault.Reason(err); reason != fault.BadAvro {
		t.Errorf("Decode() of an empty alert = %v, want the reason %s", err, fault.BadAvro)
	}
}

// The id depends on what is told, and on nothing else: not on when it was found.
func TestIdentity(t *testing.T) {
	base := someAlert()
	for name, tt := range map[string]struct {
		change func(*Alert)
		same   bool
	}{
		"later":          {func(a *Alert) { a.DecidedAt = noon.Add(time.Hour) }, true},
		"other numbers":  {func(a *Alert) { a.Events, a.Volume, a.Value = 22, 1001, 0.022 }, true},
		"other rate":     {func(a *Alert) { a.Rate = Complaint }, false},
		"other sender":   {func(a *Alert) { a.Sender = "b.example" }, false},
		"other level":    {func(a *Alert) { a.Level = OK }, false},
		"other before":   {func(a *Alert) { a.Previous = OK }, false},
		"other window":   {func(a *Alert) { a.WindowEnd = noon.Add(time.Hour) }, false},
		"other previous": {func(a *Alert) { a.PreviousID = event.NewID("p", "s", "r2") }, false},
	} {
		a := base
		tt.change(&a)
		if got := a.identity() == base.ID; got != tt.same {
			t.Errorf("%s: the id is the same = %t, want %t", name, got, tt.same)
		}
	}
}

// Readers of other languages go by the documentation in the schema.
func TestSchema_everyFieldIsDocumented(t *testing.T) {
	var record struct {
		Doc    string
		Fields []struct{ Name, Doc string }
	}
	if err := json.Unmarshal([]byte(schemas.AlertV1), &record); err != nil {
		t.Fatal(err)
	}
	if record.Doc == "" || len(record.Fields) != len(fields()) {
		t.Errorf("the schema has %d fields, want the %d of the table, and a doc", len(record.Fields), len(fields()))
	}
	for _, f := range record.Fields {
		if f.Doc == "" {
			t.Errorf("field %s has no doc", f.Name)
		}
	}
}
