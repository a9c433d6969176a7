package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"mailriver/pkg/embedded"
	"mailriver/pkg/run"
	"mailriver/pkg/simulate"
	"mailriver/services/assembly"
)

// Where the simulated sources post, and where their SNS certificate is, in the
// configuration of a first start.
const (
	defaultReceiver = "http://localhost:8080"
	defaultCertHost = "127.0.0.1:8443"
)

type options struct {
	library string // path of libchdb; empty searches
	logs    io.Writer
	started func(started)
}

// started is what there is to tell when everything is ready.
type started struct {
	config  assembly.Config
	env     *embedded.Env
	file    string // of the configuration
	command string // mailriver, as one would type it
}

// serve starts the embedded parts on the addresses that the configuration
// names, and runs every service against them until ctx ends.
func serve(ctx context.Context, cfg assembly.Config, opts options) (err error) {
	if len(cfg.Kafka.Brokers) != 1 {
		return fmt.Errorf("%w: kafka.brokers: has %d entries, the embedded broker is one", assembly.ErrConfig, len(cfg.Kafka.Brokers))
	}
	registry, err := host(cfg.Registry.URL)
	if err != nil {
		return fmt.Errorf("%w: registry.url: %w", assembly.ErrConfig, err)
	}
	clickhouse, err := host(cfg.ClickHouse.URL)
	if err != nil {
		return fmt.Errorf("%w: clickhouse.url: %w", assembly.ErrConfig, err)
	}
	process, err := assembly.Open(ctx, cfg, "allinone", version, opts.logs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(ctx))) }()

	// The embedded parts outlive ctx: the services that stop need them.
	env, err := embedded.Start(context.WithoutCancel(ctx), embedded.Options{
		DataDir: cfg.DataDir, KafkaAddr: cfg.Kafka.Brokers[0], RegistryAddr: registry, ClickHouseAddr: clickhouse,
		Library: opts.library, Logger: process.Telemetry.Logger.With("part", "embedded"),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()

	// From here on it is Mailriver as anywhere: addresses, setup, services.
	cfg.Kafka.Brokers = env.Brokers
	cfg.Registry.URL = env.RegistryURL
	cfg.ClickHouse.URL = withHost(cfg.ClickHouse.URL, env.ClickHouseURL)
	if process, err = assembly.Open(ctx, cfg, "allinone", version, opts.logs); err != nil {
		return err
	}
	if err := assembly.Setup(ctx, process, func(assembly.Step) {}); err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	return run.Group(ctx, 2*time.Minute,
		run.Service{Name: "embedded", Run: func(ctx context.Context) error {
			select {
			case <-env.Done():
				return env.Err()
			case <-ctx.Done():
				return nil
			}
		}},
		run.Service{Name: "mailriver", Run: func(ctx context.Context) error {
			return process.Run(ctx, assembly.ServiceNames(), func() { opts.started(started{config: cfg, env: env}) })
		}},
	)
}

func host(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", errors.New("cannot be parsed") // it may hold a password
	}
	if u.Scheme != "http" {
		return "", fmt.Errorf("scheme is %q, the embedded one speaks http", u.Scheme)
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "80"), nil
	}
	return u.Host, nil
}

// withHost keeps the database and settings of a URL and changes its host.
func withHost(text, address string) string {
	to, err := url.Parse(address)
	if err != nil {
		return address
	}
	u, err := url.Parse(text)
	if err != nil {
		return address
	}
	u.Host = to.Host
	return u.String()
}

// firstConfig returns the configuration file of the data folder, and writes it
// with new keys when there is none.
func firstConfig(dataDir, receiver, certHost string) (path string, err error) {
	if dataDir, err = filepath.Abs(dataDir); err != nil {
		return "", err
	}
	path = filepath.Join(dataDir, "mailriver.yaml")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	keys, err := simulate.GenerateKeys(filepath.Join(dataDir, "keys"))
	if err != nil {
		return "", err
	}
	text := "# Made by mailriver-allinone at its first start, for trying Mailriver out: one source for each\n" +
		"# provider, with keys of the simulator. Edit it, or use a file of your own with --config.\n" +
		fmt.Sprintf("data_dir: %q\n", dataDir) +
		keys.ConfigYAML(receiver, certHost)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}

// banner tells a person what is where, and what to try.
func banner(w io.Writer, s started) {
	receiver := assembly.LocalURL(s.config.Receiver.HTTP.Addr)
	fmt.Fprintf(w, `
Mailriver is ready. Data is in %s.

  webhooks      POST %s/webhooks/{source}
  suppressions  %s/v1/suppressions/{address}
  leads         %s/v1/leads/{address}
  metrics       %s/metrics   /livez   /readyz
  Kafka         %s
  registry      %s
  ClickHouse    %s
`, s.config.DataDir, receiver, assembly.LocalURL(s.config.Suppression.API.HTTP.Addr),
		assembly.LocalURL(s.config.Leadscoring.API.HTTP.Addr), assembly.LocalURL(s.config.Admin.Addr), s.env.Brokers[0], s.env.RegistryURL, s.env.ClickHouseURL)

	config := ""
	if s.file != assembly.DefaultFile {
		config = " --config " + shorter(s.file)
	}
	sources := s.simulated(receiver)
	for _, source := range sources {
		if source.Provider != "mailgun" {
			continue
		}
		if curl, err := simulate.SignedCurl(source, time.Now()); err == nil {
			fmt.Fprintf(w, "\nSend a signed event:\n\n%s\n", curl)
		}
	}
	fmt.Fprintf(w, "\nRead the latest:\n\ncurl -s '%s/?query=SELECT+occurred_at,event_type,provider,recipient+FROM+mailriver.events+"+
		"ORDER+BY+received_at+DESC+LIMIT+5+FORMAT+PrettyCompact'\n", s.env.ClickHouseURL)
	fmt.Fprintf(w, "\nSee them come:\n\n%s tail%s\n", s.command, config)
	if len(sources) > 0 {
		if s.file != filepath.Join(s.config.DataDir, "mailriver.yaml") { // which names the folder
			config += " --keys " + shorter(filepath.Join(s.config.DataDir, "keys"))
		}
		fmt.Fprintf(w, "\nSend a thousand more, of every provider:\n\n%s simulate%s\n", s.command, config)
	}
	fmt.Fprintln(w)
}

// simulated are the sources that one can sign for here: none where they are the
// user's own.
func (s started) simulated(receiver string) []simulate.Source {
	keys, err := simulate.LoadKeys(filepath.Join(s.config.DataDir, "keys"))
	if err != nil {
		return nil
	}
	sources, err := assembly.SimulatedSources(s.config, keys, receiver, nil)
	if err != nil {
		return nil
	}
	return sources
}
