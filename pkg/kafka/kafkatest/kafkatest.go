// Package kafkatest gives a test a broker that speaks the Kafka protocol, with
// the declared topics on it, and what a test needs to write and read.
package kafkatest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"mailriver/pkg/kafka"
)

// Patience is how long a test waits for what must happen. It is a bound on a
// hang, not a claim about speed.
const Patience = 60 * time.Second

// Cluster is a broker of one test.
type Cluster struct {
	Fake    *kfake.Cluster
	Config  kafka.Config
	Topics  kafka.Topics
	Clients *kafka.Clients
}

// New starts a broker and creates the declared topics. It ends with the test.
func New(t testing.TB, opts ...kfake.Opt) *Cluster {
	t.Helper()
	opts = append([]kfake.Opt{
		kfake.NumBrokers(1),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": "20971520"}),
	}, opts...)
	fake, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	config := kafka.DefaultConfig()
	config.Brokers = fake.ListenAddrs()
	c := &Cluster{Fake: fake, Config: config, Topics: config.Topics(), Clients: Clients(t, config)}
	declared, err := kafka.Declared(config.TopicPrefix)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := kafka.CreateTopics(ctx, admin, declared, 1); err != nil {
		t.Fatal(err)
	}
	return c
}

// Clients returns clients of a cluster that report nowhere.
func Clients(t testing.TB, config kafka.Config) *kafka.Clients {
	t.Helper()
	clients, err := kafka.NewClients(config, kafka.Deps{
		ClientID: t.Name(), Logger: slog.New(slog.DiscardHandler),
		Meter: metricnoop.NewMeterProvider(), Tracer: tracenoop.NewTracerProvider(), Propagator: propagation.TraceContext{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

// Produce writes records and waits until they are acknowledged.
func (c *Cluster) Produce(t testing.TB, records ...*kgo.Record) {
	t.Helper()
	client, err := c.Clients.Producer()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// Read returns the first n committed records of a topic, or fails.
func (c *Cluster) Read(t testing.TB, topic string, n int) []*kgo.Record {
	t.Helper()
	records := c.ReadWithin(t, topic, n, Patience)
	if len(records) < n {
		t.Fatalf("%s holds %d committed records after %s, want %d", topic, len(records), Patience, n)
	}
	return records
}

// ReadWithin returns the first n committed records of a topic, or what came
// within d.
func (c *Cluster) ReadWithin(t testing.TB, topic string, n int, d time.Duration) []*kgo.Record {
	t.Helper()
	client, err := c.Clients.Reader(kgo.ConsumeTopics(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var records []*kgo.Record
	for len(records) < n && ctx.Err() == nil {
		records = append(records, client.PollFetches(ctx).Records()...)
	}
	return records
}

// Header returns the first value of a header of a record.
func Header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}
