package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/client"
	"mailriver/pkg/terminal"
)

func (s *suppress) add() *cobra.Command {
	var (
		change                  client.Change
		reason, expires, output string
	)
	cmd := &cobra.Command{
		Use:   "add ADDRESS",
		Short: "Put an address on the list",
		Long: "Puts an address on the list: for all mail to it, or for one scope. The change goes through Kafka as\n" +
			"every event, so it is in the history and survives a replay; the answer is given when the list has it.",
		Example: "  mailriver suppress add ann@example.com --note \"asked by phone\"\n" +
			"  mailriver suppress add ann@example.com --reason unsubscribe --scope-kind stream --scope-id newsletter\n" +
			"  mailriver suppress add ann@example.com --expires 720h",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := terminal.ParseFormat(output)
			if err == nil {
				err = checkScope(change.ScopeKind, change.ScopeID)
			}
			if err == nil {
				err = checkReason(reason)
			}
			if err == nil {
				change.ExpiresAt, err = expiry(expires, time.Now())
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			change.Reason = suppression.Reason(reason)
			return s.with(cmd, func(api *client.Client) error {
				a, err := api.Add(cmd.Context(), args[0], change)
				if err != nil {
					return err
				}
				return writeChanged(cmd, format, a)
			})
		},
	}
	scopeFlags(cmd, &change.ScopeKind, &change.ScopeID, "where it must not be mailed (default address, all mail)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, such as complaint or unsubscribe (default manual)")
	cmd.Flags().StringVar(&change.Note, "note", "", "for people who will ask why")
	cmd.Flags().StringVar(&expires, "expires", "", "when it ends: a duration from now (720h) or a time (RFC 3339); default never")
	outputFlag(cmd, &output)
	return cmd
}

func expiry(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, span, err := timeOrSpan(text)
	if err != nil {
		return at, fmt.Errorf("expires: is %q, must be a duration such as 720h, or a time such as 2027-01-01T00:00:00Z", text)
	}
	if at.IsZero() {
		at = now.Add(span)
	}
	if !at.After(now) {
		return at, fmt.Errorf("expires: is %q, which is past", text)
	}
	return at, nil
}

func (s *suppress) lift() *cobra.Command {
	var kind, id, note, output string
	cmd := &cobra.Command{
		Use:   "lift ADDRESS",
		Short: "Take an address off the list",
		Long: "Takes an address off the list in one scope: every reason that it has there up to now. What happens later\n" +
			"suppresses it again. What is left in other scopes is shown.\n\n" +
			"A provider that has the address on a list of its own still refuses it, and its next refusal brings the\n" +
			"entry back: take the address off there first.",
		Example: "  mailriver suppress lift ann@example.com --note \"mailbox is back\"\n" +
			"  mailriver suppress lift ann@example.com --scope-kind stream --scope-id newsletter",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := terminal.ParseFormat(output)
			if err == nil {
				err = checkScope(kind, id)
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return s.with(cmd, func(api *client.Client) error {
				a, err := api.Lift(cmd.Context(), args[0], kind, id, note)
				if err != nil {
					return err
				}
				return writeChanged(cmd, format, a)
			})
		},
	}
	scopeFlags(cmd, &kind, &id, "the scope that is lifted (default address, all mail)")
	cmd.Flags().StringVar(&note, "note", "", "for people who will ask why")
	outputFlag(cmd, &output)
	return cmd
}

// writeChanged shows how the list is behind a change.
func writeChanged(cmd *cobra.Command, format terminal.Format, a client.Answer) error {
	if a.Pending {
		fmt.Fprintln(cmd.ErrOrStderr(), "the change is in Kafka, and will be in the list as soon as the services have got to it; this is how it is now:")
	}
	out := cmd.OutOrStdout()
	switch format {
	case terminal.JSON:
		return writeObject(out, a)
	case terminal.CSV:
		list := terminal.List{Columns: append([]string{"address"}, entryColumns()...)}
		for _, e := range a.Entries {
			list.Rows = append(list.Rows, append([]any{a.Address}, entryCells(e)...))
		}
		return terminal.Write(out, format, list)
	}
	fmt.Fprintln(out, verdict(a))
	if len(a.Entries) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	return writeEntries(out, a.Entries)
}
