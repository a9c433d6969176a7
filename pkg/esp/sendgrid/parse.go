package sendgrid

import (
	"strings"

	"github.com/tidwall/gjson"

	"mailriver/pkg/bounce"
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

// maxGuess bounds how many events are made room for before they are seen.
const maxGuess = 1024

func parse(w esp.Webhook) (esp.Result, error) {
	if !esp.ValidJSON(w.Body) {
		return esp.Result{}, fault.Permanentf(fault.BadBody, "body is not JSON")
	}
	root := gjson.ParseBytes(w.Body)
	if !root.IsArray() {
		return esp.Result{}, fault.Permanentf(fault.BadBody, "body is not an array of events")
	}
	var (
		result esp.Result
		index  int32
		n      native // one for the whole batch: it is cleared for each element
	)
	root.ForEach(func(_, element gjson.Result) bool {
		if result.Events == nil {
			// Elements of one batch are of like size: growing by doubling would
			// copy every event several times.
			guess := min(len(w.Body)/max(len(element.Raw), 1)+1, maxGuess)
			result.Events = make([]event.Event, 0, guess)
		}
		if err := n.read(element); err != nil {
			result.Rejected = append(result.Rejected, esp.Rejected{Raw: []byte(element.Raw), Index: index, Err: err})
		} else {
			result.Events = append(result.Events, event.Event{Source: w.Source, RawEventIndex: index})
			n.fill(&result.Events[len(result.Events)-1], w)
		}
		index++
		return true
	})
	if len(result.Events) == 0 {
		result.Events = nil
	}
	return result, nil
}

// native is one element as sent. Only what needs more than one field to be
// understood, or may be of several JSON types, is kept apart from its text.
type native struct {
	event, kind, email, timestamp string
	eventID, messageID, smtpID    string
	reason, response, status      string
	classification                string
	ip, userAgent, url, groupID   string
	campaignID, campaignName      string
	templateID                    string
	category, pool, urlOffset     gjson.Result
	attempt, machineOpen          gjson.Result
	metadata                      map[string]string
}

// read takes the element apart in one pass. A repeated key counts as its last.
func (n *native) read(element gjson.Result) error {
	if !element.IsObject() {
		return fault.Permanentf(fault.BadElement, "element is not an object")
	}
	*n = native{}
	element.ForEach(n.take)
	if n.event == "" && n.email == "" {
		return fault.Permanentf(fault.BadElement, "element has neither event nor email")
	}
	return nil
}

func (n *native) take(key, value gjson.Result) bool {
	switch key.Str {
	case "event":
		n.event = esp.Text(value)
	case "type":
		n.kind = esp.Text(value)
	case "email":
		n.email = esp.Text(value)
	case "timestamp":
		n.timestamp = esp.Text(value)
	case "sg_event_id":
		n.eventID = esp.Text(value)
	case "sg_message_id":
		n.messageID = esp.Text(value)
	case "smtp-id":
		n.smtpID = esp.Text(value)
	case "reason":
		n.reason = esp.Text(value)
	case "response":
		n.response = esp.Text(value)
	case "status":
		n.status = esp.Text(value)
	case "bounce_classification":
		n.classification = esp.Text(value)
	case "ip":
		n.ip = esp.Text(value)
	case "useragent":
		n.userAgent = esp.Text(value)
	case "url":
		n.url = esp.Text(value)
	case "url_offset":
		n.urlOffset = value
	case "asm_group_id":
		n.groupID = esp.Text(value)
	case "category":
		n.category = value
	case "pool":
		n.pool = value
	case "attempt":
		n.attempt = value
	case "sg_machine_open":
		n.machineOpen = value
	case "marketing_campaign_id", "singlesend_id":
		n.campaignID = esp.Text(value)
	case "marketing_campaign_name", "singlesend_name":
		n.campaignName = esp.Text(value)
	case "sg_template_id":
		n.templateID = esp.Text(value)
	case "tls", "cert_err", "sg_content_type", "sg_template_name", "sg_user_id", "newsletter", "post_type", "send_at":
		// SendGrid's own, without a field in the canonical event.
	default:
		if !strings.HasPrefix(key.Str, "nlvx_") {
			// unique_args and custom_args arrive as keys of the event itself.
			n.keep(strings.ToValidUTF8(key.Str, "\uFFFD"), esp.Text(value))
		}
	}
	return true
}

func (n *native) keep(key, value string) {
	if n.metadata == nil {
		n.metadata = make(map[string]string)
	}
	n.metadata[key] = value
}

// keepUnplaced keeps fields whose meaning is known only for other types.
func (n *native) keepUnplaced() {
	for _, field := range []struct{ key, value string }{{"type", n.kind}, {"reason", n.reason}, {"ip", n.ip}} {
		if field.value != "" {
			n.keep(field.key, field.value)
		}
	}
}

func (n *native) fill(e *event.Event, w esp.Webhook) {
	e.Provider = name
	e.NativeEventType, e.NativeEventID = n.event, n.eventID
	esp.SetTime(e, n.timestamp, w.ReceivedAt)
	e.Recipient = esp.Address(n.email)
	e.ProviderMessageID, e.SMTPMessageID = n.messageID, esp.MessageID(n.smtpID)
	// What stands before the first dot is the X-Message-Id that the API call was
	// answered with, shared by its recipients.
	e.BatchMessageID, _, _ = strings.Cut(n.messageID, ".")
	e.Tags = esp.Strings(n.category)
	e.CampaignID, e.CampaignName, e.TemplateID = n.campaignID, n.campaignName, n.templateID
	e.GroupID = n.groupID
	e.IPPool = poolName(n.pool)
	e.UserAgent = n.userAgent
	e.IsTest = n.isTest(e)
	n.setType(e)
	e.Metadata = n.metadata
	needless := e.Type == event.AccountNotice || e.Type == event.Unknown // may have no recipient
	if !strings.Contains(e.Recipient, "@") && (e.Recipient != "" || !needless) {
		e.Warn(event.WarnBadRecipient)
	}
	n.setID(e)
}

// placeholderID stands for every event id in the documentation's samples.
const placeholderID = "sg_event_id"

func (n *native) setID(e *event.Event) {
	if n.eventID != "" && n.eventID != placeholderID {
		e.ID = event.NewID(name, e.Source, n.email, "id", n.eventID)
		return
	}
	message := n.messageID
	if message == "" {
		message = n.smtpID
	}
	e.ID = event.NewID(name, e.Source, n.email, "fingerprint", n.event, n.kind, n.timestamp, message,
		n.url, n.urlOffset.Raw, n.reason, n.response, n.groupID)
	e.Warn(event.WarnNoNativeID)
}

// setType sets the type and everything that depends on it.
func (n *native) setType(e *event.Event) {
	switch n.event {
	case "processed":
		e.Type, e.SendingIP = event.Accepted, n.ip
	case "deferred":
		e.Type = event.Deferred
		n.setDelivery(e)
		e.ProviderBounceClass = class("", n.classification)
	case "delivered":
		e.Type = event.Delivered
		n.setDelivery(e)
	case "bounce":
		e.Type = event.Bounced
		n.setDelivery(e)
		n.setBounce(e)
	case "dropped":
		e.Type, e.SendingIP = event.Rejected, n.ip
		n.setReject(e)
	case "open":
		e.Type = event.Opened
		n.setEngagement(e)
		// The flag marks Apple Mail Privacy Protection. Without it the open need
		// not be a person's: other prefetchers are not marked, and behind a proxy
		// of the branded links SendGrid cannot tell.
		if automatic, _ := esp.Bool(n.machineOpen); automatic {
			e.Machine, e.MachineEvidence = event.MachineYes, []string{event.EvidenceProviderFlag}
		}
	case "click":
		e.Type = event.Clicked
		n.setEngagement(e)
	case "spamreport":
		e.Type = event.Complained
	case "unsubscribe":
		e.Type, e.ScopeKind = event.Unsubscribed, event.ScopeAccount
		n.setReader(e)
	case "group_unsubscribe":
		e.Type, e.ScopeKind, e.ScopeID = event.Unsubscribed, event.ScopeGroup, n.groupID
		n.setReader(e)
	case "group_resubscribe":
		e.Type, e.ScopeKind, e.ScopeID = event.Resubscribed, event.ScopeGroup, n.groupID
		n.setReader(e)
	case "account_status_change":
		e.Type = event.AccountNotice
		n.keepUnplaced()
	default:
		e.Type = event.Unknown
		e.URL = n.url
		n.keepUnplaced()
		e.Warn(event.WarnUnknownType)
	}
}

// setDelivery is for events of an attempt: "ip" is the address that sent.
func (n *native) setDelivery(e *event.Event) {
	e.SendingIP = n.ip
	if attempt, ok := esp.Int(n.attempt); ok && attempt > 0 {
		e.Attempt = attempt
	}
	text := n.response
	if text == "" {
		text = n.reason
	}
	reply := bounce.Read(text)
	e.SMTPCode, e.EnhancedCode = reply.Code, reply.Enhanced
	if enhanced, ok := bounce.Enhanced(n.status); ok {
		e.EnhancedCode = enhanced
	}
	esp.SetSMTPResponse(e, text)
}

// setReader is for events that the recipient caused: "ip" is the reader's.
func (n *native) setReader(e *event.Event) {
	e.ClientIP, e.URL = n.ip, n.url
}

func (n *native) setEngagement(e *event.Event) {
	n.setReader(e)
	e.Machine = event.MachineUnknown
	if index, ok := esp.Int(n.urlOffset.Get("index")); ok {
		e.LinkIndex = &index
	}
}

// setBounce decides kind and cause. The kind follows "type", because only
// type=bounce puts the address on SendGrid's bounce list: a blocked address may
// be good however hard its status looks, and a bounced one stays suppressed
// there however soft. The cause follows the classification.
func (n *native) setBounce(e *event.Event) {
	e.ProviderBounceClass = class(n.kind, n.classification)
	text := e.SMTPResponse
	kind, cause := bounce.Classify(bounce.Reply{Code: e.SMTPCode, Enhanced: e.EnhancedCode, Text: text})
	switch strings.ToLower(n.classification) {
	case "invalid address":
		kind, cause = event.KindHard, event.CauseUnknownRecipient
	case "mailbox unavailable":
		kind, cause = event.KindSoft, mailboxCause(cause, text)
	case "technical failure":
		kind, cause = event.KindSoft, technicalCause(cause, text)
	case "content":
		kind, cause = event.KindBlock, event.CauseContent
	case "reputation":
		kind, cause = event.KindBlock, event.CauseReputation
	case "frequency or volume too high":
		kind, cause = event.KindBlock, event.CauseRateLimited
	case "unclassified", "":
	default:
		e.Warn(event.WarnUnknownClass)
	}
	switch strings.ToLower(n.kind) {
	case "bounce":
		kind, e.ProviderSuppressed = event.KindHard, new(true)
	case "blocked":
		kind, e.ProviderSuppressed = event.KindBlock, new(false)
	case "expired":
		kind, cause, e.ProviderSuppressed = event.KindSoft, event.CauseTimeoutExpired, new(false)
	case "":
	default:
		e.Warn(event.WarnUnknownClass)
	}
	e.BounceKind, e.BounceCause = kind, cause
}

// mailboxCause tells a full mailbox from a closed one, which SendGrid's class
// does not.
func mailboxCause(byStatus, text string) string {
	switch byStatus {
	case event.CauseMailboxFull, event.CauseMailboxDisabled:
		return byStatus
	}
	if mentions(text, "full", "quota", "storage") {
		return event.CauseMailboxFull
	}
	return event.CauseMailboxDisabled
}

// technicalCause tells name resolution from the SMTP conversation.
func technicalCause(byStatus, text string) string {
	switch byStatus {
	case event.CauseDNS, event.CauseProtocol, event.CauseTimeoutExpired:
		return byStatus
	}
	if mentions(text, "dns", "mx ", "lookup", "no such host", "resolve") {
		return event.CauseDNS
	}
	return event.CauseProtocol
}

func mentions(text string, words ...string) bool {
	text = strings.ToLower(text)
	for _, word := range words {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// setReject says why SendGrid did not try. The reason is in "type" in some
// events.
func (n *native) setReject(e *event.Event) {
	if enhanced, ok := bounce.Enhanced(n.status); ok {
		e.EnhancedCode = enhanced
	}
	e.ProviderBounceClass = class(n.event, n.reason)
	if n.reason == "" {
		e.ProviderBounceClass = class(n.event, n.kind)
	}
	for _, text := range []string{n.reason, n.kind} {
		if reason, ok := rejectReason(text); ok {
			e.RejectReason = reason
			return
		}
	}
	e.RejectReason = event.RejectOther
	if n.reason != "" || n.kind != "" {
		e.Warn(event.WarnUnknownClass)
	}
}

func rejectReason(text string) (string, bool) {
	switch text = strings.ToLower(strings.TrimSpace(text)); {
	case text == "bounced address":
		return event.RejectPreviouslyBounced, true
	case text == "unsubscribed address":
		return event.RejectPreviouslyUnsubscribed, true
	case text == "spam reporting address":
		return event.RejectPreviouslyComplained, true
	case text == "invalid":
		return event.RejectInvalidAddress, true
	case strings.HasPrefix(text, "spam content"): // "(if spam checker app is enabled)" follows in the documentation
		return event.RejectContent, true
	case text == "invalid smtpapi header":
		return event.RejectSenderError, true
	case text == "recipient list over package quota":
		return event.RejectQuota, true
	}
	return "", false
}

// class joins what SendGrid says to provider_bounce_class.
func class(major, minor string) string {
	switch {
	case major == "" && minor == "":
		return ""
	case minor == "":
		return name + ":" + major
	case major == "":
		return name + ":" + minor
	}
	return name + ":" + major + "/" + minor
}

func poolName(pool gjson.Result) string {
	if !pool.IsObject() {
		return esp.Text(pool)
	}
	if text := esp.Text(pool.Get("name")); text != "" {
		return text
	}
	return esp.Text(pool.Get("id"))
}

// What "Test Your Integration" posts: one message of the documentation, tagged
// "cat facts", sent to an address that is nobody's.
const (
	sampleMessage  = "14c5d75ce93.dfd.64b469"
	sampleCategory = "cat facts"
)

func (n *native) isTest(e *event.Event) bool {
	if n.eventID == placeholderID || strings.HasPrefix(e.SMTPMessageID, sampleMessage+"@") ||
		strings.HasPrefix(n.messageID, sampleMessage+".") {
		return true
	}
	// The category alone is not enough: somebody's newsletter may be called so.
	for _, tag := range e.Tags {
		if tag == sampleCategory {
			return nobody(e.Recipient)
		}
	}
	return false
}

func nobody(address string) bool {
	switch strings.ToLower(address[strings.LastIndexByte(address, '@')+1:]) {
	case "example.com", "example.net", "example.org", "test.com":
		return true
	}
	return false
}
