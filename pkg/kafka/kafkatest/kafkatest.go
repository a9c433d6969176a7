// Package kafkatest gives a test a broker with the declared topics on it, and
// what a test needs to write and read.
//
// The broker is an in-process one that speaks the Kafka protocol. With
// KAFKA_BROKERS set (comma-separated addresses) it is the cluster there, shared
// by all tests: each test then has topics and groups of its own by a prefix.
package kafkatest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
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

// Cluster is what one test sees of a broker.
type Cluster struct {
	Fake    *kfake.Cluster // nil on a real cluster
	Config  kafka.Config
	Topics  kafka.Topics
	Clients *kafka.Clients
}

// New returns a cluster with the declared topics. What it starts ends with the
// test.
func New(t testing.TB, opts ...kfake.Opt) *Cluster {
	t.Helper()
	config := kafka.DefaultConfig()
	c := &Cluster{}
	if brokers := os.Getenv("KAFKA_BROKERS"); brokers != "" {
		config.Brokers = strings.Split(brokers, ",")
		config.TopicPrefix = fmt.Sprintf("test-%x.", rand.Uint64())
	} else {
		opts = append([]kfake.Opt{
			kfake.NumBrokers(1),
			kfake.BrokerConfigs(map[string]string{"message.max.bytes": "20971520"}),
		}, opts...)
		fake, err := kfake.NewCluster(opts...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(fake.Close)
		c.Fake = fake
		config.Brokers = fake.ListenAddrs()
	}
	c.Config, c.Topics, c.Clients = config, config.Topics(), Clients(t, config)
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
	if err := kafka.CreateTopics(ctx, admin, declared, 0); err != nil {
		t.Fatal(err)
	}
	return c
}

// NeedFake skips a test that makes the broker misbehave, where that is a real
// one.
func (c *Cluster) NeedFake(t testing.TB) {
	t.Helper()
	if c.Fake == nil {
		t.Skip("needs a broker that can be made to misbehave; KAFKA_BROKERS names a real one")
	}
}

// Group returns the name of a group that is this test's own.
func (c *Cluster) Group(name string) string { return c.Config.TopicPrefix + name }

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
