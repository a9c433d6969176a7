package suppression_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/kafka/kafkatest"
	model "mailriver/pkg/suppression"
	"mailriver/services/suppression"
)

func (r *replica) importing(query, kind, file string, want int) (got suppression.Imported, body string) {
	r.t.Helper()
	to := r.url
	if strings.Contains(kind+query, "ndjson") {
		to = r.plain
	}
	a := r.sendTo(to, http.MethodPost, v1+"/import"+query, strings.NewReader(file), false, "Content-Type", kind)
	if a.status != want {
		r.t.Fatalf("import = %d %s, want %d", a.status, a.body, want)
	}
	if want == http.StatusOK {
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			r.t.Fatal(err)
		}
	}
	return got, a.body
}

func (r *replica) exported(query string) answer {
	r.t.Helper()
	return r.sendTo(r.plain, http.MethodGet, v1+"/export"+query, http.NoBody, false)
}

// Bad lines are told by their numbers and the good ones go in. The same file
// again changes nothing, also where a line has no time.
func TestAPI_import(t *testing.T) {
	c := kafkatest.New(t)
	startNormalizer(t, c)
	r := start(t, c, "a", t.TempDir())
	ahead := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	file := strings.Join([]string{
		"address,scope_kind,scope_id,reason,since,expires_at,note",
		"ada@example.com,,,complaint,2026-01-02T03:04:05Z,,called us",
		"nobody,,,complaint,,,",
		"bob@example.com,list,weekly,unsubscribe,,2999-01-01T00:00:00Z,\"two\nlines\"",
		"eve@example.com,,,dislike,,,",
		"eve@example.com,,,soft_bounce,,,",
		"eve@example.com,list,,manual,,,",
		"eve@example.com,,,manual," + ahead + ",,",
		"eve@example.com,,,manual,2001-01-01,,",
		"eve@example.com,,,manual,2001-01-01T00:00:00Z,2002-01-01T00:00:00Z,",
		"eve@example.com,,,manual,1999-01-01T00:00:00Z,,",
		"eve@example.com,too,few",
		"Zoe@example.com,,,,,,",
	}, "\n")
	wrong := []suppression.BadLine{
		{3, "address", ""},
		{6, "reason", ""},
		{7, "reason", "policy"},
		{8, "scope_id", ""},
		{9, "since", "future"},
		{10, "since", ""},
		{11, "expires_at", "past"},
		{12, "since", "2000"},
		{13, "", "cells"},
	}
	for round := range 2 {
		got, _ := r.importing("", "text/csv", file, http.StatusOK)
		if got.Taken != 3 || got.BadLines != len(wrong) || len(got.Errors) != len(wrong) {
			t.Fatalf("import %d = %+v, want 3 taken and %d bad lines", round, got, len(wrong))
		}
		for i, want := range wrong {
			if e := got.Errors[i]; e.Line != want.Line || e.Field != want.Field || !strings.Contains(e.Detail, want.Detail) {
				t.Errorf("import: bad line %+v, want %+v", e, want)
			}
		}
		r.call(http.MethodPut, v1+fmt.Sprintf("/marker%d@example.com", round), "{}", http.StatusOK, nil)
		within(t, "imported", func() bool { return r.get("zoe@example.com", "").Suppressed && r.get("ada@example.com", "").Suppressed })
	}
	ada := r.get("ada@example.com", "")
	if e := ada.Entries[0]; len(ada.Entries) != 1 || e.Reason != model.Complaint || e.Note != "called us" ||
		!e.Since.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("GET = %+v, want a complaint since January", ada)
	}
	bob := r.get("bob@example.com", "?scope_kind=list&scope_id=weekly")
	if !bob.Suppressed || bob.Entries[0].Note != "two lines" || bob.Entries[0].ExpiresAt == nil {
		t.Errorf("GET = %+v, want an opt-out of the list until 2999", bob)
	}
	if zoe := r.get("zoe@example.com", ""); zoe.Entries[0].Reason != model.Manual {
		t.Errorf("GET = %+v, want manual where the line has no reason", zoe)
	}
	// Turns red when an import draws ids, or makes them of its own time.
	for _, address := range []string{"ada@example.com", "bob@example.com", "zoe@example.com"} {
		var why suppression.Explanation
		r.call(http.MethodGet, v1+"/"+address+"/explain", "", http.StatusOK, &why)
		if len(why.Scopes) != 1 || len(why.Scopes[0].Facts) != 1 || why.Scopes[0].Facts[0].Actor != "loopback" {
			t.Errorf("explain %s = %+v, want one fact, made by loopback", address, why)
		}
	}
}

func TestAPI_importLayouts(t *testing.T) {
	c := kafkatest.New(t)
	startNormalizer(t, c)
	r := start(t, c, "a", t.TempDir())
	for _, tt := range []struct {
		query, kind, file, address, ask string
		want                            model.Reason
	}{
		{"?layout=ses", "text/csv", "a@example.com,BOUNCE\n", "a@example.com", "", model.HardBounce},
		{"?layout=ses", "application/x-ndjson", `{"emailAddress":"b@example.com","reason":"COMPLAINT"}`, "b@example.com", "", model.Complaint},
		{"?layout=sendgrid", "text/csv", "status,reason,email,created\n5.1.1,\"550 no\nsuch user\",c@example.com,1700000000\n", "c@example.com", "", model.HardBounce},
		{"?layout=postmark&scope_kind=stream&scope_id=news", "text/csv", "EmailAddress,SuppressionReason,Origin,CreatedAt\nd@example.com,ManualSuppression,Recipient,2026-01-01T00:00:00Z\n", "d@example.com", "?stream=news", model.Unsubscribe},
		{"?layout=mailgun&format=ndjson&reason=invalid_address", "text/plain", `{"address":"e@example.com"}`, "e@example.com", "", model.InvalidAddress},
		{"?spreadsheet=true", "text/csv", "address\n'+f@example.com\n", "+f@example.com", "", model.Manual},
	} {
		got, body := r.importing(tt.query, tt.kind, tt.file, http.StatusOK)
		if got.Taken != 1 || got.BadLines != 0 {
			t.Errorf("import %s = %s, want one taken", tt.query, body)
			continue
		}
		within(t, "imported: "+tt.address, func() bool {
			a := r.get(tt.address, tt.ask)
			return a.Suppressed && a.Entries[0].Reason == tt.want
		})
	}
}

// failing is a producer that acknowledges some records and then none.
type failing struct {
	suppression.Producer
	left atomic.Int64
}

func (p *failing) ProduceSync(ctx context.Context, records ...*kgo.Record) kgo.ProduceResults {
	if p.left.Add(-int64(len(records))) < 0 {
		var results kgo.ProduceResults
		for _, r := range records {
			results = append(results, kgo.ProduceResult{Record: r, Err: kgo.ErrRecordTimeout})
		}
		return results
	}
	return p.Producer.ProduceSync(ctx, records...)
}

// What of an import was taken before it broke off is said, and the whole file
// again makes each change once.
func TestAPI_importBreaksOff(t *testing.T) {
	c := kafkatest.New(t)
	startNormalizer(t, c)
	producer := &failing{}
	producer.left.Store(10)
	r := start(t, c, "a", t.TempDir(), func(_ *suppression.Config, deps *suppression.Deps) {
		producer.Producer = deps.Producer
		deps.Producer = producer
	})
	const n = 7000 // two parts
	var file strings.Builder
	file.WriteString("address\n")
	for i := range n {
		fmt.Fprintf(&file, "user%d@example.com\n", i)
	}
	_, body := r.importing("", "text/csv", file.String(), http.StatusServiceUnavailable)
	if !strings.Contains(body, "5000 entries, to line 5001,") || !strings.Contains(body, "importing the whole file again is safe") {
		t.Errorf("import without Kafka = %s, want that 5000 were taken, and that it can be done again", body)
	}
	producer.left.Store(1000)
	if got, _ := r.importing("", "text/csv", file.String(), http.StatusOK); got.Taken != n {
		t.Errorf("import again = %+v, want all %d", got, n)
	}
	within(t, "imported", func() bool { return r.get(fmt.Sprintf("user%d@example.com", n-1), "").Suppressed })
	var lines []string
	within(t, "exported whole", func() bool {
		a := r.exported("?format=ndjson")
		lines = strings.Split(strings.TrimSpace(a.body), "\n")
		return len(lines) == n
	})
	// Turns red when a page of an export begins at the wrong address.
	seen := map[string]bool{}
	for _, line := range lines {
		var e model.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil || seen[e.Address] {
			t.Fatalf("export has %s twice, or it cannot be read (%v)", e.Address, err)
		}
		seen[e.Address] = true
	}
	var why suppression.Explanation
	r.call(http.MethodGet, v1+"/user0@example.com/explain", "", http.StatusOK, &why)
	if len(why.Scopes) != 1 || len(why.Scopes[0].Facts) != 1 {
		t.Errorf("explain = %+v, want one fact after two imports", why)
	}
}

func TestAPI_importBounds(t *testing.T) {
	c := kafkatest.New(t)
	r := start(t, c, "a", t.TempDir(), func(cfg *suppression.Config, _ *suppression.Deps) { cfg.MaxImport = 1 << 20 })
	got, _ := r.importing("", "text/csv", "address\n"+strings.Repeat("nobody\n", 1500), http.StatusOK)
	if got.Taken != 0 || got.BadLines != 1500 || len(got.Errors) != 1000 || got.Errors[999].Line != 1001 {
		t.Errorf("import of 1500 bad lines = %d taken, %d bad, %d told, want the first 1000 told", got.Taken, got.BadLines, len(got.Errors))
	}
	large := "address\n" + strings.Repeat("a@example.com\n", 80_000)
	r.importing("", "text/csv", large, http.StatusRequestEntityTooLarge)
	// One that does not say how long it is.
	streamed := io.MultiReader(strings.NewReader(large))
	cut := r.sendTo(r.plain, http.MethodPost, v1+"/import", streamed, false, "Content-Type", "text/csv")
	if cut.status != http.StatusRequestEntityTooLarge || !strings.Contains(cut.body, "70000 entries, to line 70001,") {
		t.Errorf("an import that is too long = %d %s, want 413, and how much was taken", cut.status, cut.body)
	}
	if got, _ := r.importing("", "text/csv", "", http.StatusOK); got.Taken != 0 {
		t.Errorf("import of nothing = %+v", got)
	}
	a := r.send(http.MethodPost, v1+"/import", "address\n", "Content-Type", "text/csv", "Content-Encoding", "gzip")
	if a.status != http.StatusUnsupportedMediaType {
		t.Errorf("a compressed import = %d, want 415", a.status)
	}
}

// What is exported can be imported, and says the same; lists of providers hold
// what they can, once for each address.
func TestAPI_export(t *testing.T) {
	c := kafkatest.New(t)
	startNormalizer(t, c)
	r := start(t, c, "a", t.TempDir())
	complained := bounce("2", "ada@example.com")
	complained.Type = event.Complained
	optedOut := bounce("3", "+bob@example.org")
	optedOut.Type, optedOut.ScopeKind, optedOut.ScopeID = event.Unsubscribed, event.ScopeStream, "news"
	c.Produce(t, canonical(t, c, bounce("1", "ada@example.com")), canonical(t, c, complained), canonical(t, c, optedOut))
	within(t, "listed", func() bool { got, _ := r.pages("limit=10"); return len(got) == 3 })

	for _, tt := range []struct {
		query, want string
		leftOut     string
	}{
		{"?layout=ses", "ada@example.com,COMPLAINT\n", "1"},
		{"?layout=ses&format=ndjson&reason=hard_bounce", `{"emailAddress":"ada@example.com","reason":"BOUNCE"}` + "\n", "0"},
		{"?layout=mailgun&list=bounces", "address,code,error,created_at\nada@example.com,,,\"Tue, 24 Nov 2026 12:00:00 UTC\"\n", "2"},
		{"?layout=postmark&scope_kind=stream&scope_id=news", "EmailAddress,SuppressionReason,Origin,CreatedAt\n+bob@example.org,ManualSuppression,Recipient,2026-11-24T12:00:00Z\n", "0"},
		{"?layout=postmark&scope_kind=stream&scope_id=news&spreadsheet=true", "EmailAddress,SuppressionReason,Origin,CreatedAt\n'+bob@example.org,ManualSuppression,Recipient,2026-11-24T12:00:00Z\n", "0"},
		{"?domain=nowhere.example", "address,scope_kind,scope_id,reason,since,expires_at,provider,source,event_id,note\n", "0"},
	} {
		a := r.exported(tt.query)
		if a.status != http.StatusOK || a.body != tt.want || a.header.Get("Mailriver-As-Of") == "" {
			t.Errorf("export %s = %d %q, want %q", tt.query, a.status, a.body, tt.want)
		}
		if got := a.trailer.Get("Mailriver-Left-Out"); got != tt.leftOut {
			t.Errorf("export %s leaves out %q, want %q", tt.query, got, tt.leftOut)
		}
	}

	other := kafkatest.New(t)
	startNormalizer(t, other)
	second := start(t, other, "a", t.TempDir())
	for _, format := range []string{"csv", "ndjson"} {
		file := r.exported("?format=" + format).body
		if got, body := second.importing("?format="+format, "text/csv", file, http.StatusOK); got.Taken != 3 {
			t.Errorf("import of an export as %s = %s, want 3 taken", format, body)
		}
	}
	within(t, "imported", func() bool { got, _ := second.pages("limit=10"); return len(got) == 3 })
	for _, address := range []string{"ada@example.com", "+bob@example.org"} {
		was, is := r.get(address, ""), second.get(address, "")
		for i, e := range was.Entries {
			if got := is.Entries[i]; got.Reason != e.Reason || !got.Since.Equal(e.Since) || got.ScopeKind != e.ScopeKind || got.ScopeID != e.ScopeID {
				t.Errorf("%s came back as %+v, was %+v", address, got, e)
			}
		}
	}
}

// Turns red when a file has to come within the time that a server gives to a
// request of one piece.
func TestAPI_importComesSlowly(t *testing.T) {
	c := kafkatest.New(t)
	service, engine, stop := build(t, c, "a", t.TempDir())
	defer stop()
	within(t, "ready", func() bool { return service.Ready(t.Context()) == nil })
	const patience = 200 * time.Millisecond
	server := httptest.NewUnstartedServer(engine)
	server.Config.ReadTimeout, server.Config.WriteTimeout = patience, patience
	server.Start()
	defer server.Close()
	reader, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, "address\nada@example.com\n")
		<-time.After(3 * patience)
		_, _ = io.WriteString(writer, "bob@example.com\n")
		_ = writer.Close() // never fails
	}()
	r := &replica{t: t, client: server.Client()}
	a := r.sendTo(server.URL, http.MethodPost, v1+"/import", reader, false, "Content-Type", "text/csv")
	if a.status != http.StatusOK || !strings.Contains(a.body, `"taken":2`) {
		t.Errorf("import = %d %s, want two taken", a.status, a.body)
	}
}
