package receiver

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/esp"
	"mailriver/pkg/httpserver"
)

// Config is what holds for all sources: the section receiver.
type Config struct {
	HTTP httpserver.Config `yaml:",inline"`
	// AckTimeout is how long a request whose body has arrived may take, the
	// verification and Kafka's acknowledgement together. The shortest patience
	// of a provider that is documented is 10 s.
	AckTimeout time.Duration `yaml:"ack_timeout"`
	// MaxInFlight bounds the requests in hand. What is over it is told to come
	// again.
	MaxInFlight int `yaml:"max_in_flight"`
	// MaxInFlightBytes bounds the bodies in memory, those that wait for Kafka
	// after their request was answered included.
	MaxInFlightBytes int64 `yaml:"max_in_flight_bytes"`
	// MaxBody bounds a decoded body, in bytes. 0 means what the provider needs.
	MaxBody int64 `yaml:"max_body"`
	// TrustedProxies are the networks (CIDR or address) whose X-Forwarded-For
	// is believed.
	TrustedProxies []string    `yaml:"trusted_proxies"`
	Spill          SpillConfig `yaml:"spill"`
	// UnsubscribeRateLimit bounds the opt-outs with links that are genuine.
	// Whoever holds one link can use it all up, so it is off by default.
	UnsubscribeRateLimit RateLimit `yaml:"unsubscribe_rate_limit"`
}

// DefaultConfig returns a configuration that is valid as it stands.
func DefaultConfig() Config {
	return Config{
		HTTP:             httpserver.DefaultConfig(":8080"),
		AckTimeout:       8 * time.Second,
		MaxInFlight:      4096,
		MaxInFlightBytes: 256 << 20,
		Spill:            defaultSpill(),
	}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Add(c.HTTP.Validate())
	problems.Must(c.AckTimeout > 0, "ack_timeout: is %s, must be positive", c.AckTimeout)
	problems.Must(c.AckTimeout < 10*time.Second,
		"ack_timeout: is %s, must be below 10s, where the first providers stop waiting", c.AckTimeout)
	problems.Must(c.HTTP.WriteTimeout > c.HTTP.ReadTimeout+c.AckTimeout,
		"write_timeout: is %s, must exceed read_timeout and ack_timeout together (%s) or the answer is cut off",
		c.HTTP.WriteTimeout, c.HTTP.ReadTimeout+c.AckTimeout)
	problems.Must(c.HTTP.DrainTimeout > c.AckTimeout,
		"drain_timeout: is %s, must exceed ack_timeout (%s) or shutdown cuts requests off", c.HTTP.DrainTimeout, c.AckTimeout)
	problems.Must(c.MaxInFlight >= 1, "max_in_flight: is %d, must be at least 1", c.MaxInFlight)
	problems.Must(c.MaxInFlightBytes >= 1, "max_in_flight_bytes: is %d, must be at least 1", c.MaxInFlightBytes)
	problems.Must(c.MaxBody >= 0, "max_body: is %d, must not be negative", c.MaxBody)
	problems.Add(config.Prefix("spill.", c.Spill.validate(c.AckTimeout)))
	_, err := networks("trusted_proxies", c.TrustedProxies)
	problems.Add(err)
	problems.Add(config.Prefix("unsubscribe_rate_limit.", c.UnsubscribeRateLimit.validate()))
	return problems.Err()
}

// Source is one endpoint, /webhooks/{name}, and how what is posted there is
// proven genuine. The provider's own verification, basic authentication and the
// list of addresses must all pass, as far as they are configured.
type Source struct {
	Name     string `yaml:"name"`     // the last part of its path; a-z, 0-9, _ and -
	Provider string `yaml:"provider"` // one of sendgrid, mailgun, postmark, ses and mandrill
	// Keys verify signatures, newest first; any of them does.
	Keys []config.Secret `yaml:"keys,omitempty"`
	// BasicAuth are the accepted pairs user:password.
	BasicAuth []config.Secret `yaml:"basic_auth,omitempty"`
	// AllowIPs are the networks (CIDR or address) that may post.
	AllowIPs []string `yaml:"allow_ips,omitempty"`
	// Unverified accepts what nobody vouches for. With a provider that signs,
	// it stands in the place of the keys.
	Unverified bool `yaml:"unverified,omitempty"`
	// URL is the public URL of the endpoint as entered at the provider, for one
	// that signs it.
	URL string `yaml:"url,omitempty"`
	// TopicARNs are the SNS topics that may post.
	TopicARNs []string `yaml:"topic_arns,omitempty"`
	// CertHosts replace the hosts that certificates may be fetched from.
	CertHosts []string `yaml:"cert_hosts,omitempty"`
	// CAFile is a PEM file of one more root for those hosts.
	CAFile string `yaml:"ca_file,omitempty"`
	// RawDelivery accepts SNS raw message delivery, which carries no signature.
	RawDelivery bool `yaml:"raw_delivery,omitempty"`
	// AllowSHA1 accepts a signature over SHA-1 where a request carries none over
	// SHA-256, as those of Postal before 3.3.
	AllowSHA1 bool `yaml:"allow_sha1,omitempty"`
	// MaxBody bounds a decoded body of this source, in bytes. 0 means what
	// holds for all.
	MaxBody   int64     `yaml:"max_body,omitempty"`
	RateLimit RateLimit `yaml:"rate_limit,omitempty"`
}

// RateLimit bounds the requests of a source, or the opt-outs by links. The zero
// value is no limit.
type RateLimit struct {
	PerSecond float64 `yaml:"per_second"` // requests, on average
	Burst     int     `yaml:"burst"`      // requests at once; 0 means one second's worth
}

func (l RateLimit) validate() error {
	var problems config.Problems
	problems.Must(l.PerSecond >= 0, "per_second: is %g, must not be negative", l.PerSecond)
	problems.Must(l.Burst >= 0, "burst: is %d, must not be negative", l.Burst)
	problems.Must(l.Burst == 0 || l.PerSecond > 0, "per_second: is required beside burst")
	return problems.Err()
}

var sourceName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// validate reports what is wrong without looking at any secret.
func (s Source) validate(p esp.Provider) error {
	var problems config.Problems
	signed := len(s.Keys) > 0 || len(s.TopicARNs) > 0
	guarded := len(s.BasicAuth) > 0 || len(s.AllowIPs) > 0
	if !p.Signs {
		for _, setting := range []struct {
			key string
			set bool
		}{
			{"keys", len(s.Keys) > 0},
			{"url", s.URL != ""},
			{"topic_arns", len(s.TopicARNs) > 0},
			{"cert_hosts", len(s.CertHosts) > 0},
			{"ca_file", s.CAFile != ""},
			{"raw_delivery", s.RawDelivery},
			{"allow_sha1", s.AllowSHA1},
		} {
			problems.Must(!setting.set, "%s: %s signs nothing, so this would verify nothing", setting.key, p.Name)
		}
		problems.Must(guarded || s.Unverified, "nothing verifies it: set basic_auth, allow_ips or unverified: true")
	}
	if p.Signs {
		problems.Must(!s.RawDelivery || guarded || s.Unverified,
			"raw_delivery: carries no signature: set basic_auth, allow_ips or unverified: true")
		problems.Must(!s.Unverified || s.RawDelivery || !signed,
			"unverified: is true, and keys or topic_arns are set: remove one of the two")
	}
	_, err := networks("allow_ips", s.AllowIPs)
	problems.Add(err)
	problems.Must(s.MaxBody >= 0, "max_body: is %d, must not be negative", s.MaxBody)
	problems.Add(config.Prefix("rate_limit.", s.RateLimit.validate()))
	return problems.Err()
}

// CheckSources reports everything that is wrong with the sources. A file of a
// secret that cannot be read just now is not.
func CheckSources(cfg Config, sources []Source, s Surroundings) error {
	_, err := newSources(cfg, sources, s)
	return err
}

// networks reads CIDRs and bare addresses.
func networks(key string, texts []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	var errs []error
	for i, text := range texts {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			var address netip.Addr
			if address, err = netip.ParseAddr(text); err == nil {
				network = netip.PrefixFrom(address, address.BitLen())
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s[%d]: %q is neither an address nor a network (192.0.2.0/24)", key, i, text))
			continue
		}
		list = append(list, network.Masked())
	}
	return list, errors.Join(errs...)
}

// knownNames are the providers that a source can have, for messages.
func knownNames(providers []esp.Provider) string {
	names := make([]string, 0, len(providers))
	for _, p := range providers {
		if !p.Own {
			names = append(names, p.Name)
		}
	}
	return strings.Join(names, ", ")
}
