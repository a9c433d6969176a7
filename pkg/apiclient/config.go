package apiclient

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"mailriver/pkg/config"
)

// Config says where an API is, and who asks it.
type Config struct {
	URL string `yaml:"url"` // base URL of the API
	// Key is an API key, as `mailriver api-key new` prints it. An API without
	// keys, which answers its own machine only, needs none.
	Key     config.Secret `yaml:"key"`
	Timeout time.Duration `yaml:"timeout"` // one request; for a file that comes, a pause in it
}

// DefaultConfig returns a configuration that is valid where url is one.
func DefaultConfig(url string) Config { return Config{URL: url, Timeout: 30 * time.Second} }

// Validate reports everything that is wrong. It does not look at the key.
func (c Config) Validate() error {
	var problems config.Problems
	_, err := c.base()
	problems.Add(err)
	problems.Must(c.Timeout > 0, "timeout: is %s, must be positive", c.Timeout)
	return problems.Err()
}

func (c Config) base() (*url.URL, error) {
	base, err := url.Parse(c.URL)
	switch {
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		// The error of Parse would show it.
		return nil, fmt.Errorf("url: is %q, must be http://host:port or https://host", config.RedactURL(c.URL))
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, errors.New("url: must hold no user, query or fragment")
	}
	return base, nil
}
