package replica

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
)

// Folding is the work of an owner on one batch of its input.
type Folding interface {
	// Fold takes one record of the input and returns what is to be told beside
	// the entries. A permanent error (package fault) gives the record up, alone;
	// any other one is about the whole batch, which comes again.
	Fold(ctx context.Context, r *kgo.Record) (told []*kgo.Record, err error)
	// GaveUp is told the reason of each record that was given up.
	GaveUp(reason string)
	// Changed returns the records of the entries that were changed.
	Changed() ([]*kgo.Record, error)
	// Committed is told how many entries were published, once they are.
	Committed(ctx context.Context, changed int)
}

// Letters says where records go that are given up, and by whom.
type Letters struct{ Topic, Stage string }

// Fold derives entries from a batch of input, and returns the outcome of the
// transaction that publishes them: with what is told and the dead letters, only
// while the copy is what they were derived from, and known to Current as soon as
// they are committed.
func (c *Copy) Fold(ctx context.Context, input []*kgo.Record, letters Letters, work Folding) (kafka.Outcome, error) {
	partitions := inputs(input)
	if err := c.Complete(ctx, partitions); err != nil {
		return kafka.Outcome{}, err
	}
	var others []*kgo.Record
	for _, r := range input {
		told, err := work.Fold(ctx, r)
		if reason, permanent := fault.Reason(err); permanent {
			work.GaveUp(reason)
			others = append(others, kafka.DeadLetter(letters.Topic, r, kafka.Letter{
				Stage: letters.Stage, Origin: kafka.Origin(r), Err: err, Value: r.Value,
			}))
			continue
		}
		if err != nil {
			return kafka.Outcome{}, fmt.Errorf("%s: %w", kafka.Origin(r), err)
		}
		others = append(others, told...)
	}
	changed, err := work.Changed()
	if err != nil {
		return kafka.Outcome{}, err
	}
	return kafka.Outcome{
		Records: append(changed[:len(changed):len(changed)], others...),
		Check:   func(context.Context) error { return c.Intact(partitions) },
		Done: func(committed bool) {
			if committed {
				c.Wrote(changed)
				work.Committed(ctx, len(changed))
			}
		},
	}, nil
}

// inputs returns the partitions of a batch of input.
func inputs(batch []*kgo.Record) []int32 {
	var partitions []int32
	for _, r := range batch {
		if !slices.Contains(partitions, r.Partition) {
			partitions = append(partitions, r.Partition)
		}
	}
	return partitions
}
