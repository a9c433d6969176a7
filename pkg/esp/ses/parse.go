package ses

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"mailriver/pkg/bounce"
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

// Values of provider_variant.
const (
	variantEvents   = "event_publishing"
	variantFeedback = "feedback_notification"
	variantSNS      = "sns" // a message of SNS itself
)

// reading is the reading of one webhook.
type reading struct {
	hook   esp.Webhook
	result esp.Result
	seen   map[event.ID]bool

	snsKind string // Type
	snsID   string // MessageId
	snsTime string // Timestamp; empty for raw delivery
	topic   string // TopicArn
	text    string // Message, as signed

	base        event.Event // what all events of this webhook share
	mailTime    string      // when the message was sent, not when the event happened
	destination gjson.Result
}

// parse reads one webhook: one SNS message with at most one event of SES, about
// any number of recipients.
func parse(w esp.Webhook) (esp.Result, error) {
	r := &reading{hook: w, seen: make(map[event.ID]bool)}
	if isRaw(w.Header) {
		r.snsKind = kindNotification
		r.snsID, r.topic = w.Header.Get(headerID), w.Header.Get(headerTopic)
		r.text = string(w.Body)
	} else {
		e, err := readEnvelope(w.Body)
		if err != nil {
			return esp.Result{}, fault.Permanent(fault.BadBody, err)
		}
		if field := e.missing("Type", "MessageId", "Message"); field != "" {
			return esp.Result{}, fault.Permanentf(fault.BadBody, "%s is missing: not an SNS message", field)
		}
		r.snsKind, r.snsID, r.snsTime = e["Type"], e["MessageId"], e["Timestamp"]
		r.topic, r.text = e["TopicArn"], e["Message"]
	}
	r.base = event.Event{Provider: name, Source: w.Source, NativeEventID: valid(r.snsID)}
	r.read()
	return r.result, nil
}

func (r *reading) read() {
	if r.snsKind != kindNotification {
		r.base.ProviderVariant, r.base.NativeEventType = variantSNS, valid(r.snsKind)
		typ := event.AccountNotice
		if signedFields(r.snsKind) == nil {
			typ = event.Unknown
			r.base.Warn(event.WarnUnknownType)
		}
		r.notice(typ, r.text)
		return
	}
	// SES also says things in a plain sentence, as when event publishing has been
	// set up.
	text := strings.TrimSpace(r.text)
	if text != "" && text[0] != '{' && text[0] != '[' {
		r.base.ProviderVariant, r.base.NativeEventType = variantSNS, kindNotification
		r.notice(event.AccountNotice, text)
		return
	}
	if !esp.ValidJSON([]byte(text)) {
		r.reject(0, r.text, errors.New("message is not JSON"))
		return
	}
	root := gjson.Parse(text)
	if !root.IsObject() {
		r.reject(0, r.text, errors.New("message is not a JSON object"))
		return
	}
	r.readEvent(root)
}

// notice adds an event that is about no message. It has no field for what the
// notice says, so that is metadata.
func (r *reading) notice(typ event.Type, says string) {
	if account := arnPattern.FindStringSubmatch(r.topic); account != nil {
		r.base.AccountID = account[3]
	}
	r.base.Metadata = map[string]string{}
	for key, value := range map[string]string{"topic_arn": valid(r.topic), "message": valid(says)} {
		if value != "" {
			r.base.Metadata[key] = value
		}
	}
	native := []string{r.base.NativeEventType, r.snsID}
	if r.snsID == "" {
		native = r.fingerprint()
	}
	e := r.event()
	e.Type = typ
	r.setTime(&e, r.snsTime)
	r.add(e, native)
}

// readEvent reads what SES published.
func (r *reading) readEvent(root gjson.Result) {
	members := root.Map()
	kind, variant := esp.Text(members["eventType"]), variantEvents
	if kind == "" {
		kind, variant = esp.Text(members["notificationType"]), variantFeedback
	}
	if kind != "" {
		r.base.ProviderVariant = variant
	}
	r.base.NativeEventType = kind
	r.readMail(members["mail"])

	switch kind {
	case "Send":
		r.readSend()
	case "Reject":
		r.readReject(members["reject"])
	case "Rendering Failure":
		r.readFailure(members["failure"])
	case "Delivery":
		r.readDelivery(members["delivery"])
	case "DeliveryDelay":
		r.readDelay(members["deliveryDelay"])
	case "Bounce":
		r.readBounce(members["bounce"])
	case "Complaint":
		r.readComplaint(members["complaint"])
	case "Open":
		r.readOpen(members["open"])
	case "Click":
		r.readClick(members["click"])
	case "Subscription":
		r.readSubscription(members["subscription"])
	case "Received": // inbound mail, sent to the wrong topic
		e := r.event()
		e.Type = event.Inbound
		r.setTime(&e, textOf(members["receipt"], "timestamp"), r.snsTime)
		r.add(e, r.once())
	case "AmazonSnsSubscriptionSucceeded": // an identity was tied to the topic
		r.notice(event.AccountNotice, esp.Text(members["message"]))
	default:
		r.base.Warn(event.WarnUnknownType)
		native := []string{kind, r.snsID}
		if r.snsID == "" {
			native = r.fingerprint()
		}
		at := innerTime(root)
		r.unaddressed(native, func(e *event.Event) {
			e.Type = event.Unknown
			r.setTime(e, at, r.snsTime)
		})
	}
}

// innerTime returns the time of an event whose type is not known. SES puts it
// into the object that is named after the type; that of mail is another.
func innerTime(root gjson.Result) string {
	at := ""
	root.ForEach(func(key, value gjson.Result) bool {
		if key.Str != "mail" {
			at = textOf(value, "timestamp")
		}
		return at == ""
	})
	return at
}

// readMail reads the object that is beside every event: the message.
func (r *reading) readMail(mail gjson.Result) {
	if !mail.IsObject() {
		return
	}
	e := &r.base
	var fromHeader string
	mail.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "timestamp":
			r.mailTime = esp.Text(value)
		case "source":
			e.Sender = esp.Address(esp.Text(value))
		case "sendingAccountId":
			e.AccountID = esp.Text(value)
		case "messageId":
			e.ProviderMessageID = esp.Text(value)
		case "destination":
			r.destination = value
		case "commonHeaders":
			e.Subject = textOf(value, "subject")
			e.SMTPMessageID = esp.MessageID(textOf(value, "messageId"))
			if from := value.Get("from").Array(); len(from) > 0 {
				fromHeader = esp.Address(esp.Text(from[0]))
			}
		case "headers":
			readHeaders(e, value)
		}
		return true
	})
	if e.Sender == "" {
		e.Sender = fromHeader
	}
	// Some copies repeat the id of SES there, which is none of RFC 5322.
	if e.SMTPMessageID == e.ProviderMessageID {
		e.SMTPMessageID = ""
	}
	readTags(e, mail.Get("tags")) // after the headers: they win
}

// readHeaders reads what Anymail's users send along.
func readHeaders(e *event.Event, headers gjson.Result) {
	for _, header := range headers.Array() {
		value := textOf(header, "value")
		switch strings.ToLower(textOf(header, "name")) {
		case "x-tag":
			if value != "" && !slices.Contains(e.Tags, value) {
				e.Tags = append(e.Tags, value)
			}
		case "x-metadata":
			if esp.ValidJSON([]byte(value)) {
				setMetadata(e, esp.Metadata(gjson.Parse(value)))
			}
		}
	}
}

// readTags reads the tags of the message. SES gives each a list of values.
func readTags(e *event.Event, tags gjson.Result) {
	if !tags.IsObject() {
		return
	}
	mine := map[string]string{}
	tags.ForEach(func(key, value gjson.Result) bool {
		first := ""
		values := esp.Strings(value)
		if len(values) > 0 {
			first = values[0]
		}
		switch {
		case key.Str == "ses:configuration-set":
			e.SubaccountID = first
		case key.Str == "ses:outgoing-ip":
			e.SendingIP = first
		case strings.HasPrefix(key.Str, "ses:"):
		case len(values) > 1:
			mine[valid(key.Str)] = esp.Text(value)
		default:
			mine[valid(key.Str)] = first
		}
		return true
	})
	setMetadata(e, mine)
}

func setMetadata(e *event.Event, values map[string]string) {
	if len(values) == 0 {
		return
	}
	if e.Metadata == nil {
		e.Metadata = make(map[string]string, len(values))
	}
	maps.Copy(e.Metadata, values)
}

func (r *reading) readSend() {
	r.fanOut(r.destination, r.once(), func(e *event.Event, _ gjson.Result) {
		e.Type = event.Accepted
		r.setTime(e, r.snsTime, r.mailTime)
	})
}

func (r *reading) readReject(reject gjson.Result) {
	reason := textOf(reject, "reason")
	r.fanOut(r.destination, r.once(), func(e *event.Event, _ gjson.Result) {
		e.Type = event.Rejected
		e.RejectReason = event.RejectVirus
		if reason != "Bad content" { // the one that is documented: the message held a virus
			e.RejectReason = event.RejectOther
			e.Warn(event.WarnUnknownClass)
		}
		e.ProviderBounceClass = classOf(reason)
		r.setTime(e, r.snsTime, r.mailTime)
	})
}

func (r *reading) readFailure(failure gjson.Result) {
	r.fanOut(r.destination, r.once(), func(e *event.Event, _ gjson.Result) {
		e.Type = event.Failed
		e.RejectReason = event.RejectSenderError
		e.TemplateID = textOf(failure, "templateName")
		esp.SetSMTPResponse(e, textOf(failure, "errorMessage"))
		r.setTime(e, r.snsTime, r.mailTime)
	})
}

func (r *reading) readDelivery(delivery gjson.Result) {
	at := textOf(delivery, "timestamp")
	r.fanOut(delivery.Get("recipients"), r.timed(at), func(e *event.Event, _ gjson.Result) {
		e.Type = event.Delivered
		e.MXIP = textOf(delivery, "remoteMtaIp")
		setReply(e, textOf(delivery, "smtpResponse"), "")
		r.setTime(e, at, r.snsTime)
	})
}

func (r *reading) readDelay(delay gjson.Result) {
	at := textOf(delay, "timestamp")
	r.fanOut(delay.Get("delayedRecipients"), r.timed(at), func(e *event.Event, recipient gjson.Result) {
		e.Type = event.Deferred
		e.ProviderBounceClass = classOf(textOf(delay, "delayType"))
		setReply(e, textOf(recipient, "diagnosticCode"), textOf(recipient, "status"))
		r.setTime(e, at, r.snsTime)
	})
}

func (r *reading) readBounce(b gjson.Result) {
	at := textOf(b, "timestamp")
	native := r.feedback(textOf(b, "feedbackId"), at)
	class := textOf(b, "bounceType")
	subclass := textOf(b, "bounceSubType")
	r.fanOut(b.Get("bouncedRecipients"), native, func(e *event.Event, recipient gjson.Result) {
		e.Type = event.Bounced
		e.MXIP = textOf(b, "remoteMtaIp")
		e.ProviderBounceClass = classOf(strings.TrimSuffix(class+"/"+subclass, "/"))
		status := textOf(recipient, "status")
		reply := setReply(e, textOf(recipient, "diagnosticCode"), status)
		contradicted := contradicts(strings.TrimSpace(status), textOf(recipient, "action"))
		setBounce(e, class, subclass, reply, contradicted)
		r.setTime(e, at, r.snsTime)
	})
}

// classOf returns what SES calls a bounce, delay, rejection or complaint.
func classOf(text string) string {
	if text == "" {
		return ""
	}
	return "ses:" + text
}

// contradicts says whether a recipient's own status speaks against a permanent
// failure: one delivery report can be about several recipients, and SES gives
// them all the type of the worst. Without a status the action decides.
func contradicts(status, action string) bool {
	if status != "" {
		return !strings.HasPrefix(status, "5")
	}
	switch strings.ToLower(action) {
	case "", "failed":
		return false
	}
	return true
}

// setBounce interprets type and subtype. The class of SES comes first; the SMTP
// reply tells the cause where the class leaves it open.
func setBounce(e *event.Event, class, subclass string, reply bounce.Reply, contradicted bool) {
	repliedKind, repliedCause := bounce.Classify(reply)
	switch class {
	case "Permanent":
		switch subclass {
		case "Suppressed", "OnAccountSuppressionList":
			e.Type, e.RejectReason = event.Rejected, event.RejectPreviouslyBounced
			e.ProviderSuppressed = new(true)
			return
		case "UnsubscribedRecipient":
			e.Type, e.RejectReason = event.Rejected, event.RejectPreviouslyUnsubscribed
			e.ScopeKind = event.ScopeList
			return
		case "General", "":
		case "NoEmail":
			if repliedKind != event.KindHard {
				repliedCause = event.CauseUnknownRecipient
			}
		default:
			e.Warn(event.WarnUnknownClass)
		}
		e.BounceKind, e.BounceCause = event.KindHard, repliedCause
		if contradicted {
			// It is final all the same: SES reports a bounce after it gave up.
			e.BounceKind, e.BounceCause = bounce.Classify(reply)
			if e.BounceKind == event.KindHard {
				e.BounceKind = event.KindUndetermined
			}
		}
	case "Transient":
		e.BounceKind, e.BounceCause = event.KindSoft, repliedCause
		switch subclass {
		case "General", "": // may also be an out-of-office reply; nothing tells
		case "MailboxFull":
			e.BounceCause = event.CauseMailboxFull
		case "MessageTooLarge":
			e.BounceCause = event.CauseTooLarge
		case "ContentRejected", "AttachmentRejected":
			e.BounceKind, e.BounceCause = event.KindBlock, event.CauseContent
		default:
			e.Warn(event.WarnUnknownClass)
		}
	case "Undetermined":
		e.BounceKind, e.BounceCause = event.KindUndetermined, repliedCause
	default: // the last resort: the reply alone
		e.BounceKind, e.BounceCause = repliedKind, repliedCause
		e.Warn(event.WarnUnknownClass)
	}
}

func (r *reading) readComplaint(c gjson.Result) {
	at := textOf(c, "timestamp")
	native := r.feedback(textOf(c, "feedbackId"), at)
	subclass := textOf(c, "complaintSubType")
	recipients := c.Get("complainedRecipients")
	several := len(recipients.Array()) > 1
	r.fanOut(recipients, native, func(e *event.Event, _ gjson.Result) {
		r.setTime(e, at, r.snsTime)
		e.ProviderBounceClass = classOf(subclass)
		// Mailbox providers blank out who complained. SES then lists everyone at
		// that provider whom the message went to.
		e.RecipientAmbiguous = e.RecipientAmbiguous || several
		if subclass == "OnAccountSuppressionList" { // nothing was sent, so nobody complained now
			e.Type, e.RejectReason = event.Rejected, event.RejectPreviouslyComplained
			e.ProviderSuppressed = new(true)
			return
		}
		if subclass != "" {
			e.Warn(event.WarnUnknownClass)
		}
		e.Type = event.Complained
		e.ComplaintType = textOf(c, "complaintFeedbackType")
	})
}

func (r *reading) readOpen(open gjson.Result) {
	at := textOf(open, "timestamp")
	r.unaddressed(r.timed(at), func(e *event.Event) {
		e.Type = event.Opened
		r.setEngagement(e, open, at)
	})
}

func (r *reading) readClick(click gjson.Result) {
	at, link := textOf(click, "timestamp"), textOf(click, "link")
	if tags := textOf(click, "linkTags"); tags != "" {
		setMetadata(&r.base, map[string]string{"linkTags": tags})
	}
	r.unaddressed(r.timed(at, link), func(e *event.Event) {
		e.Type = event.Clicked
		e.URL = link
		r.setEngagement(e, click, at)
	})
}

// setEngagement reads what opens and clicks share. SES does not mark automatic
// ones.
func (r *reading) setEngagement(e *event.Event, detail gjson.Result, at string) {
	e.ClientIP = textOf(detail, "ipAddress")
	e.UserAgent = textOf(detail, "userAgent")
	e.Machine = event.MachineUnknown
	r.setTime(e, at, r.snsTime)
}

// readSubscription reads a change of list preferences: of the whole list, or of
// each topic whose status is another than before.
func (r *reading) readSubscription(s gjson.Result) {
	at, contacts := textOf(s, "timestamp"), textOf(s, "contactList")
	r.base.ListID = contacts
	before, after := s.Get("oldTopicPreferences"), s.Get("newTopicPreferences")
	change := func(typ event.Type, scope, id string, native ...string) {
		r.unaddressed(r.timed(at, native...), func(e *event.Event) {
			e.Type = typ
			if id != "" {
				e.ScopeKind, e.ScopeID = scope, id
			}
			r.setTime(e, at, r.snsTime)
		})
	}
	left, said := esp.Bool(after.Get("unsubscribeAll"))
	if left {
		change(event.Unsubscribed, event.ScopeList, contacts, contacts)
		return
	}
	changes := 0
	if was, _ := esp.Bool(before.Get("unsubscribeAll")); was && said {
		change(event.Resubscribed, event.ScopeList, contacts, contacts)
		changes++
	}
	old := topics(before)
	for _, topic := range after.Get("topicSubscriptionStatus").Array() {
		id, status := textOf(topic, "topicName"), textOf(topic, "subscriptionStatus")
		if id == "" || status == old[id] {
			continue
		}
		switch status {
		case "OptOut":
			change(event.Unsubscribed, event.ScopeTopic, id, contacts, id)
		case "OptIn":
			change(event.Resubscribed, event.ScopeTopic, id, contacts, id)
		default:
			continue
		}
		changes++
	}
	if changes == 0 {
		// Nothing in it says what changed. To guess would opt people out of
		// everything, or in.
		r.base.Warn(event.WarnUnknownClass)
		change(event.Unknown, "", "", contacts)
	}
}

// topics returns the status of each topic.
func topics(preferences gjson.Result) map[string]string {
	status := map[string]string{}
	for _, topic := range preferences.Get("topicSubscriptionStatus").Array() {
		status[textOf(topic, "topicName")] = textOf(topic, "subscriptionStatus")
	}
	return status
}

// fanOut adds one event for each recipient of a list. An element without an
// address is rejected alone. Without a list there is one event, about nobody in
// particular.
func (r *reading) fanOut(recipients gjson.Result, native []string, fill func(*event.Event, gjson.Result)) {
	elements := recipients.Array()
	if len(elements) == 0 {
		e := r.event()
		e.RecipientAmbiguous = true
		fill(&e, gjson.Result{})
		r.add(e, native)
		return
	}
	for i, element := range elements {
		address := addressOf(element)
		if address == "" {
			r.reject(int32(i), element.Raw, errors.New("recipient has no address"))
			continue
		}
		e := r.event()
		setRecipient(&e, address)
		e.RawRecipientIndex = int32(i)
		if len(elements) > 1 {
			e.RecipientCount = int32(len(elements))
		}
		fill(&e, element)
		r.add(e, native)
	}
}

// unaddressed adds one event of a kind that does not say who it is about: with
// a recipient only when the message went to exactly one.
func (r *reading) unaddressed(native []string, fill func(*event.Event)) {
	e := r.event()
	elements := r.destination.Array()
	switch len(elements) {
	case 1:
		setRecipient(&e, addressOf(elements[0]))
		e.RecipientAmbiguous = e.Recipient == ""
	default:
		e.RecipientAmbiguous = true
		e.RecipientCount = int32(len(elements))
		e.IsTest = len(elements) > 0 && !slices.ContainsFunc(elements, func(element gjson.Result) bool {
			return !isSimulator(addressOf(element))
		})
	}
	fill(&e)
	r.add(e, native)
}

// event returns a copy of what all events share that can be changed freely.
func (r *reading) event() event.Event {
	e := r.base
	e.Tags = slices.Clone(e.Tags)
	e.Metadata = maps.Clone(e.Metadata)
	e.Warnings = slices.Clone(e.Warnings)
	return e
}

// add gives an event its id and keeps it, unless it is there already.
func (r *reading) add(e event.Event, native []string) {
	e.ID = event.NewID(name, r.hook.Source, e.Recipient, native...)
	if r.seen[e.ID] {
		return
	}
	r.seen[e.ID] = true
	r.result.Events = append(r.result.Events, e)
}

func (r *reading) reject(index int32, raw string, err error) {
	r.result.Rejected = append(r.result.Rejected,
		esp.Rejected{Raw: []byte(raw), Index: index, Err: fault.Permanent(fault.BadElement, err)})
}

// The parts of an identity, each as received. See the package comment.

func (r *reading) feedback(id, at string) []string {
	if id == "" {
		r.base.Warn(event.WarnNoNativeID)
		return r.timed(at)
	}
	r.base.NativeEventID = id
	return []string{r.base.NativeEventType, id}
}

func (r *reading) once() []string {
	if r.base.ProviderMessageID == "" {
		return r.fingerprint()
	}
	return []string{r.base.NativeEventType, r.base.ProviderMessageID}
}

func (r *reading) timed(at string, more ...string) []string {
	if r.base.ProviderMessageID == "" || at == "" {
		return append(r.fingerprint(), more...)
	}
	return append([]string{r.base.NativeEventType, r.base.ProviderMessageID, at}, more...)
}

func (r *reading) fingerprint() []string {
	r.base.Warn(event.WarnNoNativeID)
	sum := sha256.Sum256([]byte(r.text))
	return []string{r.base.NativeEventType, "sha256", hex.EncodeToString(sum[:])}
}

// setTime stores the first time that there is.
func (r *reading) setTime(e *event.Event, texts ...string) {
	for _, text := range texts {
		if text != "" {
			esp.SetTime(e, text, r.hook.ReceivedAt)
			return
		}
	}
	esp.SetTime(e, "", r.hook.ReceivedAt)
}

// setReply stores an SMTP reply and a recipient's own status, which comes
// before what can be found in the text.
func setReply(e *event.Event, text, status string) bounce.Reply {
	reply := bounce.Read(text)
	if enhanced, ok := bounce.Enhanced(status); ok {
		reply.Enhanced = enhanced
	}
	e.SMTPCode, e.EnhancedCode = reply.Code, reply.Enhanced
	esp.SetSMTPResponse(e, reply.Text)
	return reply
}

func setRecipient(e *event.Event, address string) {
	e.Recipient = address
	e.IsTest = isSimulator(address)
	if address != "" && !strings.Contains(address, "@") {
		e.Warn(event.WarnBadRecipient)
	}
}

// isSimulator says whether an address is one of the mailbox simulator, which
// makes real events about mail that nobody gets.
func isSimulator(address string) bool {
	_, domain, _ := strings.Cut(strings.ToLower(address), "@")
	return domain == "simulator.amazonses.com"
}

// addressOf reads an element of a list of recipients: an object with an
// emailAddress, or the address itself.
func addressOf(element gjson.Result) string {
	if element.IsObject() {
		element = element.Get("emailAddress")
	}
	if element.Type != gjson.String {
		return ""
	}
	return esp.Address(esp.Text(element))
}

// textOf returns a member as text; empty where there is none, or no object.
func textOf(v gjson.Result, key string) string { return esp.Text(v.Get(key)) }

// valid makes text fit to be stored.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
