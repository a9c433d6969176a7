package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/client"
	"mailriver/pkg/suppression/layout"
	"mailriver/pkg/terminal"
)

// fileForm is the form of a file as flags.
type fileForm struct {
	layout, format string
	spreadsheet    bool
}

func (f *fileForm) flags(cmd *cobra.Command, formatDefault string) {
	flags := cmd.Flags()
	flags.StringVar(&f.layout, "layout", string(layout.Mailriver), "whose columns the file has: mailriver, sendgrid, mailgun, postmark or ses")
	flags.StringVar(&f.format, "format", "", "csv or ndjson (default "+formatDefault+")")
	flags.BoolVar(&f.spreadsheet, "spreadsheet", false, "CSV of a spreadsheet: an apostrophe stands before what could be a formula")
}

func (f *fileForm) resolve(otherwise layout.Format) (l layout.Layout, format layout.Format, err error) {
	if l, err = layout.ParseLayout(f.layout); err != nil {
		return l, "", err
	}
	if f.format == "" {
		return l, otherwise, nil
	}
	format, err = layout.ParseFormat(f.format)
	return l, format, err
}

// formatOf guesses a format by the name of a file.
func formatOf(path string) layout.Format {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".ndjson", ".jsonl":
		return layout.NDJSON
	}
	return layout.CSV
}

func (s *suppress) importFile() *cobra.Command {
	var (
		form     fileForm
		options  layout.Options
		reason   string
		dryRun   bool
		fromLine int
		output   string
	)
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Put the entries of a file on the list",
		Long: "Reads a file (-: standard input) in Mailriver's columns or those of a provider's own export, and puts its\n" +
			"entries on the list. The file is streamed, so it may be of any size. A bad line is told by its number and\n" +
			"the others go in; the exit status is 1 then.\n\n" +
			"The same line is the same change, however often it is imported: an import that broke off may be run\n" +
			"again from the start, or with --from-line from where it says.",
		Example: "  mailriver suppress import suppressions.csv --dry-run\n" +
			"  mailriver suppress import bounces.csv --layout sendgrid\n" +
			"  mailriver suppress import unsubscribes.csv --layout mailgun --scope-kind domain --scope-id mg.example.com",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := terminal.ParseFormat(output)
			l, format, formErr := form.resolve(formatOf(args[0]))
			options.Reason, options.Spreadsheet = suppression.Reason(reason), form.spreadsheet
			err = cmp.Or(err, formErr, checkReason(reason), checkScope(options.ScopeKind, options.ScopeID))
			if err == nil && fromLine < 0 {
				err = fmt.Errorf("from-line: is %d, must not be negative", fromLine)
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			file, size, closeFile, err := openFile(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			defer func() { _ = closeFile() }() // it was only read
			counted := &countingReader{from: file}
			in := importing{
				reader: layout.NewReader(counted, l, format, options), read: counted, fromLine: fromLine,
				progress: terminal.NewProgress(cmd.ErrOrStderr(), size, "importing", "bytes"),
				report:   importReport{DryRun: dryRun, Errors: []client.BadLine{}, Entries: map[string]int{}},
			}
			run := func() error {
				return s.with(cmd, func(api *client.Client) error {
					return in.all(func(b *client.Batch) (client.Imported, error) { return api.Import(cmd.Context(), b) })
				})
			}
			if dryRun {
				run = func() error { return in.all(nil) }
			}
			err = run()
			in.progress.Done()
			if err != nil && in.report.Taken == 0 && in.report.BadLines == 0 {
				return err // nothing happened
			}
			return errors.Join(in.resume(err), writeImported(cmd, out, in.report))
		},
	}
	form.flags(cmd, "by the name of the file: ndjson for .ndjson and .jsonl, else csv")
	cmd.Flags().StringVar(&reason, "reason", "", "reason of entries whose lines do not say theirs")
	scopeFlags(cmd, &options.ScopeKind, &options.ScopeID, "scope of entries whose lines name none")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only read the file, and tell what is in it; nothing is asked or changed")
	cmd.Flags().IntVar(&fromLine, "from-line", 0, "leave out what is before this line")
	outputFlag(cmd, &output)
	return cmd
}

// openFile opens a file and returns its size, -1 where it has none.
func openFile(stdin io.Reader, path string) (io.Reader, int64, func() error, error) {
	if path == "-" {
		return stdin, -1, func() error { return nil }, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, nil, err
	}
	size := int64(-1)
	if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return file, size, file.Close, nil
}

type countingReader struct {
	from io.Reader
	n    atomic.Int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.n.Add(int64(n))
	return n, err
}

// maxBadLines is how many bad lines a report has one by one.
const maxBadLines = 1000

// importReport is what became of a file.
type importReport struct {
	DryRun   bool             `json:"dry_run,omitempty"`
	Taken    int              `json:"taken"` // entries, or what they would be
	BadLines int              `json:"bad_lines"`
	Errors   []client.BadLine `json:"errors"` // the first 1000
	// Entries counts them by reason and kind of scope.
	Entries map[string]int `json:"entries"`
	// GoOnAt is the line to go on with, when it broke off.
	GoOnAt int `json:"go_on_at,omitempty"`
}

// importing is an import at work.
type importing struct {
	reader   *layout.Reader
	read     *countingReader
	progress *terminal.Progress
	shown    int64
	fromLine int

	batch   client.Batch
	waiting []waitingEntry
	report  importReport
}

// waitingEntry is an entry of the batch: its line, and what it counts as.
type waitingEntry struct {
	line int
	kind string
}

// all reads the file to its end. Without take, nothing is sent.
func (in *importing) all(take func(*client.Batch) (client.Imported, error)) error {
	for {
		entry, err := in.reader.Read()
		if errors.Is(err, io.EOF) {
			return in.flush(take)
		}
		if in.reader.Line() < in.fromLine && (err == nil || isLineError(err)) {
			continue
		}
		if wrong, ok := errors.AsType[*layout.LineError](err); ok {
			in.bad(client.BadLine{Line: wrong.Line, Field: wrong.Field, Detail: wrong.Detail})
			continue
		}
		if err != nil {
			return err
		}
		if err := in.put(entry, take); err != nil {
			return err
		}
	}
}

func isLineError(err error) bool {
	_, ok := errors.AsType[*layout.LineError](err)
	return ok
}

func (in *importing) put(e suppression.Entry, take func(*client.Batch) (client.Imported, error)) error {
	fits, err := in.batch.Put(e)
	if err != nil {
		return err
	}
	if !fits {
		if err := in.flush(take); err != nil {
			return err
		}
		if _, err := in.batch.Put(e); err != nil {
			return err
		}
	}
	in.waiting = append(in.waiting, waitingEntry{in.reader.Line(), string(e.Reason) + " for " + scopeText(e.ScopeKind, "")})
	return nil
}

func (in *importing) bad(line client.BadLine) {
	if in.report.BadLines++; in.report.BadLines <= maxBadLines {
		in.report.Errors = append(in.report.Errors, line)
	}
}

// flush sends what is waiting.
func (in *importing) flush(take func(*client.Batch) (client.Imported, error)) error {
	if len(in.waiting) > 0 {
		refused, err := in.send(take)
		if err != nil {
			in.report.GoOnAt = in.waiting[0].line
			return err
		}
		for i, w := range in.waiting {
			if !refused[i+1] {
				in.report.Taken++
				in.report.Entries[w.kind]++
			}
		}
		in.waiting = in.waiting[:0]
	}
	done := in.read.n.Load()
	in.progress.Add(int(done - in.shown))
	in.shown = done
	return nil
}

// send returns which of the entries that are waiting were refused, from 1.
func (in *importing) send(take func(*client.Batch) (client.Imported, error)) (refused map[int]bool, err error) {
	if take == nil {
		in.batch = client.Batch{}
		return nil, nil
	}
	answer, err := take(&in.batch)
	if err != nil {
		return nil, err
	}
	refused = map[int]bool{}
	for _, b := range answer.Errors {
		if b.Line < 1 || b.Line > len(in.waiting) {
			return nil, fmt.Errorf("the API names line %d of %d", b.Line, len(in.waiting))
		}
		refused[b.Line] = true
		in.bad(client.BadLine{Line: in.waiting[b.Line-1].line, Field: b.Field, Detail: b.Detail})
	}
	// It names the first thousand only.
	in.report.BadLines += answer.BadLines - len(answer.Errors)
	return refused, nil
}

// resume adds to an error how to go on.
func (in *importing) resume(err error) error {
	if err == nil || in.report.GoOnAt == 0 {
		return err
	}
	return fmt.Errorf("%w\nwhat is before line %d is done: go on with --from-line %d, or run all of it again, which changes nothing twice",
		err, in.report.GoOnAt, in.report.GoOnAt)
}

// errBadLines is the exit status 1 of an import that left something out.
var errBadLines = errors.New("some lines were left out")

func writeImported(cmd *cobra.Command, format terminal.Format, r importReport) error {
	out, errs := cmd.OutOrStdout(), cmd.ErrOrStderr()
	slices.SortStableFunc(r.Errors, func(a, b client.BadLine) int { return cmp.Compare(a.Line, b.Line) })
	var failed error
	switch format {
	case terminal.JSON:
		failed = writeObject(out, r)
	case terminal.CSV:
		list := terminal.List{Columns: []string{"line", "field", "detail"}}
		for _, b := range r.Errors {
			list.Rows = append(list.Rows, []any{b.Line, b.Field, b.Detail})
		}
		failed = terminal.Write(out, format, list)
	default:
		for i, b := range r.Errors {
			if i == maxToldLines {
				fmt.Fprintf(errs, "and %d lines more: --output csv lists them\n", r.BadLines-maxToldLines)
				break
			}
			text := b.Detail
			if b.Field != "" {
				text = b.Field + ": " + text
			}
			fmt.Fprintf(errs, "line %d: %s\n", b.Line, terminal.Text(text))
		}
		list := terminal.List{Columns: []string{"entries", "count"}}
		for _, kind := range slices.Sorted(maps.Keys(r.Entries)) {
			list.Rows = append(list.Rows, []any{kind, r.Entries[kind]})
		}
		list.Rows = append(list.Rows, []any{"all", r.Taken}, []any{"bad lines", r.BadLines})
		failed = terminal.Write(out, terminal.Table, list)
		if r.DryRun {
			fmt.Fprintln(errs, "nothing was changed: without --dry-run these entries go on the list")
		} else if r.Taken > 0 {
			fmt.Fprintln(errs, "they are in Kafka, and in the list as soon as the services have got to them")
		}
	}
	if failed == nil && r.BadLines > 0 {
		failed = errBadLines
	}
	return failed
}

func (s *suppress) export() *cobra.Command {
	var (
		form fileForm
		f    listFilter
		of   string
	)
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the list, or a part of it, to standard output",
		Long: "Writes all entries in force, as CSV or lines of JSON, in Mailriver's columns or those that a provider\n" +
			"imports. What a provider's list cannot hold is left out, and counted. A file of which the export failed\n" +
			"is not the whole list, and the exit status is 1.",
		Example: "  mailriver suppress export > suppressions.csv\n" +
			"  mailriver suppress export --layout sendgrid --list bounces --reason hard_bounce > bounces.csv\n" +
			"  mailriver suppress export --format ndjson --since 24h | jq -r .address",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, format, err := form.resolve(layout.CSV)
			var filter client.Filter
			if err == nil {
				filter, err = f.resolve(time.Now())
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return s.with(cmd, func(api *client.Client) error {
				// A bar would stand between the lines of a terminal.
				to := cmd.ErrOrStderr()
				if _, shown := terminal.Width(cmd.OutOrStdout()); shown {
					to = io.Discard
				}
				progress := terminal.NewProgress(to, -1, "exporting", "bytes")
				exported, err := api.Export(cmd.Context(), filter, client.Form{
					Layout: l, Format: format, List: layout.List(of), Spreadsheet: form.spreadsheet,
				}, progressWriter{cmd.OutOrStdout(), progress})
				progress.Done()
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "the list as of %s\n", exported.AsOf.UTC().Format(time.RFC3339))
				if exported.LeftOut > 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "%d entries were left out: this list of %s cannot hold them\n", exported.LeftOut, l)
				}
				return nil
			})
		},
	}
	form.flags(cmd, "csv")
	cmd.Flags().StringVar(&of, "list", "", "which list of a provider that has several: unsubscribes (default), bounces, complaints, "+
		"and of sendgrid invalid_emails and group_unsubscribes")
	f.flags(cmd)
	return cmd
}

type progressWriter struct {
	to       io.Writer
	progress *terminal.Progress
}

func (w progressWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	w.progress.Add(n)
	return n, err
}
