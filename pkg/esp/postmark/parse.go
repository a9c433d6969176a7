package postmark

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

// Values of RecordType.
const (
	recordDelivery           = "Delivery"
	recordBounce             = "Bounce"
	recordSpamComplaint      = "SpamComplaint"
	recordOpen               = "Open"
	recordClick              = "Click"
	recordSubscriptionChange = "SubscriptionChange"
	recordInbound            = "Inbound"
)

var errNotObject = errors.New("body is not a JSON object")

// record is what is read of a payload. Texts are as received.
type record struct {
	recordType string
	id         string // of the bounce or complaint
	bounceType string // Type
	serverID   string
	stream     string
	messageID  string
	recipient  string // Recipient, or Email
	sender     string
	subject    string
	at         string // DeliveredAt, BouncedAt, ReceivedAt or ChangedAt
	details    string
	link       string
	platform   string
	userAgent  string
	origin     string
	reason     string // SuppressionReason

	original        string // OriginalRecipient of inbound mail
	hasFromFull     bool   // only inbound mail has it
	tags            []string
	metadata        map[string]string
	geo             gjson.Result
	client          gjson.Result
	os              gjson.Result
	inactive        *bool
	suppressSending *bool
}

// read takes one pass over the payload, which may hold a whole message.
func read(body gjson.Result) record {
	var r record
	body.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "RecordType":
			r.recordType = esp.Text(v)
		case "ID":
			r.id = esp.Text(v)
		case "Type":
			r.bounceType = esp.Text(v)
		case "ServerID", "ServerId": // Delivery has been seen with the second
			r.serverID = esp.Text(v)
		case "MessageStream":
			r.stream = esp.Text(v)
		case "MessageID":
			r.messageID = esp.Text(v)
		case "Recipient", "Email":
			if text := esp.Text(v); text != "" {
				r.recipient = text
			}
		case "OriginalRecipient":
			r.original = esp.Text(v)
		case "From":
			r.sender = esp.Text(v)
		case "FromFull":
			r.hasFromFull = true
		case "Subject":
			r.subject = esp.Text(v)
		case "DeliveredAt", "BouncedAt", "ReceivedAt", "ChangedAt":
			if text := esp.Text(v); text != "" {
				r.at = text
			}
		case "Details":
			r.details = esp.Text(v)
		case "OriginalLink":
			r.link = esp.Text(v)
		case "Platform":
			r.platform = esp.Text(v)
		case "UserAgent":
			r.userAgent = esp.Text(v)
		case "Origin":
			r.origin = esp.Text(v)
		case "SuppressionReason":
			r.reason = esp.Text(v)
		case "Tag":
			r.tags = esp.Strings(v)
		case "Metadata":
			r.metadata = esp.Metadata(v)
		case "Geo":
			r.geo = v
		case "Client":
			r.client = v
		case "OS":
			r.os = v
		case "Inactive":
			r.inactive = flag(v)
		case "SuppressSending":
			r.suppressSending = flag(v)
		}
		return true
	})
	return r
}

func flag(v gjson.Result) *bool {
	if value, ok := esp.Bool(v); ok {
		return &value
	}
	return nil
}

func parse(w esp.Webhook) (esp.Result, error) {
	if !esp.ValidJSON(w.Body) {
		return esp.Result{}, fault.Permanent(fault.BadBody, errors.New("body is not JSON"))
	}
	body := gjson.ParseBytes(w.Body)
	if !body.IsObject() {
		return esp.Result{}, fault.Permanent(fault.BadBody, errNotObject)
	}
	r := read(body)
	e := event.Event{
		Provider:          name,
		Source:            w.Source,
		SubaccountID:      r.serverID,
		NativeEventType:   r.recordType,
		IsTest:            isTest(r),
		Recipient:         esp.Address(r.recipient),
		Sender:            esp.Address(r.sender),
		Subject:           r.subject,
		ProviderMessageID: r.messageID,
		Stream:            r.stream,
		Tags:              r.tags,
		Metadata:          r.metadata,
	}
	esp.SetTime(&e, r.at, w.ReceivedAt)
	identify(&e, r, w.Body)
	interpret(&e, r)
	return esp.Result{Events: []event.Event{e}}, nil
}

// identify computes the id; the package comment says from what and why.
func identify(e *event.Event, r record, body []byte) {
	fingerprint := []string{r.recordType, r.serverID, r.stream, r.messageID, r.at, r.link}
	alone := r.at != ""
	switch r.recordType {
	case recordBounce, recordSpamComplaint:
		if r.id != "" && r.id != "0" {
			e.NativeEventID = r.id
			e.ID = event.NewID(name, e.Source, r.recipient, r.recordType, r.id)
			return
		}
		e.Warn(event.WarnNoNativeID)
	case recordDelivery, recordOpen, recordClick, recordSubscriptionChange:
	default:
		alone = false
	}
	if !alone {
		sum := sha256.Sum256(body)
		fingerprint = append(fingerprint, hex.EncodeToString(sum[:]))
	}
	e.ID = event.NewID(name, e.Source, r.recipient, fingerprint...)
}

// isTest recognizes the posts of the dashboard's test button and the samples of
// the documentation. A missing MessageID is no sign of either: list changes by
// hand have none.
func isTest(r record) bool {
	if r.messageID == "00000000-0000-0000-0000-000000000000" {
		return true
	}
	return (r.serverID == "23" || r.serverID == "1234") && strings.EqualFold(r.recipient, "john@example.com")
}

func interpret(e *event.Event, r record) {
	recordType := r.recordType
	if recordType == "" && r.hasFromFull {
		recordType = recordInbound
	}
	switch recordType {
	case recordDelivery:
		e.Type = event.Delivered
		setReply(e, bounce.Read(r.details))
	case recordBounce:
		interpretBounce(e, r)
	case recordSpamComplaint:
		e.Type = event.Complained
		e.ProviderSuppressed = r.inactive
		setClass(e, r.bounceType)
	case recordOpen:
		e.Type = event.Opened
		setClient(e, r)
	case recordClick:
		e.Type = event.Clicked
		e.URL = r.link
		setClient(e, r)
	case recordSubscriptionChange:
		interpretChange(e, r)
	case recordInbound:
		e.Type = event.Inbound
		e.Recipient = esp.Address(r.original)
	default:
		e.Type = event.Unknown
		e.Warn(event.WarnUnknownType)
	}
}

// class is what a bounce Type means.
type class struct {
	typ    event.Type
	kind   string // of typ bounced
	cause  string // empty: the reply tells
	reject string // of typ rejected
}

// classOf is the table of bounce types. A Bounce record need not be a bounce.
func classOf(bounceType string) (class, bool) {
	switch bounceType {
	case "HardBounce":
		return class{typ: event.Bounced, kind: event.KindHard}, true
	case "SoftBounce":
		return class{typ: event.Bounced, kind: event.KindSoft}, true
	case "Blocked":
		return class{typ: event.Bounced, kind: event.KindBlock}, true
	case "DnsError":
		return class{typ: event.Bounced, kind: event.KindSoft, cause: event.CauseDNS}, true
	case "SpamNotification":
		// The receiver's filter, not the person: no complaint.
		return class{typ: event.Bounced, kind: event.KindBlock, cause: event.CauseSpam}, true
	case "VirusNotification":
		return class{typ: event.Bounced, kind: event.KindBlock, cause: event.CauseVirus}, true
	case "DMARCPolicy":
		return class{typ: event.Bounced, kind: event.KindBlock, cause: event.CauseAuth}, true
	case "Unknown", "OpenRelayTest":
		return class{typ: event.Bounced, kind: event.KindUndetermined}, true
	case "Transient":
		return class{typ: event.Deferred}, true
	case "AutoResponder", "AddressChange", "ChallengeVerification":
		return class{typ: event.Autoresponded}, true
	case "SpamComplaint":
		return class{typ: event.Complained}, true
	case "Unsubscribe":
		return class{typ: event.Unsubscribed}, true
	case "Subscribe":
		return class{typ: event.Resubscribed}, true
	case "BadEmailAddress":
		return class{typ: event.Rejected, reject: event.RejectInvalidAddress}, true
	case "ManuallyDeactivated", "Unconfirmed":
		return class{typ: event.Rejected, reject: event.RejectPolicy}, true
	case "SMTPApiError", "TemplateRenderingFailed":
		return class{typ: event.Failed}, true
	case "InboundError":
		return class{typ: event.Inbound}, true
	}
	return class{}, false
}

func interpretBounce(e *event.Event, r record) {
	reply := bounce.Read(r.details)
	setReply(e, reply)
	setClass(e, r.bounceType)
	e.ProviderSuppressed = r.inactive
	c, known := classOf(r.bounceType)
	if !known {
		// A new Type may be anything, an opt-in as well as a bounce.
		e.Type = event.Unknown
		e.Warn(event.WarnUnknownClass)
		return
	}
	e.Type = c.typ
	e.RejectReason = c.reject
	switch c.typ {
	case event.Bounced:
		e.BounceKind, e.BounceCause = c.kind, c.cause
		kind, cause := bounce.Classify(reply)
		switch {
		case c.kind == event.KindHard && kind != event.KindHard:
			// Postmark says hard: the reply may refine that, not undo it.
			e.BounceCause = event.CauseUnknownRecipient
		case c.cause == "":
			e.BounceCause = cause
		}
	case event.Unsubscribed, event.Resubscribed:
		setScope(e, r)
	}
}

func interpretChange(e *event.Event, r record) {
	setScope(e, r)
	setClass(e, r.reason)
	if r.suppressSending == nil {
		e.Type = event.Unknown
		e.Warn(event.WarnUnknownClass)
		return
	}
	e.ProviderSuppressed = r.suppressSending
	if !*r.suppressSending {
		e.Type = event.Resubscribed
		e.SuppressionAction = event.SuppressionRemove
		return
	}
	e.Type = event.SuppressionChanged
	e.SuppressionAction = event.SuppressionAdd
	switch r.reason {
	case "HardBounce":
		e.RejectReason = event.RejectPreviouslyBounced
		e.IsDuplicateHint = true
	case "SpamComplaint":
		e.RejectReason = event.RejectPreviouslyComplained
		e.IsDuplicateHint = true
	case "ManualSuppression":
		if r.origin == "Recipient" {
			e.Type = event.Unsubscribed
			return
		}
		e.RejectReason = event.RejectPolicy // by the customer or by Postmark
	default:
		e.RejectReason = event.RejectOther
		e.Warn(event.WarnUnknownClass)
	}
}

// setScope: Postmark keeps a suppression list for each message stream.
func setScope(e *event.Event, r record) {
	e.ScopeKind, e.ScopeID = event.ScopeStream, r.stream
}

// setClass keeps Postmark's own word beside what it was taken for.
func setClass(e *event.Event, word string) {
	if word != "" {
		e.ProviderBounceClass = name + ":" + word
	}
}

func setReply(e *event.Event, reply bounce.Reply) {
	e.SMTPCode, e.EnhancedCode = reply.Code, reply.Enhanced
	esp.SetSMTPResponse(e, reply.Text)
}

func setClient(e *event.Event, r record) {
	e.Machine = event.MachineUnknown
	e.UserAgent = r.userAgent
	e.DeviceType = strings.ToLower(said(r.platform))
	e.ClientName = family(r.client)
	e.OSName = family(r.os)
	e.ClientIP = esp.Text(r.geo.Get("IP"))
	e.GeoCountry = firstOf(esp.Text(r.geo.Get("CountryISOCode")), esp.Text(r.geo.Get("Country")))
	e.GeoRegion = firstOf(esp.Text(r.geo.Get("Region")), esp.Text(r.geo.Get("RegionISOCode")))
	e.GeoCity = esp.Text(r.geo.Get("City"))
}

// family prefers "Chrome" over "Chrome 140.0.1": the version is in user_agent.
func family(v gjson.Result) string {
	return firstOf(said(esp.Text(v.Get("Family"))), said(esp.Text(v.Get("Name"))))
}

// said takes "unknown" for what it is: nothing said.
func said(text string) string {
	if strings.EqualFold(text, "unknown") {
		return ""
	}
	return text
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
