package assembly

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/avro"
	"mailriver/pkg/httpserver"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/run"
	"mailriver/schemas"
	"mailriver/services/leadscoring"
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
	cfg, log := p.Config.Leadscoring, p.logger("leadscoring")
	transactionalID := cfg.TransactionalID
	if transactionalID == "" {
		transactionalID = "mailriver.leadscoring." + p.Config.instance()
	}
	service, err := leadscoring.New(cfg, leadscoring.Deps{
		Open: func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error) {
			return p.Clients.Session(cfg.Group, transactionalID, []string{topics.Events}, opts...)
		},
		Reader: p.Clients.Reader, Admin: p.Clients.Admin, Schemas: registry, Scores: scores, Signals: signals,
		Topics: topics, Dir: p.Config.dir("leadscoring"),
		Meter: p.Telemetry.Meter.Meter("mailriver/services/leadscoring"), Logger: log, Now: time.Now,
	})
	if err != nil {
		return Part{}, err
	}
	engine := api.NewEngine(log)
	service.Routes(engine)
	server := httpserver.New(cfg.API.HTTP, engine, log)
	if err := server.Listen(ctx); err != nil {
		return Part{}, err
	}
	return Part{
		Run: []run.Service{
			{Name: "leadscoring", Run: service.Run},
			{Name: "leadscoring http", Run: server.Run},
		},
		Checks: []httpserver.Check{
			{Name: "leadscoring", Ask: service.Ready},
			{Name: "leadscoring kafka", Ask: service.Connected, Optional: true},
		},
	}, nil
}
