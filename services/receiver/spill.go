package receiver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/config"
	"mailriver/pkg/spill"
)

// SpillConfig says whether records go to the disk while Kafka does not take
// them: the section receiver.spill.
type SpillConfig struct {
	// Enabled keeps webhooks on the local disk, synced, while Kafka does not
	// acknowledge them, and answers 200.
	Enabled bool `yaml:"enabled"`
	// After is how long a request waits for Kafka before its record goes to the
	// disk.
	After  time.Duration `yaml:"after"`
	Config spill.Config  `yaml:",inline"`
}

// defaultSpill is off.
func defaultSpill() SpillConfig {
	return SpillConfig{After: 2 * time.Second, Config: spill.DefaultConfig()}
}

func (c SpillConfig) validate(ackTimeout time.Duration) error {
	var problems config.Problems
	problems.Must(c.After > 0, "after: is %s, must be positive", c.After)
	problems.Must(!c.Enabled || c.After < ackTimeout,
		"after: is %s, must be below ack_timeout (%s) or no request lives to see it", c.After, ackTimeout)
	problems.Add(c.Config.Validate())
	return problems.Err()
}

// Spill keeps records on disk until Kafka has them: a [spill.Store].
type Spill interface {
	// Append returns nil when the record is on the disk.
	Append(ctx context.Context, record *kgo.Record) error
	// Drain gives what is held to Kafka until ctx ends.
	Drain(ctx context.Context, produce spill.Produce) error
}

// storeOrSpill is store with a spill behind it.
//
// While Kafka takes records, they go there directly, also when the spill still
// holds some: the order of requests means nothing on the raw topic. Once one
// was not acknowledged in time, those that follow go straight to the disk, and
// neither wait nor fill the client's buffer with what cannot leave, until
// anything at all is acknowledged: the drain always has a record on its way.
// When the disk does not take a record, Kafka gets the rest of its time.
//
// The record that was not acknowledged in time is still with the client, so it
// may reach Kafka twice: under one key, on one partition, to become the same
// events, of which the normalizer drops one.
func (s *Service) storeOrSpill(ctx context.Context, src *source, record *kgo.Record, done func()) (verdict, error) {
	var full error
	if s.late.Load() {
		if full = s.deps.Spill.Append(ctx, record); full == nil {
			done()
			return spilled(reasonLate), nil
		}
	}
	own := *record // the client may change the other one
	own.Headers = slices.Clone(record.Headers)
	acknowledged := s.produce(ctx, record, done)

	patience := s.cfg.Spill.After
	if deadline, ok := ctx.Deadline(); ok {
		// Verification took its time; leave some of the rest for the disk.
		patience = min(patience, time.Until(deadline)/2)
	}
	early, cancel := context.WithTimeout(ctx, patience)
	err := s.await(early, src, acknowledged)
	cancel()
	if err == nil {
		return verdict{status: http.StatusOK, outcome: outcomeAccepted}, nil
	}
	if spill.Refused(err) {
		return verdict{}, err // Kafka would not take it from the spill either
	}
	if errors.Is(err, errAckTimeout) {
		s.late.Store(true) // before Append: the drain's acknowledgement comes after it
	}
	if full == nil {
		if full = s.deps.Spill.Append(ctx, &own); full == nil {
			return spilled(kafkaReason(err)), nil
		}
	}
	if errors.Is(err, errAckTimeout) {
		select {
		case err = <-acknowledged:
			if err == nil {
				return verdict{status: http.StatusOK, outcome: outcomeAccepted}, nil
			}
		case <-ctx.Done():
		}
	}
	return verdict{}, fmt.Errorf("%w; %w", err, full)
}

func spilled(reason string) verdict {
	return verdict{status: http.StatusOK, outcome: outcomeSpilled, reason: reason}
}

// noting makes a promise that notes that Kafka acknowledges again.
func (s *Service) noting(promise func(*kgo.Record, error)) func(*kgo.Record, error) {
	return func(r *kgo.Record, err error) {
		if err == nil && s.late.Load() {
			s.late.Store(false)
		}
		promise(r, err)
	}
}

// drain gives what the spill holds to Kafka until ctx ends.
func (s *Service) drain(ctx context.Context) error {
	return s.deps.Spill.Drain(ctx, func(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
		s.deps.SpillProducer.TryProduce(ctx, r, s.noting(promise))
	})
}
