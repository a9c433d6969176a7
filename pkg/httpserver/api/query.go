package api

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
)

// Query is the query of a request, read strictly. Its zero value is the empty
// one.
type Query struct{ values url.Values }

// ParseQuery reads the query. Parameters that are not known are refused, and
// those that are given twice: a filter with a slip in its name would otherwise
// be no filter, and a change would reach more than was meant.
func ParseQuery(c *gin.Context, known ...string) (Query, error) {
	if c.Request.URL.RawQuery == "" {
		return Query{}, nil
	}
	values, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return Query{}, Field("query", "is not encoded as a query must be")
	}
	var wrong Fields
	for _, name := range sorted(values) {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			wrong.Add(clip(name), "is not known: there are no parameters here")
		case !slices.Contains(known, name):
			wrong.Add(clip(name), "is not known: there are %s", strings.Join(known, ", "))
		case len(values[name]) > 1:
			wrong.Add(name, "is given %d times", len(values[name]))
		}
	}
	return Query{values}, wrong.Err()
}

func sorted(values url.Values) []string {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Get returns a parameter, empty where it is not given.
func (q Query) Get(name string) string { return q.values.Get(name) }

// Has says whether a parameter is given, be it empty.
func (q Query) Has(name string) bool { return q.values.Has(name) }

// Limit returns the parameter limit: from 1 to most, and otherwise, where it is
// not given, the usual number.
func (q Query) Limit(usual, most int) (int, error) {
	if !q.Has("limit") {
		return usual, nil
	}
	text := q.Get("limit")
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, Field("limit", "is %q, must be a number from 1 to %d", clip(text), most)
	}
	return n, nil
}

// Time returns a parameter that is a time, in UTC; the zero time where it is not
// given.
func (q Query) Time(name string) (time.Time, error) {
	if !q.Has(name) {
		return time.Time{}, nil
	}
	text := q.Get(name)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, Field(name, "is %q, must be a time as in RFC 3339, such as 2026-11-24T12:00:00Z", clip(text))
	}
	return at.UTC(), nil
}
