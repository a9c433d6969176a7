package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/kafka"
	"mailriver/pkg/replay"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

func (c *command) replay() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Make canonical events and ClickHouse agree with today's code",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.replayRaw(), c.replayEvents())
	return cmd
}

// replayFlags are those of both commands.
type replayFlags struct {
	from, output string
	wait         time.Duration
}

func (f *replayFlags) add(cmd *cobra.Command, from string) {
	cmd.Flags().StringVar(&f.from, "from", "", from)
	_ = cmd.MarkFlagRequired("from") // it was added the line before
	cmd.Flags().StringVar(&f.output, "output", "table", "table, json or csv")
	cmd.Flags().DurationVar(&f.wait, "wait", 2*time.Minute, "wait this long for the loader, or for an open transaction, before giving up")
}

func (f *replayFlags) parse() (terminal.Format, kafka.Moment, error) {
	format, err := terminal.ParseFormat(f.output)
	if err != nil {
		return "", kafka.Moment{}, err
	}
	if f.wait <= 0 {
		return "", kafka.Moment{}, fmt.Errorf("wait: is %s, must be positive", f.wait)
	}
	from, err := kafka.ParseMoment(f.from, time.Now())
	if err != nil {
		return "", kafka.Moment{}, fmt.Errorf("from: %w", err)
	}
	return format, from, nil
}

func (c *command) replayRaw() *cobra.Command {
	var (
		flags replayFlags
		to    string
		what  replay.Raw
	)
	cmd := &cobra.Command{
		Use:   "raw",
		Short: "Run raw records through today's normalizer, and publish the events that changed",
		Long: "Runs raw records through the normalizer of this build and compares each event with what was\n" +
			"published for it, field by field. Without --dry-run the events that differ are published again, with\n" +
			"the same event_id and a revision one higher, and those that were never published for the first time;\n" +
			"then ClickHouse is brought to the latest revisions, a month at a time. Events that today's code does\n" +
			"not make any more are listed, and stay.\n\n" +
			"Services may run meanwhile. The loader has to: it waits while a month is swapped, and goes on. When\n" +
			"this is interrupted, run the same again.",
		Example: "  mailriver replay raw --from 2026-11-23T00:00:00Z --source sendgrid --dry-run\n" +
			"  mailriver replay raw --from 72h --to 24h",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, from, err := flags.parse()
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			what.From = from
			if what.To, err = kafka.ParseMoment(to, time.Now()); err != nil {
				return usageError{cmd.CommandPath(), fmt.Errorf("to: %w", err)}
			}
			return c.withReplay(cmd, flags.wait, func(r *replay.Replay) error {
				report, err := r.Raw(cmd.Context(), what)
				return errors.Join(err, writeReplay(cmd.OutOrStdout(), cmd.ErrOrStderr(), format, report))
			})
		},
	}
	flags.add(cmd, `raw records from: "start", a duration ago (72h) or a time (RFC 3339)`)
	cmd.Flags().StringVar(&to, "to", "end", `up to: "end", a duration ago or a time`)
	cmd.Flags().StringVar(&what.Source, "source", "", "only this source")
	cmd.Flags().BoolVar(&what.DryRun, "dry-run", false, "only show the differences; change nothing")
	cmd.Flags().IntVar(&what.Limit, "limit", 100, "list at most this many differences; all are counted")
	return cmd
}

func (c *command) replayEvents() *cobra.Command {
	var flags replayFlags
	var consumer string
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Rebuild the state of one consumer from the canonical topic",
		Long: "Rebuilds what a consumer made of the canonical topic.\n\n" +
			"For the loader: the rows in ClickHouse of every event published since --from, each once and in its\n" +
			"latest revision, and the roll-up of each month that they are in. Rows of events that were published\n" +
			"before stay as they are. The loader must run.\n\n" +
			"For suppression and leadscoring: sets their group back to --from. They must not run, and read the\n" +
			"events again when they are started. What they know already changes nothing, and nothing that is\n" +
			"read again is signaled, whatever rules are new.\n\n" +
			"The consumers are: " + strings.Join(assembly.ReplayConsumers(), ", ") + ".",
		Example: "  mailriver replay events --consumer loader --from 48h\n" +
			"  mailriver replay events --consumer leadscoring --from start",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, from, err := flags.parse()
			if err == nil {
				err = assembly.CheckConsumer(consumer)
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			if consumer != assembly.ReplayLoader {
				return c.rewind(cmd, consumer, from, flags.wait, format)
			}
			return c.withReplay(cmd, flags.wait, func(r *replay.Replay) error {
				report, err := r.Events(cmd.Context(), from)
				return errors.Join(err, writeReplay(cmd.OutOrStdout(), cmd.ErrOrStderr(), format, report))
			})
		},
	}
	flags.add(cmd, `events published from: "start", a duration ago (48h) or a time (RFC 3339)`)
	cmd.Flags().StringVar(&consumer, "consumer", "", "whose state: "+strings.Join(assembly.ReplayConsumers(), ", "))
	_ = cmd.MarkFlagRequired("consumer") // it was added the line before
	return cmd
}

// rewind sets a consumer back, and says how much it will read again.
func (c *command) rewind(
	cmd *cobra.Command, consumer string, from kafka.Moment, wait time.Duration, format terminal.Format,
) (err error) {
	process, err := c.open(cmd, "cli")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(cmd.Context()))) }()
	rewound, err := assembly.Rewind(cmd.Context(), process, consumer, from, wait)
	if err != nil {
		return err
	}
	list := terminal.List{Columns: []string{"partition", "from", "was"}}
	var offsets int64
	for _, r := range rewound {
		list.Rows = append(list.Rows, []any{r.Partition, r.From, r.Was})
		offsets += r.Was - r.From
	}
	err = terminal.Write(cmd.OutOrStdout(), format, list)
	if len(rewound) == 0 {
		_, told := fmt.Fprintf(cmd.ErrOrStderr(), "nothing to read again: %s is not behind that moment\n", consumer)
		return errors.Join(err, told)
	}
	_, told := fmt.Fprintf(cmd.ErrOrStderr(), "start `mailriver %s`: it reads %d offsets again\n", consumer, offsets)
	return errors.Join(err, told)
}

// withReplay calls f with a replay, and shows how far it is.
func (c *command) withReplay(cmd *cobra.Command, wait time.Duration, f func(*replay.Replay) error) (err error) {
	process, err := c.open(cmd, "cli")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(cmd.Context()))) }()
	steps := stepProgress{to: cmd.ErrOrStderr()}
	r, closeReplay, err := assembly.Replay(cmd.Context(), process, wait, steps.show)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeReplay()) }()
	defer steps.end()
	return f(r)
}

// stepProgress shows one step after the other.
type stepProgress struct {
	to   io.Writer
	step string
	done int64
	bar  *terminal.Progress
}

func (s *stepProgress) show(step string, done, total int64) {
	if s.bar == nil || step != s.step {
		s.end()
		if total == 0 {
			total = -1
		}
		s.step, s.done, s.bar = step, 0, terminal.NewProgress(s.to, total, step, "records")
	}
	s.bar.Add(int(done - s.done))
	s.done = done
}

func (s *stepProgress) end() {
	if s.bar != nil {
		s.bar.Done()
		s.bar = nil
	}
}

// writeReplay writes a report: the differences in every format, and the rest in
// the table and in JSON.
func writeReplay(out, errs io.Writer, format terminal.Format, report replay.Report) error {
	if format == terminal.JSON {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		return enc.Encode(report)
	}
	list := terminal.List{Columns: []string{"what", "event_id", "field", "published", "today", "revision", "origin"}}
	for _, d := range report.Differences {
		list.Rows = append(list.Rows, []any{d.What, d.ID.String(), d.Field, d.Published, d.Today, d.Revision, d.Origin})
	}
	if format == terminal.CSV {
		return terminal.Write(out, format, list)
	}
	var failed []error
	if len(list.Rows) > 0 {
		failed = append(failed, terminal.Write(out, format, list))
	}
	if len(report.Fields) > 0 {
		fields := terminal.List{Columns: []string{"field", "changed_events"}}
		for _, name := range slices.Sorted(maps.Keys(report.Fields)) {
			fields.Rows = append(fields.Rows, []any{name, report.Fields[name]})
		}
		failed = append(failed, terminal.Write(out, format, fields))
	}
	if len(report.Months) > 0 {
		months := terminal.List{Columns: []string{"month", "events", "behind", "absent", "swapped", "rows"}}
		for _, m := range report.Months {
			months.Rows = append(months.Rows, []any{m.Month, m.Staged, m.Behind, m.Absent, m.Replaced, m.Rows})
		}
		failed = append(failed, terminal.Write(out, format, months))
	}
	counts := terminal.List{Columns: []string{"count", "events"}}
	for _, row := range []struct {
		name string
		n    int64
	}{
		{"records read", report.Records},
		{"unchanged", report.Unchanged},
		{"changed", report.Changed},
		{"new", report.New},
		{"gone", report.Gone},
		{"copies", report.Duplicates},
		{"published", report.Published},
		{"ahead of the normalizer, left out", report.Ahead},
		{"unreadable, left out", report.Unreadable},
		{"refused by ClickHouse, left out", report.Refused},
	} {
		if row.n != 0 || row.name == "records read" {
			counts.Rows = append(counts.Rows, []any{row.name, row.n})
		}
	}
	return errors.Join(append(failed, terminal.Write(errs, format, counts))...)
}
