// Package simulate makes the webhook traffic of email service providers: real
// signatures, each provider's own batching, fields and oddities, redeliveries
// and disorder, and beside it the truth, which says what the canonical event of
// each must be.
//
// The truth comes from the simulator's own story of each message. This package
// does not depend on the parsers in pkg/esp, and a test makes sure of it: where
// the two disagree, one of them is wrong, and finding that is what the truth is
// for. Only the parts of each event's identity are an agreement with them; each
// provider package documents its own. This package does not know Kafka,
// ClickHouse or any service; it ends at the HTTP request ([Generate]) or at the
// answer to it ([Sender]).
//
// A run makes some 100,000 events a second, without SES: an SNS signature alone
// takes most of a millisecond. [Source.Share] keeps its share small where speed
// matters.
//
// The same seed and sources give the same requests and the same truth, byte for
// byte, except for SendGrid's ECDSA signatures, which hold a random number.
package simulate

import (
	"container/heap"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"time"

	"mailriver/pkg/event"
)

// Source is one webhook of a provider: where it posts, and what it signs with.
type Source struct {
	Name     string // the receiver's name of the endpoint; part of each event's identity
	Provider string // "sendgrid", "mailgun", "postmark", "ses" or "mandrill"
	Endpoint string // full URL to post to

	// Keys are Mailgun's and Mandrill's signing keys. The first one signs.
	Keys []string
	// BasicAuth is user:password, sent with every request. Postmark needs it.
	BasicAuth string
	// PublicURL is the URL as entered at Mandrill, which signs it. Empty means
	// Endpoint.
	PublicURL string
	// TopicARN is the SNS topic.
	TopicARN string
	// PrivateKeyPEM is SendGrid's EC key (P-256) or the RSA key of the SNS
	// signing certificate.
	PrivateKeyPEM []byte
	// CertURL is where the SNS signing certificate is to be had.
	CertURL string
	// Share is the weight of the source among the others; 0 means 1.
	Share float64
}

// Options say how much traffic to make, and how unruly it is.
type Options struct {
	// Seed decides everything that is drawn.
	Seed uint64
	// Events is the number of distinct events over all sources, exactly.
	Events int
	// Start is when the first message is sent. Zero means a Span and a half
	// ago, so that the events are over by now. Signatures bear the time of
	// their event, and receivers refuse old ones (SNS after about two hours):
	// for a long, slow run use a Span of its expected duration and start one
	// default Span ago.
	Start time.Time
	// Span is the time over which messages are sent; 0 means ten minutes.
	// Openings and the like follow up to a quarter of it later.
	Span time.Duration
	// Duplicates is the share of requests that are delivered again, from 0 to 1.
	Duplicates float64
	// Reorder is the share of requests that come late, by up to
	// [ReorderWindow] requests.
	Reorder float64
	// Forgeries is the share of requests that are followed by a forged copy.
	Forgeries float64
	// Unsigned leaves SNS signatures out, which cost most of the time of a run.
	// Such requests are refused by every receiver that verifies.
	Unsigned bool
}

// Bounds on disorder. They bound the memory of a run.
const (
	ReorderWindow   = 50  // requests by which one may come late
	RedeliverWindow = 200 // requests after which a redelivery comes at the latest
)

const (
	defaultSpan  = 10 * time.Minute
	openMessages = 2000 // messages whose stories are being told at a time, about
)

// Request is one POST of a provider.
type Request struct {
	Source   string // name of the source
	Provider string
	URL      string
	Header   http.Header
	Body     []byte

	// Truth holds the events that the body carries, in its order. It is empty
	// for a forgery. The first Distinct of them are told for the first time;
	// the others have been, or will be, in another request as well.
	Truth    []event.Event
	Distinct int
	// Copy marks a redelivery of a whole request: Distinct is 0.
	Copy bool
	// Forged marks a request that is to be refused.
	Forged bool

	elements []element
	at       time.Time
}

// element is one native event: its JSON text and what it means. SES may report
// several recipients in one.
type element struct {
	json  []byte
	truth []event.Event
	at    time.Time // when it is posted, at the earliest
	key   string    // id of the publication, where the request has one
}

// dialect is how one provider tells a story.
type dialect interface {
	// tell returns the native event for a step of a message, or no JSON when
	// the provider does not report such a step, or not with at most limit
	// canonical events.
	tell(m *message, s step, limit int) element
	// batch draws how many native events the next request holds.
	batch() int
	// pack makes a signed request, posted at a time.
	pack(elements []element, at time.Time) Request
	// again delivers a request once more, at a later time.
	again(r Request, at time.Time) Request
	// forge returns the request as somebody without the key would send it.
	forge(r Request) Request
}

// origin is a source in a run.
type origin struct {
	Source
	dialect
	share    float64
	messages int
	pending  []element // of the next request
	target   int       // number of elements at which it is sent
	redo     []element // to be sent again with the next request
}

type generator struct {
	opt      Options
	rand     *rand.Rand
	origins  []*origin
	shares   float64
	start    time.Time
	interval time.Duration // between messages
	tail     time.Duration // length of a message's story, about
	made     int           // distinct events so far
	started  int           // messages so far
	stories  stories
	outbox   outbox
	position int // requests so far
}

// Generate returns the requests of a run. It reports at once what is wrong with
// the sources or options. Each iteration over the sequence is a new run with the
// same contents; its memory does not grow with Options.Events.
func Generate(sources []Source, opt Options) (iter.Seq[Request], error) {
	if opt.Span == 0 {
		opt.Span = defaultSpan
	}
	if opt.Start.IsZero() {
		opt.Start = time.Now().Add(-opt.Span * 3 / 2)
	}
	if err := opt.validate(); err != nil {
		return nil, err
	}
	if _, err := newGenerator(sources, opt); err != nil {
		return nil, err
	}
	return func(yield func(Request) bool) {
		g, err := newGenerator(sources, opt)
		if err != nil {
			return // not possible: the same call succeeded above
		}
		g.run(yield)
	}, nil
}

func (o Options) validate() error {
	var errs []error
	if o.Events < 0 {
		errs = append(errs, fmt.Errorf("events: is %d, must not be negative", o.Events))
	}
	if o.Span < 0 {
		errs = append(errs, fmt.Errorf("span: is %s, must not be negative", o.Span))
	}
	for _, share := range []struct {
		name  string
		value float64
	}{{"duplicates", o.Duplicates}, {"reorder", o.Reorder}, {"forgeries", o.Forgeries}} {
		if !(share.value >= 0 && share.value <= 1) {
			errs = append(errs, fmt.Errorf("%s: is %g, must be from 0 to 1", share.name, share.value))
		}
	}
	return errors.Join(errs...)
}

func newGenerator(sources []Source, opt Options) (*generator, error) {
	g := &generator{
		opt:   opt,
		rand:  rand.New(rand.NewPCG(opt.Seed, 0x6d61696c72697665)), // traffic, not secrets
		start: opt.Start.UTC().Truncate(time.Second),
		tail:  opt.Span / 4,
	}
	var errs []error
	var perMessage float64
	seen := map[string]bool{}
	for _, source := range sources {
		if seen[source.Name] {
			errs = append(errs, fmt.Errorf("source %q: is there twice", source.Name))
		}
		seen[source.Name] = true
		d, err := newDialect(source, g)
		if err != nil {
			errs = append(errs, fmt.Errorf("source %q: %w", source.Name, err))
			continue
		}
		o := &origin{Source: source, dialect: d, share: source.Share}
		if o.share == 0 {
			o.share = 1
		}
		o.target = d.batch()
		v, _ := vendorOf(o.Provider)
		perMessage += o.share * v.eventsPerMessage
		g.shares += o.share
		g.origins = append(g.origins, o)
	}
	if len(sources) == 0 {
		errs = append(errs, errors.New("sources: there is none"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	messages := float64(opt.Events)*g.shares/perMessage + 1
	g.interval = max(time.Duration(float64(opt.Span)/messages), time.Microsecond)
	g.tail = min(opt.Span/4, openMessages*g.interval)
	return g, nil
}

func newDialect(s Source, g *generator) (dialect, error) {
	if s.Name == "" {
		return nil, errors.New("name: is required")
	}
	if s.Endpoint == "" {
		return nil, errors.New("endpoint: is required")
	}
	if s.Share < 0 {
		return nil, fmt.Errorf("share: is %g, must not be negative", s.Share)
	}
	v, ok := vendorOf(s.Provider)
	if !ok {
		return nil, fmt.Errorf("provider: %q is none of %v", s.Provider, Providers())
	}
	return v.speak(s, g)
}

func (g *generator) run(yield func(Request) bool) {
	for g.made < g.opt.Events {
		t := g.next()
		g.tell(t)
		if !g.deliver(yield, false) {
			return
		}
	}
	for _, o := range g.origins {
		if len(o.pending) > 0 {
			g.post(o)
		}
		for len(o.redo) > 0 {
			elements := o.redo
			o.redo = nil
			r := o.pack(elements, latest(elements))
			r.Copy = true
			g.put(r, 0)
		}
	}
	g.deliver(yield, true)
}

// next pops the earliest step of all open stories, after it has started every
// message that is due before.
func (g *generator) next() telling {
	for {
		due := g.start.Add(time.Duration(g.started) * g.interval)
		if len(g.stories) > 0 && g.stories[0].step().at.Before(due) {
			t := g.stories[0]
			if t.n+1 < len(t.message.happened) {
				g.stories[0].n++
				heap.Fix(&g.stories, 0)
			} else {
				heap.Pop(&g.stories)
			}
			return t
		}
		g.started++
		o := g.pick()
		heap.Push(&g.stories, telling{origin: o, message: g.newMessage(o, due), order: g.started})
	}
}

func (g *generator) pick() *origin {
	x := g.rand.Float64() * g.shares
	for _, o := range g.origins {
		if x -= o.share; x < 0 {
			return o
		}
	}
	return g.origins[len(g.origins)-1]
}

// tell adds a step to its source's next request, and posts that when it is full.
func (g *generator) tell(t telling) {
	o := t.origin
	e := o.tell(t.message, t.step(), g.opt.Events-g.made)
	if e.json == nil {
		return
	}
	for i := range e.truth {
		e.truth[i].Source = o.Name
	}
	g.made += len(e.truth)
	o.pending = append(o.pending, e)
	if len(o.pending) >= o.target {
		g.post(o)
	}
}

// post packs what a source has pending, and decides about copies and forgeries.
func (g *generator) post(o *origin) {
	fresh, redo := o.pending, o.redo
	o.pending, o.redo, o.target = nil, nil, o.batch()
	r := o.pack(append(fresh[:len(fresh):len(fresh)], redo...), latest(fresh))
	for _, e := range fresh {
		r.Distinct += len(e.truth)
	}
	late := 0
	if chance(g.rand, g.opt.Reorder) {
		late = 1 + g.rand.IntN(ReorderWindow)
	}
	g.put(r, late)

	if chance(g.rand, g.opt.Duplicates) {
		if len(fresh) > 1 && chance(g.rand, 0.3) {
			// A part of the batch comes again, among others.
			from := g.rand.IntN(len(fresh) - 1)
			o.redo = append(o.redo, fresh[from:from+1+g.rand.IntN(min(len(fresh)-from, 20))]...)
		} else {
			copied := o.again(r, r.at.Add(time.Duration(5+g.rand.IntN(55))*time.Second))
			copied.Distinct, copied.Copy = 0, true
			g.put(copied, 1+g.rand.IntN(RedeliverWindow))
		}
	}
	if chance(g.rand, g.opt.Forgeries) {
		forged := o.forge(r)
		forged.Truth, forged.Distinct, forged.elements, forged.Forged = nil, 0, nil, true
		g.put(forged, g.rand.IntN(ReorderWindow))
	}
	g.position++
}

func latest(elements []element) time.Time {
	var at time.Time
	for _, e := range elements {
		if e.at.After(at) {
			at = e.at
		}
	}
	return at
}

func (g *generator) put(r Request, late int) {
	heap.Push(&g.outbox, envelope{request: r, due: g.position + late, order: g.outbox.pushed})
	g.outbox.pushed++
}

// deliver yields what is due.
func (g *generator) deliver(yield func(Request) bool, all bool) bool {
	for g.outbox.Len() > 0 && (all || g.outbox.letters[0].due < g.position) {
		if !yield(heap.Pop(&g.outbox).(envelope).request) {
			return false
		}
	}
	return true
}

// newRequest is what the requests of all providers have in common.
func newRequest(s Source, elements []element, body []byte, at time.Time) Request {
	r := Request{
		Source: s.Name, Provider: s.Provider, URL: s.Endpoint, Header: http.Header{}, Body: body,
		elements: elements, at: at,
	}
	for _, e := range elements {
		r.Truth = append(r.Truth, e.truth...)
	}
	if s.BasicAuth != "" {
		r.Header.Set("Authorization", basic(s.BasicAuth))
	}
	return r
}

// telling is a message and how far its story is told.
type telling struct {
	origin  *origin
	message *message
	n       int
	order   int
}

func (t telling) step() step { return t.message.happened[t.n] }

type stories []telling

func (s stories) Len() int { return len(s) }
func (s stories) Less(i, j int) bool {
	a, b := s[i].step().at, s[j].step().at
	return a.Before(b) || a.Equal(b) && s[i].order < s[j].order
}
func (s stories) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s *stories) Push(x any)   { *s = append(*s, x.(telling)) }
func (s *stories) Pop() any {
	old := *s
	last := old[len(old)-1]
	old[len(old)-1] = telling{}
	*s = old[:len(old)-1]
	return last
}

// envelope is a request that waits until so many others were made.
type envelope struct {
	request Request
	due     int
	order   int
}

type outbox struct {
	letters []envelope
	pushed  int
}

func (b *outbox) Len() int { return len(b.letters) }
func (b *outbox) Less(i, j int) bool {
	x, y := b.letters[i], b.letters[j]
	return x.due < y.due || x.due == y.due && x.order < y.order
}
func (b *outbox) Swap(i, j int) { b.letters[i], b.letters[j] = b.letters[j], b.letters[i] }
func (b *outbox) Push(x any)    { b.letters = append(b.letters, x.(envelope)) }
func (b *outbox) Pop() any {
	last := b.letters[len(b.letters)-1]
	b.letters[len(b.letters)-1] = envelope{}
	b.letters = b.letters[:len(b.letters)-1]
	return last
}

// truth is what every event of a message says, whoever reports it.
func truth(s Source, m *message, typ event.Type, at time.Time, precision string) event.Event {
	return event.Event{
		Type: typ, Provider: s.Provider, Source: s.Name,
		OccurredAt: at.UTC(), OccurredAtPrecision: precision, OccurredAtSource: event.TimeFromProvider,
		Recipient: m.to.address, RecipientNormalized: m.to.normalized, RecipientDomain: m.to.domain,
		IsTest: m.isTest,
	}
}

// nobody takes the recipient out of a truth.
func nobody(e *event.Event) {
	e.Recipient, e.RecipientNormalized, e.RecipientDomain = "", "", ""
}

func metadata(m *message) map[string]string {
	if len(m.metadata) == 0 {
		return nil
	}
	out := make(map[string]string, len(m.metadata))
	for _, p := range m.metadata {
		out[p.name] = p.text
	}
	return out
}

// token draws n characters of an alphabet.
func (g *generator) token(n int, alphabet string) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = alphabet[g.rand.IntN(len(alphabet))]
	}
	return string(text)
}

const (
	hexDigits = "0123456789abcdef"
	base62    = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

func uuid(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
}

func basic(userPassword string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(userPassword))
}
