package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
)

// Problem is an error as a client sees it: the problem details of RFC 9457,
// with the fields that are wrong. It is an error, so that functions below a
// handler can return it.
type Problem struct {
	// Type is a URI of the kind of problem. about:blank, which stands in its
	// place when it is empty, says: no more than the status does.
	Type     string       `json:"type"`
	Title    string       `json:"title"` // the same for all problems of a type
	Status   int          `json:"status"`
	Detail   string       `json:"detail,omitempty"`   // what happened here, for people
	Instance string       `json:"instance,omitempty"` // the path asked for; set by Fail
	Errors   []FieldError `json:"errors,omitempty"`   // every field that is wrong
	// RetryAfter, if positive, is sent as the header of that name.
	RetryAfter time.Duration `json:"-"`

	challenge string // of WWW-Authenticate
}

// FieldError says what is wrong with one field of a body, one parameter of a
// query or path, or one header.
type FieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

func (f FieldError) String() string { return f.Field + ": " + f.Detail }

// NewProblem returns a problem of a status. The text is for the client: it names
// nothing that only this machine knows.
func NewProblem(status int, format string, args ...any) *Problem {
	return &Problem{Status: status, Detail: fmt.Sprintf(format, args...)}
}

// Unavailable returns the problem that something which is needed cannot be
// reached now, with the time after which the client may try again.
func Unavailable(retryAfter time.Duration, format string, args ...any) *Problem {
	p := NewProblem(http.StatusServiceUnavailable, format, args...)
	p.RetryAfter = retryAfter
	return p
}

// Field returns the problem that one field is wrong: 400, and which field.
func Field(field, format string, args ...any) *Problem {
	var fields Fields
	fields.Add(field, format, args...)
	return fields.problem()
}

// Fields collects what is wrong with a request, so that a client learns it in
// one go. Its zero value is ready to use.
type Fields struct{ errs []FieldError }

// Must adds an error of a field unless ok.
func (f *Fields) Must(ok bool, field, format string, args ...any) {
	if !ok {
		f.Add(field, format, args...)
	}
}

// Add adds an error of a field.
func (f *Fields) Add(field, format string, args ...any) {
	f.errs = append(f.errs, FieldError{field, fmt.Sprintf(format, args...)})
}

// Join adds the fields of err, which may be nil, and says whether it was nothing
// else: false means that err is for the caller to return.
func (f *Fields) Join(err error) bool {
	if err == nil {
		return true
	}
	p, ok := errors.AsType[*Problem](err)
	if !ok || p.Status != http.StatusBadRequest || len(p.Errors) == 0 {
		return false
	}
	f.errs = append(f.errs, p.Errors...)
	return true
}

// Err returns what was collected as one problem, 400, or nil.
func (f *Fields) Err() error {
	if len(f.errs) == 0 {
		return nil
	}
	return f.problem()
}

func (f *Fields) problem() *Problem {
	p := &Problem{Status: http.StatusBadRequest, Detail: f.errs[0].String(), Errors: f.errs}
	if more := len(f.errs) - 1; more > 0 {
		p.Detail = fmt.Sprintf("%s; and %d more", p.Detail, more)
	}
	return p
}

func (p *Problem) Error() string {
	var text strings.Builder
	text.WriteString(strconv.Itoa(p.Status) + " " + http.StatusText(p.Status))
	if p.Detail != "" {
		text.WriteString(": " + p.Detail)
	}
	return text.String()
}

// internal is all that a client learns about an error that is ours.
const internal = "something went wrong here; the log of the service says what"

// Fail answers with what err is, and ends the request: it is the one way for a
// handler to say no. A [Problem] is answered as it is, a body over its bound
// with 413, and any other error with 500 and without its text, which is logged.
//
// When the answer has begun, the connection is cut, so that half an answer is
// not taken for a whole one. Fail does not return then.
func Fail(c *gin.Context, err error) {
	c.Abort()
	if c.Writer.Written() {
		if c.Request.Context().Err() == nil {
			_ = c.Error(err)
		}
		panic(http.ErrAbortHandler)
	}
	answer(c, problemOf(c, err))
}

func problemOf(c *gin.Context, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return NewProblem(http.StatusRequestEntityTooLarge, "the body has more than %d bytes", tooLarge.Limit)
	}
	// Nobody waits for the answer to a request that was given up, and its error
	// is most likely only that.
	if c.Request.Context().Err() == nil {
		_ = c.Error(err)
	}
	return NewProblem(http.StatusInternalServerError, internal)
}

// answer writes the problem. Nothing has been written before.
func answer(c *gin.Context, problem *Problem) {
	p := *problem // it may be shared
	if p.Type == "" {
		p.Type = "about:blank"
	}
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	if p.Instance == "" {
		p.Instance = c.Request.URL.EscapedPath()
	}
	if p.challenge != "" {
		c.Header("WWW-Authenticate", p.challenge)
	}
	if p.RetryAfter > 0 {
		// Whole seconds, and not before the time is over.
		c.Header("Retry-After", strconv.FormatInt(int64((p.RetryAfter+time.Second-1)/time.Second), 10))
	}
	body, err := json.Marshal(p)
	if err != nil { // texts and a number
		body = []byte(`{"type":"about:blank","title":"Internal Server Error","status":500}`)
	}
	c.Data(p.Status, "application/problem+json", body)
	c.Abort()
}

// clip shortens what a client sent before it is said back.
func clip(text string) string {
	const most = 80
	if len(text) <= most {
		return text
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}
