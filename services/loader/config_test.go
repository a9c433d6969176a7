package loader

import (
	"strings"
	"testing"
)

func TestDefaultConfig_isValid(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	if err := DefaultConfig().pending().Validate(); err != nil {
		t.Error(err)
	}
}

func TestConfig_Validate(t *testing.T) {
	tests := []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Group = "" }, "group: is required"},
		{func(c *Config) { c.MaxRows = 0 }, "max_rows: is 0"},
		{func(c *Config) { c.MaxBytes = 0 }, "max_bytes: is 0"},
		{func(c *Config) { c.MaxWait = 0 }, "max_wait: is 0s"},
		{func(c *Config) { c.BufferRows = c.MaxRows - 1 }, "buffer_rows: is 49999"},
		{func(c *Config) { c.BufferBytes = c.MaxBytes - 1 }, "buffer_bytes: is "},
		{func(c *Config) { c.InFlight = 0 }, "in_flight: is 0"},
		{func(c *Config) { c.InsertTimeout = 0 }, "insert_timeout: is 0s"},
		{func(c *Config) { c.RetryMin = 0 }, "retry_min: is 0s"},
		{func(c *Config) { c.RetryMax = 1 }, "retry_max: is 1ns"},
		{func(c *Config) { c.DrainTimeout = c.InsertTimeout }, "drain_timeout: is 20s, must exceed insert_timeout"},
		{func(c *Config) { c.DrainTimeout = maxDrain + 1 }, "drain_timeout: is 45.000000001s, must be at most 45s"},
	}
	for _, tt := range tests {
		c := DefaultConfig()
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Validate() = %v, want %q", err, tt.want)
		}
	}
}
