package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// process is a service that is started again and again. Its log is one file.
type process struct {
	name, service string
	binary        string
	args, env     []string
	log           string
	data          string // folder of what it keeps on disk
	api           string // base URL, of those that have one

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has
	meant bool          // the end of cmd is ours
	alone int           // times that it ended by itself
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()       // the child has its own
	cmd := exec.Command(p.binary, p.args...) //nolint:noctx // it is ended by signals alone
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, log, log
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.meant = cmd, ended, false
	go func() {
		_ = cmd.Wait() // its log says how it ended
		p.mu.Lock()
		if p.cmd == cmd && !p.meant {
			p.alone++
		}
		p.mu.Unlock()
		close(ended)
	}()
	return nil
}

// signal sends a signal to the running process.
func (p *process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return fmt.Errorf("%s: is not running", p.name)
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// end ends the process by a signal, and by SIGKILL after a while.
func (p *process) end(s syscall.Signal, patience time.Duration) error {
	p.mu.Lock()
	cmd, ended := p.cmd, p.ended
	p.meant = true
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	err := p.signal(s)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		err = errors.Join(err, p.signal(syscall.SIGKILL))
		<-ended
	}
	return err
}

func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

func (p *process) endedAlone() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alone
}

// logged counts the lines of the logs in a folder that hold a text.
func logged(dir, text string) (int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		n += bytes.Count(content, []byte(text))
	}
	return n, nil
}
