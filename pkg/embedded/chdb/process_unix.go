//go:build unix

package chdb

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func tryLock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// openPipe makes a named pipe and opens both ends. With one end of its own
// open, neither a reader nor a writer waits for the other, and the reader sees
// the end only when both the engine and the caller have closed.
func openPipe(path string) (r, w *os.File, err error) {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	r, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, errors.Join(err, os.Remove(path))
	}
	w, err = os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, nil, errors.Join(err, r.Close(), os.Remove(path))
	}
	return r, w, nil
}
