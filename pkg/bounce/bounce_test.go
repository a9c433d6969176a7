package bounce_test

import (
	"testing"

	"mailriver/pkg/bounce"
	"mailriver/pkg/event"
)

func TestRead(t *testing.T) {
	tests := []struct {
		text     string
		code     int32
		enhanced string
	}{
		{"smtp;550 5.1.1 no such user", 550, "5.1.1"},
		{"smtp; 550 5.1.1 no such user", 550, "5.1.1"},
		{"550 5.1.1 no such user", 550, "5.1.1"},
		{"550-5.1.1 The email account does not exist", 550, "5.1.1"},
		{"sent (250 2.0.0 OK 1795436009 xyz - mx)", 250, "2.0.0"},
		{"bounced (550 5.1.1 no such user)", 550, "5.1.1"},
		{" RecipientError: 550 5.5.0 Requested action not taken", 550, "5.5.0"},
		{"550 RecipientError: 550 5.1.1 no such user", 550, "5.1.1"},
		{"5.1.1 no such user", 0, "5.1.1"},
		{"host 203.0.113.25 said: 451 4.7.1 try later", 451, "4.7.1"},
		{"host 203.0.113.250 refused", 0, ""},
		{"250 OK", 250, ""},
		{"no code at all", 0, ""},
		{"error 5501 5.1.1.1", 0, ""},
		{"", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got := bounce.Read(tt.text)
			if got.Code != tt.code || got.Enhanced != tt.enhanced {
				t.Errorf("Read(%q) = %d, %q, want %d, %q", tt.text, got.Code, got.Enhanced, tt.code, tt.enhanced)
			}
		})
	}
}

func TestClassify(t *testing.T) {
	tests := []struct{ text, kind, cause string }{
		{"550 5.1.1 no such user", event.KindHard, event.CauseUnknownRecipient},
		{"550 5.1.10 RESOLVER.ADR.RecipientNotFound", event.KindHard, event.CauseUnknownRecipient},
		{"550 5.1.2 bad destination system", event.KindHard, event.CauseUnknownDomain},
		{"553 5.1.3 bad address syntax", event.KindHard, event.CauseInvalidAddress},
		{"550 5.1.0 address rejected", event.KindUndetermined, event.CauseOther},
		{"550 5.1.0 user unknown", event.KindHard, event.CauseUnknownRecipient},
		{"550 5.1.8 sender address rejected", event.KindBlock, event.CausePolicy},
		{"550 5.2.1 mailbox disabled", event.KindHard, event.CauseMailboxDisabled},
		{"552 5.2.2 over quota", event.KindSoft, event.CauseMailboxFull},
		{"452 4.2.2 over quota", event.KindSoft, event.CauseMailboxFull},
		{"552 5.3.4 message too big", event.KindSoft, event.CauseTooLarge},
		{"550 5.4.4 host unknown", event.KindSoft, event.CauseDNS},
		{"451 4.4.1 connection timed out", event.KindSoft, event.CauseTimeoutExpired},
		{"554 5.5.2 syntax error", event.KindSoft, event.CauseProtocol},
		{"554 5.6.0 bad content", event.KindBlock, event.CauseContent},
		{"554 5.7.1 blocked by policy", event.KindBlock, event.CausePolicy},
		{"554 5.7.1 message looks like spam", event.KindBlock, event.CauseSpam},
		{"550 5.7.26 unauthenticated mail", event.KindBlock, event.CauseAuth},
		{"451 4.7.1 greylisted", event.KindSoft, event.CauseRateLimited},
		{"421 try again", event.KindSoft, event.CauseOther},
		{"550 no such user here", event.KindHard, event.CauseUnknownRecipient},
		{"550 administrative prohibition", event.KindUndetermined, event.CauseOther},
		{"552 quota exceeded", event.KindSoft, event.CauseMailboxFull},
		{"554 transaction failed", event.KindUndetermined, event.CauseOther},
		{"whatever", event.KindUndetermined, event.CauseOther},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			kind, cause := bounce.Classify(bounce.Read(tt.text))
			if kind != tt.kind || cause != tt.cause {
				t.Errorf("Classify(%q) = %s, %s, want %s, %s", tt.text, kind, cause, tt.kind, tt.cause)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add("smtp;550 5.1.1 no such user")
	f.Fuzz(func(t *testing.T, text string) {
		kind, _ := bounce.Classify(bounce.Read(text))
		if kind == "" {
			t.Errorf("Classify(%q) gives no kind", text)
		}
	})
}
