package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/config"
	"mailriver/pkg/run"
	"mailriver/pkg/simulate"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

func (c *command) simulate() *cobra.Command {
	var (
		options     simulate.Options
		sender      simulate.Sender
		keysDir     string
		base        string
		only        []string
		truthFile   string
		ledgerFile  string
		output      string
		concurrency int
	)
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Post signed traffic as the providers do, with a truth file",
		Long: "Posts webhooks to the configured sources: real signatures, each provider's own batching and fields,\n" +
			"redeliveries and disorder. --truth writes one JSON line for each distinct event, with what the\n" +
			"canonical event must say. The same --seed makes the same events.\n\n" +
			"SendGrid's and Amazon's private keys come from --keys; `mailriver simulate keys` makes them, and the\n" +
			"configuration to go with them.",
		Example: "  mailriver simulate --events 1000 --rate 200 --truth truth.jsonl\n" +
			"  mailriver simulate --events 10 --source mailgun",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			format, err := terminal.ParseFormat(output)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			if err := notNegative(options.Events, sender.Rate, sender.Attempts, concurrency); err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			cfg, err := c.load()
			if err != nil {
				return err
			}
			if keysDir == "" {
				keysDir = filepath.Join(cfg.DataDir, "keys")
			}
			keys, err := simulate.LoadKeys(keysDir)
			if err != nil {
				return fmt.Errorf("%w (make them with `mailriver simulate keys --keys %s`)", err, keysDir)
			}
			if base == "" {
				base = assembly.LocalURL(cfg.Receiver.HTTP.Addr)
			}
			sources, err := assembly.SimulatedSources(cfg, keys, base, only)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			if !sender.RetryAll { // with it, one waits for a receiver that is down
				if err := answers(cmd.Context(), base); err != nil {
					return err
				}
			}
			requests, err := simulate.Generate(sources, options)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			requests, closeTruth, err := withTruth(requests, truthFile)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, closeTruth()) }()
			if ledgerFile != "" {
				file, err := os.Create(ledgerFile)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, file.Close()) }()
				sender.Ledger = simulate.NewLedger(file)
			}
			sender.Concurrency = concurrency
			summary, err := send(cmd.Context(), cmd, sender, requests, options.Events, keys, assembly.CertHost(sources))
			if err != nil && summary.Requests == 0 {
				return err
			}
			return errors.Join(err, writeSummary(cmd, format, summary))
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&options.Events, "events", 1000, "distinct events to make")
	flags.Float64Var(&sender.Rate, "rate", 0, "events per second (0: as fast as the answers come)")
	flags.Uint64Var(&options.Seed, "seed", 1, "what is drawn depends on it alone")
	flags.Float64Var(&options.Duplicates, "duplicates", 0.05, "share of requests that are delivered again")
	flags.Float64Var(&options.Reorder, "reorder", 0.1, "share of requests that come late")
	flags.Float64Var(&options.Forgeries, "forgeries", 0, "share of requests that are followed by a forged copy")
	flags.StringVar(&base, "url", "", "base URL of the receiver (default: here, on the port of receiver.addr)")
	flags.StringSliceVar(&only, "source", nil, "only these sources of the configuration")
	flags.StringVar(&keysDir, "keys", "", "folder of the simulator's keys (default data_dir/keys)")
	flags.StringVar(&truthFile, "truth", "", "write one JSON line for each distinct event to this file")
	flags.StringVar(&ledgerFile, "ledger", "", "write the id of each event that was answered 200 to this file")
	flags.BoolVar(&sender.RetryAll, "retry-all", false, "post again also where the provider would give up")
	flags.IntVar(&sender.Attempts, "attempts", 0, "post a request this often at most (0: 8)")
	flags.IntVar(&concurrency, "concurrency", 0, "requests under way at a time (0: 16)")
	flags.StringVar(&output, "output", "table", "table, json or csv")
	cmd.AddCommand(c.simulateKeys())
	return cmd
}

// notNegative reports every number that is.
func notNegative(events int, rate float64, attempts, concurrency int) error {
	var problems config.Problems
	problems.Must(events >= 0, "events: is %d, must not be negative", events)
	problems.Must(rate >= 0, "rate: is %g, must not be negative", rate)
	problems.Must(attempts >= 0, "attempts: is %d, must not be negative", attempts)
	problems.Must(concurrency >= 0, "concurrency: is %d, must not be negative", concurrency)
	return problems.Err()
}

// answers reports a receiver that is not there, at once: without it, each
// request would be tried again for as long as a provider has patience.
func answers(ctx context.Context, base string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, base, nil)
	if err != nil {
		return fmt.Errorf("url: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("nothing answers at %s: start the receiver, or name another with --url", base)
	}
	return resp.Body.Close()
}

// send posts, shows progress, and serves the SNS certificate meanwhile.
func send(ctx context.Context, cmd *cobra.Command, sender simulate.Sender, requests iter.Seq[simulate.Request],
	events int, keys simulate.Keys, certHost string,
) (summary simulate.Summary, err error) {
	progress := terminal.NewProgress(cmd.ErrOrStderr(), int64(events), "posting", "events")
	defer progress.Done()
	sender.OnAnswer = func(r simulate.Request, status int, _ error) {
		if simulate.Judge(r, status) == simulate.Success {
			progress.Add(r.Distinct)
		}
	}
	if certHost == "" {
		return sender.Send(ctx, requests)
	}
	server, err := simulate.OpenCertServer(ctx, keys, certHost)
	if err != nil {
		return summary, err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	err = run.Group(serving, 10*time.Second,
		run.Service{Name: "certificates", Run: server.Run},
		run.Service{Name: "posting", Run: func(ctx context.Context) error {
			var err error
			summary, err = sender.Send(ctx, requests)
			stop()
			return err
		}},
	)
	return summary, err
}

// withTruth passes requests on and writes down what each tells for the first
// time. An empty path writes nothing.
func withTruth(requests iter.Seq[simulate.Request], path string) (iter.Seq[simulate.Request], func() error, error) {
	if path == "" {
		return requests, func() error { return nil }, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, nil, err
	}
	out := bufio.NewWriter(file)
	var writeErr error
	tee := func(yield func(simulate.Request) bool) {
		for r := range requests {
			for _, e := range r.Truth[:r.Distinct] {
				writeErr = errors.Join(writeErr, simulate.WriteTruth(out, e))
			}
			if writeErr != nil || !yield(r) {
				return
			}
		}
	}
	return tee, func() error { return errors.Join(writeErr, out.Flush(), file.Close()) }, nil
}

func writeSummary(cmd *cobra.Command, format terminal.Format, s simulate.Summary) error {
	seconds := s.Duration.Seconds()
	list := terminal.List{Columns: []string{"measure", "value"}, Rows: [][]any{
		{"requests", s.Requests},
		{"accepted", s.Accepted},
		{"events", s.Events},
		{"retries", s.Retries},
		{"given_up", s.GivenUp},
		{"forgeries_refused", s.Refused},
		{"forgeries_accepted", s.Slipped},
		{"seconds", seconds},
		{"events_per_second", float64(int(float64(s.Events)/max(seconds, 1e-9)*10)) / 10},
	}}
	if err := terminal.Write(cmd.OutOrStdout(), format, list); err != nil {
		return err
	}
	if s.GivenUp > 0 || s.Slipped > 0 {
		return fmt.Errorf("%d genuine requests were not accepted, %d forgeries were", s.GivenUp, s.Slipped)
	}
	return nil
}

func (c *command) simulateKeys() *cobra.Command {
	var dir, base, certHost string
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make the simulator's keys, and print the sources that verify them",
		Long: "Makes the keys with which the simulator signs, unless the folder holds them already, and prints the\n" +
			"section `sources` of a configuration for them. For trying and testing only.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := simulate.GenerateKeys(dir)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), keys.ConfigYAML(strings.TrimSuffix(base, "/"), certHost))
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "keys", filepath.Join("data", "keys"), "folder of the keys")
	cmd.Flags().StringVar(&base, "url", "http://localhost:8080", "base URL of the receiver, as the providers see it")
	cmd.Flags().StringVar(&certHost, "cert-host", "127.0.0.1:8443", "host:port where simulate serves the SNS certificate")
	return cmd
}
