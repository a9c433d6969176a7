package loader

import (
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/pending"
)

// Config says how large an INSERT gets, how old its rows, and how much may wait.
// That is for events. A table of states has the same bounds, but for sizes: a
// quarter of them.
type Config struct {
	Group         string        `yaml:"group"`          // consumer group of all loaders; with a dot and the table, that of states
	MaxRows       int           `yaml:"max_rows"`       // rows per INSERT, at most
	MaxBytes      int           `yaml:"max_bytes"`      // bytes of Kafka records per INSERT, at most
	MaxWait       time.Duration `yaml:"max_wait"`       // age of the oldest row when it is inserted, at most
	BufferRows    int           `yaml:"buffer_rows"`    // rows held in memory, of all partitions together
	BufferBytes   int           `yaml:"buffer_bytes"`   // bytes of Kafka records held in memory
	InFlight      int           `yaml:"in_flight"`      // INSERTs at one time
	InsertTimeout time.Duration `yaml:"insert_timeout"` // one INSERT
	RetryMin      time.Duration `yaml:"retry_min"`      // pause after a first failure; it doubles
	RetryMax      time.Duration `yaml:"retry_max"`      // the longest pause between two attempts
	DrainTimeout  time.Duration `yaml:"drain_timeout"`  // the INSERTs in hand, at shutdown and when partitions move
}

// DefaultConfig returns a configuration that is valid as it stands.
func DefaultConfig() Config {
	p := pending.DefaultConfig()
	return Config{
		Group:         "mailriver.loader",
		MaxRows:       p.MaxRecords,
		MaxBytes:      p.MaxBytes,
		MaxWait:       p.MaxWait,
		BufferRows:    p.BufferRecords,
		BufferBytes:   p.BufferBytes,
		InFlight:      p.InFlight,
		InsertTimeout: 20 * time.Second,
		RetryMin:      p.RetryMin,
		RetryMax:      p.RetryMax,
		DrainTimeout:  p.DrainTimeout,
	}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Must(c.Group != "", "group: is required")
	problems.Must(c.MaxRows >= 1, "max_rows: is %d, must be at least 1", c.MaxRows)
	problems.Must(c.MaxBytes >= 1, "max_bytes: is %d, must be at least 1", c.MaxBytes)
	problems.Must(c.MaxWait > 0, "max_wait: is %s, must be positive", c.MaxWait)
	problems.Must(c.BufferRows >= c.MaxRows, "buffer_rows: is %d, must be at least max_rows (%d)", c.BufferRows, c.MaxRows)
	problems.Must(c.BufferBytes >= c.MaxBytes,
		"buffer_bytes: is %d, must be at least max_bytes (%d)", c.BufferBytes, c.MaxBytes)
	problems.Must(c.InFlight >= 1, "in_flight: is %d, must be at least 1", c.InFlight)
	problems.Must(c.InsertTimeout > 0, "insert_timeout: is %s, must be positive", c.InsertTimeout)
	problems.Must(c.RetryMin > 0, "retry_min: is %s, must be positive", c.RetryMin)
	problems.Must(c.RetryMax >= c.RetryMin, "retry_max: is %s, must be at least retry_min (%s)", c.RetryMax, c.RetryMin)
	problems.Must(c.DrainTimeout > c.InsertTimeout,
		"drain_timeout: is %s, must exceed insert_timeout (%s) or shutdown cuts an INSERT short", c.DrainTimeout, c.InsertTimeout)
	problems.Must(c.DrainTimeout <= maxDrain,
		"drain_timeout: is %s, must be at most %s or Kafka gives the partitions away meanwhile", c.DrainTimeout, maxDrain)
	return problems.Err()
}

// maxDrain stays below kgo's rebalance timeout of 60 s, which a drain holds up,
// with room for the commit.
const maxDrain = 45 * time.Second

// states are the bounds of a table of states, of which there are several: their
// topics are smaller than that of events, and what they hold comes on top.
func (c Config) states() Config {
	for _, size := range []*int{&c.MaxRows, &c.MaxBytes, &c.BufferRows, &c.BufferBytes} {
		*size = max(1, *size/4)
	}
	return c
}

func (c Config) pending() pending.Config {
	return pending.Config{
		MaxRecords:    c.MaxRows,
		MaxBytes:      c.MaxBytes,
		MaxWait:       c.MaxWait,
		BufferRecords: c.BufferRows,
		BufferBytes:   c.BufferBytes,
		InFlight:      c.InFlight,
		RetryMin:      c.RetryMin,
		RetryMax:      c.RetryMax,
		DrainTimeout:  c.DrainTimeout,
	}
}
