package assembly

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/audit"
	"mailriver/pkg/clickhouse"
	"mailriver/pkg/dead"
	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
	"mailriver/services/normalizer"
)

// Dead makes a box of the dead-letter topic. What a raw record becomes today,
// the normalizer's own transform says. The caller calls closeBox.
func Dead(ctx context.Context, p *Process) (box *dead.Box, closeBox func() error, err error) {
	transformer, decoder, err := p.transformer(ctx)
	if err != nil {
		return nil, nil, err
	}
	client, _, err := p.clickHouse()
	if err != nil {
		return nil, nil, err
	}
	box, err = dead.New(dead.Deps{
		Clients: p.Clients, Topics: p.Config.Kafka.Topics(),
		NormalizerGroup: p.Config.Normalizer.Group,
		TransactionalID: "mailriver.dead." + p.Config.Normalizer.Group,
		DedupWindow:     p.Config.Normalizer.DedupWindow,
		Transform:       func(r *kgo.Record) dead.Made { return today(transformer.Transform(r)) },
		Decode:          decoder.Decode,
		Table:           deadTable{client},
		Now:             time.Now,
	})
	return box, client.Close, err
}

// today is what a raw record becomes, by element.
func today(made normalizer.Made) dead.Made {
	out := dead.Made{ReceivedAt: made.ReceivedAt}
	for _, c := range made.Events {
		out.Events = append(out.Events, c.Event.RawEventIndex)
	}
	for _, letter := range made.Letters {
		no := dead.Refusal{Index: -1}
		for _, h := range letter.Headers {
			switch h.Key {
			case kafka.HeaderReason:
				no.Reason = string(h.Value)
			case kafka.HeaderError:
				no.Error = string(h.Value)
			case kafka.HeaderOrigin:
				no.Index = dead.Element(string(h.Value))
			}
		}
		out.Refused = append(out.Refused, no)
	}
	return out
}

// deadTable is where letters of the loader go: the loader's own sink. It stays
// away while a replay swaps a partition, which would lose the row.
type deadTable struct{ client *clickhouse.Client }

// errFenced leaves the letter open.
var errFenced = errors.New("a replay is changing ClickHouse: retry letters of the loader when it is done")

// Insert implements [dead.Table].
func (t deadTable) Insert(ctx context.Context, token string, rows []event.Event) error {
	fenced := func() error {
		closed, err := t.client.Closed(ctx)
		if err == nil && closed {
			err = errFenced
		}
		return err
	}
	if err := fenced(); err != nil {
		return err
	}
	if err := t.client.Insert(ctx, token, rows); err != nil {
		return err
	}
	// Set in between, it may lose the row or not. The next retry looks.
	return fenced()
}

// Has implements [dead.Table].
func (t deadTable) Has(ctx context.Context, id event.ID) (bool, error) {
	rows, err := audit.ClickHouse{Client: t.client}.Find(ctx, []event.ID{id})
	return len(rows) > 0, err
}
