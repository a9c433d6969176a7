package receiver

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const (
	confirmsQueued  = 64
	confirmAttempts = 5
	confirmWait     = time.Second     // before the second attempt; doubled for each further one
	confirmDrain    = 5 * time.Second // for what is queued, at shutdown
)

// confirmation is a subscription that its provider wants confirmed by a GET.
// The URL holds a token and is not logged.
type confirmation struct {
	source *source
	live   *live
	url    string
}

// confirms are the confirmations to be made. A request that cannot be queued is
// answered so that the provider sends it again.
type confirms struct {
	mu      sync.Mutex
	stopped bool // guarded by mu
	queue   chan confirmation
	running atomic.Bool
}

func newConfirms() confirms { return confirms{queue: make(chan confirmation, confirmsQueued)} }

func (c *confirms) add(one confirmation) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return false
	}
	select {
	case c.queue <- one:
		return true
	default:
		return false
	}
}

// stop takes no more, and returns what is queued.
func (c *confirms) stop() []confirmation {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	close(c.queue)
	var rest []confirmation
	for one := range c.queue {
		rest = append(rest, one)
	}
	return rest
}

func (s *Service) runConfirms(ctx context.Context) error {
	s.confirms.running.Store(true)
	defer s.confirms.running.Store(false)
	for ctx.Err() == nil {
		select {
		case one := <-s.confirms.queue:
			s.confirm(ctx, one)
		case <-ctx.Done():
		}
	}
	s.confirmRest(ctx)
	return nil
}

// confirm asks several times. When ctx ends in between, the confirmation is
// given one last attempt.
func (s *Service) confirm(ctx context.Context, one confirmation) {
	wait := confirmWait
	var err error
	for attempt := range confirmAttempts {
		if attempt > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
			wait *= 2
		}
		last := ctx.Err() != nil
		if _, err = one.live.fetch(context.WithoutCancel(ctx), one.url); err == nil {
			s.confirmed(ctx, one, confirmDone, nil)
			return
		}
		if last {
			break
		}
	}
	s.confirmed(ctx, one, confirmFailed, err)
}

// confirmRest makes one attempt at each confirmation that was queued when the
// process was told to stop.
func (s *Service) confirmRest(ctx context.Context) {
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmDrain)
	defer cancel()
	for _, one := range s.confirms.stop() {
		if bound.Err() != nil {
			s.confirmed(ctx, one, confirmLost, bound.Err())
			continue
		}
		if _, err := one.live.fetch(bound, one.url); err != nil {
			s.confirmed(ctx, one, confirmFailed, err)
			continue
		}
		s.confirmed(ctx, one, confirmDone, nil)
	}
}

func (s *Service) confirmed(ctx context.Context, one confirmation, outcome string, err error) {
	s.metrics.confirmations.Add(ctx, 1, metric.WithAttributes(
		attribute.String("source", one.source.cfg.Name), attribute.String("outcome", outcome)))
	if err != nil {
		s.deps.Logger.ErrorContext(ctx, "subscription not confirmed: have it sent again at the provider",
			"source", one.source.cfg.Name, "provider", one.source.provider.Name, "outcome", outcome, "err", err)
		return
	}
	s.deps.Logger.InfoContext(ctx, "subscription confirmed",
		"source", one.source.cfg.Name, "provider", one.source.provider.Name)
}
