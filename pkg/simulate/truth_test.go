package simulate_test

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/simulate"
)

func TestTruth_roundTrip(t *testing.T) {
	var file bytes.Buffer
	var want []event.Event
	for r := range generate(t, newKeys(t).Sources(base, certHost), simulate.Options{Seed: 12, Events: 600, Unsigned: true}) {
		for _, e := range r.Truth {
			if err := simulate.WriteTruth(&file, e); err != nil {
				t.Fatal(err)
			}
			want = append(want, e)
		}
	}
	if lines := bytes.Count(file.Bytes(), []byte("\n")); lines != len(want) {
		t.Errorf("%d lines for %d events", lines, len(want))
	}
	if strings.Contains(file.String(), "received_at\":") || strings.Contains(file.String(), "raw_topic") {
		t.Error("the file holds fields that no provider determines")
	}
	n := 0
	for got, err := range simulate.ReadTruth(&file) {
		if err != nil {
			t.Fatal(err)
		}
		if diffs := simulate.Compare(want[n], got); diffs != nil {
			t.Errorf("event %d: %v", n, diffs)
		}
		n++
	}
	if n != len(want) {
		t.Errorf("ReadTruth() gave %d events, want %d", n, len(want))
	}
}

func TestReadTruth_refuses(t *testing.T) {
	const good = `{"event_id":"914b3107-ddd2-87ac-9ca5-685ed9d8372d","event_type":"sent","provider":"mandrill","occurred_at":"2026-11-23T10:00:00Z"}`
	for _, bad := range []string{`{`, `{"event_id":"x"}`, `{"event_typ":"sent"}`, `[]`} {
		events, errs := 0, 0
		for _, err := range simulate.ReadTruth(strings.NewReader(good + "\n" + bad + "\n" + good + "\n")) {
			if err != nil {
				errs++
			} else {
				events++
			}
		}
		if events != 1 || errs != 1 {
			t.Errorf("ReadTruth(good, %s, good) = %d events, %d errors, want it to stop at the second", bad, events, errs)
		}
	}
}

// Every field that a provider determines is compared, by its JSON name.
func TestCompare_seesEveryField(t *testing.T) {
	ignored := []string{
		"schema_version", "revision", "received_at", "normalized_at", "normalizer_version",
		"raw_topic", "raw_partition", "raw_offset", "raw_event_index", "raw_recipient_index",
	}
	at := time.Date(2026, time.November, 23, 10, 0, 0, 0, time.UTC)
	typ := reflect.TypeFor[event.Event]()
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		t.Run(name, func(t *testing.T) {
			var want, got event.Event
			field := reflect.ValueOf(&got).Elem().Field(i)
			switch value := field.Addr().Interface().(type) {
			case *string:
				*value = "x"
			case *event.Type:
				*value = event.Sent
			case *event.ID:
				value[3] = 1
			case *bool:
				*value = true
			case *int32:
				*value = 1
			case *int64:
				*value = 1
			case *time.Time:
				*value = at
			case *[]string:
				*value = []string{"x"}
			case *map[string]string:
				*value = map[string]string{"x": ""}
			case **bool:
				*value = new(false)
			case **int32:
				*value = new(int32(0))
			default:
				t.Fatalf("field of type %s: teach this test", field.Type())
			}
			for _, diffs := range [][]simulate.Difference{simulate.Compare(want, got), simulate.Compare(got, want)} {
				if slices.Contains(ignored, name) {
					if diffs != nil {
						t.Errorf("Compare() = %v, want it ignored", diffs)
					}
					continue
				}
				if len(diffs) != 1 || diffs[0].Field != name || diffs[0].Want == diffs[0].Got {
					t.Errorf("Compare() = %v, want one difference in %s", diffs, name)
				}
			}
			if diffs := simulate.Compare(got, got); diffs != nil {
				t.Errorf("Compare(same) = %v", diffs)
			}
		})
	}
}

func TestCompare_sameMeaning(t *testing.T) {
	at := time.Date(2026, time.November, 23, 10, 0, 0, 0, time.UTC)
	a := event.Event{OccurredAt: at, Tags: nil, Metadata: nil, ProviderSuppressed: new(true)}
	b := event.Event{OccurredAt: at.In(time.FixedZone("", 3600)), Tags: []string{}, Metadata: map[string]string{}, ProviderSuppressed: new(true)}
	if diffs := simulate.Compare(a, b); diffs != nil {
		t.Errorf("Compare() = %v, want none", diffs)
	}
	b.ProviderSuppressed = new(false)
	if diffs := simulate.Compare(a, b); len(diffs) != 1 || diffs[0].String() != "provider_suppressed = false, want true" {
		t.Errorf("Compare() = %v, want provider_suppressed", diffs)
	}
}
