package embedded

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailriver/pkg/embedded/chdb"
)

// A test that kills a process starts this one again, with the name of what it
// is to do, and a directory.
const (
	victimName = "EMBEDDED_TEST_VICTIM"
	victimDir  = "EMBEDDED_TEST_DIR"
)

func TestMain(m *testing.M) {
	RunChildIfAsked()
	if name := os.Getenv(victimName); name != "" {
		runVictim(name, os.Getenv(victimDir))
		return
	}
	goleak.VerifyTestMain(m)
}

// library returns the path of libchdb, or skips the test.
func library(t testing.TB) string {
	t.Helper()
	path, err := chdb.FindLibrary(os.Getenv("MAILRIVER_CHDB_LIBRARY"), "../..")
	if err == nil {
		return path
	}
	if strings.Contains(os.Getenv("MAILRIVER_REQUIRE"), "clickhouse") {
		t.Fatalf("MAILRIVER_REQUIRE asks for clickhouse: %v", err)
	}
	t.Skip(err)
	return ""
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// eventually polls until ok, for a minute.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
