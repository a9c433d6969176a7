package chdb

import (
	"os"
	"syscall"
)

// childAttributes puts the child into a process group of its own, so that an
// interrupt from the terminal is not for it, and has the kernel kill it when
// the thread that started it ends.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// dieWith ends the process if the parent was gone before the kernel was asked
// to tell.
func dieWith(parent int) {
	if os.Getppid() != parent {
		os.Exit(3)
	}
}
