package suppression

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/change"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/event"
	"mailriver/pkg/httpserver/api"
	model "mailriver/pkg/suppression"
	"mailriver/pkg/suppression/layout"
)

const (
	// perWrite is how many changes go to Kafka at once: ten bodies. It bounds
	// the memory of an import.
	perWrite = 10 * mailriver.MaxChanges
	// maxToldLines is how many bad lines are told one by one.
	maxToldLines = 1000
	// pauseOfFile is for how long a file may stand still in either direction.
	// The time-outs of the server are for requests of one piece.
	pauseOfFile = time.Minute
	// maxAhead is how far ahead a line's time may be. A clock may be wrong by a
	// little; an entry from the future could not be lifted until then.
	maxAhead = 5 * time.Minute
)

// Imported is the answer to an import.
type Imported struct {
	// Taken is how many entries were written to Kafka. They are in the list when
	// the normalizer and the owners of the addresses have worked.
	Taken int `json:"taken"`
	// BadLines is how many lines were left out.
	BadLines int `json:"bad_lines"`
	// Errors are the first 1000 of them.
	Errors []BadLine `json:"errors"`
}

// BadLine is a line that was left out, and why.
type BadLine struct {
	Line   int    `json:"line"`  // from 1, a header included
	Field  string `json:"field"` // the column, empty where all of the line is wrong
	Detail string `json:"detail"`
}

// names of the parameters of files.
const (
	paramLayout      = "layout"
	paramFormat      = "format"
	paramSpreadsheet = "spreadsheet"
	paramReason      = "reason"
)

// file is what import and export ask about a file.
type file struct {
	layout  layout.Layout
	format  layout.Format
	options layout.Options
}

// readFile reads the parameters of a file. The format of one that comes may be
// said by its Content-Type instead.
func readFile(fields *api.Fields, q api.Query, contentType string) file {
	f := file{layout: layout.Mailriver, format: layout.CSV}
	add := func(err error) {
		if err != nil {
			name, detail, _ := strings.Cut(err.Error(), ": ")
			fields.Add(name, "%s", detail)
		}
	}
	var err error
	if q.Has(paramLayout) {
		f.layout, err = layout.ParseLayout(q.Get(paramLayout))
		add(err)
	}
	if q.Has(paramFormat) {
		f.format, err = layout.ParseFormat(q.Get(paramFormat))
		add(err)
	} else if kind, _, err := mime.ParseMediaType(contentType); err == nil && kind == layout.NDJSON.ContentType() {
		f.format = layout.NDJSON
	}
	switch text := q.Get(paramSpreadsheet); text {
	case "true":
		f.options.Spreadsheet = true
	case "", "false":
	default:
		fields.Add(paramSpreadsheet, "is %.80q, must be true or false", text)
	}
	return f
}

func postImport(s *Service, _ *list, c *gin.Context) error {
	q, err := api.ParseQuery(c, paramLayout, paramFormat, paramReason, paramScopeKind, paramScopeID, paramSpreadsheet)
	if err != nil {
		return err
	}
	var fields api.Fields
	f := readFile(&fields, q, c.ContentType())
	if text := q.Get(paramReason); text != "" {
		if p := s.refused(paramReason, text); p != nil {
			fields.Join(p)
		}
		f.options.Reason = model.Reason(text)
	}
	if f.options.ScopeKind, f.options.ScopeID = q.Get(paramScopeKind), q.Get(paramScopeID); f.options.ScopeKind != "" {
		// Once here, and not for each line.
		sample := s.imported(model.Entry{
			Address: "a@example.com", Reason: model.Manual, ScopeKind: f.options.ScopeKind, ScopeID: f.options.ScopeID,
		}, "", s.deps.Now())
		if err := sample.Validate(); err != nil {
			fields.Join(fieldsOf(err))
		}
	} else {
		fields.Must(f.options.ScopeID == "", paramScopeID, "needs scope_kind")
	}
	if err := fields.Err(); err != nil {
		return err
	}
	body, err := api.Body(c, s.cfg.MaxImport)
	if err != nil {
		return err
	}
	watched := &watchedReader{reader: body}
	in := importing{
		Service: s, context: c, reader: layout.NewReader(watched, f.layout, f.format, f.options),
		actor: api.Actor(c), now: s.deps.Now(), report: Imported{Errors: []BadLine{}},
	}
	if err := in.all(); err != nil {
		return in.stopped(err, watched.err)
	}
	c.JSON(http.StatusOK, in.report)
	return nil
}

// watchedReader remembers why reading ended, to tell a file that did not arrive
// from one that is none.
type watchedReader struct {
	reader io.Reader
	err    error
}

func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// importing is an import at work.
type importing struct {
	*Service
	context *gin.Context
	reader  *layout.Reader
	actor   string
	now     time.Time
	waiting []mailriver.Change
	last    int // line of the last entry that waits
	takenTo int // line of the last entry that was taken
	report  Imported
}

// all reads the file to its end.
func (in *importing) all() error {
	for {
		if len(in.waiting) == 0 {
			in.stillAt(in.context)
		}
		entry, err := in.reader.Read()
		if errors.Is(err, io.EOF) {
			return in.write()
		}
		if wrong, ok := errors.AsType[*layout.LineError](err); ok {
			in.bad(wrong.Line, wrong.Field, wrong.Detail)
			continue
		}
		if err != nil {
			return err
		}
		ch, problem := in.check(entry)
		if problem != nil {
			in.bad(in.reader.Line(), problem.Field, problem.Detail)
			continue
		}
		in.last = in.reader.Line()
		if in.waiting = append(in.waiting, ch); len(in.waiting) < perWrite {
			continue
		}
		if err := in.write(); err != nil {
			return err
		}
	}
}

func (in *importing) bad(line int, field, detail string) {
	if in.report.BadLines++; in.report.BadLines <= maxToldLines {
		in.report.Errors = append(in.report.Errors, BadLine{line, field, detail})
	}
}

// check makes a change of an entry, or says what is wrong with it.
func (in *importing) check(e model.Entry) (mailriver.Change, *api.FieldError) {
	if p := in.refused(paramReason, string(e.Reason)); p != nil {
		return mailriver.Change{}, &p.Errors[0]
	}
	if e.Since.After(in.now.Add(maxAhead)) {
		return mailriver.Change{}, &api.FieldError{Field: "since", Detail: "is in the future"}
	}
	if !e.ExpiresAt.IsZero() && !e.ExpiresAt.After(in.now) {
		return mailriver.Change{}, &api.FieldError{Field: paramExpiresAt, Detail: "is past"}
	}
	ch := in.imported(e, in.actor, in.now)
	if err := ch.Validate(); err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		field, detail, _ := strings.Cut(first, ": ")
		if field == "at" {
			field = "since"
		}
		return mailriver.Change{}, &api.FieldError{Field: field, Detail: detail}
	}
	return ch, nil
}

// imported is the change that an entry of a file makes. Its id is that of what
// the line says, so that the same file again makes the same changes. The time of
// the import is not part of it: an entry without a time is still the same.
func (s *Service) imported(e model.Entry, actor string, now time.Time) mailriver.Change {
	stamp := func(at time.Time) string {
		if at.IsZero() {
			return ""
		}
		return at.UTC().Format(time.RFC3339Nano)
	}
	note := cleaned(e.Note)
	ch := mailriver.Change{
		ID: event.NewID(event.ProviderMailriver, mailriver.OriginImport, e.Address,
			e.Address, e.ScopeKind, e.ScopeID, string(e.Reason), stamp(e.Since), stamp(e.ExpiresAt), note),
		Action: mailriver.ActionAdd, Address: e.Address, ScopeKind: e.ScopeKind, ScopeID: e.ScopeID,
		Reason: string(e.Reason), At: e.Since, ExpiresAt: e.ExpiresAt, Note: note, Actor: actor,
		Origin: mailriver.OriginImport,
	}
	if ch.At.IsZero() {
		ch.At = now.UTC().Truncate(time.Microsecond)
	}
	return ch
}

// cleaned makes a note of what a provider's file says, such as the answer of a
// mail server over several lines.
func cleaned(note string) string {
	note = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, note)
	if len(note) > mailriver.MaxNote {
		note = strings.ToValidUTF8(note[:mailriver.MaxNote], "")
	}
	return note
}

// write brings to Kafka what is waiting.
func (in *importing) write() error {
	if len(in.waiting) == 0 {
		return nil
	}
	records, err := change.Records(in.deps.Topics.Raw, in.waiting, in.deps.Now())
	if err != nil {
		return err
	}
	ctx := in.context.Request.Context()
	if err := in.produce(ctx, records); err != nil {
		return err
	}
	in.metrics.changed(ctx, mailriver.OriginImport, mailriver.ActionAdd, int64(len(in.waiting)))
	in.report.Taken += len(in.waiting)
	in.takenTo = in.last
	in.waiting = in.waiting[:0]
	return nil
}

// stopped is the problem of an import that came to no end: what is wrong, and
// what of the file was taken nevertheless.
func (in *importing) stopped(err, reading error) error {
	taken := "no entry was taken"
	if in.report.Taken > 0 {
		taken = fmt.Sprintf("%d entries, to line %d, were taken; "+
			"importing the whole file again is safe, since the same line is the same change", in.report.Taken, in.takenTo)
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](reading); ok {
		return api.NewProblem(http.StatusRequestEntityTooLarge, "the body has more than %d bytes; %s", tooLarge.Limit, taken)
	}
	if reading != nil {
		return api.NewProblem(http.StatusBadRequest, "the body did not arrive as a whole; %s", taken)
	}
	if errors.Is(err, errNotWritten) {
		return api.Unavailable(retryWrite, "Kafka did not acknowledge a part of the file; %s", taken)
	}
	if in.report.Taken == 0 && in.report.BadLines == 0 {
		return api.Field("body", "%s", err.Error()) // it has no header that is known
	}
	return err
}

// stillAt gives a file that is on its way another while.
func (s *Service) stillAt(c *gin.Context) {
	until := s.deps.Now().Add(pauseOfFile)
	conn := http.NewResponseController(c.Writer)
	// What has no deadlines needs none put off.
	_, _ = conn.SetReadDeadline(until), conn.SetWriteDeadline(until)
}
