package sendgrid_test

import (
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"mailriver/pkg/esplist"
	"mailriver/pkg/esplist/esplisttest"
	"mailriver/pkg/esplist/sendgrid"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

var at = time.Date(2026, 11, 1, 8, 30, 0, 0, time.UTC)

func seed(t *testing.T) (*esplisttest.SendGrid, []suppression.Entry) {
	s := esplisttest.NewSendGrid(t)
	var want []suppression.Entry
	put := func(list, address, note, scope string, reason suppression.Reason) {
		s.Put(list, address, note, at)
		want = append(want, suppression.Entry{
			Address: address, ScopeKind: scope, Reason: reason, Since: at, Provider: "sendgrid", Note: note,
		})
	}
	for i := range 7 {
		put("bounces", string(rune('a'+i))+"@example.com", "550 no such user", event.ScopeAddress, suppression.HardBounce)
	}
	put("spam_reports", "a@example.com", "", event.ScopeAddress, suppression.Complaint)
	put("invalid_emails", "typo@example", "Mail domain mentioned in email address is unknown", event.ScopeAddress, suppression.InvalidAddress)
	put("unsubscribes", "u@example.com", "", event.ScopeAccount, suppression.Unsubscribe)
	s.Put("blocks", "block@example.com", "554 5.7.1 blocked", at) // stops no mail
	s.Group(42, "u@example.com", "v@example.com")
	s.Group(43)
	for _, address := range []string{"u@example.com", "v@example.com"} {
		want = append(want, suppression.Entry{
			Address: address, ScopeKind: event.ScopeGroup, ScopeID: "42", Reason: suppression.Unsubscribe, Provider: "sendgrid",
		})
	}
	return s, want
}

func start(t *testing.T) esplisttest.Fixture {
	s, want := seed(t)
	return esplisttest.Fixture{
		Server: s.Server, Key: s.Key, Want: want,
		Scoped: suppression.Entry{
			Address: "new-group@example.net", ScopeKind: event.ScopeGroup, ScopeID: "43", Reason: suppression.Unsubscribe,
		},
		Client: func(t *testing.T, key string, transport esplist.Transport) esplist.Client {
			return client(t, sendgrid.Options{Key: key, BaseURL: s.URL, Transport: transport})
		},
	}
}

func client(t *testing.T, o sendgrid.Options) *sendgrid.Client {
	t.Helper()
	c, err := sendgrid.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClient(t *testing.T) { esplisttest.Run(t, start) }

func TestNew(t *testing.T) {
	for _, o := range []sendgrid.Options{{}, {Key: "k", Groups: []string{"../x"}}, {Key: "k", BaseURL: "ftp://example.com"}} {
		if _, err := sendgrid.New(o); err == nil {
			t.Errorf("New(%+v) = nil, want an error", o)
		}
	}
}

// SendGrid sends no Retry-After, but the second at which it listens again.
func TestClient_rateLimit(t *testing.T) {
	f := start(t)
	clock := &esplisttest.Clock{At: esplisttest.Noon}
	reset := strconv.FormatInt(esplisttest.Noon.Add(9*time.Second).Unix(), 10)
	f.Server.Next(esplisttest.Answer{
		Status: http.StatusTooManyRequests, Header: map[string]string{"X-RateLimit-Reset": reset},
		Body: `{"errors":[{"field":null,"message":"too many requests"}]}`,
	})
	esplisttest.List(t, f.Client(t, f.Key, clock.Transport()))
	if got, want := clock.Slept(), []time.Duration{9 * time.Second}; !slices.Equal(got, want) {
		t.Errorf("slept %v, want %v", got, want)
	}
}

func TestClient_groups(t *testing.T) {
	s, _ := seed(t)
	c := client(t, sendgrid.Options{Key: s.Key, OnBehalfOf: "sub", Groups: []string{"43"}, BaseURL: s.URL})
	for _, e := range esplisttest.List(t, c) {
		if e.ScopeKind == event.ScopeGroup {
			t.Errorf("List gave %+v, want no entry of group 42", e)
		}
	}
	if got := s.Headers()[0].Get("On-Behalf-Of"); got != "sub" {
		t.Errorf("On-Behalf-Of = %q, want sub", got)
	}
	e := suppression.Entry{Address: "x@example.com", ScopeKind: event.ScopeGroup, ScopeID: "42"}
	if got, err := c.Express(e); err == nil {
		t.Errorf("Express(%+v) = %+v, want an error: the group is not ours", e, got)
	}
}

// A bounce that arrives while the list is read shifts the pages. Without the
// bound in time, an entry is given twice.
func TestClient_List_shifting(t *testing.T) {
	s, want := seed(t)
	c := client(t, sendgrid.Options{Key: s.Key, BaseURL: s.URL, Transport: (&esplisttest.Clock{At: esplisttest.Noon}).Transport()})
	seen := 0
	err := c.List(t.Context(), func(e suppression.Entry) error {
		if seen++; e.Reason == suppression.HardBounce && e.Address == "f@example.com" {
			s.Put("bounces", "late@example.com", "", esplisttest.Noon.Add(time.Second))
		}
		return nil
	})
	if err != nil || seen != len(want) {
		t.Errorf("List = %d entries, %v, want %d", seen, err, len(want))
	}
}

// One group that was deleted must not keep the opt-outs of the others, and all
// that comes after them, from being added.
func TestClient_Add_groupIsGone(t *testing.T) {
	f := start(t)
	group := func(address, id string) suppression.Entry {
		return suppression.Entry{Address: address, ScopeKind: event.ScopeGroup, ScopeID: id}
	}
	entries := []suppression.Entry{
		group("a@example.net", "99"), group("b@example.net", "99"), group("c@example.net", "43"),
		{Address: "d@example.net", ScopeKind: event.ScopeAddress},
	}
	results, err := f.Client(t, f.Key, esplist.Transport{}).Add(t.Context(), entries)
	if err != nil || len(results) != len(entries) {
		t.Fatalf("Add = %+v, %v, want %d results", results, err, len(entries))
	}
	for i, want := range []string{"there is no group 99", "there is no group 99", "", ""} {
		if got := results[i]; got.Entry != entries[i] || got.Refused != want {
			t.Errorf("Add: result %d = %+v, want refused %q", i, got, want)
		}
	}
}
