package ses

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// What is remembered is bounded, and what ends first goes first.
func TestCertificates_bounded(t *testing.T) {
	at := time.Date(2026, time.November, 23, 10, 0, 0, 0, time.UTC)
	gone := errors.New("gone")
	c := newCertificates(func(context.Context, string) ([]byte, error) { return nil, gone })
	for i := range 3 * maxFailures {
		// Each a moment later than the one before.
		clock := func() time.Time { return at.Add(time.Duration(i) * time.Millisecond) }
		if _, err := c.key(t.Context(), fmt.Sprintf("https://sns.example/%d", i), clock); !errors.Is(err, gone) {
			t.Fatalf("key() = %v, want %v", err, gone)
		}
	}
	if len(c.failed) != maxFailures || len(c.good) != 0 {
		t.Errorf("%d failures and %d certificates are kept, want %d and 0", len(c.failed), len(c.good), maxFailures)
	}
	for i, want := range map[int]bool{0: false, 2*maxFailures - 1: false, 2 * maxFailures: true, 3*maxFailures - 1: true} {
		if _, kept := c.failed[fmt.Sprintf("https://sns.example/%d", i)]; kept != want {
			t.Errorf("failure %d is kept = %t, want %t", i, kept, want)
		}
	}

	good := map[string]certificate{}
	for i := range 3 * maxCertificates {
		makeRoom(good, maxCertificates, func(c certificate) time.Time { return c.notAfter })
		good[fmt.Sprint(i)] = certificate{notAfter: at.AddDate(0, 0, i)}
	}
	_, first := good["0"]
	_, last := good[fmt.Sprint(3*maxCertificates-1)]
	if len(good) != maxCertificates || first || !last {
		t.Errorf("%d certificates are kept (first %t, last %t), want %d without the first", len(good), first, last, maxCertificates)
	}
}
