package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	"mailriver/pkg/fault"
)

func TestClassify(t *testing.T) {
	constraint := "Constraint `event_type_is_set` for table mailriver.events (9107ef0b) is violated at row 1. " +
		"Expression: (event_type != ''). Column values: event_type = 'SECRET' (VIOLATED_CONSTRAINT)"
	tests := []struct {
		name   string
		err    error
		reason string
		text   string
	}{
		{name: "nil"},
		{
			name: "constraint", err: &driver.Exception{Code: 469, CodeName: "VIOLATED_CONSTRAINT", Message: constraint},
			reason: fault.RowRefused, text: "row_refused: VIOLATED_CONSTRAINT: constraint event_type_is_set on column event_type",
		},
		{
			name:   "parse",
			err:    &driver.Exception{Code: 6, CodeName: "CANNOT_PARSE_TEXT", Message: "Cannot parse string 'SECRET' as Int32: (at row 3, column smtp_code)"},
			reason: fault.RowRefused, text: "row_refused: CANNOT_PARSE_TEXT: column smtp_code",
		},
		{
			name:   "no column named",
			err:    &driver.Exception{Code: 131, Message: "Too large string size: SECRET"},
			reason: fault.RowRefused, text: "row_refused: TOO_LARGE_STRING_SIZE: ClickHouse names no column",
		},
		{
			name: "over http and wrapped",
			err: fmt.Errorf("batch: %w", &driver.HTTPError{
				StatusCode: 400, Err: &driver.Exception{Code: 321, CodeName: "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE", Message: "Column `attempt`: SECRET"},
			}),
			reason: fault.RowRefused, text: "row_refused: VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE: column attempt",
		},
		{
			// The rows are in the table, and only the view lacks them: never
			// the fault of a row.
			name: "a view fails",
			err: &driver.Exception{
				Code: 6, CodeName: "CANNOT_PARSE_TEXT",
				Message: "Cannot parse string 'SECRET' as Int32: while executing 'FUNCTION toInt32(x)': while pushing to view mailriver.theirs. (CANNOT_PARSE_TEXT)",
			},
			text: "CANNOT_PARSE_TEXT: view mailriver.theirs cannot take the rows; repair or drop it",
		},
		{
			name: "memory", err: &driver.Exception{Code: 241, CodeName: "MEMORY_LIMIT_EXCEEDED", Message: "Memory limit (total) exceeded"},
			text: "MEMORY_LIMIT_EXCEEDED: Memory limit (total) exceeded",
		},
		{
			name: "too many parts", err: &driver.Exception{Code: 252, CodeName: "TOO_MANY_PARTS", Message: "Too many parts"},
			text: "TOO_MANY_PARTS: Too many parts",
		},
		{
			name: "read only", err: &driver.Exception{Code: 242, CodeName: "TABLE_IS_READ_ONLY", Message: "Table is in readonly mode"},
			text: "TABLE_IS_READ_ONLY: Table is in readonly mode",
		},
		{
			// Every row would be refused: the table does not fit the binary.
			name: "type mismatch", err: &driver.Exception{Code: 53, CodeName: "TYPE_MISMATCH", Message: "Type mismatch"},
			text: "TYPE_MISMATCH: Type mismatch",
		},
		{name: "unreachable", err: &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}, text: "dial tcp: connection refused"},
		{name: "timeout", err: context.DeadlineExceeded, text: "context deadline exceeded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Classify(tt.err)
			if (err == nil) != (tt.err == nil) {
				t.Fatalf("Classify(%v) = %v", tt.err, err)
			}
			if err == nil {
				return
			}
			if reason, _ := fault.Reason(err); reason != tt.reason {
				t.Errorf("Reason(Classify(%v)) = %q, want %q", tt.err, reason, tt.reason)
			}
			if err.Error() != tt.text {
				t.Errorf("Classify(%v) = %q, want %q", tt.err, err, tt.text)
			}
			if strings.Contains(err.Error(), "SECRET") {
				t.Errorf("Classify(%v) = %q, which shows the value", tt.err, err)
			}
		})
	}
}

func TestEndpoint_classifyHidesThePassword(t *testing.T) {
	e := endpoint{auth: driver.Auth{Password: "hunter2"}}
	err := e.classify("query", &driver.Exception{Code: 516, CodeName: "AUTHENTICATION_FAILED", Message: "no user with hunter2"})
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("classify() = %q, which shows the password", err)
	}
	if answer, ok := errors.AsType[*Error](err); !ok || answer.Code != 516 {
		t.Errorf("classify() = %v, want to find its code", err)
	}
}
