package simulate

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/event"
)

// happening is what befalls a message, in words that belong to no provider.
type happening int

const (
	accepted happening = iota
	sent
	deferred
	delivered
	bounced
	rejected
	failed
	autoresponded
	opened
	clicked
	complained
	unsubscribed
	resubscribed
	suppressionAdded
	suppressionRemoved
	accountNotice
	misroutedInbound
	neverHeardOf // a type that no receiver can know yet
)

// step is one happening of a message at a time.
type step struct {
	what happening
	at   time.Time
	last bool // nothing happens to the message after it
}

// person is a recipient. The normalized form is stated, not computed: it is
// part of the truth.
type person struct {
	name       string
	address    string // as the provider sends it
	normalized string // domain in lower case and A-label form, local part untouched
	domain     string
}

// display is the address as a header has it.
func (p person) display() string {
	if strings.ContainsAny(p.name, `",.`) {
		return `"` + strings.ReplaceAll(p.name, `"`, `\"`) + `" <` + p.address + ">"
	}
	return p.name + " <" + p.address + ">"
}

// reader is how a person, or a machine on the way, loads pixels and links.
type reader struct {
	place
	ip, agent             string
	client, company, kind string // "Gmail", "Google", "WebMail"
	os                    string
	mobile                bool
	bot                   string // set for machines only

	// What an open by this reader says where the provider does not say it.
	machine  string
	evidence []string
}

// judge states what Mailriver makes of an open or click by this reader. A
// provider that marks an open by Gmail's proxy has told of the proxy, not of who
// reads behind it.
func (r reader) judge(e *event.Event, flagged bool) {
	e.Machine, e.MachineEvidence = event.MachineUnknown, nil
	switch {
	case r.bot == "":
	case flagged && r.machine == event.MachineYes:
		e.Machine, e.MachineEvidence = event.MachineYes, []string{event.EvidenceProviderFlag}
	case flagged:
		e.MachineEvidence = append([]string{event.EvidenceProviderFlag}, r.evidence...)
	default:
		e.Machine, e.MachineEvidence = r.machine, r.evidence
	}
}

type place struct {
	country, countryName          string
	region, regionName, city      string
	postcode, latitude, longitude string
	offset                        string // of the time there
}

// message is one mail and everything that a provider may tell about it.
type message struct {
	serial   int
	to       person
	also     []person // further recipients of the same send
	sender   string
	display  string // display name of the sender
	subject  string
	created  time.Time
	id       [16]byte // what the provider's own ids are made of
	tags     []string
	metadata []pair
	campaign string
	template string
	stream   string
	pool     string
	outIP    string
	mxHost   string
	mxIP     string
	reader   reader
	list     string
	group    int64
	attempts int64 // deliveries tried so far
	isTest   bool  // a dashboard sample
	variant  int   // a dialect may draw once and stay with it
	drawn    bool
	happened []step
}

// pair is a member of the metadata: how it is sent, and what it says.
type pair struct{ name, json, text string }

func textPair(name, text string) pair { return pair{name, quoted(text), text} }

// jsonPair is a member whose value is no string; canonical metadata holds it as
// compact JSON text.
func jsonPair(name, json string) pair { return pair{name, json, json} }

// domains are recipients' domains as sent and in normalized form.
var domains = []struct{ sent, normalized string }{
	{"example.com", "example.com"},
	{"mail.example", "mail.example"},
	{"example.org", "example.org"},
	{"Post.Example.NET", "post.example.net"},
	{"bücher.example", "xn--bcher-kva.example"},
	{"例え.example", "xn--r8jz45g.example"},
	{"xn--bcher-kva.example", "xn--bcher-kva.example"},
}

var firstNames = []string{
	"Ann", "Bob", "Chloé", "Dmitri", "Eşref", "Fatima", "Gunnar", "Hiroko", "Ines", "João", "Kofi", "Łucja",
}

var lastNames = []string{
	"Adler", "Brown", "Costa", "Diallo", "Eriksen", "Fischer", "García, José", "Hansen", "Ito", `O"Neil`,
}

// locals are the ASCII first names, for the local part.
var locals = []string{
	"ann", "Bob", "chloe", "dmitri", "esref", "Fatima", "gunnar", "hiroko", "ines", "joao", "kofi", "lucja",
}

var subjects = []string{
	"Order {}", "Your receipt {}", "Welcome, Chloé {}", "発送のお知らせ {}", "50 % off & more <{}>", "Réf. \"{}\" 🚚",
	"Weekly\tnews {}",
}

var senders = [][2]string{
	{"Shop", "shop@example.org"}, {"Grüße, Ltd.", "news@mg.example.org"}, {"Billing", "billing@pay.example.org"},
}

var (
	paris     = place{"FR", "France", "IDF", "Ile-de-France", "Paris", "75001", "48.85", "2.35", "+01:00"}
	berlin    = place{"DE", "Germany", "BE", "Berlin", "Berlin", "10115", "52.52", "13.4", "+01:00"}
	saoPaulo  = place{"BR", "Brazil", "SP", "São Paulo", "São Paulo", "01000-000", "-23.55", "-46.63", "-03:00"}
	seattle   = place{"US", "United States", "WA", "Washington", "Seattle", "98101", "47.6", "-122.33", "-08:00"}
	cupertino = place{"US", "United States", "CA", "California", "Cupertino", "95014", "37.32", "-122.03", "-08:00"}
)

var readers = []reader{
	{
		place: paris, ip: "203.0.113.4",
		agent:  "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		client: "Firefox", company: "Mozilla", kind: "Desktop", os: "Linux",
	},
	{
		place: berlin, ip: "198.51.100.23",
		agent:  "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15",
		client: "Mobile Safari", company: "Apple Inc.", kind: "Mobile", os: "iOS", mobile: true,
	},
	{
		place: saoPaulo, ip: "2001:db8::25:7",
		agent:  "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/142.0",
		client: "Chrome", company: "Google", kind: "Desktop", os: "Windows",
	},
	{
		place: seattle, ip: "192.0.2.199", agent: "Outlook-iOS/5.0",
		client: "Outlook", company: "Microsoft", kind: "Mobile", os: "iOS", mobile: true,
	},
}

var machines = []reader{
	{
		place: cupertino, ip: "198.51.100.200", agent: "Mozilla/5.0",
		client: "Apple Mail Privacy", company: "Apple Inc.", kind: "Unknown", os: "unknown", bot: "apple",
		machine: event.MachineYes, evidence: []string{"apple_proxy"},
	},
	{
		place: cupertino, ip: "192.0.2.66",
		agent:  "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
		client: "Gmail image proxy", company: "Google", kind: "WebMail", os: "unknown", bot: "gmail",
		machine: event.MachineUnknown, evidence: []string{"google_proxy"},
	},
}

var urls = []string{
	"https://shop.example.org/",
	"https://shop.example.org/orders?id=A-17&utm_source=mail",
	"https://shop.example.org/r?to=https%3A%2F%2Fexample.com%2Fa+b&n=1#top",
	"https://shop.example.org/größe/übersicht?q=50%25",
}

// recipients is how many different people a source writes to. People get
// several messages, so that suppression and scores have something to add up.
const recipients = 4000

// somebody is recipient number n, always the same.
func somebody(n int) person {
	first, domain := n%len(locals), domains[0]
	// Two thirds are at the plain domains, as in life; the rest tries the others.
	if n%3 == 0 {
		domain = domains[n/3%len(domains)]
	} else {
		domain = domains[n%3]
	}
	local := locals[first] + "+" + strconv.Itoa(n)
	if n%97 == 13 {
		local = "größe." + strconv.Itoa(n) // RFC 6531 allows it
	}
	return person{
		name:       firstNames[first] + " " + lastNames[n/7%len(lastNames)],
		address:    local + "@" + domain.sent,
		normalized: local + "@" + domain.normalized,
		domain:     domain.normalized,
	}
}

// newMessage draws a message and the story of its life. The story takes up to
// tail; its steps are at least two seconds apart, because some providers tell
// time in seconds and identify an event by it.
func (g *generator) newMessage(o *origin, created time.Time) *message {
	r := g.rand
	o.messages++
	serial := o.messages
	m := &message{
		serial: serial, to: somebody(r.IntN(recipients)), created: created,
		stream: "outbound", pool: "tx", variant: r.IntN(1 << 20),
		reader: readers[r.IntN(len(readers))],
		outIP:  "192.0.2." + strconv.Itoa(10+r.IntN(8)),
		mxIP:   "203.0.113." + strconv.Itoa(20+r.IntN(200)),
		group:  40 + int64(r.IntN(4)),
	}
	for i := range m.id {
		m.id[i] = byte(r.Uint32())
	}
	from := senders[r.IntN(len(senders))]
	m.display, m.sender = from[0], from[1]
	order := "A-" + strconv.Itoa(serial)
	m.subject = strings.ReplaceAll(subjects[r.IntN(len(subjects))], "{}", order)
	m.mxHost = "mx." + m.to.domain
	m.list = "news@mg.example.org"
	if r.IntN(3) == 0 {
		m.stream, m.pool = "broadcast", "bulk"
		m.campaign = "autumn-" + strconv.Itoa(1+r.IntN(5))
		m.tags = append(m.tags, "news")
	} else {
		m.tags = append(m.tags, "receipt")
		m.template = "order-" + strconv.Itoa(1+r.IntN(3))
	}
	if r.IntN(4) == 0 {
		m.tags = append(m.tags, "eu", "größe")
	}
	m.metadata = append(m.metadata, textPair("order_id", order))
	switch r.IntN(8) {
	case 0: // what callers put in is not always text
		m.metadata = append(m.metadata, jsonPair("amount", "19.90"), jsonPair("vip", "true"))
	case 1:
		m.metadata = append(m.metadata, jsonPair("cart", `{"items":[1,2],"note":"a/b ü"}`))
	case 2:
		m.metadata = append(m.metadata, jsonPair("customer", "12345678901234567890")) // beyond 2^53
	case 3:
		m.metadata = nil
	}
	m.happened = g.plot(m, serial)
	switch {
	case m.isTest, m.happened[0].what == suppressionAdded, m.happened[0].what == suppressionRemoved:
		// These events hold no id of their message, or one that all samples
		// share. Going through the people in turn, they differ nevertheless.
		m.to = somebody(serial % recipients)
		m.mxHost = "mx." + m.to.domain
	}
	return m
}

// rare are stories that a receiver sees seldom. Every fortieth message has one
// of them, in turn, so that each is told in any run of some length.
var rare = [][]happening{
	{neverHeardOf},
	{suppressionAdded},
	{accountNotice},
	{accepted, sent, delivered, autoresponded},
	{suppressionRemoved},
	{misroutedInbound},
	{failed},
	{accepted, sent, delivered, unsubscribed, resubscribed},
	{rejected},
	{accepted, sent, delivered, opened, complained},
	{accepted, sent, delivered, bounced}, // asynchronous
	{accepted, deferred, deferred, bounced},
}

func (g *generator) plot(m *message, serial int) []step {
	r := g.rand
	var tale []happening
	switch {
	case serial%40 == 20:
		tale = rare[serial/40%len(rare)]
	case serial%80 == 30: // somebody pressed the test button
		m.isTest = true
		tale = []happening{accepted, sent, delivered, opened, clicked}
	default:
		tale = ordinary(r)
	}
	steps := make([]step, 0, len(tale))
	at := m.created
	for i, what := range tale {
		// The early steps follow quickly; people take their time.
		gap := 2*time.Second + time.Duration(r.IntN(900))*time.Millisecond
		if i > 0 && what >= opened {
			gap += time.Duration(r.Int64N(int64(g.tail)/int64(len(tale)) + 1))
		}
		at = at.Add(gap)
		// Microseconds; the last digit is never zero, so that each dialect can
		// choose how many digits it sends.
		at = at.Truncate(time.Millisecond).Add(time.Duration(1+r.IntN(999)) * time.Microsecond)
		steps = append(steps, step{what: what, at: at, last: i == len(tale)-1})
	}
	return steps
}

// ordinary draws a life in realistic proportions: nearly everything is
// delivered, less than half of that is opened, little of it is clicked.
func ordinary(r *rand.Rand) []happening {
	if chance(r, 0.015) {
		return []happening{rejected}
	}
	tale := []happening{accepted, sent}
	for range 3 {
		if !chance(r, 0.07) {
			break
		}
		tale = append(tale, deferred)
	}
	if chance(r, 0.04) {
		return append(tale, bounced)
	}
	tale = append(tale, delivered)
	for chance(r, 0.42) {
		tale = append(tale, opened)
		for chance(r, 0.18) {
			tale = append(tale, clicked)
		}
		if len(tale) > 12 {
			break
		}
	}
	switch {
	case chance(r, 0.002):
		tale = append(tale, complained)
	case chance(r, 0.006):
		tale = append(tale, unsubscribed)
		if chance(r, 0.2) {
			tale = append(tale, resubscribed)
		}
	}
	return tale
}

func chance(r *rand.Rand, p float64) bool { return p > 0 && r.Float64() < p }

// reply is one answer of a receiving server.
type reply struct {
	code     int32
	enhanced string
	words    string
}

// text is the reply as the server gave it.
func (r reply) text() string {
	if r.enhanced == "" {
		return strconv.Itoa(int(r.code)) + " " + r.words
	}
	return strconv.Itoa(int(r.code)) + " " + r.enhanced + " " + r.words
}

var acceptances = []reply{
	{250, "2.0.0", "OK 1795436009 x1-20020a05"},
	{250, "", "Message accepted for delivery"},
	{250, "2.1.5", "Größe ok"},
}

var postponements = []reply{
	{451, "4.7.1", "greylisted, try again later"},
	{421, "", "too many connections"},
	{452, "4.2.2", "mailbox is full"},
	{450, "4.4.1", "connection timed out"},
}

// had reports whether the message already had a happening before a time.
func (m *message) had(what happening, before time.Time) bool {
	return slices.ContainsFunc(m.happened, func(s step) bool { return s.what == what && s.at.Before(before) })
}

// deck deals the entries of a table: the first is the usual one, the others
// come in turn, so that a long run shows them all.
type deck struct{ next int }

func (d *deck) deal(r *rand.Rand, n int, usual float64) int {
	if chance(r, usual) || n == 1 {
		return 0
	}
	d.next++
	return 1 + (d.next-1)%(n-1)
}

// readBy is who loads the pixel this time: people mostly, and the machines that
// load it before or instead of them.
func (g *generator) readBy(m *message) reader {
	if chance(g.rand, 0.3) {
		return machines[g.rand.IntN(len(machines))]
	}
	return m.reader
}
