package normalizer_test

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/kafka"
	"mailriver/pkg/machine"
	"mailriver/pkg/raw"
	"mailriver/schemas"
	"mailriver/services/normalizer"
)

// What the provider leaves open about machines is filled in, also after a word
// that is none was taken out, and is in the record. The identity stays.
func TestTransform_machines(t *testing.T) {
	topics := kafka.Topics{Raw: "raw", Events: "events", Dead: "dead"}
	enc, err := eventavro.NewEncoder(schemas.EmailEventV1, schemaID)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		event    event.Event
		verdict  string
		evidence []string
	}{
		{"a scanner clicks", event.Event{Type: event.Clicked, UserAgent: "curl/8.9.0", Machine: event.MachineUnknown}, event.MachineYes, []string{machine.HTTPClient}},
		{"a person clicks", event.Event{Type: event.Clicked, UserAgent: "Mozilla/5.0 (X11)", Machine: event.MachineUnknown}, event.MachineUnknown, nil},
		{"the provider says nothing at all", event.Event{Type: event.Opened}, event.MachineUnknown, nil},
		{
			"the provider says yes",
			event.Event{Type: event.Opened, UserAgent: "Mozilla/5.0", Machine: event.MachineYes, MachineEvidence: []string{event.EvidenceProviderFlag}},
			event.MachineYes,
			[]string{event.EvidenceProviderFlag},
		},
		{"a word that is none", event.Event{Type: event.Opened, UserAgent: "Mozilla/5.0", Machine: "maybe"}, event.MachineYes, []string{machine.AppleProxy}},
		{"no engagement", event.Event{Type: event.Delivered, UserAgent: "curl/8.9.0"}, "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.event.ID = event.NewID("one", "shop", "ann@example.com", tt.name)
			tt.event.OccurredAt = received
			one := esp.Provider{Name: "one", Parse: func(esp.Webhook) (esp.Result, error) {
				return esp.Result{Events: []event.Event{tt.event}}, nil
			}}
			transformer := normalizer.NewTransformer([]esp.Provider{one}, enc, topics, "test", func() time.Time { return received })
			in := raw.Record{Provider: "one", Source: "shop", ReceivedAt: received, Body: []byte("x")}.Kafka(topics.Raw, "key")
			made := transformer.Transform(in)
			if len(made.Events) != 1 {
				t.Fatalf("Transform() = %d events and %d letters, want one event", len(made.Events), len(made.Letters))
			}
			for _, e := range []event.Event{*made.Events[0].Event, decode(t, &kgo.Record{Value: made.Events[0].Record.Value})} {
				if e.Machine != tt.verdict || !slices.Equal(e.MachineEvidence, tt.evidence) {
					t.Errorf("machine = %q, %q, want %q, %q", e.Machine, e.MachineEvidence, tt.verdict, tt.evidence)
				}
				if e.ID != tt.event.ID {
					t.Errorf("event_id = %s, want %s", e.ID, tt.event.ID)
				}
			}
		})
	}
}
