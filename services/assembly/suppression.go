package assembly

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/avro"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/httpserver"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/run"
	"mailriver/pkg/suppression/suppressionavro"
	"mailriver/pkg/unsubscribe"
	"mailriver/services/suppression"
	"mailriver/services/suppression/rates"
)

func buildSuppression(ctx context.Context, p *Process) (Part, error) {
	topics := p.Config.Kafka.Topics()
	registry, err := avro.Open(p.Config.Registry)
	if err != nil {
		return Part{}, err
	}
	id, err := suppressionavro.Lookup(ctx, registry, topics.Suppressions)
	if err != nil {
		return Part{}, err
	}
	encoder, err := suppressionavro.NewEncoder(id)
	if err != nil {
		return Part{}, err
	}
	// Whoever made a change is waiting: what is not written soon is told to have
	// failed, and is made again by hand.
	producer, err := p.Clients.Producer(kgo.RecordDeliveryTimeout(10 * time.Second))
	if err != nil {
		return Part{}, err
	}
	closeAll := func() error { producer.Close(); return nil }
	cfg, log := p.Config.Suppression, p.logger("suppression")
	transactionalID := p.transactionalID("suppression", cfg.TransactionalID)
	links, err := p.unsubscribeLinks()
	if err != nil {
		return Part{}, errors.Join(err, closeAll())
	}
	service, err := suppression.New(cfg, suppression.Deps{
		Open: func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error) {
			return p.Clients.Session(cfg.Group, transactionalID, []string{topics.Events}, opts...)
		},
		Reader: p.Clients.Reader, Admin: p.Clients.Admin, Producer: producer, Schemas: registry, Encoder: encoder,
		Links: links, Topics: topics, Dir: p.Config.dir("suppression"),
		Meter: p.Telemetry.Meter.Meter("mailriver/services/suppression"), Logger: log, Now: time.Now,
	})
	if err != nil {
		return Part{}, errors.Join(err, closeAll())
	}
	alerts, err := buildRates(ctx, p, registry, log)
	if err != nil {
		return Part{}, errors.Join(err, closeAll())
	}
	server, err := api.Listen(ctx, cfg.API, service.Routes, log)
	if err != nil {
		return Part{}, errors.Join(err, closeAll())
	}
	return Part{
		Run: []run.Service{
			{Name: "suppression", Run: service.Run},
			{Name: "suppression http", Run: server.Run},
			{Name: "suppression rates", Run: alerts.Run},
		},
		Checks: []httpserver.Check{
			{Name: "suppression", Ask: service.Ready},
			{Name: "suppression kafka", Ask: service.Connected, Optional: true},
			{Name: "suppression rates", Ask: alerts.Ready, Optional: true},
		},
		Close: closeAll,
	}, nil
}

// buildRates makes the alerts on complaint and hard-bounce rates.
func buildRates(ctx context.Context, p *Process, registry *avro.Registry, log *slog.Logger) (*rates.Service, error) {
	topics := p.Config.Kafka.Topics()
	id, err := rates.Lookup(ctx, registry, topics.Alerts)
	if err != nil {
		return nil, err
	}
	encoder, err := rates.NewEncoder(id)
	if err != nil {
		return nil, err
	}
	return rates.New(p.Config.Suppression.Rates, rates.Deps{
		Clients: p.Clients, Topics: topics, Instance: p.Config.instance(), Events: eventavro.NewDecoder(registry),
		Encoder: encoder, Decoder: rates.NewDecoder(registry),
		Meter: p.Telemetry.Meter.Meter("mailriver/services/suppression/rates"), Logger: log, Now: time.Now,
	})
}

// unsubscribeLinks returns what makes the headers of a link to opt out; nil
// where no key or no base URL is configured.
func (p *Process) unsubscribeLinks() (func(unsubscribe.Link) (unsubscribe.Headers, error), error) {
	keys, err := p.Config.UnsubscribeKeys()
	if err != nil || keys == nil || p.Config.Unsubscribe.BaseURL == "" {
		return nil, err
	}
	return func(l unsubscribe.Link) (unsubscribe.Headers, error) {
		token, err := keys.Token(l)
		if err != nil {
			return unsubscribe.Headers{}, err
		}
		return p.Config.Unsubscribe.Headers(token)
	}, nil
}
