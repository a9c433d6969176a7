// Package fault tells a caller what it may do about an error: try again, or
// give up on the input that caused it.
//
// Only the second is ever marked. An unmarked error is retryable, so a missing
// mark costs a delay and never an event. The package does not retry anything
// itself and knows no error of any other package.
package fault

import (
	"errors"
	"fmt"
)

// Reasons a piece of input is given up on. They become metric labels and the
// dead-letter header "reason", so the set is small and fixed.
const (
	BadBody         = "bad_body"         // the body as a whole cannot be read (not JSON, not a form, broken compression)
	BadElement      = "bad_element"      // one element of a batch cannot be read
	BadRecord       = "bad_record"       // a raw record lacks what the receiver always writes
	UnknownProvider = "unknown_provider" // the raw record names a provider this build does not have
	BadEnvelope     = "bad_envelope"     // not Confluent wire format
	UnknownSchema   = "unknown_schema"   // the schema id does not exist or is not Avro
	BadAvro         = "bad_avro"         // the bytes do not decode by their schema
	BadValue        = "bad_value"        // a value is outside what the contract allows
	TooLarge        = "too_large"        // does not fit into a record of the target topic
	Undelivered     = "undelivered"      // an endpoint did not take it, in all attempts
	RowRefused      = "row_refused"      // ClickHouse refuses this row and would refuse it again
)

type permanent struct {
	reason string
	err    error
}

func (p *permanent) Error() string { return p.reason + ": " + p.err.Error() }
func (p *permanent) Unwrap() error { return p.err }

// Permanent marks err as caused by the input itself. The reason is one of the
// constants of this package. A nil err stays nil.
func Permanent(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &permanent{reason, err}
}

// Permanentf is [Permanent] with a formatted error.
func Permanentf(reason, format string, args ...any) error {
	return Permanent(reason, fmt.Errorf(format, args...))
}

// Reason reports whether err, or any error it wraps, is permanent, and why.
func Reason(err error) (reason string, ok bool) {
	if p, found := errors.AsType[*permanent](err); found {
		return p.reason, true
	}
	return "", false
}
