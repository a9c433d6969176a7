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
		return terminal.Number(points(score))
	}
	return score
}

// countedText is what a rule gave, for people: of what, where it is not all.
func countedText(one leadapi.Contribution) terminal.Number {
	if one.Counted == one.Points {
		return terminal.Number(fmt.Sprint(one.Points))
	}
	return terminal.Number(fmt.Sprintf("%v of %v", one.Counted, one.Points))
}

// shorter is a duration without the minutes and seconds that it has not.
func shorter(duration string) string {
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(duration, zero) {
			duration = duration[:len(duration)-2]
		}
	}
	return duration
}

// words are several texts in one cell: a list in JSON.
type words []string

func (w words) String() string { return strings.Join(w, " ") }

// MarshalJSON writes no words as [].
func (w words) MarshalJSON() ([]byte, error) { return json.Marshal(append([]string{}, w...)) }

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
		return writeLead(cmd.OutOrStdout(), format, found)
	})
}

func writeLead(out io.Writer, format terminal.Format, found leadapi.Lead) error {
	list := terminal.List{Columns: []string{"address", "profile", "score", "stage", "updated_at", "segments", "as_of"}}
	if format == terminal.Table {
		list = terminal.List{Columns: []string{"profile", "score", "stage", "updated_at"}, Wrap: []string{"profile", "stage"}}
		fmt.Fprintln(out, heading(found.Address, found.AsOf))
	}
	for _, s := range found.Profiles {
		row := []any{s.Profile, scoreCell(format, s.Score), s.Stage, moment(s.UpdatedAt)}
		if format != terminal.Table {
			row = append(append([]any{found.Address}, row...), words(found.Segments), found.AsOf)
		}
		list.Rows = append(list.Rows, row)
	}
	if err := terminal.Write(out, format, list); err != nil || format != terminal.Table || len(found.Segments) == 0 {
		return err
	}
	_, err := fmt.Fprintln(out, "in the segments", terminal.Text(strings.Join(found.Segments, ", ")))
	return err
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
		if format == terminal.Table && len(found) == 0 {
			fmt.Fprintln(cmd.OutOrStdout(), nobody(profile, stage))
			return nil
		}
		list := terminal.List{Columns: []string{"address", "profile", "score", "stage", "updated_at"}, Wrap: []string{"address"}, Spare: []string{"profile"}}
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

// nobody says that a list of leads is empty.
func nobody(profile, stage string) string {
	text := "nobody has points"
	if stage != "" {
		text = "nobody is in stage " + terminal.Text(stage)
	}
	if profile != "" {
		text += " in profile " + terminal.Text(profile)
	}
	return text
}

func (l *leads) explain() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "explain ADDRESS",
		Short: "Show what a score is made of: each contribution, its event and what is left of it",
		Long: "Shows every contribution that is kept. Points are what the rule gives, or what caps and machines left of\n" +
			"them; now is what is left today. Evidence says why an event is taken for a machine's. JSON and CSV have the\n" +
			"id of each event.",
		Example: "  mailriver lead explain ada@example.com --profile marketing",
		Args:    cobra.ExactArgs(1),
	}
	profileFlag(cmd, &profile)
	return l.asking(cmd, func(cmd *cobra.Command, api *leadapi.Client, args []string, format terminal.Format) error {
		found, err := api.Explain(cmd.Context(), args[0], profile)
		if err != nil {
			return err
		}
		return writeExplained(cmd.OutOrStdout(), format, found)
	})
}

func writeExplained(out io.Writer, format terminal.Format, found leadapi.Explanation) error {
	if format == terminal.Table {
		return explainToPeople(out, found)
	}
	list := terminal.List{Columns: []string{"profile", "occurred_at", "event_type", "rule", "points", "counted", "now", "evidence", "event_id"}}
	for _, p := range found.Profiles {
		for _, one := range p.Contributions {
			list.Rows = append(list.Rows, []any{
				p.Profile, one.OccurredAt, string(one.EventType), one.Rule, one.Points, one.Counted, one.Now, words(one.Evidence), one.EventID.String(),
			})
		}
	}
	return terminal.Write(out, format, list)
}

// explainToPeople writes a table for each profile.
func explainToPeople(out io.Writer, found leadapi.Explanation) error {
	fmt.Fprintln(out, heading(found.Address, found.AsOf))
	for _, p := range found.Profiles {
		fmt.Fprintf(out, "\n%s\n", stands(p))
		if len(p.Contributions) == 0 {
			continue
		}
		list := terminal.List{
			Columns: []string{"occurred_at", "event", "rule", "points", "now", "evidence"},
			Wrap:    []string{"rule", "evidence"},
		}
		for _, one := range p.Contributions {
			list.Rows = append(list.Rows, []any{
				one.OccurredAt, string(one.EventType), one.Rule, countedText(one), scoreCell(terminal.Table, one.Now), words(one.Evidence),
			})
		}
		if err := writePeople(out, list); err != nil {
			return err
		}
	}
	return nil
}

func profileFlag(cmd *cobra.Command, profile *string) {
	cmd.Flags().StringVar(profile, "profile", "", "only this profile")
}

// heading is above what is told about one address.
func heading(address string, asOf time.Time) string {
	return terminal.Text(address) + ", as of " + terminal.Text(asOf)
}

// stands is a standing as a line.
func stands(s leadapi.ExplainedStanding) string {
	stage := "in no stage"
	if s.Stage != "" {
		stage = "in stage " + s.Stage
	}
	return terminal.Text(fmt.Sprintf("profile %s, half-life %s: %s points, %s", s.Profile, shorter(s.HalfLife), points(s.Score), stage))
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
		list := terminal.List{
			Columns: []string{"at", "profile", "direction", "stage", "score", "event_type", "event_id"},
			Wrap:    []string{"profile", "stage"},
			Spare:   []string{"event_id"},
		}
		for _, change := range found.Changes {
			id, kind := "", change.EventType
			switch {
			case change.EventID != nil:
				id = change.EventID.String()
			case format == terminal.Table:
				kind = "(faded)"
			}
			list.Rows = append(list.Rows, []any{
				change.At, change.Profile, change.Direction, change.Stage, scoreCell(format, change.Score), kind, id,
			})
		}
		if format == terminal.Table && len(list.Rows) == 0 {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s was in no stage\n", terminal.Text(found.Address))
			return err
		}
		if format == terminal.Table {
			return writePeople(cmd.OutOrStdout(), list)
		}
		return terminal.Write(cmd.OutOrStdout(), format, list)
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
	switch format {
	case terminal.JSON:
		return writeIndented(out, found)
	case terminal.Table:
		return rulesToPeople(out, found)
	}
	list := terminal.List{Columns: []string{"profile", "half_life", "rule", "points", "cap_points", "cap_window", "when"}}
	for _, p := range found.Profiles {
		for _, r := range p.Rules {
			var capPoints, capWindow any
			if r.Cap != nil {
				capPoints, capWindow = r.Cap.Points, r.Cap.Window
			}
			list.Rows = append(list.Rows, []any{p.Name, p.HalfLife, r.Name, r.Points, capPoints, capWindow, r.When})
		}
	}
	return terminal.Write(out, format, list)
}

// rulesToPeople writes a table of rules and one of stages for each profile.
func rulesToPeople(out io.Writer, found leadapi.Rules) error {
	for _, p := range found.Profiles {
		rules := terminal.List{Columns: []string{"rule", "points", "cap", "when"}, Wrap: []string{"rule", "cap", "when"}}
		for _, r := range p.Rules {
			most := ""
			if r.Cap != nil {
				most = fmt.Sprintf("%v in %s", r.Cap.Points, shorter(r.Cap.Window))
			}
			rules.Rows = append(rules.Rows, []any{r.Name, r.Points, most, r.When})
		}
		fmt.Fprintln(out, terminal.Text(fmt.Sprintf("profile %s, half-life %s", p.Name, shorter(p.HalfLife))))
		if err := writePeople(out, rules); err != nil {
			return err
		}
		stages := terminal.List{Columns: []string{"stage", "enter", "leave"}}
		for _, s := range p.Stages {
			stages.Rows = append(stages.Rows, []any{s.Name, s.Enter, s.Leave})
		}
		fmt.Fprintln(out)
		if err := terminal.Write(out, terminal.Table, stages); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	_, err := fmt.Fprintf(out, "fingerprint %s\n", found.Fingerprint)
	return err
}

func writeIndented(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
