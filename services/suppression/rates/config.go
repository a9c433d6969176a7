package rates

import (
	"time"

	"mailriver/pkg/config"
)

// Config says what is counted, and when that is an alert.
type Config struct {
	Enabled bool   `yaml:"enabled"`
	Group   string `yaml:"group"` // consumer group of all instances
	// TransactionalID must be unique among live instances and the same after a
	// restart. Empty is the group and the instance name.
	TransactionalID string        `yaml:"transactional_id"`
	MaxRecords      int           `yaml:"max_records"` // events per transaction, at most
	MaxWait         time.Duration `yaml:"max_wait"`    // how long the broker may gather events before it answers a fetch
	RetryWait       time.Duration `yaml:"retry_wait"`  // pause after an error of Kafka

	// Window is what a rate is about: as many hours, of which the last is the
	// newest in which anything happened.
	Window time.Duration `yaml:"window"`
	// MinVolume is how many messages a rate must be about before it is judged.
	MinVolume int64 `yaml:"min_volume"`
	// Complaint is about complaints of delivered messages, as fractions. Gmail
	// wants less than 0.1 % and never 0.3 %, Yahoo less than 0.3 %.
	Complaint Thresholds `yaml:"complaint"`
	// HardBounce is about hard bounces of delivered and hard-bounced messages, as
	// fractions. Amazon SES wants less than 5 %.
	HardBounce Thresholds `yaml:"hard_bounce"`
	// Hysteresis is the part of a threshold, and of min_volume, below which a
	// level ends that began at the whole.
	Hysteresis float64 `yaml:"hysteresis"`
	// MaxDomains is how many sender domains have gauges: those with the most
	// messages in the window.
	MaxDomains int `yaml:"max_domains"`
}

// Thresholds are the rates at which a level begins.
type Thresholds struct {
	Warning  float64 `yaml:"warning"`  // share of the delivered messages, 0 to 1
	Critical float64 `yaml:"critical"` // above warning
}

// maxWindow is half of the retention of the rates topic.
const maxWindow = 7 * 24 * time.Hour

// DefaultConfig returns a configuration that is valid as it stands.
func DefaultConfig() Config {
	return Config{
		Enabled:    true,
		Group:      "mailriver.suppression.rates",
		MaxRecords: 10_000,
		// A transaction writes a counter for each domain and hour in it: few
		// large ones are cheaper, and nobody waits for a rate.
		MaxWait:   time.Second,
		RetryWait: time.Second,

		Window:     24 * time.Hour,
		MinVolume:  1000,
		Complaint:  Thresholds{Warning: 0.001, Critical: 0.003},
		HardBounce: Thresholds{Warning: 0.02, Critical: 0.05},
		Hysteresis: 0.8,
		MaxDomains: 50,
	}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Must(c.Group != "", "group: is required")
	problems.Must(c.MaxRecords >= 1, "max_records: is %d, must be at least 1", c.MaxRecords)
	problems.Must(c.MaxWait > 0, "max_wait: is %s, must be positive", c.MaxWait)
	problems.Must(c.RetryWait > 0, "retry_wait: is %s, must be positive", c.RetryWait)
	problems.Must(c.Window >= time.Hour && c.Window <= maxWindow && c.Window%time.Hour == 0,
		"window: is %s, must be whole hours, from 1h to %s", c.Window, maxWindow)
	problems.Must(c.MinVolume >= 1, "min_volume: is %d, must be at least 1", c.MinVolume)
	problems.Must(c.Complaint.valid(), "complaint: is %v to %v, must be 0 < warning < critical <= 1",
		c.Complaint.Warning, c.Complaint.Critical)
	problems.Must(c.HardBounce.valid(), "hard_bounce: is %v to %v, must be 0 < warning < critical <= 1",
		c.HardBounce.Warning, c.HardBounce.Critical)
	problems.Must(c.Hysteresis > 0 && c.Hysteresis <= 1, "hysteresis: is %v, must be above 0 and at most 1", c.Hysteresis)
	problems.Must(c.MaxDomains >= 0, "max_domains: is %d, must not be negative", c.MaxDomains)
	return problems.Err()
}

func (t Thresholds) valid() bool {
	return 0 < t.Warning && t.Warning < t.Critical && t.Critical <= 1
}

// hours is the length of the window.
func (c Config) hours() int64 { return int64(c.Window / time.Hour) }
