package assembly

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"mailriver/pkg/avro"
	"mailriver/pkg/clickhouse"
	"mailriver/pkg/kafka"
	"mailriver/schemas"
)

// Step is one thing that setup did, or found done.
type Step struct {
	What string `json:"what"` // "topic", "schema", "migration"
	Name string `json:"name"`
	Done string `json:"done"` // "created", "registered", "applied", "present"
}

// Setup makes what is missing: topics, schemas, ClickHouse migrations. It
// changes nothing that exists, and doing it twice does nothing the second time.
// It reports each step as it is done.
func Setup(ctx context.Context, p *Process, report func(Step)) error {
	admin, err := p.Clients.Admin()
	if err != nil {
		return err
	}
	defer admin.Close()
	declared, err := kafka.Declared(p.Config.Kafka.TopicPrefix)
	if err != nil {
		return err
	}
	missing, err := kafka.MissingTopics(ctx, admin, declared)
	if err != nil {
		return fmt.Errorf("kafka at %s: %w", strings.Join(p.Config.Kafka.Brokers, ", "), err)
	}
	if err := kafka.CreateTopics(ctx, admin, missing, p.Config.Kafka.ReplicationFactor); err != nil {
		return err
	}
	absent := map[string]bool{}
	for _, t := range missing {
		absent[t.Name] = true
	}
	for _, t := range declared {
		report(Step{"topic", t.Name, done(absent[t.Name], "created")})
	}

	registry, err := avro.Open(p.Config.Registry)
	if err != nil {
		return err
	}
	for _, value := range values(p.Config.Kafka.Topics()) {
		_, err = avro.Lookup(ctx, registry, value.topic, value.schema)
		unregistered := errors.Is(err, avro.ErrNotRegistered)
		if err != nil && !unregistered {
			return err
		}
		id, err := avro.Register(ctx, registry, value.topic, value.schema)
		if err != nil {
			return err
		}
		report(Step{"schema", fmt.Sprintf("%s (id %d)", avro.Subject(value.topic), id), done(unregistered, "registered")})
	}

	client, migrations, err := p.clickHouse()
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // nothing is in flight
	applied, err := client.Migrate(ctx, migrations)
	for _, name := range applied {
		report(Step{"migration", name, "applied"})
	}
	if err != nil {
		return err
	}
	if len(applied) == 0 {
		report(Step{"migration", "all", "present"})
	}
	return nil
}

// values lists the topics whose values are Avro. A registry that hands out ids in
// order, as the embedded one does, gives them in the order of this list: it only
// grows at its end.
func values(topics kafka.Topics) []struct{ topic, schema string } {
	return []struct{ topic, schema string }{
		{topics.Events, schemas.EmailEventV1},
		{topics.Suppressions, schemas.SuppressionV1},
		{topics.Alerts, schemas.AlertV1},
		{topics.LeadScores, schemas.LeadScoreV1},
		{topics.LeadSignals, schemas.LeadSignalV1},
		{topics.Segments, schemas.SegmentV1},
	}
}

func done(now bool, verb string) string {
	if now {
		return verb
	}
	return "present"
}

// Pending returns what setup would do, for the given services. They refuse to
// start while there is anything.
func Pending(ctx context.Context, p *Process, needs Needs) ([]string, error) {
	var pending []string
	if needs.Kafka {
		admin, err := p.Clients.Admin()
		if err != nil {
			return nil, err
		}
		defer admin.Close()
		names, err := pendingTopics(ctx, admin, p.Config.Kafka)
		if err != nil {
			return nil, err
		}
		pending = append(pending, names...)
	}
	if needs.Registry {
		registry, err := avro.Open(p.Config.Registry)
		if err != nil {
			return nil, err
		}
		for _, value := range values(p.Config.Kafka.Topics()) {
			_, err = avro.Lookup(ctx, registry, value.topic, value.schema)
			switch {
			case errors.Is(err, avro.ErrNotRegistered):
				pending = append(pending, "schema "+avro.Subject(value.topic))
			case err != nil:
				return nil, err
			}
		}
	}
	if needs.ClickHouse {
		client, migrations, err := p.clickHouse()
		if err != nil {
			return nil, err
		}
		defer func() { _ = client.Close() }() // nothing is in flight
		names, err := client.Pending(ctx, migrations)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			pending = append(pending, "migration "+name)
		}
	}
	return pending, nil
}

func pendingTopics(ctx context.Context, admin *kadm.Client, cfg kafka.Config) ([]string, error) {
	declared, err := kafka.Declared(cfg.TopicPrefix)
	if err != nil {
		return nil, err
	}
	missing, err := kafka.MissingTopics(ctx, admin, declared)
	if err != nil {
		return nil, fmt.Errorf("kafka at %s: %w", strings.Join(cfg.Brokers, ", "), err)
	}
	var names []string
	for _, t := range missing {
		names = append(names, "topic "+t.Name)
	}
	return names, nil
}

// clickHouse opens a client and reads the migrations of this build.
func (p *Process) clickHouse() (*clickhouse.Client, clickhouse.Migrations, error) {
	migrations, err := clickhouse.ReadMigrations(schemas.ClickHouse)
	if err != nil {
		return nil, clickhouse.Migrations{}, err
	}
	password, err := p.Config.resolve(p.Config.ClickHouse.Password)
	if err != nil {
		return nil, clickhouse.Migrations{}, fmt.Errorf("clickhouse.password: %w", err)
	}
	client, err := clickhouse.Open(p.Config.ClickHouse, password)
	return client, migrations, err
}
