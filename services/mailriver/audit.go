package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/audit"
	"mailriver/pkg/kafka"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

// errBooks is the exit status 1 of an audit that found something.
var errBooks = errors.New("the books do not balance")

func (c *command) audit() *cobra.Command {
	var (
		from, to, output string
		follow           bool
		every            time.Duration
		opt              audit.Options
	)
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Balance the books: raw against canonical, dead letters and ClickHouse",
		Long: "Works out what each raw record should have become, and looks whether each of its events is in the\n" +
			"canonical topic once, or is a copy of one that is, or is a dead letter; then whether each canonical\n" +
			"event is in ClickHouse once, and the roll-ups add up. It names what is missing or doubled. What the\n" +
			"normalizer or the loader has not got to yet is in flight, and no error.\n\n" +
			"It changes nothing. Exit status 1: the books do not balance.",
		Example: "  mailriver audit\n" +
			"  mailriver audit --from 2026-11-23T00:00:00Z --to 2026-11-24T00:00:00Z --output json\n" +
			"  mailriver audit --from 15m --follow",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			format, err := terminal.ParseFormat(output)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			if every <= 0 {
				return usageError{cmd.CommandPath(), fmt.Errorf("every: is %s, must be positive", every)}
			}
			resolve := func(opt audit.Options) (audit.Options, error) {
				now := time.Now()
				var err error
				if opt.From, err = kafka.ParseMoment(from, now); err != nil {
					return opt, fmt.Errorf("from: %w", err)
				}
				if opt.To, err = kafka.ParseMoment(to, now); err != nil {
					return opt, fmt.Errorf("to: %w", err)
				}
				return opt, nil
			}
			if _, err := resolve(opt); err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			process, err := c.open(cmd, "cli")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(cmd.Context()))) }()
			auditor, closeAudit, err := assembly.Audit(cmd.Context(), process)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, closeAudit()) }()

			balanced := true
			for {
				now, err := resolve(opt)
				if err != nil {
					return err
				}
				books, err := auditOnce(cmd, auditor, now)
				if err != nil && cmd.Context().Err() == nil {
					return err
				}
				if err != nil {
					break // interrupted by the person who looks
				}
				balanced = balanced && books.Balanced()
				if err := writeBooks(cmd.OutOrStdout(), format, books); err != nil {
					return err
				}
				if !follow || !wait(cmd.Context(), every) {
					break
				}
			}
			if !balanced {
				return errBooks
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "24h", `raw records from: "start", a duration ago (15m) or a time (RFC 3339)`)
	flags.StringVar(&to, "to", "end", `up to: "end", a duration ago or a time`)
	flags.BoolVar(&follow, "follow", false, "audit again and again, each time from --from on")
	flags.DurationVar(&every, "every", 10*time.Second, "pause between two audits with --follow")
	flags.IntVar(&opt.Limit, "limit", 100, "name at most this many findings of each kind")
	flags.Int64Var(&opt.MaxEvents, "max-events", 1_000_000, "canonical events held in memory (about 150 bytes each); more take several passes")
	flags.StringVar(&output, "output", "table", "table, json (one object for each audit) or csv (findings only)")
	return cmd
}

func auditOnce(cmd *cobra.Command, auditor *audit.Auditor, opt audit.Options) (audit.Books, error) {
	progress := terminal.NewProgress(cmd.ErrOrStderr(), -1, "auditing", "records")
	defer progress.Done()
	opt.Progress = progress.Add
	return auditor.Run(cmd.Context(), opt)
}

func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func writeBooks(out io.Writer, format terminal.Format, books audit.Books) error {
	findings := terminal.List{Columns: []string{"kind", "event_id", "origin", "detail"}}
	for _, f := range books.Findings {
		findings.Rows = append(findings.Rows, []any{f.Kind, f.EventID, f.Origin, f.Detail})
	}
	switch format {
	case terminal.JSON:
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		return enc.Encode(struct {
			Balanced bool `json:"balanced"`
			audit.Books
		}{books.Balanced(), books})
	case terminal.CSV:
		return terminal.Write(out, format, findings)
	}
	list := terminal.List{Columns: []string{
		"partition", "requests", "events", "published", "duplicates", "lettered", "missing", "letters", "rows", "raw_in_flight", "rows_in_flight",
	}}
	row := func(name any, p audit.Partition) {
		list.Rows = append(list.Rows, []any{
			name, p.Requests, p.Events, p.Published, p.Duplicates, p.Lettered, p.Missing, p.Letters, p.Rows, p.RawInFlight, p.RowsInFlight,
		})
	}
	for _, p := range books.Partitions {
		row(p.Partition, p)
	}
	row("all", books.Total())
	if err := terminal.Write(out, format, list); err != nil {
		return err
	}
	if books.Balanced() {
		_, err := fmt.Fprintln(out, "The books balance.")
		return err
	}
	if _, err := fmt.Fprintln(out); err != nil {
		return err
	}
	if err := terminal.Write(out, format, findings); err != nil {
		return err
	}
	var kinds []string
	for kind, n := range books.Found {
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, n))
	}
	slices.Sort(kinds)
	_, err := fmt.Fprintf(out, "Found: %s.\n", strings.Join(kinds, ", "))
	return err
}
