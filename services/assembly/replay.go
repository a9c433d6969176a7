package assembly

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/avro"
	"mailriver/pkg/esp/all"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/kafka"
	"mailriver/pkg/replay"
	"mailriver/schemas"
	"mailriver/services/normalizer"
)

// replayLease is how long the loader waits for a replay that was killed.
const replayLease = 30 * time.Second

// Replay returns a replay of the normalizer of this build, and what closes it.
// Wait bounds each wait for another part; progress may be nil.
func Replay(
	ctx context.Context, p *Process, wait time.Duration, progress func(step string, done, total int64),
) (*replay.Replay, func() error, error) {
	topics := p.Config.Kafka.Topics()
	registry, err := avro.Open(p.Config.Registry)
	if err != nil {
		return nil, nil, err
	}
	id, err := eventavro.Lookup(ctx, registry, topics.Events)
	if err != nil {
		return nil, nil, err
	}
	encoder, err := eventavro.NewEncoder(schemas.EmailEventV1, id)
	if err != nil {
		return nil, nil, err
	}
	client, _, err := p.clickHouse()
	if err != nil {
		return nil, nil, err
	}
	transformer := normalizer.NewTransformer(all.Providers(), encoder, topics, p.Version, time.Now)
	r, err := replay.New(replay.Deps{
		Clients: p.Clients, Topics: topics, Store: client, Decoder: eventavro.NewDecoder(registry), Encoder: encoder,
		Transform:       canonical(transformer),
		NormalizerGroup: p.Config.Normalizer.Group, LoaderGroup: p.Config.Loader.Group,
		TransactionalID: "mailriver.replay." + topics.Events, DedupWindow: p.Config.Normalizer.DedupWindow,
		Holder: fmt.Sprintf("replay on %s, process %d", p.Config.instance(), os.Getpid()),
		Lease:  replayLease, Wait: wait, Progress: progress,
	})
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return r, client.Close, nil
}

// ReplayLoader is the consumer whose state is in ClickHouse: a [Replay] brings it
// to the canonical topic. Every other one of [ReplayConsumers] is rewound.
const ReplayLoader = "loader"

// ReplayConsumers returns the names of the consumers whose state can be rebuilt.
// The rates of the suppression service are not among them: counters that are
// counted again are wrong.
func ReplayConsumers() []string {
	names := []string{ReplayLoader}
	for _, g := range (Config{}).rewindable() {
		names = append(names, g.Consumer)
	}
	return names
}

// CheckConsumer reports a name that is not in [ReplayConsumers].
func CheckConsumer(name string) error {
	if known := ReplayConsumers(); !slices.Contains(known, name) {
		return fmt.Errorf("consumer: is %q; the state of these can be rebuilt: %s", name, strings.Join(known, ", "))
	}
	return nil
}

// rewindable are the consumers whose state is a function of the set of events.
func (c Config) rewindable() []replay.Group {
	events := c.Kafka.Topics().Events
	return []replay.Group{
		{Consumer: "suppression", Name: c.Suppression.Group, Topic: events},
		{Consumer: "leadscoring", Name: c.Leadscoring.Group, Topic: events},
	}
}

// Rewind sets a consumer back to a moment. It must not be running.
func Rewind(
	ctx context.Context, p *Process, consumer string, from kafka.Moment, wait time.Duration,
) ([]replay.Rewound, error) {
	for _, g := range p.Config.rewindable() {
		if g.Consumer == consumer {
			return replay.Rewind(ctx, p.Clients, g, from, wait)
		}
	}
	return nil, CheckConsumer(consumer)
}

// canonical is the part of a transform that a replay wants: the events.
func canonical(t *normalizer.Transformer) func(*kgo.Record) []replay.Canonical {
	return func(in *kgo.Record) []replay.Canonical {
		made := t.Transform(in)
		events := make([]replay.Canonical, len(made.Events))
		for i, c := range made.Events {
			events[i] = replay.Canonical{Event: c.Event, Record: c.Record}
		}
		return events
	}
}
