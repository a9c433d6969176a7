package esplisttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailriver/pkg/esplist"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// Fixture is a server with entries on it, and a way to its client.
type Fixture struct {
	Server *Server
	Key    string // the right one; the text that no error may show
	Client func(t *testing.T, key string, transport esplist.Transport) esplist.Client
	Want   []suppression.Entry // what List gives, in any order
	Scoped suppression.Entry   // one with a scope of its own that the list can hold; zero if there is none
}

// Clock is a transport whose sleeps are written down and take no time.
type Clock struct {
	At time.Time

	mu     sync.Mutex
	slept  []time.Duration
	cancel context.CancelFunc // called by the next sleep, if set
}

// Transport returns one that uses the clock. Its jitter is the middle.
func (c *Clock) Transport() esplist.Transport {
	return esplist.Transport{
		Now: func() time.Time { return c.At },
		Sleep: func(ctx context.Context, d time.Duration) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.slept = append(c.slept, d)
			if c.cancel != nil {
				c.cancel()
			}
			return ctx.Err()
		},
		Jitter:   func() float64 { return 0.5 },
		Attempts: 4,
		MaxWait:  time.Minute,
	}
}

// Slept lists the sleeps so far.
func (c *Clock) Slept() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.slept)
}

// Noon is the time of the clocks in the suite.
var Noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// Run is what every client must pass. start is called for each test.
func Run(t *testing.T, start func(t *testing.T) Fixture) {
	tests := []struct {
		name string
		run  func(t *testing.T, f Fixture, clock *Clock, client esplist.Client)
	}{
		{"list", testList},
		{"busy", testBusy},
		{"busy again and again", testBusyEvery},
		{"busy until", testBusyUntil},
		{"busy for too long", testBusyTooLong},
		{"broken for a while", testBrokenForAWhile},
		{"broken", testBroken},
		{"canceled while waiting", testCanceled},
		{"wrong key", testWrongKey},
		{"key in the answer", testKeyInAnswer},
		{"malformed", testMalformed},
		{"cut short", testCutShort},
		{"redirect", testRedirect},
		{"callback", testCallback},
		{"add", testAdd},
		{"add refused", testAddRefused},
		{"express", testExpress},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := start(t)
			clock := &Clock{At: Noon}
			test.run(t, f, clock, f.Client(t, f.Key, clock.Transport()))
		})
	}
}

// List collects a list, in order of address, scope and reason.
func List(t *testing.T, client esplist.Client) []suppression.Entry {
	t.Helper()
	entries, err := collect(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func collect(ctx context.Context, client esplist.Client) ([]suppression.Entry, error) {
	var entries []suppression.Entry
	err := client.List(ctx, func(e suppression.Entry) error {
		entries = append(entries, e)
		return nil
	})
	slices.SortFunc(entries, order)
	return entries, err
}

func order(a, b suppression.Entry) int {
	key := func(e suppression.Entry) string {
		return strings.Join([]string{e.Address, e.ScopeKind, e.ScopeID, string(e.Reason)}, "|")
	}
	return strings.Compare(key(a), key(b))
}

// Without the second page, half of the entries are missing.
func testList(t *testing.T, f Fixture, _ *Clock, client esplist.Client) {
	got, want := List(t, client), slices.Clone(f.Want)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		t.Errorf("List =\n%s\nwant\n%s", lines(got), lines(want))
	}
	for _, e := range got {
		if e.Provider != client.Provider() {
			t.Errorf("entry of %q, want %q", e.Provider, client.Provider())
		}
	}
}

func lines(entries []suppression.Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "  %+v\n", e)
	}
	return b.String()
}

// Without the wait that was asked for, the sleep is half a second.
func testBusy(t *testing.T, f Fixture, clock *Clock, client esplist.Client) {
	f.Server.Next(Answer{Status: http.StatusTooManyRequests, Header: map[string]string{"Retry-After": "7"}})
	if got := List(t, client); len(got) != len(f.Want) {
		t.Errorf("List = %d entries, want %d", len(got), len(f.Want))
	}
	if got, want := clock.Slept(), []time.Duration{7 * time.Second}; !slices.Equal(got, want) {
		t.Errorf("slept %v, want %v", got, want)
	}
}

// A page that is asked for again must be neither skipped nor counted twice.
func testBusyEvery(t *testing.T, f Fixture, _ *Clock, client esplist.Client) {
	f.Server.BusyEvery(2)
	testList(t, f, nil, client)
	entries := additions(f)
	if results, err := client.Add(t.Context(), entries); err != nil || len(results) != len(entries) {
		t.Errorf("Add = %d results, %v, want %d", len(results), err, len(entries))
	}
	seen := map[string]bool{}
	for _, e := range List(t, client) {
		seen[e.Address] = true
	}
	for _, e := range entries {
		if !seen[e.Address] {
			t.Errorf("%s is not on the list", e.Address)
		}
	}
}

func testBusyUntil(t *testing.T, f Fixture, clock *Clock, client esplist.Client) {
	until := clock.At.Add(20 * time.Second).Format(http.TimeFormat)
	f.Server.Next(Answer{Status: http.StatusServiceUnavailable, Header: map[string]string{"Retry-After": until}})
	List(t, client)
	if got, want := clock.Slept(), []time.Duration{20 * time.Second}; !slices.Equal(got, want) {
		t.Errorf("slept %v, want %v", got, want)
	}
}

func testBusyTooLong(t *testing.T, f Fixture, clock *Clock, client esplist.Client) {
	f.Server.Next(Answer{Status: http.StatusTooManyRequests, Header: map[string]string{"Retry-After": "86400"}})
	List(t, client)
	if got, want := clock.Slept(), []time.Duration{time.Minute}; !slices.Equal(got, want) {
		t.Errorf("slept %v, want the most that is allowed, %v", got, want)
	}
}

func testBrokenForAWhile(t *testing.T, f Fixture, clock *Clock, client esplist.Client) {
	f.Server.Next(Answer{Status: 500}, Answer{Status: 502}, Answer{Status: 503})
	if got := List(t, client); len(got) != len(f.Want) {
		t.Errorf("List = %d entries, want %d", len(got), len(f.Want))
	}
	want := []time.Duration{375 * time.Millisecond, 750 * time.Millisecond, 1500 * time.Millisecond}
	if got := clock.Slept(); !slices.Equal(got, want) {
		t.Errorf("slept %v, want %v", got, want)
	}
}

func testBroken(t *testing.T, f Fixture, _ *Clock, client esplist.Client) {
	f.Server.Always(Answer{Status: 500})
	_, err := collect(t.Context(), client)
	problem, ok := errors.AsType[*esplist.Error](err)
	if !ok || problem.Status != 500 || problem.Provider != client.Provider() {
		t.Errorf("List = %v, want an error of HTTP 500 that names %s", err, client.Provider())
	}
	if got := len(f.Server.Requests()); got != 4 {
		t.Errorf("%d attempts, want 4", got)
	}
}

func testCanceled(t *testing.T, f Fixture, clock *Clock, client esplist.Client) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	clock.cancel = cancel
	f.Server.Always(Answer{Status: http.StatusTooManyRequests})
	if _, err := collect(ctx, client); !errors.Is(err, context.Canceled) {
		t.Errorf("List = %v, want canceled", err)
	}
	if got := len(f.Server.Requests()); got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
}

func testWrongKey(t *testing.T, f Fixture, clock *Clock, _ esplist.Client) {
	const wrong = "a-key-that-is-not-right"
	client := f.Client(t, wrong, clock.Transport())
	_, err := collect(t.Context(), client)
	problem, ok := errors.AsType[*esplist.Error](err)
	if !ok || problem.Status != http.StatusUnauthorized && problem.Status != http.StatusForbidden {
		t.Fatalf("List = %v, want an error of HTTP 401 or 403", err)
	}
	if problem.Message == "" {
		t.Errorf("List = %v, which lacks the provider's words", err)
	}
	if strings.Contains(err.Error(), wrong) {
		t.Errorf("List = %v, which shows the key", err)
	}
	if got := len(f.Server.Requests()); got != 1 {
		t.Errorf("%d requests, want 1: a wrong key does not get better", got)
	}
}

// Without redaction, a provider that repeats the key puts it into a log.
func testKeyInAnswer(t *testing.T, f Fixture, _ *Clock, client esplist.Client) {
	words := "no: " + f.Key + "\n\x1b[2J"
	f.Server.Always(Answer{Status: 403, Body: fmt.Sprintf(
		`{"message": %[1]q, "Message": %[1]q, "ErrorCode": 1, "errors": [{"message": %[1]q}]}`, jsonSafe(words))})
	_, err := collect(t.Context(), client)
	if err == nil || strings.Contains(err.Error(), f.Key) || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("List = %q, want an error without the key and without control characters", err)
	}
	if err != nil && !strings.Contains(err.Error(), "no: ***") {
		t.Errorf("List = %q, want the provider's words", err)
	}
}

// jsonSafe leaves out what the syntax of Go has and that of JSON has not.
func jsonSafe(text string) string { return strings.ReplaceAll(text, "\x1b", "\t") }

func testMalformed(t *testing.T, f Fixture, _ *Clock, client esplist.Client) {
	for _, body := range []string{`<html>`, `{"items": 3, "Suppressions": 3, "SuppressedDestinationSummaries": 3}`, `"ann@example.com"`} {
		f.Server.Always(Answer{Status: 200, Body: body})
		_, err := collect(t.Context(), client)
		if err == nil || !strings.Contains(err.Error(), client.Provider()) {
			t.Errorf("List of %s = %v, want an error that names %s", body, err, client.Provider())
		}
		if err != nil && strings.Contains(err.Error(), "ann@") {
			t.Errorf("List of %s = %v, which quotes the answer", body, err)
		}
	}
}

// A list that ends early must not pass for a whole one.
func testCutShort(t *testing.T, f Fixture, clock *Clock, _ esplist.Client) {
	transport := clock.Transport()
	transport.MaxBody, transport.MaxStream = 20, 20
	if got, err := collect(t.Context(), f.Client(t, f.Key, transport)); err == nil {
		t.Errorf("List = %d entries and no error, want an error: the answer is longer than allowed", len(got))
	}

	transport = clock.Transport()
	transport.RoundTripper = truncating{}
	if got, err := collect(t.Context(), f.Client(t, f.Key, transport)); err == nil {
		t.Errorf("List = %d entries and no error, want an error: the answer broke off", len(got))
	}
}

// truncating breaks every answer off.
type truncating struct{}

func (truncating) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, 10), response.Body}
	}
	return response, err
}

// Were it followed, the key would reach another host.
func testRedirect(t *testing.T, f Fixture, _ *Clock, client esplist.Client) {
	other := serve(t, func(http.ResponseWriter, *http.Request) {})
	f.Server.Always(Answer{Status: http.StatusTemporaryRedirect, Header: map[string]string{"Location": other.URL}})
	_, err := collect(t.Context(), client)
	problem, ok := errors.AsType[*esplist.Error](err)
	if !ok || problem.Status != http.StatusTemporaryRedirect {
		t.Errorf("List = %v, want an error of HTTP 307", err)
	}
	if got := other.Requests(); len(got) != 0 {
		t.Errorf("the other host was asked: %v", got)
	}
}

func testCallback(t *testing.T, _ Fixture, _ *Clock, client esplist.Client) {
	enough := errors.New("enough")
	calls := 0
	err := client.List(t.Context(), func(suppression.Entry) error {
		calls++
		return enough
	})
	if !errors.Is(err, enough) || calls != 1 {
		t.Errorf("List = %v after %d calls, want %v after 1", err, calls, enough)
	}
}

// additions are one entry of each reason, and the scoped one of a fixture.
func additions(f Fixture) []suppression.Entry {
	var entries []suppression.Entry
	for _, reason := range suppression.Reasons() {
		entries = append(entries, suppression.Entry{
			Address: "new-" + string(reason) + "@example.net", ScopeKind: event.ScopeAddress,
			Reason: reason, Since: Noon.Add(-time.Hour),
		})
	}
	if f.Scoped.Address != "" {
		entries = append(entries, f.Scoped)
	}
	return entries
}

// What was added is listed as Express says, and adding it again changes
// nothing.
func testAdd(t *testing.T, f Fixture, _ *Clock, client esplist.Client) {
	entries := additions(f)
	var first []suppression.Entry
	for round := range 2 {
		f.Server.Next(Answer{Status: http.StatusTooManyRequests})
		results, err := client.Add(t.Context(), entries)
		if err != nil || len(results) != len(entries) {
			t.Fatalf("Add = %d results, %v, want %d", len(results), err, len(entries))
		}
		for i, r := range results {
			if r.Refused != "" || r.Entry != entries[i] {
				t.Errorf("Add(%s) = %+v, want it added", entries[i].Address, r)
			}
		}
		listed := List(t, client)
		for _, e := range entries {
			want, err := client.Express(e)
			if err != nil {
				t.Fatal(err)
			}
			found := slices.ContainsFunc(listed, func(got suppression.Entry) bool {
				return got.Address == want.Address && esplist.Slot(got) == esplist.Slot(want) &&
					got.ScopeKind == want.ScopeKind && got.Reason == want.Reason
			})
			if !found {
				t.Errorf("after Add(%+v) the list lacks %+v", e, want)
			}
		}
		if round == 0 {
			first = listed
		} else if !slices.Equal(first, listed) {
			t.Errorf("a second Add changed the list from\n%sto\n%s", lines(first), lines(listed))
		}
	}
}

// One bad entry must not keep its neighbours off the list.
func testAddRefused(t *testing.T, f Fixture, clock *Clock, client esplist.Client) {
	var entries []suppression.Entry
	for i := range 9 {
		e := suppression.Entry{ScopeKind: event.ScopeAddress, Reason: suppression.Unsubscribe, Since: Noon}
		if e.Address = fmt.Sprintf("many-%d@example.net", i); i == 4 {
			e.Address = "no address"
		}
		entries = append(entries, e)
	}
	results, err := client.Add(t.Context(), entries)
	if err != nil || len(results) != len(entries) {
		t.Fatalf("Add = %d results, %v, want %d", len(results), err, len(entries))
	}
	for i, r := range results {
		if refused := r.Refused != ""; r.Entry != entries[i] || refused != (i == 4) {
			t.Errorf("Add: result %d = %+v, want refused %t", i, r, i == 4)
		}
	}

	broken := f.Client(t, "a-key-that-is-not-right", clock.Transport())
	if results, err := broken.Add(t.Context(), entries); err == nil || len(results) != 0 {
		t.Errorf("Add with a wrong key = %v, %v, want an error and no result", results, err)
	}
}

func testExpress(t *testing.T, f Fixture, _ *Clock, client esplist.Client) {
	for _, e := range additions(f) {
		got, err := client.Express(e)
		if err != nil || got.Provider != client.Provider() || got.Address != e.Address {
			t.Errorf("Express(%+v) = %+v, %v", e, got, err)
		}
		again, err := client.Express(got)
		if err != nil || again != got {
			t.Errorf("Express(%+v) = %+v, %v, want it as it is", got, again, err)
		}
	}
	foreign := suppression.Entry{Address: "a@example.net", ScopeKind: event.ScopeTopic, ScopeID: "x"}
	if got, err := client.Express(foreign); !errors.Is(err, esplist.ErrScope) {
		t.Errorf("Express(%+v) = %+v, %v, want %v", foreign, got, err, esplist.ErrScope)
	}
	if _, err := client.Add(t.Context(), []suppression.Entry{foreign}); !errors.Is(err, esplist.ErrScope) {
		t.Errorf("Add(%+v) = %v, want %v", foreign, err, esplist.ErrScope)
	}
}
