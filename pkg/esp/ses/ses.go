// Package ses reads the events of Amazon SES, which arrive through Amazon SNS.
//
// It verifies the SNS signature, reads both formats that SES publishes (event
// publishing and feedback notifications), the handshake and the notices of SNS,
// and bodies of SNS raw message delivery. It fetches nothing itself: the
// certificate of a signature comes through esp.Settings.Fetch, and confirming a
// subscription is the receiver's work. It never follows an
// UnsubscribeConfirmation, whose SubscribeURL would subscribe again.
//
// # What is trusted
//
// Anyone can create a topic, subscribe this endpoint to it and so obtain
// perfectly valid signatures. Therefore the topic has to be on the source's
// list before anything is fetched, and the certificate has to come over TLS
// from the SNS host of that topic's own region: that connection is the trust
// anchor. See verify.go for the order of the checks.
//
// # Identity
//
// SNS gives each publication a MessageId that is stable over retries, but one
// bounce is published twice, under two of them, when feedback notifications and
// event publishing are both on; and one publication is about up to fifty
// recipients. So the MessageId is the key of the delivery and never the
// identity of an event:
//
//   - Bounce and Complaint: type and feedbackId (tier 1). Both formats carry the
//     same feedbackId and so give one event.
//   - Send, Reject, Rendering Failure and Received: type and mail.messageId
//     (tier 2). They happen once, and carry no time of their own; that of SNS
//     differs between two publications.
//   - the others: type, mail.messageId and the time inside the event as text,
//     for a click its link too, for a list change its list and topic (tier 2).
//   - notices and types that are not known: type and SNS MessageId.
//
// The recipient is part of each. Where one of these parts is missing, the
// SHA-256 of the message stands for them, with event.WarnNoNativeID: it is the
// same on every retry, and never merges two events. An address that is listed
// twice in one event counts once.
//
// # Recipients
//
// Bounces, complaints, deliveries and delays name theirs. Opens, clicks and list
// changes do not, and only a message to exactly one address says who it was. A
// list that is missing is never replaced by the addresses that the message was
// sent to: that would suppress the wrong person. A recipient that cannot be read
// is rejected alone, with its place in the list.
//
// One bounce can hold several recipients of whom some only waited: it is hard for
// those alone whose own status, where there is one, says so too.
//
// # Tags
//
// Tags of the message become metadata, without those that SES adds ("ses:").
// SES allows several values for a tag: one is kept as it is, several are kept
// all, as a JSON array. Headers that Anymail users set, X-Tag and X-Metadata,
// are read where SES includes the headers; a tag of SES wins over metadata of
// the same name. The linkTags of a click are metadata of that name.
package ses

import (
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
)

const name = "ses"

// Headers of an SNS request, in canonical form.
const (
	headerType         = "X-Amz-Sns-Message-Type"
	headerID           = "X-Amz-Sns-Message-Id"
	headerTopic        = "X-Amz-Sns-Topic-Arn"
	headerSubscription = "X-Amz-Sns-Subscription-Arn"
	headerRaw          = "X-Amz-Sns-Rawdelivery"
)

// Provider is Amazon SES.
var Provider = esp.Provider{
	Name:  name,
	Title: "Amazon SES",
	Facts: esp.Facts{
		Authentication: "RSA signature of SNS, checked against its certificate",
		Batch:          "1, about several recipients",
		Retries:        "5xx and no answer, one minute; up to an hour by a policy of the subscription",
	},
	Answers:     esp.Answers{Refuse: 403, Retry: 503}, // SNS never sends again what was answered 4xx
	MaxBody:     1 << 20,                              // an SNS message is at most 256 KiB, before escaping
	Headers:     []string{headerType, headerID, headerTopic, headerSubscription, headerRaw},
	Signs:       true,
	NewVerifier: newVerifier,
	Parse:       parse,
	Types: []event.Type{
		event.Accepted, event.Deferred, event.Delivered, event.Bounced, event.Rejected, event.Failed,
		event.Opened, event.Clicked, event.Complained, event.Unsubscribed, event.Resubscribed,
		event.AccountNotice, event.Inbound, event.Unknown,
	},
}
