// Package layout reads and writes suppression lists as files: CSV and lines of
// JSON, in Mailriver's own columns and in those of the lists that SendGrid,
// Mailgun, Postmark and Amazon SES give out and take.
//
// It streams, in bounded memory. A line that cannot be read is an error that
// names the line and the field, and the lines around it are not affected. It
// reads no clock, resolves nothing, and does not decide what an entry means: an
// entry without a time has the zero time, for the caller to say.
//
// # What is documented, and what is accepted
//
// Names of columns are compared without regard to case, spaces, hyphens and
// underscores. Columns that are not known are left out, in Mailriver's own
// layout refused.
//
//   - SendGrid documents the fields of its API, and that its pages download
//     them as CSV, not the columns. Files are status, reason, email, created for
//     bounces, with ip for spam reports, reason for invalid addresses, and email
//     and created alone for unsubscribes. So what a file holds is told by its
//     columns. Blocks look like bounces and are no suppressions: do not import
//     them, or say with which reason. Times are Unix seconds.
//   - Mailgun documents the columns of its imports: address, code, error,
//     created_at for bounces; address, tags, created_at for unsubscribes (* for
//     all mail); address, created_at for complaints. A file of unsubscribes
//     without tags looks like one of complaints: say which reason it has. Times
//     are of RFC 2822.
//   - Postmark documents the fields of its API only: EmailAddress,
//     SuppressionReason, Origin, CreatedAt. Those are the columns here, with
//     aliases for what a download may call them. Times are of RFC 3339.
//   - Amazon SES documents its bulk import: address and BOUNCE or COMPLAINT
//     without a header, or objects with emailAddress and reason. What its API
//     lists is accepted, too: EmailAddress, Reason, LastUpdateTime.
//
// Any of the three forms of time is accepted everywhere. None of the four
// documents semicolons between columns; such a file is refused with that
// reason.
//
// # Spreadsheets
//
// A cell that begins with = + - @ or a control character is a formula to a
// spreadsheet, and an address may begin so: +tag@example.com. Files are exact
// by default, since programs read them. [Options.Spreadsheet] puts an apostrophe
// before such cells, and before those that begin with one, so that reading with
// the same option takes off exactly what was put on.
package layout

import (
	"fmt"
	"slices"
	"strings"

	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// Layout is whose columns a file has.
type Layout string

// The layouts.
const (
	Mailriver Layout = "mailriver"
	SendGrid  Layout = "sendgrid"
	Mailgun   Layout = "mailgun"
	Postmark  Layout = "postmark"
	SES       Layout = "ses"
)

// Layouts lists every layout.
func Layouts() []Layout { return []Layout{Mailriver, SendGrid, Mailgun, Postmark, SES} }

// ParseLayout reads the name of a layout.
func ParseLayout(text string) (Layout, error) {
	if slices.Contains(Layouts(), Layout(text)) {
		return Layout(text), nil
	}
	return "", fmt.Errorf("layout: is %q, must be one of %s", text, list(Layouts()))
}

// Format is how a line is written.
type Format string

// The formats.
const (
	CSV    Format = "csv"    // comma-separated, RFC 4180
	NDJSON Format = "ndjson" // one JSON object a line
)

// ParseFormat reads the name of a format.
func ParseFormat(text string) (Format, error) {
	if f := Format(text); f == CSV || f == NDJSON {
		return f, nil
	}
	return "", fmt.Errorf("format: is %q, must be csv or ndjson", text)
}

// ContentType returns the media type of files of a format.
func (f Format) ContentType() string {
	if f == NDJSON {
		return "application/x-ndjson"
	}
	return "text/csv; charset=utf-8"
}

// Options are what a file does not say of itself.
type Options struct {
	// Reason is that of entries whose lines do not say theirs. In the layouts of
	// SendGrid and Mailgun none does, and it takes the place of what the columns
	// let one guess.
	Reason suppression.Reason
	// ScopeKind and ScopeID are those of entries whose lines name no scope, such
	// as the domain of a list of Mailgun's, the stream of one of Postmark's, or
	// the group of one of SendGrid's. Without them, an unsubscribe is about the
	// account, and everything else about the address.
	ScopeKind, ScopeID string
	// Spreadsheet is for CSV that people open in a spreadsheet; see the package
	// comment.
	Spreadsheet bool
	// List is the list of the provider that is written, for SendGrid and Mailgun,
	// which keep several of different columns: see [Lists]. Empty means
	// unsubscribes, the one that stops all mail for whatever reason.
	List List
}

// List is one of the lists that a provider keeps apart.
type List string

// The lists of SendGrid and Mailgun.
const (
	Bounces           List = "bounces"
	Complaints        List = "complaints"         // SendGrid's spam reports
	InvalidEmails     List = "invalid_emails"     // SendGrid only
	Unsubscribes      List = "unsubscribes"       // SendGrid's global ones
	GroupUnsubscribes List = "group_unsubscribes" // SendGrid only
)

// Lists returns the lists that a layout can be written as. A layout with one
// list has none.
func Lists(l Layout) []List {
	switch l {
	case SendGrid:
		return []List{Unsubscribes, GroupUnsubscribes, Bounces, Complaints, InvalidEmails}
	case Mailgun:
		return []List{Unsubscribes, Bounces, Complaints}
	}
	return nil
}

// list joins names for people.
func list[T ~string](names []T) string {
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = string(n)
	}
	return strings.Join(texts, ", ")
}

// field is what a column can hold.
type field int

const (
	fAddress field = iota
	fScopeKind
	fScopeID
	fReason
	fSince
	fExpiresAt
	fProvider
	fSource
	fEventID
	fNote
	fStatus
	fTags
	fOrigin
	fields // how many there are
)

// column is a column of a layout, with the names that it may have. The first is
// the one that is documented, and written.
type column struct {
	field field
	names []string
}

// columns are those of a layout, in the order of the provider.
func (l Layout) columns() []column {
	switch l {
	case SendGrid:
		return []column{
			{fStatus, []string{"status"}},
			{fNote, []string{"reason"}},
			{fOrigin, []string{"ip"}},
			{fAddress, []string{"email", "address", "email address", "recipient"}},
			{fSince, []string{"created", "created at"}},
			{fScopeID, []string{"group_id", "asm_group_id", "unsubscribe_group_id"}},
		}
	case Mailgun:
		return []column{
			{fAddress, []string{"address", "email", "recipient"}},
			{fStatus, []string{"code"}},
			{fNote, []string{"error", "reason"}},
			{fTags, []string{"tags", "tag"}},
			{fSince, []string{"created_at", "created", "date"}},
		}
	case Postmark:
		return []column{
			{fAddress, []string{"EmailAddress", "email", "address", "recipient"}},
			{fReason, []string{"SuppressionReason", "reason"}},
			{fOrigin, []string{"Origin", "source"}},
			{fSince, []string{"CreatedAt", "created", "date", "suppressed at"}},
			{fScopeID, []string{"MessageStream", "stream", "stream id"}},
		}
	case SES:
		return []column{
			{fAddress, []string{"emailAddress", "email", "address"}},
			{fReason, []string{"reason"}},
			{fSince, []string{"lastUpdateTime", "last updated", "created at"}},
		}
	}
	return []column{
		{fAddress, []string{"address"}},
		{fScopeKind, []string{"scope_kind"}},
		{fScopeID, []string{"scope_id"}},
		{fReason, []string{"reason"}},
		{fSince, []string{"since"}},
		{fExpiresAt, []string{"expires_at"}},
		{fProvider, []string{"provider"}},
		{fSource, []string{"source"}},
		{fEventID, []string{"event_id"}},
		{fNote, []string{"note"}},
	}
}

// name is what a column of the layout is called where there is no header.
func (l Layout) name(f field) string {
	for _, c := range l.columns() {
		if c.field == f {
			return c.names[0]
		}
	}
	return ""
}

// plain is a name as names are compared.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case ' ', '_', '-', '.', '\u00a0':
			return -1
		}
		return r
	}, strings.ToLower(name))
}

// byName finds a column by any of its names.
func (l Layout) byName() map[string]field {
	names := map[string]field{}
	for _, c := range l.columns() {
		for _, name := range c.names {
			names[plain(name)] = c.field
		}
	}
	return names
}

// scopeNeedsID says whether a scope of the kind is about one of several things.
func scopeNeedsID(kind string) bool { return kind != event.ScopeAddress && kind != event.ScopeAccount }

// formula says whether a spreadsheet could take the cell for a formula, or it
// begins with what marks those that are none.
func formula(cell string) bool {
	return cell != "" && strings.ContainsRune("=+-@'\t\r\n", rune(cell[0]))
}
