package deliver

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
)

// session is one reading of a partition, and what follows from it.
type session struct {
	service   *Service
	partition int32
	writer    *writer

	// attempts ends what is in hand when it takes too long to let it finish.
	attempts context.Context
	abandon  context.CancelFunc
	flying   sync.WaitGroup // deliveries in hand

	mu    sync.Mutex // held over a plan
	ended bool
	// What was planned already: signals up to this offset that are not younger.
	// A crash behind a plan and before its commit brings signals again, and they
	// must not become pending again. The time tells the signals of a topic that
	// was deleted and made again.
	planned int64
	latest  time.Time
}

func newWriter(publisher *kafka.Publisher, failed func(error)) *writer {
	return &writer{
		name: fmt.Sprintf("%016x", rand.Uint64()), publisher: publisher, failed: failed,
		requests: make(chan request), quit: make(chan struct{}), done: make(chan struct{}),
	}
}

func newSession(ctx context.Context, s *Service, partition int32, w *writer) *session {
	ctx = context.WithoutCancel(ctx) // attempts and writes in hand outlive it, within bounds
	live := &session{service: s, partition: partition, writer: w, planned: -1}
	live.attempts, live.abandon = context.WithCancel(ctx)
	go w.run(ctx)
	return live
}

// drain is for how long attempts in hand may go on when the partition moves or
// the process ends. It is below Kafka's session time-out: a member that leaves
// says nothing meanwhile.
const drain = 10 * time.Second

// end forgets what is queued, lets what is in hand finish, and stops writing.
func (s *session) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	for _, e := range s.service.all() {
		e.drop(s)
	}
	timer := time.AfterFunc(drain, s.abandon)
	s.flying.Wait()
	timer.Stop()
	s.abandon()
	s.writer.end()
}

// restore reads the partition, queues what is pending, and returns where to read
// on.
func (s *session) restore(ctx context.Context) (from int64, err error) {
	clients, topic := s.service.deps.Clients, s.service.deps.Topics.LeadDeliveries
	// What an earlier owner has committed is visible after this.
	if err := clients.Settle(ctx, topic); err != nil {
		return 0, err
	}
	span, err := clients.Span(ctx, topic, kafka.Start(), kafka.End())
	if err != nil {
		return 0, err
	}
	begin, there := span.From[s.partition]
	if !there {
		return 0, fmt.Errorf("%s has no partition %d: it must have as many as %s",
			topic, s.partition, s.service.deps.Topics.LeadSignals)
	}
	span.From = map[int32]int64{s.partition: begin}
	pending := map[string]*item{}
	err = clients.Read(ctx, span, func(r *kgo.Record) error {
		p, ok := s.service.parse(ctx, r)
		switch {
		case !ok:
		case p.endpoint != "":
			s.service.endpoint(p.endpoint).disableIf(p.mark)
		default:
			d := p.delivery
			s.planned = max(s.planned, d.Offset)
			if d.Recorded.After(s.latest) {
				s.latest = d.Recorded
			}
			delete(pending, d.ID())
			if d.State == Pending {
				pending[d.ID()] = &item{d, kafka.Origin(r)}
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, it := range pending {
		s.service.endpoint(it.Endpoint).add(s, it)
	}
	return span.To[s.partition], nil
}

// heard takes note of what others write: people who retry.
func (s *session) heard(r *kgo.Record) error {
	if r.Partition != s.partition || kafka.HeaderOf(r, headerWriter) == s.writer.name {
		return nil
	}
	p, ok := s.service.parse(s.attempts, r)
	if ok && p.endpoint == "" && p.delivery.State == Pending {
		s.service.endpoint(p.delivery.Endpoint).add(s, &item{p.delivery, kafka.Origin(r)})
	}
	return nil
}

// plan writes the deliveries of signals, and the dead letters of those that
// cannot be read, all or nothing, and queues them.
func (s *session) plan(ctx context.Context, signals []*kgo.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errEnded
	}
	var records []*kgo.Record
	var planned []Delivery
	for _, r := range signals {
		if r.Offset <= s.planned && !r.Timestamp.After(s.latest) {
			continue
		}
		deliveries, err := s.service.deliveriesOf(ctx, r)
		if _, permanent := fault.Reason(err); permanent {
			records = append(records, kafka.DeadLetter(s.service.deps.Topics.Dead, r, kafka.Letter{
				Stage: Stage, Origin: kafka.Origin(r), Err: err, Value: r.Value,
			}))
			continue
		}
		if err != nil {
			return fmt.Errorf("decode %s: %w", kafka.Origin(r), err)
		}
		planned = append(planned, deliveries...)
	}
	letters := len(records)
	for i := range planned {
		record, err := s.record(&planned[i])
		if err != nil {
			return err
		}
		records = append(records, record)
	}
	if err := s.writer.write(records...); err != nil {
		return err
	}
	for _, r := range signals {
		s.planned = max(s.planned, r.Offset)
		if r.Timestamp.After(s.latest) {
			s.latest = r.Timestamp
		}
	}
	for i, d := range planned {
		s.service.endpoint(d.Endpoint).add(s, &item{d, kafka.Origin(records[letters+i])})
	}
	return nil
}

// settle writes what became of a delivery: with its dead letter and the mark of
// an endpoint that is gone, all or nothing.
func (s *session) settle(it *item, d Delivery, e *endpoint) (origin string, err error) {
	topics := s.service.deps.Topics
	record, err := s.record(&d)
	if err != nil {
		return "", err
	}
	records := []*kgo.Record{record}
	if d.State == DeadLetter {
		records = append(records, d.letter(topics.Dead, it.origin, record.Value))
	}
	if d.State == DeadLetter && d.Status == http.StatusGone && e.config != nil {
		value, err := json.Marshal(mark{e.config.Fingerprint(), d.UpdatedAt})
		if err != nil {
			return "", err
		}
		records = append(records, stateRecord(topics.LeadDeliveries, s.partition, markPrefix+e.name, value, s.writer.name))
	}
	if err := s.writer.write(records...); err != nil {
		return "", err
	}
	return kafka.Origin(record), nil
}

func (s *session) record(d *Delivery) (*kgo.Record, error) {
	return d.record(s.service.deps.Topics.LeadDeliveries, s.writer.name)
}
