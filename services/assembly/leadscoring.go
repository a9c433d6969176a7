package assembly

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/avro"
	"mailriver/pkg/httpserver"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/lead/leadapi"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/run"
	"mailriver/schemas"
	"mailriver/services/leadscoring"
	"mailriver/services/leadscoring/deliver"
)

func buildLeadscoring(ctx context.Context, p *Process) (Part, error) {
	topics := p.Config.Kafka.Topics()
	registry, err := avro.Open(p.Config.Registry)
	if err != nil {
		return Part{}, err
	}
	id, err := avro.Lookup(ctx, registry, topics.LeadScores, schemas.LeadScoreV1)
	if err != nil {
		return Part{}, err
	}
	scores, err := leadavro.NewEncoder(id)
	if err != nil {
		return Part{}, err
	}
	if id, err = avro.Lookup(ctx, registry, topics.LeadSignals, schemas.LeadSignalV1); err != nil {
		return Part{}, err
	}
	signals, err := leadavro.NewSignalEncoder(id)
	if err != nil {
		return Part{}, err
	}
	if id, err = avro.Lookup(ctx, registry, topics.Segments, schemas.SegmentV1); err != nil {
		return Part{}, err
	}
	changes, err := leadavro.NewChangeEncoder(id)
	if err != nil {
		return Part{}, err
	}
	cfg, log := p.Config.Leadscoring, p.logger("leadscoring")
	transactionalID := p.transactionalID("leadscoring", cfg.TransactionalID)
	webhooks, err := deliver.New(cfg.Deliver, deliver.Deps{
		Clients: p.Clients, Topics: topics, Schemas: registry, Resolve: p.Config.resolve,
		Meter: p.Telemetry.Meter.Meter("mailriver/services/leadscoring/deliver"), Logger: log, Now: time.Now,
	})
	if err != nil {
		return Part{}, err
	}
	service, err := leadscoring.New(cfg, leadscoring.Deps{
		Open: func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error) {
			return p.Clients.Session(cfg.Group, transactionalID, []string{topics.Events}, opts...)
		},
		Reader: p.Clients.Reader, Admin: p.Clients.Admin, Schemas: registry, Scores: scores, Signals: signals, Changes: changes,
		Deliveries: deliveries{deliver.Book{Clients: p.Clients, Topics: topics, Now: time.Now}, log},
		Topics:     topics, Dir: p.Config.dir("leadscoring"),
		Meter: p.Telemetry.Meter.Meter("mailriver/services/leadscoring"), Logger: log, Now: time.Now,
	})
	if err != nil {
		return Part{}, err
	}
	server, err := api.Listen(ctx, cfg.API, service.Routes, log)
	if err != nil {
		return Part{}, err
	}
	return Part{
		Run: []run.Service{
			{Name: "leadscoring", Run: service.Run},
			{Name: "leadscoring http", Run: server.Run},
			{Name: "leadscoring webhooks", Run: webhooks.Run},
		},
		Checks: []httpserver.Check{
			{Name: "leadscoring", Ask: service.Ready},
			{Name: "leadscoring kafka", Ask: service.Connected, Optional: true},
			{Name: "leadscoring webhooks", Ask: webhooks.Ready, Optional: true},
		},
	}, nil
}

// deliveries gives the API its view of the deliveries topic.
type deliveries struct {
	book deliver.Book
	log  *slog.Logger
}

var deliveryCursor = api.Cursors{List: "deliveries", Version: 1} //nolint:gochecknoglobals // a constant, if structs could be

// List implements [leadscoring.Deliveries].
func (d deliveries) List(ctx context.Context, q leadscoring.DeliveryQuery) (leadapi.DeliveryPage, error) {
	filter := deliver.Filter{Recipient: q.Recipient}
	if q.Webhook != "" {
		filter.Endpoints = []string{q.Webhook}
	}
	if q.State != "" {
		filter.States = []deliver.State{deliver.State(q.State)}
	}
	bound := []string{q.Webhook, q.State, q.Recipient}
	position, err := deliveryCursor.Decode(q.Cursor, bound...)
	if err != nil {
		return leadapi.DeliveryPage{}, err
	}
	afterTime, afterID, following := strings.Cut(string(position), " ")
	list, _, err := d.book.List(ctx, filter)
	if err != nil {
		// The book is in Kafka: there is nothing else that can fail here.
		d.log.WarnContext(ctx, "deliveries cannot be read", "err", err)
		return leadapi.DeliveryPage{}, api.Unavailable(5*time.Second, "Kafka does not tell the deliveries now")
	}
	page := leadapi.DeliveryPage{}
	for i := range list {
		one := &list[i]
		at := deliveryTime(one)
		if following && (at > afterTime || at == afterTime && one.ID() <= afterID) {
			continue // the book has the newest first, and then the ids in order
		}
		if len(page.Deliveries) == q.Limit {
			last := &list[i-1]
			cursor := deliveryCursor.Encode([]byte(deliveryTime(last)+" "+last.ID()), bound...)
			page.NextCursor = &cursor
			break
		}
		page.Deliveries = append(page.Deliveries, shown(one))
	}
	return page, nil
}

// deliveryTime is the time of the last change, as text that sorts like it.
func deliveryTime(d *deliver.Delivery) string {
	return d.UpdatedAt.UTC().Format("2006-01-02T15:04:05.000000000Z")
}

func shown(d *deliver.Delivery) leadapi.Delivery {
	one := leadapi.Delivery{
		ID: d.ID(), Webhook: d.Endpoint, Recipient: d.Signal.Recipient, Profile: d.Signal.Profile, Stage: d.Signal.Stage,
		Direction: d.Signal.Direction, State: string(d.State), Attempts: d.Attempts, Since: d.Since, UpdatedAt: d.UpdatedAt,
		Status: d.Status, Problem: d.Problem,
	}
	if !d.NextAt.IsZero() {
		one.NextAt = &d.NextAt
	}
	return one
}

type (
	// DeliveryFilter says which deliveries of signals.
	DeliveryFilter = deliver.Filter
	// DeliveryState is how far one is.
	DeliveryState = deliver.State
)

// DeliveryBook reads what became of signals, and has them sent again. It needs
// no running service.
func DeliveryBook(p *Process) *deliver.Book {
	return &deliver.Book{Clients: p.Clients, Topics: p.Config.Kafka.Topics(), Now: time.Now}
}
