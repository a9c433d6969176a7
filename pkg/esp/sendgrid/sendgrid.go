// Package sendgrid verifies and reads the Event Webhook of Twilio SendGrid.
//
// A request is a JSON array of events, also when there is one, and each event
// is about one recipient. The signature is ECDSA over the timestamp header and
// the exact body. SendGrid sends again, for up to 24 hours after the event,
// whatever is not answered with 2xx, and documents duplicates.
//
// Identity is tier 1: sg_event_id, which SendGrid documents as the key to
// deduplicate on and keeps over its retries. Where it is absent, or is the
// placeholder of the documentation's samples, the identity is a fingerprint of
// event, type, timestamp, message id, url, url_offset, reason, response and
// group, all as sent, and the event carries the warning no_native_id.
//
// The package does not read the Inbound Parse webhook, and OAuth 2.0, the other
// way in which SendGrid can authenticate itself, is not its work.
//
// Sources: Twilio documentation, "Event Webhook Reference", "Getting Started
// with the Event Webhook", "Getting Started with the Event Webhook Security
// Features", "Unique Arguments and Categories" and "Bounce and Block
// Classifications"; the verification code and vectors of the SendGrid SDKs.
package sendgrid

import (
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
)

// The name is a constant because the provider's own functions use it, and a
// variable that its functions read would be an initialization cycle.
const name = "sendgrid"

const (
	signatureHeader = "X-Twilio-Email-Event-Webhook-Signature"
	timestampHeader = "X-Twilio-Email-Event-Webhook-Timestamp"
)

// Provider is SendGrid.
var Provider = esp.Provider{
	Name:  name,
	Title: "Twilio SendGrid",
	Facts: esp.Facts{
		Authentication: "ECDSA P-256 over timestamp and body",
		Batch:          "many",
		Retries:        "all but 2xx, 24 hours",
	},
	// Everything but 2xx is retried; neither code makes SendGrid give up or
	// disable the webhook.
	Answers: esp.Answers{Refuse: 401, Retry: 503},
	// A flush is at most 768 KB for each sending server; a body that is answered
	// with 413 would be sent again for a day.
	MaxBody:     8 << 20,
	Headers:     []string{signatureHeader, timestampHeader},
	Signs:       true,
	NewVerifier: newVerifier,
	Parse:       parse,
	Types: []event.Type{
		event.Accepted, event.Deferred, event.Delivered, event.Bounced, event.Rejected, event.Opened, event.Clicked,
		event.Complained, event.Unsubscribed, event.Resubscribed, event.AccountNotice, event.Unknown,
	},
}
