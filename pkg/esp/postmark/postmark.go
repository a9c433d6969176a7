// Package postmark reads Postmark's webhooks: Delivery, Bounce, SpamComplaint,
// Open, Click and SubscriptionChange, one JSON object in each request.
//
// It verifies nothing: Postmark signs nothing. A source of this provider is
// proven by basic_auth and allow_ips, which are the receiver's.
//
// # Identity
//
// Tier 1 for Bounce and SpamComplaint: RecordType and ID, which Postmark keeps
// over its retries. Tier 2 for Delivery, Open, Click and SubscriptionChange,
// which carry no id of their own: RecordType, ServerID, MessageStream,
// MessageID, recipient (its case folded), the time at its full seven digits, and
// OriginalLink.
// MessageID alone would merge the recipients of one call, and repeated opens.
// A bounce without its ID takes tier 2 as well. A record of a type that is not
// in the table, and one of tier 2 without a time, adds the SHA-256 of the body:
// what cannot be told apart by its fields must not be merged.
//
// # Choices
//
// A bounce is classified by the string Type. TypeCode is ignored: Postmark's
// own samples give one type several codes. Inactive is provider_suppressed: it
// says whether Postmark itself now suppresses the address in this stream.
//
// SubscriptionChange with SuppressSending and the reason HardBounce or
// SpamComplaint reports a fact that a Bounce or SpamComplaint record reports
// too. It becomes suppression_changed with is_duplicate_hint, never a second
// bounce. Without SuppressSending it is resubscribed, whoever asked for it.
//
// FirstOpen does not become engagement_variant: it marks the first of all opens
// and is not a separate kind of event. Postmark has no flag for machine opens,
// so machine is always "unknown" here.
//
// Sources: Postmark developer documentation, "Webhooks" (bounce, delivery, open
// tracking, click, spam complaint and subscription change webhook) and "Bounce
// API", "Bounce types"; django-anymail 15.1, webhooks/postmark.
package postmark

import (
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
)

const name = "postmark"

// Provider is Postmark.
var Provider = esp.Provider{
	Name:  name,
	Title: "Postmark",
	Facts: esp.Facts{
		Authentication: "basic authentication, addresses",
		Batch:          "1",
		Retries:        "all but 200 and 403, 10 hours",
	},
	// 403 would stop the retries of this webhook for good, so a forgery, and a
	// mistake in our own configuration, is answered 401.
	Answers: esp.Answers{Refuse: 401, Retry: 503},
	MaxBody: 10 << 20, // a bounce may include the whole message
	Parse:   parse,
	Types: []event.Type{
		event.Deferred, event.Delivered, event.Bounced, event.Rejected, event.Failed, event.Autoresponded,
		event.Opened, event.Clicked, event.Complained, event.Unsubscribed, event.Resubscribed,
		event.SuppressionChanged, event.Inbound, event.Unknown,
	},
}
