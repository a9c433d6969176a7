package webhook_test

import (
	"testing"
	"time"

	"mailriver/pkg/httpcall"
	"mailriver/pkg/webhook"
)

func newBreaker() *webhook.Breaker {
	return &webhook.Breaker{Failures: 3, Pause: httpcall.Backoff{First: 2 * time.Minute, Most: time.Hour, Factor: 2}}
}

func TestBreaker(t *testing.T) {
	b, now := newBreaker(), time.Unix(1_000_000, 0)
	attempt := func(up bool) {
		t.Helper()
		ok, probe, again := b.Allow(now)
		if !ok {
			t.Fatalf("Allow() = no until %s, want yes", again)
		}
		b.Done(probe, up, now, 0)
	}
	attempt(false)
	attempt(false)
	attempt(true) // starts the count again
	attempt(false)
	attempt(false)
	if got := b.State(now); got != webhook.Closed {
		t.Fatalf("State() after two failures = %s, want closed", got)
	}
	attempt(false)
	if ok, _, again := b.Allow(now); ok || !again.Equal(now.Add(time.Minute)) || b.State(now) != webhook.Open {
		t.Fatalf("Allow() after three failures = %t, %s, want no until a minute later", ok, again)
	}

	now = now.Add(time.Minute)
	ok, probe, _ := b.Allow(now)
	if !ok || !probe || b.State(now) != webhook.HalfOpen {
		t.Fatalf("Allow() after the pause = %t, %t, want the probe", ok, probe)
	}
	if ok, _, again := b.Allow(now); ok || !again.IsZero() {
		t.Fatalf("Allow() beside the probe = %t, %s, want no until it is done", ok, again)
	}
	// One that was begun before it opened and fails now is not the probe.
	b.Done(false, false, now, 0)
	if ok, _, _ := b.Allow(now); ok {
		t.Fatal("Allow() beside the probe = yes after a late failure, want no")
	}
	b.Done(probe, false, now, 0)
	if ok, _, again := b.Allow(now); ok || !again.Equal(now.Add(2*time.Minute)) {
		t.Fatalf("Allow() after a failed probe = %t, %s, want no for twice as long", ok, again)
	}

	now = now.Add(2 * time.Minute)
	attempt(true)
	if got := b.State(now); got != webhook.Closed {
		t.Errorf("State() after a good probe = %s, want closed", got)
	}
}

// A probe that was never sent leaves room for another.
func TestBreaker_forgottenProbe(t *testing.T) {
	b, now := newBreaker(), time.Unix(1_000_000, 0)
	for range 3 {
		_, probe, _ := b.Allow(now)
		b.Done(probe, false, now, 0)
	}
	now = now.Add(time.Hour)
	_, probe, _ := b.Allow(now)
	b.Forget(probe)
	if ok, probe, _ := b.Allow(now); !ok || !probe {
		t.Errorf("Allow() = %t, %t, want another probe", ok, probe)
	}
}
