package api

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
)

// Turns red on an engine that routes by the decoded path, where an encoded slash
// parts it, and on one that lets gin decode, which reads a plus sign as a space.
func TestParam(t *testing.T) {
	for _, tt := range []struct{ path, want string }{
		{"/things/a@example.com", "a@example.com"},
		{"/things/a%40example.com", "a@example.com"},
		{"/things/a+b@example.com", "a+b@example.com"},
		{"/things/a%2Bb@example.com", "a+b@example.com"},
		{"/things/a%2Fb+c@example.com", "a/b+c@example.com"},
		{"/things/a%2541@example.com", "a%41@example.com"},
		{"/things/a%20b", "a b"},
		{"/things/%C3%A4@example.com", "ä@example.com"},
	} {
		engine := quiet()
		var got string
		engine.GET("/things/:name", func(c *gin.Context) {
			var err error
			if got, err = Param(c, "name"); err != nil {
				Fail(c, err)
			}
		})
		w := httptest.NewRecorder()
		engine.ServeHTTP(w, request(t, http.MethodGet, tt.path, ""))
		if w.Code != http.StatusOK || got != tt.want {
			t.Errorf("Param of %s = %q (%d), want %q", tt.path, got, w.Code, tt.want)
		}
	}
}
