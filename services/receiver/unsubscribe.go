package receiver

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the page and its style
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"mailriver/pkg/change"
	"mailriver/pkg/esp"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/telemetry"
	"mailriver/pkg/unsubscribe"
)

//go:embed unsubscribe.html
var unsubscribeHTML string

//go:embed unsubscribe.css
var unsubscribeCSS string

// unsubscriber is the endpoint of one-click unsubscribe (RFC 8058). A POST opts
// out, whatever its body says or does not; nothing else does, since scanners
// follow every link of a message.
//
// It is a source in all but its way in, so that its records are stored, counted,
// logged and spilled as webhooks are.
type unsubscriber struct {
	keys *unsubscribe.Keys
	src  *source
	page *template.Template
	csp  string
}

func newUnsubscriber(cfg Config, keys *unsubscribe.Keys, around Surroundings) (*unsubscriber, error) {
	src, err := newSource(cfg, Source{
		Name: mailriver.Source, Provider: mailriver.Provider.Name, RateLimit: cfg.UnsubscribeRateLimit,
		Unverified: true, // there are no keys of a provider: the token is proof
		MaxBody:    1,    // no body is kept
	}, mailriver.Provider, around)
	if err != nil {
		return nil, err
	}
	page, err := template.New("page").Parse(unsubscribeHTML)
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	style := sha256.Sum256([]byte(unsubscribeCSS))
	return &unsubscriber{
		keys: keys, src: src, page: page,
		csp: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(style[:]) +
			"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	}, nil
}

// unsubscribePage asks. It changes nothing.
func (s *Service) unsubscribePage(c *gin.Context) {
	u := s.unsubscribe
	opened, v := u.open(c.Param("token"), s.deps.Now())
	if v.status != 0 {
		s.report(c.Request.Context(), c, u.src, s.from(c.Request), v)
		u.sayNothing(c, v.status)
		return
	}
	s.metrics.countRequest(c.Request.Context(), u.src, outcomeProbe, "")
	u.show(c, http.StatusOK, words{
		Title: "Unsubscribe", Before: "Stop sending these emails to ", Address: masked(opened.Address), After: "?",
		Button: "Unsubscribe",
	})
}

// optOut opts out, and answers 200 when the opt-out is durable. Never a
// redirect: mail programs do not follow it (RFC 8058, 3.1).
func (s *Service) optOut(c *gin.Context) {
	u := s.unsubscribe
	ctx, span := s.deps.Tracer.Start(c.Request.Context(), "receive opt-out",
		trace.WithSpanKind(trace.SpanKindServer), trace.WithNewRoot(),
		trace.WithAttributes(attribute.String("source", u.src.cfg.Name), attribute.String("provider", u.src.provider.Name)))
	defer span.End()

	opened, v := s.receiveOptOut(ctx, c.Param("token"))
	s.report(ctx, c, u.src, s.from(c.Request), v)
	browser := strings.Contains(strings.Join(c.Request.Header.Values("Accept"), ","), "text/html")
	switch {
	case opened.Address == "":
		u.sayNothing(c, v.status)
	case v.status == http.StatusOK && browser:
		u.show(c, v.status, words{
			Title: "You are unsubscribed", Before: "These emails will no longer be sent to ", Address: masked(opened.Address), After: ".",
		})
	case v.status == http.StatusOK:
		c.String(v.status, "unsubscribed\n")
	case browser:
		u.show(c, v.status, words{
			Title: "Please try again", Before: "This could not be stored just now, so ", Address: masked(opened.Address),
			After: " is not unsubscribed yet.", Button: "Try again",
		})
	default:
		c.String(v.status, "not stored, try again\n")
	}
}

// receiveOptOut decides what becomes of an opt-out. What was opened is empty
// when the token does not open.
func (s *Service) receiveOptOut(ctx context.Context, token string) (unsubscribe.Opened, verdict) {
	u := s.unsubscribe
	defer s.inFlight.Add(-1)
	over := s.inFlight.Add(1) > int64(s.cfg.MaxInFlight)
	now := s.deps.Now().UTC()
	opened, v := u.open(token, now)
	switch {
	case v.status != 0:
		return opened, v
	case over:
		return opened, u.src.again(outcomeShed, reasonRequests, nil)
	case u.src.limiter != nil && !u.src.limiter.AllowN(now, 1):
		return opened, u.src.again(outcomeShed, reasonRate, nil)
	}
	s.metrics.countKey(ctx, u.src, opened.KeyID)
	records, err := change.Records(s.deps.Topic, []mailriver.Change{opened.Change(now)}, now)
	if err != nil {
		// The link was checked when it was opened, so this is a bug. It must not
		// look as if the opt-out were done.
		return opened, u.src.again(outcomeNotStored, reasonRecord, err)
	}
	record := records[0] // one change, one record
	held := &hold{from: &s.budget}
	if !held.grow(int64(len(record.Value))) {
		return opened, u.src.again(outcomeShed, reasonBytes, nil)
	}
	// From here on the sender waits for us. What is begun is not ended by its
	// hanging up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.AckTimeout)
	defer cancel()
	telemetry.Inject(ctx, s.deps.Propagator, record)
	stored, err := s.store(ctx, u.src, record, held.release)
	if err != nil {
		return opened, u.src.notStored(err)
	}
	return opened, stored
}

// open returns what a token says, or the answer to one that does not open.
func (u *unsubscriber) open(token string, now time.Time) (unsubscribe.Opened, verdict) {
	opened, err := u.keys.Open(token, now)
	switch {
	case err == nil:
		return opened, verdict{}
	case errors.Is(err, unsubscribe.ErrMalformed):
		return opened, u.src.refuse(esp.ReasonMalformed, err)
	case errors.Is(err, unsubscribe.ErrExpired):
		return opened, u.src.refuse(esp.ReasonStale, err)
	}
	return opened, u.src.refuse(esp.ReasonMismatch, err)
}

// words are what the page says.
type words struct {
	Title, Before, Address, After string
	Button                        string // none without
	Style                         template.CSS
}

// show writes the page. It holds no address of any other page: nothing is
// loaded, sent, framed, indexed or kept.
func (u *unsubscriber) show(c *gin.Context, status int, w words) {
	w.Style = template.CSS(unsubscribeCSS)
	var page bytes.Buffer
	if err := u.page.Execute(&page, w); err != nil {
		c.Status(http.StatusInternalServerError)
		return
	}
	u.guard(c)
	c.Header("Content-Security-Policy", u.csp)
	c.Data(status, "text/html; charset=utf-8", page.Bytes())
}

// sayNothing is the same for a link that was never made, was changed, or has
// expired.
func (u *unsubscriber) sayNothing(c *gin.Context, status int) {
	u.guard(c)
	c.String(status, "there is nothing here\n")
}

// guard keeps the URL, which is all that an opt-out takes, out of caches,
// search engines and Referer.
func (u *unsubscriber) guard(c *gin.Context) {
	c.Header("Cache-Control", "no-store")
	c.Header("Referrer-Policy", "no-referrer")
	c.Header("X-Robots-Tag", "noindex, nofollow")
	c.Header("X-Content-Type-Options", "nosniff")
}

// masked shows of an address as much as its owner needs to know it by: who was
// forwarded a message holds its link, too.
func masked(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 1 {
		return "…"
	}
	_, size := utf8.DecodeRuneInString(address)
	return address[:min(size, at)] + "…" + address[at:]
}
