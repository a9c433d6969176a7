package chdb

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	RunChildIfAsked()
	goleak.VerifyTestMain(m)
}

// libraryPath returns the path of libchdb, or skips the test.
func libraryPath(t testing.TB) string {
	t.Helper()
	path, err := FindLibrary(os.Getenv("MAILRIVER_CHDB_LIBRARY"), "../../..")
	if err == nil {
		return path
	}
	if strings.Contains(os.Getenv("MAILRIVER_REQUIRE"), "clickhouse") {
		t.Fatalf("MAILRIVER_REQUIRE asks for clickhouse: %v", err)
	}
	t.Skip(err)
	return ""
}

func startIn(t testing.TB, dir string) *Process {
	t.Helper()
	p, err := Start(context.Background(), Options{
		Dir: dir, Addr: "127.0.0.1:0", Library: libraryPath(t), Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatalf("Start() = %v, want nil", err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	return p
}

// reply is what an HTTP request came back with.
type reply struct {
	status int
	header http.Header
	body   string
}

// ask sends a query by POST, with the parameters given as key, value, ...
func ask(t testing.TB, p *Process, body string, params ...string) reply {
	t.Helper()
	return roundTrip(t, newPost(t, p, body, params...))
}

func newPost(t testing.TB, p *Process, body string, params ...string) *http.Request {
	t.Helper()
	values := url.Values{}
	for i := 0; i < len(params); i += 2 {
		values.Set(params[i], params[i+1])
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		"http://"+p.Addr()+"/?"+values.Encode(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func roundTrip(t testing.TB, req *http.Request) reply {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	return reply{status: resp.StatusCode, header: resp.Header, body: string(b)}
}

// client keeps no connections, so that none outlives its test.
var client = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	Timeout:   time.Minute,
}

// must is ask for a query that has to succeed; it returns the trimmed answer.
func must(t testing.TB, p *Process, sql string, params ...string) string {
	t.Helper()
	r := ask(t, p, sql, params...)
	if r.status != http.StatusOK {
		t.Fatalf("%s: status %d, %s", sql, r.status, r.body)
	}
	return strings.TrimSpace(r.body)
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
