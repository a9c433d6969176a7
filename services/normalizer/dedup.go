package normalizer

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/replica"
)

// dedup knows which events were published within the window.
//
// A mark of each published event is written to the dedup topic in the
// transaction that publishes it, on the partition of its raw record. Every
// instance has a copy of the whole topic. Before it works on a raw partition
// that it was newly assigned, it waits until the topic is read to its end,
// transactions still open included: so a redelivery, which lands on the same raw
// partition by its delivery key, always finds its mark. A copy in another batch
// may lie on another partition; its mark is found as soon as it is read. Two
// copies that two instances work on in the same moment are the business of
// claims (docs/adr/0014).
type dedup struct {
	marks  *replica.Copy // event id -> Unix seconds of the request
	window time.Duration
	topic  string
	log    *slog.Logger
	now    func() time.Time
}

// mark is one published event.
type mark struct {
	id event.ID
	at time.Time // when its request was received
}

func openMarks(cfg Config, deps Deps) (*replica.Copy, error) {
	return replica.Open(replica.Config{
		Topic: deps.Topics.Dedup, Dir: deps.Dir, Format: "seconds by event id", RetryWait: cfg.RetryWait,
	}, replica.Deps{
		Map: mapMark, Reader: deps.Reader, Admin: deps.Admin, Meter: deps.Meter, Logger: deps.Logger, Now: deps.Now,
	})
}

func mapMark(r *kgo.Record) (key, value []byte, err error) {
	id, err := event.ParseID(string(r.Key))
	if err != nil {
		return nil, nil, err
	}
	return id[:], binary.BigEndian.AppendUint64(nil, uint64(r.Timestamp.Unix())), nil
}

// has reports whether the event was published within the window before at.
func (d *dedup) has(id event.ID, at time.Time) (bool, error) {
	value, ok, err := d.marks.Current(id[:])
	if err != nil || !ok {
		return false, err
	}
	return at.Sub(markedAt(value)) <= d.window, nil
}

func markedAt(value []byte) time.Time { return time.Unix(int64(binary.BigEndian.Uint64(value)), 0) }

// sweep forgets marks that are older than the window, until ctx ends.
func (d *dedup) sweep(ctx context.Context) error {
	// An eighth of the window late at most is soon enough.
	ticker := time.NewTicker(d.window / 8)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		oldest := d.now().Add(-d.window)
		n, err := d.marks.Sweep(func(_, value []byte) bool { return markedAt(value).Before(oldest) })
		if err != nil {
			return err
		}
		d.log.InfoContext(ctx, "dedup store swept", "deleted", n)
	}
}

// complete waits until all marks are read that were written before the given
// raw partitions were assigned.
func (d *dedup) complete(ctx context.Context, partitions map[int32]bool) error {
	if err := d.marks.Complete(ctx, slices.Collect(maps.Keys(partitions))); err != nil {
		return err
	}
	positions := d.marks.Positions()
	for p := range partitions {
		if _, exists := positions[p]; !exists {
			return fmt.Errorf("dedup topic has no partition %d: it needs as many as the raw topic", p)
		}
	}
	return nil
}

// filter takes out the events that were published already, in the store or
// earlier in this batch. It returns the marks of those that stay.
func (d *dedup) filter(batch []*kgo.Record, results []Made) (kept []mark, records []*kgo.Record, err error) {
	seen := map[event.ID]bool{}
	for i := range results {
		r := &results[i]
		events := r.Events[:0]
		for _, c := range r.Events {
			duplicate := seen[c.Event.ID]
			if !duplicate {
				if duplicate, err = d.has(c.Event.ID, r.ReceivedAt); err != nil {
					return nil, nil, err
				}
			}
			if duplicate {
				r.Duplicates++
				continue
			}
			seen[c.Event.ID] = true
			events = append(events, c)
			kept = append(kept, mark{c.Event.ID, r.ReceivedAt})
			records = append(records, &kgo.Record{
				Topic:     d.topic,
				Partition: batch[i].Partition,
				Key:       []byte(c.Event.ID.String()),
				Value:     []byte{}, // not null: compaction would take it for a deletion
				Timestamp: r.ReceivedAt,
			})
		}
		r.Events = events
	}
	return kept, records, nil
}
