package postmark_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"mailriver/pkg/esplist"
	"mailriver/pkg/esplist/esplisttest"
	"mailriver/pkg/esplist/postmark"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

var at = time.Date(2026, 11, 1, 8, 30, 0, 0, time.UTC)

func start(t *testing.T) esplisttest.Fixture {
	s := esplisttest.NewPostmark(t)
	var want []suppression.Entry
	for i, line := range []struct {
		reason, origin string
		want           suppression.Reason
	}{
		{"HardBounce", "Recipient", suppression.HardBounce},
		{"SpamComplaint", "Recipient", suppression.Complaint},
		{"ManualSuppression", "Recipient", suppression.Unsubscribe},
		{"ManualSuppression", "Customer", suppression.Manual},
		{"ManualSuppression", "Admin", suppression.Manual},
		{"ANewReason", "Admin", suppression.ProviderList},
	} {
		e := suppression.Entry{
			Address: fmt.Sprintf("%d@example.com", i), ScopeKind: event.ScopeStream, ScopeID: s.Stream,
			Reason: line.want, Since: at, Provider: "postmark",
		}
		s.Put(e.Address, line.reason, line.origin, at)
		want = append(want, e)
	}
	return esplisttest.Fixture{
		Server: s.Server, Key: s.Token, Want: want,
		Scoped: suppression.Entry{
			Address: "new-stream@example.net", ScopeKind: event.ScopeStream, ScopeID: s.Stream, Reason: suppression.Unsubscribe,
		},
		Client: func(t *testing.T, key string, transport esplist.Transport) esplist.Client {
			return client(t, postmark.Options{ServerToken: key, Stream: s.Stream, BaseURL: s.URL, Transport: transport})
		},
	}
}

func client(t *testing.T, o postmark.Options) *postmark.Client {
	t.Helper()
	c, err := postmark.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClient(t *testing.T) { esplisttest.Run(t, start) }

func TestNew(t *testing.T) {
	for _, o := range []postmark.Options{{Stream: "outbound"}, {ServerToken: "t"}, {ServerToken: "t", Stream: "../servers"}} {
		if _, err := postmark.New(o); err == nil {
			t.Errorf("New(%+v) = nil, want an error", o)
		}
	}
}

// The server refuses more than 50 at once.
func TestClient_Add_batches(t *testing.T) {
	f := start(t)
	var entries []suppression.Entry
	for i := range 101 {
		entries = append(entries, suppression.Entry{Address: fmt.Sprintf("m%d@example.com", i), ScopeKind: event.ScopeAddress})
	}
	results, err := f.Client(t, f.Key, esplist.Transport{}).Add(t.Context(), entries)
	if err != nil || len(results) != len(entries) {
		t.Errorf("Add = %d results, %v, want %d", len(results), err, len(entries))
	}
	if got := len(f.Server.Requests()); got != 3 {
		t.Errorf("%d requests, want 3", got)
	}
}

// What an answer does not call suppressed must not be reported as added.
func TestClient_Add_silent(t *testing.T) {
	f := start(t)
	f.Server.Next(esplisttest.Answer{Status: http.StatusOK, Body: `{"Suppressions":[
		{"EmailAddress":"A@Example.com","Status":"Suppressed","Message":null},
		{"EmailAddress":"b@example.com","Status":"Failed","Message":null}]}`})
	var entries []suppression.Entry
	for _, address := range []string{"a@example.com", "b@example.com", "c@example.com"} {
		entries = append(entries, suppression.Entry{Address: address, ScopeKind: event.ScopeAddress})
	}
	results, err := f.Client(t, f.Key, esplist.Transport{}).Add(t.Context(), entries)
	if err != nil || len(results) != 3 {
		t.Fatalf("Add = %+v, %v, want 3 results", results, err)
	}
	for i, want := range []string{"", "status Failed", "the answer does not tell of it"} {
		if got := results[i].Refused; got != want {
			t.Errorf("Add(%s): refused %q, want %q", entries[i].Address, got, want)
		}
	}
}
