package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mailriver/pkg/embedded/chdb"
)

// Options say where things are. Each address is host:port of an interface that
// clients can name, because a broker tells them where it is; port 0 takes a
// free port. Nothing asks for a password, so it should be a loopback address.
type Options struct {
	DataDir        string // created if missing
	KafkaAddr      string // empty starts no broker, for use with a real one
	RegistryAddr   string
	ClickHouseAddr string
	Library        string // path of libchdb; empty looks for it, see FindLibrary
	Logger         *slog.Logger
}

// DefaultOptions are the addresses that the documentation names.
func DefaultOptions() Options {
	return Options{
		DataDir:        "data",
		KafkaAddr:      "127.0.0.1:9092",
		RegistryAddr:   "127.0.0.1:8081",
		ClickHouseAddr: "127.0.0.1:8123",
	}
}

// Env is a running environment.
type Env struct {
	Brokers       []string // none without KafkaAddr
	RegistryURL   string
	ClickHouseURL string

	engine *chdb.Process
	stop   []func() error // in the order of starting
	once   sync.Once
	closed error
	done   chan struct{}
	err    error
}

// lockPatience is how long a start waits for a process that is ending.
const lockPatience = 10 * time.Second

// RunChildIfAsked must be the first thing that a main does, and the TestMain
// of a package whose tests start an environment: ClickHouse runs in a child of
// the same program. It returns at once unless this process is that child.
func RunChildIfAsked() { chdb.RunChildIfAsked() }

// FindLibrary returns the path of libchdb: the given one, or the one of the
// folder .chdb in the working directory, beside the program, or above it. The
// error names the command that installs it.
func FindLibrary(given string) (string, error) {
	dirs := []string{"."}
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(exe), filepath.Dir(filepath.Dir(exe)))
	}
	return chdb.FindLibrary(given, dirs...)
}

// Start brings everything up, and returns when all of it answers. The context
// bounds the start only. A data directory belongs to one process at a time.
func Start(ctx context.Context, opts Options) (*Env, error) {
	if opts.Logger == nil {
		return nil, errors.New("embedded: no logger")
	}
	library, err := FindLibrary(opts.Library)
	if err != nil {
		return nil, fmt.Errorf("embedded clickhouse: %w", err)
	}
	if err := os.MkdirAll(opts.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	env := &Env{done: make(chan struct{})}
	if err := env.start(ctx, opts, library); err != nil {
		return nil, errors.Join(err, env.Close())
	}
	return env, nil
}

// start starts the parts, in the order of their use. What it has started is
// to be closed, also after an error.
func (e *Env) start(ctx context.Context, opts Options, library string) error {
	unlock, err := chdb.Lock(filepath.Join(opts.DataDir, "lock"), lockPatience)
	if err != nil {
		return fmt.Errorf("embedded: data directory: %w", err)
	}
	e.started(func() error { unlock(); return nil })

	if opts.KafkaAddr != "" {
		kafka, err := startKafka(ctx, filepath.Join(opts.DataDir, "kafka"), opts.KafkaAddr, opts.Logger)
		if err != nil {
			return fmt.Errorf("embedded kafka: %w", err)
		}
		e.started(kafka.close)
		e.Brokers = kafka.addrs()
	}

	registry, err := startRegistry(ctx, filepath.Join(opts.DataDir, "registry"), opts.RegistryAddr)
	if err != nil {
		return fmt.Errorf("embedded registry: %w", err)
	}
	e.started(registry.close)
	e.RegistryURL = "http://" + registry.addr

	if err := checkAddr(opts.ClickHouseAddr); err != nil {
		return fmt.Errorf("embedded clickhouse: %w", err)
	}
	e.engine, err = chdb.Start(ctx, chdb.Options{
		Dir:     filepath.Join(opts.DataDir, "clickhouse"),
		Addr:    opts.ClickHouseAddr,
		Library: library,
		Logger:  opts.Logger,
	})
	if err != nil {
		return fmt.Errorf("embedded clickhouse: %w", err)
	}
	e.started(e.engine.Close)
	e.ClickHouseURL = "http://" + e.engine.Addr()

	go e.watch(registry.failed)
	return nil
}

func (e *Env) started(stop func() error) { e.stop = append(e.stop, stop) }

// watch ends the environment's being when a part of it has died for good.
func (e *Env) watch(registry <-chan error) {
	defer close(e.done)
	select {
	case <-e.engine.Done():
		e.err = e.engine.Err()
	case err, failed := <-registry:
		if failed {
			e.err = fmt.Errorf("embedded registry: %w", err)
		}
	}
}

// ClickHousePID is the process that currently runs ClickHouse, 0 while it is
// being started again.
func (e *Env) ClickHousePID() int { return e.engine.PID() }

// Done is closed when the environment is of no use any more: a part of it died
// and could not be started again, or Close was called.
func (e *Env) Done() <-chan struct{} { return e.done }

// Err says which part died. It is nil before Done is closed, and after Close.
func (e *Env) Err() error {
	select {
	case <-e.done:
		return e.err
	default:
		return nil
	}
}

// Close stops everything in the reverse order. Whoever uses the addresses has
// to stop before.
func (e *Env) Close() error {
	e.once.Do(func() {
		var errs []error
		for i := len(e.stop) - 1; i >= 0; i-- {
			errs = append(errs, e.stop[i]())
		}
		e.closed = errors.Join(errs...)
	})
	return e.closed
}

// listen opens an address that clients can connect to as it is.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	if err := checkAddr(addr); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", addr)
}

func checkAddr(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("address %q: must name the host that clients connect to, such as 127.0.0.1", addr)
	}
	return nil
}
