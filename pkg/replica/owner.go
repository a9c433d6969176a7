package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What an owner of input partitions needs: one that reads entries, derives new
// ones from its input, and publishes those in a transaction with the offsets of
// the input.

// ErrStartedOver is returned by a wait during which the copy started over: the
// offsets it waited for may be those of another topic.
var ErrStartedOver = errors.New("replica: started over while waited for")

// recheck is how often a wait asks whether it still waits for the right topic.
const recheck = 5 * time.Second

// Reach waits until the copy is read to the given offsets.
func (c *Copy) Reach(ctx context.Context, targets map[int32]int64) error {
	c.mu.Lock()
	id, discards := c.id, c.discards
	c.mu.Unlock()
	return c.reach(ctx, id, discards, targets)
}

func (c *Copy) reach(ctx context.Context, id kadm.TopicID, discards int, targets map[int32]int64) error {
	ticker := time.NewTicker(recheck)
	defer ticker.Stop()
	for {
		c.mu.Lock()
		moved, same, started := c.moved, c.id == id, c.discards != discards
		short := behind(c.position, targets)
		c.mu.Unlock()
		switch {
		case started:
			return ErrStartedOver
		case same && !short:
			return nil
		}
		select {
		case <-moved:
		case <-ticker.C:
			if !same && id != (kadm.TopicID{}) {
				return ErrStartedOver
			}
			c.deps.Logger.InfoContext(ctx, "waiting for the copy", "positions", c.Positions(), "of", targets)
		case <-ctx.Done():
			return fmt.Errorf("replica of %s is read to %v, not to %v: %w", c.cfg.Topic, c.Positions(), targets, ctx.Err())
		}
	}
}

// Assigned says that input partitions were assigned to this instance: another
// one may have published for them meanwhile.
func (c *Copy) Assigned(partitions []int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range partitions {
		c.assigned[p]++
	}
}

// Complete waits until the copy holds everything that was written, transactions
// still open included, before the given input partitions were assigned. Asked
// again for the same ones, it returns at once. It is about all partitions of the
// copied topic: what belongs to an input partition may lie on any.
func (c *Copy) Complete(ctx context.Context, partitions []int32) error {
	wanted := map[int32]int{}
	c.mu.Lock()
	for _, p := range partitions {
		if at, ok := c.complete[p]; !ok || at != c.assigned[p] {
			wanted[p] = c.assigned[p]
		}
	}
	c.mu.Unlock()
	if len(wanted) == 0 {
		return nil
	}
	admin, err := c.deps.Admin()
	if err != nil {
		return err
	}
	defer admin.Close()
	for {
		c.mu.Lock()
		discards := c.discards
		c.mu.Unlock()
		ends, id, err := c.ask(ctx, admin)
		if err != nil {
			return fmt.Errorf("replica of %s: %w", c.cfg.Topic, err)
		}
		err = c.reach(ctx, id, discards, ends)
		if errors.Is(err, ErrStartedOver) {
			continue // with the ends of the topic that is there now
		}
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.discards != discards {
			return ErrStartedOver
		}
		// One that was assigned again meanwhile is asked for again.
		maps.Copy(c.complete, wanted)
		return nil
	}
}

// Intact returns nil when the copy has been complete for the given input
// partitions since Complete said so: it was not emptied, and none was assigned
// again. An owner asks before it commits what it derived from the copy.
func (c *Copy) Intact(partitions []int32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range partitions {
		if at, ok := c.complete[p]; !ok || at != c.assigned[p] {
			return fmt.Errorf("replica of %s: it started over, or input partition %d was assigned again", c.cfg.Topic, p)
		}
	}
	return nil
}

// Wrote takes note of records that this instance has committed to the topic,
// with the partitions and offsets that they were given. Current knows them at
// once, before the copy has read them back.
func (c *Copy) Wrote(records []*kgo.Record) {
	mapped := mapAll(c.deps.Map, records)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range records {
		if len(mapped[i].key) > 0 && r.Offset >= c.position[r.Partition] {
			c.own.add(mapped[i], r.Partition, r.Offset)
		}
	}
}

// ReadBack waits until everything in Wrote has been read back. Until then only
// Current knows it, and not Scan and Lookup.
func (c *Copy) ReadBack(ctx context.Context) error {
	targets := map[int32]int64{}
	c.mu.Lock()
	for partition, list := range c.own.order {
		if n := len(list); n > 0 {
			targets[partition] = list[n-1].offset + 1
		}
	}
	c.mu.Unlock()
	return c.Reach(ctx, targets)
}

// Owns has the copy told which partitions of an input topic a group's client is
// assigned.
func (c *Copy) Owns(input string) kgo.GroupOpt {
	return kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
		c.Assigned(assigned[input])
	})
}

// Current returns the value of a key as it is after the last Wrote.
func (c *Copy) Current(key []byte) (value []byte, ok bool, err error) {
	c.mu.Lock()
	own, found := c.own.entries[string(key)]
	c.mu.Unlock()
	if found {
		return own.value, own.value != nil, nil
	}
	// An entry leaves the overlay after it came into the store.
	return c.Get(key)
}

// overlay is what this instance committed and the copy has not read back.
//
// It is kept in memory and beside the store, not written through to it. The copy
// may stand before an older record of the same key; it would put that one over
// the newer value when it comes to it, and until it has read the newer one
// again, the owner would derive from a value that it has replaced itself: an
// update would be lost. Nor could the position say how far the store is, if some
// keys were ahead of it. What the overlay holds is as much as lies between the
// end of the topic and the position.
type overlay struct {
	entries map[string]ownEntry
	order   map[int32][]placed // by partition, in the order of offsets
}

type ownEntry struct {
	value     []byte // nil is deleted
	partition int32
	offset    int64
}

type placed struct {
	key    string
	offset int64
}

func newOverlay() overlay {
	return overlay{map[string]ownEntry{}, map[int32][]placed{}}
}

func (o *overlay) add(e entry, partition int32, offset int64) {
	key := string(e.key)
	o.entries[key] = ownEntry{e.value, partition, offset}
	o.order[partition] = append(o.order[partition], placed{key, offset})
}

// drop forgets what lies before the positions.
func (o *overlay) drop(positions map[int32]int64) {
	for partition, position := range positions {
		list := o.order[partition]
		n := 0
		for ; n < len(list) && list[n].offset < position; n++ {
			// A later write of the key stays.
			if own := o.entries[list[n].key]; own.partition == partition && own.offset == list[n].offset {
				delete(o.entries, list[n].key)
			}
		}
		if n == len(list) {
			delete(o.order, partition)
			continue
		}
		o.order[partition] = list[n:]
	}
}
