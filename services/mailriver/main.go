// Command mailriver runs the services of Mailriver and looks after them.
//
// Run `mailriver help` for its commands, or read README.md. It holds no rule of
// any service: it parses arguments, calls package assembly, and prints.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"mailriver/services/assembly"
)

// version is set by the linker; see Makefile.
var version = "" //nolint:gochecknoglobals // -ldflags -X needs a variable

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(mailriver(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// mailriver is main with its surroundings passed in, so that tests call it. It
// returns the exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3
// an address is suppressed (suppress check --fail-if-suppressed).
func mailriver(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &command{environ: environ}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "mailriver:", err)
	if usage, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(stderr, "run `%s --help` for how to use it\n", usage.command)
		return 2
	}
	if errors.Is(err, assembly.ErrConfig) {
		return 2
	}
	if errors.Is(err, errSuppressed) {
		return 3
	}
	return 1
}

// usageError is a mistake in the arguments.
type usageError struct {
	command string
	err     error
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// command is what all subcommands share.
type command struct {
	environ    []string
	configFile string
}

func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "mailriver SERVICE[,SERVICE...]",
		Short: "Receives the event webhooks of email service providers and puts them to work",
		Long: "Receives the event webhooks of email service providers, loses none, makes them one language,\n" +
			"and puts them to work. Name one service or several, separated by commas, to run them.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("takes one list of services, separated by commas without spaces; got %d arguments", len(args))
			}
			return nil
		},
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return c.run(cmd, strings.Split(args[0], ","))
		},
	}
	root.PersistentFlags().StringVar(&c.configFile, "config", c.fromEnv("MAILRIVER_CONFIG"),
		"configuration file (default "+assembly.DefaultFile+", if it exists)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{cmd.CommandPath(), err} })
	services := &cobra.Group{ID: "services", Title: "Services:"}
	operate := &cobra.Group{ID: "operate", Title: "Operation:"}
	root.AddGroup(services, operate)
	for _, s := range assembly.Services() {
		root.AddCommand(&cobra.Command{
			Use: s.Name, Short: capital(s.About), GroupID: services.ID, Args: oneService,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd, []string{s.Name}) },
		})
	}
	for _, sub := range []*cobra.Command{c.setup(), c.config(), c.tail(), c.replay(), c.simulate(), c.audit(), c.dead(), c.suppress(), c.lead(), c.apiKey(), c.unsubscribeLink(), c.version()} {
		sub.GroupID = operate.ID
		root.AddCommand(sub)
	}
	markUsageErrors(root)
	return root
}

// oneService refuses what stands behind the name of a service.
func oneService(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("takes no arguments, got %q: several services are one list, as in %s,%s", args[0], cmd.Name(), args[0])
}

// markUsageErrors makes errors of positional arguments exit with status 2.
func markUsageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		markUsageErrors(sub)
	}
}

func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

func (c *command) fromEnv(name string) string {
	for _, entry := range c.environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// load reads the configuration.
func (c *command) load() (assembly.Config, error) { return assembly.Load(c.configFile, c.environ) }

// open loads the configuration and makes what a process shares.
func (c *command) open(cmd *cobra.Command, name string) (*assembly.Process, error) {
	cfg, err := c.load()
	if err != nil {
		return nil, err
	}
	if name == "cli" && cfg.Telemetry.LogLevel == "info" {
		cfg.Telemetry.LogLevel = "error" // a person reads this terminal
	}
	return assembly.Open(cmd.Context(), cfg, name, buildVersion(), cmd.ErrOrStderr())
}

func (c *command) run(cmd *cobra.Command, names []string) (err error) {
	if err := assembly.CheckNames(names); err != nil {
		return usageError{cmd.Root().CommandPath(), err}
	}
	process, err := c.open(cmd, strings.Join(names, "-"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(cmd.Context()))) }()
	return process.Run(cmd.Context(), names, nil)
}

func (c *command) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this build", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "mailriver", buildVersion())
			return err
		},
	}
}

// buildVersion is the linker's, else the commit that the toolchain recorded.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return s.Value[:12]
			}
		}
	}
	return "dev"
}
