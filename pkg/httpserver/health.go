package httpserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	checkTimeout = 2 * time.Second // one check
	checkFresh   = time.Second     // an answer is used again for so long
)

// Check asks whether a dependency can be used.
type Check struct {
	// Name is how the answer calls the dependency.
	Name string
	// Ask returns nil when the dependency can be used. The text of the error
	// is shown to whoever may ask, so it must not hold a secret.
	Ask func(ctx context.Context) error
	// Optional makes an error visible without making the process unready.
	Optional bool
}

// Health answers whether the process lives and whether it can work.
type Health struct {
	checks   atomic.Pointer[[]*cachedCheck]
	draining atomic.Bool
}

// NewHealth returns the health of a process that needs all that is checked.
func NewHealth(checks ...Check) *Health {
	h := &Health{}
	h.Watch(checks...)
	return h
}

// Watch replaces what the process needs: while it starts, that is something
// else than afterwards.
func (h *Health) Watch(checks ...Check) {
	cached := make([]*cachedCheck, len(checks))
	for i, c := range checks {
		cached[i] = &cachedCheck{Check: c}
	}
	h.checks.Store(&cached)
}

// Drain makes the process unready at once, so that load balancers stop sending
// before the listener closes.
func (h *Health) Drain() { h.draining.Store(true) }

// status is the answer of /readyz.
type status struct {
	Status string                 `json:"status"` // ready, unready or draining
	Checks map[string]checkStatus `json:"checks"`
}

type checkStatus struct {
	OK       bool   `json:"ok"`
	Optional bool   `json:"optional,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Admin returns the handler for operators: /metrics, /livez, and /readyz, which
// answers 503 and names what is missing while a dependency cannot be used.
func (h *Health) Admin(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, status{Status: "alive", Checks: map[string]checkStatus{}})
	})
	mux.HandleFunc("GET /readyz", h.ready)
	return mux
}

func (h *Health) ready(w http.ResponseWriter, r *http.Request) {
	checks := *h.checks.Load()
	got := status{Status: "ready", Checks: make(map[string]checkStatus, len(checks))}
	code := http.StatusOK
	errs := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { errs[i] = c.ask(r.Context()) })
	}
	wg.Wait()
	for i, c := range checks {
		one := checkStatus{OK: errs[i] == nil, Optional: c.Optional}
		if errs[i] != nil {
			one.Error = errs[i].Error()
			if !c.Optional {
				got.Status, code = "unready", http.StatusServiceUnavailable
			}
		}
		got.Checks[c.Name] = one
	}
	if h.draining.Load() {
		got.Status, code = "draining", http.StatusServiceUnavailable
	}
	answer(w, code, got)
}

func answer(w http.ResponseWriter, code int, body status) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // whoever asked is gone
}

// cachedCheck asks once for all who want to know at the same time, and not
// again while an answer is fresh or a question still open: probes of many
// balancers, or a dependency that hangs, cannot pile up.
type cachedCheck struct {
	Check

	mu      sync.Mutex
	asked   time.Time     // when the last answer came
	err     error         // the last answer
	pending chan struct{} // closed when the open question is answered; nil without one
}

func (c *cachedCheck) ask(ctx context.Context) error {
	c.mu.Lock()
	if c.pending == nil {
		if !c.asked.IsZero() && time.Since(c.asked) < checkFresh {
			defer c.mu.Unlock()
			return c.err
		}
		c.pending = make(chan struct{})
		go c.question(context.WithoutCancel(ctx), c.pending)
	}
	pending := c.pending
	c.mu.Unlock()

	timer := time.NewTimer(checkTimeout)
	defer timer.Stop()
	select {
	case <-pending:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.err
	case <-timer.C:
		return fmt.Errorf("no answer within %s", checkTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *cachedCheck) question(ctx context.Context, done chan struct{}) {
	defer close(done)
	// A little more than what is waited for, so that who waits says so first.
	ctx, cancel := context.WithTimeout(ctx, checkTimeout+checkTimeout/2)
	defer cancel()
	err := c.Ask(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.asked, c.pending = err, time.Now(), nil
}
