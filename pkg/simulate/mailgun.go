package simulate

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/event"
)

// mailgun posts one event in a request. Its signature stands inside the body
// and covers a time and a token, not the event.
type mailgun struct {
	Source
	*generator
	bounces deck
	optOuts int
}

// mailgunVendor: 200 alone is success, 406 drops the event, and a delivered event
// is never sent again (Mailgun documentation, "Webhooks").
func mailgunVendor() vendor {
	return vendor{
		name: "mailgun", eventsPerMessage: 2.8, speak: newMailgun,
		files: []string{mailgunFile}, secrets: secretFile(mailgunFile, func() string { return "key-" + secret(32) }),
		settings: func(Keys, string, string) []setting { return []setting{{key: "keys", file: mailgunFile}} },
		judge: func(r Request, status int) Verdict {
			if status == http.StatusNotAcceptable || status != http.StatusOK && deliveredOnly(r) {
				return GiveUp
			}
			return succeedsBy200(r, status)
		},
		retries: []time.Duration{
			5 * time.Minute, 10 * time.Minute, 15 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour,
		},
	}
}

const mailgunFile = "mailgun.key"

func deliveredOnly(r Request) bool {
	return len(r.Truth) == 1 && r.Truth[0].NativeEventType == "delivered"
}

func newMailgun(s Source, g *generator) (dialect, error) {
	if len(s.Keys) == 0 || s.Keys[0] == "" {
		return nil, errors.New("keys: the signing key is missing")
	}
	return &mailgun{Source: s, generator: g}, nil
}

const mailgunDomain = "mg.example.org"

// mailgunFailures are permanent failures: what Mailgun calls them, and what
// they are. Codes from 498 on are Mailgun's own.
var mailgunFailures = []struct {
	reason, bounceType string
	reply              reply
	typ                event.Type
	kind, cause        string
	reject             string
}{
	{
		"bounce", "hard",
		reply{550, "5.1.1", "no such user"},
		event.Bounced, event.KindHard, event.CauseUnknownRecipient, "",
	},
	{
		"suppress-bounce", "",
		reply{605, "", "Not delivering to previously bounced address"},
		event.Rejected, "", "", event.RejectPreviouslyBounced,
	},
	{
		"old", "",
		reply{498, "", "No MX for the domain"},
		event.Bounced, event.KindSoft, event.CauseTimeoutExpired, "",
	},
	{
		"espblock", "soft",
		reply{554, "5.7.1", "blocked for its reputation"},
		event.Bounced, event.KindBlock, event.CauseReputation, "",
	},
	{
		"suppress-unsubscribe", "",
		reply{606, "", "Not delivering to unsubscribed address"},
		event.Rejected, "", "", event.RejectPreviouslyUnsubscribed,
	},
	{
		"bounce", "soft",
		reply{552, "5.2.2", "mailbox is full"},
		event.Bounced, event.KindSoft, event.CauseMailboxFull, "",
	},
	{
		"suppress-complaint", "",
		reply{607, "", "Not delivering to a user who marked messages as spam"},
		event.Rejected, "", "", event.RejectPreviouslyComplained,
	},
	{
		"generic", "",
		reply{550, "5.1.2", "unknown host"},
		event.Bounced, event.KindHard, event.CauseUnknownDomain, "",
	},
	{
		"generic", "",
		reply{625, "", "Poor list quality"},
		event.Rejected, "", "", event.RejectPolicy,
	},
}

func (d *mailgun) tell(m *message, s step, _ int) element {
	e := truth(d.Source, m, "", s.at, event.PrecisionMicrosecond)
	timestamp := strconv.FormatInt(s.at.Unix(), 10) + "." + fmt.Sprintf("%06d", s.at.Nanosecond()/1000)
	if m.variant%16 == 0 { // as a float without its last digits
		e.OccurredAt, e.OccurredAtPrecision = s.at.Truncate(10*time.Millisecond).UTC(), event.PrecisionMillisecond
		timestamp = timestamp[:len(timestamp)-4]
	}
	e.NativeEventID = d.token(22, base62+"-_")
	o := newObject(false)
	is := func(name string, typ event.Type) {
		e.NativeEventType, e.Type = name, typ
		o.str("event", name)
	}
	recipient := true

	switch s.what {
	case accepted:
		is("accepted", event.Accepted)
		o.str("method", "HTTP")
		o.str("originating-ip", "198.51.100.9")
		if m.variant%4 == 0 {
			o.null("delivery-status")
		}
		d.setEnvelope(&e, o, m)
		d.setMessage(&e, o, m, true)
	case deferred:
		is("failed", event.Deferred)
		m.attempts++
		reasons := []string{"generic", "greylisted", "espblock"}
		d.setFailure(&e, o, m, "temporary", reasons[d.rand.IntN(len(reasons))], "", postponements[d.rand.IntN(len(postponements))])
		d.setEnvelope(&e, o, m)
		d.setMessage(&e, o, m, true)
	case delivered:
		is("delivered", event.Delivered)
		m.attempts++
		d.setStatus(&e, o, m, "", acceptances[d.rand.IntN(len(acceptances))])
		d.setEnvelope(&e, o, m)
		d.setMessage(&e, o, m, true)
	case bounced:
		is("failed", "")
		late := m.had(delivered, s.at)
		n := 0
		if !late {
			n = d.bounces.deal(d.rand, len(mailgunFailures), 0.6)
		}
		f := mailgunFailures[n]
		m.attempts++
		d.setFailure(&e, o, m, "permanent", f.reason, f.bounceType, f.reply)
		if f.reply.code == 498 || f.reply.code > 599 {
			// Mailgun's own number: no receiver said it.
			e.SMTPCode = 0
			e.ProviderBounceClass += "/" + strconv.Itoa(int(f.reply.code))
		}
		e.Type, e.BounceKind, e.BounceCause, e.RejectReason = f.typ, f.kind, f.cause, f.reject
		if f.typ == event.Rejected {
			e.SMTPResponse = "" // an explanation, not a reply
		}
		e.BounceIsAsync = late
		d.setEnvelope(&e, o, m)
		d.setMessage(&e, o, m, true)
	case rejected:
		is("rejected", event.Rejected)
		const why = "Sandbox subdomains are for test purposes only"
		o.obj("reject", func(o *object) {
			o.str("reason", why)
			o.str("description", "")
		})
		e.RejectReason, e.ProviderBounceClass = event.RejectSenderError, "mailgun:rejected/"+why
		recipient = false // it is in the header only
		d.setMessage(&e, o, m, true)
	case opened:
		is("opened", event.Opened)
		d.setReader(&e, o, d.readBy(m))
		d.setMessage(&e, o, m, false)
	case clicked:
		is("clicked", event.Clicked)
		e.URL = urls[d.rand.IntN(len(urls))]
		o.str("url", e.URL)
		d.setReader(&e, o, m.reader)
		d.setMessage(&e, o, m, false)
	case complained:
		is("complained", event.Complained)
		d.setMessage(&e, o, m, true)
	case unsubscribed:
		is("unsubscribed", event.Unsubscribed)
		e.ScopeKind, e.ScopeID = event.ScopeDomain, mailgunDomain
		d.optOuts++
		if d.optOuts%2 == 0 {
			o.obj("mailing-list", func(o *object) { o.str("address", m.list); o.str("list-id", "news"); o.str("sid", "x") })
			e.ScopeKind, e.ScopeID, e.ListID = event.ScopeList, m.list, m.list
		}
		d.setReader(&e, o, m.reader)
		e.Machine, e.MachineEvidence = "", nil
		d.setMessage(&e, o, m, false)
	case neverHeardOf:
		is("teleported", event.Unknown)
		e.Warn(event.WarnUnknownType)
		d.setMessage(&e, o, m, true)
	default:
		return element{}
	}

	o.str("id", e.NativeEventID)
	o.raw("timestamp", timestamp)
	o.str("log-level", "info")
	if recipient {
		o.str("recipient", m.to.address)
		_, domain, _ := strings.Cut(m.to.address, "@")
		o.str("recipient-domain", domain)
	}
	d.setExtras(&e, o, m)
	native := "" // as received: what stands in a header is not part of the identity
	if recipient {
		native = m.to.address
	}
	e.ID = event.NewID("mailgun", d.Name, native, "id", e.NativeEventID, e.NativeEventType, timestamp)
	return element{json: o.done(), truth: []event.Event{e}, at: s.at}
}

func (d *mailgun) setMessage(e *event.Event, o *object, m *message, headers bool) {
	id := m.created.UTC().Format("20060102150405") + ".1." + strings.ToUpper(hex.EncodeToString(m.id[:8])) + "@" + mailgunDomain
	o.obj("message", func(o *object) {
		o.obj("headers", func(o *object) {
			if headers {
				o.str("to", m.to.display())
				o.str("from", person{name: m.display, address: m.sender}.display())
				o.str("subject", m.subject)
				e.Sender, e.Subject = m.sender, m.subject
			}
			o.str("message-id", id)
		})
		o.strs("attachments", nil)
		o.num("size", 2311)
	})
	e.SMTPMessageID = id
}

func (d *mailgun) setEnvelope(e *event.Event, o *object, m *message) {
	o.obj("envelope", func(o *object) {
		o.str("sender", "bounce+"+strconv.Itoa(m.serial)+"@"+mailgunDomain)
		o.str("transport", "smtp")
		o.str("targets", m.to.address)
		o.str("sending-ip", m.outIP)
	})
	e.SendingIP = m.outIP
	if m.variant%4 != 3 { // not every message is kept
		e.ProviderMessageID = base64.RawURLEncoding.EncodeToString(m.id[:])
		o.obj("storage", func(o *object) {
			o.str("key", e.ProviderMessageID)
			o.str("url", "https://storage.example.net/v3/domains/"+mailgunDomain+"/messages/"+e.ProviderMessageID)
		})
	}
}

func (d *mailgun) setFailure(e *event.Event, o *object, m *message, severity, reason, bounceType string, r reply) {
	o.str("severity", severity)
	o.str("reason", reason)
	d.setStatus(e, o, m, bounceType, r)
	e.ProviderBounceClass = "mailgun:" + severity + "/" + reason
	if severity == "temporary" {
		e.RetryAfterS = 600
	}
}

func (d *mailgun) setStatus(e *event.Event, o *object, m *message, bounceType string, r reply) {
	o.obj("delivery-status", func(o *object) {
		o.num("attempt-no", m.attempts)
		o.num("code", int64(r.code))
		o.text("enhanced-code", r.enhanced)
		o.text("bounce-type", bounceType)
		o.str("message", strings.TrimSpace(r.enhanced+" "+r.words))
		o.str("description", "")
		o.str("mx-host", m.mxHost)
		if e.Type == event.Deferred {
			o.num("retry-seconds", 600)
		}
		o.raw("session-seconds", "1.2")
		o.bool("tls", true)
	})
	e.Attempt, e.SMTPCode, e.EnhancedCode = int32(m.attempts), r.code, r.enhanced
	e.SMTPResponse, e.MXHost = strings.TrimSpace(r.enhanced+" "+r.words), m.mxHost
}

func (d *mailgun) setReader(e *event.Event, o *object, r reader) {
	o.str("ip", r.ip)
	device := map[bool]string{true: "mobile", false: "desktop"}[r.mobile]
	if chance(d.rand, 0.05) {
		o.null("geolocation")
	} else {
		o.obj("geolocation", func(o *object) { o.str("country", r.country); o.str("region", r.region); o.str("city", r.city) })
		e.GeoCountry, e.GeoRegion, e.GeoCity = r.country, r.region, r.city
	}
	o.obj("client-info", func(o *object) {
		o.str("client-name", r.client)
		o.str("client-type", "browser")
		o.str("client-os", r.os)
		o.str("device-type", device)
		o.str("user-agent", r.agent)
		o.str("bot", r.bot)
	})
	e.ClientIP, e.UserAgent, e.ClientName, e.OSName, e.DeviceType = r.ip, r.agent, r.client, r.os, device
	e.BotName = r.bot
	r.judge(e, true)
}

// setExtras writes what every event ends with, in the shapes that occur.
func (d *mailgun) setExtras(e *event.Event, o *object, m *message) {
	if len(m.tags) == 0 || m.variant%32 == 5 {
		o.null("tags")
	} else {
		o.strs("tags", m.tags)
		e.Tags = m.tags
	}
	switch {
	case len(m.metadata) == 0 && m.variant%2 == 0:
		o.raw("user-variables", "[]")
	case len(m.metadata) == 0:
		o.null("user-variables")
	default:
		o.obj("user-variables", func(o *object) {
			for _, p := range m.metadata {
				o.raw(p.name, p.json)
			}
		})
		e.Metadata = metadata(m)
	}
	o.raw("campaigns", "[]")
	o.obj("flags", func(o *object) {
		o.bool("is-authenticated", true)
		o.bool("is-test-mode", false)
		o.bool("is-system-test", m.isTest)
		o.bool("is-delayed-bounce", e.BounceIsAsync)
	})
	if m.variant%5 == 0 { // a member of tomorrow
		o.raw("quantum-state", `{"spin":["up",null],"collapsed":false}`)
	}
}

func (d *mailgun) batch() int { return 1 }

func (d *mailgun) pack(elements []element, at time.Time) Request {
	return d.signed(elements, at, d.Keys[0])
}

// signed makes the body. Mailgun signs the second in which the event happened,
// also in its retries.
func (d *mailgun) signed(elements []element, at time.Time, key string) Request {
	timestamp, token := strconv.FormatInt(at.Unix(), 10), d.token(50, hexDigits)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(timestamp + token))
	o := newObject(false)
	o.obj("signature", func(o *object) {
		o.str("timestamp", timestamp)
		o.str("token", token)
		o.str("signature", hex.EncodeToString(mac.Sum(nil)))
	})
	o.raw("event-data", string(elements[0].json))
	r := newRequest(d.Source, elements, o.done(), at)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "mailgun/treq-16.12.0")
	return r
}

// again is the same body, or another hook of the account that reports the same
// event under a token of its own.
func (d *mailgun) again(r Request, at time.Time) Request {
	if chance(d.rand, 0.2) {
		return d.signed(r.elements, r.at, d.Keys[0])
	}
	r.at = at
	return r
}

func (d *mailgun) forge(r Request) Request {
	if d.rand.IntN(2) == 0 {
		return d.signed(r.elements, r.at, "a key that is not ours")
	}
	o := newObject(false)
	o.raw("event-data", string(r.elements[0].json))
	r.Body = o.done()
	return r
}
