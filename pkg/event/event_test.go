package event_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"mailriver/pkg/event"
)

func TestNewID(t *testing.T) {
	base := event.NewID("sendgrid", "shop", "ann@example.com", "evt-1")
	tests := []struct {
		name string
		id   event.ID
		same bool
	}{
		{"same parts", event.NewID("sendgrid", "shop", "ann@example.com", "evt-1"), true},
		{"recipient in another case", event.NewID("sendgrid", "shop", "Ann@Example.COM", "evt-1"), true},
		{"another provider", event.NewID("mailgun", "shop", "ann@example.com", "evt-1"), false},
		{"another source", event.NewID("sendgrid", "blog", "ann@example.com", "evt-1"), false},
		{"another recipient", event.NewID("sendgrid", "shop", "bob@example.com", "evt-1"), false},
		{"another native id", event.NewID("sendgrid", "shop", "ann@example.com", "evt-2"), false},
		{"parts split elsewhere", event.NewID("sendgrid", "shop", "ann@example.com", "evt", "-1"), false},
		{"an empty part more", event.NewID("sendgrid", "shop", "ann@example.com", "evt-1", ""), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.id == base; got != tt.same {
				t.Errorf("same as base = %t, want %t", got, tt.same)
			}
		})
	}
}

// An id is stored for ever: this literal may never change.
func TestNewID_isPinned(t *testing.T) {
	const want = "914b3107-ddd2-87ac-9ca5-685ed9d8372d" // computed apart from this code, with Python's hashlib and uuid
	id := event.NewID("sendgrid", "shop", "ann@example.com", "evt-1")
	if got := id.String(); got != want {
		t.Errorf("NewID() = %s, want %s", got, want)
	}
	back, err := event.ParseID(strings.ToUpper(want))
	if err != nil || back != id {
		t.Errorf("ParseID(%s) = %v, %v", want, back, err)
	}
}

func TestParseID_refuses(t *testing.T) {
	for _, text := range []string{"", "b0a1bb7d", "b0a1bb7d-8f4a-89b2-8b9f-3f0d7f0a2a5", "b0a1bb7dx8f4a-89b2-8b9f-3f0d7f0a2a55", "z0a1bb7d-8f4a-89b2-8b9f-3f0d7f0a2a55"} {
		if _, err := event.ParseID(text); err == nil {
			t.Errorf("ParseID(%q) = nil error, want ErrBadID", text)
		}
	}
}

func TestCheck(t *testing.T) {
	good := event.Event{Type: event.Bounced, BounceKind: event.KindHard, BounceCause: event.CauseUnknownRecipient}
	if bad := good.Check(); bad != nil {
		t.Errorf("Check() = %v, want nothing", bad)
	}
	wrong := event.Event{Type: "bounce", BounceKind: "Hard", ScopeKind: "galaxy"}
	if got, want := wrong.Check(), []string{"event_type", "bounce_kind", "scope_kind"}; !reflect.DeepEqual(got, want) {
		t.Errorf("Check() = %v, want %v", got, want)
	}
}

func TestWarn_once(t *testing.T) {
	var e event.Event
	e.Warn(event.WarnUnknownType)
	e.Warn(event.WarnUnknownType)
	if len(e.Warnings) != 1 {
		t.Errorf("Warnings = %v, want one", e.Warnings)
	}
}

// Every field carries a JSON name: it is the name of the Avro field and of the
// ClickHouse column.
func TestEvent_everyFieldIsNamed(t *testing.T) {
	typ := reflect.TypeFor[event.Event]()
	seen := map[string]bool{}
	for field := range typ.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name != strings.ToLower(name) || seen[name] {
			t.Errorf("field %s has the JSON name %q", field.Name, name)
		}
		seen[name] = true
	}
}

func TestID_asJSON(t *testing.T) {
	in := event.NewID("p", "s", "r")
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out event.ID
	if err := json.Unmarshal(text, &out); err != nil || out != in {
		t.Errorf("round trip of %s gave %v, %v", text, out, err)
	}
}
