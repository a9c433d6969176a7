package httpserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func ask(t *testing.T, admin http.Handler, path string) (int, status) {
	t.Helper()
	w := httptest.NewRecorder()
	admin.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	var got status
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("GET %s = %d %q: %v", path, w.Code, w.Body, err)
	}
	return w.Code, got
}

func metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
}

func fine(context.Context) error { return nil }

func TestHealth_ready(t *testing.T) {
	down := func(context.Context) error { return errors.New("dial tcp: refused") }
	tests := []struct {
		name   string
		checks []Check
		drain  bool
		code   int
		want   status
	}{
		{"nothing to check", nil, false, 200, status{"ready", map[string]checkStatus{}}},
		{
			"all there",
			[]Check{{Name: "kafka", Ask: fine}},
			false,
			200,
			status{"ready", map[string]checkStatus{"kafka": {OK: true}}},
		},
		{
			"one missing",
			[]Check{{Name: "kafka", Ask: fine}, {Name: "clickhouse", Ask: down}},
			false,
			503,
			status{"unready", map[string]checkStatus{"kafka": {OK: true}, "clickhouse": {Error: "dial tcp: refused"}}},
		},
		{
			"an optional one missing",
			[]Check{{Name: "sources", Ask: down, Optional: true}},
			false,
			200,
			status{"ready", map[string]checkStatus{"sources": {Optional: true, Error: "dial tcp: refused"}}},
		},
		{
			"draining",
			[]Check{{Name: "kafka", Ask: fine}},
			true,
			503,
			status{"draining", map[string]checkStatus{"kafka": {OK: true}}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := NewHealth(tt.checks...)
			if tt.drain {
				h.Drain()
			}
			admin := h.Admin(metrics())
			code, got := ask(t, admin, "/readyz")
			if code != tt.code || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("GET /readyz = %d %+v, want %d %+v", code, got, tt.code, tt.want)
			}
			if code, got := ask(t, admin, "/livez"); code != 200 || got.Status != "alive" {
				t.Errorf("GET /livez = %d %+v, want 200 alive", code, got)
			}
		})
	}
}

func TestHealth_admin(t *testing.T) {
	admin := NewHealth().Admin(metrics())
	tests := []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/metrics", 200},
		{http.MethodHead, "/readyz", 200},
		{http.MethodPost, "/readyz", 405},
		{http.MethodGet, "/other", 404},
	}
	for _, tt := range tests {
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, nil))
		if w.Code != tt.want {
			t.Errorf("%s %s = %d, want %d", tt.method, tt.path, w.Code, tt.want)
		}
	}
}

func TestHealth_asksOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		admin := NewHealth(Check{Name: "kafka", Ask: func(context.Context) error {
			asked.Add(1)
			time.Sleep(time.Second)
			return nil
		}}).Admin(metrics())
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { ask(t, admin, "/readyz") })
		}
		wg.Wait()
		ask(t, admin, "/readyz") // fresh
		if got := asked.Load(); got != 1 {
			t.Errorf("asked %d times, want 1", got)
		}
		time.Sleep(checkFresh)
		ask(t, admin, "/readyz")
		if got := asked.Load(); got != 2 {
			t.Errorf("asked %d times when the answer was old, want 2", got)
		}
	})
}

func TestHealth_hangingCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		release := make(chan struct{})
		admin := NewHealth(Check{Name: "kafka", Ask: func(context.Context) error {
			asked.Add(1)
			<-release // ignores its context
			return nil
		}}).Admin(metrics())
		for range 3 {
			began := time.Now()
			code, got := ask(t, admin, "/readyz")
			if code != 503 || got.Checks["kafka"].Error != "no answer within 2s" {
				t.Errorf("GET /readyz = %d %+v, want 503 and no answer within 2s", code, got)
			}
			if took := time.Since(began); took != checkTimeout {
				t.Errorf("GET /readyz took %s, want %s", took, checkTimeout)
			}
		}
		if got := asked.Load(); got != 1 {
			t.Errorf("asked %d times while a question was open, want 1", got)
		}
		close(release)
		synctest.Wait()
		if code, _ := ask(t, admin, "/readyz"); code != 200 {
			t.Errorf("GET /readyz = %d when the check is over its trouble, want 200", code)
		}
	})
}
