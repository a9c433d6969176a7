//go:build !linux

package apachekafka

import "syscall"

func childAttributes() *syscall.SysProcAttr { return nil }
