package replay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"mailriver/pkg/kafka"
)

// Group is a consumer whose state is a function of the set of events: reading
// events again adds those that are missing and changes nothing else.
type Group struct {
	Consumer string // its name, as of the service
	Name     string // of its Kafka group
	Topic    string // that it consumes
}

// Rewound is a partition that is read again.
type Rewound struct {
	Partition int32
	From      int64 // the next record is this one
	Was       int64 // where the group was
}

// ErrRunning is returned for a group that has members. A group is rewound while
// nobody consumes: a member would commit over it.
var ErrRunning = errors.New("the group has members")

// Rewind sets the group back to a moment, and never forward. When the service is
// started again it folds the events since then into the state that it has.
//
// Each offset that is set back says in its metadata where the group has been, for
// a service that keeps quiet about what it reads again (kafka.Replays). Of two
// rewinds, one in the middle of the other, the farther place counts.
//
// A transaction that a killed member left open could commit its offsets over
// those that are set here; so it is waited for, at most for wait.
func Rewind(
	ctx context.Context, clients *kafka.Clients, g Group, from kafka.Moment, wait time.Duration,
) ([]Rewound, error) {
	rewound, err := rewind(ctx, clients, g, from, wait)
	if err != nil {
		return nil, fmt.Errorf("rewind %s: %w", g.Consumer, err)
	}
	return rewound, nil
}

func rewind(
	ctx context.Context, clients *kafka.Clients, g Group, from kafka.Moment, wait time.Duration,
) ([]Rewound, error) {
	admin, err := clients.Admin()
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	described, err := admin.DescribeGroups(ctx, g.Name)
	if err == nil {
		err = described.Error()
	}
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("describe group %s: %w", g.Name, err)
	}
	if members := len(described[g.Name].Members); members > 0 {
		return nil, g.running(members)
	}
	committed, err := settled(ctx, admin, g, wait)
	if err != nil {
		return nil, err
	}
	span, err := clients.Span(ctx, g.Topic, from, kafka.End())
	if err != nil {
		return nil, err
	}
	var rewound []Rewound
	var offsets kadm.Offsets
	for _, p := range slices.Sorted(maps.Keys(span.From)) {
		// Nothing committed means that it begins at the start anyway.
		if was, ok := committed[p]; ok && span.From[p] < was.At {
			rewound = append(rewound, Rewound{Partition: p, From: span.From[p], Was: was.At})
			offsets.Add(kadm.Offset{
				Topic: g.Topic, Partition: p, At: span.From[p], LeaderEpoch: -1,
				Metadata: kafka.ReplayMark(max(was.At, kafka.ReplayUntil(was.Metadata))),
			})
		}
	}
	if len(rewound) == 0 {
		return nil, nil
	}
	// The coordinator refuses this when somebody has joined meanwhile.
	err = admin.CommitAllOffsets(ctx, g.Name, offsets)
	if errors.Is(err, kerr.UnknownMemberID) {
		return nil, g.running(1)
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of group %s: %w", g.Name, err)
	}
	return rewound, nil
}

func (g Group) running(members int) error {
	return fmt.Errorf("%w: %s has %d; stop every `mailriver %s` and run the same command again. "+
		"One that was killed is a member for some seconds more", ErrRunning, g.Name, members, g.Consumer)
}

// settled returns what the group has committed, when no transaction can change
// it any more.
func settled(ctx context.Context, admin *kadm.Client, g Group, wait time.Duration) (map[int32]kadm.Offset, error) {
	bound, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(askSoon)
	defer tick.Stop()
	for {
		answer, err := admin.FetchOffsetsForTopics(kadm.RequireStable(bound), g.Name, g.Topic)
		if err == nil {
			err = answer.Error()
		}
		if errors.Is(err, kerr.GroupIDNotFound) {
			return nil, nil // it never committed anything
		}
		if err == nil {
			committed := map[int32]kadm.Offset{}
			answer.Each(func(o kadm.OffsetResponse) {
				if o.At >= 0 {
					committed[o.Partition] = o.Offset
				}
			})
			return committed, nil
		}
		if !errors.Is(err, kerr.UnstableOffsetCommit) && bound.Err() == nil {
			return nil, fmt.Errorf("offsets of group %s: %w", g.Name, err)
		}
		select {
		case <-tick.C:
		case <-bound.Done():
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("waited %s for an open transaction of group %s: %w", wait, g.Name, err)
		}
	}
}
