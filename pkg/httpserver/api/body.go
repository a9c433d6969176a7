package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
)

// Body returns the request's body, bounded: reading over the limit is an error
// that [Fail] answers with 413. It is for bodies that are read as they come; see
// [DecodeJSON] for others. One that announces its size is refused before it is
// read. A compressed body is refused: its bound would bound nothing.
func Body(c *gin.Context, limit int64) (io.Reader, error) {
	if encoding := c.GetHeader("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, NewProblem(http.StatusUnsupportedMediaType, "the body is compressed (%s); send it as it is", clip(encoding))
	}
	if c.Request.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, limit)
	return c.Request.Body, nil
}

// DecodeJSON reads a JSON body of at most limit bytes into what into points to.
// It refuses another Content-Type (415), a longer body (413), and with 400 a
// field that into has not, a value of another type, text that is not UTF-8, and
// anything behind the value, and names the field where there is one.
func DecodeJSON(c *gin.Context, into any, limit int64) error {
	if kind, _, err := mime.ParseMediaType(c.GetHeader("Content-Type")); err != nil || kind != "application/json" {
		return NewProblem(http.StatusUnsupportedMediaType, "the body must be JSON, with `Content-Type: application/json`")
	}
	reader, err := Body(c, limit)
	if err != nil {
		return err
	}
	// All of it first: the bound keeps it small, and a body that was cut off by
	// the network must not be mistaken for one that is malformed.
	var body bytes.Buffer
	if size := c.Request.ContentLength; size > 0 {
		body.Grow(int(size) + bytes.MinRead)
	}
	if _, err := body.ReadFrom(reader); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return err
		}
		return NewProblem(http.StatusBadRequest, "the body did not arrive as a whole")
	}
	return decode(body.Bytes(), into)
}

// whole is the field of an error that is about all of the body.
const whole = "body"

func decode(body []byte, into any) error {
	switch text := bytes.TrimSpace(body); {
	case len(text) == 0:
		return Field(whole, "is empty, must be JSON")
	case !utf8.Valid(body):
		// Package json would put U+FFFD in its place, and make of one address
		// another.
		return Field(whole, "is not UTF-8")
	case string(text) == "null":
		return Field(whole, "is null, must be a value")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return malformed(body, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Field(whole, "has more behind its value, at byte %d", decoder.InputOffset())
	}
	return nil
}

func malformed(body []byte, err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return Field(whole, "is not JSON at byte %d: %s", syntax.Offset, syntax.Error())
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return Field(whole, "is not JSON: it ends too early")
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := wrong.Field
		if field == "" {
			field = whole
		}
		return Field(field, "is %s, must be %s", article(wrong.Value), kindOf(wrong.Type))
	}
	// Package json has no type for this one; a test keeps watch over its text.
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return Field(clip(strings.Trim(name, `"`)), "is not known")
	}
	if wrong, ok := errors.AsType[*time.ParseError](err); ok {
		return Field(fieldOf(body, wrong.Value), "is %q, must be a time as in RFC 3339, such as 2026-11-24T12:00:00Z", clip(wrong.Value))
	}
	return Field(whole, "holds a value that is not as the API's document says")
}

// fieldOf finds the field at the top of a body that holds the text.
func fieldOf(body []byte, text string) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) == nil {
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			if string(fields[name]) == `"`+text+`"` {
				return clip(name)
			}
		}
	}
	return whole
}

// article says for people what package json calls a value: string, bool, number
// (with its digits), array or object.
func article(value string) string {
	switch kind, _, _ := strings.Cut(value, " "); kind {
	case "string":
		return "a text"
	case "bool":
		return "true or false"
	case "array":
		return "a list"
	case "object":
		return "an object"
	default:
		return "a " + clip(value) // "number", "number 1e400"
	}
}

func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number of a sensible size"
	}
	return "of another type"
}
