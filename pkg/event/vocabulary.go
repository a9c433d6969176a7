package event

// Type is what happened. See docs/canonical-event.md.
type Type string

// The canonical types.
const (
	Accepted           Type = "accepted"            // the provider took the message
	Sent               Type = "sent"                // it left the provider, outcome open
	Deferred           Type = "deferred"            // one attempt failed, the provider tries again
	Delivered          Type = "delivered"           // the receiving server accepted it
	Bounced            Type = "bounced"             // final failure by or towards the receiver
	Rejected           Type = "rejected"            // the provider decided not to attempt
	Failed             Type = "failed"              // could not be built or processed
	Autoresponded      Type = "autoresponded"       // a vacation or challenge reply
	Opened             Type = "opened"              // the pixel was loaded
	Clicked            Type = "clicked"             // a link was followed
	Complained         Type = "complained"          // a feedback-loop report
	Unsubscribed       Type = "unsubscribed"        // opted out; scope_kind says of what
	Resubscribed       Type = "resubscribed"        // opted in again, same scope
	SuppressionChanged Type = "suppression_changed" // the provider's own list changed, no new mail outcome
	AccountNotice      Type = "account_notice"      // about the account, a domain, the webhook
	Inbound            Type = "inbound"             // misrouted inbound mail
	Test               Type = "test"                // a ping that carries no mail event
	Unknown            Type = "unknown"             // authentic but not understood
)

// Values of bounce_kind.
const (
	KindHard         = "hard"
	KindSoft         = "soft"
	KindBlock        = "block"
	KindUndetermined = "undetermined"
)

// Values of bounce_cause.
const (
	CauseUnknownRecipient = "unknown_recipient"
	CauseInvalidAddress   = "invalid_address"
	CauseUnknownDomain    = "unknown_domain"
	CauseMailboxFull      = "mailbox_full"
	CauseMailboxDisabled  = "mailbox_disabled"
	CauseTooLarge         = "too_large"
	CauseContent          = "content"
	CauseVirus            = "virus"
	CauseSpam             = "spam"
	CauseReputation       = "reputation"
	CauseRateLimited      = "rate_limited"
	CausePolicy           = "policy"
	CauseAuth             = "auth"
	CauseRelayDenied      = "relay_denied"
	CauseDNS              = "dns"
	CauseTimeoutExpired   = "timeout_expired"
	CauseProtocol         = "protocol"
	CauseOther            = "other"
)

// Values of reject_reason.
const (
	RejectPreviouslyBounced      = "previously_bounced"
	RejectPreviouslyComplained   = "previously_complained"
	RejectPreviouslyUnsubscribed = "previously_unsubscribed"
	RejectInvalidAddress         = "invalid_address"
	RejectPolicy                 = "policy"
	RejectQuota                  = "quota"
	RejectContent                = "content"
	RejectVirus                  = "virus"
	RejectSenderError            = "sender_error"
	RejectDuplicate              = "duplicate"
	RejectTimedOut               = "timed_out"
	RejectTestMode               = "test_mode"
	RejectOther                  = "other"
)

// Values of scope_kind.
const (
	ScopeAddress    = "address"
	ScopeAccount    = "account"
	ScopeSubaccount = "subaccount"
	ScopeDomain     = "domain"
	ScopeStream     = "stream"
	ScopeList       = "list"
	ScopeGroup      = "group"
	ScopeTopic      = "topic"
	ScopeTag        = "tag"
)

// Values of machine.
const (
	MachineYes     = "yes"
	MachineNo      = "no"
	MachineUnknown = "unknown"
)

// Codes of machine_evidence that a provider's own payload can give.
const (
	EvidenceProviderFlag = "provider_flag" // the provider marks the open or click as automatic
)

// ProviderMailriver is the provider of changes that people or programs make
// through Mailriver itself: its API, its command line, its unsubscribe links.
const ProviderMailriver = "mailriver"

// Values of suppression_action.
const (
	SuppressionAdd    = "add"
	SuppressionRemove = "remove"
)

// Values of occurred_at_precision and occurred_at_source.
const (
	PrecisionSecond      = "s"
	PrecisionMillisecond = "ms"
	PrecisionMicrosecond = "us"
	TimeFromProvider     = "provider"
	TimeFromReceiver     = "received"
)

// Values of engagement_variant.
const (
	VariantAll       = "all"
	VariantFirstOnly = "first_only"
	VariantTopPixel  = "top_pixel"
)

// Types lists every canonical type, in the order of a message's life.
func Types() []Type {
	return []Type{
		Accepted, Sent, Deferred, Delivered, Bounced, Rejected, Failed, Autoresponded, Opened, Clicked,
		Complained, Unsubscribed, Resubscribed, SuppressionChanged, AccountNotice, Inbound, Test, Unknown,
	}
}

// Vocabulary returns the allowed values of a field by its JSON name, and
// whether the field has a vocabulary at all. The empty string is always
// allowed beside them: it means "not said".
func Vocabulary(field string) ([]string, bool) {
	switch field {
	case "event_type":
		types := Types()
		words := make([]string, len(types))
		for i, t := range types {
			words[i] = string(t)
		}
		return words, true
	case "bounce_kind":
		return []string{KindHard, KindSoft, KindBlock, KindUndetermined}, true
	case "bounce_cause":
		return []string{
			CauseUnknownRecipient, CauseInvalidAddress, CauseUnknownDomain, CauseMailboxFull, CauseMailboxDisabled,
			CauseTooLarge, CauseContent, CauseVirus, CauseSpam, CauseReputation, CauseRateLimited, CausePolicy,
			CauseAuth, CauseRelayDenied, CauseDNS, CauseTimeoutExpired, CauseProtocol, CauseOther,
		}, true
	case "reject_reason":
		return []string{
			RejectPreviouslyBounced, RejectPreviouslyComplained, RejectPreviouslyUnsubscribed, RejectInvalidAddress,
			RejectPolicy, RejectQuota, RejectContent, RejectVirus, RejectSenderError, RejectDuplicate,
			RejectTimedOut, RejectTestMode, RejectOther,
		}, true
	case "scope_kind":
		return []string{
			ScopeAddress, ScopeAccount, ScopeSubaccount, ScopeDomain, ScopeStream,
			ScopeList, ScopeGroup, ScopeTopic, ScopeTag,
		}, true
	case "machine":
		return []string{MachineYes, MachineNo, MachineUnknown}, true
	case "suppression_action":
		return []string{SuppressionAdd, SuppressionRemove}, true
	case "occurred_at_precision":
		return []string{PrecisionSecond, PrecisionMillisecond, PrecisionMicrosecond}, true
	case "occurred_at_source":
		return []string{TimeFromProvider, TimeFromReceiver}, true
	case "engagement_variant":
		return []string{VariantAll, VariantFirstOnly, VariantTopPixel}, true
	}
	return nil, false
}

// Check reports the fields whose value is outside its vocabulary, by JSON name.
// A correct provider never yields any; the normalizer asks before it publishes.
func (e *Event) Check() []string {
	var bad []string
	for _, field := range []struct{ name, value string }{
		{"event_type", string(e.Type)},
		{"bounce_kind", e.BounceKind},
		{"bounce_cause", e.BounceCause},
		{"reject_reason", e.RejectReason},
		{"scope_kind", e.ScopeKind},
		{"machine", e.Machine},
		{"suppression_action", e.SuppressionAction},
		{"occurred_at_precision", e.OccurredAtPrecision},
		{"occurred_at_source", e.OccurredAtSource},
		{"engagement_variant", e.EngagementVariant},
	} {
		if field.value == "" && field.name != "event_type" {
			continue
		}
		words, _ := Vocabulary(field.name)
		if !contains(words, field.value) {
			bad = append(bad, field.name)
		}
	}
	return bad
}

func contains(words []string, word string) bool {
	for _, w := range words {
		if w == word {
			return true
		}
	}
	return false
}
