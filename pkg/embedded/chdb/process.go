package chdb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how to run the engine.
type Options struct {
	Dir       string // data; created if missing, used by one process at a time
	Addr      string // host:port to listen on, port 0 for a free one
	Library   string // path of libchdb, see [FindLibrary]
	MaxMemory int64  // of one query in bytes, default 2 GiB
	Logger    *slog.Logger
}

// patience is how long things may take.
type patience struct {
	start    time.Duration // until a child is ready
	first    time.Duration // pause before a child that died is started again; it doubles
	longest  time.Duration // no pause is longer
	failures int           // starts in a row that do not succeed until it is given up on
	stop     time.Duration // until a child that is to end is killed
}

func defaultPatience() patience {
	return patience{
		start: 60 * time.Second, first: 100 * time.Millisecond, longest: 10 * time.Second,
		failures: 8, stop: childStop + 5*time.Second,
	}
}

// Process is the engine, whichever child it currently runs in.
type Process struct {
	opts   Options
	wait   patience
	addr   string
	socket *os.File // shared with every child, so that the port stays ours
	pid    atomic.Int64
	done   chan struct{}
	err    error

	mu       sync.Mutex
	closing  bool
	stopping chan struct{}
	stdin    io.Closer
	cmd      *exec.Cmd
}

// Start runs the engine and returns when it answers.
func Start(ctx context.Context, opts Options) (*Process, error) {
	return startProcess(ctx, opts, defaultPatience())
}

func startProcess(ctx context.Context, opts Options, wait patience) (*Process, error) {
	if opts.MaxMemory <= 0 {
		opts.MaxMemory = 2 << 30
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, err
	}
	opts.Dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", opts.Addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ln.Close() }()
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("listen on %s: not TCP", opts.Addr)
	}
	socket, err := tcp.File()
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", opts.Addr, err)
	}
	p := &Process{
		opts: opts, wait: wait, addr: ln.Addr().String(), socket: socket,
		done: make(chan struct{}), stopping: make(chan struct{}),
	}
	first := make(chan error, 1)
	go p.supervise(first)
	select {
	case err = <-first:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// Addr is the host:port that the engine listens on.
func (p *Process) Addr() string { return p.addr }

// PID is the current child, 0 while there is none.
func (p *Process) PID() int { return int(p.pid.Load()) }

// Done is closed when the engine has ended: by Close, or because it could not
// be started again.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says why the engine ended by itself. It is nil before Done is closed,
// and after Close.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Close ends the child: running queries have a few seconds, the whole has
// twenty, then it is killed.
func (p *Process) Close() error {
	p.mu.Lock()
	if !p.closing {
		p.closing = true
		close(p.stopping)
		if p.stdin != nil {
			_ = p.stdin.Close()
		}
	}
	p.mu.Unlock()
	select {
	case <-p.done:
		return nil
	case <-time.After(p.wait.stop):
	}
	p.mu.Lock()
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
	}
	p.mu.Unlock()
	<-p.done
	return fmt.Errorf("clickhouse engine: not stopped after %s, killed", p.wait.stop)
}

// supervise starts children until Close. It never leaves its thread: the
// kernel kills a child when the thread that started it ends, not the process.
func (p *Process) supervise(first chan<- error) {
	runtime.LockOSThread()
	defer close(p.done)
	defer func() { _ = p.socket.Close() }()

	failures, pause, started := 0, p.wait.first, false
	for {
		ready, err := p.runChild(func() {
			failures, pause = 0, p.wait.first
			if !started {
				started = true
				first <- nil
			}
		})
		select {
		case <-p.stopping:
			return
		default:
		}
		if !started {
			first <- err
			p.err = err
			return
		}
		if !ready {
			failures++
		}
		if failures >= p.wait.failures {
			p.err = fmt.Errorf("clickhouse engine: given up after %d starts: %w", failures, err)
			return
		}
		p.opts.Logger.Error("clickhouse engine ended, starting it again", "err", err, "pause", pause.String())
		select {
		case <-p.stopping:
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, p.wait.longest)
	}
}

// runChild runs one child to its end. It calls onReady when the child answers,
// and reports whether it ever did.
func (p *Process) runChild(onReady func()) (ready bool, err error) {
	exe, err := os.Executable()
	if err != nil {
		return false, err
	}
	config, err := json.Marshal(childConfig{
		Dir: p.opts.Dir, Library: p.opts.Library, MaxMemory: p.opts.MaxMemory, Parent: os.Getpid(),
	})
	if err != nil {
		return false, err
	}
	says, said, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer func() { _ = says.Close() }()

	cmd := exec.Command(exe, childArgument) //nolint:noctx // ended by the end of its stdin, in Close
	cmd.Dir = p.opts.Dir
	cmd.Env = append(os.Environ(), "TZ=UTC") // as a server in a container has
	cmd.ExtraFiles = []*os.File{listenerFile - 3: p.socket, readyFile - 3: said}
	cmd.SysProcAttr = childAttributes()
	cmd.WaitDelay = time.Second
	output := &lines{log: p.opts.Logger}
	cmd.Stdout, cmd.Stderr = output, output
	stdin, err := cmd.StdinPipe()
	if err != nil {
		_ = said.Close()
		return false, err
	}
	err = p.launch(cmd, stdin)
	_ = said.Close()
	if err != nil {
		return false, err
	}
	defer p.forget()
	_, _ = stdin.Write(append(config, '\n')) // a child that does not read it says why below

	_ = says.SetReadDeadline(time.Now().Add(p.wait.start))
	answer, readErr := bufio.NewReader(says).ReadString('\n')
	switch answer = strings.TrimSpace(answer); {
	case answer == "ready":
		p.pid.Store(int64(cmd.Process.Pid))
		onReady()
		ready = true
	case answer != "":
		err = fmt.Errorf("clickhouse engine: %s", answer)
	case errors.Is(readErr, os.ErrDeadlineExceeded):
		err = fmt.Errorf("clickhouse engine: not ready after %s", p.wait.start)
		_ = cmd.Process.Kill()
	default:
		err = errors.New("clickhouse engine: ended while starting")
	}
	waitErr := cmd.Wait()
	if tail := output.last(); err != nil && tail != "" && !strings.Contains(err.Error(), tail) {
		err = fmt.Errorf("%w; it wrote: %s", err, tail)
	}
	if err == nil {
		err = waitErr
	}
	return ready, err
}

var errClosing = errors.New("clickhouse engine: being closed")

// launch starts cmd unless the engine is being closed.
func (p *Process) launch(cmd *exec.Cmd, stdin io.Closer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return errClosing
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("clickhouse engine: %w", err)
	}
	p.cmd, p.stdin = cmd, stdin
	return nil
}

func (p *Process) forget() {
	p.pid.Store(0)
	p.mu.Lock()
	p.cmd, p.stdin = nil, nil
	p.mu.Unlock()
}

// lines logs what the child writes, line by line, and remembers the last one.
type lines struct {
	log *slog.Logger
	mu  sync.Mutex
	buf []byte
	end string
}

const maxLine = 4096

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range b {
		if c != '\n' && len(l.buf) < maxLine {
			l.buf = append(l.buf, c)
			continue
		}
		if line := strings.TrimSpace(string(l.buf)); line != "" {
			l.end = line
			l.log.Warn("clickhouse engine", "line", line)
		}
		l.buf = l.buf[:0]
	}
	return len(b), nil
}

func (l *lines) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}
