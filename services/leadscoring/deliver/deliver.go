// Package deliver sends signals about leads to webhooks.
//
// Guarantee: each signal that an endpoint has subscribed to is delivered there at
// least once, or becomes a dead letter with its reason, or is skipped because the
// endpoint answered 410 Gone. The webhook-id is the id of the signal at every
// attempt, so that a receiver can drop what it has. Signals about one recipient
// go to an endpoint in the order of the topic, each after the one before it has
// ended. Group: mailriver.leadscoring.webhooks.
//
// What is to be done is written before the offset of the signals passes it: one
// pending delivery for each signal and endpoint, in the deliveries topic, on the
// partition number of the signal. Whoever owns a partition of the signals owns
// that one too, is the only one that writes there (its transactional id is that
// of the partition, so a predecessor that does not know is refused), and has in
// memory what is pending. Each attempt is followed by a record that says what
// became of it; a delivery that is given up is written together with its dead
// letter. After a restart, the topic says what is left and when it is due
// (docs/adr/0026).
//
// An endpoint has its own queue and its own limit of attempts at one time, so
// that one that hangs holds up neither others nor the partition.
//
// It does not make signals, and it sends nothing for a replay, since that makes
// none. How a message looks and is sent is package webhook.
package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/avro"
	"mailriver/pkg/config"
	"mailriver/pkg/kafka"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/webhook"
)

// Deps are the service's collaborators. All are required.
type Deps struct {
	Clients *kafka.Clients
	Topics  kafka.Topics
	Schemas avro.Schemas
	// Resolve reads a secret. It is asked anew for each attempt.
	Resolve func(config.Secret) (string, error)
	Meter   metric.Meter
	Logger  *slog.Logger
	Now     func() time.Time
}

// Service sends signals.
type Service struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	signals *leadavro.SignalDecoder
	clients map[string]*webhook.Client // by endpoint

	mu        sync.Mutex
	spawn     func(func(context.Context)) // runs something until Run ends
	endpoints map[string]*endpoint
	owners    map[int32]*owner
	client    *kgo.Client // nil when not running
}

// New checks its arguments, reads the secrets once to check them, and does
// nothing else. A secret file that cannot be read just now is no error.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("deliver: %w", err)
	}
	if deps.Clients == nil || deps.Topics.LeadDeliveries == "" || deps.Schemas == nil || deps.Resolve == nil ||
		deps.Meter == nil || deps.Logger == nil || deps.Now == nil {
		return nil, errors.New("deliver: a dependency is missing")
	}
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, fmt.Errorf("deliver: %w", err)
	}
	s := &Service{
		cfg: cfg, deps: deps, metrics: m, signals: leadavro.NewSignalDecoder(deps.Schemas),
		clients: map[string]*webhook.Client{}, endpoints: map[string]*endpoint{}, owners: map[int32]*owner{},
	}
	var problems config.Problems
	for _, e := range cfg.Webhooks {
		client, err := webhook.NewClient(e, webhook.Deps{Resolve: deps.Resolve, Now: deps.Now})
		if err != nil {
			return nil, fmt.Errorf("deliver: %w", err)
		}
		s.clients[e.Name] = client
		err = client.Check()
		if errors.Is(err, config.ErrUnreadable) {
			deps.Logger.Warn("secret of a webhook cannot be read yet", "endpoint", e.Name, "err", err)
		} else {
			problems.Add(config.Prefix("webhooks["+e.Name+"].", err))
		}
	}
	if err := problems.Err(); err != nil {
		return nil, fmt.Errorf("deliver: %w", err)
	}
	return s, nil
}

// Run sends until ctx ends, and lets attempts in hand finish, for ten seconds at
// most. It may be called once.
func (s *Service) Run(ctx context.Context) (err error) {
	stop, err := s.metrics.observe(s)
	if err != nil {
		return fmt.Errorf("deliver: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	// The loops of endpoints end after the partitions have been given up.
	loops, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer func() {
		end()
		running.Wait()
		for _, client := range s.clients {
			client.Close()
		}
	}()
	s.mu.Lock()
	s.spawn = func(f func(context.Context)) { running.Go(func() { f(loops) }) }
	s.mu.Unlock()
	for i := range s.cfg.Webhooks {
		s.endpoint(s.cfg.Webhooks[i].Name) // so that each has its gauges
	}
	for {
		err := s.consume(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.deps.Logger.WarnContext(ctx, "signals cannot be read, trying again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.cfg.Deliveries.RetryWait):
		}
	}
}

// consume follows the signals with one client until an error or the end of ctx.
func (s *Service) consume(ctx context.Context) error {
	client, err := s.deps.Clients.Group(
		s.cfg.Deliveries.Group, []string{s.deps.Topics.LeadSignals},
		// Callbacks wait until what was polled is planned and committed.
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
			s.assign(ctx, assigned[s.deps.Topics.LeadSignals])
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, revoked map[string][]int32) {
			s.release(revoked[s.deps.Topics.LeadSignals])
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
			s.release(lost[s.deps.Topics.LeadSignals])
		}),
	)
	if err != nil {
		return err
	}
	s.setClient(client)
	defer func() {
		s.setClient(nil)
		client.CloseAllowingRebalance()
		s.release(s.owned())
	}()
	for {
		fetches := client.PollRecords(ctx, s.cfg.Deliveries.MaxRecords)
		if ctx.Err() != nil {
			return nil
		}
		if err := kafka.FetchError(ctx, fetches, s.deps.Logger); err != nil {
			return err
		}
		err := s.plan(ctx, client, fetches)
		client.AllowRebalance()
		if err != nil {
			s.deps.Logger.WarnContext(ctx, "signals cannot be planned, trying again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(s.cfg.Deliveries.RetryWait):
			}
		}
	}
}

// plan gives signals to the owners of their partitions and commits what these
// have made durable. The rest comes again: the client goes back to it.
func (s *Service) plan(ctx context.Context, client *kgo.Client, fetches kgo.Fetches) error {
	var planned []*kgo.Record
	var failed error
	back := map[int32]kgo.EpochOffset{}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		s.mu.Lock()
		o := s.owners[p.Partition]
		s.mu.Unlock()
		err := errEnded
		if o != nil {
			err = o.plan(ctx, p.Records)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("partition %d: %w", p.Partition, err))
			first := p.Records[0]
			back[p.Partition] = kgo.EpochOffset{Epoch: first.LeaderEpoch, Offset: first.Offset}
			return
		}
		planned = append(planned, p.Records[len(p.Records)-1])
	})
	if len(back) > 0 {
		client.SetOffsets(map[string]map[int32]kgo.EpochOffset{s.deps.Topics.LeadSignals: back})
	}
	if len(planned) > 0 {
		// A commit that fails brings signals again that are planned; their owner
		// knows that they are.
		failed = errors.Join(failed, client.CommitRecords(context.WithoutCancel(ctx), planned...))
	}
	return failed
}

func (s *Service) setClient(client *kgo.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client = client
}

func (s *Service) assign(ctx context.Context, partitions []int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range partitions {
		if s.owners[p] == nil {
			s.owners[p] = own(ctx, s, p)
		}
	}
}

func (s *Service) owned() []int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.owners))
}

// release ends the ownership of partitions and waits for what is in hand.
func (s *Service) release(partitions []int32) {
	s.mu.Lock()
	var ending []*owner
	for _, p := range partitions {
		if o := s.owners[p]; o != nil {
			o.cancel()
			ending = append(ending, o)
			delete(s.owners, p)
		}
	}
	s.mu.Unlock()
	for _, o := range ending {
		<-o.done
	}
}

// endpoint returns the endpoint of a name, also of one that is not configured any
// more.
func (s *Service) endpoint(name string) *endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.endpoints[name]; e != nil {
		return e
	}
	e := &endpoint{
		name: name, client: s.clients[name], schedule: s.cfg.Deliveries, metrics: s.metrics, now: s.deps.Now,
		wake: make(chan struct{}, 1), lanes: map[laneKey]*lane{}, breaker: s.cfg.Deliveries.breaker(),
	}
	for i := range s.cfg.Webhooks {
		if s.cfg.Webhooks[i].Name == name {
			e.config = &s.cfg.Webhooks[i]
		}
	}
	s.endpoints[name] = e
	s.spawn(e.run)
	return e
}

func (s *Service) all() []*endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*endpoint
	for _, e := range s.endpoints {
		all = append(all, e)
	}
	return all
}

// deliveriesOf plans the deliveries of a signal: one for each endpoint that wants
// it.
func (s *Service) deliveriesOf(ctx context.Context, r *kgo.Record) ([]Delivery, error) {
	decoded, err := s.signals.Decode(ctx, r.Value)
	if err != nil {
		return nil, err
	}
	signal, now := signalOf(&decoded), s.deps.Now().UTC()
	var planned []Delivery
	for i := range s.cfg.Webhooks {
		if e := &s.cfg.Webhooks[i]; e.Wants(signal) {
			planned = append(planned, newDelivery(r, signal, e.Name, now))
		}
	}
	return planned, nil
}

// parse reads a record of the deliveries topic. One that cannot be read is left
// out, and said.
func (s *Service) parse(ctx context.Context, r *kgo.Record) (parsed, bool) {
	p, err := parse(r)
	if err != nil {
		s.deps.Logger.ErrorContext(ctx, "delivery cannot be read and is left out", "err", err)
	}
	return p, err == nil
}

// Ready reports whether Kafka answers and the deliveries of all partitions that
// this instance owns are read. An endpoint that is down does not make it unready.
func (s *Service) Ready(ctx context.Context) error {
	s.mu.Lock()
	client := s.client
	var reading []int32
	for p, o := range s.owners {
		if !o.ready() {
			reading = append(reading, p)
		}
	}
	s.mu.Unlock()
	if client == nil {
		return errors.New("deliver: not connected yet")
	}
	if len(reading) > 0 {
		return fmt.Errorf("deliver: deliveries of partitions %v are being read", reading)
	}
	if err := client.Ping(ctx); err != nil {
		return fmt.Errorf("deliver: %w", err)
	}
	return nil
}
