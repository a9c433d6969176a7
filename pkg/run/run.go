// Package run starts services together and stops them together.
//
// It does not listen for signals, and it restarts nothing: a process whose
// service died is replaced by whoever started the process.
package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Service is one part of the process.
type Service struct {
	// Name is how errors call it.
	Name string
	// Run blocks until ctx ends and the work in hand is finished. A nil error,
	// or that of ctx, after ctx ended is a clean stop. Any other return ends
	// the process.
	Run func(ctx context.Context) error
}

var errStopped = errors.New("stopped by itself")

// Group runs services until ctx ends or one of them returns. The others then
// have the drain time to finish. It returns every error, in the order in which
// they came: the first is usually the cause of the rest.
//
// When the drain time is over, Group returns although services still run, and
// says which. The caller is expected to exit then.
func Group(ctx context.Context, drain time.Duration, services ...Service) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	var (
		wg      sync.WaitGroup
		mu      sync.Mutex // guards errs and running
		errs    []error
		running []string
	)
	for _, s := range services {
		running = append(running, s.Name)
	}
	for _, s := range services {
		wg.Go(func() {
			err := s.Run(ctx)
			// Whether ctx had ended is decided under the lock, so that of two
			// services that return at once only the first can be the cause.
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && ctx.Err() == nil:
				err = errStopped
			case ctx.Err() != nil && errors.Is(err, context.Canceled):
				err = nil
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
			}
			running = slices.DeleteFunc(running, func(name string) bool { return name == s.Name })
			stop()
		})
	}

	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()

	select {
	case <-ctx.Done():
	case <-done: // no services at all, or all at once
	}
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		mu.Lock()
		defer mu.Unlock()
		if len(running) > 0 {
			errs = append(errs, fmt.Errorf("%s: not stopped within %s", strings.Join(running, ", "), drain))
		}
		return errors.Join(slices.Clone(errs)...)
	}
	return errors.Join(errs...)
}
