package simulate

import (
	"crypto/hmac"
	"crypto/sha1" // Mandrill signs with HMAC-SHA1
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/event"
)

// mandrill posts a form whose one field is a JSON array of events. It signs the
// URL and the decoded field.
type mandrill struct {
	Source
	*generator
	bounces, rejects deck
}

// mandrillVendor: anything but 200 is sent again, at increasing intervals
// (Mailchimp Transactional documentation, "Webhooks"). They are not published.
func mandrillVendor() vendor {
	return vendor{
		name: "mandrill", eventsPerMessage: 2.8, speak: newMandrill,
		files: []string{mandrillFile}, secrets: secretFile(mandrillFile, func() string { return secret(22) }),
		settings: func(_ Keys, endpoint, _ string) []setting {
			return []setting{{key: "keys", file: mandrillFile}, {key: "url", text: endpoint}}
		},
		judge:   succeedsBy200,
		retries: doubling(time.Minute, time.Hour, 12*time.Hour),
	}
}

const mandrillFile = "mandrill.key"

func newMandrill(s Source, g *generator) (dialect, error) {
	if len(s.Keys) == 0 || s.Keys[0] == "" {
		return nil, errors.New("keys: the webhook's key is missing")
	}
	return &mandrill{Source: s, generator: g}, nil
}

type mandrillBounce struct {
	event, description string
	class              int64
	reply              reply
	kind, cause        string
}

var mandrillBounces = []mandrillBounce{
	{
		"hard_bounce", "bad_mailbox", 10,
		reply{550, "5.1.1", "no such user"},
		event.KindHard, event.CauseUnknownRecipient,
	},
	{
		"soft_bounce", "mailbox_full", 22,
		reply{452, "4.2.2", "mailbox is full"},
		event.KindSoft, event.CauseMailboxFull,
	},
	{
		"hard_bounce", "invalid_domain", 10,
		reply{550, "5.1.2", "bad destination system"},
		event.KindHard, event.CauseUnknownDomain,
	},
	{
		"soft_bounce", "general", 40,
		reply{554, "5.7.1", "message looks like spam"},
		event.KindBlock, event.CauseSpam,
	},
	{
		"soft_bounce", "general", 40,
		reply{451, "4.4.1", "connection timed out"},
		event.KindSoft, event.CauseTimeoutExpired,
	},
}

var mandrillRejects = []struct{ reason, want string }{
	{"hard-bounce", event.RejectPreviouslyBounced},
	{"unsub", event.RejectPreviouslyUnsubscribed},
	{"spam", event.RejectPreviouslyComplained},
	{"custom", event.RejectPolicy},
	{"rule", event.RejectPolicy},
	{"invalid", event.RejectInvalidAddress},
	{"invalid-sender", event.RejectSenderError},
	{"unsigned", event.RejectSenderError},
	{"test-mode-limit", event.RejectTestMode},
	{"soft-bounce", event.RejectPolicy},
}

func (d *mandrill) tell(m *message, s step, _ int) element {
	at := s.at.Truncate(time.Second)
	e := truth(d.Source, m, "", at, event.PrecisionSecond)
	id := hex.EncodeToString(m.id[:])
	if m.isTest {
		id = "example" + id[7:]
	}
	ts := strconv.FormatInt(at.Unix(), 10)
	o := newObject(true)
	native := func(name string, typ event.Type) {
		e.NativeEventType, e.Type = name, typ
		o.str("event", name)
		o.str("_id", id)
		if m.variant%32 == 7 {
			o.str("ts", ts)
		} else {
			o.raw("ts", ts)
		}
	}
	var link, ip, agent string

	switch s.what {
	case sent:
		native("send", event.Sent)
		d.msg(&e, o, m, s, id, "sent", nil, nil)
	case deferred:
		native("deferral", event.Deferred)
		m.attempts++
		r := postponements[d.rand.IntN(len(postponements))]
		d.msg(&e, o, m, s, id, "deferred", &r, func(o *object) { o.str("diag", r.text()) })
	case delivered:
		native("delivered", event.Delivered)
		m.attempts++
		r := acceptances[d.rand.IntN(len(acceptances))]
		d.msg(&e, o, m, s, id, "sent", &r, nil)
	case bounced:
		b := mandrillBounces[d.bounces.deal(d.rand, len(mandrillBounces), 0.6)]
		native(b.event, event.Bounced)
		m.attempts++
		e.BounceKind, e.BounceCause = b.kind, b.cause
		e.ProviderBounceClass = "mandrill:" + b.description
		d.msg(&e, o, m, s, id, "bounced", &b.reply, func(o *object) {
			o.str("bounce_description", b.description)
			o.num("bgtools_code", b.class)
			o.str("diag", "smtp;"+b.reply.text())
		})
	case rejected:
		native("reject", event.Rejected)
		r := mandrillRejects[d.rejects.deal(d.rand, len(mandrillRejects), 0.2)]
		e.RejectReason, e.ProviderBounceClass = r.want, "mandrill:"+r.reason
		d.msg(&e, o, m, s, id, "rejected", nil, func(o *object) {
			o.obj("reject", func(o *object) {
				o.str("reason", r.reason)
				o.str("last_event_at", at.Add(-time.Hour).UTC().Format("2006-01-02 15:04:05"))
			})
		})
	case opened, clicked:
		read := d.readBy(m)
		if s.what == clicked {
			native("click", event.Clicked)
			read, link = m.reader, urls[d.rand.IntN(len(urls))]
			o.str("url", link)
			e.URL = link
		} else {
			native("open", event.Opened)
		}
		ip, agent = read.ip, read.agent
		d.setReader(&e, o, read)
		d.msg(&e, o, m, s, id, "sent", nil, nil)
	case complained:
		native("spam", event.Complained)
		d.msg(&e, o, m, s, id, "spam", nil, nil)
	case unsubscribed:
		native("unsub", event.Unsubscribed)
		d.msg(&e, o, m, s, id, "unsub", nil, nil)
		e.ScopeKind, e.ScopeID = event.ScopeAccount, ""
		if e.SubaccountID != "" {
			e.ScopeKind, e.ScopeID = event.ScopeSubaccount, e.SubaccountID
		}
	case suppressionAdded, suppressionRemoved:
		return d.sync(m, s, e, at)
	case misroutedInbound:
		return d.inbound(m, s, e, at)
	case neverHeardOf:
		native("astral_projection", event.Unknown)
		e.Warn(event.WarnUnknownType)
		d.msg(&e, o, m, s, id, "sent", nil, nil)
	default:
		return element{}
	}
	e.ID = event.NewID("mandrill", d.Name, m.to.address, e.NativeEventType, id, ts, link, ip, agent)
	return element{json: o.done(), truth: []event.Event{e}, at: s.at}
}

// msg writes the message with its history. The history is not news: the events
// in it were reported before.
func (d *mandrill) msg(e *event.Event, o *object, m *message, s step, id, state string, r *reply, more func(*object)) {
	o.obj("msg", func(o *object) {
		o.num("ts", m.created.Unix())
		o.str("_id", id)
		o.str("_version", "AbCdEf")
		o.str("state", state)
		o.str("subject", m.subject)
		o.str("email", m.to.address)
		o.str("sender", m.sender)
		switch {
		case m.isTest:
			o.strs("tags", []string{"webhook-example"})
			e.Tags = []string{"webhook-example"}
		case m.variant%32 == 9:
			o.null("tags")
		default:
			o.strs("tags", m.tags)
			e.Tags = m.tags
		}
		switch {
		case len(m.metadata) == 0 && m.variant%2 == 0:
			o.raw("metadata", "[]")
		case len(m.metadata) == 0:
			o.null("metadata")
		default:
			o.obj("metadata", func(o *object) {
				for _, p := range m.metadata {
					o.raw(p.name, p.json)
				}
			})
			e.Metadata = metadata(m)
		}
		d.history(o, m, s, opened, "opens")
		d.history(o, m, s, clicked, "clicks")
		o.raw("resends", "[]")
		if r != nil {
			o.objs("smtp_events", int(m.attempts), func(i int, o *object) {
				o.num("ts", s.at.Unix()+int64(i)-m.attempts+1)
				o.str("type", state)
				o.str("diag", r.text())
				o.str("source_ip", m.outIP)
				o.str("destination_ip", m.mxIP)
				o.num("size", 2311)
			})
			e.SMTPCode, e.EnhancedCode, e.SMTPResponse = r.code, r.enhanced, r.text()
			e.SendingIP, e.MXIP, e.Attempt = m.outIP, m.mxIP, int32(m.attempts)
		} else {
			o.raw("smtp_events", "[]")
		}
		if m.variant%4 == 0 {
			o.str("subaccount", "eu")
			e.SubaccountID = "eu"
		} else {
			o.null("subaccount")
		}
		if m.template != "" {
			o.str("template", m.template)
			e.TemplateID = m.template
		} else {
			o.null("template")
		}
		if more != nil {
			more(o)
		}
	})
	if e.Type == event.Bounced {
		e.SMTPResponse = "smtp;" + r.text()
	}
	e.ProviderMessageID, e.Sender, e.Subject = id, m.sender, m.subject
	if m.variant%5 == 0 {
		o.raw("antimatter", `{"positrons":[null,7]}`)
	}
}

func (d *mandrill) history(o *object, m *message, s step, what happening, name string) {
	var past []step
	for _, h := range m.happened {
		if h.what == what && !h.at.After(s.at) {
			past = append(past, h)
		}
	}
	if past == nil && m.variant%3 == 0 {
		o.null(name)
		return
	}
	o.objs(name, len(past), func(i int, o *object) {
		o.num("ts", past[i].at.Unix())
		if what == clicked {
			o.str("url", urls[0])
		}
	})
}

func (d *mandrill) setReader(e *event.Event, o *object, r reader) {
	o.str("ip", r.ip)
	o.str("user_agent", r.agent)
	e.ClientIP, e.UserAgent = r.ip, r.agent
	if chance(d.rand, 0.05) {
		o.null("location")
	} else {
		o.obj("location", func(o *object) {
			o.str("country_short", r.country)
			o.str("country", r.countryName)
			o.str("region", r.regionName)
			o.str("city", r.city)
			o.raw("latitude", r.latitude)
			o.raw("longitude", r.longitude)
			o.str("postal_code", r.postcode)
			o.str("timezone", r.offset)
		})
		e.GeoCountry, e.GeoRegion, e.GeoCity = r.country, r.regionName, r.city
	}
	if chance(d.rand, 0.05) {
		r.judge(e, false)
		o.null("user_agent_parsed")
		return
	}
	r.judge(e, true)
	kind := "Browser"
	if r.bot != "" {
		kind = "Robot"
	}
	o.obj("user_agent_parsed", func(o *object) {
		o.str("type", kind)
		o.str("ua_family", r.client)
		o.str("ua_name", r.client+" 140")
		o.str("os_family", r.os)
		o.str("os_name", r.os)
		o.bool("mobile", r.mobile)
	})
	e.ClientName, e.OSName = r.client, known(r.os)
	if r.bot != "" {
		e.BotName = r.client
	}
	if r.mobile {
		e.DeviceType = "mobile" // the opposite need not be a desktop
	}
}

// sync is a change of Mandrill's own lists. It has no event and no _id.
func (d *mandrill) sync(m *message, s step, e event.Event, at time.Time) element {
	const calendar = "2006-01-02 15:04:05"
	o := newObject(true)
	list, action, member := "blacklist", "add", "reject"
	if s.what == suppressionRemoved {
		action = "remove"
	}
	if m.variant%4 == 3 && action == "add" {
		list, member = "whitelist", "entry"
	}
	e.Type, e.NativeEventType, e.ScopeKind = event.SuppressionChanged, list, event.ScopeAccount
	ts := strconv.FormatInt(at.Unix(), 10)
	o.str("type", list)
	o.str("action", action)
	o.raw("ts", ts)
	created := at.Add(-time.Minute).UTC()
	expires := created.Add(30 * 24 * time.Hour)
	native := []string{list, action, ts, "", created.Format(calendar), "", "", "", ""}
	o.obj(member, func(o *object) {
		o.str("email", m.to.address)
		if list == "whitelist" {
			o.str("detail", "added by hand")
			o.str("created_at", created.Format(calendar))
			return
		}
		o.str("reason", "hard-bounce")
		if action == "add" { // what the server said is told once
			o.str("detail", "550 no such user")
			e.SMTPCode, e.SMTPResponse = 550, "550 no such user"
		}
		o.str("created_at", created.Format(calendar))
		o.str("last_event_at", created.Format(calendar))
		native[3], native[5] = "hard-bounce", created.Format(calendar)
		if action == "add" {
			native[6] = expires.Format(calendar)
			o.str("expires_at", native[6])
			// The bounce was reported by an event of its own.
			e.SuppressionExpiresAt, e.IsDuplicateHint = expires, true
			e.SuppressionAction, e.ProviderSuppressed = event.SuppressionAdd, new(true)
		} else {
			o.null("expires_at")
			e.SuppressionAction, e.ProviderSuppressed = event.SuppressionRemove, new(false)
		}
		o.bool("expired", false)
		o.null("subaccount")
		o.null("sender")
		e.RejectReason, e.ProviderBounceClass = event.RejectPreviouslyBounced, "mandrill:hard-bounce"
	})
	e.ID = event.NewID("mandrill", d.Name, m.to.address, native...)
	return element{json: o.done(), truth: []event.Event{e}, at: s.at}
}

// inbound is a received mail whose webhook shares the URL.
func (d *mandrill) inbound(m *message, s step, e event.Event, at time.Time) element {
	o := newObject(true)
	ts := strconv.FormatInt(at.Unix(), 10)
	o.str("event", "inbound")
	o.raw("ts", ts)
	o.obj("msg", func(o *object) {
		o.str("email", m.to.address)
		o.str("from_email", m.sender)
		o.str("subject", m.subject)
		o.str("text", "a+b=c & 100 %")
	})
	e.Type, e.NativeEventType, e.Subject, e.Sender = event.Inbound, "inbound", m.subject, m.sender
	body := o.done()
	sum := sha256.Sum256(body) // it has no _id
	e.ID = event.NewID("mandrill", d.Name, m.to.address, "inbound", "", ts, "", "", "", hex.EncodeToString(sum[:]))
	return element{json: body, truth: []event.Event{e}, at: s.at}
}

// batch sizes are tens of events, now and then the thousand that a backlog
// makes.
func (d *mandrill) batch() int {
	switch x := d.rand.Float64(); {
	case x < 0.15:
		return 1
	case x < 0.9:
		return 2 + d.rand.IntN(40)
	case x < 0.995:
		return 40 + d.rand.IntN(160)
	}
	return mandrillMost
}

const mandrillMost = 1000

func (d *mandrill) pack(elements []element, at time.Time) Request {
	if len(elements) > mandrillMost {
		elements = elements[:mandrillMost]
	}
	var list strings.Builder
	list.WriteByte('[')
	for i, e := range elements {
		if i > 0 {
			list.WriteByte(',')
		}
		list.Write(e.json)
	}
	list.WriteByte(']')
	form := url.Values{"mandrill_events": {list.String()}}
	r := newRequest(d.Source, elements, []byte(form.Encode()), at)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("User-Agent", "Mandrill-Webhook/1.0")
	r.Header.Set(mandrillSignature, d.signature(d.Keys[0], list.String()))
	return r
}

const mandrillSignature = "X-Mandrill-Signature"

func (d *mandrill) signature(key, list string) string {
	address := d.PublicURL
	if address == "" {
		address = d.Endpoint
	}
	mac := hmac.New(sha1.New, []byte(key))
	mac.Write([]byte(address + "mandrill_events" + list))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func (d *mandrill) again(r Request, at time.Time) Request {
	r.at = at
	return r
}

func (d *mandrill) forge(r Request) Request {
	r.Header = r.Header.Clone()
	switch d.rand.IntN(3) {
	case 0:
		r.Header.Del(mandrillSignature)
	case 1:
		r.Header.Set(mandrillSignature, d.signature("a key that is not ours", "[]"))
	case 2:
		r.Body = []byte(strings.Replace(string(r.Body), "%22ts%22", "%22tz%22", 1))
	}
	return r
}
