package spill

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

// The test binary is also the other process that some tests need.
const (
	childTask = "SPILL_TEST_CHILD" // what it shall do
	childDir  = "SPILL_TEST_DIR"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(childTask); task != "" {
		if err := child(task, os.Getenv(childDir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// killAfter is how many records the child sees acknowledged before it kills
// itself. It ends within a segment.
const killAfter = 73

func child(task, dir string) error {
	store, err := Open(testConfig(dir), testDeps(vfs.Default, nil))
	if err != nil {
		return err
	}
	if task == "open" {
		return store.Close()
	}
	out := bufio.NewWriter(os.Stdout)
	acknowledged := 0
	return store.Drain(alive{}, inOrder(func(r *kgo.Record) error {
		if acknowledged == killAfter {
			if err := out.Flush(); err != nil {
				return err
			}
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		acknowledged++
		fmt.Fprintln(out, string(r.Key))
		return nil
	}))
}

// alive is a context that nothing ends.
type alive struct{}

func (alive) Deadline() (time.Time, bool) { return time.Time{}, false }
func (alive) Done() <-chan struct{}       { return nil }
func (alive) Err() error                  { return nil }
func (alive) Value(any) any               { return nil }

// runChild returns what the child wrote.
func runChild(t *testing.T, task, dir string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childTask+"="+task, childDir+"="+dir)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}
