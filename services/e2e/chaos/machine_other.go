//go:build !linux

package main

import (
	"context"
	"runtime"
	"syscall"
)

func childAttributes() *syscall.SysProcAttr { return nil }

func thisMachine(context.Context) machine {
	return machine{cores: runtime.NumCPU(), memory: "unknown memory", kernel: runtime.GOOS + " " + runtime.GOARCH, gover: runtime.Version()}
}
