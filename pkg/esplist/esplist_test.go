package esplist_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mailriver/pkg/esplist"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

func config(base string) esplist.CallerConfig {
	return esplist.CallerConfig{
		Provider: "test", BaseURL: base, Secrets: []string{"s3cret", ""},
		Authorize: func(*http.Request, []byte) error { return nil },
		Problem:   func(_ http.Header, body []byte) (string, string) { return "kind", string(body) },
	}
}

func caller(t *testing.T, base string, transport esplist.Transport) *esplist.Caller {
	t.Helper()
	c, err := esplist.NewCaller(config(base), transport)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNewCaller(t *testing.T) {
	for _, base := range []string{"https://api.example.com", "https://api.example.com/base/", "http://127.0.0.1:8080", "http://localhost"} {
		if _, err := esplist.NewCaller(config(base), esplist.Transport{}); err != nil {
			t.Errorf("NewCaller(%s) = %v", base, err)
		}
	}
	for _, base := range []string{
		"", "api.example.com", "http://api.example.com", "ftp://127.0.0.1", "https://u:s3cret@api.example.com",
		"https://api.example.com?key=s3cret", "https://api.example.com#x", "https://s3cret\x7f",
	} {
		_, err := esplist.NewCaller(config(base), esplist.Transport{})
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("NewCaller(%q) = %v, want an error that shows no secret", base, err)
		}
	}
}

// An id with a slash must not lead to another resource.
func TestCaller_URL(t *testing.T) {
	c := caller(t, "https://api.example.com/base/", esplist.Transport{})
	got := c.URL(url.Values{"a": {"b c"}}, "v3", "x/../y z").String()
	if want := "https://api.example.com/base/v3/x%2F..%2Fy%20z?a=b+c"; got != want {
		t.Errorf("URL = %s, want %s", got, want)
	}
}

func TestCaller_Next(t *testing.T) {
	c := caller(t, "https://api.example.com", esplist.Transport{})
	got, err := c.Next("https://api:key@api.example.com/v3/x?page=next")
	if err != nil || got.String() != "https://api.example.com/v3/x?page=next" {
		t.Errorf("Next = %v, %v, want it without the user", got, err)
	}
	for _, address := range []string{
		"https://evil.example.com/v3/x", "http://api.example.com/v3/x", "https://api.example.com:8443/",
		"/v3/x", "//evil.example.com/", "https://api.example.com.evil.example/", "",
	} {
		if got, err := c.Next(address); err == nil {
			t.Errorf("Next(%s) = %s, want an error", address, got)
		}
	}
}

// What a server says is bounded, one way or the other.
func TestCaller_Do_bounds(t *testing.T) {
	body := `"` + strings.Repeat("x", 100) + `"`
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()

	var into string
	c := caller(t, server.URL, esplist.Transport{MaxBody: int64(len(body))})
	if err := c.Do(t.Context(), http.MethodGet, c.URL(nil), nil, &into); err != nil || len(into) != 100 {
		t.Errorf("Do = %v with %d characters, want all 100: they are as many as allowed", err, len(into))
	}
	c = caller(t, server.URL, esplist.Transport{MaxBody: int64(len(body)) - 1})
	if err := c.Do(t.Context(), http.MethodGet, c.URL(nil), nil, &into); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("Do = %v, want an error: one byte too many", err)
	}

	status, body = http.StatusNotFound, strings.Repeat("s3cret", 20)+strings.Repeat("ü", 1_000_000)
	err := c.Do(t.Context(), http.MethodGet, c.URL(nil), nil, nil)
	if err == nil || len(err.Error()) > 400 || strings.Contains(err.Error(), "s3cret") || strings.ContainsRune(err.Error(), '\uFFFD') {
		t.Errorf("Do = %v, want a short error without the secret", err)
	}
}

// A server that does not answer is given up, and then tried again.
func TestCaller_Do_timeout(t *testing.T) {
	release := make(chan struct{})
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}
	}))
	defer server.Close()
	defer close(release)
	c := caller(t, server.URL, esplist.Transport{
		Timeout: 200 * time.Millisecond, Attempts: 20,
		Sleep: func(context.Context, time.Duration) error { return nil },
	})
	// The second answer may come too late, too, on a machine that is busy.
	err := c.Do(t.Context(), http.MethodGet, c.URL(nil), nil, nil)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Do = %v, want success or a deadline", err)
	}
	if got := requests.Load(); got < 2 {
		t.Errorf("%d requests, want a second", got)
	}
}

func TestMember(t *testing.T) {
	tests := []struct {
		body string
		want []string
		ok   bool
	}{
		{`{"a":[1,{"list":["no"]}],"list":["x","y"]}`, []string{"x", "y"}, true},
		{`{"list":[]}`, nil, true},
		{`{"other":[]}`, nil, false},
		{`{"list":["x"`, []string{"x"}, false},
		{`{"list":{"x":1}}`, nil, false},
		{`{"list":[3]}`, nil, false},
		{`[]`, nil, false},
		{``, nil, false},
	}
	for _, test := range tests {
		d := json.NewDecoder(strings.NewReader(test.body))
		var got []string
		err := esplist.Member(d, "list")
		if err == nil {
			err = esplist.Elements(d, func(text string) error {
				got = append(got, text)
				return nil
			})
		}
		if !slices.Equal(got, test.want) || (err == nil) != test.ok {
			t.Errorf("%s: %q, %v, want %q, success %t", test.body, got, err, test.want, test.ok)
		}
	}
}

// Only what is at fault is refused, whatever its place in the batch.
func TestAddInBatches(t *testing.T) {
	var entries []suppression.Entry
	for i := range 10 {
		entries = append(entries, suppression.Entry{Address: fmt.Sprint(i)})
	}
	for bad := range entries {
		posts := 0
		results, err := esplist.AddInBatches(t.Context(), entries, 8, func(_ context.Context, part []suppression.Entry) error {
			posts++
			if slices.Contains(part, entries[bad]) {
				return fmt.Errorf("add: %w", &esplist.Error{Status: 400, Message: "bad", Content: true})
			}
			return nil
		})
		if err != nil || len(results) != len(entries) {
			t.Fatalf("AddInBatches = %d results, %v, want %d", len(results), err, len(entries))
		}
		for i, r := range results {
			if r.Entry != entries[i] || (r.Refused == "bad") != (i == bad) {
				t.Errorf("with %d at fault, result %d = %+v", bad, i, r)
			}
		}
		if posts > 8 {
			t.Errorf("%d posts, want at most 8: halving finds it", posts)
		}
	}

	down := &esplist.Error{Status: 500}
	results, err := esplist.AddInBatches(t.Context(), entries, 4, func(_ context.Context, part []suppression.Entry) error {
		if part[0] == entries[4] {
			return down
		}
		return nil
	})
	if !errors.Is(err, down) || len(results) != 4 {
		t.Errorf("AddInBatches = %d results, %v, want the 4 before %v", len(results), err, down)
	}
}

func TestSlot(t *testing.T) {
	tests := []struct {
		kind, id, want string
		wide           bool
	}{
		{event.ScopeAddress, "", "", true},
		{event.ScopeAccount, "", "", true},
		{event.ScopeAccount, "7", "", false},
		{event.ScopeDomain, "mg.example.org", "", false},
		{event.ScopeStream, "outbound", "", false},
		{event.ScopeGroup, "42", "group:42", false},
		{event.ScopeTag, "news", "tag:news", false},
	}
	for _, test := range tests {
		e := suppression.Entry{ScopeKind: test.kind, ScopeID: test.id}
		if got := esplist.Slot(e); got != test.want {
			t.Errorf("Slot(%s/%s) = %q, want %q", test.kind, test.id, got, test.want)
		}
		if got := esplist.Wide(e); got != test.wide {
			t.Errorf("Wide(%s/%s) = %t, want %t", test.kind, test.id, got, test.wide)
		}
	}
}
