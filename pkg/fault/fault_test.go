package fault_test

import (
	"errors"
	"fmt"
	"testing"

	"mailriver/pkg/fault"
)

func TestReason(t *testing.T) {
	cause := errors.New("unexpected end")
	tests := []struct {
		name   string
		err    error
		reason string
		ok     bool
	}{
		{name: "nil", err: nil},
		{name: "unmarked is retryable", err: cause},
		{name: "marked", err: fault.Permanent(fault.BadBody, cause), reason: fault.BadBody, ok: true},
		{name: "marked below a wrap", err: fmt.Errorf("record 7: %w", fault.Permanent(fault.BadElement, cause)), reason: fault.BadElement, ok: true},
		{name: "marked nil stays nil", err: fault.Permanent(fault.BadBody, nil)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reason, ok := fault.Reason(tt.err)
			if reason != tt.reason || ok != tt.ok {
				t.Errorf("Reason(%v) = %q, %t, want %q, %t", tt.err, reason, ok, tt.reason, tt.ok)
			}
		})
	}
}

func TestPermanent_keepsTheCause(t *testing.T) {
	cause := errors.New("unexpected end")
	if err := fault.Permanentf(fault.BadBody, "sendgrid: %w", cause); !errors.Is(err, cause) {
		t.Errorf("errors.Is(%v, cause) = false, want true", err)
	}
}
