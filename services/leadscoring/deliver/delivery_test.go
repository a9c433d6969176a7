package deliver

import (
	"strings"
	"testing"
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/webhook"
)

func TestConfig(t *testing.T) {
	e := webhook.Endpoint{Name: "crm", URL: "https://crm.example.com", Secrets: []config.Secret{config.NewSecret("x")}}
	valid := DefaultConfig()
	valid.Webhooks = []webhook.Endpoint{e}
	if err := valid.Validate(); err != nil {
		t.Errorf("Validate() = %v, want nil", err)
	}
	for _, tt := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Webhooks = []webhook.Endpoint{e, e} }, "webhooks[crm].name: there are two"},
		{func(c *Config) { c.Webhooks = []webhook.Endpoint{{Name: "crm"}} }, "webhooks[crm].url: must be"},
		{func(c *Config) { c.Deliveries.Group = "" }, "deliveries.group: is required"},
		{func(c *Config) { c.Deliveries.Attempts = 0 }, "deliveries.attempts: is 0"},
		{func(c *Config) { c.Deliveries.RetryMin = 0 }, "deliveries.retry_min: is 0s"},
		{func(c *Config) { c.Deliveries.RetryMax = 1 }, "deliveries.retry_max: is 1ns"},
		{func(c *Config) { c.Deliveries.MaxAsked = -1 }, "deliveries.max_asked: is -1ns"},
		{func(c *Config) { c.Deliveries.GiveUpAfter = 20 * 24 * time.Hour }, "deliveries.give_up_after: is 480h"},
		{func(c *Config) { c.Deliveries.InFlight = 0 }, "deliveries.in_flight: is 0"},
		{func(c *Config) { c.Deliveries.BreakAfter = 0 }, "deliveries.break_after: is 0"},
		{func(c *Config) { c.Deliveries.BreakMin = 0 }, "deliveries.break_min: is 0s"},
		{func(c *Config) { c.Deliveries.BreakMax = 1 }, "deliveries.break_max: is 1ns"},
		{func(c *Config) { c.Deliveries.MaxRecords = 0 }, "deliveries.max_records: is 0"},
		{func(c *Config) { c.Deliveries.RetryWait = 0 }, "deliveries.retry_wait: is 0s"},
	} {
		c := DefaultConfig()
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Validate() = %v, want %q in it", err, tt.want)
		}
	}
}

func TestAfter(t *testing.T) {
	s := DefaultConfig().Deliveries
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	failed := webhook.Result{Outcome: webhook.Refused, Status: 500, Problem: "HTTP 500"}
	for _, tt := range []struct {
		name     string
		attempts int // before
		age      time.Duration
		result   webhook.Result
		state    State
		wait     time.Duration
	}{
		{"delivered", 3, time.Hour, webhook.Result{Outcome: webhook.Delivered, Status: 200}, Delivered, 0},
		{"first failure", 0, 0, failed, Pending, 4 * time.Second},
		{"second failure", 1, time.Minute, failed, Pending, 12 * time.Second},
		{"no answer", 1, time.Minute, webhook.Result{Outcome: webhook.Unreachable, Problem: "x"}, Pending, 12 * time.Second},
		{"last but one", 10, 20 * time.Hour, failed, Pending, 4 * time.Hour},
		{"last", 11, 23 * time.Hour, failed, DeadLetter, 0},
		{"too old", 2, 73 * time.Hour, failed, DeadLetter, 0},
		{"first attempt of an old one", 0, 73 * time.Hour, webhook.Result{Outcome: webhook.Delivered}, Delivered, 0},
		{"gone", 0, 0, webhook.Result{Outcome: webhook.Gone, Status: 410, Problem: "HTTP 410"}, DeadLetter, 0},
		{"asks for less than the backoff", 5, 0, webhook.Result{Outcome: webhook.Busy, Wait: time.Second}, Pending, 972 * time.Second},
		{"asks for more", 0, 0, webhook.Result{Outcome: webhook.Busy, Wait: time.Minute}, Pending, time.Minute},
		{"asks for too much", 0, 0, webhook.Result{Outcome: webhook.Busy, Wait: 24 * time.Hour}, Pending, time.Hour},
	} {
		before := Delivery{State: Pending, Attempts: tt.attempts, Since: now.Add(-tt.age), NextAt: now}
		got := s.after(before, tt.result, now, 0)
		next := now.Add(tt.wait)
		if tt.state != Pending {
			next = time.Time{}
		}
		if got.State != tt.state || !got.NextAt.Equal(next) || got.Attempts != tt.attempts+1 ||
			got.Status != tt.result.Status || got.Problem != tt.result.Problem || !got.UpdatedAt.Equal(now) {
			t.Errorf("%s: after() = %+v, want %s, next at %s", tt.name, got, tt.state, next)
		}
	}
}

// The default schedule lasts about a day, whatever the jitter.
func TestAfter_defaultLastsAboutADay(t *testing.T) {
	s := DefaultConfig().Deliveries
	for _, tt := range []struct {
		jitter   float64
		from, to time.Duration
	}{{0, 12 * time.Hour, 20 * time.Hour}, {0.5, 20 * time.Hour, 28 * time.Hour}, {0.999, 28 * time.Hour, 36 * time.Hour}} {
		begin := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		d, now := Delivery{State: Pending, Since: begin, NextAt: begin}, begin
		for d.State == Pending {
			now = d.NextAt
			d = s.after(d, webhook.Result{Outcome: webhook.Unreachable}, now, tt.jitter)
		}
		if took := now.Sub(begin); took < tt.from || took > tt.to || d.Attempts != s.Attempts {
			t.Errorf("with jitter %v: %d attempts in %s, want %d in %s to %s", tt.jitter, d.Attempts, took, s.Attempts, tt.from, tt.to)
		}
	}
}
