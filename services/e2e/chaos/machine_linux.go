package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

func childAttributes() *syscall.SysProcAttr {
	// A run that is killed must not leave services behind.
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

func thisMachine(ctx context.Context) machine {
	m := machine{cores: runtime.NumCPU(), memory: "unknown memory", kernel: runtime.GOOS, gover: runtime.Version()}
	if out, err := exec.CommandContext(ctx, "uname", "-srm").Output(); err == nil {
		m.kernel = strings.TrimSpace(string(out))
	}
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return m
	}
	defer func() { _ = file.Close() }() // only read
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var kb int
		if n, _ := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kb); n == 1 {
			m.memory = fmt.Sprintf("%.0f GiB", float64(kb)/(1<<20))
		}
	}
	return m
}
