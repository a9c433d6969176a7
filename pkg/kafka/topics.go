package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"go.yaml.in/yaml/v3"

	"mailriver/schemas"
)

// Topics are the full names of the topics, prefix included.
type Topics struct {
	Raw            string // webhook requests, byte for byte
	Events         string // canonical events
	Dead           string // what could not be processed
	Dedup          string // marks of published events, by raw partition
	Suppressions   string // state of each suppressed address
	Rates          string // counters by sender domain and hour
	Alerts         string // crossings of complaint and bounce rates
	LeadScores     string // where each recipient stands
	LeadSignals    string // stages that were entered or left
	LeadDeliveries string // what became of each signal at each webhook, by partition of the signal
	Segments       string // segments that were entered or left
}

// Topics returns the names under the configured prefix.
func (c Config) Topics() Topics {
	return Topics{
		Raw:            c.TopicPrefix + "raw.v1",
		Events:         c.TopicPrefix + "events.v1",
		Dead:           c.TopicPrefix + "dead.v1",
		Dedup:          c.TopicPrefix + "dedup.v1",
		Suppressions:   c.TopicPrefix + "suppressions.v1",
		Rates:          c.TopicPrefix + "rates.v1",
		Alerts:         c.TopicPrefix + "alerts.v1",
		LeadScores:     c.TopicPrefix + "lead-scores.v1",
		LeadSignals:    c.TopicPrefix + "lead-signals.v1",
		LeadDeliveries: c.TopicPrefix + "lead-deliveries.v1",
		Segments:       c.TopicPrefix + "segments.v1",
	}
}

// Topic is a declared topic.
type Topic struct {
	Name       string // full name
	About      string
	Partitions int32
	Config     map[string]string
}

// Declared returns the topics of schemas/topics.yaml under the prefix.
func Declared(prefix string) ([]Topic, error) {
	var file struct {
		Topics []struct {
			Name       string
			About      string
			Partitions int32
			Config     map[string]string
		}
	}
	if err := yaml.Unmarshal(schemas.Topics, &file); err != nil {
		return nil, fmt.Errorf("topics.yaml: %w", err)
	}
	topics := make([]Topic, 0, len(file.Topics))
	for _, t := range file.Topics {
		topics = append(topics, Topic{Name: prefix + t.Name, About: t.About, Partitions: t.Partitions, Config: t.Config})
	}
	return topics, nil
}

// MissingTopics returns the declared topics that do not exist.
func MissingTopics(ctx context.Context, admin *kadm.Client, declared []Topic) ([]Topic, error) {
	names := make([]string, len(declared))
	for i, t := range declared {
		names[i] = t.Name
	}
	existing, err := admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	var missing []Topic
	for _, t := range declared {
		detail, listed := existing[t.Name]
		switch {
		case !listed, errors.Is(detail.Err, kerr.UnknownTopicOrPartition):
			missing = append(missing, t)
		case detail.Err != nil:
			return nil, fmt.Errorf("list topic %s: %w", t.Name, detail.Err)
		}
	}
	return missing, nil
}

// CreateTopics creates the given topics, with the broker's own replication
// where factor is 0, and returns when the cluster lists them: a broker answers a
// creation before every other one knows of it. A topic that exists meanwhile is
// left as it is.
func CreateTopics(ctx context.Context, admin *kadm.Client, topics []Topic, factor int16) error {
	if factor == 0 {
		factor = -1
	}
	var errs []error
	for _, t := range topics {
		config := make(map[string]*string, len(t.Config))
		for key, value := range t.Config {
			config[key] = &value
		}
		_, err := admin.CreateTopic(ctx, t.Partitions, factor, config, t.Name)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			errs = append(errs, fmt.Errorf("create topic %s: %w", t.Name, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for {
		missing, err := MissingTopics(ctx, admin, topics)
		if err == nil && len(missing) == 0 {
			return nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("created topics are not listed yet: %s: %w", Names(missing), errors.Join(err, ctx.Err()))
		}
	}
}

// Names lists the names of topics, for messages.
func Names(topics []Topic) string {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.Name
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
