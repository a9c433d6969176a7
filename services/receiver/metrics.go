package receiver

import (
	"context"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Outcomes of a request, the label of mailriver.receiver.requests. Each but
// accepted and probe has a reason beside it.
const (
	outcomeAccepted     = "accepted"      // Kafka has it
	outcomeSpilled      = "spilled"       // the disk has it, and Kafka will
	outcomeProbe        = "probe"         // HEAD, GET or OPTIONS; of the page of a link, too
	outcomeUnknown      = "unknown"       // no such source
	outcomeRefused      = "refused"       // not genuine
	outcomeBad          = "bad_request"   // too large, or an encoding that cannot be undone
	outcomeCannotVerify = "cannot_verify" // might be genuine; something of ours is missing
	outcomeShed         = "shed"          // over a limit
	outcomeIncomplete   = "incomplete"    // the body never came
	outcomeNotStored    = "not_stored"    // Kafka does not have it, or not yet
)

// Reasons beside those of package esp.
const (
	reasonAddress     = "address"             // not in allow_ips
	reasonNoAuth      = "missing_credentials" // no Authorization
	reasonBadAuth     = "wrong_credentials"
	reasonTooLarge    = "too_large"
	reasonEncoding    = "unsupported_encoding"
	reasonBroken      = "broken_encoding"
	reasonMalformed   = "malformed_body"
	reasonSlow        = "slow_body"
	reasonCut         = "cut_body"
	reasonSecret      = "secret_unreadable"
	reasonVerifier    = "verifier"
	reasonRate        = "rate_limit"
	reasonRequests    = "requests_in_flight"
	reasonBytes       = "bytes_in_flight"
	reasonBuffer      = "kafka_buffer_full"
	reasonAckTimeout  = "kafka_timeout"
	reasonKafka       = "kafka_error"
	reasonRecordLarge = "kafka_too_large"
	reasonLate        = "kafka_late" // to the spill at once, because others before it had to
	reasonConfirm     = "confirmations_full"
	reasonRecord      = "record" // an opt-out that cannot be written as one
)

// Outcomes of a confirmation.
const (
	confirmDone   = "confirmed"
	confirmFailed = "failed"
	confirmLost   = "not_requested" // the process stopped first
)

type metrics struct {
	requests      metric.Int64Counter
	body          metric.Int64Histogram
	ack           metric.Float64Histogram
	verified      metric.Int64Counter
	confirmations metric.Int64Counter
}

func newMetrics(meter metric.Meter, s *Service) (*metrics, error) {
	m := &metrics{}
	var err error
	if m.requests, err = meter.Int64Counter("mailriver.receiver.requests",
		metric.WithDescription("Webhook requests by source, provider, outcome and reason.")); err != nil {
		return nil, err
	}
	if m.body, err = meter.Int64Histogram("mailriver.receiver.body", metric.WithUnit("By"),
		metric.WithDescription("Size of accepted bodies as sent, by source."),
		metric.WithExplicitBucketBoundaries(256, 1<<10, 4<<10, 16<<10, 64<<10, 256<<10, 1<<20, 4<<20, 16<<20)); err != nil {
		return nil, err
	}
	if m.ack, err = meter.Float64Histogram("mailriver.receiver.ack", metric.WithUnit("s"),
		metric.WithDescription("From a record's production to Kafka's answer, or to giving up, by source."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)); err != nil {
		return nil, err
	}
	if m.verified, err = meter.Int64Counter("mailriver.receiver.verified",
		metric.WithDescription("Genuine signatures by source and the id of the key that verified them.")); err != nil {
		return nil, err
	}
	if m.confirmations, err = meter.Int64Counter("mailriver.receiver.confirmations",
		metric.WithDescription("Subscription confirmations by source and outcome.")); err != nil {
		return nil, err
	}
	requests, err := meter.Int64ObservableGauge("mailriver.receiver.in_flight",
		metric.WithDescription("Requests in hand."))
	if err != nil {
		return nil, err
	}
	bytes, err := meter.Int64ObservableGauge("mailriver.receiver.in_flight_body", metric.WithUnit("By"),
		metric.WithDescription("Memory held by bodies until Kafka has them."))
	if err != nil {
		return nil, err
	}
	usable, err := meter.Int64ObservableGauge("mailriver.receiver.source_usable",
		metric.WithDescription("1 when the source's secrets, as they are now, can be used, else 0."))
	if err != nil {
		return nil, err
	}
	if _, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(requests, s.inFlight.Load())
		o.ObserveInt64(bytes, s.budget.used.Load())
		for name, src := range s.sources {
			value := int64(1)
			if src.why() != nil {
				value = 0
			}
			o.ObserveInt64(usable, value, metric.WithAttributes(attribute.String("source", name)))
		}
		return nil
	}, requests, bytes, usable); err != nil {
		return nil, fmt.Errorf("gauges: %w", err)
	}
	return m, nil
}

// countRequest counts one request. The source is nil for an unknown one: its
// name is the sender's invention, and no label.
func (m *metrics) countRequest(ctx context.Context, src *source, outcome, reason string) {
	labels := make([]attribute.KeyValue, 0, 4)
	labels = append(labels, attribute.String("outcome", outcome))
	if src != nil {
		labels = append(labels, attribute.String("source", src.cfg.Name), attribute.String("provider", src.provider.Name))
	}
	if reason != "" {
		labels = append(labels, attribute.String("reason", reason))
	}
	m.requests.Add(ctx, 1, metric.WithAttributes(labels...))
}

// countKey counts a genuine signature by the key that made it.
func (m *metrics) countKey(ctx context.Context, src *source, keyID string) {
	m.verified.Add(ctx, 1, src.labels.key(keyID))
}

// labels are the measurement options of a source that accepted requests use,
// made once.
type labels struct {
	name     attribute.KeyValue
	source   metric.MeasurementOption
	accepted metric.MeasurementOption
	keys     *sync.Map // key id -> metric.MeasurementOption; as many as there were keys
}

func newLabels(source, provider string) labels {
	name := attribute.String("source", source)
	return labels{
		name:   name,
		source: metric.WithAttributeSet(attribute.NewSet(name)),
		accepted: metric.WithAttributeSet(attribute.NewSet(name,
			attribute.String("provider", provider), attribute.String("outcome", outcomeAccepted))),
		keys: &sync.Map{},
	}
}

func (l labels) key(id string) metric.MeasurementOption {
	if stored, ok := l.keys.Load(id); ok {
		if option, ok := stored.(metric.MeasurementOption); ok {
			return option
		}
	}
	option := metric.WithAttributeSet(attribute.NewSet(l.name, attribute.String("key_id", id)))
	l.keys.Store(id, option)
	return option
}
