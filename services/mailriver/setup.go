package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/config"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

func (c *command) setup() *cobra.Command {
	var output string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Create topics, register schemas and migrate ClickHouse",
		Long: "Creates the topics that are missing, registers the schema, and applies the ClickHouse migrations\n" +
			"that are pending. What exists is left as it is, so it may run at any time and any number of times.\n" +
			"Services refuse to start while it has something to do.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			format, err := terminal.ParseFormat(output)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			process, err := c.open(cmd, "cli")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(cmd.Context()))) }()
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			list := terminal.List{Columns: []string{"what", "name", "state"}}
			progress := terminal.NewProgress(cmd.ErrOrStderr(), -1, "setup", "steps")
			err = assembly.Setup(ctx, process, func(s assembly.Step) {
				progress.Add(1)
				list.Rows = append(list.Rows, []any{s.What, s.Name, s.Done})
			})
			progress.Done()
			// What was done is worth knowing when the rest failed, too.
			return errors.Join(err, terminal.Write(cmd.OutOrStdout(), format, list))
		},
	}
	cmd.Flags().StringVar(&output, "output", "table", "table, json or csv")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "give up after this long")
	return cmd
}

func (c *command) config() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Check or print the configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "check", Short: "Report everything that is wrong with the configuration", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := c.load()
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "configuration is valid: %d sources\n", len(cfg.Sources))
				return err
			},
		},
		&cobra.Command{
			Use: "print", Short: "Print the effective configuration as YAML, secrets redacted", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := c.load()
				if err != nil {
					return err
				}
				text, err := config.Print(cfg)
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(text)
				return err
			},
		},
	)
	return cmd
}
