package clickhouse

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	"mailriver/pkg/config"
)

// DefaultDatabase is used when the URL names none.
const DefaultDatabase = "mailriver"

// Config says where ClickHouse is.
type Config struct {
	// URL is http://host:8123/database or https://, or clickhouse://host:9000/database
	// for the native protocol, with user:password@ where needed. Several hosts
	// are separated by commas. Its query may hold secure=true (TLS on the native
	// protocol) and compress=none|lz4|zstd.
	URL string `yaml:"url"`
	// Password of the URL's user, when the URL does not hold it.
	Password config.Secret `yaml:"password"`
	// Cluster is the name of the ClickHouse cluster. When set, tables are
	// replicated and distributed.
	Cluster string `yaml:"cluster"`
	// DialTimeout bounds one attempt to connect.
	DialTimeout time.Duration `yaml:"dial_timeout"`
}

// DefaultConfig is one server on this machine, over HTTP.
func DefaultConfig() Config {
	return Config{URL: "http://localhost:8123/" + DefaultDatabase, DialTimeout: 5 * time.Second}
}

// Validate reports everything that is wrong. It never shows the URL's secrets.
func (c Config) Validate() error {
	var problems config.Problems
	if _, err := c.endpoint(); err != nil {
		problems.Add(fmt.Errorf("url: %w", err))
	}
	if u, err := url.Parse(c.URL); err == nil && !c.Password.IsZero() {
		_, both := u.User.Password()
		problems.Must(!both, "password: the url holds one too")
	}
	problems.Must(c.Cluster == "" || identifier.MatchString(c.Cluster),
		"cluster: is %q, want letters, digits, _ and -", c.Cluster)
	problems.Must(c.DialTimeout > 0, "dial_timeout: is %s, must be positive", c.DialTimeout)
	return problems.Err()
}

// identifier is what a cluster or a database may be called. It keeps names out
// of the reach of quoting.
var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

// endpoint is a URL taken apart.
type endpoint struct {
	protocol    driver.Protocol
	hosts       []string
	tls         bool
	auth        driver.Auth
	compression driver.CompressionMethod
}

func (c Config) endpoint() (endpoint, error) {
	if c.URL == "" {
		return endpoint{}, errors.New("is required")
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		// The text of err repeats the URL, secrets included.
		return endpoint{}, errors.New("is not a URL")
	}
	e := endpoint{auth: driver.Auth{Database: strings.Trim(u.Path, "/"), Username: "default"}}
	port := ""
	switch u.Scheme {
	case "http":
		e.protocol, port = driver.HTTP, "8123"
	case "https":
		e.protocol, port, e.tls = driver.HTTP, "8443", true
	case "clickhouse":
		e.protocol, port, e.compression = driver.Native, "9000", driver.CompressionLZ4
	default:
		return endpoint{}, fmt.Errorf("scheme is %q, want http, https or clickhouse", u.Scheme)
	}
	for key, values := range u.Query() {
		switch value := values[len(values)-1]; key {
		case "secure":
			if value != "true" && value != "false" {
				return endpoint{}, fmt.Errorf("secure is %q, want true or false", value)
			}
			if value == "true" && e.protocol == driver.Native {
				e.tls, port = true, "9440"
			}
		case "compress":
			switch value {
			case "none":
				e.compression = driver.CompressionNone
			case "lz4":
				e.compression = driver.CompressionLZ4
			case "zstd":
				e.compression = driver.CompressionZSTD
			default:
				return endpoint{}, fmt.Errorf("compress is %q, want none, lz4 or zstd", value)
			}
		default:
			return endpoint{}, fmt.Errorf("%q is not a setting of the URL, want secure or compress", key)
		}
	}
	for host := range strings.SplitSeq(u.Host, ",") {
		if host == "" {
			return endpoint{}, errors.New("has no host")
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		e.hosts = append(e.hosts, host)
	}
	if user := u.User.Username(); user != "" {
		e.auth.Username = user
	}
	e.auth.Password, _ = u.User.Password()
	if e.auth.Database == "" {
		e.auth.Database = DefaultDatabase
	}
	if !identifier.MatchString(e.auth.Database) {
		return endpoint{}, fmt.Errorf("database is %q, want letters, digits, _ and -", e.auth.Database)
	}
	return e, nil
}

func (e endpoint) options(dialTimeout time.Duration, database string) *driver.Options {
	options := &driver.Options{
		Protocol:    e.protocol,
		Addr:        e.hosts,
		Auth:        e.auth,
		DialTimeout: dialTimeout,
		// A dead server must not hold an insert that has no deadline of its own.
		ReadTimeout: 5 * time.Minute,
		// Room for every insert in flight, the CLI and the readiness check.
		MaxOpenConns: 16,
		MaxIdleConns: 8,
		Compression:  &driver.Compression{Method: e.compression},
		ClientInfo:   driver.ClientInfo{Products: []struct{ Name, Version string }{{Name: "mailriver"}}},
	}
	options.Auth.Database = database
	if e.tls {
		options.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return options
}
