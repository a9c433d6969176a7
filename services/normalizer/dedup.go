package normalizer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
)

// dedup knows which events were published within the window.
//
// A mark of each published event is written to the dedup topic in the
// transaction that publishes it, on the partition of its raw record. Every
// instance reads the whole topic into its local store. Before it works on a raw
// partition that it was newly assigned, it waits until the topic is read to its
// end, transactions still open included: so a redelivery, which lands on the
// same raw partition by its delivery key, always finds its mark. A copy in
// another batch may lie on another partition; its mark is found as soon as it
// is read. Two copies that two instances work on in the same moment are the
// business of claims (docs/adr/0014).
type dedup struct {
	marks  *marks
	window time.Duration
	// retryWait is the pause before the topic is read again after an error.
	retryWait time.Duration
	topic     string
	// open returns a reader of the given offsets, control records included.
	open  func(opts ...kgo.Opt) (*kgo.Client, error)
	admin func() (*kadm.Client, error)
	log   *slog.Logger
	now   func() time.Time

	mu       sync.Mutex
	position map[int32]int64 // dedup offset read next
	fresh    map[int32]bool  // raw partitions whose marks were complete after their assignment
	moved    chan struct{}   // closed and replaced whenever position advances
}

// positions are the offsets before which every mark is in the store.
func (d *dedup) positions() map[int32]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.position)
}

// moves is closed when positions have advanced.
func (d *dedup) moves() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.moved
}

// run reads the dedup topic and sweeps the store until ctx ends. Errors of
// Kafka are waited out; those of the store end it.
func (d *dedup) run(ctx context.Context) error {
	for {
		err := d.read(ctx)
		if storeErr, ok := errors.AsType[*storeError](err); ok {
			return storeErr
		}
		if ctx.Err() != nil {
			return nil
		}
		d.log.WarnContext(ctx, "dedup topic cannot be read, trying again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(d.retryWait):
		}
	}
}

func (d *dedup) read(ctx context.Context) error {
	start, err := d.startOffsets(ctx)
	if err != nil {
		return err
	}
	client, err := d.open(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{d.topic: start}),
		// The end of a transaction moves the position too.
		kgo.KeepControlRecords(),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	swept := d.now()
	for {
		fetches := client.PollRecords(ctx, 20_000)
		if ctx.Err() != nil {
			return nil
		}
		fetches.EachError(func(_ string, partition int32, err error) {
			d.log.WarnContext(ctx, "dedup topic", "partition", partition, "err", err)
		})
		if err := d.apply(fetches.Records()); err != nil {
			return err
		}
		// An eighth of the window late at most is soon enough to forget.
		if now := d.now(); now.Sub(swept) > d.window/8 {
			swept = now
			n, err := d.marks.sweep(now.Add(-d.window))
			if err != nil {
				return err
			}
			d.log.InfoContext(ctx, "dedup store swept", "deleted", n)
		}
	}
}

// startOffsets are the stored positions, or the beginning. A position that the
// topic no longer has (it was deleted and made again) starts over.
func (d *dedup) startOffsets(ctx context.Context) (map[int32]kgo.Offset, error) {
	begin, end, err := d.bounds(ctx)
	if err != nil {
		return nil, err
	}
	start := map[int32]kgo.Offset{}
	d.mu.Lock()
	defer d.mu.Unlock()
	for partition, first := range begin {
		at := first
		stored, known, err := d.marks.position(partition)
		if err != nil {
			return nil, err
		}
		if known && stored >= first && stored <= end[partition] {
			at = stored
		}
		d.position[partition] = at
		start[partition] = kgo.NewOffset().At(at)
	}
	return start, nil
}

// bounds returns the first offset and the high watermark of each partition.
func (d *dedup) bounds(ctx context.Context) (begin, end map[int32]int64, err error) {
	admin, err := d.admin()
	if err != nil {
		return nil, nil, err
	}
	defer admin.Close()
	starts, err := admin.ListStartOffsets(ctx, d.topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("dedup topic: start offsets: %w", err)
	}
	ends, err := admin.ListEndOffsets(ctx, d.topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("dedup topic: end offsets: %w", err)
	}
	begin, end = map[int32]int64{}, map[int32]int64{}
	starts.Each(func(o kadm.ListedOffset) { begin[o.Partition] = o.Offset })
	ends.Each(func(o kadm.ListedOffset) { end[o.Partition] = o.Offset })
	return begin, end, nil
}

func (d *dedup) apply(records []*kgo.Record) error {
	if len(records) == 0 {
		return nil
	}
	var list []mark
	positions := map[int32]int64{}
	for _, r := range records {
		positions[r.Partition] = r.Offset + 1
		if r.Attrs.IsControl() {
			continue
		}
		if id, ok := markID(r.Key); ok {
			list = append(list, mark{id, r.Timestamp})
		}
	}
	if err := d.marks.add(list, positions); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for partition, offset := range positions {
		d.position[partition] = offset
	}
	close(d.moved)
	d.moved = make(chan struct{})
	return nil
}

func markID(key []byte) (event.ID, bool) {
	id, err := event.ParseID(string(key))
	return id, err == nil
}

// assigned forgets that the marks of newly assigned partitions were complete:
// another instance may have published meanwhile.
func (d *dedup) assigned(partitions []int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range partitions {
		delete(d.fresh, p)
	}
}

// complete waits until all marks are read that were written before the given
// raw partitions were assigned.
func (d *dedup) complete(ctx context.Context, partitions map[int32]bool) error {
	d.mu.Lock()
	stale := false
	for p := range partitions {
		stale = stale || !d.fresh[p]
	}
	d.mu.Unlock()
	if !stale {
		return nil
	}
	_, end, err := d.bounds(ctx)
	if err != nil {
		return err
	}
	for p := range partitions {
		if _, exists := end[p]; !exists {
			return fmt.Errorf("dedup topic has no partition %d: it needs as many as the raw topic", p)
		}
	}
	// The marks of the other partitions too: a copy in another batch has its
	// mark there.
	for p, target := range end {
		if err := d.reach(ctx, p, target); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for p := range partitions {
		d.fresh[p] = true
	}
	return nil
}

// recheck is how often a wait asks for the bounds again: retention may have
// taken what it waits for.
const recheck = 5 * time.Second

func (d *dedup) reach(ctx context.Context, partition int32, target int64) error {
	ticker := time.NewTicker(recheck)
	defer ticker.Stop()
	for {
		d.mu.Lock()
		at, moved := d.position[partition], d.moved
		if at >= target {
			d.mu.Unlock()
			return nil
		}
		d.mu.Unlock()
		select {
		case <-moved:
		case <-ticker.C:
			begin, _, err := d.bounds(ctx)
			if err != nil {
				return err
			}
			d.mu.Lock()
			d.position[partition] = max(d.position[partition], begin[partition])
			d.mu.Unlock()
			d.log.InfoContext(ctx, "reading marks", "partition", partition, "offset", at, "of", target)
		case <-ctx.Done():
			return fmt.Errorf("dedup topic: partition %d is read to %d of %d: %w", partition, at, target, ctx.Err())
		}
	}
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
				if duplicate, err = d.marks.has(c.Event.ID, r.ReceivedAt, d.window); err != nil {
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
