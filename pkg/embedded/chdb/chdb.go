// Package chdb runs the ClickHouse engine of libchdb in a child process and
// serves ClickHouse's HTTP interface for it, so that the ordinary driver, curl
// and every HTTP client see a server.
//
// The child is this program started again with a hidden argument: a main that
// uses the package calls [RunChildIfAsked] before anything else. In a process
// of its own the library may bring its signal handlers, its allocator and its
// crashes. A child that dies is started again, on the same listening socket,
// so that requests wait meanwhile; a child whose parent dies ends at once.
//
// It is for trying, developing and testing. There is no user, no password and
// no TLS, no replication, no cluster and no native protocol (port 9000). HTTP
// sessions, external tables and multipart bodies are refused with an
// exception, INTO OUTFILE and FROM INFILE too. Requests of web pages from
// other origins are refused, because a browser would otherwise be a client.
// As on a server, GET only reads. Each request is a session of its own, with
// the settings of its URL; KILL QUERY needs ASYNC, with SYNC it does not end.
//
// Memory: a query may use [Options].MaxMemory unless it sets max_memory_usage
// itself, and all of them together half of the machine. The data of an INSERT
// goes through a file and an answer through a named pipe, so neither is held
// in memory. Up to 1 MiB of an answer is held back, so that an error of a
// short query is an HTTP status; behind more than that it follows in the body,
// as a server does it, and the connection is broken off.
//
// Durability: what was acknowledged survives kill -9 of both processes. Parts
// of tables are synced to disk before an INSERT is acknowledged
// (fsync_after_insert, fsync_part_directory), so they also survive a power
// cut; the log behind insert_deduplication_token is written but not synced, so
// after a power cut the last range may not be recognized as already inserted.
package chdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// ErrNoLibrary is returned when libchdb is not where it is looked for. The
// error that wraps it says what to run.
var ErrNoLibrary = errors.New("libchdb is not installed")

// FindLibrary returns the path of libchdb. A given path is taken as it is;
// otherwise the folder .chdb is looked for in each of dirs.
func FindLibrary(given string, dirs ...string) (string, error) {
	return findLibrary(runtime.GOOS, runtime.GOARCH, given, dirs...)
}

func findLibrary(goos, goarch, given string, dirs ...string) (string, error) {
	if given != "" {
		if _, err := os.Stat(given); err != nil {
			return "", fmt.Errorf("%w at the given path: %w", ErrNoLibrary, err)
		}
		return filepath.Abs(given)
	}
	name, ok := npmPackage(goos, goarch)
	if !ok {
		return "", fmt.Errorf("%w: there is none for %s/%s, only for Linux with glibc and macOS on amd64 and arm64; "+
			"set clickhouse.url to a ClickHouse server instead", ErrNoLibrary, goos, goarch)
	}
	for _, dir := range dirs {
		for _, file := range []string{"libchdb.so", "libchdb.dylib"} {
			path := filepath.Join(dir, ".chdb", "node_modules", filepath.FromSlash(name), file)
			if _, err := os.Stat(path); err == nil {
				return filepath.Abs(path)
			}
		}
	}
	return "", fmt.Errorf("%w: no .chdb folder with it in %q; run: npm install --prefix .chdb %s "+
		"(it needs glibc; on Alpine and other musl systems set clickhouse.url to a ClickHouse server)",
		ErrNoLibrary, dirs, name)
}

// npmPackage names the package that brings libchdb for a platform.
func npmPackage(goos, goarch string) (string, bool) {
	switch goos + "/" + goarch {
	case "linux/amd64":
		return "@chdb/lib-linux-x64-gnu", true
	case "linux/arm64":
		return "@chdb/lib-linux-arm64-gnu", true
	case "darwin/amd64":
		return "@chdb/lib-darwin-x64", true
	case "darwin/arm64":
		return "@chdb/lib-darwin-arm64", true
	}
	return "", false
}
