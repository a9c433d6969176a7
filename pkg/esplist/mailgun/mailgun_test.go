package mailgun_test

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/esplist"
	"mailriver/pkg/esplist/esplisttest"
	"mailriver/pkg/esplist/mailgun"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

var at = time.Date(2026, 11, 1, 8, 30, 0, 0, time.UTC)

func seed(t *testing.T) (*esplisttest.Mailgun, []suppression.Entry) {
	s := esplisttest.NewMailgun(t)
	var want []suppression.Entry
	entry := func(address string, reason suppression.Reason, note string) *suppression.Entry {
		want = append(want, suppression.Entry{
			Address: address, ScopeKind: event.ScopeDomain, ScopeID: s.Domain,
			Reason: reason, Since: at, Provider: "mailgun", Note: note,
		})
		return &want[len(want)-1]
	}
	for i := range 6 { // two full pages
		address := string(rune('a'+i)) + "+tag@example.com"
		s.Put("bounces", address, "No such mailbox", at)
		entry(address, suppression.HardBounce, "550 No such mailbox")
	}
	s.Put("complaints", "a+tag@example.com", "", at)
	entry("a+tag@example.com", suppression.Complaint, "")
	s.Put("unsubscribes", "all@example.com", "", at, "*")
	entry("all@example.com", suppression.Unsubscribe, "")
	s.Put("unsubscribes", "none@example.com", "", at)
	entry("none@example.com", suppression.Unsubscribe, "")
	s.Put("unsubscribes", "some@example.com", "", at, "news", "offers")
	for _, tag := range []string{"news", "offers"} {
		e := entry("some@example.com", suppression.Unsubscribe, "")
		e.ScopeKind, e.ScopeID = event.ScopeTag, tag
	}
	return s, want
}

func start(t *testing.T) esplisttest.Fixture {
	s, want := seed(t)
	return esplisttest.Fixture{
		Server: s.Server, Key: s.Key, Want: want,
		Scoped: suppression.Entry{
			Address: "new-domain@example.net", ScopeKind: event.ScopeDomain, ScopeID: s.Domain, Reason: suppression.Unsubscribe,
		},
		Client: func(t *testing.T, key string, transport esplist.Transport) esplist.Client {
			return client(t, mailgun.Options{Key: key, Domain: s.Domain, BaseURL: s.URL, Transport: transport})
		},
	}
}

func client(t *testing.T, o mailgun.Options) *mailgun.Client {
	t.Helper()
	c, err := mailgun.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClient(t *testing.T) { esplisttest.Run(t, start) }

func TestNew(t *testing.T) {
	for _, o := range []mailgun.Options{{Domain: "mg.example.org"}, {Key: "k"}, {Key: "k", Domain: "x/../y.example"}} {
		if _, err := mailgun.New(o); err == nil {
			t.Errorf("New(%+v) = nil, want an error", o)
		}
	}
}

// The address of the next page comes from the answer. Were it followed to
// another host, that host would get the key.
func TestClient_List_otherHost(t *testing.T) {
	s, _ := seed(t)
	other := httptest.NewServer(nil)
	defer other.Close()
	s.Elsewhere = other.URL
	c := client(t, mailgun.Options{Key: s.Key, Domain: s.Domain, BaseURL: s.URL})
	err := c.List(t.Context(), func(suppression.Entry) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "not followed") {
		t.Errorf("List = %v, want an error: the next page is at another host", err)
	}
}

// Posting one could take other tags of the address off the list.
func TestClient_Express_tag(t *testing.T) {
	s, _ := seed(t)
	c := client(t, mailgun.Options{Key: s.Key, Domain: s.Domain, BaseURL: s.URL})
	e := suppression.Entry{Address: "x@example.com", ScopeKind: event.ScopeTag, ScopeID: "news"}
	if got, err := c.Express(e); !errors.Is(err, mailgun.ErrTag) {
		t.Errorf("Express(%+v) = %+v, %v, want %v", e, got, err, mailgun.ErrTag)
	}
	e = suppression.Entry{Address: "x@example.com", ScopeKind: event.ScopeDomain, ScopeID: "other.example.org"}
	if got, err := c.Express(e); !errors.Is(err, esplist.ErrScope) {
		t.Errorf("Express(%+v) = %+v, %v, want %v", e, got, err, esplist.ErrScope)
	}
}

// An entry without a time must not be refused for it.
func TestClient_Add_noTime(t *testing.T) {
	f := start(t)
	c := f.Client(t, f.Key, (&esplisttest.Clock{At: esplisttest.Noon}).Transport())
	e := suppression.Entry{Address: "x@example.com", ScopeKind: event.ScopeAddress, Reason: suppression.Manual}
	results, err := c.Add(t.Context(), []suppression.Entry{e})
	if err != nil || len(results) != 1 || results[0].Refused != "" {
		t.Fatalf("Add = %+v, %v, want it added", results, err)
	}
	for _, got := range esplisttest.List(t, c) {
		if got.Address == e.Address && !got.Since.Equal(esplisttest.Noon) {
			t.Errorf("since %s, want the time of the call, %s", got.Since, esplisttest.Noon)
		}
	}
}
