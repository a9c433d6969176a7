// Package httpcall holds what all callers of somebody else's HTTP API need: how
// long to wait before trying again, and how to tell people what went wrong
// without repeating addresses.
//
// It sends nothing itself, and it does not decide what is tried again.
package httpcall

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Backoff is how long to wait between attempts: at most First after the first
// one, Factor times as long after each further one, never more than Most. Half of
// it is random, so that several that failed together do not come back together.
type Backoff struct {
	First, Most time.Duration
	Factor      float64
}

// Wait returns the pause after an attempt, which counts from 1. The jitter is in
// [0, 1).
func (b Backoff) Wait(attempt int, jitter float64) time.Duration {
	// In floats: a large power is infinite there, and overflows an integer.
	most := math.Min(float64(b.First)*math.Pow(b.Factor, float64(max(attempt, 1)-1)), float64(b.Most))
	return time.Duration(most/2 + jitter*most/2)
}

// RetryAfter is how long an answer asks to be left alone, by its Retry-After
// header: seconds, or a date (RFC 9110, section 10.2.3). It is negative for a
// date that has passed.
func RetryAfter(header http.Header, now time.Time) (wait time.Duration, asked bool) {
	text := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(min(max(seconds, 0), 1<<30)) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(now), true
	}
	return 0, false
}

// Sleep waits, and returns the error of ctx when that ends before.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// NoRedirects is for http.Client.CheckRedirect: an answer that redirects is the
// answer.
func NoRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Cause takes the URL out of an error of http.Client: it may hold an address or a
// token.
func Cause(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// Excerpt makes text of an answer fit for a message: on one line, printable, not
// longer than most bytes and an ellipsis.
func Excerpt(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > most {
		for cut := most; ; cut-- {
			if utf8.RuneStart(text[cut]) {
				return text[:cut] + "..."
			}
		}
	}
	return strings.TrimSpace(text)
}
