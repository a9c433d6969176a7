package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/event"
	"mailriver/pkg/run"
	"mailriver/pkg/simulate"
	"mailriver/pkg/terminal"
	"mailriver/services/assembly"
)

func demoCommand(environ []string) *cobra.Command {
	var d demo
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Simulated events through the whole path, compared with the truth; nothing is kept",
		Long: "Starts everything on free ports and a throw-away folder, posts simulated webhooks of every provider\n" +
			"with redeliveries and disorder, and compares what ClickHouse then holds with the simulator's truth,\n" +
			"field by field. Exit status 0 means that every event is there once and every field agrees.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.out, d.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
			d.library = lookup(environ, "MAILRIVER_CHDB_LIBRARY")
			return d.run(cmd.Context(), environ)
		},
	}
	cmd.Flags().IntVar(&d.options.Events, "events", 10_000, "distinct events")
	cmd.Flags().Uint64Var(&d.options.Seed, "seed", 1, "what is drawn depends on it alone")
	cmd.Flags().Float64Var(&d.options.Duplicates, "duplicates", 0.1, "share of requests that are delivered again")
	cmd.Flags().Float64Var(&d.options.Reorder, "reorder", 0.1, "share of requests that come late")
	cmd.Flags().Float64Var(&d.options.Forgeries, "forgeries", 0.02, "share of requests that are followed by a forged copy")
	return cmd
}

type demo struct {
	options simulate.Options
	library string
	out     io.Writer
	errs    io.Writer
}

// patience is how long the demo waits without seeing a new row.
const patience = 60 * time.Second

func (d *demo) run(ctx context.Context, environ []string) (err error) {
	dir, err := os.MkdirTemp("", "mailriver-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	logs, err := os.Create(filepath.Join(dir, "log.jsonl"))
	if err != nil {
		return err
	}
	defer func() { _ = logs.Close() }() // goes with the folder

	receiver, certHost, cfg, err := d.config(dir, environ)
	if err != nil {
		return err
	}
	var outcome error
	ready := make(chan started, 1)
	serving, stop := context.WithCancel(ctx)
	defer stop()
	err = run.Group(serving, 3*time.Minute,
		run.Service{Name: "mailriver", Run: func(ctx context.Context) error {
			return serve(ctx, cfg, options{library: d.library, logs: logs, started: func(s started) { ready <- s }})
		}},
		run.Service{Name: "demo", Run: func(ctx context.Context) error {
			defer stop()
			select {
			case s := <-ready:
				outcome = d.play(ctx, s, receiver, certHost)
			case <-ctx.Done():
			}
			return nil
		}},
	)
	if err := errors.Join(outcome, err); err != nil {
		d.showLog(logs.Name())
		return err
	}
	return nil
}

// config makes a configuration of free ports and new keys.
func (d *demo) config(dir string, environ []string) (receiver, certHost string, cfg assembly.Config, err error) {
	ports, err := freePorts(3)
	if err != nil {
		return "", "", cfg, err
	}
	receiver, certHost = "http://"+ports[0], ports[1]
	file, err := firstConfig(dir, receiver, certHost)
	if err != nil {
		return "", "", cfg, err
	}
	// Environment variables of the user's own Mailriver must not reach in.
	environ = slices.DeleteFunc(slices.Clone(environ), func(s string) bool { return strings.HasPrefix(s, "MAILRIVER_") })
	if cfg, err = assembly.Load(file, environ); err != nil {
		return "", "", cfg, err
	}
	cfg.DataDir = dir
	cfg.Receiver.HTTP.Addr = ports[0]
	cfg.Admin.Addr = ports[2]
	cfg.Suppression.API.HTTP.Addr = "127.0.0.1:0"
	cfg.Leadscoring.API.HTTP.Addr = "127.0.0.1:0"
	cfg.Kafka.Brokers = []string{"127.0.0.1:0"}
	cfg.Registry.URL = "http://127.0.0.1:0"
	cfg.ClickHouse.URL = "http://127.0.0.1:0/mailriver"
	return receiver, certHost, cfg, nil
}

func freePorts(n int) (addresses []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // nothing was sent
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// play posts the traffic and compares.
func (d *demo) play(ctx context.Context, s started, receiver, certHost string) error {
	keys, err := simulate.LoadKeys(filepath.Join(s.config.DataDir, "keys"))
	if err != nil {
		return err
	}
	server, err := simulate.OpenCertServer(ctx, keys, certHost)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	return run.Group(serving, 10*time.Second,
		run.Service{Name: "certificates", Run: server.Run},
		run.Service{Name: "traffic", Run: func(ctx context.Context) error {
			defer stop()
			truth, err := d.post(ctx, keys.Sources(receiver, certHost))
			if err != nil {
				return err
			}
			return d.compare(ctx, clickHouse{s.env.ClickHouseURL}, truth)
		}},
	)
}

// post sends the traffic and returns what it told.
func (d *demo) post(ctx context.Context, sources []simulate.Source) (map[event.ID]event.Event, error) {
	requests, err := simulate.Generate(sources, d.options)
	if err != nil {
		return nil, err
	}
	truth := make(map[event.ID]event.Event, d.options.Events)
	progress := terminal.NewProgress(d.errs, int64(d.options.Events), "posting", "events")
	// RetryAll: an answer that a busy machine gave late must not fail the demo.
	sender := simulate.Sender{RetryAll: true, OnAnswer: func(r simulate.Request, status int, _ error) {
		if simulate.Judge(r, status) == simulate.Success {
			progress.Add(r.Distinct)
		}
	}}
	summary, err := sender.Send(ctx, remember(requests, truth))
	progress.Done()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(d.out, "posted %d events in %d requests, %d of them accepted copies included, in %.1f s; %d forgeries refused\n",
		summary.Events, summary.Requests, summary.Accepted, summary.Duration.Seconds(), summary.Refused)
	if summary.GivenUp > 0 || summary.Slipped > 0 {
		return nil, fmt.Errorf("%d genuine requests were not accepted, and %d forgeries were", summary.GivenUp, summary.Slipped)
	}
	return truth, nil
}

func remember(requests iter.Seq[simulate.Request], truth map[event.ID]event.Event) iter.Seq[simulate.Request] {
	return func(yield func(simulate.Request) bool) {
		for r := range requests {
			for _, e := range r.Truth[:r.Distinct] {
				truth[e.ID] = e
			}
			if !yield(r) {
				return
			}
		}
	}
}

// compare waits until ClickHouse holds as many events as were told, and
// compares every field of every one.
func (d *demo) compare(ctx context.Context, ch clickHouse, truth map[event.ID]event.Event) error {
	if err := d.await(ctx, ch, len(truth)); err != nil {
		return err
	}
	type kind struct{ provider, typ string }
	want, got := map[kind]int{}, map[kind]int{}
	wrong, missing := map[kind]int{}, map[kind]int{}
	for _, e := range truth {
		want[kind{e.Provider, string(e.Type)}]++
	}
	var complaints []string
	complain := func(format string, args ...any) {
		if len(complaints) < 20 {
			complaints = append(complaints, fmt.Sprintf(format, args...))
		}
	}
	seen := make(map[event.ID]bool, len(truth))
	for e, err := range ch.events(ctx) {
		if err != nil {
			return err
		}
		k := kind{e.Provider, string(e.Type)}
		got[k]++
		expected, told := truth[e.ID]
		switch {
		case seen[e.ID]:
			wrong[k]++
			complain("%s %s %s: is there twice", e.Provider, e.Type, e.ID)
		case !told:
			wrong[k]++
			complain("%s %s %s: was never told", e.Provider, e.Type, e.ID)
		default:
			if differences := simulate.Compare(expected, e); len(differences) > 0 {
				wrong[k]++
				for _, difference := range differences {
					complain("%s %s %s: %s", e.Provider, e.Type, e.ID, difference)
				}
			}
		}
		seen[e.ID] = true
	}
	for id, e := range truth {
		if !seen[id] {
			missing[kind{e.Provider, string(e.Type)}]++
			complain("%s %s %s: is missing", e.Provider, e.Type, id)
		}
	}
	kinds := slices.SortedFunc(maps.Keys(want), func(a, b kind) int {
		return strings.Compare(a.provider+" "+a.typ, b.provider+" "+b.typ)
	})
	list := terminal.List{Columns: []string{"provider", "event_type", "truth", "clickhouse", "wrong", "missing"}}
	for _, k := range kinds {
		list.Rows = append(list.Rows, []any{k.provider, k.typ, want[k], got[k], wrong[k], missing[k]})
	}
	if err := terminal.Write(d.out, terminal.Table, list); err != nil {
		return err
	}
	if len(complaints) > 0 {
		return fmt.Errorf("ClickHouse and the truth disagree:\n  %s", strings.Join(complaints, "\n  "))
	}
	rollup, err := ch.number(ctx, "SELECT sum(events) FROM mailriver.events_hourly")
	if err != nil {
		return err
	}
	if rollup != len(truth) {
		return fmt.Errorf("the hourly roll-up counts %d events, want %d", rollup, len(truth))
	}
	fmt.Fprintf(d.out, "%d distinct events: each is in ClickHouse once, every field agrees with the truth, and so does the roll-up\n", len(truth))
	return nil
}

func (d *demo) await(ctx context.Context, ch clickHouse, want int) error {
	progress := terminal.NewProgress(d.errs, int64(want), "loading", "events")
	defer progress.Done()
	have, changed := 0, time.Now()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		now, err := ch.number(ctx, "SELECT uniqExact(event_id) FROM mailriver.events")
		if err != nil {
			return err
		}
		if now != have {
			progress.Add(now - have)
			have, changed = now, time.Now()
		}
		if have >= want || time.Since(changed) > patience {
			return nil // the comparison names what is missing
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (d *demo) showLog(path string) {
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	fmt.Fprintf(d.errs, "the end of the log:\n%s\n", strings.Join(lines[max(0, len(lines)-20):], "\n"))
}

// clickHouse asks over HTTP, as an analyst's curl does.
type clickHouse struct{ url string }

func (c clickHouse) query(ctx context.Context, sql string) (io.ReadCloser, error) {
	values := url.Values{"query": {sql}, "date_time_output_format": {"iso"}, "output_format_json_quote_64bit_integers": {"0"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/?"+values.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return nil, errors.Join(fmt.Errorf("clickhouse: %s: %s", resp.Status, text), resp.Body.Close())
	}
	return resp.Body, nil
}

func (c clickHouse) number(ctx context.Context, sql string) (n int, err error) {
	body, err := c.query(ctx, sql)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	_, err = fmt.Fscan(body, &n)
	return n, err
}

// events are all rows: the columns have the JSON names of the event.
func (c clickHouse) events(ctx context.Context) iter.Seq2[event.Event, error] {
	return func(yield func(event.Event, error) bool) {
		body, err := c.query(ctx, "SELECT * FROM mailriver.events FORMAT JSONEachRow")
		if err != nil {
			yield(event.Event{}, err)
			return
		}
		defer func() { _ = body.Close() }() // read to its end, or given up
		dec := json.NewDecoder(body)
		for {
			var e event.Event
			err := dec.Decode(&e)
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}
