package assembly

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mailriver/pkg/apiclient"
	"mailriver/pkg/avro"
	"mailriver/pkg/clickhouse"
	"mailriver/pkg/config"
	"mailriver/pkg/esp/all"
	"mailriver/pkg/httpserver"
	"mailriver/pkg/kafka"
	"mailriver/pkg/lead/leadapi"
	"mailriver/pkg/suppression/client"
	"mailriver/pkg/telemetry"
	"mailriver/pkg/unsubscribe"
	"mailriver/services/leadscoring"
	"mailriver/services/loader"
	"mailriver/services/normalizer"
	"mailriver/services/receiver"
	"mailriver/services/suppression"
)

// DefaultFile is read when no configuration file is named, if it exists.
const DefaultFile = "mailriver.yaml"

// Config is the whole configuration: one file for every service.
type Config struct {
	// Instance names this process among those of the same service. Empty is
	// the host name. It must be unique among live ones, and should be the same
	// after a restart.
	Instance string `yaml:"instance"`
	// DataDir holds caches that can be deleted, and the receiver's spill, when
	// that is on, which must not be.
	DataDir string `yaml:"data_dir"`
	// DrainDelay is how long /readyz says no before a service stops, so that a
	// load balancer sends no more.
	DrainDelay time.Duration `yaml:"drain_delay"`

	Kafka      kafka.Config      `yaml:"kafka"`
	Registry   avro.Config       `yaml:"registry"`
	ClickHouse clickhouse.Config `yaml:"clickhouse"`
	Telemetry  telemetry.Config  `yaml:"telemetry"`
	Admin      httpserver.Config `yaml:"admin"` // /metrics, /livez, /readyz

	Sources    []receiver.Source `yaml:"sources"`
	Receiver   receiver.Config   `yaml:"receiver"`
	Normalizer normalizer.Config `yaml:"normalizer"`
	Loader     loader.Config     `yaml:"loader"`

	Unsubscribe unsubscribe.Config `yaml:"unsubscribe"`
	Suppression suppression.Config `yaml:"suppression"`
	Leadscoring leadscoring.Config `yaml:"leadscoring"`
	// SuppressionClient is for the commands `mailriver suppress ...`.
	SuppressionClient apiclient.Config `yaml:"suppression_client"`
	// SuppressionSync are the lists that `mailriver suppress sync` compares.
	SuppressionSync []SyncList `yaml:"suppression_sync"`
	// LeadscoringClient is for the commands `mailriver lead ...`.
	LeadscoringClient apiclient.Config `yaml:"leadscoring_client"`

	// environ is where ${env:NAME} of a secret is looked up.
	environ []string
}

// DefaultConfig returns a configuration that is valid as it stands.
func DefaultConfig() Config {
	return Config{
		DataDir:    "data",
		DrainDelay: 0,
		Kafka:      kafka.DefaultConfig(),
		Registry:   avro.DefaultConfig(),
		ClickHouse: clickhouse.DefaultConfig(),
		Telemetry:  telemetry.DefaultConfig(),
		Admin:      httpserver.DefaultConfig(":9464"),
		Receiver:   receiver.DefaultConfig(),
		Normalizer: normalizer.DefaultConfig(),
		Loader:     loader.DefaultConfig(),

		Suppression:       suppression.DefaultConfig(),
		Leadscoring:       leadscoring.DefaultConfig(),
		SuppressionClient: client.DefaultConfig(),
		LeadscoringClient: leadapi.DefaultConfig(),
	}
}

// ErrConfig is what every error of a configuration is.
var ErrConfig = errors.New("configuration")

// Load reads the file (or [DefaultFile], when path is empty and it exists) and
// the environment over the defaults, and reports every mistake in one error.
func Load(path string, environ []string) (Config, error) {
	cfg := DefaultConfig()
	cfg.environ = environ
	if path == "" {
		if _, err := os.Stat(DefaultFile); err == nil {
			path = DefaultFile
		}
	}
	if err := config.Load(&cfg, path, environ); err != nil {
		return cfg, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := cfg.Validate(); err != nil {
		return cfg, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return cfg, nil
}

// Validate reports everything that is wrong, with the key of each.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Must(c.DataDir != "", "data_dir: is required")
	problems.Must(c.DrainDelay >= 0, "drain_delay: is %s, must not be negative", c.DrainDelay)
	for _, section := range []struct {
		name string
		err  error
	}{
		{"kafka", c.Kafka.Validate()},
		{"registry", c.Registry.Validate()},
		{"clickhouse", c.ClickHouse.Validate()},
		{"telemetry", c.Telemetry.Validate()},
		{"admin", c.Admin.Validate()},
		{"receiver", c.Receiver.Validate()},
		{"normalizer", c.Normalizer.Validate()},
		{"loader", c.Loader.Validate()},
		{"unsubscribe", c.Unsubscribe.Validate()},
		{"suppression", c.Suppression.Validate()},
		{"leadscoring", c.Leadscoring.Validate()},
		{"suppression_client", c.SuppressionClient.Validate()},
		{"leadscoring_client", c.LeadscoringClient.Validate()},
	} {
		problems.Add(config.Prefix(section.name+".", section.err))
	}
	problems.Add(receiver.CheckSources(c.Receiver, c.Sources, c.surroundings()))
	problems.Add(checkLists(c.SuppressionSync, c.sourceNames()))
	for _, secret := range []struct {
		key   string
		value config.Secret
	}{
		{"kafka.sasl.password", c.Kafka.SASL.Password},
		{"clickhouse.password", c.ClickHouse.Password},
	} {
		if _, err := c.resolve(secret.value); err != nil {
			problems.Add(config.Prefix(secret.key+": ", err))
		}
	}
	if _, err := c.UnsubscribeKeys(); err != nil && !errors.Is(err, config.ErrUnreadable) {
		problems.Add(err) // a file may be there for the receiver alone
	}
	return problems.Err()
}

func (c Config) sourceNames() []string {
	names := make([]string, len(c.Sources))
	for i, s := range c.Sources {
		names[i] = s.Name
	}
	return names
}

// UnsubscribeKeys returns the keys of links to opt out, or nil when there are
// none.
func (c Config) UnsubscribeKeys() (*unsubscribe.Keys, error) {
	keys, err := c.Unsubscribe.Open(c.resolve)
	return keys, config.Prefix("unsubscribe.", err)
}

func (c Config) surroundings() receiver.Surroundings {
	return receiver.Surroundings{Providers: all.Providers(), LookupEnv: c.lookupEnv, ReadFile: os.ReadFile, Now: time.Now}
}

// lookupEnv is os.LookupEnv of the environment that the configuration was
// loaded with. The last of several entries counts, as in a process.
func (c Config) lookupEnv(name string) (value string, found bool) {
	for _, entry := range c.environ {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value, found = v, true
		}
	}
	return value, found
}

// resolve reads a secret; an unset one is empty.
func (c Config) resolve(secret config.Secret) (string, error) {
	if secret.IsZero() {
		return "", nil
	}
	return secret.Resolve(c.lookupEnv, os.ReadFile)
}

// instance is the configured name, else that of the host.
func (c Config) instance() string {
	if c.Instance != "" {
		return c.Instance
	}
	if host, err := os.Hostname(); err == nil {
		return host
	}
	return "mailriver"
}

// dir is the folder of a service's caches.
func (c Config) dir(service string) string { return filepath.Join(c.DataDir, service, c.instance()) }
