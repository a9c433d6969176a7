package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
)

// A body and an answer that take longer than the server's time-outs arrive as a
// whole with Patient, and do not without it.
func TestPatient(t *testing.T) {
	const pieces, timeout = 15, 100 * time.Millisecond
	for _, patient := range []bool{false, true} {
		t.Run(fmt.Sprint(patient), func(t *testing.T) {
			tick := time.NewTicker(timeout / 5)
			defer tick.Stop()
			engine := quiet()
			engine.POST("/", func(c *gin.Context) {
				if patient {
					Patient(c, time.Minute)
				}
				body, err := Body(c, pieces)
				if err != nil {
					Fail(c, err)
					return
				}
				text, err := io.ReadAll(body)
				if err != nil {
					Fail(c, NewProblem(http.StatusRequestTimeout, "too slow"))
					return
				}
				for range pieces {
					<-tick.C
					_, _ = c.Writer.WriteString(string(text[:1]))
					c.Writer.Flush()
				}
			})
			server := httptest.NewUnstartedServer(engine)
			server.Config.ReadTimeout, server.Config.WriteTimeout = timeout, timeout
			server.Start()
			defer server.Close()

			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, &slow{tick.C, pieces})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if response, err := server.Client().Do(r); err == nil {
				text, _ := io.ReadAll(response.Body)
				_ = response.Body.Close()
				got = string(text)
			}
			if whole := got == strings.Repeat("x", pieces); whole != patient {
				t.Errorf("answer = %q with Patient %t, want it whole: %t", got, patient, patient)
			}
		})
	}
}

// slow is a body that comes byte by byte.
type slow struct {
	tick <-chan time.Time
	left int
}

func (s *slow) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	<-s.tick
	s.left--
	p[0] = 'x'
	return 1, nil
}

// On a recorder, which has no deadlines, it changes nothing.
func TestPatient_recorder(t *testing.T) {
	engine := quiet()
	engine.POST("/", func(c *gin.Context) {
		Patient(c, time.Minute)
		text, err := io.ReadAll(c.Request.Body)
		if err != nil {
			Fail(c, err)
			return
		}
		c.Data(http.StatusOK, "text/plain", text)
	})
	if w := serve(engine, request(t, http.MethodPost, "/", "abc")); w.Code != 200 || w.Body.String() != "abc" {
		t.Errorf("answer = %d %q, want 200 abc", w.Code, w.Body)
	}
}
