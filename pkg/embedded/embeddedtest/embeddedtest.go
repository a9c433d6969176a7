// Package embeddedtest gives a test the real ClickHouse: a server where one is
// named, and otherwise the engine of libchdb.
package embeddedtest

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"

	"mailriver/pkg/embedded/chdb"
)

// ClickHouse returns the URL of a ClickHouse over HTTP: MAILRIVER_CLICKHOUSE_URL,
// or that of an embedded engine with an empty data directory, which ends with the
// test. Without either the test is skipped, or fails when MAILRIVER_REQUIRE names
// clickhouse. The TestMain of its package must call chdb.RunChildIfAsked.
func ClickHouse(t testing.TB) string {
	t.Helper()
	if url := os.Getenv("MAILRIVER_CLICKHOUSE_URL"); url != "" {
		return url
	}
	return "http://" + Engine(t, t.TempDir()).Addr()
}

// Engine starts an embedded engine on a data directory, for a test that stops it
// and looks at its files. It ends with the test, if not before. Without libchdb
// the test is skipped, or fails, as with [ClickHouse].
func Engine(t testing.TB, dir string) *chdb.Process {
	t.Helper()
	library, err := chdb.FindLibrary(os.Getenv("MAILRIVER_CHDB_LIBRARY"), "..", "../..", "../../..")
	if err != nil {
		if strings.Contains(os.Getenv("MAILRIVER_REQUIRE"), "clickhouse") && os.Getenv("MAILRIVER_CLICKHOUSE_URL") == "" {
			t.Fatalf("MAILRIVER_REQUIRE names clickhouse: MAILRIVER_CLICKHOUSE_URL is not set and %v", err)
		}
		t.Skipf("there is no embedded engine: %v", err)
	}
	engine, err := chdb.Start(context.Background(), chdb.Options{
		Dir: dir, Addr: "127.0.0.1:0", Library: library,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Errorf("stop the engine: %v", err)
		}
	})
	return engine
}
