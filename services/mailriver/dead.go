package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"mailriver/pkg/dead"
	"mailriver/pkg/kafka"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

func (c *command) dead() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dead", Short: "List, show and retry dead letters", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.deadList(), c.deadShow(), c.deadRetry())
	return cmd
}

// deadFilter is the filter as flags.
type deadFilter struct {
	filter   dead.Filter
	from, to string
}

func (f *deadFilter) flags(cmd *cobra.Command, limit int) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.filter.Reasons, "reason", nil, "only these reasons, such as bad_element")
	flags.StringSliceVar(&f.filter.Stages, "stage", nil, "only letters of these stages: normalizer, loader")
	flags.StringSliceVar(&f.filter.Providers, "provider", nil, "only these providers")
	flags.StringSliceVar(&f.filter.Sources, "source", nil, "only these sources")
	flags.StringVar(&f.from, "from", "start", `letters from: "start", a duration ago (15m) or a time (RFC 3339)`)
	flags.StringVar(&f.to, "to", "end", `up to: "end", a duration ago or a time`)
	flags.IntVar(&f.filter.Limit, "limit", limit, "at most this many letters (0: all)")
}

// resolve checks the flags.
func (f *deadFilter) resolve(now time.Time) (out dead.Filter, err error) {
	out = f.filter
	if out.From, err = kafka.ParseMoment(f.from, now); err != nil {
		return out, fmt.Errorf("from: %w", err)
	}
	if out.To, err = kafka.ParseMoment(f.to, now); err != nil {
		return out, fmt.Errorf("to: %w", err)
	}
	if out.Limit < 0 {
		return out, fmt.Errorf("limit: is %d, must not be negative", out.Limit)
	}
	return out, nil
}

// withBox opens a box and calls f with it.
func (c *command) withBox(cmd *cobra.Command, f func(*dead.Box) error) (err error) {
	process, err := c.open(cmd, "cli")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(cmd.Context()))) }()
	box, closeBox, err := assembly.Dead(cmd.Context(), process)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeBox()) }()
	return f(box)
}

func (c *command) deadList() *cobra.Command {
	var f deadFilter
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters that are open",
		Long: "Lists what could not be processed and was not retried since, the oldest first. A letter that was written\n" +
			"twice is listed once.",
		Example: "  mailriver dead list --reason bad_element --provider ses\n" +
			"  mailriver dead list --from 24h --output json | jq -r .[].error",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := terminal.ParseFormat(output)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			filter, err := f.resolve(time.Now())
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return c.withBox(cmd, func(box *dead.Box) error {
				progress := terminal.NewProgress(cmd.ErrOrStderr(), -1, "reading", "letters")
				letters, more, err := box.List(cmd.Context(), filter)
				progress.Done()
				if err != nil {
					return err
				}
				list := terminal.List{Columns: []string{"letter", "at", "stage", "reason", "provider", "source", "origin", "bytes", "error"}}
				if filter.All {
					list.Columns = append(list.Columns, "closed")
				}
				for _, l := range letters {
					row := []any{l.Place.String(), l.At, l.Stage, l.Reason, l.Provider, l.Source, l.Origin, l.Bytes, l.Error}
					if filter.All {
						row = append(row, l.Closed)
					}
					list.Rows = append(list.Rows, row)
				}
				if more {
					fmt.Fprintf(cmd.ErrOrStderr(), "there are more than %d: narrow the filter or raise --limit\n", filter.Limit)
				}
				return terminal.Write(cmd.OutOrStdout(), format, list)
			})
		},
	}
	f.flags(cmd, 100)
	cmd.Flags().BoolVar(&f.filter.All, "all", false, "also letters that were retried")
	cmd.Flags().StringVar(&output, "output", "table", "table, json or csv")
	return cmd
}

func (c *command) deadShow() *cobra.Command {
	var rawBytes bool
	cmd := &cobra.Command{
		Use:   "show PARTITION/OFFSET",
		Short: "Print the headers of a dead letter, and its bytes",
		Long: "Prints the headers and the value. What could drive a terminal is escaped, and a value that is no text is\n" +
			"printed in hexadecimal. --raw prints the value alone, byte for byte.",
		Example: "  mailriver dead show 0/17\n" +
			"  mailriver dead show 0/17 --raw > letter.bin",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := dead.ParsePlace(args[0])
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return c.withBox(cmd, func(box *dead.Box) error {
				record, err := box.Show(cmd.Context(), at)
				if err != nil {
					return err
				}
				out := cmd.OutOrStdout()
				if rawBytes {
					_, err := out.Write(record.Value)
					return err
				}
				list := terminal.List{Columns: []string{"header", "value"}, Rows: [][]any{
					{"(time)", record.Timestamp}, {"(key)", safe(record.Key)},
				}}
				for _, h := range record.Headers {
					list.Rows = append(list.Rows, []any{h.Key, safe(h.Value)})
				}
				if err := terminal.Write(out, terminal.Table, list); err != nil {
					return err
				}
				_, err = fmt.Fprintf(out, "\n%d bytes:\n%s\n", len(record.Value), strings.TrimSuffix(safe(record.Value), "\n"))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&rawBytes, "raw", false, "print the value alone, byte for byte")
	return cmd
}

// safe is text that cannot drive a terminal: control and invisible characters
// escaped, and hexadecimal where it is no text at all.
func safe(value []byte) string {
	if !utf8.Valid(value) {
		return hex.Dump(value)
	}
	var b strings.Builder
	for _, r := range string(value) {
		switch {
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
	}
	return b.String()
}

// errLetters is the exit status 1 of a retry after which letters are left.
var errLetters = errors.New("some letters are still open or were refused again")

func (c *command) deadRetry() *cobra.Command {
	var f deadFilter
	var opt dead.RetryOptions
	var output string
	cmd := &cobra.Command{
		Use:   "retry [PARTITION/OFFSET...]",
		Short: "Send dead letters through the code of today, once",
		Long: "Retries letters that are open, and tells what became of each. A letter of the normalizer is retried by its\n" +
			"raw record, with all that lies beside it; what was published before is dropped as a copy. A letter of the\n" +
			"loader is inserted into ClickHouse. A letter that this build cannot read, either, stays as it is.\n\n" +
			"A letter is retried once: when the normalizer refuses it again, it leaves a new one. Exit status 1: some\n" +
			"are still open or were refused again.",
		Example: "  mailriver dead retry --reason bad_element --provider ses --dry-run\n" +
			"  mailriver dead retry 0/17 2/4",
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := terminal.ParseFormat(output)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			filter, err := f.resolve(time.Now())
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			for _, arg := range args {
				at, err := dead.ParsePlace(arg)
				if err != nil {
					return usageError{cmd.CommandPath(), err}
				}
				filter.Places = append(filter.Places, at)
			}
			return c.withBox(cmd, func(box *dead.Box) error { return retry(cmd, box, filter, opt, format) })
		},
	}
	f.flags(cmd, 10_000)
	cmd.Flags().BoolVar(&opt.DryRun, "dry-run", false, "change nothing, only tell")
	cmd.Flags().DurationVar(&opt.Wait, "wait", 30*time.Second, "wait this long for the normalizer to come to them")
	cmd.Flags().StringVar(&output, "output", "table", "table, json or csv")
	return cmd
}

func retry(cmd *cobra.Command, box *dead.Box, filter dead.Filter, opt dead.RetryOptions, format terminal.Format) error {
	progress := terminal.NewProgress(cmd.ErrOrStderr(), -1, "retrying", "letters")
	opt.Progress = progress.Add
	outcomes, err := box.Retry(cmd.Context(), filter, opt)
	progress.Done()
	list := terminal.List{Columns: []string{"letter", "stage", "reason", "origin", "outcome", "detail"}}
	var left bool
	for _, o := range outcomes {
		left = left || !o.Settled()
		list.Rows = append(list.Rows, []any{o.Letter.Place.String(), o.Letter.Stage, o.Letter.Reason, o.Letter.Origin, o.Outcome, o.Detail})
	}
	if filter.Limit > 0 && len(outcomes) >= filter.Limit {
		fmt.Fprintf(cmd.ErrOrStderr(), "--limit %d was reached: run it again for the rest\n", filter.Limit)
	}
	// What was done is worth knowing when the rest failed, too.
	if err := errors.Join(err, terminal.Write(cmd.OutOrStdout(), format, list)); err != nil {
		return err
	}
	if left {
		return errLetters
	}
	return nil
}
