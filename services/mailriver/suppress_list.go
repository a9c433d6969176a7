package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/client"
	"mailriver/pkg/terminal"
)

// listFilter is a part of the list as flags.
type listFilter struct {
	filter client.Filter
	since  string
}

func (f *listFilter) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.filter.Reason, "reason", "", "only entries of this reason, such as complaint")
	scopeFlags(cmd, &f.filter.ScopeKind, &f.filter.ScopeID, "only entries of this scope")
	flags.StringVar(&f.filter.Domain, "domain", "", "only addresses of this domain")
	flags.StringVar(&f.since, "since", "", "only entries from then on: a duration ago (24h) or a time (RFC 3339)")
}

func (f *listFilter) resolve(now time.Time) (client.Filter, error) {
	out := f.filter
	if err := checkReason(out.Reason); err != nil {
		return out, err
	}
	if err := checkScope(out.ScopeKind, out.ScopeID); err != nil {
		return out, err
	}
	if f.since == "" {
		return out, nil
	}
	var ago time.Duration
	var err error
	if out.Since, ago, err = timeOrSpan(f.since); err != nil || ago < 0 {
		return out, fmt.Errorf("since: is %q, must be a duration ago such as 24h, or a time such as 2026-11-23T12:00:00Z", f.since)
	}
	if ago > 0 {
		out.Since = now.Add(-ago)
	}
	return out, nil
}

// timeOrSpan reads a time, or a duration from now.
func timeOrSpan(text string) (at time.Time, span time.Duration, err error) {
	if at, err = time.Parse(time.RFC3339Nano, text); err == nil {
		return at, 0, nil
	}
	span, err = time.ParseDuration(text)
	return time.Time{}, span, err
}

// maxList is how many entries list shows; export has no bound.
const maxList = 10_000

func (s *suppress) list() *cobra.Command {
	var (
		f      listFilter
		limit  int
		output string
	)
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List entries in force, by address",
		Long:    "Lists entries in force, in the order of their addresses. For all of a long list, use export.",
		Example: "  mailriver suppress list --reason complaint --since 24h\n  mailriver suppress list --domain example.com --limit 1000 --output csv",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := terminal.ParseFormat(output)
			var filter client.Filter
			if err == nil {
				filter, err = f.resolve(time.Now())
			}
			if err == nil && (limit < 1 || limit > maxList) {
				err = fmt.Errorf("limit: is %d, must be 1 to %d; export has no bound", limit, maxList)
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return s.with(cmd, func(api *client.Client) error {
				entries, more, err := api.List(cmd.Context(), filter, limit)
				if err != nil {
					return err
				}
				if more {
					fmt.Fprintf(cmd.ErrOrStderr(), "there are more than %d: narrow the filter, raise --limit, or use export\n", limit)
				}
				if format == terminal.JSON {
					return writeObject(cmd.OutOrStdout(), append([]suppression.Entry{}, entries...))
				}
				columns, cells := entryColumns(), entryCells
				if format == terminal.Table {
					columns, cells = peopleColumns(), peopleCells
				}
				columns = append([]string{"address"}, columns...)
				var rows [][]any
				for _, e := range entries {
					rows = append(rows, append([]any{e.Address}, cells(e)...))
				}
				if format == terminal.Table {
					return writePeople(cmd.OutOrStdout(), terminal.List{Columns: columns, Rows: rows, Wrap: []string{"note"}})
				}
				return terminal.Write(cmd.OutOrStdout(), format, terminal.List{Columns: columns, Rows: rows})
			})
		},
	}
	f.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 100, "at most this many entries")
	outputFlag(cmd, &output)
	return cmd
}

// writeObject writes JSON for programs and people.
func writeObject(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

func (s *suppress) explain() *cobra.Command {
	var (
		mail   client.Mail
		output string
	)
	cmd := &cobra.Command{
		Use:   "explain ADDRESS",
		Short: "Say why an address is suppressed, or is not",
		Long: "Shows every event that is known about an address, oldest first: what it says, and what the policy made\n" +
			"of it. JSON has the identities of the events, too; `mailriver tail` and the table of events know them.",
		Example: "  mailriver suppress explain ann@example.com\n" +
			"  mailriver suppress explain ann@example.com --stream newsletter --output json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := terminal.ParseFormat(output)
			if err == nil {
				err = checkScope(mail.ScopeKind, mail.ScopeID)
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return s.with(cmd, func(api *client.Client) error {
				e, err := api.Explain(cmd.Context(), args[0], mail)
				if err != nil {
					return err
				}
				return writeExplanation(cmd.OutOrStdout(), format, e)
			})
		},
	}
	mailFlags(cmd, &mail)
	outputFlag(cmd, &output)
	return cmd
}

func writeExplanation(out io.Writer, format terminal.Format, e client.Explanation) error {
	if format == terminal.JSON {
		return writeObject(out, e)
	}
	type told struct {
		client.Fact
		scope string
	}
	var facts []told
	for _, scope := range e.Scopes {
		for _, f := range scope.Facts {
			facts = append(facts, told{f, scopeText(scope.ScopeKind, scope.ScopeID)})
		}
	}
	slices.SortStableFunc(facts, func(a, b told) int { return a.OccurredAt.Compare(b.OccurredAt) })
	if format == terminal.CSV {
		list := terminal.List{Columns: []string{
			"occurred_at", "event_type", "provider", "source", "scope", "effect", "reason", "detail", "actor", "counts", "because", "event_id",
		}}
		for _, f := range facts {
			list.Rows = append(list.Rows, []any{
				f.OccurredAt, f.EventType, f.Provider, f.Source, f.scope, f.Effect, string(f.Reason), f.Detail, f.Actor, f.Counts, f.Because, f.EventID,
			})
		}
		return terminal.Write(out, format, list)
	}
	fmt.Fprintln(out, verdict(e.Answer))
	if len(e.Entries) > 0 {
		fmt.Fprintln(out)
		if err := writeEntries(out, e.Entries); err != nil {
			return err
		}
	}
	if len(facts) == 0 {
		fmt.Fprintln(out, "Nothing is known about it.")
		return nil
	}
	fmt.Fprintln(out)
	columns := []string{"time", "event", "says", "policy"}
	list := terminal.List{Columns: columns, Wrap: columns}
	for _, f := range facts {
		says := strings.TrimSpace(f.Effect+" "+string(f.Reason)) + " for " + f.scope
		if f.Detail != "" {
			says += ": " + f.Detail
		}
		if f.Actor != "" {
			says += " (by " + f.Actor + ")"
		}
		list.Rows = append(list.Rows, []any{
			f.OccurredAt.UTC().Format(time.DateTime), f.EventType + " " + providerText(f.Provider, f.Source), says, f.Because,
		})
	}
	return terminal.Write(out, terminal.Table, list)
}
