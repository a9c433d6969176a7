package normalizer_test

import (
	"strings"
	"testing"
	"time"

	"mailriver/services/normalizer"
)

func TestConfig(t *testing.T) {
	if err := normalizer.DefaultConfig().Validate(); err != nil {
		t.Errorf("the default is not valid: %v", err)
	}
	tests := []struct {
		want   string
		change func(*normalizer.Config)
	}{
		{"group: is required", func(c *normalizer.Config) { c.Group = "" }},
		{"max_records: is 0", func(c *normalizer.Config) { c.MaxRecords = 0 }},
		{"max_wait: is 0s", func(c *normalizer.Config) { c.MaxWait = 0 }},
		{"retry_wait: is 0s", func(c *normalizer.Config) { c.RetryWait = 0 }},
		{"dedup_window: is 1s", func(c *normalizer.Config) { c.DedupWindow = time.Second }},
	}
	for _, tt := range tests {
		c := normalizer.DefaultConfig()
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Validate() = %v, want %q in it", err, tt.want)
		}
	}
}
