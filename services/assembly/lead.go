package assembly

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/apiclient"
	"mailriver/pkg/avro"
	"mailriver/pkg/config"
	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/fault"
	"mailriver/pkg/httpcall"
	"mailriver/pkg/kafka"
	"mailriver/pkg/lead/leadapi"
)

// LeadscoringClient returns a client of the lead scoring API.
func LeadscoringClient(cfg Config) (*leadapi.Client, error) {
	key, err := cfg.resolve(cfg.LeadscoringClient.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: leadscoring_client.key: %w", ErrConfig, err)
	}
	c, err := leadapi.New(cfg.LeadscoringClient, apiclient.Deps{Key: key, Now: time.Now, Sleep: httpcall.Sleep})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, config.Prefix("leadscoring_client.", err))
	}
	return c, nil
}

// Events calls each with the canonical events of a span of the topic, and start
// with the number of its offsets before. Records that cannot be read are left out
// and counted. It joins no group and moves no offset.
func Events(ctx context.Context, p *Process, from, to kafka.Moment, start func(offsets int64), each func(*event.Event)) (unread int, err error) {
	registry, err := avro.Open(p.Config.Registry)
	if err != nil {
		return 0, err
	}
	span, err := p.Clients.Span(ctx, p.Config.Kafka.Topics().Events, from, to)
	if err != nil {
		return 0, err
	}
	start(span.Len())
	decoder := eventavro.NewDecoder(registry)
	err = p.Clients.Read(ctx, span, func(r *kgo.Record) error {
		e, err := decoder.Decode(ctx, r.Value)
		if _, permanent := fault.Reason(err); permanent {
			unread++
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", kafka.Origin(r), err)
		}
		each(&e)
		return nil
	})
	return unread, errors.Join(err, ctx.Err())
}
