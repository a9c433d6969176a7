// Command mailriver-allinone runs Mailriver with everything it needs in one
// process tree: an embedded Kafka, a schema registry, the ClickHouse engine in a
// child process, and every service. It is for trying, developing and testing.
//
// It supplies addresses and nothing else: the services are those of the
// production binary, by the same configuration, over the same protocols.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"mailriver/pkg/embedded"
	"mailriver/services/assembly"
)

// version is set by the linker; see Makefile.
var version = "dev" //nolint:gochecknoglobals // -ldflags -X needs a variable

func main() {
	embedded.RunChildIfAsked()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(allinone(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// allinone is main with its surroundings passed in. It returns the exit status:
// 0 done, 1 failed, 2 wrong usage or configuration.
func allinone(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	root := command(environ)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "mailriver-allinone:", err)
	if errors.Is(err, errUsage) || errors.Is(err, assembly.ErrConfig) {
		return 2
	}
	return 1
}

var errUsage = errors.New("usage")

func command(environ []string) *cobra.Command {
	var configFile, dataDir string
	root := &cobra.Command{
		Use:           "mailriver-allinone",
		Short:         "Mailriver with an embedded Kafka, schema registry and ClickHouse engine",
		Args:          noArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, file, err := loadConfig(configFile, dataDir, cmd.Flags().Changed("data-dir"), environ)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, options{
				library: lookup(environ, "MAILRIVER_CHDB_LIBRARY"), logs: cmd.ErrOrStderr(),
				started: func(s started) {
					s.file, s.command = file, sibling()
					banner(cmd.OutOrStdout(), s)
				},
			})
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	root.Flags().StringVar(&configFile, "config", lookup(environ, "MAILRIVER_CONFIG"),
		"configuration file (default: mailriver.yaml here, else one with simulated sources in the data folder)")
	root.Flags().StringVar(&dataDir, "data-dir", "data", "folder of everything that is kept")
	root.AddCommand(demoCommand(environ))
	return root
}

// noArgs is cobra.NoArgs with the exit status of wrong usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: %s takes no arguments, got %q: see --help", errUsage, cmd.CommandPath(), args[0])
	}
	return nil
}

// sibling is `mailriver` beside this program, as one would type it.
func sibling() string {
	const name = "mailriver"
	self, err := os.Executable()
	if err != nil {
		return name
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return name
	}
	return shorter(path)
}

// shorter is the path from here, for what is below.
func shorter(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if relative, err := filepath.Rel(here, path); err == nil && filepath.IsLocal(relative) {
		return relative
	}
	return path
}

// loadConfig reads the configuration, and returns its file, too. Without one it
// makes one in the data folder, with a source for each provider that can be
// simulated.
func loadConfig(file, dataDir string, dirGiven bool, environ []string) (cfg assembly.Config, path string, err error) {
	if file == "" {
		if _, err := os.Stat(assembly.DefaultFile); err == nil {
			file = assembly.DefaultFile
		} else if file, err = firstConfig(dataDir, defaultReceiver, defaultCertHost); err != nil {
			return cfg, file, err
		}
	}
	if cfg, err = assembly.Load(file, environ); err != nil {
		return cfg, file, err
	}
	if dirGiven || cfg.DataDir == assembly.DefaultConfig().DataDir {
		cfg.DataDir = dataDir
	}
	cfg.DataDir, err = filepath.Abs(cfg.DataDir)
	return cfg, file, err
}

func lookup(environ []string, name string) string {
	for _, entry := range environ {
		if len(entry) > len(name) && entry[:len(name)] == name && entry[len(name)] == '=' {
			return entry[len(name)+1:]
		}
	}
	return ""
}
