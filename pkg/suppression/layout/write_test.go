package layout

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

func write(t testing.TB, l Layout, f Format, o Options, entries ...suppression.Entry) (text string, left int) {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, l, f, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch err := w.Write(e); {
		case errors.Is(err, ErrNotInList):
			left++
		case err != nil:
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.String(), left
}

func TestWriter(t *testing.T) {
	at := time.Date(2026, 11, 24, 12, 0, 0, 1000, time.UTC)
	entries := []suppression.Entry{
		{Address: "ada@example.com", ScopeKind: "address", Reason: suppression.Complaint, Since: at, Provider: "ses", Source: "eu", EventID: "e1"},
		{Address: "=bob@example.com", ScopeKind: "address", Reason: suppression.HardBounce, Since: at, Note: "550 no, \"none\""},
		{Address: "carol@example.com", ScopeKind: "account", Reason: suppression.Unsubscribe, ExpiresAt: at},
		{Address: "dan@example.com", ScopeKind: "group", ScopeID: "7", Reason: suppression.Unsubscribe, Since: at},
		{Address: "eve@example.com", ScopeKind: "tag", ScopeID: "news", Reason: suppression.Unsubscribe, Since: at},
		{Address: "fay@example.com", ScopeKind: "address", Reason: suppression.InvalidAddress, Since: at},
		{Address: "gus@example.com", ScopeKind: "stream", ScopeID: "bulk", Reason: suppression.Manual, Since: at},
	}
	tests := []struct {
		layout Layout
		format Format
		o      Options
		want   string
		left   int
	}{
		{Mailriver, CSV, Options{}, `address,scope_kind,scope_id,reason,since,expires_at,provider,source,event_id,note
ada@example.com,address,,complaint,2026-11-24T12:00:00.000001Z,,ses,eu,e1,
=bob@example.com,address,,hard_bounce,2026-11-24T12:00:00.000001Z,,,,,"550 no, ""none"""
carol@example.com,account,,unsubscribe,,2026-11-24T12:00:00.000001Z,,,,
dan@example.com,group,7,unsubscribe,2026-11-24T12:00:00.000001Z,,,,,
eve@example.com,tag,news,unsubscribe,2026-11-24T12:00:00.000001Z,,,,,
fay@example.com,address,,invalid_address,2026-11-24T12:00:00.000001Z,,,,,
gus@example.com,stream,bulk,manual,2026-11-24T12:00:00.000001Z,,,,,
`, 0},
		{SendGrid, CSV, Options{}, "email,created\nada@example.com,1795521600\n=bob@example.com,1795521600\ncarol@example.com,\nfay@example.com,1795521600\n", 3},
		{SendGrid, CSV, Options{List: Bounces, Spreadsheet: true}, "status,reason,email,created\n,\"550 no, \"\"none\"\"\",'=bob@example.com,1795521600\n", 6},
		{SendGrid, CSV, Options{List: Complaints}, "ip,email,created\n,ada@example.com,1795521600\n", 6},
		{SendGrid, CSV, Options{List: InvalidEmails}, "reason,email,created\n,fay@example.com,1795521600\n", 6},
		{SendGrid, CSV, Options{List: GroupUnsubscribes}, "email,created,group_id\ndan@example.com,1795521600,7\n", 6},
		{SendGrid, NDJSON, Options{List: Complaints}, `{"created":1795521600,"email":"ada@example.com","ip":""}` + "\n", 6},
		{Mailgun, CSV, Options{}, `address,tags,created_at
ada@example.com,*,"Tue, 24 Nov 2026 12:00:00 UTC"
=bob@example.com,*,"Tue, 24 Nov 2026 12:00:00 UTC"
carol@example.com,*,
eve@example.com,news,"Tue, 24 Nov 2026 12:00:00 UTC"
fay@example.com,*,"Tue, 24 Nov 2026 12:00:00 UTC"
`, 2},
		{Mailgun, NDJSON, Options{List: Unsubscribes}, `{"address":"ada@example.com","created_at":"Tue, 24 Nov 2026 12:00:00 UTC","tags":["*"]}
{"address":"=bob@example.com","created_at":"Tue, 24 Nov 2026 12:00:00 UTC","tags":["*"]}
{"address":"carol@example.com","tags":["*"]}
{"address":"eve@example.com","created_at":"Tue, 24 Nov 2026 12:00:00 UTC","tags":["news"]}
{"address":"fay@example.com","created_at":"Tue, 24 Nov 2026 12:00:00 UTC","tags":["*"]}
`, 2},
		{Mailgun, CSV, Options{List: Bounces}, `address,code,error,created_at
=bob@example.com,,"550 no, ""none""","Tue, 24 Nov 2026 12:00:00 UTC"
fay@example.com,,,"Tue, 24 Nov 2026 12:00:00 UTC"
`, 5},
		{Mailgun, CSV, Options{List: Complaints}, "address,created_at\nada@example.com,\"Tue, 24 Nov 2026 12:00:00 UTC\"\n", 6},
		{Postmark, CSV, Options{ScopeKind: "stream", ScopeID: "bulk"}, `EmailAddress,SuppressionReason,Origin,CreatedAt
ada@example.com,SpamComplaint,Recipient,2026-11-24T12:00:00.000001Z
=bob@example.com,HardBounce,Recipient,2026-11-24T12:00:00.000001Z
carol@example.com,ManualSuppression,Recipient,
fay@example.com,HardBounce,Recipient,2026-11-24T12:00:00.000001Z
gus@example.com,ManualSuppression,Customer,2026-11-24T12:00:00.000001Z
`, 2},
		{SES, CSV, Options{}, "ada@example.com,COMPLAINT\n=bob@example.com,BOUNCE\ncarol@example.com,BOUNCE\nfay@example.com,BOUNCE\n", 3},
		{SES, NDJSON, Options{}, `{"emailAddress":"ada@example.com","reason":"COMPLAINT"}
{"emailAddress":"=bob@example.com","reason":"BOUNCE"}
{"emailAddress":"carol@example.com","reason":"BOUNCE"}
{"emailAddress":"fay@example.com","reason":"BOUNCE"}
`, 3},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.layout, " ", tt.o.List, " ", tt.format), func(t *testing.T) {
			got, left := write(t, tt.layout, tt.format, tt.o, entries...)
			if got != tt.want || left != tt.left {
				t.Errorf("Write =\n%s%d left out, want\n%s%d left out", got, left, tt.want, tt.left)
			}
		})
	}
}

func TestWriter_empty(t *testing.T) {
	for _, l := range Layouts() {
		text, _ := write(t, l, CSV, Options{})
		if got := readAll(strings.NewReader(text), l, CSV, Options{}); len(got.Entries)+len(got.Errors) > 0 || got.Fatal != "" {
			t.Errorf("%s: an empty list is %q and read as %+v", l, text, got)
		}
		if text, _ := write(t, l, NDJSON, Options{}); text != "" {
			t.Errorf("%s: an empty list of JSON is %q, want nothing", l, text)
		}
	}
}

func TestNewWriter_list(t *testing.T) {
	for l, want := range map[Layout]string{
		SES:     `list: is "nope", must be empty: ses has one list`,
		Mailgun: `list: is "nope", must be one of unsubscribes, bounces, complaints`,
	} {
		if _, err := NewWriter(new(bytes.Buffer), l, CSV, Options{List: "nope"}); fmt.Sprint(err) != want {
			t.Errorf("NewWriter(%s, nope) = %v, want %s", l, err, want)
		}
	}
}

// The writer underneath fails, and Write or Flush says so.
func TestWriter_fails(t *testing.T) {
	for _, f := range []Format{CSV, NDJSON} {
		w, err := NewWriter(full{}, Mailriver, f, Options{})
		if err != nil {
			t.Fatal(err)
		}
		err = w.Write(suppression.Entry{Address: "ada@example.com"})
		if err = errors.Join(err, w.Flush()); !errors.Is(err, errFull) {
			t.Errorf("%s: Flush() = %v, want %v", f, err, errFull)
		}
	}
}

var errFull = errors.New("disk is full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// random makes entries that Mailriver's own layout keeps whole, with all that is
// special in CSV, JSON and spreadsheets.
func random(rng *rand.Rand) suppression.Entry {
	pick := func(texts ...string) string { return texts[rng.IntN(len(texts))] }
	text := func() string {
		var b strings.Builder
		for range rng.IntN(6) {
			b.WriteString(pick("a", ",", `"`, "'", "=", "\n", "\r\n", "\r", "é", " ", "\\", "\\.", "-", "+1", "@", ";", "\t", "<&>"))
		}
		return b.String()
	}
	word := func() string { return strings.TrimSpace(strings.ReplaceAll(text(), "\n", "")) }
	at := func() time.Time {
		return time.UnixMicro(1_700_000_000_000_000 + rng.Int64N(1e15)).UTC()
	}
	e := suppression.Entry{
		Address:   pick("ada", "=cmd|'x", "+tag", "-1", "'quoted", "o'neil", "é", `"a ,b"`, "*") + "@" + pick("example.com", "xn--mnchen-3ya.example", "[192.0.2.1]"),
		ScopeKind: pick("address", "account", "stream", "tag", "group"),
		Reason:    suppression.Reasons()[rng.IntN(len(suppression.Reasons()))],
		Since:     at(), Provider: word(), Source: word(), EventID: word(), Note: text(),
	}
	if rng.IntN(4) == 0 {
		e.Since = time.Time{}
	} else if rng.IntN(2) == 0 {
		e.ExpiresAt = e.Since.Add(time.Hour)
	}
	if scopeNeedsID(e.ScopeKind) {
		e.ScopeID = "id" + word()
	}
	return e
}

// What Mailriver writes, it reads as it was, in either format, with spreadsheets
// in mind or not.
func TestRoundTrip_own(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		entries := make([]suppression.Entry, 1+rng.IntN(5))
		for i := range entries {
			entries[i] = random(rng)
		}
		for _, f := range []Format{CSV, NDJSON} {
			for _, o := range []Options{{}, {Spreadsheet: true}} {
				text, _ := write(t, Mailriver, f, o, entries...)
				got := readAll(strings.NewReader(text), Mailriver, f, o)
				if want := (outcome{Entries: entries}); !reflect.DeepEqual(got, want) {
					t.Fatalf("%s %+v: Read(Write(%+v)) = %+v\n%s", f, o, entries, got, text)
				}
				if f == CSV && o.Spreadsheet {
					noFormula(t, text)
				}
			}
		}
	}
}

// noFormula looks at the cells as a spreadsheet does.
func noFormula(t *testing.T, text string) {
	t.Helper()
	l := newLines(strings.NewReader(text))
	for {
		cells, _, err := l.record(func(int) error { return nil })
		if isEnd(err) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, cell := range cells {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r\n") {
				t.Errorf("cell %q is a formula", cell)
			}
		}
	}
}

// A provider's layout holds less. What it holds stays, however often it is
// written and read, and a scope never grows.
func TestRoundTrip_providers(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		e := random(rng)
		for _, l := range Layouts()[1:] {
			for _, f := range []Format{CSV, NDJSON} {
				lists := Lists(l)
				if len(lists) == 0 {
					lists = []List{""}
				}
				for _, which := range lists {
					o := Options{List: which}
					text, left := write(t, l, f, o, e)
					if left > 0 {
						continue
					}
					if e.ScopeKind != event.ScopeAddress && e.ScopeKind != event.ScopeAccount && e.ScopeKind != event.ScopeTag && e.ScopeKind != event.ScopeGroup {
						t.Errorf("%s %s: wrote %+v, whose scope it cannot hold", l, which, e)
					}
					first := readAll(strings.NewReader(text), l, f, o)
					if len(first.Entries) != 1 || first.Fatal != "" || len(first.Errors) > 0 || first.Entries[0].Address != e.Address {
						t.Fatalf("%s %s %s: Read(%q) = %+v, want %s", l, which, f, text, first, e.Address)
					}
					if again, _ := write(t, l, f, o, first.Entries...); again != text {
						t.Errorf("%s %s %s: Write(Read(%q)) = %q", l, which, f, text, again)
					}
				}
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("address,note\nada@example.com,\"a\nb\"\n\"x\n"), 0, false)
	f.Add([]byte("status,reason,email,created\n5.1.1,\"no, none\",ada@example.com,1795521600\n"), 1, false)
	f.Add([]byte("address,tags,created_at\nada@example.com,\"a, b\",\"Tue, 24 Nov 2026 12:00:00 UTC\"\n"), 2, false)
	f.Add([]byte(`{"EmailAddress":"ada@example.com","Origin":"Recipient"}`), 3, true)
	f.Add([]byte("a@example.com, BOUNCE\r\n\r\n\"b@example.com\",COMPLAINT"), 4, false)
	f.Fuzz(func(t *testing.T, text []byte, which int, lines bool) {
		l := Layouts()[((which%5)+5)%5]
		format := CSV
		if lines {
			format = NDJSON
		}
		got := readAll(bytes.NewReader(text), l, format, Options{})
		// Nothing is read that Mailriver could not write and read again.
		again, _ := write(t, Mailriver, NDJSON, Options{}, got.Entries...)
		if back := readAll(strings.NewReader(again), Mailriver, NDJSON, Options{}); !reflect.DeepEqual(back.Entries, got.Entries) {
			t.Errorf("Read(%q) = %+v, and written and read again %+v", text, got.Entries, back)
		}
	})
}

func BenchmarkReader(b *testing.B) {
	text, _ := write(b, Mailriver, CSV, Options{}, suppression.Entry{
		Address: "ada@example.com", ScopeKind: "address", Reason: suppression.HardBounce, Provider: "sendgrid",
		Since: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), Note: "550 5.1.1 no such user",
	})
	header, line, _ := strings.Cut(text, "\n")
	text = header + "\n" + strings.Repeat(line, 1000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if got := readAll(strings.NewReader(text), Mailriver, CSV, Options{}); len(got.Entries) != 1000 {
			b.Fatalf("read %d entries", len(got.Entries))
		}
	}
}
