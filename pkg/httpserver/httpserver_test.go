package httpserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
)

func TestConfig_Validate(t *testing.T) {
	if err := DefaultConfig(":8080").Validate(); err != nil {
		t.Errorf("DefaultConfig().Validate() = %v, want nil", err)
	}
	err := Config{Addr: "8080", WriteTimeout: time.Second, ReadTimeout: time.Second}.Validate()
	want := `addr: is "8080", must be host:port or :port
read_header_timeout: is 0s, must be positive
idle_timeout: is 0s, must be positive
drain_timeout: is 0s, must be positive
write_timeout: is 1s, must exceed read_timeout (1s) or a slow request gets no answer
max_header_bytes: is 0, must be at least 4096`
	if err == nil || err.Error() != want {
		t.Errorf("Validate() = %v, want\n%s", err, want)
	}
}

func TestNewEngine(t *testing.T) {
	var log bytes.Buffer
	engine := NewEngine(slog.New(slog.NewJSONHandler(&log, nil)))
	engine.POST("/ok", func(c *gin.Context) { c.Status(http.StatusOK) })
	engine.POST("/panic", func(*gin.Context) { panic("broken") })

	tests := []struct {
		method, path string
		want         int
		allow        string
	}{
		{http.MethodPost, "/ok", http.StatusOK, ""},
		{http.MethodPut, "/ok", http.StatusMethodNotAllowed, "POST"},
		{http.MethodPost, "/ok/", http.StatusNotFound, ""},
		{http.MethodPost, "/none", http.StatusNotFound, ""},
		{http.MethodPost, "/panic", http.StatusInternalServerError, ""},
	}
	for _, tt := range tests {
		r := httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, strings.NewReader("body-text"))
		r.Header.Set("Authorization", "header-text")
		w := httptest.NewRecorder()
		engine.ServeHTTP(w, r)
		if w.Code != tt.want || w.Header().Get("Allow") != tt.allow {
			t.Errorf("%s %s = %d, Allow %q, want %d, %q", tt.method, tt.path, w.Code, w.Header().Get("Allow"), tt.want, tt.allow)
		}
	}
	if got := log.String(); !strings.Contains(got, `"panic":"broken"`) || strings.Count(got, "\n") != 1 {
		t.Errorf("log = %q, want one line about the panic", got)
	}
	if strings.Contains(log.String(), "header-text") || strings.Contains(log.String(), "body-text") {
		t.Errorf("log holds what was sent: %s", log.String())
	}
}

func TestNewEngine_abortHandler(t *testing.T) {
	engine := NewEngine(slog.New(slog.DiscardHandler))
	engine.GET("/cut", func(*gin.Context) { panic(http.ErrAbortHandler) })
	server := httptest.NewServer(engine)
	defer server.Close()
	response, err := get(t, server.URL+"/cut")
	if err == nil {
		t.Errorf("GET = %d, want a cut connection", response)
	}
}

func get(t *testing.T, url string) (int, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// start runs a server on a free port. The returned function ends it and gives
// what Run returned.
func start(t *testing.T, cfg Config, handler http.Handler) (server *Server, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	server = New(cfg, handler, slog.New(slog.DiscardHandler))
	if err := server.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return server, stop
}

func dial(t *testing.T, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(t.Context(), "tcp", address)
}

func local() Config {
	return DefaultConfig("127.0.0.1:0")
}

func TestServer_finishesRequestsInHand(t *testing.T) {
	begun, finish := make(chan context.Context), make(chan struct{})
	server, stop := start(t, local(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- r.Context()
		<-finish
		if err := r.Context().Err(); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	code := make(chan string, 1)
	go func() {
		got, err := get(t, "http://"+server.Addr())
		code <- fmt.Sprint(got, err)
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	// The listener is closed first: new connections are refused.
	waitFor(t, "the listener to close", func() bool {
		conn, err := dial(t, server.Addr())
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	close(finish)
	if got := <-code; got != "200 <nil>" {
		t.Errorf("the request in hand got %s, want 200 <nil>", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}

func TestServer_drainTimeout(t *testing.T) {
	cfg := local()
	cfg.DrainTimeout = 10 * time.Millisecond
	begun, finish := make(chan struct{}), make(chan struct{})
	defer close(finish)
	server, stop := start(t, cfg, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(begun); <-finish }))
	go func() { _, _ = get(t, "http://"+server.Addr()) }()
	<-begun
	if err := stop(); err == nil || !strings.Contains(err.Error(), "requests cut off after 10ms") {
		t.Errorf("Run() = %v, want requests cut off after 10ms", err)
	}
}

func TestServer_addressInUse(t *testing.T) {
	first, _ := start(t, local(), http.NotFoundHandler())
	cfg := local()
	cfg.Addr = first.Addr()
	second := New(cfg, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	err := second.Listen(t.Context())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), first.Addr()) {
		t.Errorf("Listen() = %v, want EADDRINUSE that names %s", err, first.Addr())
	}
	if err := second.Run(t.Context()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Run() = %v, want EADDRINUSE", err)
	}
	if err := second.Close(); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
}

func TestServer_closeWithoutRun(t *testing.T) {
	server := New(local(), http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(t.Context()); err != nil {
		t.Errorf("a second Listen() = %v, want nil", err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if conn, err := dial(t, server.Addr()); err == nil {
		_ = conn.Close()
		t.Error("the address still answers after Close()")
	}
}

func TestServer_slowClients(t *testing.T) {
	cfg := local()
	cfg.ReadHeaderTimeout, cfg.ReadTimeout = 20*time.Millisecond, 60*time.Millisecond
	server, _ := start(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	tests := []struct {
		name, send, want string
	}{
		{"headers never end", "POST / HTTP/1.1\r\nHost: x\r\n", ""},
		{"body never ends", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", "HTTP/1.1 503 Service Unavailable\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := dial(t, server.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, tt.send); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			if line != tt.want || (tt.want == "" && !errors.Is(err, io.EOF)) {
				t.Errorf("answer = %q, %v, want %q", line, err, tt.want)
			}
		})
	}
}
