//go:build !unix

package chdb

import (
	"errors"
	"os"
	"syscall"
)

// libchdb does not exist for these systems, so nothing here is ever needed.

func tryLock(*os.File) error { return nil }

func childAttributes() *syscall.SysProcAttr { return nil }

func dieWith(int) {}

func openPipe(string) (r, w *os.File, err error) { return nil, nil, errors.ErrUnsupported }
