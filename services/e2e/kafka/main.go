// Command kafka runs Apache Kafka brokers on loopback until it is interrupted,
// for trying things out and for tests: make kafka.
//
// With a command behind its flags it runs that with KAFKA_BROKERS set, stops the
// brokers when it ends, and exits with its status: make test-kafka.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"mailriver/pkg/kafka/apachekafka"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	status, err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
	}
	os.Exit(status)
}

func run(ctx context.Context, args []string, out io.Writer) (status int, err error) {
	var opts apachekafka.Options
	flags := flag.NewFlagSet("kafka", flag.ContinueOnError)
	flags.StringVar(&opts.Jars, "jars", ".kafka/jars", "folder of the jars")
	flags.StringVar(&opts.Dir, "dir", "", "folder of the data (default: a temporary one, deleted at the end)")
	flags.IntVar(&opts.Brokers, "brokers", 1, "1 or 3")
	flags.StringVar(&opts.Heap, "heap", "512m", "heap of each broker")
	flags.IntVar(&opts.Port, "port", 9092, "port of the first broker; each takes two; 0 takes free ones")
	if err := flags.Parse(args); err != nil {
		return 2, nil //nolint:nilerr // the flag package has told
	}
	if opts.Dir == "" {
		if opts.Dir, err = os.MkdirTemp("", "mailriver-kafka-"); err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(opts.Dir)) }()
	}
	begun := time.Now()
	cluster, err := apachekafka.Start(ctx, opts)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	addrs := strings.Join(cluster.Addrs(), ",")
	fmt.Fprintf(out, "kafka answers at %s after %.1f s, data in %s\n", addrs, time.Since(begun).Seconds(), opts.Dir)
	if flags.NArg() == 0 {
		<-ctx.Done()
		return 0, nil
	}
	cmd := exec.CommandContext(ctx, flags.Arg(0), flags.Args()[1:]...) //nolint:gosec // G204: the caller's own command
	cmd.Env = append(os.Environ(), "KAFKA_BROKERS="+addrs)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	return 0, err
}
