package audit

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/kafka"
)

// early is how much earlier than its raw record a canonical one may be dated:
// the clocks of two machines.
const early = time.Hour

// countable is the lag up to which its records are counted. An offset may also be
// the end of a transaction (a retry of dead letters), which nobody consumes.
const countable = 1000

// rawInFlight returns what the normalizer has not committed, by partition.
func (a *Auditor) rawInFlight(ctx context.Context, s spans) (map[int32]int64, error) {
	counts := map[int32]int64{}
	short := kafka.Span{Topic: s.raw.Topic, From: map[int32]int64{}, To: map[int32]int64{}}
	for p, end := range s.rawEnd {
		lag := end - s.raw.To[p]
		if lag > countable {
			counts[p] = lag
			continue
		}
		short.From[p], short.To[p] = s.raw.To[p], end
	}
	err := a.deps.Clients.Read(ctx, short, func(r *kgo.Record) error { counts[r.Partition]++; return nil })
	return counts, err
}

// spans are the parts of the topics that an audit reads.
type spans struct {
	raw, events, dead kafka.Span
	rawEnd            map[int32]int64
	loaded            map[int32]int64 // canonical offsets that the loader committed
}

// locate takes the positions in the order that keeps a running river balanced:
// first how far the groups are, then, when what they did is visible, the ends of
// what they wrote.
func (a *Auditor) locate(ctx context.Context, opt Options) (spans, error) {
	var s spans
	var err error
	if s.loaded, err = a.deps.Clients.Committed(ctx, a.deps.LoaderGroup, a.deps.Topics.Events); err != nil {
		return s, err
	}
	normalized, err := a.deps.Clients.Committed(ctx, a.deps.NormalizerGroup, a.deps.Topics.Raw)
	if err != nil {
		return s, err
	}
	if err := a.deps.Clients.Settle(ctx, a.deps.Topics.Events, a.deps.Topics.Dead); err != nil {
		return s, err
	}
	to := opt.To
	if to == kafka.Start() {
		to = kafka.End()
	}
	if s.raw, err = a.deps.Clients.Span(ctx, a.deps.Topics.Raw, opt.From, to); err != nil {
		return s, err
	}
	s.rawEnd = s.raw.To
	s.raw.To = make(map[int32]int64, len(s.rawEnd))
	for p, end := range s.rawEnd {
		s.raw.To[p] = max(s.raw.From[p], min(end, normalized[p]))
	}
	from := opt.From.Before(early)
	if s.events, err = a.deps.Clients.Span(ctx, a.deps.Topics.Events, from, kafka.End()); err != nil {
		return s, err
	}
	s.dead, err = a.deps.Clients.Span(ctx, a.deps.Topics.Dead, from, kafka.End())
	return s, err
}

// chunk is how many records are worked on side by side.
const chunk = 1024

// readEach reads a span, lets work look at each record on all processors, and
// gives the results to merge one after the other.
func readEach[T any](
	ctx context.Context, clients *kafka.Clients, span kafka.Span, progress func(int),
	work func(*kgo.Record) (T, error), merge func(*kgo.Record, T) error,
) error {
	records := make([]*kgo.Record, 0, chunk)
	results := make([]T, chunk)
	errs := make([]error, chunk)
	flush := func() error {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range min(runtime.GOMAXPROCS(0), len(records)) {
			wg.Go(func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= len(records) {
						return
					}
					results[i], errs[i] = work(records[i])
				}
			})
		}
		wg.Wait()
		for i, r := range records {
			if errs[i] != nil {
				return errs[i]
			}
			if err := merge(r, results[i]); err != nil {
				return err
			}
		}
		if progress != nil {
			progress(len(records))
		}
		clear(records) // the bodies may go
		records = records[:0]
		return nil
	}
	err := clients.Read(ctx, span, func(r *kgo.Record) error {
		records = append(records, r)
		if len(records) < chunk {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// place is a record of a topic.
type place struct {
	partition int32
	offset    int64
}

// element is a part of a raw record; index -1 is all of it.
type element struct {
	place
	index int32
}

// parseOrigin reads topic/partition/offset, and #element if there is one. The
// topic must be the given one.
func parseOrigin(topic, text string) (element, bool) {
	rest, ok := strings.CutPrefix(text, topic+"/")
	if !ok {
		return element{}, false
	}
	partition, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return element{}, false
	}
	offset, index, indexed := strings.Cut(rest, "#")
	p, err := strconv.ParseInt(partition, 10, 32)
	if err != nil {
		return element{}, false
	}
	e := element{place: place{partition: int32(p)}, index: -1}
	if e.offset, err = strconv.ParseInt(offset, 10, 64); err != nil {
		return element{}, false
	}
	if indexed {
		i, err := strconv.ParseInt(index, 10, 32)
		if err != nil {
			return element{}, false
		}
		e.index = int32(i)
	}
	return e, true
}

func (p place) in(topic string) string { return fmt.Sprintf("%s/%d/%d", topic, p.partition, p.offset) }
