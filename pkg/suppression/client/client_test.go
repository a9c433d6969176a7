package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"mailriver/pkg/apiclient"
	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/client"
	"mailriver/pkg/suppression/layout"
)

const key = "mr_hunter2"

// api is what answers.
type api struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	slept    []time.Duration
}

func serve(t *testing.T, handler func(n int, w http.ResponseWriter, r *http.Request)) (*api, *client.Client) {
	t.Helper()
	a := &api{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer "+key {
			t.Errorf("Authorization = %q, want the key", got)
		}
		a.mu.Lock()
		a.requests = append(a.requests, r.Method+" "+r.URL.RequestURI())
		n := len(a.requests)
		a.mu.Unlock()
		handler(n, w, r)
	}))
	t.Cleanup(a.Close)
	cfg := client.DefaultConfig()
	cfg.URL = a.URL
	return a, open(t, a, cfg)
}

func open(t *testing.T, a *api, cfg apiclient.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg, apiclient.Deps{
		Key: key, Now: time.Now,
		Sleep: func(ctx context.Context, d time.Duration) error {
			a.slept = append(a.slept, d)
			return ctx.Err()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func say(w http.ResponseWriter, status int, body string) {
	kind := "application/json; charset=utf-8"
	if status >= 400 {
		kind = "application/problem+json"
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}

// An answer without one of the addresses is an error. Red when an address that
// was left out is taken for clear.
func TestClient_Check(t *testing.T) {
	_, c := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if want := `{"addresses":["a@example.com","b@example.com"],"stream":"news"}`; strings.Contains(string(body), `"b@`) && string(body) != want {
			t.Errorf("body = %s, want %s", body, want)
		}
		say(w, 200, `{"a@example.com":{"address":"a@example.com","suppressed":true,"entries":[{"scope_kind":"address","reason":"manual",
			"since":"2026-01-02T03:04:05Z","expires_at":null}],"as_of":"2026-01-02T03:04:06Z"},
			"b@example.com":{"address":"b@example.com","suppressed":false,"entries":[],"as_of":"2026-01-02T03:04:06Z"}}`)
	})
	got, err := c.Check(t.Context(), []string{"a@example.com", "b@example.com"}, client.Mail{Stream: "news"})
	if err != nil || len(got) != 2 || !got[0].Suppressed || got[1].Suppressed {
		t.Fatalf("Check() = %+v, %v", got, err)
	}
	want := suppression.Entry{
		Address: "a@example.com", ScopeKind: "address", Reason: suppression.Manual, Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	if len(got[0].Entries) != 1 || got[0].Entries[0] != want {
		t.Errorf("entries = %+v, want %+v", got[0].Entries, want)
	}
	if _, err := c.Check(t.Context(), []string{"c@example.com"}, client.Mail{}); err == nil {
		t.Error("Check() of an address that the answer leaves out = nil, want an error")
	}
}

// Every character of an address arrives. Red when a slash parts the path.
func TestClient_Add(t *testing.T) {
	a, c := serve(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		say(w, 202, `{"address":"a+b/c?d@example.com","suppressed":false,"entries":[],"as_of":null}`)
	})
	got, err := c.Add(t.Context(), "a+b/c?d@example.com", client.Change{})
	if err != nil || !got.Pending || !got.AsOf.IsZero() {
		t.Errorf("Add() = %+v, %v, want one that is not in the list yet", got, err)
	}
	if want := "PUT /v1/suppressions/a+b%2Fc%3Fd@example.com"; a.requests[0] != want {
		t.Errorf("request = %s, want %s", a.requests[0], want)
	}
}

// What may be repeated is, for as long as the API asks and not longer than a
// bound; a change is not.
func TestClient_busy(t *testing.T) {
	busy := func(n int, w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut || n < 3 {
			w.Header().Set("Retry-After", fmt.Sprint(3600*(n-1)+7))
			say(w, 503, `{"status":503,"detail":"Kafka is away"}`)
			return
		}
		say(w, 200, `{"entries":[],"next_cursor":null,"as_of":""}`)
	}
	a, c := serve(t, busy)
	if _, _, err := c.List(t.Context(), client.Filter{}, 10); err != nil {
		t.Errorf("List() = %v, want nil at the third attempt", err)
	}
	if len(a.slept) != 2 || a.slept[0] != 7*time.Second || a.slept[1] != 30*time.Second {
		t.Errorf("slept %v, want 7s and the bound of 30s", a.slept)
	}
	a, c = serve(t, busy)
	_, err := c.Add(t.Context(), "a@example.com", client.Change{})
	p, ok := errors.AsType[*apiclient.Problem](err)
	if !ok || p.Status != 503 || p.RetryAfter != 7*time.Second || p.Error() != "Kafka is away" || len(a.requests) != 1 {
		t.Errorf("Add() = %+v after %d requests, want the problem after one", err, len(a.requests))
	}
}

// An API that was never there is not waited for; one that goes away is. No error
// shows the key or an address.
func TestClient_unreachable(t *testing.T) {
	a, c := serve(t, func(_ int, w http.ResponseWriter, _ *http.Request) { say(w, 200, `{"entries":[],"next_cursor":null}`) })
	if _, _, err := c.List(t.Context(), client.Filter{}, 10); err != nil {
		t.Fatal(err)
	}
	a.Close()
	_, err := c.Explain(t.Context(), "ann@example.com", client.Mail{})
	if !errors.Is(err, apiclient.ErrUnreachable) || len(a.slept) != 4 {
		t.Errorf("Explain() = %v after %d pauses, want ErrUnreachable after 4", err, len(a.slept))
	}
	if strings.Contains(err.Error(), "ann@") || strings.Contains(err.Error(), key) {
		t.Errorf("error shows too much: %v", err)
	}
	a.slept = nil
	cfg := client.DefaultConfig()
	cfg.URL = a.URL
	_, err = open(t, a, cfg).Explain(t.Context(), "ann@example.com", client.Mail{})
	if !errors.Is(err, apiclient.ErrUnreachable) || len(a.slept) != 0 {
		t.Errorf("Explain() = %v after %d pauses, want ErrUnreachable at once", err, len(a.slept))
	}
}

// Whoever gives up hears why, not that the API were away.
func TestClient_interrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	_, c := serve(t, func(_ int, _ http.ResponseWriter, r *http.Request) {
		cancel(enough)
		<-r.Context().Done()
	})
	if _, err := c.Explain(ctx, "a@example.com", client.Mail{}); !errors.Is(err, enough) {
		t.Errorf("Explain() = %v, want %v", err, enough)
	}
}

// The key goes nowhere else, and what is no answer of the API is said to be none.
func TestClient_foreign(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the redirect was followed, with %q", r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	for name, handler := range map[string]func(w http.ResponseWriter, r *http.Request){
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) },
		"page":     func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"status":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
	} {
		_, c := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) { handler(w, r) })
		_, err := c.Explain(t.Context(), "a@example.com", client.Mail{})
		if p, ok := errors.AsType[*apiclient.Problem](err); !ok || !p.Foreign {
			t.Errorf("Explain() of a %s = %v, want a foreign problem", name, err)
		}
		if _, err := c.Export(t.Context(), client.Filter{}, client.Form{}, io.Discard); err == nil {
			t.Errorf("Export() of a %s = nil, want an error", name)
		}
	}
}

// A file that is cut off is an error, in whatever place; so is one that stands
// still. Red when a part of the list can be taken for the whole.
func TestClient_Export(t *testing.T) {
	const file = "address\na@example.com\n"
	still := make(chan struct{})
	defer close(still)
	handler := func(n int, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Mailriver-As-Of", "2026-01-02T03:04:05Z")
		w.Header().Set("Trailer", "Mailriver-Left-Out")
		fmt.Fprint(w, file)
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		switch n {
		case 1:
			w.Header().Set("Mailriver-Left-Out", "3")
		case 2: // the end without the trailer
		case 3:
			panic(http.ErrAbortHandler)
		case 4:
			<-still
		}
	}
	a, c := serve(t, handler)
	var out bytes.Buffer
	got, err := c.Export(t.Context(), client.Filter{Reason: "manual"}, client.Form{Layout: layout.SES, Format: layout.CSV}, &out)
	if err != nil || got.LeftOut != 3 || out.String() != file {
		t.Errorf("Export() = %+v, %v, %q", got, err, out.String())
	}
	if want := "GET /v1/suppressions/export?format=csv&layout=ses&reason=manual"; a.requests[0] != want {
		t.Errorf("request = %s, want %s", a.requests[0], want)
	}
	for _, how := range []string{"without its end", "aborted", "standing still"} {
		if how == "standing still" {
			cfg := client.DefaultConfig()
			cfg.URL, cfg.Timeout = a.URL, 100*time.Millisecond
			c = open(t, a, cfg)
		}
		if _, err := c.Export(t.Context(), client.Filter{}, client.Form{}, io.Discard); err == nil {
			t.Errorf("Export() %s = nil, want an error", how)
		}
	}
}

// Entries of a file that is cut off are an error, too, and an error of the
// callback ends the reading.
func TestClient_Entries(t *testing.T) {
	line := `{"address":"a@example.com","scope_kind":"address","reason":"manual","since":"2026-01-02T03:04:05Z"}` + "\n"
	_, c := serve(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Mailriver-As-Of", "2026-01-02T03:04:05Z")
		w.Header().Set("Trailer", "Mailriver-Left-Out")
		fmt.Fprint(w, strings.Repeat(line, 1000))
		if n == 2 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Mailriver-Left-Out", "0")
	})
	n := 0
	count := func(suppression.Entry) error { n++; return nil }
	if err := c.Entries(t.Context(), client.Filter{}, count); err != nil || n != 1000 {
		t.Errorf("Entries() = %v after %d, want 1000", err, n)
	}
	if err := c.Entries(t.Context(), client.Filter{}, count); err == nil {
		t.Error("Entries() of a file that was cut off = nil, want an error")
	}
	enough := errors.New("enough")
	if err := c.Entries(t.Context(), client.Filter{}, func(suppression.Entry) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("Entries() = %v, want the error of the callback", err)
	}
}

// A list ends at its limit, and pages of which a filter leaves nothing are gone
// through.
func TestClient_List(t *testing.T) {
	entry := `{"address":"a@example.com","scope_kind":"address","reason":"manual","since":"2026-01-02T03:04:05Z"}`
	_, c := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("cursor") {
		case "":
			say(w, 200, `{"entries":[`+entry+`],"next_cursor":"one"}`)
		case "one":
			say(w, 200, `{"entries":[],"next_cursor":"two"}`)
		default:
			say(w, 200, `{"entries":[`+entry+`,`+entry+`],"next_cursor":null}`)
		}
	})
	for limit, want := range map[int]struct {
		n    int
		more bool
	}{1: {1, true}, 2: {2, true}, 3: {3, false}, 9: {3, false}} {
		got, more, err := c.List(t.Context(), client.Filter{}, limit)
		if err != nil || len(got) != want.n || more != want.more {
			t.Errorf("List(%d) = %d entries, more %t, %v, want %d, %t", limit, len(got), more, err, want.n, want.more)
		}
	}
}

// A batch is full by entries and by bytes, below the smallest bound that a
// service can have, and a note of any length keeps its line within the bound of
// one.
func TestBatch(t *testing.T) {
	fill := func(note string) (entries, size int) {
		var b client.Batch
		for {
			ok, err := b.Put(suppression.Entry{Address: "a@example.com", Note: note})
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
		}
		_, c := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			size = len(text)
			first, _, _ := bytes.Cut(text, []byte("\n"))
			if len(first) > 64<<10 {
				t.Errorf("a line has %d bytes", len(first))
			}
			say(w, 200, `{"taken":1,"bad_lines":0,"errors":[]}`)
		})
		entries = b.Len()
		if _, err := c.Import(t.Context(), &b); err != nil || b.Len() != 0 {
			t.Errorf("Import() = %v, %d left, want an empty batch", err, b.Len())
		}
		return entries, size
	}
	if n, size := fill(""); n != 5000 || size > 1<<20 {
		t.Errorf("a batch of short entries has %d in %d bytes, want 5000 in at most 1 MiB", n, size)
	}
	if n, size := fill(strings.Repeat("\x01", 60<<10)); n < 30 || n >= 5000 || size > 1<<20 {
		t.Errorf("a batch of long entries has %d in %d bytes, want fewer in at most 1 MiB", n, size)
	}
}

func TestConfig_Validate(t *testing.T) {
	if err := client.DefaultConfig().Validate(); err != nil {
		t.Errorf("DefaultConfig().Validate() = %v, want nil", err)
	}
	for url, want := range map[string]string{
		"":                      `url: is "", must be http://host:port or https://host`,
		"localhost:8082":        `url: is "localhost:8082", must be http://host:port or https://host`,
		"http://u:hunter2@host": "url: must hold no user, query or fragment",
		"http://host?x=1":       "url: must hold no user, query or fragment",
	} {
		err := apiclient.Config{URL: url, Timeout: time.Second}.Validate()
		if err == nil || err.Error() != want {
			t.Errorf("Validate(%q) = %v, want %s", url, err, want)
		}
	}
	if _, err := client.New(client.DefaultConfig(), apiclient.Deps{}); err == nil {
		t.Error("New() without a clock = nil, want an error")
	}
	if _, err := client.New(client.DefaultConfig(), apiclient.Deps{
		Key: "two\nlines", Now: time.Now, Sleep: func(context.Context, time.Duration) error { return nil },
	}); err == nil || strings.Contains(err.Error(), "two") {
		t.Errorf("New() with a key of two lines = %v, want an error that does not show it", err)
	}
}
