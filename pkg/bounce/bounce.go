// Package bounce reads SMTP replies out of the wrappings that providers put
// around them, and says what kind of failure a reply is.
//
// It is the classifier of last resort: a provider's own class comes first, and
// a provider's statement that it did not suppress an address overrides a "hard"
// found here. It knows no provider.
package bounce

import (
	"regexp"
	"strconv"
	"strings"

	"mailriver/pkg/event"
)

// Reply is what could be read out of a diagnostic text.
type Reply struct {
	Code     int32  // 2xx, 4xx or 5xx (RFC 5321 4.2); 0 when there is none
	Enhanced string // enhanced status code (RFC 3463), "5.1.1"; empty when there is none
	Text     string // the diagnostic, trimmed
}

var (
	// A code stands alone: not inside a longer number, an address or a version.
	codePattern     = regexp.MustCompile(`(?:^|[^0-9.])([245][0-5][0-9])(?:[^0-9.]|$|\.\s|\.$)`)
	enhancedPattern = regexp.MustCompile(`(?:^|[^0-9.])([245]\.\d{1,3}\.\d{1,3})(?:[^0-9.]|$|\.\s|\.$)`)
)

// Read finds the reply code and the enhanced code in a diagnostic. Real texts
// look like "smtp;550 5.1.1 ...", "550-5.1.1 ...", "sent (250 2.0.0 OK ...)",
// " RecipientError: 550 5.5.0 ...", "5.1.1 no such user", or hold no code.
func Read(text string) Reply {
	text = strings.TrimSpace(text)
	reply := Reply{Text: text}
	head := text
	if len(head) > 512 { // codes stand at the front; the rest may be a whole message
		head = head[:512]
	}
	if m := enhancedPattern.FindStringSubmatch(head); m != nil {
		reply.Enhanced = m[1]
	}
	if m := codePattern.FindStringSubmatch(head); m != nil {
		code, _ := strconv.ParseInt(m[1], 10, 32) // three digits
		reply.Code = int32(code)
	}
	return reply
}

// Enhanced returns text when it is an enhanced status code and nothing else.
func Enhanced(text string) (string, bool) {
	text = strings.TrimSpace(text)
	m := enhancedPattern.FindStringSubmatch(text)
	if m == nil || m[1] != text {
		return "", false
	}
	return text, true
}

// Classify returns bounce_kind and bounce_cause for a final failure. The order
// is enhanced code, then reply code, then undetermined; words decide only where
// a code is known to be used for several things.
func Classify(r Reply) (kind, cause string) {
	text := strings.ToLower(r.Text)
	if r.Enhanced != "" {
		if kind, cause, ok := byEnhanced(r.Enhanced, text); ok {
			return kind, cause
		}
	}
	return byCode(r.Code, text)
}

func byEnhanced(code, text string) (kind, cause string, ok bool) {
	parts := strings.Split(code, ".")
	class, subject := parts[0], parts[1]
	detail, _ := strconv.Atoi(parts[2]) // digits, by the pattern
	if class == "2" {
		return "", "", false
	}
	temporary := class == "4"
	switch subject {
	case "1":
		if temporary {
			return event.KindSoft, event.CauseOther, true
		}
		switch detail {
		case 1, 6, 10:
			return event.KindHard, event.CauseUnknownRecipient, true
		case 2:
			return event.KindHard, event.CauseUnknownDomain, true
		case 3:
			return event.KindHard, event.CauseInvalidAddress, true
		case 0, 4, 5:
			if saysUnknownRecipient(text) {
				return event.KindHard, event.CauseUnknownRecipient, true
			}
			return event.KindUndetermined, event.CauseOther, true
		case 7, 8:
			return event.KindBlock, event.CausePolicy, true
		}
	case "2":
		switch {
		case detail == 2:
			return event.KindSoft, event.CauseMailboxFull, true
		case detail == 3:
			return event.KindSoft, event.CauseTooLarge, true
		case detail == 1 && !temporary:
			return event.KindHard, event.CauseMailboxDisabled, true
		case temporary:
			return event.KindSoft, event.CauseOther, true
		}
	case "3":
		if detail == 4 {
			return event.KindSoft, event.CauseTooLarge, true
		}
		return event.KindSoft, event.CauseProtocol, true
	case "4":
		if detail == 4 || detail == 3 {
			return event.KindSoft, event.CauseDNS, true
		}
		return event.KindSoft, event.CauseTimeoutExpired, true
	case "5":
		return event.KindSoft, event.CauseProtocol, true
	case "6":
		return event.KindBlock, event.CauseContent, true
	case "7":
		if temporary {
			return event.KindSoft, event.CauseRateLimited, true
		}
		switch {
		case detail == 8 || detail == 9 || detail >= 20 && detail <= 27:
			return event.KindBlock, event.CauseAuth, true
		case detail <= 1:
			return event.KindBlock, blockCause(text), true
		}
		return event.KindBlock, event.CausePolicy, true
	}
	if temporary {
		return event.KindSoft, event.CauseOther, true
	}
	return "", "", false
}

func byCode(code int32, text string) (kind, cause string) {
	switch {
	case code >= 400 && code < 500:
		if code == 452 && containsAny(text, "full", "quota", "storage") {
			return event.KindSoft, event.CauseMailboxFull
		}
		return event.KindSoft, event.CauseOther
	case code == 552:
		if containsAny(text, "size", "too large", "too big") {
			return event.KindSoft, event.CauseTooLarge
		}
		return event.KindSoft, event.CauseMailboxFull
	case code == 550 || code == 551 || code == 553:
		if saysUnknownRecipient(text) {
			return event.KindHard, event.CauseUnknownRecipient
		}
		if cause := blockCause(text); cause != event.CausePolicy {
			return event.KindBlock, cause
		}
	}
	return event.KindUndetermined, event.CauseOther
}

func saysUnknownRecipient(text string) bool {
	if containsAny(text, "no such user", "no such recipient", "no such mailbox", "no such address", "user unknown", "unknown user", "recipient unknown", "unknown recipient", "mailbox unknown", "unknown mailbox") {
		return true
	}
	return containsAny(text, "user", "mailbox", "recipient", "address", "account") &&
		containsAny(text, "unknown", "not found", "does not exist", "doesn't exist", "no such", "not exist")
}

func blockCause(text string) string {
	switch {
	case containsAny(text, "virus", "malware"):
		return event.CauseVirus
	case containsAny(text, "spam", "junk", "unsolicited", "bulk mail"):
		return event.CauseSpam
	case containsAny(text, "blocklist", "blacklist", "block list", "black list", "reputation", "spamhaus", "rbl", "dnsbl"):
		return event.CauseReputation
	case containsAny(text, "dmarc", "spf", "dkim"):
		return event.CauseAuth
	case containsAny(text, "relay"):
		return event.CauseRelayDenied
	}
	return event.CausePolicy
}

func containsAny(text string, words ...string) bool {
	for _, word := range words {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}
