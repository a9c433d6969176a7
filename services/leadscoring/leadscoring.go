// Package leadscoring scores recipients by what they do with mail, and says once
// when one becomes warm.
//
// Guarantee: the score of a recipient is what the set of its events gives,
// exactly once. Group: mailriver.leadscoring. The owner of a partition of the
// canonical topic folds its events into the states of their recipients (package
// lead below pkg) and publishes states, signals and changes of segments in the
// transaction that commits the offsets. So each is told once over restarts and
// rebalances; an event that comes again is in the state already and crosses
// nothing. What a group that was set back reads again changes states and tells
// nothing, whatever rules are new.
//
// Every instance holds all leads in a local copy (package replica) and answers
// questions from it. Signals go out as webhooks from the signals topic (package
// deliver), never from here.
//
// It dead-letters a canonical record that does not decode. It does not decide
// who is a machine from one event alone (package machine, in the normalizer),
// and does not send mail.
package leadscoring

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
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/replica"
	"mailriver/pkg/run"
)

// Deps are the service's collaborators. All but Deliveries are required.
type Deps struct {
	// Open makes a transactional session on the canonical topic.
	Open func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error)
	// Reader and Admin make the clients of the local copy.
	Reader  func(opts ...kgo.Opt) (*kgo.Client, error)
	Admin   func() (*kadm.Client, error)
	Schemas avro.Schemas
	Scores  *leadavro.Encoder
	Signals *leadavro.SignalEncoder
	Changes *leadavro.ChangeEncoder
	Topics  kafka.Topics
	// Deliveries tells what became of signals. Without it nothing is told.
	Deliveries Deliveries
	Dir        string // of the local copy
	Meter      metric.Meter
	Logger     *slog.Logger
	Now        func() time.Time
}

// Service is the lead scoring service.
type Service struct {
	cfg   Config
	deps  Deps
	rules *lead.Set
	// segments may name what is in rules.
	segments *lead.Segments
	metrics  *metrics
	guard    *api.Guard
	// document is the API's own description.
	document *api.Document
	events   *eventavro.Decoder
	// replays knows which events are read again, and so not told.
	replays kafka.Replays
	fold    *fold
	leads   atomic.Pointer[leads] // nil until the local copy is open
	client  atomic.Pointer[kgo.Client]
}

// New checks its arguments and does nothing else.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("leadscoring: %w", err)
	}
	if deps.Open == nil || deps.Reader == nil || deps.Admin == nil || deps.Schemas == nil || deps.Scores == nil ||
		deps.Signals == nil || deps.Changes == nil || deps.Topics.LeadScores == "" || deps.Dir == "" ||
		deps.Meter == nil || deps.Logger == nil || deps.Now == nil {
		return nil, errors.New("leadscoring: a dependency is missing")
	}
	rules, err := lead.Compile(cfg.Profiles)
	if err != nil {
		return nil, fmt.Errorf("leadscoring: %w", err)
	}
	segments, err := rules.CompileSegments(cfg.Segments)
	if err != nil {
		return nil, fmt.Errorf("leadscoring: %w", err)
	}
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, fmt.Errorf("leadscoring: %w", err)
	}
	guard, err := api.NewGuard(cfg.API.Keys)
	if err != nil {
		return nil, fmt.Errorf("leadscoring: %w", err)
	}
	document, err := api.ParseDocument(openapi)
	if err != nil {
		return nil, fmt.Errorf("leadscoring: %w", err)
	}
	return &Service{
		cfg: cfg, deps: deps, rules: rules, segments: segments, metrics: m, guard: guard, document: document,
		events: eventavro.NewDecoder(deps.Schemas),
	}, nil
}

// Run folds and follows until ctx ends, and finishes the transaction in hand.
func (s *Service) Run(ctx context.Context) (err error) {
	index := newIndex(s)
	states, err := replica.Open(replica.Config{
		Topic: s.deps.Topics.LeadScores, Dir: filepath.Join(s.deps.Dir, "leads"), Format: "leads 1",
		CacheBytes: int64(s.cfg.CacheBytes), RetryWait: s.cfg.RetryWait,
	}, replica.Deps{
		Map:    func(r *kgo.Record) (key, value []byte, err error) { return localRecord(ctx, index, r) },
		Reader: s.deps.Reader, Admin: s.deps.Admin, Meter: s.deps.Meter, Logger: s.deps.Logger, Now: s.deps.Now,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, states.Close()) }()
	s.fold = newFold(s, states)
	s.leads.Store(newLeads(s.rules, states, index, s.deps.Schemas))
	transactor := kafka.Transactor{
		Open:       s.open,
		Handle:     s.fold.handle,
		MaxRecords: s.cfg.MaxRecords,
		RetryWait:  s.cfg.RetryWait,
		OnEnd:      s.metrics.transactions.Count,
		Replays:    &s.replays,
		Logger:     s.deps.Logger,
	}
	return run.Group(ctx, drain,
		run.Service{Name: "copy", Run: states.Run},
		run.Service{Name: "index", Run: func(ctx context.Context) error { return index.build(ctx, states) }},
		run.Service{Name: "transactions", Run: transactor.Run},
	)
}

// drain is longer than a transaction can last.
const drain = 60 * time.Second

// localRecord implements the Map of the local copy: by recipient, as it came. The
// index takes note of it on the way.
func localRecord(ctx context.Context, x *index, r *kgo.Record) (key, value []byte, err error) {
	if len(r.Key) == 0 {
		return nil, nil, errors.New("a lead without a recipient")
	}
	x.note(ctx, r)
	return r.Key, r.Value, nil
}

func (s *Service) open() (*kgo.GroupTransactSession, error) {
	sess, err := s.deps.Open(kgo.FetchMaxWait(s.cfg.MaxWait), s.fold.states.Owns(s.deps.Topics.Events), s.replays.Option())
	if err != nil {
		return nil, err
	}
	s.client.Store(sess.Client())
	return sess, nil
}

// Ready reports whether questions are answered from leads that were complete at
// least once.
func (s *Service) Ready(context.Context) error {
	l := s.leads.Load()
	if l == nil || l.states.AsOf().IsZero() {
		return errors.New("leadscoring: the leads are not read yet")
	}
	return nil
}

// Connected reports whether the broker answers.
func (s *Service) Connected(ctx context.Context) error {
	client := s.client.Load()
	if client == nil {
		return errors.New("leadscoring: not connected yet")
	}
	return client.Ping(ctx)
}
