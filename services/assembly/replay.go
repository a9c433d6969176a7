package assembly

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/avro"
	"mailriver/pkg/esp/all"
	"mailriver/pkg/eventavro"
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
