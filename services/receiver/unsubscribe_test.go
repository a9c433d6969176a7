package receiver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/event"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/raw"
	"mailriver/pkg/unsubscribe"
)

const unsubscribeKey = "unsubscribe-key-0123456789abcdefghijk"

func unsubscribeKeys(t *testing.T) *unsubscribe.Keys {
	t.Helper()
	keys, err := unsubscribe.NewKeys([]string{unsubscribeKey})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func withLinks(keys *unsubscribe.Keys) func(*Deps) { return func(d *Deps) { d.Unsubscribe = keys } }

// path returns that of a link for Ann, made a minute ago.
func path(t *testing.T, f *fixture, change ...func(*unsubscribe.Link)) string {
	t.Helper()
	link := unsubscribe.Link{
		Address: "Ann@example.com", ScopeKind: event.ScopeList, ScopeID: "weekly",
		IssuedAt: f.clock.Now().Add(-time.Minute).Truncate(time.Second),
	}
	for _, c := range change {
		c(&link)
	}
	token, err := f.service.deps.Unsubscribe.Token(link)
	if err != nil {
		t.Fatal(err)
	}
	return unsubscribe.Path + token
}

// answer is an answer with its body read.
type answer struct {
	status int
	header http.Header
	body   string
}

func (f *fixture) ask(t *testing.T, method, path string, body io.Reader, change ...func(*http.Request)) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, f.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(r)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(text)}
}

const oneClick = "List-Unsubscribe=One-Click"

// events parses what is stored as the normalizer does.
func events(t *testing.T, records []*kgo.Record) []event.Event {
	t.Helper()
	var list []event.Event
	for _, k := range records {
		r, err := raw.Read(k)
		if err != nil {
			t.Fatal(err)
		}
		if r.Provider != "mailriver" || r.Source != "mailriver" || r.RemoteAddr != "" || r.UserAgent != "" {
			t.Errorf("record = %+v, want one of mailriver, and nothing about who asked", r)
		}
		hook, err := r.Webhook(mailriver.Provider.MaxBody)
		if err != nil {
			t.Fatal(err)
		}
		result, err := mailriver.Provider.Parse(hook)
		if err != nil || len(result.Rejected) > 0 {
			t.Fatalf("Parse() = %+v, %v", result.Rejected, err)
		}
		list = append(list, result.Events...)
	}
	return list
}

// TestOptOut posts one link as mail programs do, in every way, through a real
// client to a broker. All of it is one event, of the first time, on one
// partition. Red when the id is drawn, or takes in the time or the body.
func TestOptOut(t *testing.T) {
	cluster := kafkatest.New(t)
	f := newFixture(t, DefaultConfig(), nil, producer(t, cluster), withLinks(unsubscribeKeys(t)))
	f.service.deps.Topic = cluster.Topics.Raw
	link := path(t, f)
	first := f.clock.Now()

	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	if err := errors.Join(parts.WriteField("List-Unsubscribe", "One-Click"), parts.Close()); err != nil {
		t.Fatal(err)
	}
	urlencoded := header("Content-Type", "application/x-www-form-urlencoded")
	posts := []struct {
		name   string
		body   io.Reader
		change []func(*http.Request)
	}{
		{"a form", strings.NewReader(oneClick), []func(*http.Request){urlencoded}},
		{"the same again", strings.NewReader(oneClick), []func(*http.Request){urlencoded}},
		{"multipart", &form, []func(*http.Request){header("Content-Type", parts.FormDataContentType())}},
		{"without a body", nil, nil},
		{"another body", strings.NewReader("%%%"), []func(*http.Request){urlencoded}},
		{"in chunks", chunked([]byte(oneClick)), nil},
		{"with credentials and cookies", nil, []func(*http.Request){header("Authorization", "Basic eDp5"), header("Cookie", "a=b")}},
		{"an encoding nobody knows", strings.NewReader("x"), []func(*http.Request){header("Content-Encoding", "br")}},
		{"a browser", strings.NewReader(oneClick), []func(*http.Request){urlencoded, header("Accept", "text/html,*/*;q=0.8")}},
		{"a large body", bytes.NewReader(make([]byte, 200<<10)), nil},
	}
	for _, post := range posts {
		got := f.ask(t, http.MethodPost, link, post.body, post.change...)
		if got.status != http.StatusOK {
			t.Errorf("%s: POST = %d, want 200", post.name, got.status)
		}
		f.clock.Advance(time.Second)
	}
	records := cluster.Read(t, cluster.Topics.Raw, len(posts))
	list := events(t, records)
	if len(list) != len(posts) {
		t.Fatalf("%d events of %d posts", len(list), len(posts))
	}
	got := list[0]
	want := event.Event{
		ID: got.ID, Type: event.Unsubscribed, Provider: "mailriver", ProviderVariant: "one_click", Source: "mailriver",
		NativeEventID: got.NativeEventID, NativeEventType: "unsubscribe", OccurredAt: first.Truncate(time.Microsecond),
		OccurredAtPrecision: "us", OccurredAtSource: "provider", Recipient: "Ann@example.com", ScopeKind: "list", ScopeID: "weekly",
		RejectReason: "previously_unsubscribed", Metadata: map[string]string{"reason": "unsubscribe", "actor": "recipient"},
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("event = %+v, want %+v", got, want)
	}
	for i, e := range list {
		if e.ID != got.ID || records[i].Partition != records[0].Partition || string(records[i].Key) != got.NativeEventID {
			t.Errorf("%s: event %s with key %s on partition %d, want %s, %s, %d",
				posts[i].name, e.ID, records[i].Key, records[i].Partition, got.ID, got.NativeEventID, records[0].Partition)
		}
	}

	// An old link opts out again, after it was opted in elsewhere.
	f.clock.Advance(unsubscribe.RepeatWindow)
	if again := f.ask(t, http.MethodPost, link, nil); again.status != http.StatusOK {
		t.Fatalf("POST long after = %d, want 200", again.status)
	}
	others := 0 // they may be on another partition, before or after
	for _, e := range events(t, cluster.Read(t, cluster.Topics.Raw, len(posts)+1)) {
		if e.ID != got.ID {
			others++
			if want := first.Add(time.Duration(len(posts))*time.Second + unsubscribe.RepeatWindow); !e.OccurredAt.Equal(want) {
				t.Errorf("the opt-out long after is of %s, want %s", e.OccurredAt, want)
			}
		}
	}
	if others != 1 {
		t.Errorf("an opt-out long after is %d other events, want 1", others)
	}

	accepted := f.counts(t, "mailriver.receiver.requests")["outcome=accepted provider=mailriver source=mailriver"]
	if accepted != int64(len(posts)+1) {
		t.Errorf("counted %d accepted, want %d", accepted, len(posts)+1)
	}
	if used := f.service.budget.used.Load(); used != 0 {
		t.Errorf("%d bytes are still held", used)
	}
	if text := f.log.String(); strings.Contains(text, link[3:]) || strings.Contains(text, "example.com") {
		t.Errorf("the log holds the link or the address: %s", text)
	}
}

// What does not open is answered alike, whatever is wrong with it, and leaves
// nothing. Why is for the operator alone.
func TestOptOut_refused(t *testing.T) {
	producer := &acknowledging{}
	f := newFixture(t, DefaultConfig(), nil, producer, withLinks(unsubscribeKeys(t)))
	good := path(t, f)
	expired := path(t, f, func(l *unsubscribe.Link) { l.ExpiresAt = l.IssuedAt.Add(time.Minute) })
	other, err := unsubscribe.NewKeys([]string{"another-key-0123456789abcdefghijklmno"})
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := other.Token(unsubscribe.Link{Address: "ann@example.com", ScopeKind: event.ScopeAccount, IssuedAt: f.clock.Now()})
	if err != nil {
		t.Fatal(err)
	}
	changed := good[:20] + string(good[20]^1) + good[21:]
	tests := []struct{ name, path, reason string }{
		{"another key", "/u/" + stranger, "mismatch"},
		{"one character", changed, "mismatch"},
		{"expired", expired, "stale"},
		{"cut", good[:len(good)-3], "mismatch"},
		{"a word", "/u/newsletter", "malformed"},
		{"endless", "/u/" + strings.Repeat("a", 5000), "malformed"},
		{"a line break at the end", good + "%0A", "malformed"},
	}
	var want answer
	for i, tt := range tests {
		for _, method := range []string{http.MethodPost, http.MethodGet} {
			for _, accept := range []string{"", "text/html"} {
				got := f.ask(t, method, tt.path, nil, header("Accept", accept))
				got.header.Del("Date")
				if i == 0 && want.status == 0 {
					want = got
				}
				if got.status != http.StatusNotFound || fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s: %s = %v, want 404 and the same as for the others: %v", tt.name, method, got, want)
				}
			}
		}
		if n := outcomes(t, f)["refused "+tt.reason]; n == 0 {
			t.Errorf("%s: counted %v, want refused %s", tt.name, outcomes(t, f), tt.reason)
		}
	}
	if want.header.Get("Content-Type") != "text/plain; charset=utf-8" || want.body != "there is nothing here\n" {
		t.Errorf("answer = %v, want a plain text that tells nothing", want)
	}
	if n := producer.Len(); n != 0 {
		t.Errorf("%d records were produced, want none", n)
	}
	if text := f.log.String(); strings.Contains(text, stranger) || strings.Contains(text, good[3:40]) {
		t.Errorf("the log holds a token: %s", text)
	}
}

// The page is for people: it asks, and only its button opts out.
func TestOptOut_page(t *testing.T) {
	producer := &acknowledging{}
	f := newFixture(t, DefaultConfig(), nil, producer, withLinks(unsubscribeKeys(t)))
	link := path(t, f)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		if got := f.ask(t, method, link, nil); got.status != http.StatusOK {
			t.Errorf("%s = %d, want 200", method, got.status)
		}
	}
	asked := f.ask(t, http.MethodGet, link, nil, header("Accept", "text/html"))
	if n := producer.Len(); n != 0 {
		t.Fatalf("looking at a link produced %d records, want none: scanners look at every link", n)
	}
	done := f.ask(t, http.MethodPost, link, strings.NewReader(oneClick), header("Accept", "text/html"))
	if n := producer.Len(); n != 1 {
		t.Fatalf("the button produced %d records, want 1", n)
	}
	for _, tt := range []struct {
		name   string
		page   answer
		title  string
		button bool
	}{
		{"the question", asked, "Unsubscribe", true},
		{"the confirmation", done, "You are unsubscribed", false},
	} {
		if !strings.Contains(tt.page.body, "<h1>"+tt.title+"</h1>") || !strings.Contains(tt.page.body, "<title>"+tt.title+"</title>") {
			t.Errorf("%s has not the title %q:\n%s", tt.name, tt.title, tt.page.body)
		}
		if got := strings.Contains(tt.page.body, `<form method="post">`) && strings.Contains(tt.page.body, `<button type="submit">`); got != tt.button {
			t.Errorf("%s has a button = %t, want %t", tt.name, got, tt.button)
		}
		if !strings.Contains(tt.page.body, "A…@example.com") || strings.Contains(tt.page.body, "Ann@") {
			t.Errorf("%s does not mask the address:\n%s", tt.name, tt.page.body)
		}
		wantGuarded(t, tt.name, tt.page)
	}
}

// wantGuarded checks that a page can load nothing, and that its URL leaks to
// nobody.
func wantGuarded(t *testing.T, name string, page answer) {
	t.Helper()
	style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(page.body)
	if style == nil {
		t.Fatalf("%s has no style", name)
	}
	sum := sha256.Sum256([]byte(style[1]))
	for header, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8",
		"Content-Security-Policy": "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		"Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex, nofollow",
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
	} {
		if got := page.header.Get(header); got != want {
			t.Errorf("%s: %s = %q, want %q", name, header, got, want)
		}
	}
	for _, needle := range []string{"http:", "https:", "src=", "href=", "<script", "url(", "@import", "ZgotmplZ"} {
		if strings.Contains(page.body, needle) {
			t.Errorf("%s holds %q", name, needle)
		}
	}
	if len(page.header.Values("Set-Cookie")) > 0 || page.header.Get("Location") != "" {
		t.Errorf("%s sets a cookie or leads elsewhere: %v", name, page.header)
	}
}

func TestMasked(t *testing.T) {
	for address, want := range map[string]string{
		"ann@example.com": "a…@example.com", "a@example.com": "a…@example.com", "почта@example.com": "п…@example.com",
		`"a@b"@example.com`: `"…@example.com`, "@example.com": "…", "ann": "…", "": "…",
	} {
		if got := masked(address); got != want {
			t.Errorf("masked(%q) = %q, want %q", address, got, want)
		}
	}
}

// Kafka away: 503 and Retry-After, and nobody is told that it was done.
func TestOptOut_kafkaAway(t *testing.T) {
	failing := producerFunc(func(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
		promise(r, errors.New("not the leader"))
	})
	f := newFixture(t, DefaultConfig(), nil, failing, withLinks(unsubscribeKeys(t)))
	link := path(t, f)
	got := f.ask(t, http.MethodPost, link, nil)
	if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") != "5" || got.body != "not stored, try again\n" {
		t.Errorf("POST = %v, want 503, Retry-After 5", got)
	}
	page := f.ask(t, http.MethodPost, link, nil, header("Accept", "text/html"))
	if page.status != http.StatusServiceUnavailable || !strings.Contains(page.body, "<h1>Please try again</h1>") ||
		!strings.Contains(page.body, "is not unsubscribed yet") {
		t.Errorf("POST of a browser = %v, want 503 and a page that says so", page)
	}
	wantGuarded(t, "the failure", page)
	if n := outcomes(t, f)["not_stored kafka_error"]; n != 2 {
		t.Errorf("counted %v, want 2 not stored", outcomes(t, f))
	}
}

// With a spill, the disk keeps opt-outs while Kafka is away, and Kafka has them
// after.
func TestOptOut_spilled(t *testing.T) {
	cluster := kafkatest.New(t)
	cluster.NeedFake(t)
	client := producer(t, cluster)
	down := producerFunc(func(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
		promise(r, errors.New("not the leader"))
	})
	store := newStore(t, vfs.NewMem(), nil)
	f := newFixture(t, spillConfig(), nil, down, withLinks(unsubscribeKeys(t)), func(d *Deps) {
		d.Spill, d.SpillProducer, d.Topic = store, client, cluster.Topics.Raw
	})
	if got := f.ask(t, http.MethodPost, path(t, f), nil); got.status != http.StatusOK {
		t.Fatalf("POST = %d, want 200", got.status)
	}
	run(t, f.service)
	if list := events(t, cluster.Read(t, cluster.Topics.Raw, 1)); len(list) != 1 || list[0].Type != event.Unsubscribed {
		t.Errorf("Kafka holds %+v, want the opt-out", list)
	}
	if n := outcomes(t, f)["spilled kafka_error"]; n != 1 {
		t.Errorf("counted %v, want 1 spilled", outcomes(t, f))
	}
}

// The limits of the receiver hold for opt-outs, and forgeries use none of the
// rate up.
func TestOptOut_limits(t *testing.T) {
	producer := &acknowledging{}
	cfg := DefaultConfig()
	cfg.UnsubscribeRateLimit = RateLimit{PerSecond: 1, Burst: 2}
	f := newFixture(t, cfg, nil, producer, withLinks(unsubscribeKeys(t)))
	link := path(t, f)
	for range 10 {
		if got := f.ask(t, http.MethodPost, "/u/forged", nil); got.status != http.StatusNotFound {
			t.Fatalf("POST of a forgery = %d, want 404", got.status)
		}
	}
	for i, want := range []int{200, 200, 503} {
		if got := f.ask(t, http.MethodPost, link, nil); got.status != want {
			t.Errorf("POST %d = %d, want %d", i, got.status, want)
		}
	}
	f.clock.Advance(time.Second)
	if got := f.ask(t, http.MethodPost, link, nil); got.status != 200 {
		t.Errorf("POST a second later = %d, want 200", got.status)
	}
	f.service.cfg.MaxInFlight = 0
	if got := f.ask(t, http.MethodPost, link, nil); got.status != 503 {
		t.Errorf("POST over max_in_flight = %d, want 503", got.status)
	}
	f.service.cfg.MaxInFlight = 10
	f.clock.Advance(time.Second)
	f.service.budget.limit = 1
	if got := f.ask(t, http.MethodPost, link, nil); got.status != 503 {
		t.Errorf("POST over max_in_flight_bytes = %d, want 503", got.status)
	}
	for outcome, want := range map[string]int64{
		"shed rate_limit": 1, "shed requests_in_flight": 1, "shed bytes_in_flight": 1, "accepted": 3,
	} {
		if got := outcomes(t, f)[outcome]; got != want {
			t.Errorf("counted %d %s, want %d", got, outcome, want)
		}
	}
	if used := f.service.budget.used.Load(); used != 0 || producer.Len() != 3 {
		t.Errorf("%d bytes are held and %d records produced, want 0 and 3", used, producer.Len())
	}
}

// Without keys there is no endpoint, and with them it takes no other methods.
func TestOptOut_routes(t *testing.T) {
	without := newFixture(t, DefaultConfig(), nil, &acknowledging{})
	if got := without.ask(t, http.MethodPost, "/u/x", nil); got.status != http.StatusNotFound {
		t.Errorf("POST without keys = %d, want 404", got.status)
	}
	f := newFixture(t, DefaultConfig(), nil, &acknowledging{}, withLinks(unsubscribeKeys(t)))
	link := path(t, f)
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		got := f.ask(t, method, link, nil)
		if got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") == "" {
			t.Errorf("%s = %d, Allow %q, want 405", method, got.status, got.header.Get("Allow"))
		}
	}
	for _, other := range []string{"/u/", "/u", link + "/"} {
		if got := f.ask(t, http.MethodPost, other, nil); got.status != http.StatusNotFound {
			t.Errorf("POST %s = %d, want 404", other, got.status)
		}
	}
}
