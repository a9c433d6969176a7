// Package esptest is what every provider must pass: golden fixtures, purity,
// vocabulary, and totality over damaged input. It holds no provider's facts.
//
// A fixture is a folder testdata/<case> of the provider with
//
//	body         the request body, byte for byte
//	header.json  request headers, {"Name": "value"}; optional
//	want.json    what Parse must give; UPDATE_GOLDEN=1 rewrites it
package esptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/textproto"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

// Source is the source of every fixture.
const Source = "shop"

// ReceivedAt is when every fixture was received.
var receivedAt = time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC)

// golden is what a fixture is expected to give.
type golden struct {
	Events   []event.Event `json:"events"`
	Rejected []rejected    `json:"rejected,omitempty"`
	Fault    string        `json:"fault,omitempty"` // reason the whole body was given up
}

type rejected struct {
	Index  int32  `json:"index"`
	Reason string `json:"reason"`
	Raw    string `json:"raw"`
}

// Parse runs p over each fixture and compares with its want.json. It also
// checks that Parse is pure, that every value is within its vocabulary, that
// ids are set and differ, that each type the provider claims is shown by a
// fixture and none beside them, and that no truncation of a fixture panics.
func Parse(t *testing.T, p esp.Provider) {
	t.Helper()
	cases := Fixtures(t, "testdata")
	shown := map[event.Type]bool{}
	for name, hook := range cases {
		t.Run(name, func(t *testing.T) {
			got := run(t, p, hook)
			if again := run(t, p, hook); !reflect.DeepEqual(got, again) {
				t.Errorf("Parse is not pure: a second run gave\n%+v\nafter\n%+v", again, got)
			}
			compare(t, filepath.Join("testdata", name, "want.json"), got)
			ids := map[event.ID]int{}
			for i, e := range got.Events {
				shown[e.Type] = true
				if bad := e.Check(); bad != nil {
					t.Errorf("event %d: outside the vocabulary: %v", i, bad)
				}
				if e.ID.IsZero() || e.Provider != p.Name || e.Source != Source || e.OccurredAt.IsZero() {
					t.Errorf("event %d: id, provider, source and occurred_at must be set: %+v", i, e)
				}
				if first, twice := ids[e.ID]; twice {
					t.Errorf("events %d and %d have one id", first, i)
				}
				ids[e.ID] = i
			}
			for cut := range hook.Body {
				damaged := hook
				damaged.Body = hook.Body[:cut]
				run(t, p, damaged)
			}
		})
	}
	claimed := map[event.Type]bool{}
	for _, typ := range p.Types {
		claimed[typ] = true
		if !shown[typ] {
			t.Errorf("type %s is claimed by the provider and shown by no fixture", typ)
		}
	}
	for typ := range shown {
		if !claimed[typ] {
			t.Errorf("type %s is shown by a fixture and missing in Provider.Types", typ)
		}
	}
}

// Fixtures reads the fixtures below dir by name.
func Fixtures(t testing.TB, dir string) map[string]esp.Webhook {
	t.Helper()
	bodies, err := filepath.Glob(filepath.Join(dir, "*", "body"))
	if err != nil || len(bodies) == 0 {
		t.Fatalf("no fixtures at %s/*/body (%v)", dir, err)
	}
	hooks := make(map[string]esp.Webhook, len(bodies))
	for _, path := range bodies {
		folder := filepath.Dir(path)
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		hook := esp.Webhook{Source: Source, Header: textproto.MIMEHeader{}, Body: body, ReceivedAt: receivedAt}
		text, err := os.ReadFile(filepath.Join(folder, "header.json"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err == nil {
			var header map[string]string
			if err := json.Unmarshal(text, &header); err != nil {
				t.Fatalf("%s/header.json: %v", folder, err)
			}
			for name, value := range header {
				hook.Header.Set(name, value)
			}
		}
		hooks[filepath.Base(folder)] = hook
	}
	return hooks
}

// Fuzz feeds damaged fixtures to Parse: it must neither panic nor give an event
// outside the vocabulary, nor an unmarked error.
func Fuzz(f *testing.F, p esp.Provider) {
	for _, hook := range Fixtures(f, "testdata") {
		f.Add(hook.Body, hook.Header.Get("Content-Type"))
	}
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		hook := esp.Webhook{Source: Source, Header: textproto.MIMEHeader{}, Body: body, ReceivedAt: receivedAt}
		hook.Header.Set("Content-Type", contentType)
		for _, e := range run(t, p, hook).Events {
			if bad := e.Check(); bad != nil || e.ID.IsZero() {
				t.Errorf("bad fields %v, id %s", bad, e.ID)
			}
		}
	})
}

func run(t *testing.T, p esp.Provider, hook esp.Webhook) golden {
	t.Helper()
	result, err := p.Parse(hook)
	out := golden{Events: result.Events}
	for _, r := range result.Rejected {
		reason, permanent := fault.Reason(r.Err)
		if !permanent {
			t.Errorf("element %d is rejected with an unmarked error: %v", r.Index, r.Err)
		}
		out.Rejected = append(out.Rejected, rejected{Index: r.Index, Reason: reason, Raw: string(r.Raw)})
	}
	if err != nil {
		reason, permanent := fault.Reason(err)
		if !permanent {
			t.Errorf("Parse failed with an unmarked error: %v", err)
		}
		out.Fault = reason
	}
	return out
}

func compare(t *testing.T, path string, got golden) {
	t.Helper()
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(got); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (UPDATE_GOLDEN=1 writes it; review what it wrote)", err)
	}
	if !bytes.Equal(want, text.Bytes()) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", path, text.Bytes(), want)
	}
}
