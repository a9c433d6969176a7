package simulate

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"mailriver/pkg/event"
)

// notDetermined are the fields that a truth does not state, by JSON name: they
// depend on when and by what a webhook was received and normalized. Where a
// parser found the event inside its body is among them, because a redelivery
// may carry it at another place.
var notDetermined = []string{
	"schema_version", "revision", "received_at", "normalized_at", "normalizer_version",
	"raw_topic", "raw_partition", "raw_offset", "raw_event_index", "raw_recipient_index",
}

// WriteTruth writes what the canonical event must say, as one line of JSON.
func WriteTruth(w io.Writer, e event.Event) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return fmt.Errorf("truth of %s: %w", e.ID, err)
	}
	return nil
}

// ReadTruth reads what [WriteTruth] wrote, one event at a time. It ends at the
// first error. Unknown fields are errors: a truth that is compared only in part
// would prove less than it seems to.
func ReadTruth(r io.Reader) iter.Seq2[event.Event, error] {
	return func(yield func(event.Event, error) bool) {
		dec := json.NewDecoder(bufio.NewReaderSize(r, 1<<16))
		dec.DisallowUnknownFields()
		for n := 1; ; n++ {
			var e event.Event
			err := dec.Decode(&e)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(event.Event{}, fmt.Errorf("truth, event %d: %w", n, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Difference is one field in which an event is not what the truth says.
type Difference struct {
	Field string // JSON name
	Want  string
	Got   string
}

func (d Difference) String() string {
	return fmt.Sprintf("%s = %s, want %s", d.Field, d.Got, d.Want)
}

// Compare returns every field in which got is not what want says, in the order
// of the record. It leaves out the fields that the provider does not determine:
// schema_version, revision, received_at, normalized_at, normalizer_version and
// raw_*. A nil and an empty list are the same, times are compared as instants.
func Compare(want, got event.Event) []Difference {
	var diffs []Difference
	w, g := reflect.ValueOf(want), reflect.ValueOf(got)
	for i := range w.NumField() {
		field, _, _ := strings.Cut(w.Type().Field(i).Tag.Get("json"), ",")
		if slices.Contains(notDetermined, field) {
			continue
		}
		a, b := w.Field(i).Interface(), g.Field(i).Interface()
		if !same(a, b) {
			diffs = append(diffs, Difference{Field: field, Want: show(a), Got: show(b)})
		}
	}
	return diffs
}

func same(a, b any) bool {
	switch a := a.(type) {
	case time.Time:
		return a.Equal(b.(time.Time))
	case []string:
		return slices.Equal(a, b.([]string))
	case map[string]string:
		return maps.Equal(a, b.(map[string]string))
	}
	return reflect.DeepEqual(a, b) // follows the pointers to scalars
}

func show(v any) string {
	switch v := v.(type) {
	case event.ID:
		return v.String()
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}
