package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Committed returns how far a group is in a topic. A partition of which it has
// committed nothing is at 0.
func (c *Clients) Committed(ctx context.Context, group, topic string) (map[int32]int64, error) {
	admin, err := c.Admin()
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	answer, err := admin.FetchOffsetsForTopics(ctx, group, topic)
	if err == nil {
		err = answer.Error()
	}
	if errors.Is(err, kerr.GroupIDNotFound) {
		return map[int32]int64{}, nil // it never committed anything
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of group %s: %w", group, err)
	}
	offsets := map[int32]int64{}
	answer.Each(func(o kadm.OffsetResponse) { offsets[o.Partition] = max(0, o.At) })
	return offsets, nil
}

// settleWait is longer than a transaction may stay open.
const settleWait = 45 * time.Second

// Settle waits until the transactions that are open on the topics now have
// ended. An offset that a transaction commits can be seen a moment before its
// records can; after Settle these can be seen, too.
func (c *Clients) Settle(ctx context.Context, topics ...string) error {
	admin, err := c.Admin()
	if err != nil {
		return err
	}
	defer admin.Close()
	ends, err := admin.ListEndOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("end offsets: %w", err)
	}
	deadline := time.Now().Add(settleWait)
	for {
		stable, err := admin.ListCommittedOffsets(ctx, topics...)
		if err == nil {
			err = stable.Error()
		}
		if err != nil {
			return fmt.Errorf("stable offsets: %w", err)
		}
		var open string
		ends.Each(func(o kadm.ListedOffset) {
			if at, _ := stable.Lookup(o.Topic, o.Partition); at.Offset < o.Offset {
				open = fmt.Sprintf("%s/%d", o.Topic, o.Partition)
			}
		})
		if open == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("a transaction on %s is open for longer than %s: look for a process that hangs", open, settleWait)
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}
