package api

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/httpserver"
)

// What the kit costs: an empty handler alone, and behind the engine of an API
// with three keys. The difference is a request's share of the kit.
func BenchmarkGuard(b *testing.B) {
	empty := func(c *gin.Context) { c.Status(http.StatusNoContent) }
	bare := httpserver.NewEngine(slog.New(slog.DiscardHandler))
	bare.GET("/v1/suppressions/:address", empty)

	var keys []Key
	var key string
	for _, name := range []string{"first", "second", "third"} {
		var hash string
		key, hash = GenerateKey()
		keys = append(keys, Key{name, hash, []Scope{Read, Write}})
	}
	guard, err := NewGuard(keys)
	if err != nil {
		b.Fatal(err)
	}
	kit := quiet()
	kit.GET("/v1/suppressions/:address", guard.Need(Read), func(c *gin.Context) {
		if _, err := ParseQuery(c, "stream"); err != nil {
			Fail(c, err)
			return
		}
		empty(c)
	})
	for _, handler := range []struct {
		name   string
		engine *gin.Engine
	}{{"bare", bare}, {"kit", kit}} {
		b.Run(handler.name, func(b *testing.B) {
			r := request(b, http.MethodGet, "/v1/suppressions/ada@example.com", "")
			r.Header.Set("Authorization", "Bearer "+key)
			b.ReportAllocs()
			for b.Loop() {
				w := discard{http.Header{}}
				handler.engine.ServeHTTP(w, r)
			}
		})
		// What a client sees: the same over a connection on loopback.
		b.Run(handler.name+" over HTTP", func(b *testing.B) {
			server := httptest.NewServer(handler.engine)
			defer server.Close()
			for b.Loop() {
				r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, server.URL+"/v1/suppressions/ada@example.com", nil)
				if err != nil {
					b.Fatal(err)
				}
				r.Header.Set("Authorization", "Bearer "+key)
				response, err := server.Client().Do(r)
				if err != nil {
					b.Fatal(err)
				}
				if _ = response.Body.Close(); response.StatusCode != http.StatusNoContent {
					b.Fatalf("status = %d", response.StatusCode)
				}
			}
		})
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
