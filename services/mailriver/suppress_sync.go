package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mailriver/pkg/listsync"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

// errSync is the exit status 1 of a sync after which something is left.
var errSync = errors.New("some entries were refused or not brought over")

func (s *suppress) sync() *cobra.Command {
	var (
		provider, name, output string
		o                      assembly.SyncOptions
	)
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "Compare the list with the one that a provider keeps",
		Long: "Reads both lists and says what differs. Without --apply and --import nothing is changed.\n\n" +
			"--apply adds to the provider's list what is missing there, as far as that list can hold it. Nothing is\n" +
			"ever deleted from it. --import adds to Mailriver's list what is missing here; it needs Kafka. How the\n" +
			"provider's API is reached is in the section suppression_sync of the configuration.\n\n" +
			"Exit status 1: it failed, or some entries were refused. Differences alone are no failure.",
		Example: "  mailriver suppress sync --provider postmark\n" +
			"  mailriver suppress sync --provider mailgun --list mg.example.com --apply\n" +
			"  mailriver suppress sync --provider ses --import --output csv --limit 0 > drift.csv",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			usage := func(err error) error { return usageError{cmd.CommandPath(), err} }
			format, err := terminal.ParseFormat(output)
			switch {
			case err != nil:
			case !slices.Contains(assembly.SyncProviders(), provider):
				err = fmt.Errorf("provider: is %q, must be one of %s", provider, strings.Join(assembly.SyncProviders(), ", "))
			case o.MaxRows < 0:
				err = fmt.Errorf("limit: is %d, must not be negative", o.MaxRows)
			}
			if err != nil {
				return usage(err)
			}
			process, err := s.open(cmd, "cli")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(cmd.Context()))) }()
			if err := s.apply(&process.Config); err != nil {
				return usage(err)
			}
			list, err := assembly.FindSyncList(process.Config, provider, name)
			if err != nil && !errors.Is(err, assembly.ErrConfig) {
				return usage(err)
			}
			if err != nil {
				return err
			}
			api, err := assembly.SuppressionClient(process.Config)
			if err != nil {
				return err
			}
			steps := stepProgress{to: cmd.ErrOrStderr()}
			done := map[listsync.Stage]int64{}
			o.Progress = func(stage listsync.Stage, n int) {
				done[stage] += int64(n)
				steps.show(string(stage), done[stage], -1)
			}
			report, err := assembly.Sync(cmd.Context(), process, list, api, o)
			steps.end()
			err = suppressionAPI.advised(cmd, process.Config.SuppressionClient, err)
			if err != nil && report.Addresses == 0 {
				return err // there is nothing to show
			}
			return errors.Join(err, writeSync(cmd.OutOrStdout(), cmd.ErrOrStderr(), format, report, o))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&provider, "provider", "", "whose list: "+strings.Join(assembly.SyncProviders(), ", "))
	_ = cmd.MarkFlagRequired("provider") // it was added the line before
	flags.StringVar(&name, "list", "", "which of the provider's lists in suppression_sync, where there are several")
	flags.BoolVar(&o.Apply, "apply", false, "add to the provider's list what is missing there")
	flags.BoolVar(&o.Import, "import", false, "add to Mailriver's list what is missing here")
	flags.IntVar(&o.MaxRows, "limit", 100, "list at most this many differences (0: all); all are counted")
	outputFlag(cmd, &output)
	return cmd
}

// writeSync writes a report: the differences in every format, and the counts in
// the table and in JSON.
func writeSync(out, errs io.Writer, format terminal.Format, r listsync.Report, o assembly.SyncOptions) error {
	var failed error
	list := terminal.List{Columns: listsync.Columns(), Wrap: []string{"detail"}}
	for _, d := range r.Rows {
		list.Rows = append(list.Rows, d.Row())
	}
	switch format {
	case terminal.JSON:
		failed = writeObject(out, r)
	case terminal.CSV:
		failed = terminal.Write(out, format, list)
	default:
		if len(list.Rows) > 0 {
			failed = terminal.Write(out, format, list)
		}
		failed = errors.Join(failed, terminal.Write(errs, format, syncCounts(r)))
	}
	if r.Cut && format != terminal.JSON {
		fmt.Fprintf(errs, "there are more than %d differences: raise --limit\n", o.MaxRows)
	}
	if format == terminal.Table {
		if r.MissingThere > 0 && !o.Apply {
			fmt.Fprintf(errs, "--apply adds to the list of %s what is missing there\n", r.Provider)
		}
		if r.MissingHere > 0 && !o.Import {
			fmt.Fprintln(errs, "--import adds to Mailriver's list what is missing here")
		}
	}
	if failed == nil && r.Refused+r.Failed > 0 {
		failed = errSync
	}
	return failed
}

func syncCounts(r listsync.Report) terminal.List {
	counts := terminal.List{Columns: []string{"count", "entries"}}
	for _, row := range []struct {
		name   string
		n      int64
		always bool
	}{
		{"here", r.Ours, true},
		{"at " + r.Provider, r.Theirs, true},
		{"agreed", r.Agreed, true},
		{"missing there", r.MissingThere, true},
		{"missing here", r.MissingHere, true},
		{"different reason", r.DifferentReason, false},
		{"added there", r.Added, false},
		{"refused there", r.Refused, false},
		{"imported here", r.Imported, false},
		{"failed", r.Failed, false},
	} {
		if row.always || row.n > 0 {
			counts.Rows = append(counts.Rows, []any{row.name, row.n})
		}
	}
	for _, why := range slices.Sorted(maps.Keys(r.LeftOut)) {
		counts.Rows = append(counts.Rows, []any{"left out: " + why, r.LeftOut[why]})
	}
	return counts
}
