package leadscoring

import (
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/lead"
	"mailriver/services/leadscoring/deliver"
)

// Config says how recipients are scored, and how leads are served.
type Config struct {
	API   api.Config `yaml:"api"`   // where leads are served, and to whom
	Group string     `yaml:"group"` // consumer group of all instances
	// TransactionalID must be unique among live instances and the same after a
	// restart. Empty is "mailriver.leadscoring." and the instance name.
	TransactionalID string         `yaml:"transactional_id"`
	Profiles        []lead.Profile `yaml:"profiles"` // named sets of rules
	Segments        []lead.Segment `yaml:"segments"` // named conditions over score, recency and engagement
	// MaxAge is how old an event may be and still signal that it crossed a
	// threshold. Older ones change the score and say nothing.
	MaxAge     time.Duration `yaml:"max_age"`
	MaxRecords int           `yaml:"max_records"` // events per transaction, at most
	MaxWait    time.Duration `yaml:"max_wait"`    // how long the broker may gather events before it answers a fetch
	RetryWait  time.Duration `yaml:"retry_wait"`  // pause after a transaction that failed
	CacheBytes int           `yaml:"cache_bytes"` // memory for blocks of the local copy

	Deliver deliver.Config `yaml:",inline"` // where signals go
}

// DefaultConfig returns a configuration that is valid as it stands.
func DefaultConfig() Config {
	return Config{
		API:        api.DefaultConfig("127.0.0.1:8083"),
		Group:      "mailriver.leadscoring",
		Profiles:   lead.DefaultProfiles(),
		MaxAge:     24 * time.Hour,
		MaxRecords: 5000,
		MaxWait:    50 * time.Millisecond,
		RetryWait:  time.Second,
		CacheBytes: 64 << 20,
		Deliver:    deliver.DefaultConfig(),
	}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Add(config.Prefix("api.", c.API.Validate()))
	if rules, err := lead.Compile(c.Profiles); err != nil {
		problems.Add(err)
	} else {
		_, err = rules.CompileSegments(c.Segments)
		problems.Add(err)
	}
	problems.Add(c.Deliver.Validate())
	problems.Must(c.Group != "", "group: is required")
	problems.Must(c.MaxAge > 0, "max_age: is %s, must be positive", c.MaxAge)
	problems.Must(c.MaxRecords >= 1, "max_records: is %d, must be at least 1", c.MaxRecords)
	problems.Must(c.MaxWait > 0, "max_wait: is %s, must be positive", c.MaxWait)
	problems.Must(c.RetryWait > 0, "retry_wait: is %s, must be positive", c.RetryWait)
	problems.Must(c.CacheBytes >= 1<<20, "cache_bytes: is %d, must be at least 1 MiB", c.CacheBytes)
	return problems.Err()
}
