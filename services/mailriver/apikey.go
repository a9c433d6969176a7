package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mailriver/pkg/httpserver/api"
)

func (c *command) apiKey() *cobra.Command {
	cmd := &cobra.Command{
		Use: "api-key", Short: "Make keys for the HTTP APIs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAPIKey())
	return cmd
}

func newAPIKey() *cobra.Command {
	var name string
	var scopes []string
	cmd := &cobra.Command{
		Use:   "new --name NAME",
		Short: "Make a key and print it, once",
		Long: "Makes a key and prints it on the first line. It is stored nowhere: give it to whoever uses it.\n" +
			"The lines after it are what the configuration needs to know it, a hash of it. Put them into the\n" +
			"section of the API (suppression.api) on every machine that serves it, and restart. Several keys are\n" +
			"valid at the same time: to change one, add the new one, give it out, and take the old one away later.",
		Example: "  mailriver api-key new --name crm --scope read\n" +
			"  mailriver api-key new --name preference-center",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				return usageError{cmd.CommandPath(), errors.New("name: is missing: changes made with the key are recorded under it")}
			}
			err := api.CheckKeyName(name)
			if len(scopes) == 0 {
				err = errors.Join(err, errors.New("scope: is empty, must be read, write or both"))
			}
			for _, scope := range scopes {
				if !slices.Contains([]api.Scope{api.Read, api.Write}, api.Scope(scope)) {
					err = errors.Join(err, fmt.Errorf("scope: is %q, must be read or write", scope))
				}
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			key, hash := api.GenerateKey()
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n\nkeys:\n  - { name: %q, hash: %q, scopes: [%s] }\n",
				key, name, hash, strings.Join(scopes, ", "))
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "who will use the key")
	cmd.Flags().StringSliceVar(&scopes, "scope", []string{"read", "write"}, "what the key may do: read, write or both")
	return cmd
}
