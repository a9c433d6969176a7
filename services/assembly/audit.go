package assembly

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/audit"
	"mailriver/pkg/avro"
	"mailriver/pkg/esp/all"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/kafka"
	"mailriver/schemas"
	"mailriver/services/normalizer"
)

// Audit makes an auditor of the configured river. What a raw record should have
// become, the normalizer's own transform says. The caller calls closeAudit.
func Audit(ctx context.Context, p *Process) (auditor *audit.Auditor, closeAudit func() error, err error) {
	topics := p.Config.Kafka.Topics()
	transformer, decoder, err := p.transformer(ctx)
	if err != nil {
		return nil, nil, err
	}
	client, _, err := p.clickHouse()
	if err != nil {
		return nil, nil, err
	}
	auditor, err = audit.New(audit.Deps{
		Clients: p.Clients, Topics: topics,
		NormalizerGroup: p.Config.Normalizer.Group, LoaderGroup: p.Config.Loader.Group,
		Transform: func(r *kgo.Record) audit.Made { return expected(transformer.Transform(r)) },
		Decode:    decoder.Decode,
		Warehouse: audit.ClickHouse{Client: client},
	})
	return auditor, client.Close, err
}

// transformer returns what the normalizer of this build makes of a raw record,
// and the decoder of what it writes.
func (p *Process) transformer(ctx context.Context) (*normalizer.Transformer, *eventavro.Decoder, error) {
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
	transformer := normalizer.NewTransformer(all.Providers(), encoder, topics, p.Version, time.Now)
	return transformer, eventavro.NewDecoder(registry), nil
}

func expected(made normalizer.Made) audit.Made {
	out := audit.Made{ReceivedAt: made.ReceivedAt}
	for _, c := range made.Events {
		out.Events = append(out.Events, audit.Expected{ID: c.Event.ID, Index: c.Event.RawEventIndex})
	}
	for _, letter := range made.Letters {
		for _, h := range letter.Headers {
			if h.Key == kafka.HeaderOrigin {
				out.Letters = append(out.Letters, string(h.Value))
				break
			}
		}
	}
	return out
}
