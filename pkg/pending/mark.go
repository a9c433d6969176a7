package pending

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// mark is the metadata of a committed offset while a range is pending. It is
// read by later versions of the program, and by people.
type mark struct {
	Version int    `json:"mailriver_pending"`
	First   int64  `json:"first"`
	Last    int64  `json:"last"`
	Token   string `json:"token"`
}

const markVersion = 1

func (m mark) String() string {
	m.Version = markVersion
	text, err := json.Marshal(m)
	if err != nil {
		return "" // not possible for these types
	}
	return string(text)
}

// parseMark tells a mark from the metadata of other clients, such as the member
// id that kgo leaves.
func parseMark(metadata string) (mark, bool) {
	var m mark
	if err := json.Unmarshal([]byte(metadata), &m); err != nil || m.Version != markVersion {
		return mark{}, false
	}
	return m, true
}

// token names a range, and no other. That it comes again with its range is the
// work of the mark. It is made of the topic's identity, the partition and the
// offsets; the leader epoch of the first record keeps it apart from a range at
// the same offsets that an unclean election took back.
func token(scope string, partition, epoch int32, first, last int64) string {
	return fmt.Sprintf("%s/%d/%d-%d/e%d", scope, partition, first, last, epoch)
}

// Progress is how far a group is in a topic.
type Progress struct {
	// Committed is the offset that each partition has committed.
	Committed map[int32]int64
	// Marked are the partitions that have a pending range, in order.
	Marked []int32
}

// ReadProgress asks Kafka how far a group is. A group that does not exist is
// nowhere.
func ReadProgress(ctx context.Context, admin *kadm.Client, group, topic string) (Progress, error) {
	p := Progress{Committed: map[int32]int64{}}
	offsets, err := admin.FetchOffsets(ctx, group)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("offsets of %s: %w", group, err)
	}
	for partition, offset := range offsets[topic] {
		if offset.Err != nil {
			return p, fmt.Errorf("offset of %s in %s/%d: %w", group, topic, partition, offset.Err)
		}
		p.Committed[partition] = offset.At
		if _, marked := parseMark(offset.Metadata); marked {
			p.Marked = append(p.Marked, partition)
		}
	}
	slices.Sort(p.Marked)
	return p, nil
}
