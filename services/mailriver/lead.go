package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/lead/leadapi"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

func (c *command) lead() *cobra.Command {
	l := &leads{command: c}
	cmd := &cobra.Command{
		Use:   "lead",
		Short: "Ask who is warming up, and why",
		Long: "Asks the lead scoring API. Where it is, and the key for it, is in the section leadscoring_client of the\n" +
			"configuration; the key may also be in the variable MAILRIVER_LEADSCORING_CLIENT_KEY. A service that\n" +
			"listens on this machine only needs no key.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&l.url, "url", "", "base URL of the lead scoring API (default: leadscoring_client.url)")
	cmd.AddCommand(l.show(), l.top(), l.explain(), l.history(), l.rules(), l.deliveries())
	return cmd
}

// leads is what its subcommands share.
type leads struct {
	*command
	url string
}

// with opens a client and calls f with it. What went wrong is told with what can
// be done about it.
func (l *leads) with(cmd *cobra.Command, f func(*leadapi.Client) error) error {
	cfg, err := l.load()
	if err != nil {
		return err
	}
	if l.url != "" {
		cfg.LeadscoringClient.URL = l.url
		if err := cfg.LeadscoringClient.Validate(); err != nil {
			return usageError{cmd.CommandPath(), err}
		}
	}
	api, err := assembly.LeadscoringClient(cfg)
	if err != nil {
		return err
	}
	return leadAPI.advised(cmd, cfg.LeadscoringClient, f(api))
}

// asking makes a command that asks and shows rows.
func (l *leads) asking(cmd *cobra.Command, ask func(cmd *cobra.Command, api *leadapi.Client, args []string, format terminal.Format) error) *cobra.Command {
	var output string
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := terminal.ParseFormat(output)
		if err != nil {
			return usageError{cmd.CommandPath(), err}
		}
		return l.with(cmd, func(api *leadapi.Client) error { return ask(cmd, api, args, format) })
	}
	outputFlag(cmd, &output)
	return cmd
}

// points are for people: a hundredth of a point decides nothing.
func points(score float64) string { return fmt.Sprintf("%.2f", score) }

// scoreCell keeps all digits for programs.
func scoreCell(format terminal.Format, score float64) any {
	if format == terminal.Table {
		return points(score)
	}
	return score
}

// moment is a time that may not be there.
func moment(at *time.Time) time.Time {
	if at == nil {
		return time.Time{}
	}
	return *at
}

func (l *leads) show() *cobra.Command {
	return l.asking(&cobra.Command{
		Use:     "show ADDRESS",
		Short:   "Show where a recipient stands in each profile",
		Example: "  mailriver lead show ada@example.com",
		Args:    cobra.ExactArgs(1),
	}, func(cmd *cobra.Command, api *leadapi.Client, args []string, format terminal.Format) error {
		found, err := api.Lead(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		list := terminal.List{Columns: []string{"address", "profile", "score", "stage", "updated_at", "as_of"}}
		for _, s := range found.Profiles {
			list.Rows = append(list.Rows, []any{found.Address, s.Profile, scoreCell(format, s.Score), s.Stage, moment(s.UpdatedAt), found.AsOf})
		}
		return terminal.Write(cmd.OutOrStdout(), format, list)
	})
}

// maxTop is how many leads top shows.
const maxTop = 100_000

func (l *leads) top() *cobra.Command {
	var (
		profile, stage string
		limit          int
	)
	cmd := &cobra.Command{
		Use:     "top",
		Short:   "List the leads in a stage, best first",
		Example: "  mailriver lead top --stage hot\n  mailriver lead top --profile marketing --limit 1000 --output csv",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&profile, "profile", "", "which profile; required where there are several")
	cmd.Flags().StringVar(&stage, "stage", "", "only leads in this stage, without those in higher ones")
	cmd.Flags().IntVar(&limit, "limit", 20, "how many at most")
	return l.asking(cmd, func(cmd *cobra.Command, api *leadapi.Client, _ []string, format terminal.Format) error {
		if limit < 1 || limit > maxTop {
			return usageError{cmd.CommandPath(), fmt.Errorf("limit: is %d, must be 1 to %d", limit, maxTop)}
		}
		found, more, err := api.Top(cmd.Context(), profile, stage, limit)
		if err != nil {
			return err
		}
		list := terminal.List{Columns: []string{"address", "profile", "score", "stage", "updated_at"}}
		for _, r := range found {
			list.Rows = append(list.Rows, []any{r.Address, r.Profile, scoreCell(format, r.Score), r.Stage, moment(r.UpdatedAt)})
		}
		if err := terminal.Write(cmd.OutOrStdout(), format, list); err != nil {
			return err
		}
		if more {
			fmt.Fprintf(cmd.ErrOrStderr(), "there are more; --limit %d shows as many\n", min(10*limit, maxTop))
		}
		return nil
	})
}

func (l *leads) explain() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "explain ADDRESS",
		Short: "Show what a score is made of: each contribution, its event and what is left of it",
		Long: "Shows every contribution that is kept. Points are what the rule gives; counted is what caps and machines\n" +
			"left of them then; now is what is left today. Evidence says why an event is taken for a machine's.",
		Example: "  mailriver lead explain ada@example.com --profile marketing",
		Args:    cobra.ExactArgs(1),
	}
	profileFlag(cmd, &profile)
	return l.asking(cmd, func(cmd *cobra.Command, api *leadapi.Client, args []string, format terminal.Format) error {
		found, err := api.Explain(cmd.Context(), args[0], profile)
		if err != nil {
			return err
		}
		list := terminal.List{
			Columns: []string{"profile", "occurred_at", "event_type", "rule", "points", "counted", "now", "evidence", "event_id"},
			Rows:    [][]any{},
		}
		for _, p := range found.Profiles {
			if format == terminal.Table {
				fmt.Fprintln(cmd.OutOrStdout(), stands(found.Address, p.Standing))
			}
			for _, one := range p.Contributions {
				list.Rows = append(list.Rows, []any{
					p.Profile, one.OccurredAt, string(one.EventType), one.Rule, one.Points, one.Counted,
					scoreCell(format, one.Now), strings.Join(one.Evidence, " "), one.EventID.String(),
				})
			}
		}
		return writeFound(cmd.OutOrStdout(), format, list)
	})
}

func profileFlag(cmd *cobra.Command, profile *string) {
	cmd.Flags().StringVar(profile, "profile", "", "only this profile")
}

// stands is a standing as a sentence.
func stands(address string, s leadapi.Standing) string {
	stage := "in no stage"
	if s.Stage != "" {
		stage = s.Stage
	}
	return fmt.Sprintf("%s has %s points in profile %s: %s", terminal.Text(address), points(s.Score), s.Profile, stage)
}

// writeFound writes a table only where there is something in it, and without the
// columns that nothing is in.
func writeFound(out io.Writer, format terminal.Format, list terminal.List) error {
	if format != terminal.Table {
		return terminal.Write(out, format, list)
	}
	if len(list.Rows) == 0 {
		return nil
	}
	return writePeople(out, list.Columns, list.Rows)
}

func (l *leads) history() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "history ADDRESS",
		Short: "Show which stages a recipient entered and left",
		Long: "Shows what the contributions that are kept, in the order of their times, did to the stage, and when\n" +
			"points faded below a threshold. It is no log of signals: those were sent when events came.",
		Example: "  mailriver lead history ada@example.com",
		Args:    cobra.ExactArgs(1),
	}
	profileFlag(cmd, &profile)
	return l.asking(cmd, func(cmd *cobra.Command, api *leadapi.Client, args []string, format terminal.Format) error {
		found, err := api.History(cmd.Context(), args[0], profile)
		if err != nil {
			return err
		}
		list := terminal.List{Columns: []string{"at", "profile", "direction", "stage", "score", "event_type", "event_id"}}
		for _, change := range found.Changes {
			id := ""
			if change.EventID != nil {
				id = change.EventID.String()
			}
			list.Rows = append(list.Rows, []any{
				change.At, change.Profile, change.Direction, change.Stage, scoreCell(format, change.Score), change.EventType, id,
			})
		}
		if format == terminal.Table && len(list.Rows) == 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "%s was in no stage\n", terminal.Text(found.Address))
		}
		return writeFound(cmd.OutOrStdout(), format, list)
	})
}

func (l *leads) rules() *cobra.Command {
	cmd := l.asking(&cobra.Command{
		Use:   "rules",
		Short: "Show the rules in force",
		Long: "Shows the rules that the service scores by. JSON has all of them with their stages; CSV has the rules,\n" +
			"one on each line.",
		Example: "  mailriver lead rules\n  mailriver lead rules --output json",
		Args:    cobra.NoArgs,
	}, func(cmd *cobra.Command, api *leadapi.Client, _ []string, format terminal.Format) error {
		found, err := api.Rules(cmd.Context())
		if err != nil {
			return err
		}
		return writeRules(cmd.OutOrStdout(), format, found)
	})
	cmd.AddCommand(l.test())
	return cmd
}

func writeRules(out io.Writer, format terminal.Format, found leadapi.Rules) error {
	if format == terminal.JSON {
		return writeIndented(out, found)
	}
	rules := terminal.List{Columns: []string{"profile", "half_life", "rule", "points", "cap_points", "cap_window", "when"}, Wrap: []string{"when"}}
	stages := terminal.List{Columns: []string{"profile", "stage", "enter", "leave"}}
	for _, p := range found.Profiles {
		for _, r := range p.Rules {
			var capPoints, capWindow any
			if r.Cap != nil {
				capPoints, capWindow = r.Cap.Points, r.Cap.Window
			}
			rules.Rows = append(rules.Rows, []any{p.Name, p.HalfLife, r.Name, r.Points, capPoints, capWindow, r.When})
		}
		for _, s := range p.Stages {
			stages.Rows = append(stages.Rows, []any{p.Name, s.Name, s.Enter, s.Leave})
		}
	}
	if err := terminal.Write(out, format, rules); err != nil || format == terminal.CSV {
		return err
	}
	fmt.Fprintln(out)
	if err := terminal.Write(out, format, stages); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nfingerprint %s\n", found.Fingerprint)
	return err
}

func writeIndented(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
