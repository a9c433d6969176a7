package receiver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"mailriver/pkg/esp"
	"mailriver/pkg/raw"
	"mailriver/pkg/telemetry"
)

// retryAfter is what a provider that minds Retry-After is asked to wait.
const retryAfter = 5 * time.Second

// verdict is what becomes of a request, and why.
type verdict struct {
	status    int
	outcome   string
	reason    string        // empty when accepted
	err       error         // for the log
	again     time.Duration // Retry-After; 0 for none
	challenge bool          // WWW-Authenticate
}

// probe answers what providers send before they trust an endpoint. It needs no
// key: some show theirs only after it was answered.
func (s *Service) probe(c *gin.Context) {
	src, known := s.sources[c.Param("source")]
	if !known {
		s.metrics.countRequest(c.Request.Context(), nil, outcomeUnknown, "")
		c.AbortWithStatus(http.StatusNotFound)
		return
	}
	s.metrics.countRequest(c.Request.Context(), src, outcomeProbe, "")
	c.Status(http.StatusOK)
}

func (s *Service) accept(c *gin.Context) {
	r := c.Request
	src, known := s.sources[c.Param("source")]
	if !known {
		s.metrics.countRequest(r.Context(), nil, outcomeUnknown, "")
		c.AbortWithStatus(http.StatusNotFound)
		return
	}
	// A trace begins here. One that the sender names is not continued: it would
	// let anybody decide what is sampled.
	ctx, span := s.deps.Tracer.Start(r.Context(), "receive webhook",
		trace.WithSpanKind(trace.SpanKindServer), trace.WithNewRoot(),
		trace.WithAttributes(attribute.String("source", src.cfg.Name), attribute.String("provider", src.provider.Name)))
	defer span.End()

	from := s.from(r)
	v := s.receive(ctx, r, src, from)
	s.report(ctx, c, src, from, v)
	c.Status(v.status)
}

// report counts what became of a request, logs what was not accepted, and sets
// the headers that go with the answer.
func (s *Service) report(ctx context.Context, c *gin.Context, src *source, from netip.Addr, v verdict) {
	if v.outcome == outcomeAccepted {
		s.metrics.requests.Add(ctx, 1, src.labels.accepted)
		return
	}
	s.metrics.countRequest(ctx, src, v.outcome, v.reason)
	if v.outcome == outcomeSpilled {
		return
	}
	trace.SpanFromContext(ctx).SetStatus(codes.Error, v.reason)
	s.log(ctx, src, from, v)
	if v.again > 0 {
		c.Header("Retry-After", strconv.Itoa(int(math.Ceil(v.again.Seconds()))))
	}
	if v.challenge {
		c.Header("WWW-Authenticate", `Basic realm="mailriver"`)
	}
}

// from returns the address that sent the request.
func (s *Service) from(r *http.Request) netip.Addr {
	return sender(r.RemoteAddr, r.Header.Values("X-Forwarded-For"), s.trusted)
}

// log writes what was not accepted, at a bounded rate: whoever can send
// requests could fill a disk otherwise. Never the body, never a header.
func (s *Service) log(ctx context.Context, src *source, from netip.Addr, v verdict) {
	if !src.logged.AllowN(s.deps.Now(), 1) {
		src.unlogged.Add(1)
		return
	}
	level := slog.LevelWarn
	if v.outcome == outcomeNotStored || v.reason == reasonVerifier {
		level = slog.LevelError
	}
	s.deps.Logger.Log(ctx, level, "request not accepted",
		"source", src.cfg.Name, "provider", src.provider.Name, "outcome", v.outcome, "reason", v.reason,
		"status", v.status, "remote", addressText(from), "err", v.err, "not_logged", src.unlogged.Swap(0))
}

// receive decides what becomes of a request. What is cheap to find out comes
// first: a forgery shall cost its sender more than us.
func (s *Service) receive(ctx context.Context, r *http.Request, src *source, from netip.Addr) verdict {
	defer s.inFlight.Add(-1)
	if s.inFlight.Add(1) > int64(s.cfg.MaxInFlight) {
		return src.again(outcomeShed, reasonRequests, nil)
	}
	if len(src.allow) > 0 && !contains(src.allow, from) {
		return src.refuse(reasonAddress, nil)
	}
	live := src.current(s.deps.Logger)
	if live == nil {
		return src.again(outcomeCannotVerify, reasonSecret, src.why())
	}
	if len(live.basic) > 0 {
		user, password, given := r.BasicAuth()
		if !given {
			// SNS, and other clients, send credentials only after this challenge.
			return verdict{
				status: http.StatusUnauthorized, outcome: outcomeRefused, reason: reasonNoAuth, challenge: true,
			}
		}
		if !live.admits(user, password) {
			return src.refuse(reasonBadAuth, nil)
		}
	}
	if src.limiter != nil && !src.limiter.AllowN(s.deps.Now(), 1) {
		v := src.again(outcomeShed, reasonRate, nil)
		v.again = time.Duration(float64(time.Second) / float64(src.limiter.Limit()))
		return v
	}
	encoding, known := contentEncoding(r.Header)
	if !known {
		return bad(http.StatusUnsupportedMediaType, reasonEncoding, nil)
	}

	held := &hold{from: &s.budget}
	producing := false
	defer func() {
		if !producing {
			held.release()
		}
	}()
	body, err := readBody(r.Body, r.ContentLength, src.maxBody, held)
	if err != nil {
		return src.unread(err)
	}
	receivedAt := s.deps.Now().UTC()

	// From here on the sender waits for us. What is begun is not ended by its
	// hanging up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.AckTimeout)
	defer cancel()
	decoded, forDecoded, v := s.decode(ctx, src, encoding, body)
	if v.status != 0 {
		return v
	}
	defer forDecoded.release()

	kept := src.keep(r.Header)
	verified, v := s.verify(ctx, src, live, esp.Webhook{
		Source: src.cfg.Name, Header: withContentType(kept, r.Header), Body: decoded, ReceivedAt: receivedAt,
	})
	if v.status != 0 {
		return v
	}

	record := raw.Record{
		Provider:        src.provider.Name,
		Source:          src.cfg.Name,
		ReceivedAt:      receivedAt,
		ContentType:     r.Header.Get("Content-Type"),
		ContentEncoding: encoding,
		KeyID:           verified.KeyID,
		RemoteAddr:      addressText(from),
		UserAgent:       r.UserAgent(),
		Header:          kept,
		Body:            body,
	}.Kafka(s.deps.Topic, raw.DeliveryKey(verified.DeliveryKey, decoded))
	telemetry.Inject(ctx, s.deps.Propagator, record)
	producing = true
	stored, err := s.store(ctx, src, record, held.release)
	if err != nil {
		return src.notStored(err)
	}
	s.metrics.body.Record(ctx, int64(len(body)), src.labels.source)
	if verified.ConfirmURL != "" && !s.confirms.add(confirmation{src, live, verified.ConfirmURL}) {
		return src.again(outcomeShed, reasonConfirm, nil)
	}
	return stored
}

// decode undoes the content encoding, holding what the result takes beside the
// body itself.
func (s *Service) decode(ctx context.Context, src *source, encoding string, body []byte) ([]byte, *hold, verdict) {
	held := &hold{from: &s.budget}
	if encoding == "" {
		return body, held, verdict{}
	}
	select {
	case s.decoding <- struct{}{}:
		defer func() { <-s.decoding }()
	case <-ctx.Done():
		return nil, nil, src.again(outcomeShed, reasonBytes, nil)
	}
	decoded, err := raw.Decode(encoding, body, src.maxBody)
	switch {
	case errors.Is(err, raw.ErrTooLarge):
		return nil, nil, bad(http.StatusRequestEntityTooLarge, reasonTooLarge, err)
	case err != nil:
		return nil, nil, bad(http.StatusBadRequest, reasonBroken, err)
	case !held.grow(int64(len(decoded))):
		return nil, nil, src.again(outcomeShed, reasonBytes, nil)
	}
	return decoded, held, verdict{}
}

func (s *Service) verify(ctx context.Context, src *source, live *live, hook esp.Webhook) (esp.Verified, verdict) {
	if live.verifier == nil {
		return esp.Verified{}, verdict{}
	}
	verified, err := live.verifier.Verify(ctx, hook)
	switch {
	case err == nil:
	case errors.Is(err, esp.ErrNotGenuine):
		reason, _ := esp.RefusalReason(err)
		return verified, src.refuse(reason, err)
	default:
		// Also an error that Verify should not return: the webhook may be
		// genuine, so it must not be lost.
		return verified, src.again(outcomeCannotVerify, reasonVerifier, err)
	}
	if verified.KeyID != "" {
		s.metrics.countKey(ctx, src, verified.KeyID)
	}
	return verified, verdict{}
}

var errAckTimeout = errors.New("kafka did not acknowledge in time")

// store returns what to answer once Kafka or the spill has the record. done is
// called when the client holds the record no longer.
func (s *Service) store(ctx context.Context, src *source, record *kgo.Record, done func()) (verdict, error) {
	if s.deps.Spill != nil {
		return s.storeOrSpill(ctx, src, record, done)
	}
	err := s.await(ctx, src, s.produce(ctx, record, done))
	return verdict{status: http.StatusOK, outcome: outcomeAccepted}, err
}

// produce gives the record to the client, which may change it from then on. The
// channel receives what comes of it. done is called when the client holds the
// record no longer.
//
// Produce with a promise and not ProduceSync: that one ends the linger, and
// each request would be a batch of its own.
func (s *Service) produce(ctx context.Context, record *kgo.Record, done func()) <-chan error {
	acknowledged := make(chan error, 1)
	// The end of ctx must not reach the client: canceling a record that is
	// buffered can fail others of its partition.
	s.deps.Producer.TryProduce(context.WithoutCancel(ctx), record, s.noting(func(_ *kgo.Record, err error) {
		done()
		acknowledged <- err
	}))
	return acknowledged
}

// await returns when Kafka has the record, or ctx is over. In the latter case
// the record may still be stored later.
func (s *Service) await(ctx context.Context, src *source, acknowledged <-chan error) error {
	began := s.deps.Now()
	defer func() { s.metrics.ack.Record(ctx, s.deps.Now().Sub(began).Seconds(), src.labels.source) }()
	select {
	case err := <-acknowledged:
		return err
	case <-ctx.Done():
		return errAckTimeout
	}
}

// contentEncoding returns "" or gzip; false means one that is not supported.
func contentEncoding(h http.Header) (encoding string, ok bool) {
	switch strings.ToLower(strings.TrimSpace(strings.Join(h.Values("Content-Encoding"), ","))) {
	case "", "identity":
		return "", true
	case "gzip", "x-gzip":
		return "gzip", true
	}
	return "", false
}

// keep returns the request headers that this provider's verifier and parser
// need. The verifier is shown no others, so what it accepts can be verified
// again from the record.
func (s *source) keep(h http.Header) textproto.MIMEHeader {
	kept := make(textproto.MIMEHeader, len(s.headers)+1)
	for _, name := range s.headers {
		if values := h[name]; len(values) > 0 {
			kept[name] = values
		}
	}
	return kept
}

func withContentType(kept textproto.MIMEHeader, h http.Header) textproto.MIMEHeader {
	values := h["Content-Type"]
	if len(values) == 0 {
		return kept
	}
	all := make(textproto.MIMEHeader, len(kept)+1)
	for name, value := range kept {
		all[name] = value
	}
	all["Content-Type"] = values[:1] // the one that the record keeps
	return all
}

// refuse is the answer to what is not genuine.
func (s *source) refuse(reason string, err error) verdict {
	status := s.provider.Answers.Refuse
	return verdict{
		status: status, outcome: outcomeRefused, reason: reason, err: err,
		challenge: status == http.StatusUnauthorized, // RFC 9110 15.5.2 asks for it
	}
}

// again is the answer that makes the provider send the webhook once more.
func (s *source) again(outcome, reason string, err error) verdict {
	return verdict{status: s.provider.Answers.Retry, outcome: outcome, reason: reason, err: err, again: retryAfter}
}

func bad(status int, reason string, err error) verdict {
	return verdict{status: status, outcome: outcomeBad, reason: reason, err: err}
}

// unread is the answer to a body that could not be read. One that was cut or
// too slow may come whole the next time.
func (s *source) unread(err error) verdict {
	netErr, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, errBodyTooLarge):
		return bad(http.StatusRequestEntityTooLarge, reasonTooLarge, err)
	case errors.Is(err, errNoMemory):
		return s.again(outcomeShed, reasonBytes, err)
	case isNet && netErr.Timeout():
		return s.again(outcomeIncomplete, reasonSlow, err)
	case isNet, errors.Is(err, io.ErrUnexpectedEOF):
		return s.again(outcomeIncomplete, reasonCut, err)
	}
	return bad(http.StatusBadRequest, reasonMalformed, err)
}

// notStored is the answer to a webhook that Kafka does not have. It is the same
// for a record that the topic does not take: that is an operator's to mend, and
// the webhook shall come again until then.
func (s *source) notStored(err error) verdict {
	outcome, reason := outcomeNotStored, kafkaReason(err)
	if reason == reasonBuffer {
		outcome = outcomeShed
	}
	return s.again(outcome, reason, err)
}

// kafkaReason says why Kafka does not have a record.
func kafkaReason(err error) string {
	switch {
	case errors.Is(err, kgo.ErrMaxBuffered):
		return reasonBuffer
	case errors.Is(err, errAckTimeout):
		return reasonAckTimeout
	case errors.Is(err, kerr.MessageTooLarge):
		return reasonRecordLarge
	}
	return reasonKafka
}
