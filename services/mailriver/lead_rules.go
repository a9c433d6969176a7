package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/trial"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

// rulesTest is a test of rules before they are in force.
type rulesTest struct {
	events, from, to, output string
	limit                    int
}

func (l *leads) test() *cobra.Command {
	var t rulesTest
	cmd := &cobra.Command{
		Use:   "test FILE",
		Short: "Check a file of rules, and show who would move",
		Long: "Checks the profiles of a YAML file (a configuration, its section leadscoring, or the list alone) and tells\n" +
			"every mistake with its line. With events, scores them by the rules of the configuration and by those of\n" +
			"the file, and shows how many would be in each stage and who would move, as of the newest event.\n\n" +
			"Both begin with nobody: what came before the events counts for neither. All recipients are held in\n" +
			"memory, about one kilobyte each. It joins no group, moves no offset and changes nothing.",
		Example: "  mailriver lead rules test rules.yaml\n" +
			"  mailriver lead rules test rules.yaml --from 720h\n" +
			"  mailriver tail --from 24h --follow=false > events.jsonl\n" +
			"  mailriver lead rules test rules.yaml --events events.jsonl --output json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return l.runTest(cmd, args[0], t) },
	}
	cmd.Flags().StringVar(&t.events, "events", "", "file of canonical events, as tail prints them; - is the standard input")
	cmd.Flags().StringVar(&t.from, "from", "", `score the topic of events from there: "start", a duration ago (720h) or a time (RFC 3339)`)
	cmd.Flags().StringVar(&t.to, "to", "end", `up to there: "end", a duration ago or a time`)
	cmd.Flags().IntVar(&t.limit, "limit", 20, "how many of those who would move are shown")
	outputFlag(cmd, &t.output)
	return cmd
}

func (l *leads) runTest(cmd *cobra.Command, path string, t rulesTest) error {
	usage := func(err error) error { return usageError{cmd.CommandPath(), err} }
	format, err := terminal.ParseFormat(t.output)
	switch {
	case err != nil:
		return usage(err)
	case t.events != "" && t.from != "":
		return usage(errors.New("events and from: one of the two"))
	case cmd.Flags().Changed("to") && t.from == "":
		return usage(errors.New("to: needs --from"))
	case t.limit < 0:
		return usage(fmt.Errorf("limit: is %d, must not be negative", t.limit))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	profiles, err := lead.ReadProfiles(text)
	var tried *lead.Set
	if err == nil {
		tried, err = lead.Compile(profiles)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", assembly.ErrConfig, path, err)
	}
	if t.events == "" && t.from == "" {
		rules := 0
		for _, p := range profiles {
			rules += len(p.Rules)
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s, no mistake\n", path, counted(len(profiles), "profile"), counted(rules, "rule"))
		return err
	}
	cfg, err := l.load()
	if err != nil {
		return err
	}
	inForce, err := lead.Compile(cfg.Leadscoring.Profiles)
	if err != nil {
		return err
	}
	run := trial.New(inForce, tried)
	unread := 0
	if t.events != "" {
		err = readEvents(cmd, t.events, run.Add)
	} else {
		unread, err = l.topicEvents(cmd, t, run.Add)
	}
	if err != nil {
		return err
	}
	if unread > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d records could not be read and are left out\n", unread)
	}
	return writeTrial(cmd.OutOrStdout(), format, run.Report(t.limit))
}

// topicEvents reads a part of the topic of events.
func (l *leads) topicEvents(cmd *cobra.Command, t rulesTest, each func(*event.Event)) (unread int, err error) {
	now := time.Now()
	from, err := kafka.ParseMoment(t.from, now)
	if err != nil {
		return 0, usageError{cmd.CommandPath(), fmt.Errorf("from: %w", err)}
	}
	to, err := kafka.ParseMoment(t.to, now)
	if err != nil {
		return 0, usageError{cmd.CommandPath(), fmt.Errorf("to: %w", err)}
	}
	process, err := l.open(cmd, "cli")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(cmd.Context()))) }()
	progress := &terminal.Progress{}
	defer func() { progress.Done() }()
	start := func(offsets int64) {
		progress = terminal.NewProgress(cmd.ErrOrStderr(), offsets, "scoring", "events")
	}
	return assembly.Events(cmd.Context(), process, from, to, start, func(e *event.Event) {
		each(e)
		progress.Add(1)
	})
}

// maxLine is more than any event has.
const maxLine = 16 << 20

// readEvents reads a file of events, one JSON object on each line.
func readEvents(cmd *cobra.Command, path string, each func(*event.Event)) error {
	in, size := cmd.InOrStdin(), int64(-1)
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }() // it was only read
		if info, err := file.Stat(); err == nil {
			size = info.Size()
		}
		in = file
	}
	progress := terminal.NewProgress(cmd.ErrOrStderr(), size, "scoring", "bytes")
	defer progress.Done()
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	n := 0
	for lines.Scan() {
		n++
		progress.Add(len(lines.Bytes()) + 1)
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var e event.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%s: line %d: is no canonical event: %w", path, n, err)
		}
		if e.ID.IsZero() || e.Type == "" || e.OccurredAt.IsZero() {
			return fmt.Errorf("%s: line %d: is no canonical event: event_id, event_type or occurred_at is missing", path, n)
		}
		each(&e)
		if err := cmd.Context().Err(); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: line %d: %w", path, n+1, err)
	}
	return nil
}

// stageText is a stage for people.
func stageText(stage string) string {
	if stage == "" {
		return "(none)"
	}
	return stage
}

func writeTrial(out io.Writer, format terminal.Format, r trial.Report) error {
	moves := terminal.List{Columns: []string{"address", "profile", "before", "after", "score_before", "score_after"}, Wrap: []string{"address", "profile", "before", "after"}}
	for _, m := range r.Moves {
		before, after := m.Before, m.After
		if format == terminal.Table {
			before, after = stageText(before), stageText(after)
		}
		moves.Rows = append(moves.Rows, []any{
			m.Address, m.Profile, before, after, scoreCell(format, m.ScoreBefore), scoreCell(format, m.ScoreAfter),
		})
	}
	switch format {
	case terminal.JSON:
		return writeIndented(out, r)
	case terminal.CSV:
		return terminal.Write(out, format, moves)
	}
	asOf := ""
	if !r.At.IsZero() {
		asOf = ", as of " + terminal.Text(r.At)
	}
	fmt.Fprintf(out, "%s, %s with points%s\n\n", counted(r.Events, "event"), counted(r.Recipients, "recipient"), asOf)
	stages := terminal.List{Columns: []string{"profile", "stage", "before", "after"}}
	for _, s := range r.Stages {
		stages.Rows = append(stages.Rows, []any{s.Profile, stageText(s.Stage), s.Before, s.After})
	}
	if err := terminal.Write(out, format, stages); err != nil {
		return err
	}
	switch {
	case r.Moved == 0:
		fmt.Fprint(out, "\nnobody would move\n")
	case len(r.Moves) < r.Moved:
		fmt.Fprintf(out, "\n%d would move; those with the greatest change:\n\n", r.Moved)
	default:
		fmt.Fprintf(out, "\n%d would move:\n\n", r.Moved)
	}
	if len(r.Moves) > 0 {
		if err := terminal.Write(out, format, moves); err != nil {
			return err
		}
	}
	for _, f := range r.Failures {
		fmt.Fprintf(out, "\nrule %s/%s could not be answered for %s: %s\n", f.Profile, f.Rule, counted(f.Events, "event"), terminal.Text(f.Error))
	}
	return nil
}

// counted is a number of things, as people say it.
func counted(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
