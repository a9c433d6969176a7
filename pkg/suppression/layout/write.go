package layout

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// ErrNotInList is returned by [Writer.Write] for an entry that the list cannot
// hold: it would come out as more, or as something else, than it is. Nothing is
// written, and writing can go on.
var ErrNotInList = errors.New("the list cannot hold the entry")

// Writer writes entries as a file.
type Writer struct {
	layout  Layout
	list    List
	options Options
	columns []column

	out   *bufio.Writer
	table *csv.Writer // nil for JSON
	begun bool
}

// NewWriter returns a writer of a file.
func NewWriter(w io.Writer, l Layout, f Format, o Options) (*Writer, error) {
	lists := Lists(l)
	if o.List == "" && len(lists) > 0 {
		o.List = Unsubscribes
	}
	if o.List != "" && !slices.Contains(lists, o.List) {
		if len(lists) == 0 {
			return nil, fmt.Errorf("list: is %q, must be empty: %s has one list", o.List, l)
		}
		return nil, fmt.Errorf("list: is %q, must be one of %s", o.List, list(lists))
	}
	writer := &Writer{layout: l, list: o.List, options: o, out: bufio.NewWriter(w)}
	for _, c := range l.columns() {
		if slices.Contains(writer.written(), c.field) {
			writer.columns = append(writer.columns, c)
		}
	}
	if f == CSV {
		writer.table = csv.NewWriter(writer.out)
	}
	return writer, nil
}

// written are the fields of the file: those that the provider takes or gives
// out itself.
func (w *Writer) written() []field {
	switch w.layout {
	case SendGrid:
		switch w.list {
		case Bounces:
			return []field{fStatus, fNote, fAddress, fSince}
		case Complaints:
			return []field{fOrigin, fAddress, fSince}
		case InvalidEmails:
			return []field{fNote, fAddress, fSince}
		case GroupUnsubscribes:
			return []field{fAddress, fSince, fScopeID}
		}
		return []field{fAddress, fSince}
	case Mailgun:
		switch w.list {
		case Bounces:
			return []field{fAddress, fStatus, fNote, fSince}
		case Complaints:
			return []field{fAddress, fSince}
		}
		return []field{fAddress, fTags, fSince}
	case Postmark:
		return []field{fAddress, fReason, fOrigin, fSince}
	case SES:
		return []field{fAddress, fReason}
	}
	return []field{
		fAddress, fScopeKind, fScopeID, fReason, fSince, fExpiresAt, fProvider, fSource, fEventID, fNote,
	}
}

// Write writes an entry, or returns [ErrNotInList].
func (w *Writer) Write(e suppression.Entry) error {
	if w.layout == Mailriver && w.table == nil {
		return w.object(e)
	}
	r, ok := w.row(e)
	if !ok {
		return ErrNotInList
	}
	if w.table == nil {
		return w.object(w.values(r))
	}
	if err := w.begin(); err != nil {
		return err
	}
	cells := make([]string, len(w.columns))
	for i, c := range w.columns {
		cells[i] = r.cells[c.field]
		if w.options.Spreadsheet && formula(cells[i]) {
			cells[i] = "'" + cells[i]
		}
	}
	return w.table.Write(cells)
}

// Flush writes what is held back, and the header of a list without entries.
func (w *Writer) Flush() error {
	if w.table != nil {
		if err := w.begin(); err != nil {
			return err
		}
		w.table.Flush()
		if err := w.table.Error(); err != nil {
			return err
		}
	}
	return w.out.Flush()
}

// begin writes the header. SES takes files without one.
func (w *Writer) begin() error {
	if w.begun {
		return nil
	}
	w.begun = true
	if w.layout == SES {
		return nil
	}
	names := make([]string, len(w.columns))
	for i, c := range w.columns {
		names[i] = c.names[0]
	}
	return w.table.Write(names)
}

func (w *Writer) object(value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = w.out.Write(append(text, '\n'))
	return err
}

// values are the members of a provider's object.
func (w *Writer) values(r row) map[string]any {
	values := make(map[string]any, len(w.columns))
	for _, c := range w.columns {
		name, text := c.names[0], r.cells[c.field]
		switch {
		case c.field == fTags:
			values[name] = strings.Split(text, tagSeparator)
		case c.field == fSince && w.layout == SendGrid && text != "":
			values[name] = json.Number(text)
		case c.field == fSince && text == "":
		default:
			values[name] = text
		}
	}
	return values
}

// row is the entry in the cells of the layout.
func (w *Writer) row(e suppression.Entry) (r row, ok bool) {
	r.cells[fAddress] = e.Address
	r.cells[fNote] = e.Note
	switch w.layout {
	case SendGrid:
		return r, w.sendGrid(&r, e)
	case Mailgun:
		return r, w.mailgun(&r, e)
	case Postmark:
		return r, w.postmark(&r, e)
	case SES:
		r.cells[fReason] = "BOUNCE"
		if e.Reason == suppression.Complaint {
			r.cells[fReason] = "COMPLAINT"
		}
		return r, w.wide(e)
	}
	r.cells[fScopeKind], r.cells[fScopeID], r.cells[fReason] = e.ScopeKind, e.ScopeID, string(e.Reason)
	r.cells[fSince], r.cells[fExpiresAt] = stamp(e.Since, time.RFC3339Nano), stamp(e.ExpiresAt, time.RFC3339Nano)
	r.cells[fProvider], r.cells[fSource], r.cells[fEventID] = e.Provider, e.Source, e.EventID
	return r, true
}

// wide says whether the entry is about everything that the file is about: all
// mail to the address, all of an account, or the scope that the options name.
func (w *Writer) wide(e suppression.Entry) bool {
	return e.ScopeKind == event.ScopeAddress || e.ScopeKind == event.ScopeAccount && e.ScopeID == "" ||
		w.options.ScopeKind != "" && e.ScopeKind == w.options.ScopeKind && e.ScopeID == w.options.ScopeID
}

func (w *Writer) sendGrid(r *row, e suppression.Entry) bool {
	if !e.Since.IsZero() {
		r.cells[fSince] = strconv.FormatInt(e.Since.Unix(), 10)
	}
	switch w.list {
	case GroupUnsubscribes:
		r.cells[fScopeID] = e.ScopeID
		return e.ScopeKind == event.ScopeGroup
	case Bounces:
		return w.wide(e) && e.Reason == suppression.HardBounce
	case Complaints:
		return w.wide(e) && e.Reason == suppression.Complaint
	case InvalidEmails:
		return w.wide(e) && e.Reason == suppression.InvalidAddress
	}
	return w.wide(e)
}

func (w *Writer) mailgun(r *row, e suppression.Entry) bool {
	r.cells[fSince] = stamp(e.Since, time.RFC1123)
	switch w.list {
	case Bounces:
		return w.wide(e) && (e.Reason == suppression.HardBounce || e.Reason == suppression.InvalidAddress)
	case Complaints:
		return w.wide(e) && e.Reason == suppression.Complaint
	}
	r.cells[fTags] = "*"
	if e.ScopeKind == event.ScopeTag {
		r.cells[fTags] = e.ScopeID
		return e.ScopeID != "" && e.ScopeID != "*" && !strings.Contains(e.ScopeID, tagSeparator)
	}
	return w.wide(e)
}

func (w *Writer) postmark(r *row, e suppression.Entry) bool {
	r.cells[fSince] = stamp(e.Since, time.RFC3339Nano)
	r.cells[fReason], r.cells[fOrigin] = "ManualSuppression", "Customer"
	switch e.Reason {
	case suppression.HardBounce, suppression.InvalidAddress:
		r.cells[fReason], r.cells[fOrigin] = "HardBounce", "Recipient"
	case suppression.Complaint:
		r.cells[fReason], r.cells[fOrigin] = "SpamComplaint", "Recipient"
	case suppression.Unsubscribe:
		r.cells[fOrigin] = "Recipient"
	}
	return w.wide(e)
}

func stamp(at time.Time, form string) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(form)
}
