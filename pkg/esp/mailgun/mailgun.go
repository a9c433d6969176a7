// Package mailgun verifies and reads the webhooks of Mailgun.
//
// A request is one JSON object with a signature and one event about one
// recipient. Accounts from before mid-2018 may still post the legacy form,
// urlencoded or multipart, which is read too (provider_variant "legacy"). An
// inbound route that points at the same endpoint posts such a form without an
// event: it becomes an event of type inbound, and its mail is left alone.
//
// The signature covers a timestamp and a token, not the event: whoever has seen
// one genuine request can sign any event with it until it is too old. TLS keeps
// strangers from seeing one; basic_auth on the source stops those who have.
// Refusing a token that comes again with another body takes memory across
// requests, which a provider package does not have; that is the receiver's.
//
// Identity is tier 1: event-data.id, which is kept over redelivery and is the
// same in the requests of an account's and a domain's webhook. Mailgun promises
// it to be unique within a day only, so event name and timestamp, as sent, are
// part of the identity. Without an id the identity is a fingerprint of event,
// severity, timestamp, message id, url and reason, and the event carries the
// warning no_native_id. The legacy form never had an id: its identity is a
// fingerprint of event, timestamp, message id, url, code and ip.
//
// Sources: Mailgun documentation, "Webhooks", "Webhook Payloads", "Securing
// Webhooks", "Events" with "Event Structure", "Tracking Failures", "Open and
// Click Bot Detection", "Tracking Unsubscribes" and "Receiving Messages via
// HTTP through a forward() action"; Mailgun help center, "Legacy Webhooks"; the
// event types of the mailgun-go SDK; the webhook documentation of
// django-anymail for what legacy forms really hold.
package mailgun

import (
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
)

// The name is a constant because the provider's own functions use it, and a
// variable that its functions read would be an initialization cycle.
const name = "mailgun"

// Values of provider_variant. The present JSON form has none.
const (
	variantLegacy = "legacy"
	variantRoute  = "inbound_route"
)

// Provider is Mailgun.
var Provider = esp.Provider{
	Name:  name,
	Title: "Mailgun",
	Facts: esp.Facts{
		Authentication: "HMAC-SHA256 in the body",
		Batch:          "1",
		Retries:        "all but 200 and 406, 8 hours; delivered events never",
	},
	// Mailgun gives up at once on 406, which is what a forgery deserves, and
	// tries again for about eight hours after anything else but 200. Deliveries
	// are the exception: it never posts them again, whatever the answer.
	Answers: esp.Answers{Refuse: 406, Retry: 503},
	// The JSON form takes a few kilobytes. The legacy multipart form carries the
	// bounced message as an attachment, and a body that is answered with 413
	// comes again until it is lost.
	MaxBody:     8 << 20,
	Signs:       true,
	NewVerifier: newVerifier,
	Parse:       parse,
	Types: []event.Type{
		event.Accepted, event.Deferred, event.Delivered, event.Bounced, event.Rejected, event.Opened, event.Clicked,
		event.Complained, event.Unsubscribed, event.Inbound, event.Unknown,
	},
}
