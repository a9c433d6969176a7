package apitest_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/httpserver/api/apitest"
)

const things = `openapi: 3.1.0
info: {title: Things, version: "1"}
paths:
  /v1/things/{id}:
    get:
      parameters:
        - {name: id, in: path, required: true, schema: {type: string}}
        - {name: limit, in: query, schema: {type: integer, minimum: 1}}
      responses:
        "200":
          description: The thing.
          content: {application/json: {schema: {$ref: "#/components/schemas/Thing"}}}
        "404": {$ref: "#/components/responses/Problem"}
  /v1/things/check:
    post:
      requestBody:
        required: true
        content: {application/json: {schema: {$ref: "#/components/schemas/Thing"}}}
      responses:
        "200":
          description: The thing.
          content: {application/json: {schema: {$ref: "#/components/schemas/Thing"}}}
        "400": {$ref: "#/components/responses/Problem"}
components:
  responses:
    Problem:
      description: What is wrong (RFC 9457).
      content: {application/problem+json: {schema: {$ref: "#/components/schemas/Problem"}}}
  schemas:
    Thing:
      type: object
      required: [id, at]
      properties:
        id: {type: string}
        at: {type: string, format: date-time}
        until: {type: [string, "null"], format: date-time}
    Problem:
      type: object
      required: [type, title, status]
      properties:
        type: {type: string}
        title: {type: string}
        status: {type: integer}
        detail: {type: string}
        instance: {type: string}
        errors:
          type: array
          items:
            type: object
            required: [field, detail]
            properties: {field: {type: string}, detail: {type: string}}
`

// said is a test that is told off instead of failing.
type said struct {
	testing.TB
	text strings.Builder
}

func (s *said) Helper() {}
func (s *said) Errorf(format string, args ...any) {
	fmt.Fprintf(&s.text, format+"\n", args...)
}
func (s *said) Error(args ...any) { s.Errorf("%s", fmt.Sprint(args...)) }
func (s *said) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}
func (s *said) Fatal(args ...any) { s.Fatalf("%s", fmt.Sprint(args...)) }
func (s *said) FailNow()          { runtime.Goexit() }
func (s *said) Failed() bool      { return s.text.Len() > 0 }

// telling returns what a check says about what it is given.
func telling(t *testing.T, check func(testing.TB)) string {
	t.Helper()
	s := &said{TB: t}
	done := make(chan struct{})
	go func() { defer close(done); check(s) }()
	<-done
	return s.text.String()
}

func expect(t *testing.T, name, got, want string) {
	t.Helper()
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("%s said %q, want %q", name, got, want)
	}
}

func TestOpen(t *testing.T) {
	for _, tt := range []struct{ name, from, to, want string }{
		{"valid", "", "", ""},
		{"of version 3.0", "openapi: 3.1.0", "openapi: 3.0.3", "is of version 3.0.3, want 3.1"},
		{"no title", "{title: Things, version: \"1\"}", "{version: \"1\"}", "title"},
		{"a parameter nowhere", "in: path, required: true", "in: way, required: true", "openapi document:"},
		{"a reference to nothing", `{$ref: "#/components/responses/Problem"}`, `{$ref: "#/components/responses/Nothing"}`, "Nothing"},
		{"no YAML", "info:", "info: [", "openapi document: yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := things
			if tt.from != "" {
				text = strings.Replace(things, tt.from, tt.to, 1)
			}
			expect(t, "Open", telling(t, func(tb testing.TB) { apitest.Open(tb, []byte(text)) }), tt.want)
		})
	}
}

func TestDocument_Routes(t *testing.T) {
	none := func(*gin.Context) {}
	for _, tt := range []struct {
		name   string
		change func(*gin.Engine)
		want   string
	}{
		{"the same", func(e *gin.Engine) { e.GET("/v1/things/:id", none); e.POST("/v1/things/check", none) }, ""},
		{"one route less", func(e *gin.Engine) { e.GET("/v1/things/:id", none) }, "operation POST /v1/things/check of the document has no route"},
		{
			"one route more",
			func(e *gin.Engine) {
				e.GET("/v1/things/:id", none)
				e.POST("/v1/things/check", none)
				e.DELETE("/v1/things/:id", none)
			},
			"route DELETE /v1/things/{id} is not in the document",
		},
		{"another name", func(e *gin.Engine) { e.GET("/v1/things/:name", none); e.POST("/v1/things/check", none) }, "route GET /v1/things/{name} is not in the document"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			engine := api.NewEngine(slog.New(slog.DiscardHandler))
			document, err := api.ParseDocument([]byte(things))
			if err != nil {
				t.Fatal(err)
			}
			document.Routes(engine)
			tt.change(engine)
			d := apitest.Open(t, []byte(things))
			expect(t, "Routes", telling(t, func(tb testing.TB) { d.Routes(tb, engine.Routes()) }), tt.want)
		})
	}
}

func TestDocument_Handler(t *testing.T) {
	const thing = `{"id":"a","at":"2026-11-24T12:00:00Z"}`
	const missing = `{"type":"about:blank","title":"Not Found","status":404}`
	type reply struct {
		status     int
		kind, body string
	}
	for _, tt := range []struct {
		name, method, target, body string
		reply                      reply
		want                       string
	}{
		{"good", "GET", "/v1/things/a", "", reply{200, "application/json", thing}, ""},
		{"null", "GET", "/v1/things/a", "", reply{200, "application/json", `{"id":"a","at":"2026-11-24T12:00:00Z","until":null}`}, ""},
		{"good, with a body", "POST", "/v1/things/check", thing, reply{200, "application/json", thing}, ""},
		{"a field is missing", "GET", "/v1/things/a", "", reply{200, "application/json", `{"id":"a"}`}, "is not as the document says"},
		{"a field too many", "GET", "/v1/things/a", "", reply{200, "application/json", `{"id":"a","at":"2026-11-24T12:00:00Z","new":1}`}, "is not as the document says"},
		{"no time", "GET", "/v1/things/a", "", reply{200, "application/json", `{"id":"a","at":"today"}`}, "is not as the document says"},
		{"another type", "GET", "/v1/things/a", "", reply{200, "text/plain", thing}, "is not as the document says"},
		{"a status of its own", "GET", "/v1/things/a", "", reply{201, "application/json", thing}, "is not as the document says"},
		{"a problem", "GET", "/v1/things/a", "", reply{404, "application/problem+json", missing}, ""},
		{"an error that is none", "GET", "/v1/things/a", "", reply{404, "application/json", `{"error":"no"}`}, "want a problem"},
		{"a problem of another status", "GET", "/v1/things/a", "", reply{404, "application/problem+json", strings.Replace(missing, "404", "500", 1)}, "want a problem"},
		{"a problem that is not documented", "GET", "/v1/things/a", "", reply{500, "application/problem+json", strings.Replace(missing, "404", "500", 1)}, "is not as the document says"},
		{"nowhere", "GET", "/v1/nothing", "", reply{404, "application/problem+json", missing}, ""},
		{"an answer nowhere", "GET", "/v1/nothing", "", reply{200, "application/json", thing}, "which the document does not know"},
		{"a body that is not documented", "POST", "/v1/things/check", `{"id":1}`, reply{200, "application/json", thing}, "was answered 200"},
		{"a parameter that is not documented", "GET", "/v1/things/a?limit=0", "", reply{200, "application/json", thing}, "was answered 200"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := apitest.Open(t, []byte(things))
			inner := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.reply.kind)
				w.WriteHeader(tt.reply.status)
				_, _ = w.Write([]byte(tt.reply.body))
			})
			w := httptest.NewRecorder()
			expect(t, "Handler", telling(t, func(tb testing.TB) {
				r := httptest.NewRequestWithContext(t.Context(), tt.method, tt.target, strings.NewReader(tt.body))
				r.Header.Set("Content-Type", "application/json")
				d.Handler(tb, inner).ServeHTTP(w, r)
			}), tt.want)
			if w.Code != tt.reply.status || w.Body.String() != tt.reply.body {
				t.Errorf("Handler passed on %d %s, want %d %s", w.Code, w.Body, tt.reply.status, tt.reply.body)
			}
		})
	}
}

func TestDocument_Covered(t *testing.T) {
	d := apitest.Open(t, []byte(things))
	handler := d.Handler(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"id":"a","at":"2026-11-24T12:00:00Z"}`))
	}))
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/v1/things/a", nil))
	const want = "no test had POST /v1/things/check answered with success\n"
	if got := telling(t, func(tb testing.TB) { d.Covered(tb) }); got != want {
		t.Errorf("Covered said %q, want %q", got, want)
	}
}
