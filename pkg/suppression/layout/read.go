package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/mail"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/address"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// LineError is what is wrong with one line. Reading can go on behind it.
type LineError struct {
	Line   int    // from 1, the header included
	Field  string // the column, empty where all of the line is wrong
	Detail string
}

func (e *LineError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("line %d: %s", e.Line, e.Detail)
	}
	return fmt.Sprintf("line %d: %s: %s", e.Line, e.Field, e.Detail)
}

// Reader reads the entries of a file.
type Reader struct {
	lines   *lines
	layout  Layout
	format  Format
	options Options
	names   map[string]field

	header  []field        // of each column; fields for one that is left out
	labels  [fields]string // what the file calls a field
	present uint32         // the fields that the header has
	waiting []suppression.Entry
	line    int
	fatal   error
}

// NewReader returns a reader of a file. It reads nothing yet.
func NewReader(r io.Reader, l Layout, f Format, o Options) *Reader {
	return &Reader{lines: newLines(r), layout: l, format: f, options: o, names: l.byName()}
}

// Line returns the number of the line that the last entry or error came from.
func (r *Reader) Line() int { return r.line }

// Read returns the next entry. A [LineError] is about its line only: call Read
// again for what follows. io.EOF is the end. Any other error is final: the file
// cannot be read, or has no header that this layout knows.
//
// An entry's address is in normal form (package address), its provider is that
// of the layout, and Since is zero where the line has no time.
func (r *Reader) Read() (suppression.Entry, error) {
	if len(r.waiting) > 0 {
		e := r.waiting[0]
		r.waiting = r.waiting[1:]
		return e, nil
	}
	if r.fatal != nil {
		return suppression.Entry{}, r.fatal
	}
	row, err := r.row()
	if err != nil {
		if wrong, ok := errors.AsType[*LineError](err); ok {
			r.line = wrong.Line
		} else {
			r.fatal = err
		}
		return suppression.Entry{}, err
	}
	entries, err := r.entries(row)
	if err != nil {
		return suppression.Entry{}, err
	}
	r.waiting = entries[1:]
	return entries[0], nil
}

// row is a line taken apart.
type row struct {
	cells   [fields]string
	present uint32 // the fields that the line can have
}

func (w *row) set(f field, value string) {
	w.cells[f] = value
	w.present |= 1 << f
}

func (w *row) has(f field) bool { return w.present&(1<<f) != 0 }

func (r *Reader) row() (row, error) {
	if r.format == NDJSON {
		return r.object()
	}
	if r.header == nil {
		first, err := r.readHeader()
		if err != nil || first != nil {
			return r.fill(first), err
		}
	}
	cells, number, err := r.lines.record(func(n int) error {
		if n != len(r.header) {
			return fmt.Errorf("has %d cells, want %d like the first line", n, len(r.header))
		}
		return nil
	})
	if err != nil {
		return row{}, err
	}
	r.line = number
	return r.fill(cells), nil
}

func (r *Reader) fill(cells []string) row {
	var w row
	for i, f := range r.header {
		if f == fields || i >= len(cells) {
			continue
		}
		cell := cells[i]
		if r.options.Spreadsheet && strings.HasPrefix(cell, "'") && formula(cell[1:]) {
			cell = cell[1:]
		}
		w.set(f, cell)
	}
	return w
}

// readHeader learns the columns. A file of SES has no header: its first line is
// returned.
func (r *Reader) readHeader() (first []string, err error) {
	cells, number, err := r.lines.record(func(int) error { return nil })
	if errors.Is(err, io.EOF) {
		return nil, io.EOF // no line at all: an empty list
	}
	if wrong, ok := errors.AsType[*LineError](err); ok {
		return nil, errors.New("header: " + wrong.Error()) // no error of a line: it is final
	}
	if err != nil {
		return nil, err
	}
	r.line = number
	if r.layout == SES && strings.Contains(cells[0], "@") {
		header := []field{fAddress, fReason, fSince}
		if len(cells) > len(header) {
			return nil, fmt.Errorf("line %d: has %d cells, want address, reason and at most a time", number, len(cells))
		}
		r.header = header[:len(cells)]
		return cells, nil
	}
	for _, cell := range cells {
		name := plain(strings.TrimSpace(cell))
		f, known := r.names[name]
		switch {
		case !known && r.layout == Mailriver && strings.Contains(cell, ";"), !known && len(cells) == 1 && strings.Contains(cell, ";"):
			return nil, errors.New("header: the columns are separated by semicolons: save the file with commas")
		case !known && r.layout == Mailriver:
			return nil, fmt.Errorf("header: column %.80q is not known: there are %s", cell, r.columnNames())
		case !known:
			f = fields
		case r.present&(1<<f) != 0:
			return nil, fmt.Errorf("header: two columns are %s", r.layout.name(f))
		default:
			r.present |= 1 << f
			r.labels[f] = strings.TrimSpace(cell)
		}
		r.header = append(r.header, f)
	}
	if r.present&(1<<fAddress) == 0 {
		r.header = nil
		return nil, fmt.Errorf("header: no column is %s: there are %s", r.layout.name(fAddress), r.columnNames())
	}
	return nil, nil
}

func (r *Reader) columnNames() string {
	var names []string
	for _, c := range r.layout.columns() {
		names = append(names, c.names[0])
	}
	return strings.Join(names, ", ")
}

// object reads a line of JSON. Values may be texts, numbers and lists of texts.
func (r *Reader) object() (row, error) {
	var w row
	text, err := r.lines.next()
	for err == nil && text.err == nil && strings.TrimSpace(text.text) == "" {
		text, err = r.lines.next()
	}
	if err != nil {
		return w, err
	}
	r.line = text.number
	if text.err != nil {
		return w, text.err
	}
	decoder := json.NewDecoder(strings.NewReader(text.text))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil || object == nil {
		return w, r.wrong(fields, "is no JSON object")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return w, r.wrong(fields, "has more behind its object")
	}
	r.labels = [fields]string{}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		f, known := r.names[plain(name)]
		if !known && r.layout == Mailriver {
			return w, &LineError{Line: r.line, Field: fmt.Sprintf("%.80s", name), Detail: "is not known: there are " + r.columnNames()}
		}
		if !known {
			continue
		}
		if w.has(f) {
			return w, &LineError{Line: r.line, Field: fmt.Sprintf("%.80s", name), Detail: "is there twice"}
		}
		r.labels[f] = name
		switch value := object[name].(type) {
		case nil:
			w.set(f, "")
		case string:
			w.set(f, value)
		case json.Number:
			w.set(f, value.String())
		case []any:
			if f != fTags {
				return w, r.wrong(f, "is a list, must be a text")
			}
			tags, err := r.tags(value)
			if err != nil {
				return w, err
			}
			w.set(f, tags)
		default:
			return w, r.wrong(f, "must be a text")
		}
	}
	return w, nil
}

// tagSeparator parts tags in a cell.
const tagSeparator = ","

func (r *Reader) tags(values []any) (string, error) {
	tags := make([]string, len(values))
	for i, value := range values {
		tag, ok := value.(string)
		if !ok || strings.Contains(tag, tagSeparator) {
			return "", r.wrong(fTags, "must be texts without commas")
		}
		tags[i] = tag
	}
	return strings.Join(tags, tagSeparator), nil
}

// wrong is a [LineError] of the line in hand.
func (r *Reader) wrong(f field, format string, args ...any) *LineError {
	e := &LineError{Line: r.line, Detail: fmt.Sprintf(format, args...)}
	if f < fields {
		if e.Field = r.labels[f]; e.Field == "" {
			e.Field = r.layout.name(f)
		}
	}
	return e
}

// entries makes of a line what it says: one entry, or one for each tag.
func (r *Reader) entries(w row) ([]suppression.Entry, error) {
	for f := range w.cells {
		if field(f) != fNote {
			w.cells[f] = strings.TrimSpace(w.cells[f])
		}
	}
	var e suppression.Entry
	parsed, ok := address.Normalize(w.cells[fAddress])
	switch {
	case w.cells[fAddress] == "":
		return nil, r.wrong(fAddress, "is empty")
	case !ok:
		return nil, r.wrong(fAddress, "is %.80q, which is no address", w.cells[fAddress])
	}
	e.Address = parsed.Full
	var err error
	if e.Since, err = r.time(fSince, w); err != nil {
		return nil, err
	}
	if r.layout == Mailriver {
		return r.own(e, w)
	}
	e.Provider = string(r.layout)
	if e.Note = w.cells[fNote]; w.cells[fStatus] != "" {
		e.Note = strings.TrimSpace(w.cells[fStatus] + " " + e.Note)
	}
	switch r.layout {
	case SendGrid:
		e.Reason = or(r.options.Reason, sendGridReason(w))
		if id := w.cells[fScopeID]; id != "" {
			e.Reason = or(r.options.Reason, suppression.Unsubscribe)
			e.ScopeKind, e.ScopeID = event.ScopeGroup, id
		}
	case Mailgun:
		e.Reason = or(r.options.Reason, mailgunReason(w))
	case Postmark:
		e.Reason = postmarkReason(w.cells[fReason], w.cells[fOrigin], r.options.Reason)
		if id := w.cells[fScopeID]; id != "" {
			e.ScopeKind, e.ScopeID = event.ScopeStream, id
		}
	case SES:
		e.Reason = sesReason(w.cells[fReason], r.options.Reason)
	}
	if e.ScopeKind == "" {
		r.scope(&e)
	}
	if err := r.checkScope(e); err != nil {
		return nil, err
	}
	if e.Reason == suppression.Unsubscribe && r.layout == Mailgun {
		return byTag(e, w.cells[fTags]), nil
	}
	return []suppression.Entry{e}, nil
}

// own reads the rest of Mailriver's own layout.
func (r *Reader) own(e suppression.Entry, w row) ([]suppression.Entry, error) {
	var err error
	if e.ExpiresAt, err = r.time(fExpiresAt, w); err != nil {
		return nil, err
	}
	if !e.ExpiresAt.IsZero() && !e.ExpiresAt.After(e.Since) {
		return nil, r.wrong(fExpiresAt, "is not after since")
	}
	e.Reason = or(r.options.Reason, suppression.Manual) // whoever made the file
	if text := w.cells[fReason]; text != "" {
		reason, ok := suppression.ParseReason(text)
		if !ok {
			return nil, r.wrong(fReason, "is %.80q, must be one of %s", text, list(suppression.Reasons()))
		}
		e.Reason = reason
	}
	if e.ScopeKind, e.ScopeID = w.cells[fScopeKind], w.cells[fScopeID]; e.ScopeKind == "" {
		if e.ScopeID != "" {
			return nil, r.wrong(fScopeKind, "is empty, and scope_id is not")
		}
		r.scope(&e)
	}
	e.Provider, e.Source, e.EventID = w.cells[fProvider], w.cells[fSource], w.cells[fEventID]
	e.Note = w.cells[fNote]
	if err := r.checkScope(e); err != nil {
		return nil, err
	}
	return []suppression.Entry{e}, nil
}

// scope is that of an entry whose line names none.
func (r *Reader) scope(e *suppression.Entry) {
	switch {
	case r.options.ScopeKind != "":
		e.ScopeKind, e.ScopeID = r.options.ScopeKind, r.options.ScopeID
	case e.Reason == suppression.Unsubscribe:
		e.ScopeKind = event.ScopeAccount
	default:
		e.ScopeKind = event.ScopeAddress
	}
}

func (r *Reader) checkScope(e suppression.Entry) error {
	kinds, _ := event.Vocabulary("scope_kind")
	switch {
	case !slices.Contains(kinds, e.ScopeKind):
		return r.wrong(fScopeKind, "is %.80q, must be one of %s", e.ScopeKind, list(kinds))
	case scopeNeedsID(e.ScopeKind) && e.ScopeID == "":
		return r.wrong(fScopeID, "is empty: a %s has an id", e.ScopeKind)
	case e.ScopeKind == event.ScopeAddress && e.ScopeID != "":
		return r.wrong(fScopeID, "is %.80q, must be empty: the scope is all of the address", e.ScopeID)
	}
	return nil
}

// sendGridReason tells by its columns which list a file is.
func sendGridReason(w row) suppression.Reason {
	switch {
	case w.has(fStatus):
		return suppression.HardBounce
	case w.has(fOrigin):
		return suppression.Complaint
	case w.has(fNote):
		return suppression.InvalidAddress
	}
	return suppression.Unsubscribe
}

func mailgunReason(w row) suppression.Reason {
	switch {
	case w.has(fStatus), w.has(fNote):
		return suppression.HardBounce
	case w.has(fTags):
		return suppression.Unsubscribe
	}
	return suppression.Complaint
}

func postmarkReason(reason, origin string, other suppression.Reason) suppression.Reason {
	switch plain(reason) {
	case "hardbounce":
		return suppression.HardBounce
	case "spamcomplaint":
		return suppression.Complaint
	case "manualsuppression":
		if strings.EqualFold(origin, "Recipient") {
			return suppression.Unsubscribe
		}
		return suppression.Manual
	}
	return or(other, suppression.ProviderList)
}

func sesReason(reason string, other suppression.Reason) suppression.Reason {
	switch strings.ToUpper(reason) {
	case "BOUNCE":
		return suppression.HardBounce
	case "COMPLAINT":
		return suppression.Complaint
	}
	return or(other, suppression.ProviderList)
}

// byTag makes one entry for each tag; * and none is all mail of the domain.
func byTag(e suppression.Entry, tags string) []suppression.Entry {
	var entries []suppression.Entry
	for tag := range strings.SplitSeq(tags, tagSeparator) {
		if tag = strings.TrimSpace(tag); tag == "*" {
			return []suppression.Entry{e}
		}
		if tag == "" {
			continue
		}
		one := e
		one.ScopeKind, one.ScopeID = event.ScopeTag, tag
		entries = append(entries, one)
	}
	if len(entries) == 0 {
		return []suppression.Entry{e}
	}
	return entries
}

func or(first, second suppression.Reason) suppression.Reason {
	if first != "" {
		return first
	}
	return second
}

// time reads a cell with a time, of which there are three forms.
func (r *Reader) time(f field, w row) (time.Time, error) {
	text := w.cells[f]
	if text == "" {
		return time.Time{}, nil
	}
	at, ok := parseTime(text)
	if !ok {
		return time.Time{}, r.wrong(f, "is %.80q, must be a time of RFC 3339 or RFC 2822, or Unix seconds", text)
	}
	if at.Year() <= 1 {
		return time.Time{}, nil // how Mailgun writes that there is none
	}
	if at.Year() < 1970 || at.Year() > 9999 {
		return time.Time{}, r.wrong(f, "is %.80q, must be of the years 1970 to 9999", text)
	}
	return at, nil
}

func parseTime(text string) (time.Time, bool) {
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at.UTC().Truncate(time.Microsecond), true
	}
	if at, ok := parseUnix(text); ok {
		return at, true
	}
	at, err := mail.ParseDate(text)
	if err != nil {
		return time.Time{}, false
	}
	// A name of a zone that Go does not know is taken for UTC by it.
	if name, offset := at.Zone(); offset == 0 && name != "" && name != "UTC" && name != "GMT" && name != "UT" && name != "Z" {
		return time.Time{}, false
	}
	return at.UTC(), true
}

// parseUnix reads seconds, with up to six digits behind a point.
func parseUnix(text string) (time.Time, bool) {
	whole, fraction, _ := strings.Cut(text, ".")
	if len(whole) == 0 || len(whole) > 12 || len(fraction) > 9 || strings.Trim(whole+fraction, "0123456789") != "" {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	micros, err := strconv.ParseInt((fraction + "000000")[:6], 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(seconds, micros*1000).UTC(), true
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) }
