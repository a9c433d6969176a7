package assembly

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"mailriver/pkg/config"
	"mailriver/pkg/simulate"
)

// SimulatedSources returns what the simulator needs to post to the configured
// sources: their own keys where those sign, and the private halves of keys
// where the configuration holds public ones. The base is the URL of the
// receiver. Sources of providers that cannot be simulated are left out; only,
// if not empty, names those that are wanted.
func SimulatedSources(cfg Config, keys simulate.Keys, base string, only []string) ([]simulate.Source, error) {
	base = strings.TrimSuffix(base, "/")
	var sources []simulate.Source
	var problems config.Problems
	for _, s := range cfg.Sources {
		if len(only) > 0 && !slices.Contains(only, s.Name) {
			continue
		}
		if !slices.Contains(simulate.Providers(), s.Provider) {
			problems.Must(len(only) == 0, "source %s: %s cannot be simulated", s.Name, s.Provider)
			continue
		}
		c := simulate.Configured{URL: s.URL, TopicARNs: s.TopicARNs, CertHosts: s.CertHosts}
		for i, secret := range s.Keys {
			text, err := cfg.resolve(secret)
			problems.Add(config.Prefix(fmt.Sprintf("source %s: keys[%d]: ", s.Name, i), err))
			c.Keys = append(c.Keys, text)
		}
		if len(s.BasicAuth) > 0 {
			text, err := cfg.resolve(s.BasicAuth[0])
			problems.Add(config.Prefix(fmt.Sprintf("source %s: basic_auth[0]: ", s.Name), err))
			c.BasicAuth = text
		}
		out, err := keys.Source(s.Name, s.Provider, base+"/webhooks/"+s.Name, c)
		problems.Add(config.Prefix(fmt.Sprintf("source %s: ", s.Name), err))
		sources = append(sources, out)
	}
	for _, name := range only {
		problems.Must(slices.ContainsFunc(sources, func(s simulate.Source) bool { return s.Name == name }),
			"source %s: is not in the configuration", name)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if len(sources) == 0 {
		return nil, errors.New("the configuration has no source that can be simulated")
	}
	return sources, nil
}

// LocalURL returns the base URL, on this machine, of a server that listens on
// an address.
func LocalURL(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "http://" + addr
	}
	if host == "" || net.ParseIP(host).IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// CertHost returns where the simulated sources expect SNS certificates, or "".
func CertHost(sources []simulate.Source) string {
	for _, s := range sources {
		if rest, ok := strings.CutPrefix(s.CertURL, "https://"); ok {
			host, _, _ := strings.Cut(rest, "/")
			return host
		}
	}
	return ""
}
