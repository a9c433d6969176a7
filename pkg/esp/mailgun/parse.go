package mailgun

import (
	"net/mail"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"mailriver/pkg/bounce"
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

func parse(w esp.Webhook) (esp.Result, error) {
	p, err := readPayload(w)
	if err != nil {
		return esp.Result{}, fault.Permanent(fault.BadBody, err)
	}
	var e event.Event
	if p.form != nil {
		e, err = readLegacy(p.form, w)
	} else {
		e, err = readEvent(p, w)
	}
	if err != nil {
		return esp.Result{Rejected: []esp.Rejected{{Raw: w.Body, Err: err}}}, nil
	}
	return esp.Result{Events: []event.Event{e}}, nil
}

// native is event-data as sent.
type native struct {
	id, event, timestamp        string
	severity, reason            string
	recipient, url, ip          string
	tags, variables, campaigns  gjson.Result
	envelope, message, delivery gjson.Result
	flags, place, client, list  gjson.Result
	storage, reject             gjson.Result
	domain, account             gjson.Result
	headers                     headers
}

// headers are what is used of the message's own.
type headers struct{ from, to, subject, messageID string }

func (h *headers) take(name, value string) {
	switch strings.ToLower(name) {
	case "from":
		h.from = value
	case "to":
		h.to = value
	case "subject":
		h.subject = value
	case "message-id":
		h.messageID = value
	}
}

func readEvent(p payload, w esp.Webhook) (event.Event, error) {
	if !p.data.IsObject() {
		return event.Event{}, fault.Permanentf(fault.BadElement, "event-data is not an object")
	}
	n := native{id: eventID(p.data)}
	p.data.ForEach(n.take)
	if n.event == "" && n.recipient == "" {
		return event.Event{}, fault.Permanentf(fault.BadElement, "event-data has neither event nor recipient")
	}
	n.message.Get("headers").ForEach(func(key, value gjson.Result) bool {
		n.headers.take(key.Str, esp.Text(value))
		return true
	})
	return n.canonical(p.signature, w), nil
}

func (n *native) take(key, value gjson.Result) bool {
	switch key.Str {
	case "event":
		n.event = esp.Text(value)
	case "timestamp":
		n.timestamp = esp.Text(value)
	case "severity":
		n.severity = esp.Text(value)
	case "reason":
		n.reason = esp.Text(value)
	case "recipient":
		n.recipient = esp.Text(value)
	case "url":
		n.url = esp.Text(value)
	case "ip":
		n.ip = esp.Text(value)
	case "tags":
		n.tags = value
	case "user-variables":
		n.variables = value
	case "campaigns":
		n.campaigns = value
	case "envelope":
		n.envelope = value
	case "message":
		n.message = value
	case "delivery-status":
		n.delivery = value
	case "flags":
		n.flags = value
	case "geolocation":
		n.place = value
	case "client-info":
		n.client = value
	case "mailing-list":
		n.list = value
	case "storage":
		n.storage = value
	case "reject":
		n.reject = value
	case "domain":
		n.domain = value
	case "account":
		n.account = value
	}
	return true
}

func (n *native) canonical(s signature, w esp.Webhook) event.Event {
	e := event.Event{Provider: name, Source: w.Source, NativeEventID: n.id, NativeEventType: n.event}
	esp.SetTime(&e, n.timestamp, w.ReceivedAt)
	e.AccountID = text(n.account, "id")
	n.setRecipient(&e)
	e.Sender = esp.Address(n.headers.from)
	if e.Sender == "" {
		e.Sender = esp.Address(text(n.envelope, "sender"))
	}
	e.Subject = n.headers.subject
	e.SMTPMessageID = esp.MessageID(n.headers.messageID)
	e.ProviderMessageID = text(n.storage, "key")
	e.Tags = esp.Strings(n.tags)
	e.Metadata = esp.Metadata(n.variables)
	n.setCampaign(&e)
	if e.ListID = text(n.list, "address"); e.ListID == "" {
		e.ListID = text(n.list, "list-id")
	}
	e.SendingIP = text(n.envelope, "sending-ip")
	n.setReader(&e)
	n.setType(&e)
	if !strings.Contains(e.Recipient, "@") && !e.RecipientAmbiguous && (e.Recipient != "" || e.Type != event.Unknown) {
		e.Warn(event.WarnBadRecipient)
	}
	e.IsTest = n.isTest(&e, s)
	if n.id != "" {
		e.ID = event.NewID(name, w.Source, n.recipient, "id", n.id, n.event, n.timestamp)
	} else {
		e.ID = event.NewID(name, w.Source, n.recipient, "fingerprint", n.event, n.severity, n.timestamp,
			n.headers.messageID, n.url, n.reason)
		e.Warn(event.WarnNoNativeID)
	}
	return e
}

// setRecipient takes the recipient from the header "To" where the event has
// none, as rejected ones. Of several addresses there none is picked.
func (n *native) setRecipient(e *event.Event) {
	e.Recipient = esp.Address(n.recipient)
	if e.Recipient == "" {
		e.Recipient = esp.Address(n.headers.to)
		if list, err := mail.ParseAddressList(n.headers.to); err == nil && len(list) > 1 {
			e.Recipient, e.RecipientAmbiguous, e.RecipientCount = "", true, int32(len(list))
		}
	}
}

// setCampaign reads what is left of a retired feature.
func (n *native) setCampaign(e *event.Event) {
	first := n.campaigns
	if first.IsArray() {
		first = first.Get("0")
	}
	if first.IsObject() {
		e.CampaignID, e.CampaignName = text(first, "id"), text(first, "name")
	} else {
		e.CampaignID = esp.Text(first)
	}
}

func (n *native) setReader(e *event.Event) {
	e.ClientIP = n.ip
	e.UserAgent = text(n.client, "user-agent")
	e.ClientName, e.OSName = text(n.client, "client-name"), text(n.client, "client-os")
	e.DeviceType = text(n.client, "device-type")
	e.GeoCountry, e.GeoRegion, e.GeoCity = text(n.place, "country"), text(n.place, "region"), text(n.place, "city")
}

// setType sets the type and everything that depends on it.
func (n *native) setType(e *event.Event) {
	switch n.event {
	case "accepted":
		e.Type = event.Accepted
	case "delivered":
		e.Type = event.Delivered
		n.setDelivery(e)
	case "failed":
		n.setDelivery(e)
		code, _ := ownCode(text(n.delivery, "code"))
		failure{
			label: n.severity, reason: n.reason, code: code, bounceType: text(n.delivery, "bounce-type"),
		}.apply(e)
		if e.Type == event.Bounced {
			e.BounceIsAsync, _ = esp.Bool(n.flags.Get("is-delayed-bounce"))
		}
	case "rejected":
		e.Type = event.Rejected
		setRejected(e, text(n.reject, "reason"))
	case "opened":
		e.Type = event.Opened
		setMachine(e, text(n.client, "bot"), text(n.client, "client-type"))
	case "clicked":
		e.Type, e.URL = event.Clicked, n.url
		setMachine(e, text(n.client, "bot"), text(n.client, "client-type"))
	case "complained":
		e.Type = event.Complained
	case "unsubscribed":
		e.Type = event.Unsubscribed
		setScope(e, n.sendingDomain(e))
	default:
		e.Type, e.URL = event.Unknown, n.url
		e.Warn(event.WarnUnknownType)
	}
}

func (n *native) setDelivery(e *event.Event) {
	e.MXHost = text(n.delivery, "mx-host")
	if attempt, ok := esp.Int(n.delivery.Get("attempt-no")); ok && attempt > 0 {
		e.Attempt = attempt
	}
	if seconds, ok := esp.Int(n.delivery.Get("retry-seconds")); ok && seconds > 0 {
		e.RetryAfterS = seconds
	}
	message := text(n.delivery, "message")
	if message == "" {
		message = text(n.delivery, "description")
	}
	setReply(e, text(n.delivery, "code"), text(n.delivery, "enhanced-code"), message)
}

// setReply fills in the SMTP reply. The code may be an enhanced one in its
// place, or one of Mailgun's own.
func setReply(e *event.Event, code, enhanced, message string) {
	reply := bounce.Read(message)
	esp.SetSMTPResponse(e, message)
	if found, ok := bounce.Enhanced(enhanced); ok {
		reply.Enhanced = found
	} else if found, ok := bounce.Enhanced(code); ok {
		reply.Enhanced = found
	}
	switch n, own := ownCode(code); {
	case own:
		reply.Code = 0 // no receiver said it
	case n >= 200 && n < 600:
		reply.Code = n
	}
	e.SMTPCode, e.EnhancedCode = reply.Code, reply.Enhanced
}

// Mailgun's own codes. They look like SMTP replies and are none.
const (
	codeNoMX              = 498
	codeNoConnection      = 499
	codeSuppressBounce    = 605
	codeSuppressUnsub     = 606
	codeSuppressComplaint = 607
	codePoorList          = 625
)

func ownCode(text string) (code int32, own bool) {
	wide, err := strconv.ParseInt(strings.TrimSpace(text), 10, 32)
	if err != nil {
		return 0, false
	}
	return int32(wide), wide == codeNoMX || wide == codeNoConnection || wide >= 600
}

// failure is what tells one failure from another, in the JSON and the legacy form.
type failure struct {
	label      string // "permanent", "temporary"; in the legacy form the event
	reason     string
	code       int32
	bounceType string // "hard", "soft"
}

// apply sets the type: a failure that Mailgun will try again is a deferral, and
// one that it caused itself, by its own lists, a rejection.
func (f failure) apply(e *event.Event) {
	e.ProviderBounceClass = f.class()
	switch f.label {
	case "temporary":
		e.Type = event.Deferred
		return
	case "permanent", "bounced", "dropped":
	default:
		e.Warn(event.WarnUnknownClass)
	}
	if reason, ok := f.rejection(); ok {
		e.Type, e.RejectReason = event.Rejected, reason
		e.SMTPResponse, e.EnhancedCode = "", "" // Mailgun's explanation, not a reply
		return
	}
	e.Type = event.Bounced
	e.BounceKind, e.BounceCause = f.classify(e)
}

func (f failure) class() string {
	label := f.label
	if label == "" {
		label = "failed"
	}
	parts := name + ":" + label
	if f.reason != "" && label != "bounced" { // the legacy event is the reason
		parts += "/" + f.reason
	}
	if f.code == codeNoMX || f.code == codeNoConnection || f.code >= 600 {
		parts += "/" + strconv.Itoa(int(f.code))
	}
	return parts
}

func (f failure) rejection() (string, bool) {
	switch {
	case f.code == codeSuppressBounce || f.reason == "suppress-bounce":
		return event.RejectPreviouslyBounced, true
	case f.code == codeSuppressUnsub || f.reason == "suppress-unsubscribe":
		return event.RejectPreviouslyUnsubscribed, true
	case f.code == codeSuppressComplaint || f.reason == "suppress-complaint":
		return event.RejectPreviouslyComplained, true
	case f.code == codePoorList:
		return event.RejectPolicy, true
	}
	return "", false
}

func (f failure) classify(e *event.Event) (kind, cause string) {
	switch f.reason {
	case "espblock", "blacklisted":
		return event.KindBlock, event.CauseReputation
	case "old": // given up after all retries, whatever the last one said
		return event.KindSoft, event.CauseTimeoutExpired
	}
	switch f.code {
	case codeNoMX:
		return event.KindSoft, event.CauseDNS
	case codeNoConnection:
		return event.KindSoft, event.CauseTimeoutExpired
	}
	kind, cause = bounce.Classify(bounce.Reply{Code: e.SMTPCode, Enhanced: e.EnhancedCode, Text: e.SMTPResponse})
	switch f.reason {
	case "bounce":
		if kind == event.KindUndetermined {
			kind = event.KindHard
		}
	case "generic", "hardfail", "greylisted", "":
	default:
		e.Warn(event.WarnUnknownClass)
	}
	switch f.bounceType {
	case "hard":
		kind = event.KindHard
	case "soft":
		kind = event.KindSoft
	case "":
	default:
		e.Warn(event.WarnUnknownClass)
	}
	return kind, cause
}

// setRejected reads a reason that is a sentence: a sandbox domain, a recipient
// who is not authorized, a sender that may not send.
func setRejected(e *event.Event, reason string) {
	e.ProviderBounceClass = failure{label: "rejected", reason: reason}.class()
	e.RejectReason = event.RejectPolicy
	lower := strings.ToLower(reason)
	for _, word := range []string{"sandbox", "authorized", "sender", "from address", "domain"} {
		if strings.Contains(lower, word) {
			e.RejectReason = event.RejectSenderError
		}
	}
}

// setMachine believes Mailgun that something was a machine. An empty "bot"
// means that none was detected, which is not that a person was there.
func setMachine(e *event.Event, bot, clientType string) {
	e.Machine, e.BotName = event.MachineUnknown, bot
	if bot != "" || clientType == "robot" {
		e.Machine, e.MachineEvidence = event.MachineYes, []string{event.EvidenceProviderFlag}
	}
}

// setScope: an opt-out is from one mailing list or, without one, from the
// sending domain. One from a tag is possible too and not told apart.
func setScope(e *event.Event, domain string) {
	if e.ListID != "" {
		e.ScopeKind, e.ScopeID = event.ScopeList, e.ListID
		return
	}
	e.ScopeKind, e.ScopeID = event.ScopeDomain, domain
}

// sendingDomain is in "domain" of new payloads. The others show it where
// Mailgun made something of it: the envelope's sender, a storage URL, or a
// Message-ID that Mailgun wrote. A foreign Message-ID is not evidence.
func (n *native) sendingDomain(e *event.Event) string {
	if domain := text(n.domain, "name"); domain != "" {
		return domain
	}
	if n.domain.Type == gjson.String {
		return esp.Text(n.domain)
	}
	if domain := domainOf(text(n.envelope, "sender")); domain != "" {
		return domain
	}
	if _, after, ok := strings.Cut(text(n.storage, "url"), "/domains/"); ok {
		domain, _, _ := strings.Cut(after, "/")
		return domain
	}
	return ownMessageDomain(e.SMTPMessageID)
}

// ownMessageDomain is the domain of a Message-ID like those that Mailgun makes,
// which begin with the date.
func ownMessageDomain(messageID string) string {
	const dateLen = len("20261123")
	if len(messageID) <= dateLen || strings.Trim(messageID[:dateLen], "0123456789") != "" {
		return ""
	}
	return domainOf(messageID)
}

func domainOf(address string) string {
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		return address[at+1:]
	}
	return ""
}

// The dashboard's samples carry a genuine signature of now over an event of
// years ago, sent to nobody.
const minSampleAge = 30 * 24 * time.Hour

func (n *native) isTest(e *event.Event, s signature) bool {
	for _, flag := range []string{"is-system-test", "is-test-mode"} {
		if set, _ := esp.Bool(n.flags.Get(flag)); set {
			return true
		}
	}
	switch strings.ToLower(domainOf(e.Recipient)) {
	case "example.com", "example.net", "example.org", "sample.mailgun.com":
	default:
		return false
	}
	signed, _, ok := esp.ParseTime(s.timestamp)
	return ok && e.OccurredAtSource == event.TimeFromProvider && signed.Sub(e.OccurredAt) > minSampleAge
}

// text reads a field of an object that may be null or absent.
func text(object gjson.Result, field string) string {
	if !object.IsObject() {
		return ""
	}
	return esp.Text(object.Get(field))
}
