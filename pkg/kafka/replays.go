package kafka

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// replayMark is the metadata of the committed offset of a partition that was set
// back, until the group is where it was. It is read by later versions of the
// program, and by people.
type replayMark struct {
	Version int   `json:"mailriver_replay"`
	Until   int64 `json:"until"`
}

const replayVersion = 1

// ReplayMark is the metadata of an offset that says that the records below until
// were read before.
func ReplayMark(until int64) string {
	return fmt.Sprintf(`{"mailriver_replay":%d,"until":%d}`, replayVersion, until)
}

// ReplayUntil returns what a [ReplayMark] says, and 0 for the metadata of others,
// such as the member id that kgo leaves.
func ReplayUntil(metadata string) int64 {
	var m replayMark
	if err := json.Unmarshal([]byte(metadata), &m); err != nil || m.Version != replayVersion {
		return 0
	}
	return max(0, m.Until)
}

// Replays knows which records a group reads again because somebody set it back:
// one that writes what others act on keeps quiet about them. Its zero value is
// ready; it is for one session at a time, and safe for concurrent use.
//
// What it knows is in the metadata of the committed offsets, where whoever sets a
// group back leaves a [ReplayMark] in the same step. The [Transactor] that it is
// given to commits the mark again with each offset below the marked one, in the
// transaction itself. So a restart, a takeover and an abort find the mark that
// belongs to the offset they find, and with the last record it is gone.
type Replays struct {
	mu    sync.Mutex
	until map[string]map[int32]int64 // by topic and partition, of what is assigned
}

// Option has a session learn what was replayed of each partition that it is
// assigned, from the answer that also says where it begins.
func (r *Replays) Option() kgo.GroupOpt {
	return kgo.OnOffsetsFetched(func(_ context.Context, _ *kgo.Client, answer *kmsg.OffsetFetchResponse) error {
		return r.learn(answer)
	})
}

// learn takes the marks of an answer over. What it does not understand is an
// error: to go on would tell a replay as news.
func (r *Replays) learn(answer *kmsg.OffsetFetchResponse) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = map[string]map[int32]int64{}
	}
	for _, group := range answer.Groups {
		for _, topic := range group.Topics {
			if topic.Topic == "" {
				return fmt.Errorf("offsets of group %s: a topic without its name", group.Group)
			}
			partitions := r.until[topic.Topic]
			if partitions == nil {
				partitions = map[int32]int64{}
				r.until[topic.Topic] = partitions
			}
			for _, p := range topic.Partitions {
				if kerr.ErrorForCode(p.ErrorCode) != nil {
					continue // the client does not assign it
				}
				delete(partitions, p.Partition)
				if p.Metadata == nil {
					continue
				}
				if until := ReplayUntil(*p.Metadata); until > p.Offset {
					partitions[p.Partition] = until
				}
			}
		}
	}
	return nil
}

// Has reports whether a record was read before the group was set back.
func (r *Replays) Has(record *kgo.Record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return record.Offset < r.until[record.Topic][record.Partition]
}

// keeping has a transaction that is committed with the returned context carry the
// marks on. A nil Replays has none.
func (r *Replays) keeping(ctx context.Context) context.Context {
	if r == nil {
		return ctx
	}
	return kgo.PreTxnCommitFnContext(ctx, func(commit *kmsg.TxnOffsetCommitRequest) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, topic := range commit.Topics {
			for i := range topic.Partitions {
				p := &topic.Partitions[i]
				if until := r.until[topic.Topic][p.Partition]; p.Offset < until {
					p.Metadata = new(ReplayMark(until))
				}
			}
		}
		return nil
	})
}
