// Package terminal is what the command lines show: tables, the same as JSON or
// CSV, and progress of long work. It knows no command.
package terminal

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Format is how a list is written.
type Format string

// The formats of --output.
const (
	Table Format = "table"
	JSON  Format = "json"
	CSV   Format = "csv"
)

// ParseFormat reads the value of --output.
func ParseFormat(name string) (Format, error) {
	switch f := Format(name); f {
	case Table, JSON, CSV:
		return f, nil
	}
	return "", fmt.Errorf("output: is %q, must be table, json or csv", name)
}

// List is rows under names. Cells may be of any type; JSON keeps numbers.
type List struct {
	Columns []string // snake_case
	Rows    [][]any
	// Wrap names columns whose cells go on in the next line, in a table, where
	// the terminal is too narrow for them.
	Wrap []string
	// Spare names columns that are left out of a table where the terminal is too
	// narrow for all, the first one first. A line below the table names them.
	Spare []string
}

// Number is a number as people want to read it: it stands on the right.
type Number string

// Write writes a list. A table fits the width of the terminal: long cells are
// cut, with an ellipsis. JSON is one array of objects, whose keys are the
// columns in order.
func Write(w io.Writer, format Format, list List) error {
	switch format {
	case JSON:
		return writeJSON(w, list)
	case CSV:
		return writeCSV(w, list)
	}
	width, narrow := Width(w)
	var left []string
	if narrow {
		list, left = spared(list, width)
	}
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Options.DrawBorder = false
	t.Style().Options.SeparateColumns = false
	t.Style().Format.Header = text.FormatDefault
	var configs []table.ColumnConfig
	if narrow {
		t.Style().Size.WidthMax = width
		configs = wrapped(list, width)
	}
	header := make(table.Row, len(list.Columns))
	for i, name := range list.Columns {
		header[i] = heading(name)
		if numeric(list, i) {
			configs = append(configs, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(header)
	for _, row := range list.Rows {
		cells := make(table.Row, len(row))
		for i, cell := range row {
			cells[i] = Text(cell)
		}
		t.AppendRow(cells)
	}
	t.Render()
	if len(left) > 0 {
		_, err := io.WriteString(w, leftOut(left, width))
		return err
	}
	return nil
}

func heading(column string) string { return strings.ToUpper(strings.ReplaceAll(column, "_", " ")) }

// leftOut is the line about columns that had no room.
func leftOut(columns []string, width int) string {
	names := make([]string, len(columns))
	for i, name := range columns {
		names[i] = heading(name)
	}
	return text.WrapSoft("no room for "+strings.Join(names, ", ")+"; --output json has all", width) + "\n"
}

// spared leaves columns out until a table fits, and names them.
func spared(list List, width int) (List, []string) {
	var left []string
	for _, name := range list.Spare {
		if _, words := measured(list); sum(words)+2*len(words) <= width {
			break
		}
		i := slices.Index(list.Columns, name)
		if i < 0 {
			continue
		}
		left = append(left, name)
		list.Columns = slices.Delete(slices.Clone(list.Columns), i, i+1)
		rows := make([][]any, len(list.Rows))
		for n, row := range list.Rows {
			rows[n] = slices.Delete(slices.Clone(row), i, i+1)
		}
		list.Rows = rows
	}
	return list, left
}

// measured returns how wide each column is, and how narrow it can be: a column
// that may be wrapped as its longest word.
func measured(list List) (widths, words []int) {
	widths, words = make([]int, len(list.Columns)), make([]int, len(list.Columns))
	for i, name := range list.Columns {
		cells := []string{strings.ReplaceAll(name, "_", " ")}
		for _, row := range list.Rows {
			cells = append(cells, Text(row[i]))
		}
		for _, cell := range cells {
			widths[i] = max(widths[i], text.StringWidth(cell))
			for word := range strings.FieldsSeq(cell) {
				words[i] = max(words[i], min(text.StringWidth(word), maxWord))
			}
		}
		if !slices.Contains(list.Wrap, name) {
			words[i] = widths[i]
		}
	}
	return widths, words
}

func sum(numbers []int) (total int) {
	for _, n := range numbers {
		total += n
	}
	return total
}

// maxWord is how wide a word may be before it is broken.
const maxWord = 20

// wrapped makes the columns that may be wrapped so narrow that the table fits,
// the widest first, but none narrower than its words.
func wrapped(list List, width int) []table.ColumnConfig {
	widths, words := measured(list)
	total := sum(widths) + 2*len(widths) // a space on either side
	var configs []table.ColumnConfig
	for total > width {
		widest := -1
		for i := range widths {
			if widths[i] > words[i] && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
		total--
	}
	for i, name := range list.Columns {
		if slices.Contains(list.Wrap, name) {
			configs = append(configs, table.ColumnConfig{Number: i + 1, WidthMax: widths[i], WidthMaxEnforcer: text.WrapSoft})
		}
	}
	return configs
}

// numeric goes by the first cell that is there.
func numeric(list List, column int) bool {
	for _, row := range list.Rows {
		switch row[column].(type) {
		case nil:
			continue
		case int, int32, int64, uint64, uint32, float64, Number:
			return true
		}
		return false
	}
	return false
}

// Text is a cell as text: times in RFC 3339, control characters escaped, so
// that what came over the network cannot drive a terminal.
func Text(cell any) string {
	var s string
	switch v := cell.(type) {
	case nil:
		return ""
	case time.Time:
		if v.IsZero() {
			return ""
		}
		return v.UTC().Format(time.RFC3339)
	case string:
		s = v
	default:
		s = fmt.Sprint(v)
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}

func writeJSON(w io.Writer, list List) error {
	var b strings.Builder
	b.WriteString("[")
	for i, row := range list.Rows {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString("\n  {")
		for j, name := range list.Columns {
			if j > 0 {
				b.WriteString(", ")
			}
			cell := row[j]
			if at, ok := cell.(time.Time); ok && at.IsZero() {
				cell = nil // as CSV, which leaves it empty
			}
			value, err := json.Marshal(cell)
			if err != nil {
				return fmt.Errorf("column %s: %w", name, err)
			}
			fmt.Fprintf(&b, "%q: %s", name, value)
		}
		b.WriteString("}")
	}
	if len(list.Rows) > 0 {
		b.WriteString("\n")
	}
	b.WriteString("]\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func writeCSV(w io.Writer, list List) error {
	out := csv.NewWriter(w)
	errs := []error{out.Write(list.Columns)}
	for _, row := range list.Rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = Text(cell)
		}
		errs = append(errs, out.Write(cells))
	}
	out.Flush()
	return errors.Join(append(errs, out.Error())...)
}

// Width returns the number of columns of a terminal, and whether w is one.
func Width(w io.Writer) (int, bool) {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(file.Fd()))
	return width, err == nil && width > 0
}

// Progress shows how far long work is, on a terminal only. Its methods may be
// called from several goroutines.
type Progress struct{ bar *progressbar.ProgressBar }

// NewProgress starts a bar on w for total units of what, for example "events".
// A total below zero is unknown: a spinner. On anything but a terminal nothing
// is shown.
func NewProgress(w io.Writer, total int64, label, what string) *Progress {
	if _, ok := Width(w); !ok {
		return &Progress{}
	}
	return &Progress{progressbar.NewOptions64(
		total,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(label),
		progressbar.OptionSetItsString(what),
		progressbar.OptionShowIts(),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetRenderBlankState(true),
		progressbar.OptionFullWidth(),
	)}
}

// Add tells that n more units are done.
func (p *Progress) Add(n int) {
	if p.bar != nil {
		_ = p.bar.Add(n) // a bar that cannot be drawn is no reason to stop
	}
}

// Done takes the bar away.
func (p *Progress) Done() {
	if p.bar != nil {
		_ = p.bar.Finish() // see Add
	}
}
