package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/config"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/client"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

func (c *command) suppress() *cobra.Command {
	s := &suppress{command: c}
	cmd := &cobra.Command{
		Use:   "suppress",
		Short: "Ask and change the list of who must not be mailed",
		Long: "Asks the suppression API, and changes the list through it. Where the API is, and the key for it, is in\n" +
			"the section suppression_client of the configuration; the key may also be in the variable\n" +
			"MAILRIVER_SUPPRESSION_CLIENT_KEY. A service that listens on this machine only needs no key.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&s.url, "url", "", "base URL of the suppression API (default: suppression_client.url)")
	cmd.AddCommand(s.check(), s.explain(), s.list(), s.add(), s.lift(), s.importFile(), s.export(), s.sync())
	return cmd
}

// suppress is what its subcommands share.
type suppress struct {
	*command
	url string
}

// apply puts the flags over the configuration.
func (s *suppress) apply(cfg *assembly.Config) error {
	if s.url == "" {
		return nil
	}
	cfg.SuppressionClient.URL = s.url
	return cfg.SuppressionClient.Validate()
}

// with opens a client and calls f with it. What went wrong is told with what can
// be done about it.
func (s *suppress) with(cmd *cobra.Command, f func(*client.Client) error) error {
	cfg, err := s.load()
	if err != nil {
		return err
	}
	if err := s.apply(&cfg); err != nil {
		return usageError{cmd.CommandPath(), err}
	}
	api, err := assembly.SuppressionClient(cfg)
	if err != nil {
		return err
	}
	return suppressionAPI.advised(cmd, cfg.SuppressionClient, f(api))
}

// mailFlags are the mail that a question is about.
func mailFlags(cmd *cobra.Command, m *client.Mail) {
	cmd.Flags().StringVar(&m.Stream, "stream", "", "about mail of this stream: what was opted out of only there counts, too")
	scopeFlags(cmd, &m.ScopeKind, &m.ScopeID, "about mail of this scope")
}

func scopeFlags(cmd *cobra.Command, kind, id *string, about string) {
	kinds, _ := event.Vocabulary("scope_kind")
	cmd.Flags().StringVar(kind, "scope-kind", "", about+": "+strings.Join(kinds, ", "))
	cmd.Flags().StringVar(id, "scope-id", "", "which list, stream, group, ...")
}

func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVar(output, "output", "table", "table, json or csv")
}

// checkScope reports words that are none, before anything is asked.
func checkScope(kind, id string) error {
	kinds, _ := event.Vocabulary("scope_kind")
	var problems config.Problems
	problems.Must(kind == "" || slices.Contains(kinds, kind), "scope-kind: is %q, must be one of %s", kind, strings.Join(kinds, ", "))
	problems.Must(id == "" || kind != "", "scope-id: needs --scope-kind")
	return problems.Err()
}

func checkReason(reason string) error {
	if _, ok := suppression.ParseReason(reason); !ok && reason != "" {
		return fmt.Errorf("reason: is %q, must be one of %v", reason, suppression.Reasons())
	}
	return nil
}

// scopeText is a scope for people.
func scopeText(kind, id string) string {
	if kind == event.ScopeAddress {
		return "all mail"
	}
	return strings.TrimSpace(kind + " " + id)
}

// providerText is a provider, and which source of it.
func providerText(provider, source string) string {
	if source == "" || source == provider {
		return provider
	}
	return provider + "/" + source
}

// entryColumns are the names of what entryCells returns, for programs.
func entryColumns() []string {
	return []string{"reason", "scope_kind", "scope_id", "since", "expires_at", "provider", "source", "note", "event_id"}
}

func entryCells(e suppression.Entry) []any {
	return []any{string(e.Reason), e.ScopeKind, e.ScopeID, e.Since, e.ExpiresAt, e.Provider, e.Source, e.Note, e.EventID}
}

// peopleColumns are the names of what peopleCells returns. What is looked for
// first stands first: a terminal may cut the last.
func peopleColumns() []string {
	return []string{"reason", "scope", "since", "expires_at", "provider", "note"}
}

func peopleCells(e suppression.Entry) []any {
	return []any{string(e.Reason), scopeText(e.ScopeKind, e.ScopeID), e.Since, e.ExpiresAt, providerText(e.Provider, e.Source), e.Note}
}

// writePeople writes a table without the columns that nothing is in.
func writePeople(out io.Writer, list terminal.List) error {
	full := terminal.List{Rows: make([][]any, len(list.Rows)), Wrap: list.Wrap, Spare: list.Spare}
	for i, name := range list.Columns {
		if len(list.Rows) > 0 && !slices.ContainsFunc(list.Rows, func(row []any) bool { return terminal.Text(row[i]) != "" }) {
			continue
		}
		full.Columns = append(full.Columns, name)
		for n, row := range list.Rows {
			full.Rows[n] = append(full.Rows[n], row[i])
		}
	}
	return terminal.Write(out, terminal.Table, full)
}

// writeEntries writes entries of one address.
func writeEntries(out io.Writer, entries []suppression.Entry) error {
	rows := make([][]any, len(entries))
	for i, e := range entries {
		rows[i] = peopleCells(e)
	}
	return writePeople(out, terminal.List{Columns: peopleColumns(), Rows: rows, Wrap: []string{"note"}})
}

// verdict is one line about an address.
func verdict(a client.Answer) string {
	text := "is not suppressed"
	if a.Suppressed {
		text = "is suppressed"
	}
	if !a.AsOf.IsZero() {
		text += " (as of " + a.AsOf.UTC().Format(time.RFC3339) + ")"
	}
	return terminal.Text(a.Address) + " " + text
}
