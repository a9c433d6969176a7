//go:build unix && !linux

package chdb

import (
	"os"
	"syscall"
)

// childAttributes puts the child into a process group of its own, so that an
// interrupt from the terminal is not for it. The end of stdin tells it that
// its parent is gone.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// dieWith ends the process if the parent is already gone.
func dieWith(parent int) {
	if os.Getppid() != parent {
		os.Exit(3)
	}
}
