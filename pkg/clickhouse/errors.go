package clickhouse

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	"mailriver/pkg/config"
	"mailriver/pkg/fault"
)

// Codes of ClickHouse that a value in a row can cause, by its ErrorCodes.cpp.
//
// TYPE_MISMATCH (53) and the UNKNOWN_... codes are not here although they
// refuse an insert: the types of a block do not depend on its values, so they
// mean that table and binary do not fit, and every row would be given up on.
// Nor is INCORRECT_DATA or CANNOT_READ_ALL_DATA: a broken connection causes them.
var rowCodes = map[int32]string{
	6:   "CANNOT_PARSE_TEXT",
	26:  "CANNOT_PARSE_QUOTED_STRING",
	27:  "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
	38:  "CANNOT_PARSE_DATE",
	41:  "CANNOT_PARSE_DATETIME",
	69:  "ARGUMENT_OUT_OF_BOUND",
	70:  "CANNOT_CONVERT_TYPE",
	72:  "CANNOT_PARSE_NUMBER",
	128: "TOO_LARGE_ARRAY_SIZE",
	131: "TOO_LARGE_STRING_SIZE",
	321: "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
	349: "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN",
	376: "CANNOT_PARSE_UUID",
	407: "DECIMAL_OVERFLOW",
	469: "VIOLATED_CONSTRAINT",
}

// Error is an answer of ClickHouse that refuses something.
type Error struct {
	Code int32  // of ErrorCodes.cpp
	Name string // such as UNKNOWN_TABLE; may be empty
	Text string // never the value of a column
}

func (e *Error) Error() string {
	name := e.Name
	if name == "" {
		name = fmt.Sprintf("code %d", e.Code)
	}
	return name + ": " + e.Text
}

// Classify gives an error of the driver the form that the rest of the program
// understands. What a row causes is marked fault.RowRefused, names the column
// where ClickHouse names it, and leaves the value out. Everything else is
// unmarked and so retryable: unreachable, overloaded, timed out, read only, out
// of memory, a table that is missing.
func Classify(err error) error {
	if err == nil {
		return nil
	}
	if _, marked := fault.Reason(err); marked {
		return err
	}
	exception, ok := errors.AsType[*driver.Exception](err)
	if !ok {
		return err
	}
	answer := &Error{Code: exception.Code, Name: exception.CodeName, Text: exception.Message}
	name, rowCaused := rowCodes[exception.Code]
	if answer.Name == "" {
		answer.Name = name
	}
	if view, ok := pushedView(exception.Message); ok {
		// The rows of this insert are in the table already, or will be when it
		// is repeated; only the view is behind. Giving up on a row because of
		// somebody's view would lose it, so a person must repair the view.
		answer.Text = "view " + view + " cannot take the rows; repair or drop it"
		return answer
	}
	if !rowCaused {
		return answer
	}
	answer.Text = refusal(exception.Message)
	return fault.Permanent(fault.RowRefused, answer)
}

var (
	viewOf       = regexp.MustCompile(`while pushing to view ([^\s:(),]+)`)
	constraintOf = regexp.MustCompile("^Constraint `([^`]+)`")
	valuesOf     = regexp.MustCompile(`Column values: ([A-Za-z_][A-Za-z0-9_]*) = `)
	columnOf     = regexp.MustCompile("(?i)\\bcolumn [`']?([A-Za-z_][A-Za-z0-9_]*)[`']?")
)

func pushedView(message string) (string, bool) {
	m := viewOf.FindStringSubmatch(message)
	if m == nil {
		return "", false
	}
	return strings.TrimRight(m[1], "."), true
}

// refusal says what a message says about the column, and nothing of the value:
// messages quote it, and it may be somebody's address.
func refusal(message string) string {
	if m := constraintOf.FindStringSubmatch(message); m != nil {
		text := "constraint " + m[1]
		if m := valuesOf.FindStringSubmatch(message); m != nil {
			text += " on column " + m[1]
		}
		return text
	}
	if m := columnOf.FindStringSubmatch(message); m != nil {
		return "column " + m[1]
	}
	return "ClickHouse names no column"
}

// classify is Classify for an error of this endpoint, with its password out of
// the text.
func (e endpoint) classify(op string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("clickhouse: %s: %w", op, Classify(err))
	if e.auth.Password != "" && strings.Contains(err.Error(), e.auth.Password) {
		return &redacted{strings.ReplaceAll(err.Error(), e.auth.Password, config.Redacted), err}
	}
	return err
}

// redacted shows a text that has no secret, and still is what it wraps to
// errors.Is and errors.As.
type redacted struct {
	text string
	err  error
}

func (r *redacted) Error() string { return r.text }
func (r *redacted) Unwrap() error { return r.err }
