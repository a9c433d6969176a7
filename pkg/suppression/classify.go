package suppression

import (
	"hash/fnv"
	"strings"
	"time"

	"mailriver/pkg/address"
	"mailriver/pkg/event"
)

// Placed is a fact and the scope that it is about.
type Placed struct {
	ScopeKind string
	ScopeID   string
	Fact      Fact
}

// Reasons why an event says nothing about suppression. They are metric labels.
const (
	SkipTest        = "test"         // a sample or a simulator address
	SkipNoRecipient = "no_recipient" // no recipient, or no address
	SkipAmbiguous   = "ambiguous"    // one of several recipients, and nobody knows which
	SkipOff         = "off"          // the policy has the reason switched off
	SkipIrrelevant  = "irrelevant"   // an event of another kind
)

// Classify says what an event means for its recipient, or why it means nothing.
// The facts are for the recipient alone, never for others of the message.
func Classify(e *event.Event, p *Policy) (facts []Placed, skipped string) {
	if e.IsTest || e.Type == event.Test {
		return nil, SkipTest
	}
	if e.Type == event.Inbound {
		return nil, SkipIrrelevant
	}
	if _, ok := address.Normalize(e.RecipientNormalized); !ok {
		return nil, SkipNoRecipient
	}
	if e.RecipientAmbiguous {
		return nil, SkipAmbiguous
	}
	switch e.Type {
	case event.Bounced:
		return bounced(e, p)
	case event.Complained:
		if strings.EqualFold(e.ComplaintType, "not-spam") { // RFC 6430: the report takes a complaint back
			return nil, SkipIrrelevant
		}
		return suppress(e, p, Suppress, Complaint)
	case event.Unsubscribed:
		return suppress(e, p, Suppress, Unsubscribe)
	case event.Resubscribed:
		f := fact(e, Lift, Unsubscribe)
		kind, id := given(e)
		return []Placed{{kind, id, f}}, ""
	case event.SuppressionChanged:
		return listChanged(e, p)
	case event.Rejected:
		return rejected(e, p)
	case event.Delivered:
		if !p.watchesDeliveries() {
			return nil, SkipOff
		}
		return []Placed{{event.ScopeAddress, "", fact(e, Deliver, "")}}, ""
	}
	return nil, SkipIrrelevant
}

func bounced(e *event.Event, p *Policy) ([]Placed, string) {
	if e.BounceKind != event.KindHard {
		return suppress(e, p, Suppress, SoftBounce)
	}
	switch e.BounceCause {
	case event.CauseUnknownRecipient, event.CauseMailboxDisabled, event.CauseUnknownDomain, event.CauseInvalidAddress:
		return suppress(e, p, Suppress, HardBounce)
	}
	// Any other cause can be the sender's fault, unless the provider itself
	// says that it is final.
	if e.ProviderSuppressed != nil && *e.ProviderSuppressed || e.ProviderBounceClass != "" {
		return suppress(e, p, Suppress, HardBounce)
	}
	return nil, SkipIrrelevant
}

func rejected(e *event.Event, p *Policy) ([]Placed, string) {
	switch e.RejectReason {
	case event.RejectPreviouslyBounced:
		return suppress(e, p, Confirm, HardBounce)
	case event.RejectPreviouslyComplained:
		return suppress(e, p, Confirm, Complaint)
	case event.RejectPreviouslyUnsubscribed:
		return suppress(e, p, Confirm, Unsubscribe)
	case event.RejectInvalidAddress:
		return suppress(e, p, Suppress, InvalidAddress)
	}
	return nil, SkipIrrelevant // policy, quota, content, ...: the sender's own fault
}

func listChanged(e *event.Event, p *Policy) ([]Placed, string) {
	reason, ok := listReason(e)
	if !ok {
		return nil, SkipIrrelevant
	}
	kind, id := given(e)
	switch e.SuppressionAction {
	case event.SuppressionAdd:
		if !p.Rule(reason).Suppress {
			return nil, SkipOff
		}
		// Not the rule's scope: a list entry says where it applies.
		return []Placed{{kind, id, fact(e, Suppress, reason)}}, ""
	case event.SuppressionRemove:
		f := fact(e, Lift, reason)
		placed := []Placed{{kind, id, f}}
		if !f.ByHand() && kind != event.ScopeAddress && p.Rule(reason).Scope == ScopeWide {
			// What the provider had listed in its scope was applied to the
			// whole address, and must be lifted there.
			f.Given = origin(e)
			placed = append(placed, Placed{event.ScopeAddress, "", f})
		}
		return placed, ""
	}
	return nil, SkipIrrelevant // an allow list
}

// listReason is why an address was put on a list, or taken off. A lift by hand
// without a reason is about all of them; one for a reason that this build does
// not know is about none that it does.
func listReason(e *event.Event) (r Reason, ok bool) {
	if e.Provider == event.ProviderMailriver {
		text := e.Metadata["reason"]
		if r, ok := ParseReason(text); ok {
			return r, true
		}
		if e.SuppressionAction == event.SuppressionRemove {
			return "", text == ""
		}
		return Manual, true
	}
	switch e.RejectReason {
	case event.RejectPreviouslyBounced:
		return HardBounce, true
	case event.RejectPreviouslyComplained:
		return Complaint, true
	case event.RejectPreviouslyUnsubscribed:
		return Unsubscribe, true
	case event.RejectInvalidAddress:
		return InvalidAddress, true
	}
	return ProviderList, true
}

// suppress places a fact where the rule of its reason says.
func suppress(e *event.Event, p *Policy, effect Effect, reason Reason) ([]Placed, string) {
	rule := p.Rule(reason)
	if !rule.Suppress {
		return nil, SkipOff
	}
	f := fact(e, effect, reason)
	if rule.Scope == ScopeGiven {
		kind, id := given(e)
		return []Placed{{kind, id, f}}, ""
	}
	f.Given = origin(e)
	return []Placed{{event.ScopeAddress, "", f}}, ""
}

// given is the scope that the event names. An opt-out of unknown scope is one
// of the account: neither more nor less than what the provider would do. A
// stream, a group or the like without a name is unknown too; no look-up would
// find an entry there.
func given(e *event.Event) (kind, id string) {
	switch {
	case e.ScopeKind == event.ScopeAddress:
		return event.ScopeAddress, "" // the address is in the key
	case e.ScopeKind == event.ScopeAccount:
		return event.ScopeAccount, e.ScopeID
	case e.ScopeKind == "" || e.ScopeID == "":
		return event.ScopeAccount, ""
	}
	return e.ScopeKind, e.ScopeID
}

// origin is the part of the provider's account that the event is about, for a
// fact that is applied to the whole address: the scope that it names, or else
// the stream or subaccount of the message. Empty is the account.
func origin(e *event.Event) string {
	kind, id := given(e)
	switch {
	case kind != event.ScopeAccount && kind != event.ScopeAddress:
	case e.ScopeKind != "":
		return ""
	case e.Stream != "":
		kind, id = event.ScopeStream, e.Stream
	case e.SubaccountID != "":
		kind, id = event.ScopeSubaccount, e.SubaccountID
	default:
		return ""
	}
	return kind + ":" + id
}

func fact(e *event.Event, effect Effect, reason Reason) Fact {
	f := Fact{
		EventID: e.ID, Revision: e.Revision, Effect: effect, Reason: reason, At: stored(e.OccurredAt),
		Provider: e.Provider, Source: e.Source, EventType: e.Type, Message: messageHash(e), Detail: detail(e),
	}
	if f.At.IsZero() {
		f.At = time.UnixMicro(0).UTC() // of unknown time: older than every lift
	}
	if !e.SuppressionExpiresAt.IsZero() {
		f.ExpiresAt = stored(e.SuppressionExpiresAt)
	}
	if f.ExpiresAt.Equal(time.UnixMicro(0)) {
		f.ExpiresAt = f.ExpiresAt.Add(time.Microsecond) // stored, 0 is never
	}
	if f.ByHand() {
		f.Actor = cut(e.Metadata["actor"])
	}
	return f
}

// stored is a time as it comes back from a record.
func stored(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// messageHash tells messages apart. Two of one recipient that collide, one
// chance in 2^63 for a pair, count as one.
func messageHash(e *event.Event) int64 {
	id := e.ProviderMessageID
	if id == "" {
		id = e.SMTPMessageID
	}
	if id == "" {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(e.Provider + "\x00" + e.Source + "\x00" + id)) // never fails
	return int64(h.Sum64() >> 1)
}

const maxDetail = 200

func detail(e *event.Event) string {
	if e.Provider == event.ProviderMailriver {
		return cut(e.Metadata["note"])
	}
	parts := make([]string, 0, 3)
	for _, part := range []string{e.BounceCause, e.EnhancedCode, e.ComplaintType} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return cut(strings.Join(parts, " "))
}

// cut shortens a text to whole characters.
func cut(text string) string {
	text = strings.ToValidUTF8(text, "")
	if len(text) <= maxDetail {
		return text
	}
	return strings.ToValidUTF8(text[:maxDetail], "")
}

// Fold is the form in which two spellings of one address are equal.
func (p *Policy) Fold(normalized string) string {
	if p.ExactLocalParts {
		return normalized
	}
	return strings.ToLower(normalized)
}
