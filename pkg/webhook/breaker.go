package webhook

import (
	"time"

	"mailriver/pkg/httpcall"
)

// BreakerState is what a breaker lets through.
type BreakerState string

// States of a breaker.
const (
	Closed   BreakerState = "closed"    // everything
	Open     BreakerState = "open"      // nothing
	HalfOpen BreakerState = "half_open" // one attempt, to see
)

// Breaker keeps attempts from an endpoint that does not work: after Failures in a
// row it opens, after a pause it lets one attempt through, the probe, and that one
// closes it or opens it again for longer. It has no clock and no lock: the caller
// tells it the time, and asks from one goroutine at a time.
type Breaker struct {
	Failures int              // in a row, until it opens
	Pause    httpcall.Backoff // how long it stays open: the first time, the second in a row, ...

	failed  int // in a row
	opened  int // in a row
	until   time.Time
	probing bool
}

// Allow reports whether an attempt may be made now, and whether it is the probe.
// If not, again is when to ask again; zero is when the probe is done. An attempt
// that is allowed must be followed by Done or Forget.
func (b *Breaker) Allow(now time.Time) (ok, probe bool, again time.Time) {
	switch {
	case b.opened == 0:
		return true, false, time.Time{}
	case b.probing:
		return false, false, time.Time{}
	case now.Before(b.until):
		return false, false, b.until
	}
	b.probing = true
	return true, true, time.Time{}
}

// Done tells how an attempt ended. The jitter is in [0, 1).
func (b *Breaker) Done(probe, up bool, now time.Time, jitter float64) {
	b.Forget(probe)
	if up {
		b.failed, b.opened = 0, 0
		return
	}
	b.failed++
	// One that was begun before it opened does not keep it open for longer.
	if probe || b.opened == 0 && b.failed >= b.Failures {
		b.opened++
		b.until = now.Add(b.Pause.Wait(b.opened, jitter))
	}
}

// Forget tells that an attempt ended without saying anything about the endpoint.
func (b *Breaker) Forget(probe bool) {
	if probe {
		b.probing = false
	}
}

// State is what the breaker would let through now.
func (b *Breaker) State(now time.Time) BreakerState {
	switch {
	case b.opened == 0:
		return Closed
	case b.probing || !now.Before(b.until):
		return HalfOpen
	}
	return Open
}
