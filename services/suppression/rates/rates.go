// Package rates watches the rates by which mailbox providers and email service
// providers judge a sender: complaints and hard bounces by sender domain over a
// sliding window. It exports them as metrics and tells each crossing of a
// threshold once, as a record of the alerts topic.
//
// Group: mailriver.suppression.rates. Every instance counts the partitions of
// the canonical topic that it is assigned, and writes the counters to the rates
// topic in the transaction that commits the offsets: each event is counted
// exactly once, over restarts and rebalances. The instance that has partition 0
// adds the counters up, for all partitions, and tells the alerts. It takes a
// transactional id over for that, so that no two instances ever tell the same
// crossing, and reads from the alerts topic what has been told.
//
// It dead-letters nothing: what it cannot read is counted in a metric, and is the
// loader's to give up. It decides nothing about suppressing an address, and sends
// no alert to a person: that is for who reads the topic or the metrics.
package rates

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/eventavro"
	"mailriver/pkg/kafka"
	"mailriver/pkg/run"
)

// Deps are the service's collaborators. All are required.
type Deps struct {
	Clients  *kafka.Clients
	Topics   kafka.Topics
	Instance string             // name of this instance, the same after a restart
	Events   *eventavro.Decoder // of the canonical topic
	Encoder  *Encoder           // of the alerts topic
	Decoder  *Decoder           // of the alerts topic
	Meter    metric.Meter
	Logger   *slog.Logger
	Now      func() time.Time
}

// Service counts and tells.
type Service struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	books   *books
	client  atomic.Pointer[kgo.Client]

	askEvery, sumEvery time.Duration
}

// askEvery is how often the coordinator is asked who has partition 0, and
// sumEvery how often the counters are looked at. Tests are in more of a hurry.
const (
	askEvery = 5 * time.Second
	sumEvery = time.Second
)

// New checks its arguments and does nothing else.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("suppression: rates: %w", err)
	}
	if deps.Clients == nil || deps.Topics == (kafka.Topics{}) || deps.Instance == "" || deps.Events == nil ||
		deps.Encoder == nil || deps.Decoder == nil || deps.Meter == nil || deps.Logger == nil || deps.Now == nil {
		return nil, errors.New("suppression: rates: a dependency is missing")
	}
	if cfg.TransactionalID == "" {
		cfg.TransactionalID = cfg.Group + "." + deps.Instance
	}
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, fmt.Errorf("suppression: rates: %w", err)
	}
	return &Service{
		cfg: cfg, deps: deps, metrics: m, books: newBooks(cfg.hours()), askEvery: askEvery, sumEvery: sumEvery,
	}, nil
}

// Run counts and tells until ctx ends, and finishes the transaction in hand. When
// the service is not enabled it waits for that.
func (s *Service) Run(ctx context.Context) (err error) {
	if !s.cfg.Enabled {
		<-ctx.Done()
		return nil
	}
	stop, err := s.metrics.watch()
	if err != nil {
		return fmt.Errorf("suppression: rates: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	transactor := kafka.Transactor{
		Open:       s.open,
		Handle:     s.count,
		MaxRecords: s.cfg.MaxRecords,
		RetryWait:  s.cfg.RetryWait,
		Logger:     s.deps.Logger,
	}
	return run.Group(ctx, drain,
		run.Service{Name: "counting", Run: transactor.Run},
		run.Service{Name: "alerts", Run: s.watch},
	)
}

// drain is longer than a transaction can last.
const drain = 60 * time.Second

// Ready reports whether the broker answers.
func (s *Service) Ready(ctx context.Context) error {
	if !s.cfg.Enabled {
		return nil
	}
	client := s.client.Load()
	if client == nil {
		return errors.New("suppression: rates: not connected yet")
	}
	return client.Ping(ctx)
}

func (s *Service) open() (*kgo.GroupTransactSession, error) {
	sess, err := s.deps.Clients.Session(s.cfg.Group, s.cfg.TransactionalID, []string{s.deps.Topics.Events},
		kgo.FetchMinBytes(1<<20),
		kgo.FetchMaxWait(s.cfg.MaxWait),
		kgo.AdjustFetchOffsetsFn(s.begin),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
			s.books.assigned(assigned[s.deps.Topics.Events])
		}),
	)
	if err != nil {
		return nil, err
	}
	s.client.Store(sess.Client())
	return sess, nil
}

// begin says where partitions begin that the group has committed nothing for: a
// window ago. What is older has left every window.
//
// They are offsets and not a time that the client resolves: the client asks for
// the first record since then, and where there is none for the end. What was
// published between the two answers would be skipped.
func (s *Service) begin(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	partitions := offsets[s.deps.Topics.Events]
	var fresh []int32
	for p, offset := range partitions {
		if offset.EpochOffset().Offset < 0 {
			fresh = append(fresh, p)
		}
	}
	if len(fresh) == 0 {
		return offsets, nil
	}
	since := s.deps.Now().Add(-s.cfg.Window - time.Hour)
	span, err := s.deps.Clients.Span(ctx, s.deps.Topics.Events, kafka.At(since), kafka.End())
	if err != nil {
		return nil, err
	}
	for _, p := range fresh {
		if from, known := span.From[p]; known {
			partitions[p] = kgo.NewOffset().At(from)
		}
	}
	return offsets, nil
}
