package run

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func TestGroup(t *testing.T) {
	broken := errors.New("broken")
	canceledItself, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name     string
		services []Service
		end      bool // whether ctx ends after a second
		want     string
		took     time.Duration
	}{
		{name: "no services"},
		{
			name:     "clean stop",
			services: []Service{{"a", untilDone}, {"b", untilDone}},
			end:      true,
			took:     time.Second,
		},
		{
			name: "the error of ctx is a clean stop",
			services: []Service{{"a", func(ctx context.Context) error {
				<-ctx.Done()
				return fmt.Errorf("poll: %w", ctx.Err())
			}}},
			end:  true,
			took: time.Second,
		},
		{
			name:     "one fails",
			services: []Service{{"a", untilDone}, {"b", func(context.Context) error { return broken }}},
			want:     "b: broken",
		},
		{
			name: "one ends quietly",
			services: []Service{{"a", untilDone}, {"b", func(context.Context) error {
				time.Sleep(time.Minute)
				return nil
			}}},
			want: "b: stopped by itself",
			took: time.Minute,
		},
		{
			name:     "canceled, but not by the group",
			services: []Service{{"a", func(context.Context) error { return canceledItself.Err() }}},
			want:     "a: context canceled",
		},
		{
			name: "one fails, and then another while it stops",
			services: []Service{
				{"a", func(ctx context.Context) error { <-ctx.Done(); return errors.New("flush") }},
				{"b", func(context.Context) error { return broken }},
			},
			want: "b: broken\na: flush",
		},
		{
			name: "work in hand is finished",
			services: []Service{{"a", func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(9 * time.Second)
				return nil
			}}},
			end:  true,
			took: 10 * time.Second,
		},
		{
			name: "slower than the drain time",
			services: []Service{
				{"a", untilDone},
				{"b", func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Hour); return nil }},
				{"c", func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Hour); return nil }},
			},
			end:  true,
			want: "b, c: not stopped within 10s",
			took: 11 * time.Second,
		},
		{
			name: "slower than the drain time, after a failure",
			services: []Service{
				{"a", func(context.Context) error { return broken }},
				{"b", func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Hour); return nil }},
			},
			want: "a: broken\nb: not stopped within 10s",
			took: 10 * time.Second,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.end {
					time.AfterFunc(time.Second, cancel)
				}
				began := time.Now()
				got := ""
				if err := Group(ctx, 10*time.Second, tt.services...); err != nil {
					got = err.Error()
				}
				if got != tt.want {
					t.Errorf("Group() = %q, want %q", got, tt.want)
				}
				if took := time.Since(began); took != tt.took {
					t.Errorf("Group() took %s, want %s", took, tt.took)
				}
				time.Sleep(2 * time.Hour) // the bubble's clock; every service must end
			})
		})
	}
}

func TestGroup_causeIsKept(t *testing.T) {
	broken := errors.New("broken")
	err := Group(t.Context(), time.Second, Service{"a", func(context.Context) error { return broken }})
	if !errors.Is(err, broken) {
		t.Errorf("Group() = %v, want it to wrap %v", err, broken)
	}
}
