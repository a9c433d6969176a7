package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mailriver/pkg/address"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

func (l *leads) deliveries() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deliveries",
		Short: "List what became of signals at webhooks, and send them again",
		Long: "Reads the topic of deliveries itself, so it needs Kafka, and neither the API nor a running service. What is\n" +
			"retried is sent by the lead scoring service.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(l.deliveriesList(), l.deliveriesRetry())
	return cmd
}

// withDeliveries opens a process and calls f with it.
func (l *leads) withDeliveries(cmd *cobra.Command, f func(*assembly.Process) error) (err error) {
	process, err := l.open(cmd, "cli")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(cmd.Context()))) }()
	return f(process)
}

func (l *leads) deliveriesList() *cobra.Command {
	var filter assembly.DeliveryFilter
	var states []string
	var recipient, output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List deliveries, the one that changed last first",
		Example: "  mailriver lead deliveries list --state pending,dead\n" +
			"  mailriver lead deliveries list --webhook crm --output json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			usage := func(format string, args ...any) error {
				return usageError{cmd.CommandPath(), fmt.Errorf(format, args...)}
			}
			format, err := terminal.ParseFormat(output)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			if filter.Limit < 0 {
				return usage("limit: is %d, must not be negative", filter.Limit)
			}
			if recipient != "" {
				a, ok := address.Normalize(recipient)
				if !ok {
					return usage("recipient: is %.80q, must be local-part@domain", recipient)
				}
				filter.Recipient = a.Full
			}
			known := []string{"pending", "delivered", "dead", "skipped"}
			filter.States = nil
			for _, s := range states {
				if !slices.Contains(known, s) {
					return usage("state: is %q, must be one of %s", s, strings.Join(known, ", "))
				}
				filter.States = append(filter.States, assembly.DeliveryState(s))
			}
			return l.withDeliveries(cmd, func(p *assembly.Process) error {
				progress := terminal.NewProgress(cmd.ErrOrStderr(), -1, "reading", "deliveries")
				found, more, err := assembly.DeliveryBook(p).List(cmd.Context(), filter)
				progress.Done()
				if err != nil {
					return err
				}
				if format == terminal.Table && len(found) == 0 {
					_, err := fmt.Fprintln(cmd.OutOrStdout(), "there are no such deliveries")
					return err
				}
				list := terminal.List{
					Columns: []string{
						"delivery", "state", "recipient", "profile", "stage", "direction", "attempts", "updated_at", "next_at", "status", "problem",
					},
					Wrap: []string{"recipient", "problem"},
					// What a person needs to retry one, and to know why, stays longest.
					Spare: []string{"next_at", "status", "direction", "profile", "updated_at", "attempts", "stage", "recipient", "problem"},
				}
				for i := range found {
					d := &found[i]
					var next any
					if !d.NextAt.IsZero() {
						next = d.NextAt
					}
					list.Rows = append(list.Rows, []any{
						d.ID(), string(d.State), d.Signal.Recipient, d.Signal.Profile, d.Signal.Stage, d.Signal.Direction,
						d.Attempts, d.UpdatedAt, next, d.Status, d.Problem,
					})
				}
				if more {
					fmt.Fprintf(cmd.ErrOrStderr(), "there are more than %d: narrow the filter or raise --limit\n", filter.Limit)
				}
				return terminal.Write(cmd.OutOrStdout(), format, list)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&states, "state", nil, "only these states: pending, delivered, dead, skipped")
	flags.StringSliceVar(&filter.Endpoints, "webhook", nil, "only these webhooks")
	flags.StringSliceVar(&filter.Profiles, "profile", nil, "only signals of these profiles")
	flags.StringVar(&recipient, "recipient", "", "only signals about this recipient")
	flags.IntVar(&filter.Limit, "limit", 100, "at most this many (0: all)")
	outputFlag(cmd, &output)
	return cmd
}

func (l *leads) deliveriesRetry() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "retry DELIVERY...",
		Short: "Have deliveries tried again now",
		Long: "Has each delivery sent again, from its first attempt: one that was given up, one that waits, or one whose\n" +
			"endpoint wanted nothing any more. What was delivered is left alone. The receiver knows a message that it\n" +
			"has by its webhook-id.",
		Example: "  mailriver lead deliveries retry 0195c1b2-7b7e-8c3a-9d53-1c6f6a2b4e11:crm",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := terminal.ParseFormat(output)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return l.withDeliveries(cmd, func(p *assembly.Process) error {
				list := terminal.List{Columns: []string{"delivery", "state", "error"}, Wrap: []string{"error"}}
				failed := 0
				for _, id := range args {
					d, err := assembly.DeliveryBook(p).Retry(cmd.Context(), id)
					if err != nil {
						failed++
						list.Rows = append(list.Rows, []any{id, nil, err.Error()})
						continue
					}
					list.Rows = append(list.Rows, []any{d.ID(), string(d.State), nil})
				}
				if err := terminal.Write(cmd.OutOrStdout(), format, list); err != nil || failed == 0 {
					return err
				}
				return fmt.Errorf("%d of %d are not retried", failed, len(args))
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}
