package deliver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/kafka"
)

// owner has one partition of the signals, and the partition of the same number of
// the deliveries topic: it is the only one that writes there, but for people who
// retry. What it holds in memory is what that partition says; after an error it
// throws it away and reads it again.
type owner struct {
	service   *Service
	partition int32
	cancel    context.CancelFunc
	done      chan struct{}

	mu    sync.Mutex
	live  *session      // nil while the partition is being read
	moved chan struct{} // closed and replaced when live changes
}

// own begins to own a partition, until ctx or cancel ends it.
func own(ctx context.Context, s *Service, partition int32) *owner {
	ctx, cancel := context.WithCancel(ctx)
	o := &owner{
		service: s, partition: partition, cancel: cancel,
		done: make(chan struct{}), moved: make(chan struct{}),
	}
	go o.run(ctx)
	return o
}

func (o *owner) run(ctx context.Context) {
	defer close(o.done)
	for {
		err := o.once(ctx)
		if ctx.Err() != nil {
			return
		}
		o.service.deps.Logger.WarnContext(ctx, "deliveries of a partition are read again", "partition", o.partition, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(o.service.cfg.Deliveries.RetryWait):
		}
	}
}

// once works until an error or the end of ctx.
func (o *owner) once(ctx context.Context) error {
	s, topic := o.service, o.service.deps.Topics.LeadDeliveries
	// From here on no earlier owner can write: the transactional id is that of
	// the partition. What it had open is aborted.
	publisher, err := s.deps.Clients.Publisher(ctx, fmt.Sprintf("%s.%d", s.cfg.Deliveries.Group, o.partition))
	if err != nil {
		return err
	}
	inner, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	live := newSession(ctx, s, o.partition, newWriter(publisher, stop))
	defer live.end()
	from, err := live.restore(ctx)
	if err != nil {
		return err
	}
	o.enter(live)
	defer o.enter(nil)
	err = s.deps.Clients.Follow(inner, topic, map[int32]int64{o.partition: from}, live.heard)
	if cause := context.Cause(inner); cause != nil {
		return cause
	}
	return err
}

func (o *owner) enter(live *session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.live = live
	close(o.moved)
	o.moved = make(chan struct{})
}

func (o *owner) ready() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.live != nil
}

// planWait bounds for how long signals wait for the deliveries to be read.
const planWait = 5 * time.Second

// plan makes the deliveries of signals durable. When it returns nil, the offset
// may pass them.
func (o *owner) plan(ctx context.Context, signals []*kgo.Record) error {
	timer := time.NewTimer(planWait)
	defer timer.Stop()
	for {
		o.mu.Lock()
		live, moved := o.live, o.moved
		o.mu.Unlock()
		if live != nil {
			return live.plan(ctx, signals)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return errors.New("deliveries are being read")
		}
	}
}

// writer publishes for one partition. What is asked for while a transaction is
// under way goes into the next one together.
type writer struct {
	name      string // tells its records from those of others
	publisher *kafka.Publisher
	failed    func(error) // told of the first error, after which nothing is written
	requests  chan request
	quit      chan struct{}
	done      chan struct{}
}

type request struct {
	records []*kgo.Record
	answer  chan error
}

// perTransaction bounds a transaction, but never splits a request.
const perTransaction = 500

func (w *writer) run(ctx context.Context) {
	defer close(w.done)
	defer w.publisher.Close()
	var broken error
	for {
		var batch []request
		select {
		case r := <-w.requests:
			batch = append(batch, r)
		case <-w.quit:
			return
		}
		records := batch[0].records
	gather:
		for len(records) < perTransaction {
			select {
			case r := <-w.requests:
				batch = append(batch, r)
				records = append(records, r.records...)
			default:
				break gather
			}
		}
		if broken == nil {
			if broken = w.publisher.Publish(ctx, records...); broken != nil {
				w.failed(broken)
			}
		}
		for _, r := range batch {
			r.answer <- broken
		}
	}
}

// write returns when the records are committed, all of them, or with an error.
// The records then name their places.
func (w *writer) write(records ...*kgo.Record) error {
	if len(records) == 0 {
		return nil
	}
	answer := make(chan error, 1)
	select {
	case w.requests <- request{records, answer}:
		return <-answer
	case <-w.done:
		return errEnded
	}
}

// errEnded is returned for what comes after the end of a session.
var errEnded = errors.New("partition is no longer owned")

// end waits for the transaction in hand.
func (w *writer) end() {
	close(w.quit)
	<-w.done
}
