package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// outcome is what a file gives.
type outcome struct {
	Entries []suppression.Entry `json:"entries"`
	Errors  []string            `json:"errors,omitempty"`
	Fatal   string              `json:"fatal,omitempty"`
}

func readAll(r io.Reader, l Layout, f Format, o Options) outcome {
	got := outcome{Entries: []suppression.Entry{}}
	reader := NewReader(r, l, f, o)
	for {
		e, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return got
		}
		if wrong, ok := errors.AsType[*LineError](err); ok {
			got.Errors = append(got.Errors, wrong.Error())
			continue
		}
		if err != nil {
			got.Fatal = err.Error()
			return got
		}
		got.Entries = append(got.Entries, e)
	}
}

// Each folder of testdata is named for its layout. UPDATE_GOLDEN=1 rewrites what
// is wanted; review the difference.
func TestReader_golden(t *testing.T) {
	files, err := filepath.Glob("testdata/*/in.*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata (%v)", err)
	}
	for _, path := range files {
		folder := filepath.Base(filepath.Dir(path))
		t.Run(folder+filepath.Ext(path), func(t *testing.T) {
			name, _, _ := strings.Cut(folder, "_")
			l, err := ParseLayout(name)
			if err != nil {
				t.Fatal(err)
			}
			f, err := ParseFormat(strings.TrimPrefix(filepath.Ext(path), "."))
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := readAll(bytes.NewReader(text), l, f, Options{})
			if slow := readAll(iotest.OneByteReader(bytes.NewReader(text)), l, f, Options{}); !reflect.DeepEqual(got, slow) {
				t.Errorf("byte by byte = %+v, want %+v", slow, got)
			}
			golden := filepath.Join(filepath.Dir(path), "want"+filepath.Ext(path)+".json")
			shown, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			shown = append(shown, '\n')
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, shown, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil || string(shown) != string(want) {
				t.Errorf("Read(%s) =\n%s\nwant (%v)\n%s", path, shown, err, want)
			}
		})
	}
}

// What a file does not say is taken from the options, and what it says is not.
func TestReader_options(t *testing.T) {
	domain := Options{ScopeKind: event.ScopeDomain, ScopeID: "mg.example.com"}
	tests := []struct {
		name   string
		layout Layout
		text   string
		o      Options
		want   suppression.Entry
	}{
		{
			"the domain of a Mailgun list", Mailgun, "address,code,error\nada@example.com,550,gone\n", domain,
			suppression.Entry{ScopeKind: "domain", ScopeID: "mg.example.com", Reason: suppression.HardBounce, Provider: "mailgun", Note: "550 gone"},
		},
		{
			"a tag goes before it", Mailgun, "address,tags\nada@example.com,news\n", domain,
			suppression.Entry{ScopeKind: "tag", ScopeID: "news", Reason: suppression.Unsubscribe, Provider: "mailgun"},
		},
		{
			"unsubscribes of Mailgun without tags", Mailgun, "address,created_at\nada@example.com,\n",
			Options{Reason: suppression.Unsubscribe},
			suppression.Entry{ScopeKind: "account", Reason: suppression.Unsubscribe, Provider: "mailgun"},
		},
		{
			"a group of SendGrid", SendGrid, "email,created\nada@example.com,\n",
			Options{ScopeKind: event.ScopeGroup, ScopeID: "7"},
			suppression.Entry{ScopeKind: "group", ScopeID: "7", Reason: suppression.Unsubscribe, Provider: "sendgrid"},
		},
		{
			"blocks of SendGrid", SendGrid, "status,reason,email,created\n4.0.0,later,ada@example.com,\n",
			Options{Reason: suppression.SoftBounce},
			suppression.Entry{ScopeKind: "address", Reason: suppression.SoftBounce, Provider: "sendgrid", Note: "4.0.0 later"},
		},
		{
			"a stream of Postmark", Postmark, "EmailAddress,SuppressionReason\nada@example.com,SpamComplaint\n",
			Options{ScopeKind: event.ScopeStream, ScopeID: "outbound", Reason: suppression.Manual},
			suppression.Entry{ScopeKind: "stream", ScopeID: "outbound", Reason: suppression.Complaint, Provider: "postmark"},
		},
		{
			"SES, no reason", SES, "ada@example.com\n",
			Options{Reason: suppression.Complaint},
			suppression.Entry{ScopeKind: "address", Reason: suppression.Complaint, Provider: "ses"},
		},
		{
			"an apostrophe that marks nothing", Mailriver, "address,note\nada@example.com,'tis\n",
			Options{Spreadsheet: true},
			suppression.Entry{ScopeKind: "address", Reason: suppression.Manual, Note: "'tis"},
		},
		{
			"an apostrophe that marks no formula", Mailriver, "address,note\nada@example.com,'-1\n",
			Options{Spreadsheet: true},
			suppression.Entry{ScopeKind: "address", Reason: suppression.Manual, Note: "-1"},
		},
		{
			"an apostrophe in an exact file", Mailriver, "address,note\nada@example.com,'-1\n",
			Options{},
			suppression.Entry{ScopeKind: "address", Reason: suppression.Manual, Note: "'-1"},
		},
		{
			"addresses alone", Mailriver, "address\nada@example.com\n",
			Options{Reason: suppression.Unsubscribe, ScopeKind: event.ScopeStream, ScopeID: "news"},
			suppression.Entry{ScopeKind: "stream", ScopeID: "news", Reason: suppression.Unsubscribe},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Address = "ada@example.com"
			got := readAll(strings.NewReader(tt.text), tt.layout, CSV, tt.o)
			if want := (outcome{Entries: []suppression.Entry{tt.want}}); !reflect.DeepEqual(got, want) {
				t.Errorf("Read(%q) = %+v, want %+v", tt.text, got, want)
			}
		})
	}
}

func TestReader_fatal(t *testing.T) {
	tests := []struct {
		name   string
		layout Layout
		text   string
		want   string
	}{
		{"semicolons", Mailriver, "address;reason\nada@example.com;manual\n", "header: the columns are separated by semicolons: save the file with commas"},
		{"semicolons of a provider", Mailgun, "address;code\n", "header: the columns are separated by semicolons: save the file with commas"},
		{"no address", SendGrid, "status,reason\n", "header: no column is email: there are status, reason, ip, email, created, group_id"},
		{"unknown column", Mailriver, "address,expires\n", `header: column "expires" is not known: there are address, scope_kind, scope_id, reason, since, expires_at, provider, source, event_id, note`},
		{"twice", Postmark, "EmailAddress,email\n", "header: two columns are EmailAddress"},
		{"open quote", Mailriver, "\"address\nada@example.com\n", "header: line 1: has a quote that is not closed"},
		{"UTF-16", Mailriver, "\xff\xfea\x00", "the file is UTF-16: save it as UTF-8"},
		{"too long", Mailriver, strings.Repeat("x", maxLine+1), "header: line 1: is longer than 65536 bytes"},
		{"many cells of SES", SES, "a@example.com,BOUNCE,1,2\n", "line 1: has 4 cells, want address, reason and at most a time"},
		{"empty", Mailriver, "", ""},
		{"empty lines only", Mailriver, "\n\r\n  \n", ""},
		{"header only", Mailriver, "address", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := readAll(strings.NewReader(tt.text), tt.layout, CSV, Options{})
			if want := (outcome{Entries: []suppression.Entry{}, Fatal: tt.want}); !reflect.DeepEqual(got, want) {
				t.Errorf("Read(%.40q) = %+v, want %+v", tt.text, got, want)
			}
		})
	}
}

// An error that is final stays, and one of the reader underneath is passed on.
func TestReader_final(t *testing.T) {
	broken := errors.New("connection reset by peer")
	for _, f := range []Format{CSV, NDJSON} {
		head := map[Format]string{CSV: "address\nada@example.com\n", NDJSON: `{"address":"ada@example.com"}` + "\n"}[f]
		r := NewReader(io.MultiReader(strings.NewReader(head+"bob@exa"), iotest.ErrReader(broken)), Mailriver, f, Options{})
		if e, err := r.Read(); e.Address != "ada@example.com" || err != nil {
			t.Errorf("%s: Read() = %+v, %v, want the first entry", f, e, err)
		}
		for range 2 {
			if _, err := r.Read(); !errors.Is(err, broken) {
				t.Errorf("%s: Read() = %v, want %v", f, err, broken)
			}
		}
	}
}

// A line that is too long, or a quote that is never closed, costs its own line
// only, wherever the buffers end.
func TestReader_neighbors(t *testing.T) {
	for _, size := range []int{maxLine - 100, maxLine - 1, maxLine, maxLine + 1, maxLine + 2, maxLine + 3, 3 * maxLine} {
		for _, end := range []string{"\n", "\r\n"} {
			text := "address,note" + end + "good1@example.com,x" + end + strings.Repeat("y", size) + end + "good2@example.com,x" + end +
				"bad@example.com,\"open" + end + strings.Repeat("good@example.com,x"+end, 5000) + "last@example.com,x"
			got := readAll(strings.NewReader(text), Mailriver, CSV, Options{})
			detail := "has 1 cells, want 2 like the first line"
			if size > maxLine {
				detail = "is longer than 65536 bytes"
			}
			want := []string{"line 3: " + detail, "line 5: has a quote that is not closed"}
			if len(got.Entries) != 5003 || got.Entries[5002].Address != "last@example.com" || !slices.Equal(got.Errors, want) {
				t.Errorf("a line of %d bytes: %d entries, errors %q; want 5003 and %q", size, len(got.Entries), got.Errors, want)
			}
		}
	}
}

// Without the bound, a file without line ends would be held in memory as a
// whole.
func TestReader_memory(t *testing.T) {
	const size = 64 << 20
	for _, f := range []Format{CSV, NDJSON} {
		r := NewReader(io.LimitReader(endless{}, size), Mailriver, f, Options{})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := r.Read()
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), "is longer than") {
			t.Errorf("%s: Read() = %v, want a line that is too long", f, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > size/16 {
			t.Errorf("%s: a line of %d bytes took %d bytes of memory", f, size, took)
		}
	}
}

// A quote that is not closed is given up after a bound, not at the end of the
// file.
func TestReader_openQuote(t *testing.T) {
	text := "address,note\nbad@example.com,\"open\n" + strings.Repeat("good@example.com,x\n", 50_000)
	file := strings.NewReader(text)
	r := NewReader(file, Mailriver, CSV, Options{})
	if _, err := r.Read(); err == nil || err.Error() != "line 2: has a quote that is not closed" {
		t.Errorf("Read() = %v, want a quote that is not closed", err)
	}
	if taken := len(text) - file.Len(); taken > 4*maxLine {
		t.Errorf("the reader went through %d bytes to find that out, want %d at most", taken, 4*maxLine)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestReader_Line(t *testing.T) {
	r := NewReader(strings.NewReader("\naddress,note\n\nada@example.com,\"a\nb\"\n\nbob\n"), Mailriver, CSV, Options{})
	if _, err := r.Read(); err != nil || r.Line() != 4 {
		t.Errorf("Line() = %d, %v, want 4, where the record begins", r.Line(), err)
	}
	if _, err := r.Read(); err == nil || r.Line() != 7 {
		t.Errorf("Line() = %d, %v, want 7 and an error", r.Line(), err)
	}
}

func TestParseTime(t *testing.T) {
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-11-24T12:00:00Z":            noon,
		"2026-11-24T13:00:00+01:00":       noon,
		"2026-11-24T12:00:00.123456789Z":  noon.Add(123456 * time.Microsecond),
		"1795521600":                      noon,
		"1795521600.5":                    noon.Add(time.Second / 2),
		"Tue, 24 Nov 2026 12:00:00 UTC":   noon,
		"Tue, 24 Nov 2026 12:00:00 GMT":   noon,
		"24 Nov 2026 07:00:00 -0500":      noon,
		"Tue, 24 Nov 2026 12:00:00 +0000": noon,
		"Tue, 24 Nov 2026 12:00:00 CET":   {},
		"2026-11-24":                      {},
		"24.11.2026 12:00":                {},
		"1795521600000":                   {}, // milliseconds would be the year 58867
		"-5":                              {},
		"1.":                              time.Unix(1, 0).UTC(),
		".5":                              {},
		"soon":                            {},
	} {
		got, ok := parseTime(text)
		if !got.Equal(want) || ok != !want.IsZero() {
			t.Errorf("parseTime(%s) = %s, %t, want %s", text, got, ok, want)
		}
	}
}

func TestParseNames(t *testing.T) {
	for _, l := range Layouts() {
		if got, err := ParseLayout(string(l)); got != l || err != nil {
			t.Errorf("ParseLayout(%s) = %s, %v", l, got, err)
		}
	}
	if _, err := ParseLayout("mandrill"); fmt.Sprint(err) != `layout: is "mandrill", must be one of mailriver, sendgrid, mailgun, postmark, ses` {
		t.Errorf("ParseLayout(mandrill) = %v", err)
	}
	if _, err := ParseFormat("xml"); fmt.Sprint(err) != `format: is "xml", must be csv or ndjson` {
		t.Errorf("ParseFormat(xml) = %v", err)
	}
}
