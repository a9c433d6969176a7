package chdb

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// lockPatience is how long a starting process waits for one that is ending:
// after kill -9 the kernel may need a moment.
const lockPatience = 10 * time.Second

// ErrLocked is returned when another process holds a lock.
var ErrLocked = errors.New("in use by another process")

// Lock takes the lock file at path, which the kernel releases when the process
// ends, however it ends. A lock that is held is waited for a while.
func Lock(path string, patience time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	deadline := time.Now().Add(patience)
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		err = tryLock(f)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrLocked) || time.Now().After(deadline) {
			holder, _ := os.ReadFile(path)
			_ = f.Close()
			if pid := strings.TrimSpace(string(holder)); pid != "" && errors.Is(err, ErrLocked) {
				return nil, fmt.Errorf("lock %s: %w, pid %s", path, err, pid)
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		<-poll.C
	}
	// The number is for people who read the error; the lock does not need it.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return func() { _ = f.Close() }, nil
}
