package httpcall_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"mailriver/pkg/httpcall"
)

func TestBackoff(t *testing.T) {
	b := httpcall.Backoff{First: 8 * time.Second, Most: time.Hour, Factor: 3}
	tests := []struct {
		attempt int
		jitter  float64
		want    time.Duration
	}{
		{1, 0, 4 * time.Second},
		{1, 0.5, 6 * time.Second},
		{2, 0, 12 * time.Second},
		{3, 0, 36 * time.Second},
		{0, 0, 4 * time.Second},
		{10, 0, 30 * time.Minute},
		{100_000, 0.5, 45 * time.Minute}, // turns red where the power overflows
	}
	for _, tt := range tests {
		if got := b.Wait(tt.attempt, tt.jitter); got != tt.want {
			t.Errorf("Wait(%d, %v) = %s, want %s", tt.attempt, tt.jitter, got, tt.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		header string
		want   time.Duration
		asked  bool
	}{
		{"", 0, false},
		{"soon", 0, false},
		{"7", 7 * time.Second, true},
		{"-7", 0, true},
		{"9999999999", (1 << 30) * time.Second, true},
		{"Tue, 24 Nov 2026 12:01:00 GMT", time.Minute, true},
		{"Tue, 24 Nov 2026 11:59:00 GMT", -time.Minute, true},
	}
	for _, tt := range tests {
		header := http.Header{}
		header.Set("Retry-After", tt.header)
		if got, asked := httpcall.RetryAfter(header, now); got != tt.want || asked != tt.asked {
			t.Errorf("RetryAfter(%q) = %s, %t, want %s, %t", tt.header, got, asked, tt.want, tt.asked)
		}
	}
}

func TestExcerpt(t *testing.T) {
	tests := []struct {
		text string
		most int
		want string
	}{
		{" plain ", 10, "plain"},
		{"a\r\nb\x00c", 10, "a  b c"},
		{"a\xffb", 10, "a?b"},
		{"a\u00e9\u00e9\u00e9", 4, "a\u00e9..."}, // not within a letter
	}
	for _, tt := range tests {
		if got := httpcall.Excerpt(tt.text, tt.most); got != tt.want {
			t.Errorf("Excerpt(%q, %d) = %q, want %q", tt.text, tt.most, got, tt.want)
		}
	}
}

func TestCause(t *testing.T) {
	late := &url.Error{Op: "Post", URL: "https://x/?token=1", Err: context.DeadlineExceeded}
	if got := httpcall.Cause(late).Error(); got != context.DeadlineExceeded.Error() {
		t.Errorf("Cause() = %q, want %q", got, context.DeadlineExceeded)
	}
	if got := httpcall.Cause(errors.New("other")).Error(); got != "other" {
		t.Errorf("Cause() = %q, want the error itself", got)
	}
}
