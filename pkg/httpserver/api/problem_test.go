package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
)

func quiet() *gin.Engine { return NewEngine(slog.New(slog.DiscardHandler)) }

// request is one from this machine.
func request(t testing.TB, method, target, body string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	r.Host, r.RemoteAddr = "127.0.0.1:8082", "127.0.0.1:40000"
	return r
}

func serve(handler http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func problem(t testing.TB, w *httptest.ResponseRecorder) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("answer = %d %s: %v", w.Code, w.Body, err)
	}
	if kind := w.Header().Get("Content-Type"); kind != "application/problem+json" {
		t.Errorf("Content-Type = %q, want application/problem+json", kind)
	}
	return p
}

func TestFail(t *testing.T) {
	var two Fields
	two.Add("address", "is empty")
	two.Must(false, "reason", "is %q", "x")
	two.Must(true, "note", "is fine")
	tests := []struct {
		name   string
		err    error
		want   Problem
		header map[string]string
	}{
		{"a status", NewProblem(409, "is there already"), Problem{Title: "Conflict", Status: 409, Detail: "is there already"}, nil},
		{
			"a type of its own", &Problem{Type: "https://example.com/full", Title: "Full", Status: 507},
			Problem{Type: "https://example.com/full", Title: "Full", Status: 507},
			nil,
		},
		{"wrapped", fmt.Errorf("list: %w", NewProblem(404, "no such list")), Problem{Title: "Not Found", Status: 404, Detail: "no such list"}, nil},
		{
			"one field", Field("limit", "is %d", 0),
			Problem{Title: "Bad Request", Status: 400, Detail: "limit: is 0", Errors: []FieldError{{"limit", "is 0"}}},
			nil,
		},
		{
			"two fields", two.Err(),
			Problem{
				Title: "Bad Request", Status: 400, Detail: "address: is empty; and 1 more",
				Errors: []FieldError{{"address", "is empty"}, {"reason", `is "x"`}},
			},
			nil,
		},
		{
			"try again", Unavailable(1500*time.Millisecond, "kafka cannot be reached"),
			Problem{Title: "Service Unavailable", Status: 503, Detail: "kafka cannot be reached"},
			map[string]string{"Retry-After": "2"},
		},
		{
			"too large", fmt.Errorf("read: %w", &http.MaxBytesError{Limit: 10}),
			Problem{Title: "Request Entity Too Large", Status: 413, Detail: "the body has more than 10 bytes"},
			nil,
		},
		{
			"ours", errors.New("dial tcp 10.0.0.7:9092: refused"),
			Problem{Title: "Internal Server Error", Status: 500, Detail: "something went wrong here; the log of the service says what"},
			nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			engine := quiet()
			after := false
			engine.GET("/v1/things/:id", func(c *gin.Context) { Fail(c, tt.err) }, func(*gin.Context) { after = true })
			w := serve(engine, request(t, http.MethodGet, "/v1/things/a%20b", ""))
			tt.want.Instance = "/v1/things/a%20b"
			if tt.want.Type == "" {
				tt.want.Type = "about:blank"
			}
			if got := problem(t, w); !reflect.DeepEqual(got, tt.want) || w.Code != tt.want.Status {
				t.Errorf("Fail(%v) = %d %+v, want %+v", tt.err, w.Code, got, tt.want)
			}
			tt.header = merge(tt.header, "Cache-Control", "no-store", "X-Content-Type-Options", "nosniff")
			for name, want := range tt.header {
				if got := w.Header().Get(name); got != want {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
			if after {
				t.Error("the next handler ran after Fail")
			}
		})
	}
}

func merge(headers map[string]string, pairs ...string) map[string]string {
	all := map[string]string{}
	for name, value := range headers {
		all[name] = value
	}
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i]] = pairs[i+1]
	}
	return all
}

// A shared problem must not keep what one request made of it.
func TestFail_leavesTheProblemAlone(t *testing.T) {
	shared := NewProblem(404, "no")
	engine := quiet()
	engine.GET("/:id", func(c *gin.Context) { Fail(c, shared) })
	serve(engine, request(t, http.MethodGet, "/a", ""))
	if !reflect.DeepEqual(shared, NewProblem(404, "no")) {
		t.Errorf("Fail changed the problem: %+v", shared)
	}
}

func TestNewEngine_problems(t *testing.T) {
	var log bytes.Buffer
	engine := NewEngine(slog.New(slog.NewJSONHandler(&log, nil)))
	engine.GET("/v1/things", func(*gin.Context) { panic("secret of the house") })
	engine.GET("/v1/broken", func(c *gin.Context) { Fail(c, errors.New("secret of the house")) })
	tests := []struct {
		method, path string
		status       int
		detail       string
		allow        string
		logged       string
	}{
		{"GET", "/", 404, "there is nothing at this path", "", ""},
		{"PUT", "/v1/things", 405, "this path has no PUT; the header Allow says what it has", "GET", ""},
		{"GET", "/v1/things", 500, internal, "", `"msg":"handler panicked"`},
		{"GET", "/v1/broken", 500, internal, "", `"msg":"request failed"`},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			log.Reset()
			w := serve(engine, request(t, tt.method, tt.path, ""))
			p := problem(t, w)
			if w.Code != tt.status || p.Status != tt.status || p.Detail != tt.detail || w.Header().Get("Allow") != tt.allow {
				t.Errorf("%s %s = %d %+v, Allow %q; want %d %q, %q", tt.method, tt.path, w.Code, p, w.Header().Get("Allow"),
					tt.status, tt.detail, tt.allow)
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Errorf("the answer tells what is ours: %s", w.Body)
			}
			lines := 0
			if tt.logged != "" {
				lines = 1
			}
			if got := log.String(); strings.Count(got, "\n") != lines || !strings.Contains(got, tt.logged) {
				t.Errorf("log = %q, want %d line with %s", got, lines, tt.logged)
			}
		})
	}
}

// A client that hung up is no error of ours, whatever became of its request.
func TestFail_clientGone(t *testing.T) {
	var log bytes.Buffer
	engine := NewEngine(slog.New(slog.NewJSONHandler(&log, nil)))
	engine.GET("/", func(c *gin.Context) { Fail(c, c.Request.Context().Err()) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	serve(engine, request(t, http.MethodGet, "/", "").WithContext(ctx))
	if log.Len() > 0 {
		t.Errorf("log = %s, want nothing", log.String())
	}
}

// Without the cut, a client could not tell half an export from a whole one.
func TestFail_answerHasBegun(t *testing.T) {
	tests := []struct {
		name   string
		fail   func(*gin.Context)
		logged string
	}{
		{"failed", func(c *gin.Context) { Fail(c, errors.New("disk is gone")) }, "disk is gone"},
		{"panicked", func(*gin.Context) { panic("disk is gone") }, "disk is gone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			engine := NewEngine(slog.New(slog.NewJSONHandler(&log, nil)))
			engine.GET("/", func(c *gin.Context) {
				_, _ = c.Writer.WriteString("first line\n")
				c.Writer.Flush()
				tt.fail(c)
			})
			server := httptest.NewServer(engine)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			server.Close() // waits for the handler, and so for the log
			if string(body) != "first line\n" || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("body = %q, %v, want the first line and a cut connection", body, err)
			}
			if !strings.Contains(log.String(), tt.logged) {
				t.Errorf("log = %q, want %q", log.String(), tt.logged)
			}
		})
	}
}

func TestFields_Join(t *testing.T) {
	var fields Fields
	if !fields.Join(nil) || fields.Err() != nil {
		t.Errorf("Join(nil) left %v, want nothing", fields.Err())
	}
	if !fields.Join(Field("limit", "is 0")) || !fields.Join(Field("since", "is no time")) {
		t.Error("Join(field) = false, want true")
	}
	if fields.Join(errors.New("disk is gone")) || fields.Join(NewProblem(404, "no")) {
		t.Error("Join(other error) = true, want false")
	}
	if got := fmt.Sprint(fields.Err()); got != "400 Bad Request: limit: is 0; and 1 more" {
		t.Errorf("Err() = %s, want both fields", got)
	}
}

func TestClip(t *testing.T) {
	long := strings.Repeat("é", 60)
	if got := clip(long); got != strings.Repeat("é", 40)+"..." || clip("short") != "short" {
		t.Errorf("clip(%q) = %q, want 40 letters", long, got)
	}
	if got := clip(strings.Repeat("\x80", 100)); got != "..." {
		t.Errorf("clip(no UTF-8) = %q, want ...", got)
	}
}
