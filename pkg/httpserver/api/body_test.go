package api

import (
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
)

type change struct {
	Address string    `json:"address"`
	Count   int       `json:"count"`
	Share   float64   `json:"share"`
	Done    bool      `json:"done"`
	Tags    []string  `json:"tags"`
	At      time.Time `json:"at"`
	Scope   struct {
		Kind string `json:"kind"`
	} `json:"scope"`
}

func TestDecodeJSON(t *testing.T) {
	const jsonType = "application/json"
	fields := func(field, detail string) []FieldError { return []FieldError{{field, detail}} }
	tests := []struct {
		name, kind, body string
		status           int
		want             []FieldError
	}{
		{"whole", jsonType, `{"address":"a@example.com","count":1,"tags":["x"],"at":"2026-11-24T12:00:00Z"}`, 200, nil},
		{"with charset and space", "application/json; charset=utf-8", " {}\n", 200, nil},
		{"at the limit", jsonType, `{"address":"` + strings.Repeat("a", 186) + `"}`, 200, nil},
		{"over the limit", jsonType, `{"address":"` + strings.Repeat("a", 187) + `"}`, 413, nil},
		{"no type", "", `{}`, 415, nil},
		{"a form", "application/x-www-form-urlencoded", `{}`, 415, nil},
		{"empty", jsonType, " \n", 400, fields("body", "is empty, must be JSON")},
		{"null", jsonType, `null`, 400, fields("body", "is null, must be a value")},
		{"unknown field", jsonType, `{"adress":"a@example.com"}`, 400, fields("adress", "is not known")},
		{"unknown field, long", jsonType, `{"` + strings.Repeat("a", 100) + `":1}`, 400, fields(strings.Repeat("a", 80)+"...", "is not known")},
		{"more behind", jsonType, `{} {}`, 400, fields("body", "has more behind its value, at byte 4")},
		{"broken", jsonType, `{"address":}`, 400, fields("body", "is not JSON at byte 12: invalid character '}' looking for beginning of value")},
		{"cut off", jsonType, `{"address":"a`, 400, fields("body", "is not JSON: it ends too early")},
		{"not UTF-8", jsonType, "{\"address\":\"\xff@example.com\"}", 400, fields("body", "is not UTF-8")},
		{"a list", jsonType, `[]`, 400, fields("body", "is a list, must be an object")},
		{"number for text", jsonType, `{"address":1}`, 400, fields("address", "is a number, must be a text")},
		{"text for number", jsonType, `{"count":"1"}`, 400, fields("count", "is a text, must be a whole number of a sensible size")},
		{"huge number", jsonType, `{"count":1e400}`, 400, fields("count", "is a number 1e400, must be a whole number of a sensible size")},
		{"text for share", jsonType, `{"share":"1"}`, 400, fields("share", "is a text, must be a number")},
		{"object for bool", jsonType, `{"done":{}}`, 400, fields("done", "is an object, must be true or false")},
		{"bool for list", jsonType, `{"tags":true}`, 400, fields("tags", "is true or false, must be a list")},
		{"below an object", jsonType, `{"scope":{"kind":1}}`, 400, fields("scope.kind", "is a number, must be a text")},
		{"no time", jsonType, `{"address":"x","at":"2026-13-01"}`, 400, fields("at", `is "2026-13-01", must be a time as in RFC 3339, such as 2026-11-24T12:00:00Z`)},
		{"a number as time", jsonType, `{"at":7}`, 400, fields("body", "holds a value that is not as the API's document says")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, announced := range []bool{true, false} {
				engine := quiet()
				engine.POST("/", func(c *gin.Context) {
					var got change
					if err := DecodeJSON(c, &got, 200); err != nil {
						Fail(c, err)
						return
					}
					c.JSON(http.StatusOK, got)
				})
				r := request(t, http.MethodPost, "/", tt.body)
				r.Header.Set("Content-Type", tt.kind)
				if !announced {
					r.ContentLength = -1
				}
				w := serve(engine, r)
				var got []FieldError
				if w.Code >= 400 {
					got = problem(t, w).Errors
				}
				if w.Code != tt.status || !reflect.DeepEqual(got, tt.want) {
					t.Errorf("DecodeJSON(%s) = %d %+v, want %d %+v", tt.body, w.Code, got, tt.status, tt.want)
				}
			}
		})
	}
}

func TestBody(t *testing.T) {
	tests := []struct {
		name   string
		change func(*http.Request)
		status int
		want   string
	}{
		{"within", func(*http.Request) {}, 200, "0123456789"},
		{"compressed", func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, 415, "the body is compressed (gzip); send it as it is"},
		{"identity", func(r *http.Request) { r.Header.Set("Content-Encoding", "identity") }, 200, "0123456789"},
		{"announced as larger", func(r *http.Request) { r.ContentLength = 11 }, 413, "the body has more than 10 bytes"},
		{
			"larger than announced", func(r *http.Request) {
				r.ContentLength, r.Body = -1, io.NopCloser(strings.NewReader("0123456789a"))
			}, 413, "the body has more than 10 bytes",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			engine := quiet()
			engine.POST("/", func(c *gin.Context) {
				body, err := Body(c, 10)
				if err != nil {
					Fail(c, err)
					return
				}
				text, err := io.ReadAll(body)
				if err != nil {
					Fail(c, err)
					return
				}
				c.String(http.StatusOK, string(text))
			})
			r := request(t, http.MethodPost, "/", "0123456789")
			tt.change(r)
			w := serve(engine, r)
			got := w.Body.String()
			if w.Code >= 400 {
				got = problem(t, w).Detail
			}
			if w.Code != tt.status || got != tt.want {
				t.Errorf("Body() = %d %q, want %d %q", w.Code, got, tt.status, tt.want)
			}
		})
	}
}

// A body that the network cut off is not malformed, and not our error either.
func TestDecodeJSON_cutOff(t *testing.T) {
	engine := quiet()
	engine.POST("/", func(c *gin.Context) {
		var got change
		if err := DecodeJSON(c, &got, 200); err != nil {
			Fail(c, err)
		}
	})
	r := request(t, http.MethodPost, "/", "")
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength, r.Body = -1, io.NopCloser(io.MultiReader(strings.NewReader(`{"address":`), broken{}))
	w := serve(engine, r)
	if p := problem(t, w); w.Code != 400 || p.Detail != "the body did not arrive as a whole" {
		t.Errorf("DecodeJSON(cut off) = %d %+v, want 400", w.Code, p)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }
