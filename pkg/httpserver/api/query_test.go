package api

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
)

func query(t *testing.T, raw string, known ...string) (Query, error) {
	t.Helper()
	r := request(t, "GET", "/", "")
	r.URL.RawQuery = raw
	return ParseQuery(&gin.Context{Request: r}, known...)
}

func TestParseQuery(t *testing.T) {
	tests := []struct {
		raw   string
		known []string
		want  string // the error
	}{
		{"", nil, "<nil>"},
		{"reason=x&limit=1", []string{"reason", "limit"}, "<nil>"},
		{"reason=", []string{"reason"}, "<nil>"},
		{"raeson=x", []string{"reason", "limit"}, "400 Bad Request: raeson: is not known: there are reason, limit"},
		{"a=1", nil, "400 Bad Request: a: is not known: there are no parameters here"},
		{"limit=1&limit=2", []string{"limit"}, "400 Bad Request: limit: is given 2 times"},
		{"b=1&a=1", []string{"limit"}, "400 Bad Request: a: is not known: there are limit; and 1 more"},
		{"a=%zz", []string{"a"}, "400 Bad Request: query: is not encoded as a query must be"},
		{"a=1;b=2", []string{"a"}, "400 Bad Request: query: is not encoded as a query must be"},
	}
	for _, tt := range tests {
		_, err := query(t, tt.raw, tt.known...)
		if got := fmt.Sprint(err); got != tt.want {
			t.Errorf("ParseQuery(%s, %q) = %s, want %s", tt.raw, tt.known, got, tt.want)
		}
	}
}

func TestQuery_Limit(t *testing.T) {
	const wrong = "must be a number from 1 to 1000"
	tests := []struct {
		raw  string
		want int
		err  string
	}{
		{"", 100, "<nil>"},
		{"limit=1", 1, "<nil>"},
		{"limit=1000", 1000, "<nil>"},
		{"limit=0", 0, `400 Bad Request: limit: is "0", ` + wrong},
		{"limit=1001", 0, `400 Bad Request: limit: is "1001", ` + wrong},
		{"limit=-1", 0, `400 Bad Request: limit: is "-1", ` + wrong},
		{"limit=", 0, `400 Bad Request: limit: is "", ` + wrong},
		{"limit=ten", 0, `400 Bad Request: limit: is "ten", ` + wrong},
		{"limit=99999999999999999999", 0, `400 Bad Request: limit: is "99999999999999999999", ` + wrong},
	}
	for _, tt := range tests {
		q, err := query(t, tt.raw, "limit")
		if err != nil {
			t.Fatal(err)
		}
		got, err := q.Limit(100, 1000)
		if got != tt.want || fmt.Sprint(err) != tt.err {
			t.Errorf("Limit(%s) = %d, %v, want %d, %s", tt.raw, got, err, tt.want, tt.err)
		}
	}
}

func TestQuery_Time(t *testing.T) {
	tests := []struct {
		raw  string
		want time.Time
		err  string
	}{
		{"", time.Time{}, "<nil>"},
		{"since=2026-11-24T12:00:00%2B01:00", time.Date(2026, 11, 24, 11, 0, 0, 0, time.UTC), "<nil>"},
		{"since=2026-11-24", time.Time{}, `400 Bad Request: since: is "2026-11-24", must be a time as in RFC 3339, such as 2026-11-24T12:00:00Z`},
	}
	for _, tt := range tests {
		q, err := query(t, tt.raw, "since")
		if err != nil {
			t.Fatal(err)
		}
		got, err := q.Time("since")
		if !reflect.DeepEqual(got, tt.want) || fmt.Sprint(err) != tt.err {
			t.Errorf("Time(%s) = %s, %v, want %s, %s", tt.raw, got, err, tt.want, tt.err)
		}
	}
}
