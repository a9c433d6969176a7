package simulate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/event"
)

// sendgrid posts arrays of events, signed with ECDSA over the time and the raw
// body, which ends in CR LF.
type sendgrid struct {
	Source
	*generator
	key                       *ecdsa.PrivateKey
	bounces, drops, responses deck
}

// sendgridVendor: it retries for 24 hours after the event, at growing intervals
// (SendGrid documentation, "Event Webhook"). The intervals are not published.
func sendgridVendor() vendor {
	return vendor{
		name: "sendgrid", eventsPerMessage: 2.8, speak: newSendgrid,
		files: []string{sendgridKeyFile, sendgridPublicFile}, secrets: sendgridSecrets,
		settings: func(Keys, string, string) []setting { return []setting{{key: "keys", file: sendgridPublicFile}} },
		adopt: func(k Keys, s *Source, c Configured) error {
			if !slices.Contains(c.Keys, k.Text(sendgridPublicFile)) {
				return fmt.Errorf("keys: none is the public half of the simulator's key in %s", k.Dir)
			}
			s.PrivateKeyPEM = k.File(sendgridKeyFile)
			return nil
		},
		retries: doubling(time.Minute, time.Hour, 24*time.Hour),
	}
}

const (
	sendgridKeyFile    = "sendgrid.key.pem" // P-256
	sendgridPublicFile = "sendgrid.pub"     // base64 of the SubjectPublicKeyInfo, as SendGrid shows it
)

func sendgridSecrets(time.Time) (map[string][]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	private, err := privatePEM(key)
	return map[string][]byte{
		sendgridKeyFile:    private,
		sendgridPublicFile: []byte(base64.StdEncoding.EncodeToString(spki)),
	}, err
}

func newSendgrid(s Source, g *generator) (dialect, error) {
	key, err := ecKey(s.PrivateKeyPEM)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return &sendgrid{Source: s, generator: g, key: key}, nil
}

func ecKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("is %T, must be ECDSA on P-256", parsed)
	}
	return key, nil
}

// sendgridBounces: the type says the kind, because only type "bounce" puts the
// address on SendGrid's list; the classification says the cause.
var sendgridBounces = []struct {
	typ, status, class, kind, cause string
	reply                           reply
	suppressed                      bool
}{
	{
		"bounce", "5.1.1", "Invalid Address", event.KindHard, event.CauseUnknownRecipient,
		reply{550, "5.1.1", "The email account that you tried to reach does not exist"},
		true,
	},
	{
		"blocked", "5.7.1", "Reputation", event.KindBlock, event.CauseReputation,
		reply{554, "5.7.1", "blocked, poor reputation"},
		false,
	},
	{
		"blocked", "5.7.1", "content", event.KindBlock, event.CauseContent,
		reply{550, "5.7.1", "message content refused"},
		false,
	},
	{
		"blocked", "4.7.0", "Frequency or Volume Too High", event.KindBlock, event.CauseRateLimited,
		reply{421, "4.7.0", "too much mail from your address"},
		false,
	},
	{
		"blocked", "5.2.2", "Mailbox Unavailable", event.KindBlock, event.CauseMailboxFull,
		reply{552, "5.2.2", "mailbox is over quota"},
		false,
	},
	{
		"blocked", "4.4.4", "Technical Failure", event.KindBlock, event.CauseDNS,
		reply{451, "4.4.4", "cannot find your host"},
		false,
	},
	{
		"bounce", "5.1.2", "Unclassified", event.KindHard, event.CauseUnknownDomain,
		reply{550, "5.1.2", "bad destination system address"},
		true,
	},
	{
		"expired", "4.4.7", "", event.KindSoft, event.CauseTimeoutExpired,
		reply{451, "4.4.7", "delivery time expired"},
		false,
	},
}

var sendgridDrops = []struct{ reason, want string }{
	{"Bounced Address", event.RejectPreviouslyBounced},
	{"Unsubscribed Address", event.RejectPreviouslyUnsubscribed},
	{"Spam Reporting Address", event.RejectPreviouslyComplained},
	{"Invalid", event.RejectInvalidAddress},
	{"Spam Content", event.RejectContent},
	{"Invalid SMTPAPI header", event.RejectSenderError},
	{"Recipient List over Package Quota", event.RejectQuota},
}

func (d *sendgrid) tell(m *message, s step, _ int) element {
	at := s.at.Truncate(time.Second)
	e := truth(d.Source, m, "", at, event.PrecisionSecond)
	e.NativeEventID = d.token(22, base62+"-_")
	o := newObject(false)
	native := func(name string, typ event.Type) {
		e.NativeEventType, e.Type = name, typ
		o.str("event", name)
	}
	if s.what == accountNotice {
		nobody(&e)
		native("account_status_change", event.AccountNotice)
		o.str("type", "compliance_suspend")
		e.Metadata = map[string]string{"type": "compliance_suspend"} // there is no field for it
	} else {
		o.str("email", m.to.address)
	}
	if chance(d.rand, 0.03) {
		o.str("timestamp", strconv.FormatInt(at.Unix(), 10))
	} else {
		o.num("timestamp", at.Unix())
	}

	async := false
	switch s.what {
	case accepted:
		native("processed", event.Accepted)
		o.obj("pool", func(o *object) { o.num("id", 7); o.str("name", m.pool) })
		e.IPPool = m.pool
	case deferred:
		native("deferred", event.Deferred)
		r := postponements[d.rand.IntN(len(postponements))]
		m.attempts++
		d.setReply(&e, o, "response", r)
		e.Attempt = int32(m.attempts)
		if chance(d.rand, 0.05) {
			o.num("attempt", m.attempts)
		} else {
			o.str("attempt", strconv.FormatInt(m.attempts, 10))
		}
		d.setSendingIP(&e, o, m)
	case delivered:
		native("delivered", event.Delivered)
		d.setReply(&e, o, "response", acceptances[d.responses.deal(d.rand, len(acceptances), 0.9)])
		d.setSendingIP(&e, o, m)
	case bounced:
		native("bounce", event.Bounced)
		b := sendgridBounces[d.bounces.deal(d.rand, len(sendgridBounces), 0.6)]
		async = m.had(delivered, s.at)
		o.str("type", b.typ)
		o.str("status", b.status)
		d.setReply(&e, o, "reason", b.reply)
		o.text("bounce_classification", b.class)
		e.EnhancedCode = b.status
		e.BounceKind, e.BounceCause = b.kind, b.cause
		e.ProviderSuppressed = new(b.suppressed)
		e.ProviderBounceClass = "sendgrid:" + b.typ
		if b.class != "" {
			e.ProviderBounceClass += "/" + b.class
		}
		d.setSendingIP(&e, o, m)
	case rejected:
		native("dropped", event.Rejected)
		drop := sendgridDrops[d.drops.deal(d.rand, len(sendgridDrops), 0.3)]
		o.str("reason", drop.reason)
		o.str("status", "5.0.0")
		e.RejectReason, e.EnhancedCode, e.ProviderBounceClass = drop.want, "5.0.0", "sendgrid:dropped/"+drop.reason
	case opened:
		native("open", event.Opened)
		read := d.readBy(m)
		d.setReader(&e, o, read)
		machine := read.bot == "apple"
		o.bool("sg_machine_open", machine)
		o.str("sg_content_type", "html")
		read.judge(&e, machine)
	case clicked:
		native("click", event.Clicked)
		d.setReader(&e, o, m.reader)
		index := d.rand.IntN(len(urls))
		o.str("url", urls[index])
		o.obj("url_offset", func(o *object) { o.num("index", int64(index)); o.str("type", "html") })
		e.URL, e.LinkIndex, e.Machine = urls[index], new(int32(index)), event.MachineUnknown
	case complained:
		native("spamreport", event.Complained)
	case unsubscribed, resubscribed:
		if m.variant%2 == 0 && s.what == unsubscribed {
			native("unsubscribe", event.Unsubscribed)
			e.ScopeKind = event.ScopeAccount
			break
		}
		if s.what == unsubscribed {
			native("group_unsubscribe", event.Unsubscribed)
			d.setReader(&e, o, m.reader)
			o.str("url", urls[0])
			e.URL = urls[0]
		} else {
			native("group_resubscribe", event.Resubscribed)
		}
		group := strconv.FormatInt(m.group, 10)
		o.num("asm_group_id", m.group)
		e.ScopeKind, e.ScopeID, e.GroupID = event.ScopeGroup, group, group
	case accountNotice:
	case neverHeardOf:
		native("hologram_viewed", event.Unknown)
		e.Warn(event.WarnUnknownType)
	default:
		return element{}
	}

	if s.what != accountNotice && !async { // an asynchronous bounce has lost them
		d.setMessage(&e, o, m)
	}
	o.str("sg_event_id", e.NativeEventID)
	e.ID = event.NewID("sendgrid", d.Name, e.Recipient, "id", e.NativeEventID)
	return element{json: o.done(), truth: []event.Event{e}, at: s.at}
}

// setMessage writes what SendGrid repeats of the message in each event. Custom
// arguments stand beside SendGrid's own members.
func (d *sendgrid) setMessage(e *event.Event, o *object, m *message) {
	batch := base64.RawURLEncoding.EncodeToString(m.id[:])
	e.ProviderMessageID = batch + ".recvd-6f54b5d587-k2x9q-1-6742F3A1-" + strconv.Itoa(m.serial) + ".0"
	e.BatchMessageID = batch
	e.SMTPMessageID = batch + "@geopod-ismtpd-4"
	tags := m.tags
	if m.isTest {
		e.SMTPMessageID = "14c5d75ce93.dfd.64b469@ismtpd-555"
		tags = []string{"cat facts"}
	}
	o.str("smtp-id", "<"+e.SMTPMessageID+">")
	o.str("sg_message_id", e.ProviderMessageID)
	switch {
	case len(tags) == 1 && m.variant%3 > 0:
		o.str("category", tags[0])
	default:
		o.strs("category", tags)
	}
	e.Tags = tags
	for _, p := range m.metadata {
		o.raw(p.name, p.json)
	}
	e.Metadata = metadata(m)
	if m.campaign != "" {
		o.str("singlesend_id", m.campaign)
		e.CampaignID = m.campaign
	}
	if m.template != "" {
		o.str("sg_template_id", m.template)
		e.TemplateID = m.template
	}
}

func (d *sendgrid) setReply(e *event.Event, o *object, member string, r reply) {
	o.str(member, r.text())
	e.SMTPCode, e.EnhancedCode, e.SMTPResponse = r.code, r.enhanced, r.text()
}

func (d *sendgrid) setSendingIP(e *event.Event, o *object, m *message) {
	o.str("ip", m.outIP)
	o.num("tls", 1)
	e.SendingIP = m.outIP
}

func (d *sendgrid) setReader(e *event.Event, o *object, r reader) {
	o.str("useragent", r.agent)
	o.str("ip", r.ip)
	e.UserAgent, e.ClientIP = r.agent, r.ip
}

// batch sizes follow a busy sender's: a flush every 30 seconds per server.
func (d *sendgrid) batch() int {
	switch x := d.rand.Float64(); {
	case x < 0.1:
		return 1
	case x < 0.8:
		return 2 + d.rand.IntN(30)
	case x < 0.99:
		return 30 + d.rand.IntN(120)
	}
	return 150 + d.rand.IntN(300)
}

func (d *sendgrid) pack(elements []element, at time.Time) Request {
	var body strings.Builder
	for i, e := range elements {
		body.WriteString(map[bool]string{true: "[", false: ",\r\n"}[i == 0])
		body.Write(e.json)
	}
	body.WriteString("]\r\n")
	at = at.Add(time.Duration(d.rand.IntN(20)) * time.Second)
	r := newRequest(d.Source, elements, []byte(body.String()), at)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "SendGrid Event API")
	d.sign(&r, d.key)
	return r
}

func (d *sendgrid) sign(r *Request, key *ecdsa.PrivateKey) {
	timestamp := strconv.FormatInt(r.at.Unix(), 10)
	digest := sha256.New()
	digest.Write([]byte(timestamp))
	digest.Write(r.Body)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest.Sum(nil))
	if err != nil {
		return // crypto/rand does not fail; without a signature the request would be refused
	}
	r.Header.Set(sendgridTimestamp, timestamp)
	r.Header.Set(sendgridSignature, base64.StdEncoding.EncodeToString(signature))
}

const (
	sendgridSignature = "X-Twilio-Email-Event-Webhook-Signature"
	sendgridTimestamp = "X-Twilio-Email-Event-Webhook-Timestamp"
)

func (d *sendgrid) again(r Request, at time.Time) Request {
	r.Header, r.at = r.Header.Clone(), at
	d.sign(&r, d.key)
	return r
}

func (d *sendgrid) forge(r Request) Request {
	r.Header = r.Header.Clone()
	switch d.rand.IntN(4) {
	case 0:
		r.Header.Del(sendgridSignature)
	case 1:
		r.Header.Set(sendgridTimestamp, strconv.FormatInt(r.at.Unix()+1, 10))
	case 2:
		r.Body = tampered(r.Body)
	case 3:
		r.Header.Set(sendgridSignature, "bm90IGEgc2lnbmF0dXJl")
	}
	return r
}

// tampered changes one digit or letter of a body, leaving it well-formed.
func tampered(body []byte) []byte {
	out := append([]byte(nil), body...)
	for i := len(out) / 2; i < len(out); i++ {
		if c := out[i]; c >= '1' && c <= '8' {
			out[i]++
			return out
		}
	}
	return append(out, ' ')
}
