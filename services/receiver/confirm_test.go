package receiver

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/esp"
)

// authority serves TLS and returns the PEM of the root that signed it.
func authority(t *testing.T, handler http.HandlerFunc) (server *httptest.Server, root []byte) {
	t.Helper()
	server = httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	return server, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func TestFetch(t *testing.T) {
	server, root := authority(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/document":
			_, _ = fmt.Fprint(w, "content")
		case "/limit":
			_, _ = w.Write(make([]byte, fetchLimit))
		case "/large":
			_, _ = w.Write(make([]byte, fetchLimit+1))
		case "/redirect":
			http.Redirect(w, r, "/document", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	})
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // must not be asked
	trusting, err := newFetch(root)
	if err != nil {
		t.Fatal(err)
	}
	strict, err := newFetch(nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		fetch func(context.Context, string) ([]byte, error)
		url   string
		want  int // bytes; -1 for an error
	}{
		{"a document", trusting, server.URL + "/document", 7},
		{"as large as may be", trusting, server.URL + "/limit", fetchLimit},
		{"too large", trusting, server.URL + "/large", -1},
		{"a redirect is not followed", trusting, server.URL + "/redirect", -1},
		{"absent", trusting, server.URL + "/absent?Token=hunter2", -1},
		{"not HTTPS", trusting, strings.Replace(server.URL, "https", "http", 1) + "/document?Token=hunter2", -1},
		{"a root that is not trusted", strict, server.URL + "/document?Token=hunter2", -1},
		{"nobody listens", trusting, "https://127.0.0.1:1/document?Token=hunter2", -1},
		{"no URL", trusting, "https://hunter2\x7f/", -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body, err := tt.fetch(t.Context(), tt.url)
			if (tt.want < 0) != (err != nil) || (err == nil && len(body) != tt.want) {
				t.Errorf("fetch() = %d bytes, %v, want %d", len(body), err, tt.want)
			}
			if strings.Contains(errorText(err), "hunter2") {
				t.Errorf("the token is in the error: %v", err)
			}
		})
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := trusting(canceled, server.URL+"/document"); !errors.Is(err, context.Canceled) {
		t.Errorf("fetch() with a canceled context = %v, want context.Canceled", err)
	}
	if _, err := newFetch([]byte("no PEM")); err == nil {
		t.Error("newFetch(no PEM) = nil, want an error")
	}
}

// TestConfirm sends a webhook that asks for a confirmation: it is stored,
// answered, and the URL requested, after a first attempt that fails.
func TestConfirm(t *testing.T) {
	var asked atomic.Int32
	confirmed := make(chan string, 1)
	server, root := authority(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		confirmed <- r.Method + " " + r.URL.RawQuery
	})
	f := newFixture(t, DefaultConfig(), nil, &acknowledging{}, func(d *Deps) {
		d.ReadFile = func(string) ([]byte, error) { return root, nil }
	})
	sources := []Source{{Name: "shop", Provider: "signed", Keys: secrets(key), CAFile: "ca.pem"}}
	var err error
	if f.service.sources, err = newSources(f.service.cfg, sources, f.service.deps.Surroundings); err != nil {
		t.Fatal(err)
	}
	run(t, f.service)
	body := "confirm " + server.URL + "/?Action=Confirm&Token=hunter2"
	if code := f.post(t, "shop", strings.NewReader(body), with(sign(key, []byte(body)))).StatusCode; code != 200 {
		t.Fatalf("POST = %d, want 200", code)
	}
	if got, want := <-confirmed, "GET Action=Confirm&Token=hunter2"; got != want {
		t.Errorf("the confirmation was %s, want %s", got, want)
	}
	waitFor(t, "the confirmation to be counted", func() bool {
		return f.counts(t, "mailriver.receiver.confirmations")["outcome=confirmed source=shop"] == 1
	})
	if strings.Contains(f.log.String(), "hunter2") {
		t.Errorf("the token is in the log: %s", f.log.String())
	}
}

func run(t *testing.T, s *Service) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

// TestConfirm_refusedIsNotConfirmed: what is not genuine confirms nothing.
func TestConfirm_refusedIsNotConfirmed(t *testing.T) {
	f := newFixture(t, DefaultConfig(), twoSources(), &acknowledging{})
	if code := f.post(t, "shop", strings.NewReader("confirm https://127.0.0.1:1/"), with("forged")).StatusCode; code != 406 {
		t.Errorf("POST = %d, want 406", code)
	}
	if n := len(f.service.confirms.queue); n != 0 {
		t.Errorf("%d confirmations are queued, want 0", n)
	}
}

// TestConfirm_notStored: a confirmation follows what is stored, never what is
// not, for the provider sends that again.
func TestConfirm_notStored(t *testing.T) {
	f := newFixture(t, DefaultConfig(), twoSources(), producerFunc(
		func(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
			promise(r, errors.New("down"))
		}))
	body := "confirm https://127.0.0.1:1/"
	if code := f.post(t, "shop", strings.NewReader(body), with(sign(key, []byte(body)))).StatusCode; code != 502 {
		t.Errorf("POST = %d, want 502", code)
	}
	if n := len(f.service.confirms.queue); n != 0 {
		t.Errorf("%d confirmations are queued, want 0", n)
	}
}

func TestConfirm_queueIsFull(t *testing.T) {
	f := newFixture(t, DefaultConfig(), twoSources(), &acknowledging{}) // nobody runs
	body := "confirm https://127.0.0.1:1/"
	var got []int
	for range confirmsQueued + 1 {
		got = append(got, f.post(t, "shop", strings.NewReader(body), with(sign(key, []byte(body)))).StatusCode)
	}
	for i, code := range got[:confirmsQueued] {
		if code != 200 {
			t.Errorf("request %d = %d, want 200", i, code)
		}
	}
	if last := got[confirmsQueued]; last != 502 {
		t.Errorf("request over the queue = %d, want 502", last)
	}
}

// TestConfirm_attempts follows the worker through its time-outs.
func TestConfirm_attempts(t *testing.T) {
	tests := []struct {
		name     string
		fails    int           // attempts that fail
		stop     time.Duration // when Run is told to stop
		queued   int
		attempts int
		took     time.Duration
		outcome  string
		counted  int64
	}{
		{name: "at once", fails: 0, stop: time.Hour, queued: 1, attempts: 1, outcome: "confirmed", counted: 1},
		{
			name: "at the third attempt", fails: 2, stop: time.Hour, queued: 1,
			attempts: 3, took: 3 * time.Second, outcome: "confirmed", counted: 1,
		},
		{
			name: "never", fails: 99, stop: time.Hour, queued: 1,
			attempts: 5, took: 15 * time.Second, outcome: "failed", counted: 1,
		},
		{
			name: "stopped while it waits", fails: 99, stop: 2 * time.Second, queued: 1,
			attempts: 3, took: 2 * time.Second, outcome: "failed", counted: 1,
		},
		{
			name: "stopped with others queued", fails: 1, stop: 500 * time.Millisecond, queued: 3,
			attempts: 4, took: 500 * time.Millisecond, outcome: "confirmed", counted: 3,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, DefaultConfig(), twoSources(), &acknowledging{})
			synctest.Test(t, func(t *testing.T) {
				s := &Service{deps: f.service.deps, metrics: f.service.metrics, confirms: newConfirms()}
				began, last, attempts := time.Now(), time.Duration(0), 0
				fetch := func(context.Context, string) ([]byte, error) {
					attempts++
					last = time.Since(began)
					if attempts <= tt.fails {
						return nil, errors.New("down")
					}
					return nil, nil
				}
				for range tt.queued {
					if !s.confirms.add(confirmation{f.service.sources["shop"], &live{fetch: fetch}, "https://x/"}) {
						t.Fatal("the queue is full")
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), tt.stop)
				defer cancel()
				if err := s.Run(ctx); err != nil {
					t.Errorf("Run() = %v, want nil", err)
				}
				if attempts != tt.attempts || last != tt.took {
					t.Errorf("%d attempts, the last after %s, want %d, %s", attempts, last, tt.attempts, tt.took)
				}
				if s.confirms.add(confirmation{}) {
					t.Error("a confirmation was queued that nobody will make")
				}
			})
			got := f.counts(t, "mailriver.receiver.confirmations")
			if got["outcome="+tt.outcome+" source=shop"] != tt.counted || len(got) != 1 {
				t.Errorf("mailriver.receiver.confirmations = %v, want %d %s", got, tt.counted, tt.outcome)
			}
		})
	}
}

// TestConfirm_unverified: a source without a verifier has nothing to confirm.
func TestConfirm_unverified(t *testing.T) {
	f := newFixture(t, DefaultConfig(), twoSources(), &acknowledging{})
	verified, v := f.service.verify(t.Context(), f.service.sources["open"], f.service.sources["open"].live.Load(), esp.Webhook{
		Body: []byte("confirm https://127.0.0.1:1/"),
	})
	if verified != (esp.Verified{}) || v.status != 0 {
		t.Errorf("verify() = %+v, %+v, want nothing", verified, v)
	}
}
