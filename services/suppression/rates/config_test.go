package rates

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"mailriver/pkg/eventavro"
	"mailriver/pkg/kafka"
)

func TestDefaultConfig_isValid(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("Validate() = %v, want nil", err)
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Group = "" }, "group: is required"},
		{func(c *Config) { c.MaxRecords = 0 }, "max_records: is 0"},
		{func(c *Config) { c.MaxWait = 0 }, "max_wait: is 0s"},
		{func(c *Config) { c.RetryWait = 0 }, "retry_wait: is 0s"},
		{func(c *Config) { c.Window = 90 * time.Minute }, "window: is 1h30m0s"},
		{func(c *Config) { c.Window = 0 }, "window: is 0s"},
		{func(c *Config) { c.Window = 8 * 24 * time.Hour }, "window: is 192h0m0s"},
		{func(c *Config) { c.MinVolume = 0 }, "min_volume: is 0"},
		{func(c *Config) { c.Complaint.Warning = 0 }, "complaint: is 0 to 0.003"},
		{func(c *Config) { c.Complaint.Critical = 0.001 }, "complaint: is 0.001 to 0.001"},
		{func(c *Config) { c.HardBounce.Critical = 1.5 }, "hard_bounce: is 0.02 to 1.5"},
		{func(c *Config) { c.Hysteresis = 0 }, "hysteresis: is 0"},
		{func(c *Config) { c.Hysteresis = 1.1 }, "hysteresis: is 1.1"},
		{func(c *Config) { c.MaxDomains = -1 }, "max_domains: is -1"},
	} {
		cfg := DefaultConfig()
		tt.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("Validate() = %v, want %s", err, tt.want)
		}
	}
}

func TestNew_refuses(t *testing.T) {
	enc, err := NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	good := Deps{
		Clients: &kafka.Clients{}, Topics: kafka.DefaultConfig().Topics(), Instance: "a",
		Events: eventavro.NewDecoder(nil), Encoder: enc, Decoder: NewDecoder(nil),
		Meter: noop.NewMeterProvider().Meter(""), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	if _, err := New(DefaultConfig(), good); err != nil {
		t.Errorf("New() = %v, want nil", err)
	}
	for name, change := range map[string]func(*Deps){
		"clients":  func(d *Deps) { d.Clients = nil },
		"topics":   func(d *Deps) { d.Topics = kafka.Topics{} },
		"instance": func(d *Deps) { d.Instance = "" },
		"events":   func(d *Deps) { d.Events = nil },
		"encoder":  func(d *Deps) { d.Encoder = nil },
		"decoder":  func(d *Deps) { d.Decoder = nil },
		"meter":    func(d *Deps) { d.Meter = nil },
		"logger":   func(d *Deps) { d.Logger = nil },
		"now":      func(d *Deps) { d.Now = nil },
	} {
		deps := good
		change(&deps)
		if _, err := New(DefaultConfig(), deps); err == nil {
			t.Errorf("New() without %s = nil, want an error", name)
		}
	}
	if _, err := New(Config{}, good); err == nil {
		t.Error("New() of an empty configuration = nil, want an error")
	}
}
