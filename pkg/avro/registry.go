package avro

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
)

// Registry is a client of a schema registry.
type Registry = sr.Client

// Config says where the schema registry is.
type Config struct {
	// URL is that of a registry with the Confluent API, with user:password@ for
	// basic authentication where needed.
	URL string `yaml:"url"`
}

// DefaultConfig is the port of design and of the embedded registry.
func DefaultConfig() Config { return Config{URL: "http://localhost:8081"} }

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("url: must be an http or https URL, for example http://localhost:8081")
	}
	return nil
}

// Open returns a client of the registry. It does not connect. User and password
// of the URL are sent as basic auth.
func Open(c Config) (*Registry, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("registry: url cannot be parsed") // the URL may hold a password
	}
	opts := []sr.ClientOpt{sr.HTTPClient(&http.Client{Timeout: 10 * time.Second})}
	if u.User != nil {
		password, _ := u.User.Password()
		opts = append(opts, sr.BasicAuth(u.User.Username(), password))
		u.User = nil
	}
	return sr.NewClient(append(opts, sr.URLs(u.String()))...)
}

// Subject returns the subject of the values of a topic.
func Subject(topic string) string { return topic + "-value" }

// ErrNotRegistered is returned while `mailriver setup` has not registered the
// schema of this build.
var ErrNotRegistered = errors.New("schema is not registered: run `mailriver setup`")

// Lookup returns the id of a schema under the topic's subject.
func Lookup(ctx context.Context, client *Registry, topic, schema string) (int, error) {
	found, err := client.LookupSchema(ctx, Subject(topic), sr.Schema{Schema: schema, Type: sr.TypeAvro})
	if answer, ok := errors.AsType[*sr.ResponseError](err); ok && answer.StatusCode == http.StatusNotFound {
		return 0, fmt.Errorf("registry: subject %s: %w", Subject(topic), ErrNotRegistered)
	}
	if err != nil {
		return 0, fmt.Errorf("registry: %w", err)
	}
	return found.ID, nil
}

// Register puts a schema under the topic's subject and demands
// FULL_TRANSITIVE compatibility of every later one. It changes nothing when
// both are so already, and returns the id.
func Register(ctx context.Context, client *Registry, topic, schema string) (id int, err error) {
	subject := Subject(topic)
	for _, set := range client.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFullTransitive}, subject) {
		if set.Err != nil {
			return 0, fmt.Errorf("registry: compatibility of %s: %w", subject, set.Err)
		}
	}
	created, err := client.CreateSchema(ctx, subject, sr.Schema{Schema: schema, Type: sr.TypeAvro})
	if err != nil {
		return 0, fmt.Errorf("registry: schema of %s: %w", subject, err)
	}
	return created.ID, nil
}
