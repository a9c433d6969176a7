package spill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Produce gives a record to Kafka. It calls the promise exactly once, with a nil
// error when the record is durable, and may change the record until then. It is
// (*kgo.Client).TryProduce, or something around it, of a client without
// RecordDeliveryTimeout: kgo counts that from the record's timestamp, so it would
// give every older record up at once.
type Produce func(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error))

const (
	// drainAtOnce bounds the records that a drain has given to the client and
	// not seen acknowledged. The client's buffer is for new requests, too.
	drainAtOnce = 1000
	// asideWaits is for how many RetryWait a record is left alone that Kafka
	// will not take as it is.
	asideWaits = 60
)

// Refused says whether Kafka will refuse this record however often it is sent,
// as long as nobody changes its limits.
func Refused(err error) bool {
	for _, permanent := range []error{
		kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp,
	} {
		if errors.Is(err, permanent) {
			return true
		}
	}
	return false
}

// Drain gives what is held to Kafka, oldest first, until ctx ends. What Kafka
// acknowledged is deleted. What it refuses is set aside and tried again at
// length, so that the others pass.
func (s *Store) Drain(ctx context.Context, produce Produce) error {
	// The clients that a promise belongs to outlive ctx: a record that was
	// canceled can fail others of its partition.
	d := drain{Store: s, produce: produce}
	for {
		seg, wait := s.oldest()
		if seg == nil {
			if d.working && s.Depth().Records == 0 {
				d.working = false
				s.deps.Logger.Info("the spill is drained")
			}
			s.wait(ctx, wait)
		} else if err := d.segment(ctx, seg); err != nil && ctx.Err() == nil {
			s.deps.Logger.Error("the spill cannot be drained", "file", seg.name, "err", err)
			s.putOff(seg)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// oldest returns the first segment that may be drained now, or how long to wait
// for one; 0 is until something is added.
func (s *Store) oldest() (seg *segment, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.deps.Now()
	for _, seg := range s.segments {
		if seg.records == 0 && !seg.drained {
			continue // just begun
		}
		until := seg.notBefore.Sub(now)
		if seg.notBefore.IsZero() || until <= 0 {
			return seg, 0
		}
		if wait == 0 || until < wait {
			wait = until
		}
	}
	return nil, wait
}

// wait returns when something was added, after d if that is positive, or when
// ctx ends.
func (s *Store) wait(ctx context.Context, d time.Duration) {
	var after <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-ctx.Done():
	case <-s.added:
	case <-after:
	}
}

func (s *Store) putOff(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.notBefore = s.deps.Now().Add(asideWaits * s.cfg.RetryWait)
}

// drain is one run of [Store.Drain].
type drain struct {
	*Store
	produce Produce
	working bool // since the store was last empty
	failing bool // the last attempt failed
}

// segment drains one segment. An error is one of the disk.
func (d *drain) segment(ctx context.Context, seg *segment) error {
	if seg.drained {
		return d.remove(seg)
	}
	if err := d.seal(seg); err != nil {
		return err
	}
	d.working = true
	var left []*kgo.Record
	err := d.scan(seg.name, func(r *kgo.Record, _ int64) {
		// Behind what is counted lies what was being written when the disk
		// failed. It was not acknowledged.
		if int64(len(left)) < seg.records {
			left = append(left, r)
		}
	})
	if err != nil && !isDamage(err) {
		return err
	}
	if int64(len(left)) < seg.records {
		seg.damaged = true
	}
	all := len(left)
	var refused []*kgo.Record
	for len(left) > 0 {
		batch := left[:min(len(left), drainAtOnce)]
		failed, never, err := d.attempt(ctx, batch)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		refused = append(refused, never...)
		left = append(slices.Clip(failed), left[len(batch):]...)
		d.report(ctx, len(failed), err)
		if len(failed) > 0 {
			d.pause(ctx)
		}
	}
	if len(refused) == all && all > 0 {
		d.putOff(seg) // nothing to gain from writing it anew
		return nil
	}
	if len(refused) > 0 {
		if err := d.setAside(refused); err != nil {
			return err
		}
	}
	seg.drained = true
	return d.remove(seg)
}

// attempt produces records in order and waits for every answer. It returns those
// to try again, and those that Kafka refuses.
func (d *drain) attempt(ctx context.Context, records []*kgo.Record) (failed, refused []*kgo.Record, err error) {
	type answer struct {
		i   int
		err error
	}
	answers := make(chan answer, len(records)) // so that no promise waits for us
	for i, r := range records {
		own := *r // the client changes what it is given
		own.Headers = slices.Clone(r.Headers)
		d.produce(context.WithoutCancel(ctx), &own, func(_ *kgo.Record, err error) { answers <- answer{i, err} })
	}
	errs := make([]error, len(records))
	for range records {
		select {
		case a := <-answers:
			errs[a.i] = a.err
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	for i, r := range records {
		switch {
		case errs[i] == nil:
			d.metrics.drained.Add(ctx, 1)
		case Refused(errs[i]):
			refused = append(refused, r)
			d.metrics.refused.Add(ctx, 1)
			d.deps.Logger.Error("kafka refuses a record of the spill; it is kept and tried again",
				"topic", r.Topic, "bytes", len(r.Value), "err", errs[i])
		default:
			failed = append(failed, r)
			if err == nil {
				err = errs[i]
			}
		}
	}
	return failed, refused, err
}

// report logs when draining begins to fail and when it works again.
func (d *drain) report(ctx context.Context, failed int, err error) {
	switch {
	case failed > 0 && !d.failing:
		d.deps.Logger.WarnContext(ctx, "kafka does not take what the spill holds; trying on", "err", err)
	case failed == 0 && d.failing:
		d.deps.Logger.InfoContext(ctx, "kafka takes what the spill holds")
	}
	d.failing = failed > 0
}

// pause waits RetryWait, or for the end of ctx.
func (d *drain) pause(ctx context.Context) {
	timer := time.NewTimer(d.cfg.RetryWait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// setAside writes records into a segment of their own, synced before the one
// that they came from goes. It may exceed the bound by that one, for a moment.
func (s *Store) setAside(records []*kgo.Record) error {
	s.write.Lock()
	defer s.write.Unlock()
	seg, file, err := s.create()
	if err != nil {
		return err
	}
	log := record.NewWriter(file)
	for _, r := range records {
		payload := encode(r)
		if _, err = log.WriteRecord(payload); err != nil {
			break
		}
		seg.add(r.Timestamp, int64(len(payload)))
	}
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("set refused records aside: %w", err),
			s.deps.FS.Remove(s.deps.FS.PathJoin(s.cfg.Dir, seg.name)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.notBefore = s.deps.Now().Add(asideWaits * s.cfg.RetryWait)
	s.segments = append(s.segments, seg)
	s.held += seg.bytes
	return nil
}
