package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Moment is a place in a topic by time. The zero value is the start.
type Moment struct {
	end bool
	at  time.Time
}

// Start is where the topic begins now.
func Start() Moment { return Moment{} }

// End is behind what is committed now.
func End() Moment { return Moment{end: true} }

// At is the first record with this time or a later one; the end, when there is
// none.
func At(t time.Time) Moment { return Moment{at: t} }

// Before is the moment d earlier. The start and the end stay what they are.
func (m Moment) Before(d time.Duration) Moment {
	if m.at.IsZero() {
		return m
	}
	return At(m.at.Add(-d))
}

// ParseMoment reads "start", "end", a duration before now ("15m"), or a time in
// RFC 3339.
func ParseMoment(text string, now time.Time) (Moment, error) {
	switch text {
	case "start":
		return Start(), nil
	case "end", "now":
		return End(), nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return At(now.Add(-ago)), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return At(at), nil
	}
	return Moment{}, fmt.Errorf("is %q, must be start, end, a duration ago such as 15m, or a time such as 2026-11-23T12:00:00Z", text)
}

// Span is a part of a topic: in each partition the offsets from From up to, not
// including, To.
type Span struct {
	Topic    string
	From, To map[int32]int64
}

// Len returns the number of offsets. Some of them are no records: the ends of
// transactions, and what was aborted or compacted.
func (s Span) Len() int64 {
	var n int64
	for p, from := range s.From {
		n += max(0, s.To[p]-from)
	}
	return n
}

// Span resolves two moments. To is at most the last stable offset: what a
// transaction still holds open is outside.
func (c *Clients) Span(ctx context.Context, topic string, from, to Moment) (Span, error) {
	admin, err := c.Admin()
	if err != nil {
		return Span{}, err
	}
	defer admin.Close()
	s := Span{Topic: topic}
	if s.From, err = offsets(ctx, admin, topic, from); err != nil {
		return Span{}, err
	}
	if s.To, err = offsets(ctx, admin, topic, to); err != nil {
		return Span{}, err
	}
	return s, nil
}

func offsets(ctx context.Context, admin *kadm.Client, topic string, m Moment) (map[int32]int64, error) {
	stable, err := Listed(admin.ListCommittedOffsets(ctx, topic))
	if err != nil {
		return nil, fmt.Errorf("offsets of %s: %w", topic, err)
	}
	if m.end {
		return stable, nil
	}
	var found map[int32]int64
	if m.at.IsZero() {
		found, err = Listed(admin.ListStartOffsets(ctx, topic))
	} else {
		found, err = Listed(admin.ListOffsetsAfterMilli(ctx, m.at.UnixMilli(), topic))
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of %s: %w", topic, err)
	}
	for p, offset := range found {
		found[p] = min(offset, stable[p])
	}
	return found, nil
}

// Listed returns offsets by partition, from an answer of kadm about one topic.
func Listed(offsets kadm.ListedOffsets, err error) (map[int32]int64, error) {
	if err == nil {
		err = offsets.Error()
	}
	if err != nil {
		return nil, err
	}
	byPartition := map[int32]int64{}
	offsets.Each(func(o kadm.ListedOffset) { byPartition[o.Partition] = o.Offset })
	return byPartition, nil
}

// Read calls each with the committed records of a span, in order within a
// partition, and returns when the span is read. An error of each ends it.
func (c *Clients) Read(ctx context.Context, s Span, each func(*kgo.Record) error) error {
	start, left := map[int32]kgo.Offset{}, map[int32]int64{}
	for p, from := range s.From {
		if to := s.To[p]; to > from {
			start[p] = kgo.NewOffset().At(from)
			left[p] = to
		}
	}
	if len(left) == 0 {
		return nil
	}
	client, err := c.Reader(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{s.Topic: start}),
		// The last offset of a span is often the end of a transaction: without
		// it the reader would wait for more.
		kgo.KeepControlRecords(),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read %s: %w", s.Topic, err)
		}
		for r := range fetches.RecordsAll() {
			to, wanted := left[r.Partition]
			if !wanted {
				continue
			}
			if r.Offset+1 >= to {
				delete(left, r.Partition)
			}
			if r.Offset >= to || r.Attrs.IsControl() {
				continue
			}
			if err := each(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// Follow calls each with the committed records of a topic from the given
// offsets on, until ctx ends or each returns an error.
func (c *Clients) Follow(ctx context.Context, topic string, from map[int32]int64, each func(*kgo.Record) error) error {
	start := make(map[int32]kgo.Offset, len(from))
	for p, offset := range from {
		start[p] = kgo.NewOffset().At(offset)
	}
	client, err := c.Reader(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: start}))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read %s: %w", topic, err)
		}
		for r := range fetches.RecordsAll() {
			if err := each(r); err != nil {
				return err
			}
		}
	}
}
