package normalizer

import (
	"time"

	"mailriver/pkg/config"
)

// Config says how the normalizer consumes.
type Config struct {
	Group string `yaml:"group"` // consumer group of all normalizers
	// TransactionalID must be unique among live instances and the same after a
	// restart. Empty is "mailriver.normalizer." and the instance name.
	TransactionalID string        `yaml:"transactional_id"`
	MaxRecords      int           `yaml:"max_records"` // raw records per transaction, at most
	MaxWait         time.Duration `yaml:"max_wait"`    // how long the broker may gather records before it answers a fetch
	RetryWait       time.Duration `yaml:"retry_wait"`  // pause after a transaction that failed
	// DedupWindow is for how long a second copy of an event is known as one.
	// The retention of the dedup topic must not be shorter.
	DedupWindow time.Duration `yaml:"dedup_window"`
}

// DefaultConfig returns a configuration that is valid as it stands.
func DefaultConfig() Config {
	return Config{
		Group:      "mailriver.normalizer",
		MaxRecords: 2000,
		MaxWait:    50 * time.Millisecond,
		RetryWait:  time.Second,

		DedupWindow: 7 * 24 * time.Hour,
	}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Must(c.Group != "", "group: is required")
	problems.Must(c.MaxRecords >= 1, "max_records: is %d, must be at least 1", c.MaxRecords)
	problems.Must(c.MaxWait > 0, "max_wait: is %s, must be positive", c.MaxWait)
	problems.Must(c.RetryWait > 0, "retry_wait: is %s, must be positive", c.RetryWait)
	problems.Must(c.DedupWindow >= time.Hour, "dedup_window: is %s, must be at least 1h", c.DedupWindow)
	return problems.Err()
}
