// Package receiver accepts webhooks, proves that they are genuine, and writes
// them to Kafka as they came. It answers 200 only for what Kafka acknowledged, or
// what is synced to the spill where there is one, and otherwise the status code
// by which this provider refuses a forgery or sends again.
//
// Guarantee: at least once. A request that was answered 200 is in the raw topic,
// or in the spill on its way there; one that was not may be there too, when the acknowledgement came too late, and
// the provider's next attempt then is a duplicate, which the normalizer finds by
// the event's id.
//
// It does not parse events: what is genuine is stored, also when nobody can read
// it. It has no listener of its own and no Kafka client: both are the caller's.
//
// It also answers the links by which recipients opt out with one click
// (RFC 8058), under the same guarantee: see pkg/unsubscribe.
package receiver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/gin-gonic/gin"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"mailriver/pkg/config"
	"mailriver/pkg/unsubscribe"
)

// Producer is the part of *kgo.Client that the receiver uses. It must produce
// with acks of all replicas, and bound what it buffers by bytes and records.
type Producer interface {
	// TryProduce never blocks and calls the promise exactly once, with a nil
	// error when the record is durable. Its context is never canceled.
	TryProduce(ctx context.Context, record *kgo.Record, promise func(*kgo.Record, error))
}

// Deps are the receiver's collaborators. All are required, but for those of the
// spill and of links to opt out.
type Deps struct {
	Surroundings
	Producer Producer
	Spill    Spill // nil when there is none; then receiver.spill says nothing
	// SpillProducer is given what the spill holds. It must not give a record up
	// for its age: that is counted from the record's timestamp.
	SpillProducer Producer
	// Unsubscribe are the keys of links to opt out; nil when there are none.
	Unsubscribe *unsubscribe.Keys
	Topic       string // of raw records
	Meter       metric.Meter
	Tracer      trace.Tracer
	Propagator  propagation.TextMapPropagator
	Logger      *slog.Logger
}

// Service is the receiver.
type Service struct {
	cfg     Config
	deps    Deps
	sources map[string]*source
	trusted []netip.Prefix
	metrics *metrics

	inFlight atomic.Int64
	budget   budget
	// late is true after Kafka has not acknowledged a record in time, until it
	// acknowledges any.
	late atomic.Bool
	// decoding bounds the bodies that are decompressed at the same time: the
	// size of the result is not known before. It is work for a processor, so
	// more at once would not be faster.
	decoding chan struct{}
	confirms confirms

	unsubscribe *unsubscriber // nil without keys
}

// New checks its arguments and reads the secrets of the sources. It opens no
// connection and starts no goroutine. A secret's file that cannot be read is
// not an error: see [Service.Degraded].
func New(cfg Config, sources []Source, deps Deps) (*Service, error) {
	if deps.Producer == nil || deps.Topic == "" || deps.Meter == nil || deps.Tracer == nil || deps.Propagator == nil ||
		deps.Logger == nil || deps.LookupEnv == nil || deps.ReadFile == nil || deps.Now == nil {
		return nil, errors.New("receiver: a dependency is missing")
	}
	if deps.Spill != nil && deps.SpillProducer == nil {
		return nil, errors.New("receiver: a dependency of the spill is missing")
	}
	var problems config.Problems
	problems.Add(config.Prefix("receiver.", cfg.Validate()))
	built, err := newSources(cfg, sources, deps.Surroundings)
	problems.Add(err)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	trusted, err := networks("trusted_proxies", cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	s := &Service{
		cfg:      cfg,
		deps:     deps,
		sources:  built,
		trusted:  trusted,
		budget:   budget{limit: cfg.MaxInFlightBytes},
		decoding: make(chan struct{}, 2*runtime.GOMAXPROCS(0)),
		confirms: newConfirms(),
	}
	if deps.Unsubscribe != nil {
		if s.unsubscribe, err = newUnsubscriber(cfg, deps.Unsubscribe, deps.Surroundings); err != nil {
			return nil, fmt.Errorf("receiver: unsubscribe: %w", err)
		}
	}
	if s.metrics, err = newMetrics(deps.Meter, s); err != nil {
		return nil, fmt.Errorf("receiver: metrics: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(built)) {
		if err := built[name].why(); err != nil {
			deps.Logger.Warn("secrets cannot be read; the source asks its provider to come again",
				"source", name, "provider", built[name].provider.Name, "err", err)
		}
	}
	return s, nil
}

// Routes adds the receiver's endpoints to r. The caller owns the listener. An
// engine that answers 405 to other methods (gin's HandleMethodNotAllowed) makes
// the answers complete.
func (s *Service) Routes(r gin.IRouter) {
	const path = "/webhooks/:source"
	r.POST(path, s.accept)
	r.HEAD(path, s.probe)
	r.GET(path, s.probe)
	r.OPTIONS(path, s.probe)
	if s.unsubscribe == nil {
		return
	}
	const link = unsubscribe.Path + ":token"
	r.POST(link, s.optOut)
	r.GET(link, s.unsubscribePage)
	r.HEAD(link, s.unsubscribePage)
}

// Run confirms subscriptions, and drains the spill, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	if s.deps.Spill == nil {
		return s.runConfirms(ctx)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	drained := make(chan error, 1)
	go func() {
		drained <- s.drain(ctx)
	}()
	err := s.runConfirms(ctx)
	stop()
	return errors.Join(err, <-drained)
}

// Ready says whether the receiver runs. Whether Kafka can be reached is for the
// owner of its client to say.
func (s *Service) Ready(context.Context) error {
	if !s.confirms.running.Load() {
		return errors.New("receiver does not run")
	}
	return nil
}

// Degraded names the sources whose secrets, as they are now, cannot be used,
// and why. The others work, so this makes no process unready.
func (s *Service) Degraded(context.Context) error {
	var problems config.Problems
	for _, name := range slices.Sorted(maps.Keys(s.sources)) {
		src := s.sources[name]
		src.current(s.deps.Logger)
		problems.Add(config.Prefix(name+": ", src.why()))
	}
	return problems.Err()
}
