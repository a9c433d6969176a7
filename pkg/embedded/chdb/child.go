package chdb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// childArgument is the only argument of a child.
const childArgument = "mailriver-clickhouse-engine"

// What the child inherits beside stdin, stdout and stderr.
const (
	listenerFile = 3 // the listening socket
	readyFile    = 4 // a pipe, on which it says "ready" or why it is not
)

// The child's time to end: for running queries, and for the whole.
const (
	childDrain = 5 * time.Second
	childStop  = 15 * time.Second
)

// childConfig is the first line of the child's stdin. The end of stdin is the
// end of the child.
type childConfig struct {
	Dir       string
	Library   string
	MaxMemory int64
	Parent    int
}

// RunChildIfAsked makes this process the engine, and ends it, when it was
// started as one. Otherwise it returns at once. A main, and a TestMain whose
// tests start the engine, call it first.
func RunChildIfAsked() {
	if len(os.Args) != 2 || os.Args[1] != childArgument {
		return
	}
	ready := os.NewFile(readyFile, "ready")
	if err := child(os.Stdin, ready); err != nil {
		fmt.Fprintln(ready, err)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child serves until stdin ends.
func child(stdin io.Reader, ready io.WriteCloser) error {
	// The parent ends the child, after everything that may still use it. A
	// terminal's or an init system's signal goes to both of them.
	// And a client that closes its connection is an error of one write.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)

	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	var cfg childConfig
	if err := json.Unmarshal(line, &cfg); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	parentGone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(parentGone)
	}()
	dieWith(cfg.Parent)

	file := os.NewFile(listenerFile, "listener")
	ln, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("take over listener: %w", err)
	}
	_ = file.Close()

	unlock, err := Lock(filepath.Join(cfg.Dir, "lock"), lockPatience)
	if err != nil {
		return err
	}
	defer unlock()
	e, first, err := start(cfg)
	if err != nil {
		return err
	}
	exchange := filepath.Join(cfg.Dir, "exchange")
	if err := os.MkdirAll(exchange, 0o700); err != nil {
		return err
	}
	if err := removeStale(exchange); err != nil {
		return err
	}

	base, cancel := context.WithCancel(context.Background())
	defer cancel()
	srv := &http.Server{
		Handler:           newServer(e, exchange, cfg.MaxMemory),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	fmt.Fprintln(ready, "ready")
	_ = ready.Close()

	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-parentGone:
	}
	// A query that does not end must not keep the process.
	time.AfterFunc(childStop, func() { os.Exit(2) })
	drain, stop := context.WithTimeout(context.Background(), childDrain)
	defer stop()
	if err := srv.Shutdown(drain); errors.Is(err, context.DeadlineExceeded) {
		cancel() // kills what still runs
	}
	first.close()
	return nil
}

// start opens the engine. The returned connection keeps it open.
func start(cfg childConfig) (*engine, *conn, error) {
	lib, err := load(cfg.Library)
	if err != nil {
		return nil, nil, err
	}
	lib.signalHandlers(false)
	file := filepath.Join(cfg.Dir, "config.xml")
	if err := os.WriteFile(file, []byte(engineConfig), 0o600); err != nil {
		return nil, nil, err
	}
	e := &engine{lib: lib, args: []string{
		"--path=" + filepath.Join(cfg.Dir, "data"),
		"--config-file=" + file,
	}}
	c, err := e.open()
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	if err := c.run("SELECT 1 FORMAT Null"); err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	return e, c, nil
}

// engineConfig is the server's configuration. It is given explicitly because
// the library otherwise takes a config.xml of the working directory.
const engineConfig = `<clickhouse>
    <max_server_memory_usage_to_ram_ratio>0.5</max_server_memory_usage_to_ram_ratio>
    <merge_tree>
        <fsync_after_insert>1</fsync_after_insert>
        <fsync_part_directory>1</fsync_part_directory>
    </merge_tree>
</clickhouse>
`
