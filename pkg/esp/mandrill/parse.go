package mandrill

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/tidwall/gjson"

	"mailriver/pkg/bounce"
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

var (
	errNoEvents   = errors.New("form does not hold the field " + eventsField + " exactly once")
	errNotArray   = errors.New("field " + eventsField + " is not a JSON array")
	errNotElement = errors.New("element is not a JSON object")
)

// types are the message events.
var types = map[string]event.Type{
	"send":        event.Sent,
	"deferral":    event.Deferred,
	"delivered":   event.Delivered,
	"hard_bounce": event.Bounced,
	"soft_bounce": event.Bounced,
	"open":        event.Opened,
	"click":       event.Clicked,
	"spam":        event.Complained,
	"unsub":       event.Unsubscribed,
	"reject":      event.Rejected,
	"inbound":     event.Inbound,
}

// reasons are why an address is on the deny list, or a message was rejected.
var reasons = map[string]string{
	"hard-bounce":     event.RejectPreviouslyBounced,
	"spam":            event.RejectPreviouslyComplained,
	"unsub":           event.RejectPreviouslyUnsubscribed,
	"soft-bounce":     event.RejectPolicy,
	"custom":          event.RejectPolicy,
	"rule":            event.RejectPolicy,
	"invalid":         event.RejectInvalidAddress,
	"invalid-sender":  event.RejectSenderError,
	"unsigned":        event.RejectSenderError,
	"test-mode-limit": event.RejectTestMode,
}

// causes are the values of bounce_description. The empty one is known, and
// leaves the cause to the reply.
var causes = map[string]string{
	"bad_mailbox":    event.CauseUnknownRecipient,
	"invalid_domain": event.CauseUnknownDomain,
	"mailbox_full":   event.CauseMailboxFull,
	"general":        "",
}

func parse(w esp.Webhook) (esp.Result, error) {
	fields, err := decodeForm(w.Body)
	if err != nil {
		return esp.Result{}, fault.Permanent(fault.BadBody, err)
	}
	text, ok := events(fields)
	if !ok {
		return esp.Result{}, fault.Permanent(fault.BadBody, errNoEvents)
	}
	if !esp.ValidJSON([]byte(text)) {
		return esp.Result{}, fault.Permanent(fault.BadBody, errNotArray)
	}
	array := gjson.Parse(text)
	if !array.IsArray() {
		return esp.Result{}, fault.Permanent(fault.BadBody, errNotArray)
	}
	var result esp.Result
	var index int32
	array.ForEach(func(_, v gjson.Result) bool {
		if v.IsObject() {
			result.Events = append(result.Events, parseElement(w, v, index))
		} else {
			result.Rejected = append(result.Rejected, esp.Rejected{
				Raw: []byte(v.Raw), Index: index, Err: fault.Permanent(fault.BadElement, errNotElement),
			})
		}
		index++
		return true
	})
	return result, nil
}

// element is what is read of an element of the array. Texts are as received.
type element struct {
	event     string
	kind      string // type: the list that changed
	action    string
	id        string // of the message
	at        string
	url       string
	ip        string
	userAgent string
	location  gjson.Result
	agent     gjson.Result // user_agent_parsed
	msg       message
	entry     entry
}

type message struct {
	id          string
	at          string // when it was sent, not when this happened
	email       string
	sender      string
	fromEmail   string // of inbound mail
	subject     string
	subaccount  string
	template    string
	tags        []string
	metadata    map[string]string
	diag        string
	description string // bounce_description
	bounceCode  string // bgtools_code
	reject      entry
	attempts    int32
	last        attempt
}

// attempt is an element of smtp_events.
type attempt struct{ diag, sourceIP, destinationIP string }

// entry is an entry of the deny or allow list.
type entry struct {
	email, reason, detail, subaccount, sender string
	createdAt, lastEventAt, expiresAt         string
}

func readElement(v gjson.Result) element {
	var el element
	v.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "event":
			el.event = esp.Text(v)
		case "type":
			el.kind = esp.Text(v)
		case "action":
			el.action = esp.Text(v)
		case "_id":
			el.id = esp.Text(v)
		case "ts":
			el.at = esp.Text(v)
		case "url":
			el.url = esp.Text(v)
		case "ip":
			el.ip = esp.Text(v)
		case "user_agent":
			el.userAgent = esp.Text(v)
		case "location":
			el.location = v
		case "user_agent_parsed":
			el.agent = v
		case "msg":
			el.msg = readMessage(v)
		case "reject", "entry":
			if v.IsObject() {
				el.entry = readEntry(v)
			}
		}
		return true
	})
	return el
}

func readMessage(v gjson.Result) message {
	var m message
	if !v.IsObject() {
		return m
	}
	v.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "_id":
			m.id = esp.Text(v)
		case "ts":
			m.at = esp.Text(v)
		case "email":
			m.email = esp.Text(v)
		case "sender":
			m.sender = esp.Text(v)
		case "from_email":
			m.fromEmail = esp.Text(v)
		case "subject":
			m.subject = esp.Text(v)
		case "subaccount":
			m.subaccount = esp.Text(v)
		case "template":
			m.template = esp.Text(v)
		case "tags":
			m.tags = esp.Strings(v)
		case "metadata":
			m.metadata = esp.Metadata(v)
		case "diag":
			m.diag = esp.Text(v)
		case "bounce_description":
			m.description = esp.Text(v)
		case "bgtools_code":
			m.bounceCode = esp.Text(v)
		case "reject":
			if v.IsObject() {
				m.reject = readEntry(v)
			} else {
				m.reject.reason = esp.Text(v)
			}
		case "smtp_events":
			if v.IsArray() {
				v.ForEach(func(_, v gjson.Result) bool {
					m.attempts++
					m.last = attempt{
						diag:          esp.Text(v.Get("diag")),
						sourceIP:      esp.Text(v.Get("source_ip")),
						destinationIP: esp.Text(v.Get("destination_ip")),
					}
					return true
				})
			}
		}
		return true
	})
	return m
}

func readEntry(v gjson.Result) entry {
	var e entry
	v.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "email":
			e.email = esp.Text(v)
		case "reason":
			e.reason = esp.Text(v)
		case "detail":
			e.detail = esp.Text(v)
		case "subaccount":
			e.subaccount = esp.Text(v)
		case "sender":
			e.sender = esp.Text(v)
		case "created_at":
			e.createdAt = esp.Text(v)
		case "last_event_at":
			e.lastEventAt = esp.Text(v)
		case "expires_at":
			e.expiresAt = esp.Text(v)
		}
		return true
	})
	return e
}

func parseElement(w esp.Webhook, v gjson.Result, index int32) event.Event {
	el := readElement(v)
	e := event.Event{
		Provider:      name,
		Source:        w.Source,
		RawEventIndex: index,
	}
	esp.SetTime(&e, el.at, w.ReceivedAt)
	e.IsTest = isTest(el)
	identify(&e, el, v.Raw)
	if el.event == "" && el.kind != "" {
		parseChange(&e, el)
	} else {
		parseMessage(&e, el)
	}
	return e
}

// identify computes the id; the package comment says from what and why.
func identify(e *event.Event, el element, raw string) {
	m, n := el.msg, el.entry
	recipient := m.email
	native := []string{el.event, firstOf(el.id, m.id), el.at, el.url, el.ip, el.userAgent}
	alone := firstOf(el.id, m.id) != ""
	if el.event == "" && el.kind != "" {
		recipient = n.email
		native = []string{
			el.kind, el.action, el.at,
			n.reason, n.createdAt, n.lastEventAt, n.expiresAt, n.subaccount, n.sender,
		}
		alone = isDenyList(el.kind) || isAllowList(el.kind)
	}
	if !alone || el.at == "" {
		sum := sha256.Sum256([]byte(raw))
		native = append(native, hex.EncodeToString(sum[:]))
	}
	e.ID = event.NewID(name, e.Source, recipient, native...)
}

// The vendor renamed its lists, and posts either name.
func isDenyList(kind string) bool { return kind == "blacklist" || kind == "denylist" }

func isAllowList(kind string) bool {
	return kind == "whitelist" || kind == "allowlist" || kind == "safelist"
}

// parseMessage fills in what happened to a message.
func parseMessage(e *event.Event, el element) {
	m := el.msg
	e.NativeEventType = el.event
	e.ProviderMessageID = firstOf(el.id, m.id)
	e.Recipient = esp.Address(m.email)
	e.Sender = esp.Address(firstOf(m.sender, m.fromEmail))
	e.Subject = m.subject
	e.SubaccountID = m.subaccount
	e.TemplateID = m.template
	e.Tags = m.tags
	e.Metadata = m.metadata
	e.ClientIP = el.ip
	e.UserAgent = el.userAgent
	e.SendingIP = m.last.sourceIP
	e.MXIP = m.last.destinationIP

	typ, known := types[el.event]
	if !known {
		typ = event.Unknown
		e.Warn(event.WarnUnknownType)
	}
	e.Type = typ
	switch typ {
	case event.Sent, event.Deferred, event.Delivered:
		setReply(e, m)
	case event.Bounced:
		setBounce(e, m, el.event == "hard_bounce", setReply(e, m))
	case event.Rejected:
		setReason(e, firstOf(m.reject.reason, el.entry.reason))
	case event.Unsubscribed:
		setScope(e, m.subaccount)
	case event.Opened, event.Clicked:
		e.URL = el.url
		setClient(e, el)
	}
}

// parseChange fills in a change of the deny or the allow list, which has no
// event and no message.
func parseChange(e *event.Event, el element) {
	n := el.entry
	e.NativeEventType = el.kind
	e.Recipient = esp.Address(n.email)
	e.Sender = esp.Address(n.sender)
	e.SubaccountID = n.subaccount
	setScope(e, n.subaccount)
	e.Type = event.SuppressionChanged
	switch {
	case isAllowList(el.kind):
	case isDenyList(el.kind) && (el.action == "add" || el.action == "change"):
		addEntry(e, el)
	case isDenyList(el.kind) && el.action == "remove":
		e.SuppressionAction = event.SuppressionRemove
		e.ProviderSuppressed = new(false)
		setReason(e, n.reason)
	default:
		e.Type = event.Unknown
		e.Warn(event.WarnUnknownType)
	}
}

func addEntry(e *event.Event, el element) {
	n := el.entry
	e.SuppressionAction = event.SuppressionAdd
	e.ProviderSuppressed = new(true)
	setReason(e, n.reason)
	if at, _, ok := esp.ParseTime(n.expiresAt); ok {
		e.SuppressionExpiresAt = at
	}
	switch normal(n.reason) {
	case "hard-bounce":
		e.IsDuplicateHint = el.action == "add"
		setText(e, n.detail) // what the server said; elsewhere it is a person's note
	case "soft-bounce":
		setText(e, n.detail)
	case "spam", "unsub":
		e.IsDuplicateHint = el.action == "add"
	}
}

// isTest recognizes the samples that the test button and the documentation
// show. Real ids are hexadecimal digits.
func isTest(el element) bool {
	if strings.HasPrefix(el.id, "example") || strings.HasPrefix(el.msg.id, "example") {
		return true
	}
	for _, at := range []string{el.at, el.msg.at} {
		if at == "1365109999" || at == "1384954004" {
			return true
		}
	}
	for _, tag := range el.msg.tags {
		if tag == "webhook-example" {
			return true
		}
	}
	for _, address := range []string{el.msg.email, el.entry.email} {
		if strings.HasSuffix(strings.ToLower(esp.Address(address)), "@mandrillapp.com") {
			return true
		}
	}
	return false
}

// setBounce: Mandrill's word comes first, the reply refines it. A soft bounce
// is a block when only the reply says why.
func setBounce(e *event.Event, m message, hard bool, reply bounce.Reply) {
	kind, cause := bounce.Classify(reply)
	described, known := causes[m.description]
	if !known && m.description != "" {
		e.Warn(event.WarnUnknownClass)
	}
	switch {
	case hard:
		e.BounceKind = event.KindHard
	case described == "" && kind == event.KindBlock:
		e.BounceKind = event.KindBlock
	default:
		e.BounceKind = event.KindSoft
	}
	e.BounceCause = firstOf(described, cause)
	setClass(e, firstOf(m.description, m.bounceCode))
}

// setReason fills in why the address, or the message, is not accepted.
func setReason(e *event.Event, word string) {
	reason, known := reasons[normal(word)]
	if !known {
		reason = event.RejectOther
		e.Warn(event.WarnUnknownClass)
	}
	e.RejectReason = reason
	setClass(e, word)
}

// normal spells a reason one way: both "hard-bounce" and "hard_bounce" occur.
func normal(reason string) string {
	return strings.ReplaceAll(strings.ToLower(reason), "_", "-")
}

// setClass keeps Mandrill's own word beside what it was taken for.
func setClass(e *event.Event, word string) {
	if word != "" {
		e.ProviderBounceClass = name + ":" + word
	}
}

// setScope: a deny list belongs to the account, or to one of its subaccounts.
func setScope(e *event.Event, subaccount string) {
	e.ScopeKind = event.ScopeAccount
	if subaccount != "" {
		e.ScopeKind, e.ScopeID = event.ScopeSubaccount, subaccount
	}
}

// setReply fills in what the receiving server said, and how often it was asked.
func setReply(e *event.Event, m message) bounce.Reply {
	e.Attempt = m.attempts
	return setText(e, firstOf(m.diag, m.last.diag))
}

func setText(e *event.Event, text string) bounce.Reply {
	reply := bounce.Read(text)
	e.SMTPCode, e.EnhancedCode = reply.Code, reply.Enhanced
	esp.SetSMTPResponse(e, reply.Text)
	return reply
}

func setClient(e *event.Event, el element) {
	e.ClientName = firstOf(said(el.agent.Get("ua_family")), said(el.agent.Get("ua_name")))
	e.OSName = firstOf(said(el.agent.Get("os_family")), said(el.agent.Get("os_name")))
	if mobile, _ := esp.Bool(el.agent.Get("mobile")); mobile {
		e.DeviceType = "mobile" // the opposite is not said to be a desktop
	}
	e.Machine = event.MachineUnknown
	if strings.EqualFold(esp.Text(el.agent.Get("type")), "robot") {
		e.Machine = event.MachineYes
		e.MachineEvidence = []string{event.EvidenceProviderFlag}
		e.BotName = e.ClientName
	}
	e.GeoCountry = firstOf(esp.Text(el.location.Get("country_short")), esp.Text(el.location.Get("country")))
	e.GeoRegion = esp.Text(el.location.Get("region"))
	e.GeoCity = esp.Text(el.location.Get("city"))
}

// said takes "unknown" for what it is: nothing said.
func said(v gjson.Result) string {
	if text := esp.Text(v); !strings.EqualFold(text, "unknown") {
		return text
	}
	return ""
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
