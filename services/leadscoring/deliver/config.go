package deliver

import (
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/httpcall"
	"mailriver/pkg/webhook"
)

// Config says where signals go, and how hard to try.
type Config struct {
	Webhooks   []webhook.Endpoint `yaml:"webhooks,omitempty"` // none: nothing is sent
	Deliveries Schedule           `yaml:"deliveries"`
}

// Schedule says how hard to try.
type Schedule struct {
	// Group is the consumer group of all instances. Its name and the number of a
	// partition are a transactional id.
	Group       string        `yaml:"group"`
	Attempts    int           `yaml:"attempts"`      // until a delivery is given up
	RetryMin    time.Duration `yaml:"retry_min"`     // pause after a first failed attempt, at most; three times as long after each further one
	RetryMax    time.Duration `yaml:"retry_max"`     // the longest pause between two attempts
	MaxAsked    time.Duration `yaml:"max_asked"`     // what is honored of an endpoint's Retry-After, at most
	GiveUpAfter time.Duration `yaml:"give_up_after"` // age of a signal that an endpoint out of order may still be sent
	InFlight    int           `yaml:"in_flight"`     // attempts at one time, of each endpoint and instance
	// BreakAfter is after how many failed attempts in a row an endpoint is left
	// alone for a while.
	BreakAfter int           `yaml:"break_after"`
	BreakMin   time.Duration `yaml:"break_min"`   // how long at first, at most; it doubles
	BreakMax   time.Duration `yaml:"break_max"`   // the longest
	MaxRecords int           `yaml:"max_records"` // signals of one poll, at most
	RetryWait  time.Duration `yaml:"retry_wait"`  // pause after an error of Kafka
}

// DefaultConfig returns a configuration that is valid as it stands.
func DefaultConfig() Config {
	return Config{Deliveries: Schedule{
		Group: "mailriver.leadscoring.webhooks",
		// Twelve attempts within about a day: 8 s, 24 s, 72 s, 4 min, 11 min,
		// 32 min, 1.6 h, 5 h and three times 8 h, of each the last half by chance.
		Attempts: 12, RetryMin: 8 * time.Second, RetryMax: 8 * time.Hour, MaxAsked: time.Hour,
		GiveUpAfter: 72 * time.Hour, InFlight: 4,
		BreakAfter: 5, BreakMin: 30 * time.Second, BreakMax: 10 * time.Minute,
		MaxRecords: 500, RetryWait: time.Second,
	}}
}

// Validate reports everything that is wrong, without looking at any secret.
func (c Config) Validate() error {
	var problems config.Problems
	seen := map[string]bool{}
	for i := range c.Webhooks {
		e := &c.Webhooks[i]
		at := "webhooks[" + e.Name + "]."
		problems.Add(config.Prefix(at, e.Validate()))
		problems.Must(!seen[e.Name], "%sname: there are two of this name", at)
		seen[e.Name] = true
	}
	problems.Add(config.Prefix("deliveries.", c.Deliveries.validate()))
	return problems.Err()
}

// retention is that of the deliveries topic, with room: what is older may be
// gone.
const retention = 14 * 24 * time.Hour

func (s Schedule) validate() error {
	var problems config.Problems
	problems.Must(s.Group != "", "group: is required")
	problems.Must(s.Attempts >= 1, "attempts: is %d, must be at least 1", s.Attempts)
	problems.Must(s.RetryMin > 0, "retry_min: is %s, must be positive", s.RetryMin)
	problems.Must(s.RetryMax >= s.RetryMin, "retry_max: is %s, must be at least retry_min (%s)", s.RetryMax, s.RetryMin)
	problems.Must(s.MaxAsked >= 0, "max_asked: is %s, must not be negative", s.MaxAsked)
	problems.Must(s.GiveUpAfter > 0 && s.GiveUpAfter <= retention,
		"give_up_after: is %s, must be positive and at most %s", s.GiveUpAfter, retention)
	problems.Must(s.InFlight >= 1, "in_flight: is %d, must be at least 1", s.InFlight)
	problems.Must(s.BreakAfter >= 1, "break_after: is %d, must be at least 1", s.BreakAfter)
	problems.Must(s.BreakMin > 0, "break_min: is %s, must be positive", s.BreakMin)
	problems.Must(s.BreakMax >= s.BreakMin, "break_max: is %s, must be at least break_min (%s)", s.BreakMax, s.BreakMin)
	problems.Must(s.MaxRecords >= 1, "max_records: is %d, must be at least 1", s.MaxRecords)
	problems.Must(s.RetryWait > 0, "retry_wait: is %s, must be positive", s.RetryWait)
	return problems.Err()
}

func (s Schedule) backoff() httpcall.Backoff {
	return httpcall.Backoff{First: s.RetryMin, Most: s.RetryMax, Factor: 3}
}

func (s Schedule) breaker() webhook.Breaker {
	return webhook.Breaker{
		Failures: s.BreakAfter, Pause: httpcall.Backoff{First: s.BreakMin, Most: s.BreakMax, Factor: 2},
	}
}
