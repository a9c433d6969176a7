// Package suppression keeps the suppression list: who must not be mailed, and
// why.
//
// Guarantee: the state of an address is what the set of its events says, in
// whatever order and however often they come. Group: mailriver.suppression. The
// owner of a partition of the canonical topic folds its events into the states
// of their recipients and publishes those in the transaction that commits the
// offsets, so a state and the events in it become visible together, once. The
// fold itself is a join (package suppression below pkg), so doing it again would
// do nothing.
//
// Every instance holds the whole list in a local copy (package replica) and
// answers look-ups from it, also while Kafka is away; answers say how old they
// are. Changes by people are not written into the list: they travel through the
// raw topic as every other event (docs/adr/0019), so they are in the history,
// in every audit and every replay.
//
// It dead-letters a canonical record that does not decode. It does not decide
// what an event means (the policy does), does not tell the providers (mailriver
// suppress sync does), and never sends mail.
package suppression

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/avro"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/kafka"
	"mailriver/pkg/replica"
	"mailriver/pkg/run"
	model "mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
	"mailriver/pkg/unsubscribe"
)

// Producer writes records and waits for their acknowledgement, as *kgo.Client
// does.
type Producer interface {
	ProduceSync(ctx context.Context, records ...*kgo.Record) kgo.ProduceResults
}

// clock says what time it is.
type clock = func() time.Time

// Deps are the service's collaborators. All but Links are required.
type Deps struct {
	// Open makes a transactional session on the canonical topic.
	Open func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error)
	// Reader and Admin make the clients of the local copy.
	Reader func(opts ...kgo.Opt) (*kgo.Client, error)
	Admin  func() (*kadm.Client, error)
	// Producer writes the changes of people to the raw topic.
	Producer Producer
	// Links makes the headers of a link to opt out. Without it there are none.
	Links   func(unsubscribe.Link) (unsubscribe.Headers, error)
	Schemas avro.Schemas
	Encoder *suppressionavro.Encoder
	Topics  kafka.Topics
	Dir     string // of the local copy
	Meter   metric.Meter
	Logger  *slog.Logger
	Now     func() time.Time
}

// Service is the suppression service.
type Service struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	guard   *api.Guard
	// document is the API's own description.
	document *api.Document
	readWait time.Duration // bound of ?wait=
	events   *eventavro.Decoder
	fold     *fold
	list     atomic.Pointer[list] // nil until the local copy is open
	client   atomic.Pointer[kgo.Client]
}

// New checks its arguments and does nothing else.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("suppression: %w", err)
	}
	if deps.Open == nil || deps.Reader == nil || deps.Admin == nil || deps.Producer == nil || deps.Schemas == nil ||
		deps.Encoder == nil || deps.Topics.Suppressions == "" || deps.Dir == "" || deps.Meter == nil ||
		deps.Logger == nil || deps.Now == nil {
		return nil, errors.New("suppression: a dependency is missing")
	}
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, fmt.Errorf("suppression: %w", err)
	}
	guard, err := api.NewGuard(cfg.API.Keys)
	if err != nil {
		return nil, fmt.Errorf("suppression: %w", err)
	}
	document, err := api.ParseDocument(openapi)
	if err != nil {
		return nil, fmt.Errorf("suppression: %w", err)
	}
	return &Service{
		cfg: cfg, deps: deps, metrics: m, guard: guard, document: document, readWait: maxReadWait,
		events: eventavro.NewDecoder(deps.Schemas),
	}, nil
}

// Run folds and follows until ctx ends, and finishes the transaction in hand.
func (s *Service) Run(ctx context.Context) (err error) {
	states, err := s.openCopy()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, states.Close()) }()
	s.fold = newFold(&s.cfg.Policy, states, s.deps, s.events, s.metrics)
	s.list.Store(newList(&s.cfg.Policy, states, s.deps.Schemas))
	transactor := kafka.Transactor{
		Open:       s.open,
		Handle:     s.fold.handle,
		MaxRecords: s.cfg.MaxRecords,
		RetryWait:  s.cfg.RetryWait,
		OnEnd:      s.metrics.transactions.Count,
		Logger:     s.deps.Logger,
	}
	return run.Group(ctx, drain,
		run.Service{Name: "copy", Run: states.Run},
		run.Service{Name: "transactions", Run: transactor.Run},
	)
}

// drain is longer than a transaction can last.
const drain = 60 * time.Second

// copyFormat changes when localKey or what is stored under it does.
const copyFormat = "suppressions 1"

func (s *Service) openCopy() (*replica.Copy, error) {
	return replica.Open(replica.Config{
		Topic: s.deps.Topics.Suppressions, Dir: filepath.Join(s.deps.Dir, "suppressions"),
		Format: copyFormat + foldingOf(&s.cfg.Policy), Prefixed: true, Filter: true,
		CacheBytes: int64(s.cfg.CacheBytes), RetryWait: s.cfg.RetryWait,
	}, replica.Deps{
		Map:    func(r *kgo.Record) (key, value []byte, err error) { return localRecord(&s.cfg.Policy, r) },
		Reader: s.deps.Reader, Admin: s.deps.Admin, Meter: s.deps.Meter, Logger: s.deps.Logger, Now: s.deps.Now,
	})
}

// foldingOf is part of the format: the keys depend on it.
func foldingOf(p *model.Policy) string {
	if p.ExactLocalParts {
		return ", exact local parts"
	}
	return ""
}

func (s *Service) open() (*kgo.GroupTransactSession, error) {
	sess, err := s.deps.Open(kgo.FetchMaxWait(s.cfg.MaxWait), s.fold.states.Owns(s.deps.Topics.Events))
	if err != nil {
		return nil, err
	}
	s.client.Store(sess.Client())
	return sess, nil
}

// Ready reports whether look-ups are answered from a list that was complete at
// least once since the start. Kafka away later does not make it unready: a list
// that is a little old is better than none.
func (s *Service) Ready(context.Context) error {
	l := s.list.Load()
	if l == nil || l.states.AsOf().IsZero() {
		return errors.New("suppression: the list is not read yet")
	}
	return nil
}

// Connected reports whether the broker answers.
func (s *Service) Connected(ctx context.Context) error {
	client := s.client.Load()
	if client == nil {
		return errors.New("suppression: not connected yet")
	}
	return client.Ping(ctx)
}
