package chdb

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// Codes of ClickHouse exceptions that are raised here and not by the engine.
const (
	codeCannotDecompress   = 271
	codeUnknownSetting     = 115
	codeIncorrectData      = 117
	codeNotImplemented     = 48
	codeSyntaxError        = 62
	codeUnknownFormat      = 73
	codeTooManyQueries     = 202
	codeQueryIsTooLarge    = 382
	codeBadArguments       = 36
	codeAccessDenied       = 497
	codeUnknown            = 1002
	codeCannotReadAllData  = 33
	codeQueryWasCancelled  = 394
	codeTooManyRowsOrBytes = 396
)

// exception is an error as ClickHouse reports it: a text that begins with
// "Code: N. DB::Exception: ".
type exception struct {
	code int
	text string
}

func (e *exception) Error() string { return e.text }

var codePrefix = regexp.MustCompile(`^Code: (\d+)\. `)

// newException takes an error text of the library. A nested exception comes as
// "Code: N. DB::Exception: Code: N. DB::Exception: ...".
func newException(text string) *exception {
	text = strings.TrimSpace(text)
	m := codePrefix.FindStringSubmatch(text)
	if m == nil {
		return raise(codeUnknown, "UNKNOWN_EXCEPTION", text)
	}
	code, err := strconv.Atoi(m[1])
	if err != nil {
		code = codeUnknown
	}
	return &exception{code: code, text: text}
}

// raise makes an exception that reads like one of the engine.
func raise(code int, name, text string) *exception {
	return &exception{code: code, text: "Code: " + strconv.Itoa(code) + ". DB::Exception: " + text + ". (" + name + ")"}
}

// status is the HTTP status that a ClickHouse server answers with the code.
// Clients decide by the code; the status only says whose fault it was.
func (e *exception) status() int {
	switch e.code {
	case 6, 26, 27, 32, 33, 36, 38, 41, 43, 53, 62, 69, 72, 117, 130, 131, 246, 271, 376, 441, 456, 457:
		return http.StatusBadRequest // cannot parse, bad arguments, syntax
	case 16, 46, 47, 50, 56, 60, 63, 73, 81, 82, 111, 115, 143, 511:
		return http.StatusNotFound // unknown column, function, table, database, setting, ...
	case codeQueryIsTooLarge:
		return http.StatusRequestEntityTooLarge
	case codeNotImplemented:
		return http.StatusNotImplemented
	case 159:
		return http.StatusRequestTimeout
	case codeAccessDenied:
		return http.StatusForbidden
	case codeTooManyQueries:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
