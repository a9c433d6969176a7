package kafka

import (
	"mailriver/pkg/config"
)

// Config says which cluster, and how to reach it.
type Config struct {
	Brokers []string `yaml:"brokers"` // host:port of any brokers of the cluster
	// TopicPrefix precedes every topic name.
	TopicPrefix string `yaml:"topic_prefix"`
	// ReplicationFactor of topics that setup creates; 0 is the broker's default.
	ReplicationFactor int16 `yaml:"replication_factor"`
	TLS               TLS   `yaml:"tls"`
	SASL              SASL  `yaml:"sasl"`
}

// TLS turns on encryption, and a client certificate where one is needed.
type TLS struct {
	Enabled    bool   `yaml:"enabled"`     // without it, the other settings are an error
	CAFile     string `yaml:"ca_file"`     // default: the roots of the system
	CertFile   string `yaml:"cert_file"`   // client certificate, PEM
	KeyFile    string `yaml:"key_file"`    // its private key, PEM
	ServerName string `yaml:"server_name"` // default: the broker's host
}

// SASL is how the client proves who it is.
type SASL struct {
	Mechanism string        `yaml:"mechanism"` // one of plain, scram-sha-256 and scram-sha-512; empty is none
	Username  string        `yaml:"username"`  // required with a mechanism
	Password  config.Secret `yaml:"password"`  // required with a mechanism
}

// DefaultConfig is one broker on this machine.
func DefaultConfig() Config {
	return Config{Brokers: []string{"localhost:9092"}, TopicPrefix: "email."}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Must(len(c.Brokers) > 0, "brokers: at least one host:port is required")
	for i, broker := range c.Brokers {
		problems.Must(broker != "", "brokers[%d]: is empty, want host:port", i)
	}
	problems.Must(c.ReplicationFactor >= 0, "replication_factor: is %d, must not be negative", c.ReplicationFactor)
	problems.Must((c.TLS.CertFile == "") == (c.TLS.KeyFile == ""), "tls: cert_file and key_file belong together")
	problems.Must(c.TLS.Enabled || c.TLS == TLS{}, "tls: has settings but enabled is false")
	switch c.SASL.Mechanism {
	case "":
		problems.Must(c.SASL.Username == "", "sasl: has a username but no mechanism")
	case "plain", "scram-sha-256", "scram-sha-512":
		problems.Must(c.SASL.Username != "", "sasl.username: is required with a mechanism")
		problems.Must(!c.SASL.Password.IsZero(), "sasl.password: is required with a mechanism")
	default:
		problems.Must(false, "sasl.mechanism: is %q, want plain, scram-sha-256 or scram-sha-512", c.SASL.Mechanism)
	}
	return problems.Err()
}
