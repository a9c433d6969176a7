// Command backlog measures how much memory the normalizer and the loader take to
// work off a backlog: make bench-memory.
//
// It fills the raw topic of an Apache Kafka broker, starts one service after the
// other on it, waits until nothing is left, and prints the peak resident memory
// of each (VmHWM of Linux). The number to look at is the last column: memory
// must not grow with the backlog.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"mailriver/pkg/embedded"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/apachekafka"
	"mailriver/pkg/raw"
	"mailriver/pkg/simulate"
	"mailriver/pkg/terminal"
)

func main() {
	embedded.RunChildIfAsked()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx, os.Args[1:], os.Environ(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "backlog:", err)
		os.Exit(1)
	}
}

type bench struct {
	binary, library string
	environ         []string
	dir             string
	brokers         []string
	env             *embedded.Env
	keys            simulate.Keys
}

func run(ctx context.Context, args, environ []string, out io.Writer) (err error) {
	var jars, heap, sizes string
	var b bench
	flags := flag.NewFlagSet("backlog", flag.ContinueOnError)
	flags.StringVar(&jars, "jars", ".kafka/jars", "folder of Kafka's jars")
	flags.StringVar(&heap, "heap", "1g", "heap of the broker")
	flags.StringVar(&b.binary, "binary", "bin/mailriver", "the binary to measure")
	flags.StringVar(&b.library, "chdb", "", "path of libchdb (default: looked for)")
	flags.StringVar(&sizes, "events", "10000,100000,1000000", "sizes of the backlog")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "mailriver-backlog-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	for _, entry := range environ {
		if !strings.HasPrefix(entry, "MAILRIVER_") {
			b.environ = append(b.environ, entry)
		}
	}
	cluster, err := apachekafka.Start(ctx, apachekafka.Options{Jars: jars, Dir: filepath.Join(b.dir, "kafka"), Brokers: 1, Heap: heap})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	b.brokers = cluster.Addrs()
	b.env, err = embedded.Start(ctx, embedded.Options{
		DataDir: filepath.Join(b.dir, "engines"), RegistryAddr: "127.0.0.1:0", ClickHouseAddr: "127.0.0.1:0",
		Library: b.library, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.env.Close()) }()
	if b.keys, err = simulate.GenerateKeys(filepath.Join(b.dir, "keys")); err != nil {
		return err
	}

	list := terminal.List{Columns: []string{"service", "events", "seconds", "events_per_second", "peak_mib", "to_first"}}
	first := map[string]float64{}
	for text := range strings.SplitSeq(sizes, ",") {
		events, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		w, err := b.prepare(ctx, events)
		if err != nil {
			return err
		}
		for _, service := range []string{"normalizer", "loader"} {
			seconds, peak, err := w.drain(ctx, service)
			if err != nil {
				return fmt.Errorf("%s with %d events: %w", service, events, err)
			}
			if first[service] == 0 {
				first[service] = peak
			}
			list.Rows = append(list.Rows, []any{
				service, events, round(seconds), int(float64(events) / seconds), round(peak), round(peak / first[service]),
			})
			fmt.Fprintf(os.Stderr, "%s: %d events in %.1f s, peak %.0f MiB\n", service, events, seconds, peak)
		}
	}
	return terminal.Write(out, terminal.Table, list)
}

func round(x float64) float64 { return float64(int(x*100+0.5)) / 100 }

// workload is a backlog of one size, on topics of its own.
type workload struct {
	bench
	config  string
	clients *kafka.Clients
	topics  kafka.Topics
	admin   string
}

func (b bench) prepare(ctx context.Context, events int) (*workload, error) {
	cfg := kafka.DefaultConfig()
	cfg.Brokers = b.brokers
	cfg.TopicPrefix = fmt.Sprintf("backlog-%d.", events)
	w := &workload{bench: b, topics: cfg.Topics(), config: filepath.Join(b.dir, fmt.Sprintf("%d.yaml", events))}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	w.admin = port
	text := fmt.Sprintf("data_dir: %q\nkafka: { brokers: [%q], topic_prefix: %q }\nregistry: { url: %q }\n"+
		"clickhouse: { url: %q }\nadmin: { addr: %q }\nnormalizer: { group: %q }\nloader: { group: %q }\n",
		filepath.Join(b.dir, fmt.Sprint(events)), b.brokers[0], cfg.TopicPrefix, b.env.RegistryURL,
		b.env.ClickHouseURL+"/mailriver", port, cfg.TopicPrefix+"normalizer", cfg.TopicPrefix+"loader")
	if err := os.WriteFile(w.config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if out, err := w.command(ctx, "setup").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("setup: %w: %s", err, out)
	}
	w.clients, err = kafka.NewClients(cfg, kafka.Deps{
		ClientID: "backlog", Logger: slog.New(slog.DiscardHandler), Meter: metricnoop.NewMeterProvider(),
		Tracer: tracenoop.NewTracerProvider(), Propagator: propagation.TraceContext{},
	})
	if err != nil {
		return nil, err
	}
	return w, w.fill(ctx, events)
}

// fill writes raw records as the receiver would, without posting them.
func (w *workload) fill(ctx context.Context, events int) error {
	var sources []simulate.Source
	for _, s := range w.keys.Sources("http://localhost", "localhost") {
		if s.Provider != "ses" { // its signatures would take most of the time
			sources = append(sources, s)
		}
	}
	requests, err := simulate.Generate(sources, simulate.Options{Seed: uint64(events), Events: events, Duplicates: 0.05}) //nolint:gosec // G115: any seed will do
	if err != nil {
		return err
	}
	producer, err := w.clients.Producer()
	if err != nil {
		return err
	}
	defer producer.Close()
	promise := kgo.AbortingFirstErrPromise(producer)
	for r := range requests {
		record := raw.Record{
			Provider: r.Provider, Source: r.Source, ReceivedAt: time.Now(),
			ContentType: r.Header.Get("Content-Type"), Body: r.Body,
		}
		producer.Produce(ctx, record.Kafka(w.topics.Raw, raw.DeliveryKey("", r.Body)), promise.Promise())
	}
	return promise.Err()
}

func (w *workload) command(ctx context.Context, service string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.binary, service, "--config", w.config) //nolint:gosec // G204: the binary to measure
	cmd.Env = w.environ
	return cmd
}

// drain runs a service until its group has nothing left to do.
func (w *workload) drain(ctx context.Context, service string) (seconds, peakMiB float64, err error) {
	topic := w.topics.Raw
	if service == "loader" {
		topic = w.topics.Events
	}
	admin, err := w.clients.Admin()
	if err != nil {
		return 0, 0, err
	}
	defer admin.Close()
	span, err := w.clients.Span(ctx, topic, kafka.Start(), kafka.End())
	if err != nil {
		return 0, 0, err
	}
	cmd := w.command(ctx, service)
	log, err := os.Create(filepath.Join(w.dir, service+".log"))
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = log.Close() }() // the child has its own
	cmd.Stderr = log
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	group := strings.TrimSuffix(w.topics.Raw, "raw.v1") + service
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for left := int64(1); left > 0; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return 0, 0, errors.Join(ctx.Err(), cmd.Wait())
		}
		committed, err := admin.FetchOffsetsForTopics(ctx, group, topic)
		if err != nil {
			continue // the group is not there yet
		}
		left = 0
		for partition, to := range span.To {
			// Behind the last record stands the end of its transaction, which
			// nobody commits.
			if at, ok := committed.Lookup(topic, partition); to > span.From[partition] && (!ok || at.At < to-1) {
				left++
			}
		}
	}
	seconds = time.Since(begun).Seconds()
	peakMiB, err = peak(cmd.Process.Pid)
	err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM))
	return seconds, peakMiB, errors.Join(err, cmd.Wait())
}

// peak reads VmHWM, the peak resident memory of a process (proc(5)).
func peak(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("VmHWM: this system does not say; it needs Linux")
}

func freePort(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
