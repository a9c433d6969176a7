// Package kafka makes every Kafka client of the process, and holds the loops
// that are easy to get wrong: exactly-once transactions and dead letters.
//
// Its clients read committed, start at the beginning of a topic, and never
// commit by themselves. There is no interface over kgo.Client on purpose: tests
// run against a broker that speaks the protocol (package kafkatest). What a
// record means is the business of the services.
package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/twmb/franz-go/plugin/kotel"
	"github.com/twmb/franz-go/plugin/kslog"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// MaxRecordBytes is the largest record of the raw and the dead-letter topic:
// Mandrill posts up to 16 MiB. schemas/topics.yaml allows it on the broker.
const MaxRecordBytes = 20 << 20

// Deps are what every client reports to. All are required but Password.
type Deps struct {
	ClientID   string
	Password   string // resolved sasl.password
	Logger     *slog.Logger
	Meter      metric.MeterProvider
	Tracer     trace.TracerProvider
	Propagator propagation.TextMapPropagator
}

// Clients makes clients of one cluster. It holds no connection itself.
type Clients struct {
	cfg  Config
	opts []kgo.Opt
}

// NewClients reads the TLS files and checks the configuration; it does not
// connect.
func NewClients(cfg Config, deps Deps) (*Clients, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Logger == nil || deps.Meter == nil || deps.Tracer == nil || deps.Propagator == nil {
		return nil, errors.New("kafka: a dependency is missing")
	}
	telemetry := kotel.NewKotel(
		kotel.WithMeter(kotel.NewMeter(kotel.MeterProvider(deps.Meter))),
		kotel.WithTracer(kotel.NewTracer(kotel.TracerProvider(deps.Tracer), kotel.TracerPropagator(deps.Propagator))),
	)
	opts := []kgo.Opt{
		kgo.SeedBrokers(cfg.Brokers...),
		kgo.ClientID(deps.ClientID),
		kgo.WithLogger(kslog.New(slog.New(quiet{deps.Logger.Handler()}).With("component", "kafka"))),
		kgo.WithHooks(telemetry.Hooks()...),
	}
	if cfg.TLS.Enabled {
		config, err := cfg.TLS.config()
		if err != nil {
			return nil, fmt.Errorf("kafka: tls: %w", err)
		}
		opts = append(opts, kgo.DialTLSConfig(config))
	}
	switch cfg.SASL.Mechanism {
	case "plain":
		opts = append(opts, kgo.SASL(plain.Auth{User: cfg.SASL.Username, Pass: deps.Password}.AsMechanism()))
	case "scram-sha-256":
		opts = append(opts, kgo.SASL(scram.Auth{User: cfg.SASL.Username, Pass: deps.Password}.AsSha256Mechanism()))
	case "scram-sha-512":
		opts = append(opts, kgo.SASL(scram.Auth{User: cfg.SASL.Username, Pass: deps.Password}.AsSha512Mechanism()))
	}
	return &Clients{cfg: cfg, opts: opts}, nil
}

func (c TLS) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s holds no PEM certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func (c *Clients) with(opts ...kgo.Opt) []kgo.Opt {
	return append(append([]kgo.Opt(nil), c.opts...), opts...)
}

// producing is what every producer has: acknowledged by all in-sync replicas,
// idempotent (kgo's default), and able to write the largest raw record.
func producing() []kgo.Opt {
	return []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchMaxBytes(MaxRecordBytes),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // Kafka's own murmur2 by key
	}
}

// consuming is what every consumer has. Fetches are bounded: a backlog must not
// become memory.
func consuming() []kgo.Opt {
	return []kgo.Opt{
		// Without it the transactions of the normalizer mean nothing.
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		// After retention took what was not read yet, go on with the oldest
		// that is left; the log says what was lost.
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(16 << 20),
		kgo.FetchMaxPartitionBytes(2 << 20),
		kgo.MaxConcurrentFetches(2),
	}
}

// Producer returns a client that only produces.
func (c *Clients) Producer(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(c.with(append(producing(), opts...)...)...)
}

// sessionTimeout is how long a group waits for a member that says nothing, and
// so for one that was killed: nobody works on its partitions meanwhile, and with
// the classic protocol a restarted one waits too. kgo's default is 45 s.
const sessionTimeout = 15 * time.Second

// transactionTimeout is after what time the broker aborts a transaction whose
// owner is gone.
const transactionTimeout = 30 * time.Second

// Group returns a client that consumes topics in a group, commits only when
// told, and can produce (dead letters).
func (c *Clients) Group(group string, topics []string, opts ...kgo.Opt) (*kgo.Client, error) {
	base := append(producing(), consuming()...)
	base = append(base, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topics...), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(sessionTimeout))
	return kgo.NewClient(c.with(append(base, opts...)...)...)
}

// Session returns a session that consumes topics in a group and produces in
// transactions. The transactional id must be unique among live instances and
// should be the same after a restart: then the restart ends the transaction
// that a crash left open at once, instead of when it times out.
func (c *Clients) Session(group, transactionalID string, topics []string, opts ...kgo.Opt) (*kgo.GroupTransactSession, error) {
	base := append(producing(), consuming()...)
	base = append(base,
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topics...),
		kgo.SessionTimeout(sessionTimeout),
		// A member that does not join a rebalance holds up all others for this
		// long. After it, its transaction has timed out anyway.
		kgo.RebalanceTimeout(transactionTimeout),
		kgo.TransactionalID(transactionalID),
		kgo.RecordPartitioner(c.pinned()),
		kgo.TransactionTimeout(transactionTimeout),
	)
	return kgo.NewGroupTransactSession(c.with(append(base, opts...)...)...)
}

// Reader returns a client that reads without a group and commits nothing. The
// caller says what to consume, and from where.
func (c *Clients) Reader(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(c.with(append(consuming(), opts...)...)...)
}

// Admin returns a client for topics, offsets and groups. Closing it closes its
// connections.
func (c *Clients) Admin() (*kadm.Client, error) {
	// What an administrator asks for is what is so now, not what the client
	// heard some seconds ago.
	client, err := kgo.NewClient(c.with(kgo.MetadataMinAge(50 * time.Millisecond))...)
	if err != nil {
		return nil, err
	}
	return kadm.NewClient(client), nil
}

// pinned leaves the partition of some topics' records to their producer, and
// those of all others to the partitioner behind it.
type pinned struct {
	topics []string
	kgo.Partitioner
}

// pinned is about the topics whose records lie on the partition number of what
// they came from.
func (c *Clients) pinned() pinned {
	topics := c.cfg.Topics()
	return pinned{[]string{topics.Dedup, topics.LeadDeliveries}, kgo.StickyKeyPartitioner(nil)}
}

func (p pinned) ForTopic(topic string) kgo.TopicPartitioner {
	if slices.Contains(p.topics, topic) {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return p.Partitioner.ForTopic(topic)
}

// quiet keeps the client's INFO lines, a dozen for each rebalance, for when the
// process is asked to debug.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	if level < slog.LevelWarn {
		level = slog.LevelDebug
	}
	return q.Handler.Enabled(ctx, level)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.Handler.WithGroup(name)} }
