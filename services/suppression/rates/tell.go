package rates

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
)

// watch tells alerts whenever this instance is the one to tell them, until ctx
// ends. Errors of Kafka and of the registry are waited out.
func (s *Service) watch(ctx context.Context) error {
	for {
		wait := s.askEvery
		if mine, err := s.owner(ctx); err != nil {
			s.deps.Logger.DebugContext(ctx, "who tells alerts is not known", "err", err)
		} else if mine {
			if err := s.tell(ctx); err != nil && ctx.Err() == nil {
				// Also when another instance has taken over: then the next
				// question is answered with no.
				s.deps.Logger.WarnContext(ctx, "alerts interrupted", "err", err)
				wait = s.cfg.RetryWait
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// owner asks the coordinator whether partition 0 is this member's. The callbacks
// of a transactional session would not do: it does not hand on a second
// revocation before the next transaction ended.
//
// The answer chooses who works. That no two tell the same crossing is the
// transactional id's doing.
func (s *Service) owner(ctx context.Context) (bool, error) {
	client := s.client.Load()
	if client == nil {
		return false, errors.New("not in the group yet")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	me, _ := client.GroupMetadata()
	groups, err := kadm.NewClient(client).DescribeGroups(ctx, s.cfg.Group) // never closed: the client is not its own
	if err == nil {
		err = groups.Error()
	}
	if err != nil {
		return false, fmt.Errorf("group %s: %w", s.cfg.Group, err)
	}
	group := groups[s.cfg.Group]
	if group.State != "Stable" {
		return false, fmt.Errorf("group %s is %s", s.cfg.Group, group.State)
	}
	for _, member := range group.Members {
		assignment, ok := member.Assigned.AsConsumer()
		if member.MemberID != me || !ok {
			continue
		}
		for _, topic := range assignment.Topics {
			if topic.Topic == s.deps.Topics.Events && slices.Contains(topic.Partitions, 0) {
				return true, nil
			}
		}
	}
	return false, nil
}

// teller is the state of the instance that tells.
type teller struct {
	publisher *kafka.Publisher
	last      map[string]Alert // the latest of each key

	mu   sync.Mutex // guards sums against the reader
	sums *sums
}

// tell takes over and tells until another instance does, which is not an error.
//
// First of all it takes the transactional id: who had it before can tell nothing
// more, and what they told is in the topic. Then it reads that, and the counters
// up to now. Only then it judges: half of the counters would be false alarms.
func (s *Service) tell(ctx context.Context) error {
	publisher, err := s.deps.Clients.Publisher(ctx, "mailriver.alerts."+s.deps.Topics.Alerts)
	if err != nil {
		return err
	}
	defer publisher.Close()
	t := &teller{publisher: publisher, last: map[string]Alert{}, sums: newSums(s.cfg.hours(), s.deps.Now())}
	if err := s.recall(ctx, t); err != nil {
		return fmt.Errorf("read alerts: %w", err)
	}
	from, err := s.counted(ctx, func(p int32, c cell, n Counts) { t.sums.add(p, c, n, s.deps.Now()) })
	if err != nil {
		return fmt.Errorf("read counters: %w", err)
	}
	s.deps.Logger.InfoContext(ctx, "this instance tells alerts", "keys", len(t.last), "counters", len(t.sums.cells))

	ctx, stop := context.WithCancel(ctx)
	followed := make(chan error, 1)
	go func() {
		followed <- s.deps.Clients.Follow(ctx, s.deps.Topics.Rates, from, func(r *kgo.Record) error {
			s.counter(ctx, r, func(p int32, c cell, n Counts) {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.sums.add(p, c, n, s.deps.Now())
			})
			return nil
		})
	}()
	defer s.metrics.show(nil)
	running, err := s.judgeWhileOwner(ctx, t, followed)
	stop()
	if running {
		if ended := <-followed; err == nil && !errors.Is(ended, context.Canceled) {
			err = fmt.Errorf("follow counters: %w", ended)
		}
	}
	return err
}

// judgeWhileOwner judges again and again. It reports whether the reader still
// runs.
func (s *Service) judgeWhileOwner(ctx context.Context, t *teller, followed <-chan error) (running bool, err error) {
	look, ask := time.NewTicker(s.sumEvery), time.NewTicker(s.askEvery)
	defer look.Stop()
	defer ask.Stop()
	for {
		if err := s.judge(ctx, t); err != nil {
			return true, err
		}
		select {
		case <-ctx.Done():
			return true, nil
		case err := <-followed:
			return false, fmt.Errorf("follow counters: %w", err)
		case <-look.C:
		case <-ask.C:
			if mine, err := s.owner(ctx); err == nil && !mine {
				return true, nil
			}
		}
	}
}

// recall reads what has been told.
func (s *Service) recall(ctx context.Context, t *teller) error {
	span, err := s.deps.Clients.Span(ctx, s.deps.Topics.Alerts, kafka.Start(), kafka.End())
	if err != nil {
		return err
	}
	return s.deps.Clients.Read(ctx, span, func(r *kgo.Record) error {
		a, err := s.deps.Decoder.Decode(ctx, r.Value)
		if _, permanent := fault.Reason(err); permanent {
			s.deps.Logger.WarnContext(ctx, "alert left out", "origin", kafka.Origin(r), "err", err)
			return nil
		}
		if err != nil {
			return err
		}
		t.last[a.key()] = a
		// The window of the next must not be before that of this one.
		t.sums.last = max(t.sums.last, hourOf(a.WindowEnd)-1)
		return nil
	})
}

// judge tells what crossed a threshold since it was last called.
func (s *Service) judge(ctx context.Context, t *teller) error {
	now := s.deps.Now()
	t.mu.Lock()
	before := t.sums.last
	end := t.sums.end(now)
	if !t.sums.changed && end == before {
		t.mu.Unlock()
		return nil
	}
	t.sums.changed = false
	all := t.sums.all(end)
	t.mu.Unlock()

	s.metrics.show(largest(all, s.cfg.MaxDomains))
	crossed := s.cfg.crossed(all, t.last, end, now)
	if len(crossed) == 0 {
		return nil
	}
	records := make([]*kgo.Record, len(crossed))
	for i, a := range crossed {
		record, err := s.record(a)
		if err != nil {
			return err
		}
		records[i] = record
	}
	// An error ends this takeover. The next one reads what became of it.
	if err := t.publisher.Publish(ctx, records...); err != nil {
		return err
	}
	for _, a := range crossed {
		t.last[a.key()] = a
		s.metrics.told(ctx, a)
		s.deps.Logger.InfoContext(ctx, "alert", "rate", a.Rate, "sender_domain", a.Sender, "level", a.Level,
			"previous_level", a.Previous, "value", a.Value, "events", a.Events, "volume", a.Volume, "window_end", a.WindowEnd)
	}
	return nil
}

// crossed are the alerts that the totals make. A sender whose last mail has left
// the window is judged too, while a level of it stands.
func (c Config) crossed(all []standing, last map[string]Alert, end hour, now time.Time) []Alert {
	have := map[string]bool{}
	for _, s := range all {
		have[s.sender] = true
	}
	for _, a := range last {
		if a.Level != OK && !have[a.Sender] {
			have[a.Sender] = true
			all = append(all, standing{sender: a.Sender})
		}
	}
	var crossed []Alert
	for _, s := range all {
		for _, r := range watched() {
			key := Alert{Rate: r, Sender: s.sender}.key()
			if a, ok := c.crossing(r, s, last[key], end, now); ok {
				crossed = append(crossed, a)
			}
		}
	}
	return crossed
}
