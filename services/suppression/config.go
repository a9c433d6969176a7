package suppression

import (
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/suppression"
	"mailriver/services/suppression/rates"
)

// Config says how the list is kept and served.
type Config struct {
	API   api.Config `yaml:"api"`   // where the list is served, and to whom
	Group string     `yaml:"group"` // consumer group of all instances
	// TransactionalID must be unique among live instances and the same after a
	// restart. Empty is "mailriver.suppression." and the instance name.
	TransactionalID string             `yaml:"transactional_id"`
	Policy          suppression.Policy `yaml:"policy"`
	MaxRecords      int                `yaml:"max_records"` // events per transaction, at most
	MaxWait         time.Duration      `yaml:"max_wait"`    // how long the broker may gather events before it answers a fetch
	RetryWait       time.Duration      `yaml:"retry_wait"`  // pause after a transaction that failed
	CacheBytes      int                `yaml:"cache_bytes"` // memory for blocks of the local copy
	// WriteWait is how long a change made through the API waits until the list
	// has it. One that takes longer is answered 202.
	WriteWait time.Duration `yaml:"write_wait"`
	MaxImport int64         `yaml:"max_import"` // bytes of an import, at most
	// Rates are the alerts on complaint and hard-bounce rates.
	Rates rates.Config `yaml:"rates"`
}

// DefaultConfig returns a configuration that is valid as it stands.
func DefaultConfig() Config {
	return Config{
		API:        api.DefaultConfig("127.0.0.1:8082"),
		Group:      "mailriver.suppression",
		Policy:     suppression.DefaultPolicy(),
		MaxRecords: 5000,
		MaxWait:    50 * time.Millisecond,
		RetryWait:  time.Second,
		CacheBytes: 64 << 20,
		WriteWait:  5 * time.Second,
		MaxImport:  256 << 20,
		Rates:      rates.DefaultConfig(),
	}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Add(config.Prefix("api.", c.API.Validate()))
	problems.Add(config.Prefix("policy.", c.Policy.Validate()))
	problems.Add(config.Prefix("rates.", c.Rates.Validate()))
	problems.Must(c.Group != "", "group: is required")
	problems.Must(c.MaxRecords >= 1, "max_records: is %d, must be at least 1", c.MaxRecords)
	problems.Must(c.MaxWait > 0, "max_wait: is %s, must be positive", c.MaxWait)
	problems.Must(c.RetryWait > 0, "retry_wait: is %s, must be positive", c.RetryWait)
	problems.Must(c.CacheBytes >= 1<<20, "cache_bytes: is %d, must be at least 1 MiB", c.CacheBytes)
	problems.Must(c.WriteWait > 0, "write_wait: is %s, must be positive", c.WriteWait)
	problems.Must(c.MaxImport >= 1<<20, "max_import: is %d, must be at least 1 MiB", c.MaxImport)
	return problems.Err()
}
