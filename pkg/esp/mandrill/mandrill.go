// Package mandrill reads the webhooks of Mandrill (Mailchimp Transactional): a
// form with one field, mandrill_events, that holds a JSON array of up to 1000
// message events, changes of the deny and allow lists, and inbound mail.
//
// It does not answer the HEAD request with which Mandrill probes a new webhook
// before it shows the key; that is the receiver's. It accepts no JSON body:
// Mandrill never sends one.
//
// # Identity
//
// Tier 2 for everything: Mandrill gives its events no id, and _id is that of
// the message. A message event is event, _id, recipient, ts, url, ip and
// user_agent. A list change is type, action, recipient, ts, and of the entry
// reason, created_at, last_event_at, expires_at, subaccount and sender. All are
// taken as received; the recipient's case is folded. An element without ts or
// _id (inbound mail has none) and a change of an unknown list add the SHA-256
// of the element: what cannot be told apart by its fields must not be merged.
// Several webhooks of one account that post to one source tell an event with
// the same fields, hence once.
//
// # Choices
//
// The arrays opens and clicks are the history of the message and never become
// events. Of smtp_events only the last counts; their number is the attempt.
//
// A list entry becomes suppression_changed with the reason, scope and expiry of
// the entry. An added entry that was caused by a hard bounce, a complaint or an
// unsubscription repeats what its own event says, hence is_duplicate_hint. A
// change of the allow list has no suppression_action: it suppresses nobody.
//
// The event array of a test post is empty. Such a webhook is genuine and holds
// nothing: no events, nothing rejected.
//
// Sources: Mailchimp Transactional documentation, "Webhook Format", "Message
// Event Webhook Format", "Sync Event Webhook Format", "Introduction to
// Webhooks" and "Authenticating webhook requests"; django-anymail 15.1,
// webhooks/mandrill.
package mandrill

import (
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
)

const (
	name            = "mandrill"
	signatureHeader = "X-Mandrill-Signature"
	eventsField     = "mandrill_events"
)

// Provider is Mandrill.
var Provider = esp.Provider{
	Name:  name,
	Title: "Mandrill (Mailchimp Transactional)",
	Facts: esp.Facts{
		Authentication: "HMAC-SHA1 over URL and form",
		Batch:          "up to 1000",
		Retries:        "all but 200, number not published",
	},
	Answers: esp.Answers{Refuse: 401, Retry: 503},
	MaxBody: 16 << 20, // 1000 events, form-encoded
	Headers: []string{signatureHeader},
	Signs:   true,

	NewVerifier: newVerifier,
	Parse:       parse,
	Types: []event.Type{
		event.Sent, event.Deferred, event.Delivered, event.Bounced, event.Rejected, event.Opened, event.Clicked,
		event.Complained, event.Unsubscribed, event.SuppressionChanged, event.Inbound, event.Unknown,
	},
}
