// Package normalizer turns raw webhook requests into canonical events: it
// consumes the raw topic, lets the provider parse, and produces Avro records
// and dead letters.
//
// Guarantee: exactly once. The events, their dedup marks and the dead letters of
// a batch become visible together with the offsets of its input, in one Kafka
// transaction; an event that was published within the dedup window is left out.
// Group: mailriver.normalizer. It dead-letters a request whose body cannot be read,
// and each element of a request that cannot be read, with its own bytes; the
// neighbors of such an element are published.
//
// It does not verify signatures (the receiver did) and knows no provider: those
// are given to it.
package normalizer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/esp"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/kafka"
	"mailriver/pkg/run"
)

// Deps are the normalizer's collaborators. All are required.
type Deps struct {
	// Open returns a transactional session on the raw topic.
	Open func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error)
	// Reader returns a client without a group, for the dedup topic.
	Reader    func(opts ...kgo.Opt) (*kgo.Client, error)
	Admin     func() (*kadm.Client, error)
	Encoder   *eventavro.Encoder
	Providers []esp.Provider
	Topics    kafka.Topics
	Dir       string // of the local copy of the marks; can be deleted
	Version   string // of this build, written into each event
	Meter     metric.Meter
	Logger    *slog.Logger
	Now       func() time.Time
}

// Service is the normalizer.
type Service struct {
	cfg         Config
	deps        Deps
	transformer *Transformer
	metrics     *metrics
	dedup       *dedup
	claims      *claims
	client      atomic.Pointer[kgo.Client]
}

// New checks its arguments and does nothing else.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("normalizer: %w", err)
	}
	if deps.Open == nil || deps.Reader == nil || deps.Admin == nil || deps.Dir == "" || deps.Encoder == nil || len(deps.Providers) == 0 || deps.Topics.Events == "" ||
		deps.Meter == nil || deps.Logger == nil || deps.Now == nil {
		return nil, errors.New("normalizer: a dependency is missing")
	}
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, fmt.Errorf("normalizer: %w", err)
	}
	t := NewTransformer(deps.Providers, deps.Encoder, deps.Topics, deps.Version, deps.Now)
	d := &dedup{window: cfg.DedupWindow, topic: deps.Topics.Dedup, log: deps.Logger, now: deps.Now}
	return &Service{cfg: cfg, deps: deps, transformer: t, metrics: m, dedup: d, claims: newClaims(d, cfg, deps)}, nil
}

// Run normalizes until ctx ends, and finishes the transaction in hand.
func (s *Service) Run(ctx context.Context) (err error) {
	marks, err := openMarks(s.cfg, s.deps)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, marks.Close()) }()
	s.dedup.marks = marks

	transactor := kafka.Transactor{
		Open:       s.open,
		Handle:     s.handle,
		MaxRecords: s.cfg.MaxRecords,
		RetryWait:  s.cfg.RetryWait,
		OnEnd:      s.metrics.transactions.Count,
		Logger:     s.deps.Logger,
	}
	// The marks are closed behind all of them.
	return run.Group(ctx, drain,
		run.Service{Name: "marks", Run: marks.Run},
		run.Service{Name: "sweep", Run: s.dedup.sweep},
		run.Service{Name: "claims", Run: s.claims.run},
		run.Service{Name: "transactions", Run: transactor.Run},
	)
}

// drain is longer than a transaction can last.
const drain = 60 * time.Second

// Ready reports whether the broker answers.
func (s *Service) Ready(ctx context.Context) error {
	client := s.client.Load()
	if client == nil {
		return errors.New("normalizer: not connected yet")
	}
	return client.Ping(ctx)
}

func (s *Service) open() (*kgo.GroupTransactSession, error) {
	sess, err := s.deps.Open(
		// Let the broker gather a batch: a transaction per record would cost
		// more than the work inside it.
		kgo.FetchMinBytes(256<<10),
		kgo.FetchMaxWait(s.cfg.MaxWait),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
			s.dedup.marks.Assigned(assigned[s.deps.Topics.Raw])
		}),
	)
	if err != nil {
		return nil, err
	}
	s.client.Store(sess.Client())
	return sess, nil
}

func (s *Service) handle(ctx context.Context, batch []*kgo.Record) (kafka.Outcome, error) {
	partitions := map[int32]bool{}
	for _, r := range batch {
		partitions[r.Partition] = true
	}
	if err := s.dedup.complete(ctx, partitions); err != nil {
		return kafka.Outcome{}, err
	}
	results := s.transformAll(batch)
	kept, marks, err := s.dedup.filter(batch, results)
	if err != nil {
		return kafka.Outcome{}, err
	}
	out := kafka.Outcome{Records: slices.Clone(marks)}
	for i := range results {
		for _, c := range results[i].Events {
			out.Records = append(out.Records, c.Record)
		}
		out.Records = append(out.Records, results[i].Letters...)
	}
	out.Check = func(ctx context.Context) error {
		producer, _, err := s.client.Load().ProducerID(ctx)
		if err != nil {
			return fmt.Errorf("producer id: %w", err)
		}
		if err := s.claims.check(ctx, producer, kept); err != nil {
			return err
		}
		// The answers that the events were filtered by were whole ones.
		return s.dedup.marks.Intact(slices.Collect(maps.Keys(partitions)))
	}
	out.Done = func(committed bool) {
		if !committed {
			return
		}
		// The topic brings them too, but later than the next batch may need
		// them.
		s.dedup.marks.Wrote(marks)
		s.metrics.published(ctx, results, s.deps.Now())
	}
	return out, nil
}

// transformAll works on all processors. The results stand in the order of the
// input, so that the events of a recipient keep theirs.
func (s *Service) transformAll(batch []*kgo.Record) []Made {
	results := make([]Made, len(batch))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(batch)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(batch) {
					return
				}
				results[i] = s.transformer.Transform(batch[i])
			}
		})
	}
	wg.Wait()
	return results
}
