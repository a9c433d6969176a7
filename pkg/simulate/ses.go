package simulate

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // SNS signature version 1 is SHA-1
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/event"
)

// ses publishes through SNS: a signed envelope around the JSON text of one SES
// event, which may be about several recipients. Each message of the story uses
// one of the two formats: event publishing, or the feedback notifications, which
// know bounces, complaints and deliveries only.
type ses struct {
	Source
	*generator
	key                         *rsa.PrivateKey
	region, account             string
	bounces, complaints, delays deck
}

// sesVendor: every 4xx drops the event, and anything else that is no 2xx is sent
// again, three times 20 seconds apart (Amazon SNS documentation, "Message
// delivery retries").
func sesVendor() vendor {
	return vendor{
		name: "ses", eventsPerMessage: 2.4, speak: newSES,
		files: []string{snsKeyFile, snsCertFile, caFile, serverCertFile, serverKeyFile, topicFile}, secrets: snsSecrets,
		settings: func(k Keys, _, certHost string) []setting {
			return []setting{
				{key: "topic_arns", text: k.Text(topicFile)},
				{key: "cert_hosts", text: certHost},
				{key: "ca_file", text: filepath.Join(k.Dir, caFile)},
			}
		},
		adopt: func(k Keys, s *Source, c Configured) error {
			if len(c.CertHosts) == 0 || len(c.TopicARNs) == 0 {
				return errors.New("cert_hosts and topic_arns: are required, the simulator cannot sign as AWS")
			}
			s.PrivateKeyPEM, s.TopicARN = k.File(snsKeyFile), c.TopicARNs[0]
			s.CertURL = "https://" + c.CertHosts[0] + k.CertPath()
			return nil
		},
		judge: func(r Request, status int) Verdict {
			if status >= 400 && status < 500 {
				return GiveUp
			}
			return succeedsBy2xx(r, status)
		},
		retries: []time.Duration{20 * time.Second, 20 * time.Second, 20 * time.Second},
	}
}

func newSES(s Source, g *generator) (dialect, error) {
	d := &ses{Source: s, generator: g}
	part := strings.Split(s.TopicARN, ":")
	if len(part) != 6 || part[2] != "sns" {
		return nil, fmt.Errorf("topic arn: %q is not arn:aws:sns:REGION:ACCOUNT:NAME", s.TopicARN)
	}
	d.region, d.account = part[3], part[4]
	if g.opt.Unsigned {
		return d, nil
	}
	if s.CertURL == "" {
		return nil, errors.New("cert url: is required")
	}
	var err error
	if d.key, err = rsaKey(s.PrivateKeyPEM); err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return d, nil
}

func rsaKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("is %T, must be RSA", parsed)
	}
	return key, nil
}

type sesBounce struct {
	typ, sub    string
	reply       reply
	event       event.Type
	kind, cause string
	reject      string
}

// sesBounces: type and subtype decide; those that name SES's own list report
// that nothing was sent.
var sesBounces = []sesBounce{
	{
		"Permanent", "General",
		reply{550, "5.1.1", "no such user"},
		event.Bounced, event.KindHard, event.CauseUnknownRecipient, "",
	},
	{
		"Permanent", "Suppressed",
		reply{},
		event.Rejected, "", "", event.RejectPreviouslyBounced,
	},
	{
		"Transient", "General",
		reply{451, "4.4.7", "delivery time expired"},
		event.Bounced, event.KindSoft, event.CauseTimeoutExpired, "",
	},
	{
		"Transient", "MailboxFull",
		reply{552, "5.2.2", "over quota"},
		event.Bounced, event.KindSoft, event.CauseMailboxFull, "",
	},
	{
		"Permanent", "NoEmail",
		reply{550, "5.1.1", "user unknown"},
		event.Bounced, event.KindHard, event.CauseUnknownRecipient, "",
	},
	{
		"Transient", "MessageTooLarge",
		reply{552, "5.3.4", "message too big"},
		event.Bounced, event.KindSoft, event.CauseTooLarge, "",
	},
	{
		"Permanent", "OnAccountSuppressionList",
		reply{},
		event.Rejected, "", "", event.RejectPreviouslyBounced,
	},
	{
		"Transient", "ContentRejected",
		reply{554, "5.6.0", "content refused"},
		event.Bounced, event.KindBlock, event.CauseContent, "",
	},
	{
		"Transient", "AttachmentRejected",
		reply{554, "5.6.0", "attachment refused"},
		event.Bounced, event.KindBlock, event.CauseContent, "",
	},
	{
		"Undetermined", "Undetermined",
		reply{},
		event.Bounced, event.KindUndetermined, event.CauseOther, "",
	},
}

var sesComplaints = []struct{ sub, feedback, reject string }{
	{"", "abuse", ""},
	{"", "not-spam", ""},
	{"OnAccountSuppressionList", "", event.RejectPreviouslyComplained},
	{"", "", ""},
	{"", "fraud", ""},
}

var sesDelays = []struct {
	typ   string
	reply reply
}{
	{"TransientCommunicationFailure", reply{450, "4.4.1", "connection timed out"}},
	{"MailboxFull", reply{452, "4.2.2", "mailbox full"}},
	{"SpamDetected", reply{451, "4.7.1", "looks like spam, try later"}},
	{"General", reply{}},
}

const sesTime = "2006-01-02T15:04:05.000Z"

// simulatorRecipient accepts everything, and is nobody.
var simulatorRecipient = person{
	address: "success@simulator.amazonses.com", normalized: "success@simulator.amazonses.com",
	domain: "simulator.amazonses.com",
}

// sesEvent is one SES event on its way into an envelope.
type sesEvent struct {
	d          *ses
	m          *message
	word       string // eventType or notificationType
	variant    string
	at         time.Time // inside the event
	messageID  string
	published  time.Time
	recipients []person // the list inside the event; nil when it names nobody
	body       *object  // the member beside mail
	member     string
	truth      event.Event // of every recipient, but for the address
	each       func(i int, e *event.Event)
	metadata   map[string]string // beside that of the message
	identity   []string
}

func (d *ses) tell(m *message, s step, limit int) element {
	if m.variant%16 == 4 && !m.drawn {
		for i := range 1 + m.variant%3 {
			// An address that is listed twice would be one event.
			if p := somebody((m.variant + i*7) % recipients); p.address != m.to.address {
				m.also = append(m.also, p)
			}
		}
	}
	m.drawn = true
	all := append([]person{m.to}, m.also...)
	if len(all) > limit {
		// The rest of the run is too short for everybody.
		m.also, all = nil, all[:1]
	}
	if m.isTest {
		m.to, m.also = simulatorRecipient, nil
		all = []person{m.to}
	}

	published := s.at.Truncate(time.Millisecond).Add(time.Duration(100+d.rand.IntN(800)) * time.Millisecond)
	v := &sesEvent{
		d: d, m: m, at: s.at.Truncate(time.Millisecond), published: published, variant: "event_publishing",
		messageID: d.messageID(m), body: newObject(false),
	}
	feedback := m.variant%3 == 0
	if feedback {
		v.variant = "feedback_notification"
	}
	publicationID := uuid([16]byte([]byte(d.token(16, base62))))

	if s.what == accountNotice {
		return d.notice(s, published, publicationID)
	}
	v.truth = truth(d.Source, m, "", v.at, event.PrecisionMillisecond)
	v.truth.ProviderVariant, v.truth.AccountID = v.variant, d.account

	switch s.what {
	case delivered:
		v.tellDelivery(all)
	case bounced:
		v.tellBounce(all[:1+d.rand.IntN(len(all))], sesBounces[d.bounces.deal(d.rand, len(sesBounces), 0.6)])
	case complained:
		v.tellComplaint(all)
	default:
		if feedback || !v.tellPublished(s, all) {
			return element{}
		}
	}
	return v.finish(publicationID)
}

func (d *ses) messageID(m *message) string {
	return fmt.Sprintf("01%014x-%s-000000", m.created.UnixMilli(), uuid(m.id)[:8]+"-"+uuid(m.id)[9:])
}

func (v *sesEvent) is(word, member string, typ event.Type) {
	v.word, v.member, v.truth.Type, v.truth.NativeEventType = word, member, typ, word
}

// once marks an event that happens once to a message and carries no time.
func (v *sesEvent) once() {
	v.truth.OccurredAt = v.published.UTC()
	v.identity = []string{v.word, v.messageID}
}

// timed marks an event that may happen several times.
func (v *sesEvent) timed(more ...string) {
	at := v.at.UTC().Format(sesTime)
	v.body.str("timestamp", at)
	v.identity = append([]string{v.word, v.messageID, at}, more...)
}

// feedback marks an event that both formats report under one id.
func (v *sesEvent) feedback() {
	v.truth.NativeEventID = fmt.Sprintf("01%014x-%s-000000", v.at.UnixMilli(), uuid([16]byte([]byte(v.d.token(16, hexDigits)))))
	v.body.str("timestamp", v.at.UTC().Format(sesTime))
	v.body.str("feedbackId", v.truth.NativeEventID)
	v.identity = []string{v.word, v.truth.NativeEventID}
}

func (v *sesEvent) tellDelivery(all []person) {
	v.is("Delivery", "delivery", event.Delivered)
	v.timed()
	v.recipients = all
	r := acceptances[v.d.rand.IntN(len(acceptances))]
	if v.m.variant%64 == 10 {
		v.body.str("processingTimeMillis", "1880")
	} else {
		v.body.num("processingTimeMillis", 1880)
	}
	addresses := make([]string, len(all))
	for i, p := range all {
		addresses[i] = p.address
	}
	v.body.strs("recipients", addresses)
	v.body.str("smtpResponse", r.text())
	v.body.str("reportingMTA", "a1-2.smtp-out."+v.d.region+".amazonses.com")
	v.body.str("remoteMtaIp", v.m.mxIP)
	v.truth.SMTPCode, v.truth.EnhancedCode, v.truth.SMTPResponse, v.truth.MXIP = r.code, r.enhanced, r.text(), v.m.mxIP
}

func (v *sesEvent) tellBounce(all []person, b sesBounce) {
	v.is("Bounce", "bounce", b.event)
	// All recipients of a report get the type of the worst; a recipient's own
	// status may say otherwise, and then stands.
	mixed := len(all) > 1 && b.typ == "Permanent" && b.kind == event.KindHard
	if mixed {
		v.each = func(i int, e *event.Event) {
			if i == len(all)-1 {
				e.SMTPCode, e.EnhancedCode, e.SMTPResponse = 0, "4.4.7", ""
				e.BounceKind, e.BounceCause = event.KindSoft, event.CauseTimeoutExpired
			}
		}
	}
	v.body.str("bounceType", b.typ)
	v.body.str("bounceSubType", b.sub)
	v.recipients = all
	v.body.objs("bouncedRecipients", len(all), func(i int, o *object) {
		o.str("emailAddress", all[i].address)
		if mixed && i == len(all)-1 {
			o.str("action", "delayed")
			o.str("status", "4.4.7")
			return
		}
		if b.reply.code != 0 {
			o.str("action", "failed")
			o.str("status", b.reply.enhanced)
			o.str("diagnosticCode", "smtp; "+b.reply.text())
		}
	})
	v.feedback()
	if v.m.variant%2 == 0 {
		v.body.str("remoteMtaIp", v.m.mxIP)
		v.truth.MXIP = v.m.mxIP
	}
	v.body.str("reportingMTA", "dns; a1-2.smtp-out."+v.d.region+".amazonses.com")
	t := &v.truth
	t.BounceKind, t.BounceCause, t.RejectReason = b.kind, b.cause, b.reject
	t.ProviderBounceClass = "ses:" + b.typ + "/" + b.sub
	if b.event == event.Rejected {
		t.ProviderSuppressed = new(true) // it is why nothing was sent
	}
	if b.reply.code != 0 {
		t.SMTPCode, t.EnhancedCode, t.SMTPResponse = b.reply.code, b.reply.enhanced, "smtp; "+b.reply.text()
	}
}

func (v *sesEvent) tellComplaint(all []person) {
	c := sesComplaints[v.d.complaints.deal(v.d.rand, len(sesComplaints), 0.6)]
	v.is("Complaint", "complaint", event.Complained)
	v.recipients = all
	v.body.objs("complainedRecipients", len(all), func(i int, o *object) { o.str("emailAddress", all[i].address) })
	v.feedback()
	if c.sub == "" {
		v.body.null("complaintSubType")
	} else {
		v.body.str("complaintSubType", c.sub)
		v.truth.ProviderBounceClass = "ses:" + c.sub
	}
	v.body.text("complaintFeedbackType", c.feedback)
	v.body.str("userAgent", "ExampleFBL/1.0") // of the reporter, not of a reader
	v.body.str("arrivalDate", v.m.created.UTC().Format(sesTime))
	v.truth.ComplaintType = c.feedback
	if c.reject != "" {
		v.truth.Type, v.truth.RejectReason, v.truth.ProviderSuppressed = event.Rejected, c.reject, new(true)
	}
	if len(all) > 1 { // the complainer was redacted: it is one of them
		v.truth.RecipientAmbiguous = true
	}
}

// tellPublished are the events that only event publishing knows.
func (v *sesEvent) tellPublished(s step, all []person) bool {
	d, m, t := v.d, v.m, &v.truth
	switch s.what {
	case accepted:
		v.is("Send", "send", event.Accepted)
		v.once()
		v.recipients = all
	case rejected:
		v.is("Reject", "reject", event.Rejected)
		v.once()
		v.recipients = all
		v.body.str("reason", "Bad content")
		t.RejectReason, t.ProviderBounceClass = event.RejectVirus, "ses:Bad content"
	case failed:
		v.is("Rendering Failure", "failure", event.Failed)
		v.once()
		v.recipients = all
		v.body.str("templateName", "welcome")
		v.body.str("errorMessage", "Attribute 'name' is not present in the rendering data.")
		t.TemplateID, t.RejectReason = "welcome", event.RejectSenderError
		t.SMTPResponse = "Attribute 'name' is not present in the rendering data."
	case deferred:
		delay := sesDelays[d.delays.deal(d.rand, len(sesDelays), 0.5)]
		v.is("DeliveryDelay", "deliveryDelay", event.Deferred)
		v.timed()
		v.recipients = all[:1]
		v.body.str("delayType", delay.typ)
		v.body.str("expirationTime", v.at.Add(24*time.Hour).UTC().Format(sesTime))
		v.body.str("reportingMTA", "a1-2.smtp-out."+d.region+".amazonses.com")
		v.body.objs("delayedRecipients", 1, func(_ int, o *object) {
			o.str("emailAddress", m.to.address)
			if delay.reply.code != 0 {
				o.str("status", delay.reply.enhanced)
				o.str("diagnosticCode", "smtp; "+delay.reply.text())
			}
		})
		t.ProviderBounceClass = "ses:" + delay.typ
		if delay.reply.code != 0 {
			t.SMTPCode, t.EnhancedCode, t.SMTPResponse = delay.reply.code, delay.reply.enhanced, "smtp; "+delay.reply.text()
		}
	case opened, clicked:
		word, member, typ := "Open", "open", event.Opened
		var link []string
		read := d.readBy(m)
		if s.what == clicked {
			word, member, typ = "Click", "click", event.Clicked
			link = []string{urls[d.rand.IntN(len(urls))]}
			read = m.reader
		}
		v.is(word, member, typ)
		v.timed(link...)
		v.body.str("ipAddress", read.ip)
		v.body.str("userAgent", read.agent)
		t.ClientIP, t.UserAgent = read.ip, read.agent
		read.judge(t, false)
		if link != nil {
			v.body.str("link", link[0])
			if m.variant%8 == 1 {
				v.body.raw("linkTags", `{"pos":["top"]}`)
				v.metadata = map[string]string{"linkTags": `{"pos":["top"]}`}
			} else {
				v.body.null("linkTags")
			}
			t.URL = link[0]
		}
		v.nameless(all)
	case unsubscribed, resubscribed:
		v.is("Subscription", "subscription", event.Unsubscribed)
		out := s.what == unsubscribed
		if !out {
			t.Type = event.Resubscribed
		}
		v.body.str("contactList", "news")
		v.body.str("source", "UnsubscribeHeader")
		t.ListID = "news"
		v.nameless(all)
		if m.variant%2 == 0 { // one topic of the list
			v.timed("news", "weekly")
			words := []string{"OptIn", "OptOut"}
			if out {
				words = []string{"OptOut", "OptIn"}
			}
			for i, name := range []string{"newTopicPreferences", "oldTopicPreferences"} {
				v.body.obj(name, func(o *object) {
					o.bool("unsubscribeAll", false)
					o.objs("topicSubscriptionStatus", 1, func(_ int, o *object) {
						o.str("topicName", "weekly")
						o.str("subscriptionStatus", words[i])
					})
				})
			}
			t.ScopeKind, t.ScopeID = event.ScopeTopic, "weekly"
			break
		}
		v.timed("news")
		v.body.obj("newTopicPreferences", func(o *object) {
			o.bool("unsubscribeAll", out)
			o.raw("topicSubscriptionStatus", "[]")
		})
		v.body.obj("oldTopicPreferences", func(o *object) {
			o.bool("unsubscribeAll", !out)
			o.raw("topicSubscriptionStatus", "[]")
		})
		t.ScopeKind, t.ScopeID = event.ScopeList, "news"
	case neverHeardOf:
		v.is("Levitation", "levitation", event.Unknown)
		v.body.str("timestamp", v.at.UTC().Format(sesTime))
		t.Warn(event.WarnUnknownType)
		v.nameless(all)
	default:
		return false
	}
	return true
}

// nameless: the event does not say who it was. Only a message to one address
// leaves no doubt.
func (v *sesEvent) nameless(all []person) {
	if len(all) == 1 {
		return
	}
	nobody(&v.truth)
	v.truth.RecipientAmbiguous, v.truth.RecipientCount = true, int32(len(all))
}

func (v *sesEvent) finish(publicationID string) element {
	d, m := v.d, v.m
	o := newObject(false)
	feedback := v.variant == "feedback_notification"
	if feedback {
		o.str("notificationType", v.word)
	} else {
		o.str("eventType", v.word)
	}
	if m.variant%2 == 0 { // order is not part of the format
		o.raw(v.member, string(v.body.done()))
		o.obj("mail", func(o *object) { v.mail(o, feedback) })
	} else {
		o.obj("mail", func(o *object) { v.mail(o, feedback) })
		o.raw(v.member, string(v.body.done()))
	}
	if m.variant%5 == 0 {
		o.raw("wormhole", `{"exits":[null,{"open":true}]}`)
	}
	for name, text := range v.metadata {
		if v.truth.Metadata == nil {
			v.truth.Metadata = map[string]string{}
		}
		v.truth.Metadata[name] = text
	}
	if v.truth.NativeEventID == "" { // all that the events without a feedbackId have
		v.truth.NativeEventID = publicationID
	}
	if v.identity == nil { // not a type that anybody knows
		v.identity = []string{v.word, publicationID}
	}

	out := element{json: d.envelope(string(o.done())+"\n", publicationID, v.published), at: v.published, key: publicationID}
	who := v.recipients
	if who == nil {
		who = make([]person, 1)
		who[0] = person{address: v.truth.Recipient, normalized: v.truth.RecipientNormalized, domain: v.truth.RecipientDomain}
	}
	for i, p := range who {
		e := v.truth
		e.Recipient, e.RecipientNormalized, e.RecipientDomain = p.address, p.normalized, p.domain
		if v.recipients != nil && len(who) > 1 {
			e.RecipientCount = int32(len(who))
		}
		if v.each != nil {
			v.each(i, &e)
		}
		e.ID = event.NewID("ses", d.Name, p.address, v.identity...)
		out.truth = append(out.truth, e)
	}
	return out
}

// mail writes what every event repeats of the message.
func (v *sesEvent) mail(o *object, feedback bool) {
	d, m, t := v.d, v.m, &v.truth
	o.str("timestamp", m.created.UTC().Format(sesTime))
	source := m.sender
	if m.variant%2 == 1 {
		source = person{name: m.display, address: m.sender}.display()
	}
	o.str("source", source)
	o.str("sourceArn", "arn:aws:ses:"+d.region+":"+d.account+":identity/example.org")
	o.str("sendingAccountId", d.account)
	o.str("messageId", v.messageID)
	destination := []string{m.to.address}
	for _, p := range m.also {
		destination = append(destination, p.address)
	}
	if len(destination) == 1 && m.variant%64 == 9 {
		o.str("destination", destination[0])
	} else {
		o.strs("destination", destination)
	}
	t.ProviderMessageID, t.Sender = v.messageID, m.sender
	if feedback && m.variant%4 == 0 {
		return // without "include original headers"
	}
	o.bool("headersTruncated", false)
	var tagged []pair
	var inHeader *pair
	for _, p := range m.metadata {
		if strings.HasPrefix(p.json, "{") || feedback {
			inHeader = &p // a tag of SES holds no JSON, and notifications have no tags
			continue
		}
		tagged = append(tagged, p)
	}
	headers := [][2]string{{"From", source}, {"Subject", m.subject}}
	for _, tag := range m.tags {
		headers = append(headers, [2]string{"X-Tag", tag})
	}
	t.Tags = m.tags
	t.Metadata = map[string]string{}
	if inHeader != nil {
		headers = append(headers, [2]string{"X-Metadata", "{" + quoted(inHeader.name) + ": " + inHeader.json + "}"})
		t.Metadata[inHeader.name] = inHeader.text
	}
	o.objs("headers", len(headers), func(i int, o *object) {
		o.str("name", headers[i][0])
		o.str("value", headers[i][1])
	})
	own := hex.EncodeToString(m.id[:8]) + "@shop.example.org"
	o.obj("commonHeaders", func(o *object) {
		o.strs("from", []string{source})
		o.strs("to", []string{m.to.display()})
		o.str("subject", m.subject)
		o.str("messageId", "<"+own+">")
		o.str("date", m.created.UTC().Format(time.RFC1123Z))
	})
	t.Subject, t.SMTPMessageID = m.subject, own
	if feedback {
		return
	}
	o.obj("tags", func(o *object) {
		o.strs("ses:configuration-set", []string{m.pool})
		o.strs("ses:source-ip", []string{"198.51.100.9"})
		o.strs("ses:from-domain", []string{"example.org"})
		o.strs("ses:caller-identity", []string{"mailer"})
		if t.Type != event.Accepted {
			o.strs("ses:outgoing-ip", []string{m.outIP})
			t.SendingIP = m.outIP
		}
		for _, p := range tagged {
			o.strs(p.name, []string{p.text})
			t.Metadata[p.name] = p.text
		}
	})
	t.SubaccountID = m.pool
}

// notice is the sentence that SES sends when event publishing is set up.
func (d *ses) notice(s step, published time.Time, id string) element {
	e := event.Event{
		Type: event.AccountNotice, Provider: "ses", Source: d.Name,
		OccurredAt: published.UTC(), OccurredAtPrecision: event.PrecisionMillisecond, OccurredAtSource: event.TimeFromProvider,
		NativeEventType: "Notification", NativeEventID: id, ProviderVariant: "sns", AccountID: d.account,
	}
	const sentence = "Successfully validated SNS topic for Amazon SES event publishing."
	e.Metadata = map[string]string{"message": sentence, "topic_arn": d.TopicARN} // there is no field for either
	e.ID = event.NewID("ses", d.Name, "", "Notification", id)
	return element{json: d.envelope(sentence, id, published), truth: []event.Event{e}, at: s.at, key: id}
}

// envelope wraps a message as SNS does, and signs it.
func (d *ses) envelope(text, id string, at time.Time) []byte {
	fields := map[string]string{
		"Type": "Notification", "MessageId": id, "TopicArn": d.TopicARN,
		"Subject": "Amazon SES Email Event Notification", "Message": text, "Timestamp": at.UTC().Format(sesTime),
	}
	if d.rand.IntN(3) == 0 { // feedback notifications have none, and it is signed only when it is there
		delete(fields, "Subject")
	}
	version := strconv.Itoa(1 + d.rand.IntN(2))
	return snsBody(fields, version, d.key, d.CertURL, d.region)
}

// snsBody renders an SNS message. A nil key leaves the signature out.
func snsBody(fields map[string]string, version string, key *rsa.PrivateKey, certURL, region string) []byte {
	o := newObject(false)
	for _, name := range []string{"Type", "MessageId", "Token", "TopicArn", "Subject", "Message", "SubscribeURL", "Timestamp"} {
		if value, ok := fields[name]; ok {
			o.str(name, value)
		}
	}
	if key != nil {
		o.str("SignatureVersion", version)
		o.str("Signature", snsSign(fields, version, key))
		o.str("SigningCertURL", certURL)
	}
	if fields["Type"] == "Notification" {
		o.str("UnsubscribeURL", "https://sns."+region+
			".amazonaws.com/?Action=Unsubscribe&SubscriptionArn="+fields["TopicArn"]+":1a2b")
	}
	return o.done()
}

// snsSign signs the fields, in the order of their names, that SNS signs.
func snsSign(fields map[string]string, version string, key *rsa.PrivateKey) string {
	var text strings.Builder
	for _, name := range []string{"Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"} {
		if value, ok := fields[name]; ok {
			text.WriteString(name + "\n" + value + "\n")
		}
	}
	hash, sum := crypto.SHA256, []byte(nil)
	if version == "1" {
		digest := sha1.Sum([]byte(text.String()))
		hash, sum = crypto.SHA1, digest[:]
	} else {
		digest := sha256.Sum256([]byte(text.String()))
		sum = digest[:]
	}
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, hash, sum)
	if err != nil {
		return "" // the key is too small for its hash; the request would be refused
	}
	return base64.StdEncoding.EncodeToString(signature)
}

func (d *ses) batch() int { return 1 }

func (d *ses) pack(elements []element, at time.Time) Request {
	r := newRequest(d.Source, elements, elements[0].json, at)
	d.setHeader(&r, "Notification", elements[0].key)
	return r
}

func (d *ses) setHeader(r *Request, typ, id string) {
	r.Header.Set("Content-Type", "text/plain; charset=UTF-8")
	r.Header.Set("User-Agent", "Amazon Simple Notification Service Agent")
	r.Header.Set("X-Amz-Sns-Message-Type", typ)
	r.Header.Set("X-Amz-Sns-Message-Id", id)
	r.Header.Set("X-Amz-Sns-Topic-Arn", d.TopicARN)
	if typ != "SubscriptionConfirmation" {
		r.Header.Set("X-Amz-Sns-Subscription-Arn", d.TopicARN+":1a2b3c4d-0000-4000-8000-000000000001")
	}
}

func (d *ses) again(r Request, at time.Time) Request {
	r.at = at
	return r
}

// forge changes the message, leaves out the signature, or publishes through a
// topic of the forger's own, whose signature is perfectly good.
func (d *ses) forge(r Request) Request {
	r.Header = r.Header.Clone()
	fields := map[string]string{}
	var envelope map[string]string
	if json.Unmarshal(r.Body, &envelope) != nil {
		return r // not possible: the body was made here
	}
	for _, name := range []string{"Type", "MessageId", "TopicArn", "Subject", "Message", "Timestamp"} {
		if value, ok := envelope[name]; ok {
			fields[name] = value
		}
	}
	switch d.rand.IntN(3) {
	case 0:
		r.Body = snsBody(fields, "2", nil, "", d.region)
	case 1:
		r.Body = []byte(strings.Replace(string(r.Body), `"Message":"`, `"Message":" `, 1))
	case 2:
		fields["TopicArn"] = "arn:aws:sns:" + d.region + ":999999999999:not-yours"
		r.Body = snsBody(fields, "2", d.key, d.CertURL, d.region)
		r.Header.Set("X-Amz-Sns-Topic-Arn", fields["TopicArn"])
	}
	return r
}

// Confirmation is the request with which SNS asks an endpoint to confirm its
// subscription by requesting subscribeURL. It carries no event.
func Confirmation(s Source, subscribeURL, token string, at time.Time) (Request, error) {
	made, err := newSES(s, &generator{})
	if err != nil {
		return Request{}, fmt.Errorf("source %q: %w", s.Name, err)
	}
	d := made.(*ses)
	digest := sha256.Sum256([]byte(subscribeURL + token))
	id := uuid([16]byte(digest[:16]))
	fields := map[string]string{
		"Type": "SubscriptionConfirmation", "MessageId": id, "Token": token, "TopicArn": s.TopicARN,
		"Message": "You have chosen to subscribe to the topic " + s.TopicARN +
			".\nTo confirm the subscription, visit the SubscribeURL included in this message.",
		"SubscribeURL": subscribeURL, "Timestamp": at.UTC().Format(sesTime),
	}
	r := newRequest(s, nil, snsBody(fields, "2", d.key, s.CertURL, d.region), at)
	d.setHeader(&r, "SubscriptionConfirmation", id)
	return r, nil
}
