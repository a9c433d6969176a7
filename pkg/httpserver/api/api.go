// Package api is what every HTTP API of Mailriver shares: errors as RFC 9457
// problems, API keys with scopes, bounded and strict JSON bodies, query
// parameters, paging cursors, and the OpenAPI document at /openapi.json.
//
// It has no routes of its own but those of the document, keeps no state, and
// knows no service. It does not limit rates and does not speak TLS: what stands
// in front of an API that is reached from outside does. Package apitest holds an
// API against its document.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/config"
	"mailriver/pkg/httpserver"
)

// Config is where an API listens, and who may use it.
type Config struct {
	HTTP httpserver.Config `yaml:",inline"`
	// Keys are the API keys that are valid now, each with name, hash (of
	// mailriver api-key new) and scopes (read, write). Without any, the API must
	// listen on loopback and answers this machine only.
	Keys []Key `yaml:"keys"`
}

// DefaultConfig returns a configuration that is valid as it stands where addr is
// on loopback.
func DefaultConfig(addr string) Config {
	return Config{HTTP: httpserver.DefaultConfig(addr)}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Add(c.HTTP.Validate())
	problems.Must(len(c.Keys) > 0 || listensOnLoopback(c.HTTP.Addr),
		"keys: there are none, and addr %q can be reached from other machines: make a key with "+
			"`mailriver api-key new --name NAME`, or listen on loopback only, as in addr: \"127.0.0.1:PORT\"", c.HTTP.Addr)
	problems.Add(validateKeys(c.Keys))
	return problems.Err()
}

func listensOnLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && isLoopback(host)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Values of headers, shared by all answers. Nothing writes to them.
var (
	noStore = []string{"no-store"}
	noSniff = []string{"nosniff"}
)

// NewEngine returns an engine of package httpserver whose errors are problems:
// 404 and 405 for what has no route, 500 for a handler that panics. What a
// handler gives to [Fail] and is no problem is logged here, and not told to the
// client.
func NewEngine(log *slog.Logger) *gin.Engine {
	engine := httpserver.NewEngine(log)
	engine.UseEscapedPath, engine.UnescapePathValues = true, false // see Param
	engine.Use(failures(log))
	engine.NoRoute(func(c *gin.Context) { Fail(c, NewProblem(http.StatusNotFound, "there is nothing at this path")) })
	engine.NoMethod(func(c *gin.Context) {
		Fail(c, NewProblem(http.StatusMethodNotAllowed, "this path has no %s; the header Allow says what it has", clip(c.Request.Method)))
	})
	return engine
}

// Listen opens the address of an API and returns its server. Requests wait until
// the server runs.
func Listen(ctx context.Context, cfg Config, routes func(gin.IRouter), log *slog.Logger) (*httpserver.Server, error) {
	engine := NewEngine(log)
	routes(engine)
	server := httpserver.New(cfg.HTTP, engine, log)
	return server, server.Listen(ctx)
}

// failures logs what went wrong and answers panics. The panic itself goes on to
// the recovery of package httpserver, which logs it with its stack.
func failures(log *slog.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		// What an API says is about persons, and true for a moment.
		header := c.Writer.Header()
		header["Cache-Control"] = noStore
		header["X-Content-Type-Options"] = noSniff
		defer func() {
			cause := recover()
			for _, failure := range c.Errors {
				log.ErrorContext(c.Request.Context(), "request failed",
					"method", c.Request.Method, "route", c.FullPath(), "err", failure.Err)
			}
			if cause == nil {
				return
			}
			if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(cause) // the documented way to cut the connection
			}
			if c.Writer.Written() {
				log.ErrorContext(c.Request.Context(), "handler panicked in the middle of its answer",
					"method", c.Request.Method, "route", c.FullPath(), "panic", cause, "stack", string(debug.Stack()))
				panic(http.ErrAbortHandler) // half an answer must not look like a whole one
			}
			answer(c, NewProblem(http.StatusInternalServerError, internal))
			panic(cause)
		}()
		c.Next()
	}
}
