package terminal_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/terminal"
)

func sample() terminal.List {
	return terminal.List{
		Columns: []string{"event_type", "events", "last_seen"},
		Rows: [][]any{
			{"delivered", int64(12), time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)},
			{"open\x1b[2Jed, \"x\"", int64(3), time.Time{}},
		},
	}
}

func TestWrite_table(t *testing.T) {
	var out bytes.Buffer
	if err := terminal.Write(&out, terminal.Table, sample()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"EVENT TYPE", "delivered", "2026-11-23T12:00:00Z"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("a cell can drive the terminal: %q", out.String())
	}
}

func TestWrite_json(t *testing.T) {
	var out bytes.Buffer
	if err := terminal.Write(&out, terminal.JSON, sample()); err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if len(rows) != 2 || rows[0]["events"] != 12.0 || rows[1]["event_type"] != "open\x1b[2Jed, \"x\"" ||
		rows[0]["last_seen"] != "2026-11-23T12:00:00Z" || rows[1]["last_seen"] != nil {
		t.Errorf("rows = %v", rows)
	}
	out.Reset()
	if err := terminal.Write(&out, terminal.JSON, terminal.List{Columns: []string{"a"}}); err != nil || out.String() != "[]\n" {
		t.Errorf("an empty list is %q, %v, want []", out.String(), err)
	}
}

func TestWrite_csv(t *testing.T) {
	var out bytes.Buffer
	if err := terminal.Write(&out, terminal.CSV, sample()); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil || len(rows) != 3 || rows[1][1] != "12" {
		t.Errorf("rows = %v, %v", rows, err)
	}
}

func TestParseFormat(t *testing.T) {
	if _, err := terminal.ParseFormat("yaml"); err == nil || !strings.Contains(err.Error(), "table, json or csv") {
		t.Errorf("ParseFormat(yaml) = %v, want the allowed words", err)
	}
	if f, err := terminal.ParseFormat("json"); err != nil || f != terminal.JSON {
		t.Errorf("ParseFormat(json) = %v, %v", f, err)
	}
}

// Nothing is drawn where nobody looks.
func TestProgress_notOnAFile(t *testing.T) {
	var out bytes.Buffer
	p := terminal.NewProgress(&out, 10, "sending", "events")
	p.Add(10)
	p.Done()
	if out.Len() > 0 {
		t.Errorf("drew %q", out.String())
	}
}
