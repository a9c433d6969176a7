package simulate

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/event"
)

// postmark posts one event in a request and signs nothing.
type postmark struct {
	Source
	*generator
	bounces, rejects, lists deck
	nextID                  int64
}

// postmarkVendor: 200 alone is success, and 403 drops the event (Postmark
// documentation, "Webhooks"). It reports neither the acceptance nor the sending.
func postmarkVendor() vendor {
	return vendor{
		name: "postmark", eventsPerMessage: 1.9, speak: newPostmark,
		// Letters and digits: other characters do not survive every URL.
		files: []string{postmarkFile}, secrets: secretFile(postmarkFile, func() string { return "postmark:" + secret(32) }),
		settings: func(Keys, string, string) []setting { return []setting{{key: "basic_auth", file: postmarkFile}} },
		judge: func(r Request, status int) Verdict {
			if status == http.StatusForbidden {
				return GiveUp
			}
			return succeedsBy200(r, status)
		},
		retries: []time.Duration{
			time.Minute, 5 * time.Minute, 10 * time.Minute, 10 * time.Minute, 10 * time.Minute, 15 * time.Minute,
			30 * time.Minute, time.Hour, 2 * time.Hour, 6 * time.Hour,
		},
	}
}

const postmarkFile = "postmark.auth" // user:password

func newPostmark(s Source, g *generator) (dialect, error) {
	if user, password, ok := strings.Cut(s.BasicAuth, ":"); !ok || user == "" || password == "" {
		return nil, errors.New("basic_auth: must be user:password, Postmark proves itself by nothing else")
	}
	return &postmark{Source: s, generator: g, nextID: 4294967300}, nil // beyond 2^32, as theirs
}

const postmarkServer = "8815"

// postmarkType is a bounce type of Postmark and what it means.
type postmarkType struct {
	typ, name   string
	code        int64 // contradicts itself in the vendor's own samples; not to be used
	reply       reply
	kind, cause string
	reject      string
	inactive    bool
}

var postmarkBounces = []postmarkType{
	{
		typ: "HardBounce", name: "Hard bounce", code: 1,
		reply: reply{550, "5.1.1", "no such user"}, kind: event.KindHard, cause: event.CauseUnknownRecipient, inactive: true,
	},
	{
		typ: "SoftBounce", name: "Soft bounce", code: 4096,
		reply: reply{452, "4.2.2", "mailbox is full"}, kind: event.KindSoft, cause: event.CauseMailboxFull,
	},
	{
		typ: "SpamNotification", name: "Spam notification", code: 512,
		reply: reply{550, "5.7.1", "message looks like spam"}, kind: event.KindBlock, cause: event.CauseSpam,
	},
	{
		typ: "DnsError", name: "DNS error", code: 256,
		reply: reply{550, "5.4.4", "host not found"}, kind: event.KindSoft, cause: event.CauseDNS,
	},
	{
		typ: "VirusNotification", name: "Virus notification", code: 8192,
		reply: reply{554, "5.7.1", "virus found"}, kind: event.KindBlock, cause: event.CauseVirus,
	},
	{
		typ: "Blocked", name: "ISP block", code: 16,
		reply: reply{554, "5.7.1", "blocked for its reputation"}, kind: event.KindBlock, cause: event.CauseReputation,
	},
	{
		typ: "DMARCPolicy", name: "DMARC policy", code: 100000,
		reply: reply{550, "5.7.26", "unauthenticated mail"}, kind: event.KindBlock, cause: event.CauseAuth,
	},
}

var postmarkRejects = []postmarkType{
	{typ: "BadEmailAddress", name: "Invalid email address", code: 100000, reject: event.RejectInvalidAddress, inactive: true},
	{typ: "ManuallyDeactivated", name: "Manually deactivated", code: 100002, reject: event.RejectPolicy, inactive: true},
	{typ: "Unconfirmed", name: "Registration not confirmed", code: 100003, reject: event.RejectPolicy},
}

// postmarkChanges are list changes that no recipient asked for. Two of them are
// the second signal of a bounce or complaint that was reported before.
var postmarkChanges = []struct {
	origin, reason, why string
	second              bool
}{
	{"Customer", "ManualSuppression", event.RejectPolicy, false},
	{"Recipient", "HardBounce", event.RejectPreviouslyBounced, true},
	{"Recipient", "SpamComplaint", event.RejectPreviouslyComplained, true},
	{"Admin", "ManualSuppression", event.RejectPolicy, false},
}

func (d *postmark) tell(m *message, s step, _ int) element {
	e := truth(d.Source, m, "", s.at, event.PrecisionMicrosecond)
	o := newObject(false)
	switch s.what {
	case deferred:
		r := postponements[d.rand.IntN(len(postponements))]
		return d.bounce(m, s, e, o, event.Deferred, postmarkType{typ: "Transient", name: "Message delayed", code: 2, reply: r})
	case bounced:
		return d.bounce(m, s, e, o, event.Bounced, postmarkBounces[d.bounces.deal(d.rand, len(postmarkBounces), 0.5)])
	case rejected:
		return d.bounce(m, s, e, o, event.Rejected, postmarkRejects[d.rejects.deal(d.rand, len(postmarkRejects), 0.4)])
	case failed:
		return d.bounce(m, s, e, o, event.Failed, postmarkType{typ: "SMTPApiError", name: "SMTP API error", code: 100007})
	case autoresponded:
		return d.bounce(m, s, e, o, event.Autoresponded, postmarkType{typ: "AutoResponder", name: "Auto responder", code: 64})
	case complained:
		return d.bounce(m, s, e, o, event.Complained,
			postmarkType{typ: "SpamComplaint", name: "Spam complaint", code: 512, inactive: true})
	case delivered:
		e.Type = event.Delivered
		d.open(&e, o, "Delivery")
		d.setMessage(&e, o, m, "Recipient")
		r := acceptances[d.rand.IntN(len(acceptances))]
		o.str("Details", "smtp;"+r.text())
		e.SMTPCode, e.EnhancedCode, e.SMTPResponse = r.code, r.enhanced, "smtp;"+r.text()
		return d.finish(e, o, m, s, "DeliveredAt", "")
	case opened:
		e.Type = event.Opened
		d.open(&e, o, "Open")
		first := !m.had(opened, s.at)
		o.bool("FirstOpen", first)
		d.setMessage(&e, o, m, "Recipient")
		o.num("ReadSeconds", int64(d.rand.IntN(20)))
		d.setReader(&e, o, d.readBy(m))
		return d.finish(e, o, m, s, "ReceivedAt", "")
	case clicked:
		e.Type = event.Clicked
		d.open(&e, o, "Click")
		d.setMessage(&e, o, m, "Recipient")
		e.URL = urls[d.rand.IntN(len(urls))]
		o.str("OriginalLink", e.URL)
		o.str("ClickLocation", "HTML")
		d.setReader(&e, o, m.reader)
		return d.finish(e, o, m, s, "ReceivedAt", e.URL)
	case unsubscribed:
		e.Type = event.Unsubscribed
		return d.subscription(m, s, e, o, "Recipient", "ManualSuppression")
	case resubscribed:
		e.Type = event.Resubscribed
		return d.subscription(m, s, e, o, "Recipient", "")
	case suppressionAdded:
		e.Type = event.SuppressionChanged
		c := postmarkChanges[d.lists.deal(d.rand, len(postmarkChanges), 0.4)]
		e.RejectReason, e.IsDuplicateHint = c.why, c.second
		return d.subscription(m, s, e, o, c.origin, c.reason)
	case misroutedInbound:
		return d.bounce(m, s, e, o, event.Inbound, postmarkType{typ: "InboundError", name: "Inbound error", code: 100008})
	case neverHeardOf:
		e.Type = event.Unknown
		e.Warn(event.WarnUnknownType)
		d.open(&e, o, "Levitation")
		d.setMessage(&e, o, m, "Recipient")
		return d.finish(e, o, m, s, "ReceivedAt", "")
	}
	return element{}
}

func (d *postmark) open(e *event.Event, o *object, recordType string) {
	e.NativeEventType = recordType
	o.str("RecordType", recordType)
}

// setMessage writes what every record says of the message. The member that
// holds the recipient has two names.
func (d *postmark) setMessage(e *event.Event, o *object, m *message, recipient string) {
	e.SubaccountID, e.Stream = postmarkServer, m.stream
	e.ProviderMessageID = uuid(m.id)
	if m.isTest {
		e.SubaccountID, e.ProviderMessageID = "1234", "00000000-0000-0000-0000-000000000000"
	}
	o.raw("ServerID", e.SubaccountID)
	o.str("MessageStream", m.stream)
	o.str("MessageID", e.ProviderMessageID)
	o.str(recipient, m.to.address)
	switch {
	case len(m.tags) == 0 || m.variant%16 == 1:
		o.null("Tag")
	case m.variant%16 == 2:
		o.str("Tag", "")
	default:
		o.str("Tag", m.tags[0])
		e.Tags = m.tags[:1]
	}
	switch {
	case len(m.metadata) == 0 && m.variant%2 == 0:
		o.null("Metadata")
	default:
		o.obj("Metadata", func(o *object) {
			for _, p := range m.metadata {
				o.str(p.name, p.text) // Postmark's metadata is text only
			}
		})
		e.Metadata = metadata(m)
	}
	if m.variant%5 == 0 {
		o.raw("TomorrowsField", `{"Depth":[1,{"X":null}]}`)
	}
}

func (d *postmark) bounce(m *message, s step, e event.Event, o *object, typ event.Type, b postmarkType) element {
	e.Type = typ
	d.nextID++
	e.NativeEventID = strconv.FormatInt(d.nextID, 10)
	recordType := "Bounce"
	if typ == event.Complained {
		recordType = "SpamComplaint"
	}
	d.open(&e, o, recordType)
	if m.variant%64 == 3 {
		o.str("ID", e.NativeEventID)
	} else {
		o.num("ID", d.nextID)
	}
	o.str("Type", b.typ)
	o.num("TypeCode", b.code)
	o.str("Name", b.name)
	d.setMessage(&e, o, m, "Email")
	o.str("Description", "The server was unable to deliver your message")
	if b.reply.code != 0 {
		o.str("Details", "smtp;"+b.reply.text())
		e.SMTPCode, e.EnhancedCode, e.SMTPResponse = b.reply.code, b.reply.enhanced, "smtp;"+b.reply.text()
	} else {
		o.str("Details", "")
	}
	o.str("From", m.sender)
	o.str("Subject", m.subject)
	o.bool("DumpAvailable", true)
	o.bool("Inactive", b.inactive)
	o.bool("CanActivate", b.inactive)
	e.Sender, e.Subject = m.sender, m.subject
	e.BounceKind, e.BounceCause, e.RejectReason = b.kind, b.cause, b.reject
	e.ProviderBounceClass = "postmark:" + b.typ
	e.ProviderSuppressed = new(b.inactive)
	return d.finish(e, o, m, s, "BouncedAt", "")
}

func (d *postmark) subscription(m *message, s step, e event.Event, o *object, origin, reason string) element {
	d.open(&e, o, "SubscriptionChange")
	d.setMessage(&e, o, m, "Recipient")
	o.str("Origin", origin)
	o.bool("SuppressSending", reason != "")
	e.SuppressionAction = event.SuppressionAdd
	if reason == "" {
		o.null("SuppressionReason")
		e.SuppressionAction = event.SuppressionRemove
	} else {
		o.str("SuppressionReason", reason)
		e.ProviderBounceClass = "postmark:" + reason
	}
	e.ScopeKind, e.ScopeID = event.ScopeStream, m.stream
	e.ProviderSuppressed = new(reason != "")
	return d.finish(e, o, m, s, "ChangedAt", "")
}

func (d *postmark) setReader(e *event.Event, o *object, r reader) {
	o.str("Platform", r.kind)
	o.str("UserAgent", r.agent)
	o.obj("Client", func(o *object) { o.str("Name", r.client); o.str("Company", r.company); o.str("Family", r.client) })
	o.obj("OS", func(o *object) { o.str("Name", r.os); o.str("Company", "unknown"); o.str("Family", r.os) })
	e.UserAgent, e.ClientName, e.OSName, e.DeviceType = r.agent, r.client, known(r.os), known(strings.ToLower(r.kind))
	r.judge(e, false)
	if chance(d.rand, 0.05) {
		o.raw("Geo", "{}")
		return
	}
	o.obj("Geo", func(o *object) {
		o.str("CountryISOCode", r.country)
		o.str("Country", r.countryName)
		o.str("RegionISOCode", r.region)
		o.str("Region", r.regionName)
		o.str("City", r.city)
		o.str("Zip", r.postcode)
		o.str("Coords", r.latitude+","+r.longitude)
		o.str("IP", r.ip)
	})
	e.GeoCountry, e.GeoRegion, e.GeoCity, e.ClientIP = r.country, r.regionName, r.city, r.ip
}

// known: a provider that says "unknown" says nothing.
func known(text string) string {
	if strings.EqualFold(text, "unknown") {
		return ""
	}
	return text
}

// finish writes the time, which Postmark gives with seven digits of a second,
// and the identity: the record's own id where there is one, else everything
// that tells two events of a message apart.
func (d *postmark) finish(e event.Event, o *object, m *message, s step, member, link string) element {
	var text string
	switch m.variant % 8 {
	case 0: // somewhere else on the globe
		text = s.at.In(time.FixedZone("", -5*3600)).Format("2006-01-02T15:04:05.000000") + fmt.Sprintf("%d-05:00", m.variant%9)
	case 1:
		text = s.at.UTC().Format("2006-01-02T15:04:05Z")
		e.OccurredAt, e.OccurredAtPrecision = s.at.UTC().Truncate(time.Second), event.PrecisionSecond
	default:
		text = s.at.UTC().Format("2006-01-02T15:04:05.000000") + fmt.Sprintf("%dZ", m.variant%9+1)
	}
	o.str(member, text)
	body := o.done()
	switch {
	case e.NativeEventID != "":
		e.ID = event.NewID("postmark", d.Name, m.to.address, e.NativeEventType, e.NativeEventID)
	case e.Type == event.Unknown: // nobody knows which members tell such events apart
		sum := sha256.Sum256(body)
		e.ID = event.NewID("postmark", d.Name, m.to.address,
			e.NativeEventType, e.SubaccountID, m.stream, e.ProviderMessageID, text, link, hex.EncodeToString(sum[:]))
	default:
		e.ID = event.NewID("postmark", d.Name, m.to.address,
			e.NativeEventType, e.SubaccountID, m.stream, e.ProviderMessageID, text, link)
	}
	return element{json: body, truth: []event.Event{e}, at: s.at}
}

func (d *postmark) batch() int { return 1 }

func (d *postmark) pack(elements []element, at time.Time) Request {
	r := newRequest(d.Source, elements, elements[0].json, at)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Postmark")
	return r
}

func (d *postmark) again(r Request, at time.Time) Request {
	r.at = at
	return r
}

func (d *postmark) forge(r Request) Request {
	r.Header = r.Header.Clone()
	if d.rand.IntN(2) == 0 {
		r.Header.Del("Authorization")
	} else {
		r.Header.Set("Authorization", basic("postmark:guessed"))
	}
	return r
}
