// Command chaos proves exactly once on Apache Kafka: make chaos.
//
// It runs the services as processes of their own (a receiver, and two each of
// the others), brokers, ClickHouse and a schema registry, posts simulated
// traffic of every provider with redeliveries and disorder, and meanwhile
// kills, pauses and restarts all of them at points drawn from a seed. In the
// end it balances the books: every request that was answered 200 is in the raw
// topic, the canonical topic holds the truth and nothing twice, ClickHouse
// holds it once and in every field, without FINAL, and the roll-ups agree. The
// suppression list and the lead scores are, byte for byte, what one makes of
// the truth who folds it in memory, every replica of the list says so, and
// every crossing of a threshold is signaled once. It exits with 0 only when all
// of that holds.
//
// The brokers are its own, or those of KAFKA_BROKERS, which are then left
// alone. It imports no service: what it knows of Mailriver is what its users
// see. A kill is a SIGKILL to a process; a power cut, which loses what the
// kernel had not written, is not what it tests.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"mailriver/pkg/embedded"
)

func main() {
	embedded.RunChildIfAsked()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the flags, and what the environment adds.
type options struct {
	events, kills, brokers         int
	seed                           uint64
	rate                           float64
	heap, jars, binary, report     string
	library                        string
	external                       []string // KAFKA_BROKERS
	keep                           bool
	limit                          time.Duration
	environ                        []string // of the services
	duplicates, reorder, forgeries float64
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	o := options{duplicates: 0.1, reorder: 0.1, forgeries: 0.01, library: os.Getenv("MAILRIVER_CHDB_LIBRARY")}
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.IntVar(&o.events, "events", 20_000, "distinct events to post")
	flags.IntVar(&o.kills, "kills", 20, "disruptions: kills, pauses and restarts")
	flags.Uint64Var(&o.seed, "seed", 1, "decides the traffic, and what is disrupted when and for how long")
	flags.Float64Var(&o.rate, "rate", 0, "events per second at most; 0 is as fast as they are answered")
	flags.IntVar(&o.brokers, "brokers", 1, "1 or 3")
	flags.StringVar(&o.heap, "heap", "512m", "heap of each broker")
	flags.StringVar(&o.jars, "jars", ".kafka/jars", "folder of Kafka's jars")
	flags.StringVar(&o.binary, "mailriver", "bin/mailriver", "the binary under test")
	flags.StringVar(&o.report, "report", "", "file to write the report to, in Markdown")
	flags.DurationVar(&o.limit, "limit", time.Hour, "give up after this time")
	flags.BoolVar(&o.keep, "keep", false, "keep the folder of data and logs, also after success")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if o.events < 1 || o.kills < 0 || flags.NArg() > 0 {
		fmt.Fprintln(errs, "chaos: want -events of at least 1, -kills of at least 0, and no arguments")
		return 2
	}
	if text := os.Getenv("KAFKA_BROKERS"); text != "" {
		o.external = strings.Split(text, ",")
	}
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "MAILRIVER_") { // those of whoever runs this
			o.environ = append(o.environ, entry)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	result, err := play(ctx, o, out)
	if err != nil {
		fmt.Fprintln(errs, "chaos:", err)
		return 1
	}
	text := result.markdown(o, thisMachine(ctx))
	fmt.Fprint(out, "\n", text)
	if o.report != "" {
		if err := os.WriteFile(o.report, []byte(text), 0o644); err != nil { //nolint:gosec // G306: a document
			fmt.Fprintln(errs, "chaos:", err)
			return 1
		}
	}
	if !result.balanced() {
		return 1
	}
	return 0
}

// play runs the whole, and removes its folder where all went well.
func play(ctx context.Context, o options, out io.Writer) (result *result, err error) {
	dir, err := os.MkdirTemp("", "mailriver-chaos-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if o.keep || err != nil || !result.balanced() {
			fmt.Fprintf(out, "data and logs are in %s\n", dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	w, err := newWorld(ctx, o, dir, out)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	return w.play(ctx)
}

// machine is where a run took place.
type machine struct {
	cores                 int
	memory, kernel, gover string
}
