// Package assembly builds services out of their parts: the one list of what a
// binary can run, the one configuration, and the order of starting and stopping.
//
// It is the only importer of the services. It decides nothing that a service
// decides, and does not know where the addresses in its configuration came
// from: embedded or not, the same code runs.
package assembly

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/avro"
	"mailriver/pkg/esp/all"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/httpserver"
	"mailriver/pkg/kafka"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/run"
	"mailriver/pkg/spill"
	"mailriver/pkg/suppression/suppressionavro"
	"mailriver/pkg/telemetry"
	"mailriver/schemas"
	"mailriver/services/loader"
	"mailriver/services/normalizer"
	"mailriver/services/receiver"
)

// Needs says what a service cannot start without.
type Needs struct{ Kafka, Registry, ClickHouse bool }

// Service is one entry of the list.
type Service struct {
	Name  string
	About string
	Needs Needs
	// Build makes the parts of the service; nothing runs yet.
	Build func(ctx context.Context, p *Process) (Part, error)
}

// Part is a built service.
type Part struct {
	Run    []run.Service
	Checks []httpserver.Check
	// Close is called after everything stopped.
	Close func() error
}

// Services lists what a process can run, in the order of an event's life.
func Services() []Service {
	return []Service{
		{"receiver", "verify webhooks and write them to Kafka", Needs{Kafka: true}, buildReceiver},
		{"normalizer", "turn raw webhooks into canonical events", Needs{Kafka: true, Registry: true}, buildNormalizer},
		{"loader", "load canonical events, the suppression list and leads into ClickHouse", Needs{Kafka: true, Registry: true, ClickHouse: true}, buildLoader},
		{"suppression", "keep the suppression list and answer look-ups", Needs{Kafka: true, Registry: true}, buildSuppression},
		{"leadscoring", "score recipients and signal who becomes warm", Needs{Kafka: true, Registry: true}, buildLeadscoring},
	}
}

// Process is what the services of one process share.
type Process struct {
	Config    Config
	Version   string
	Telemetry *telemetry.Telemetry
	Clients   *kafka.Clients
}

// Open makes the shared parts. Nothing connects. Logs go to w.
func Open(ctx context.Context, cfg Config, name, version string, w io.Writer) (*Process, error) {
	tel, err := telemetry.Open(ctx, cfg.Telemetry, telemetry.Process{
		Service: "mailriver-" + name, Version: version, Instance: cfg.instance(),
	}, w)
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	password, err := cfg.resolve(cfg.Kafka.SASL.Password)
	if err != nil {
		return nil, fmt.Errorf("kafka.sasl.password: %w", err)
	}
	clients, err := kafka.NewClients(cfg.Kafka, kafka.Deps{
		ClientID: "mailriver-" + name, Password: password, Logger: tel.Logger,
		Meter: tel.Meter, Tracer: tel.Tracer, Propagator: tel.Propagator,
	})
	if err != nil {
		return nil, err
	}
	return &Process{Config: cfg, Version: version, Telemetry: tel, Clients: clients}, nil
}

// Close sends what telemetry still holds.
func (p *Process) Close(ctx context.Context) error { return p.Telemetry.Shutdown(ctx) }

func (p *Process) logger(service string) *slog.Logger {
	return p.Telemetry.Logger.With("part", service)
}

// groupDrain bounds how long services may take to stop. It is longer than any
// service's own bound.
const groupDrain = 70 * time.Second

// Run runs the named services until ctx ends or one of them fails. It refuses
// to start while setup is pending. Started, if set, is called when everything
// runs and all is ready for the first time.
func (p *Process) Run(ctx context.Context, names []string, started func()) (err error) {
	chosen, err := choose(names)
	if err != nil {
		return err
	}
	var needs Needs
	for _, s := range chosen {
		needs.Kafka = needs.Kafka || s.Needs.Kafka
		needs.Registry = needs.Registry || s.Needs.Registry
		needs.ClickHouse = needs.ClickHouse || s.Needs.ClickHouse
	}
	// Operators are answered from the first moment: a process that waits for a
	// dependency lives, and says what it waits for.
	var waiting atomic.Pointer[error]
	health := httpserver.NewHealth(httpserver.Check{Name: "setup", Ask: func(context.Context) error {
		if err := waiting.Load(); err != nil {
			return *err
		}
		return errors.New("starting")
	}})
	log := p.logger("process")
	admin := httpserver.New(p.Config.Admin, health.Admin(p.Telemetry.Metrics), log)
	if err := admin.Listen(ctx); err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	// Services get a context that ends later than ctx: first /readyz says no,
	// so that no new work is sent here.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	answering := make(chan error, 1)
	go func() { answering <- admin.Run(work) }()
	defer func() {
		stop()
		err = errors.Join(err, <-answering)
	}()
	if err := p.waitForSetup(ctx, needs, func(err error) { waiting.Store(&err) }); err != nil {
		return err
	}

	var parts []run.Service
	var checks []httpserver.Check
	for _, s := range chosen {
		part, err := s.Build(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if part.Close != nil {
			defer func() { err = errors.Join(err, part.Close()) }()
		}
		parts = append(parts, part.Run...)
		checks = append(checks, part.Checks...)
	}
	health.Watch(checks...)
	context.AfterFunc(ctx, func() {
		health.Drain()
		log.Info("stopping", "drain_delay", p.Config.DrainDelay.String())
		time.AfterFunc(p.Config.DrainDelay, stop)
	})
	parts = append(parts, run.Service{Name: "admin", Run: func(ctx context.Context) error {
		select {
		case err := <-answering:
			answering <- nil // told here
			return err
		case <-ctx.Done():
			return nil
		}
	}})
	if started != nil {
		go awaitReady(work, checks, started)
	}
	log.Info("started", "services", strings.Join(names, ","), "version", p.Version)
	err = run.Group(work, groupDrain, parts...)
	log.Info("stopped", "err", err)
	return err
}

// awaitReady calls started when every check passes.
func awaitReady(ctx context.Context, checks []httpserver.Check, started func()) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		ready := true
		for _, check := range checks {
			ready = ready && (check.Optional || check.Ask(ctx) == nil)
		}
		if ready {
			started()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// ErrPending is returned while setup has work to do.
var ErrPending = errors.New("setup is pending")

// waitForSetup refuses to start while setup is pending, and waits for what does
// not answer: after a power failure everything starts at once. It tells waiting
// what for.
func (p *Process) waitForSetup(ctx context.Context, needs Needs, waiting func(error)) error {
	log := p.logger("process")
	for wait := time.Second; ; wait = min(2*wait, 15*time.Second) {
		attempt, cancel := context.WithTimeout(ctx, 15*time.Second)
		pending, err := Pending(attempt, p, needs)
		cancel()
		if err == nil && len(pending) > 0 {
			return fmt.Errorf("%w: run `mailriver setup` first; it would make: %s", ErrPending, strings.Join(pending, ", "))
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted while waiting for a dependency: %w", err)
		}
		waiting(fmt.Errorf("waiting for a dependency: %w", err))
		log.Warn("waiting for a dependency", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func choose(names []string) ([]Service, error) {
	list := Services()
	var chosen []Service
	for _, name := range names {
		at := slices.IndexFunc(list, func(s Service) bool { return s.Name == name })
		if at < 0 {
			return nil, fmt.Errorf("no service is called %q: there are %s", name, strings.Join(ServiceNames(), ", "))
		}
		if slices.ContainsFunc(chosen, func(s Service) bool { return s.Name == name }) {
			return nil, fmt.Errorf("service %s is named twice", name)
		}
		chosen = append(chosen, list[at])
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no service is named: there are %s", strings.Join(ServiceNames(), ", "))
	}
	return chosen, nil
}

// CheckNames reports a name that is no service, or one named twice.
func CheckNames(names []string) error {
	_, err := choose(names)
	return err
}

// ServiceNames returns the names of [Services].
func ServiceNames() []string {
	var names []string
	for _, s := range Services() {
		names = append(names, s.Name)
	}
	return names
}

// transactionalID is the configured one, else that of the service on this
// instance.
func (p *Process) transactionalID(service, configured string) string {
	if configured != "" {
		return configured
	}
	return "mailriver." + service + "." + p.Config.instance()
}

func buildReceiver(ctx context.Context, p *Process) (Part, error) {
	links, err := p.Config.UnsubscribeKeys()
	if err != nil {
		return Part{}, err
	}
	producer, err := p.Clients.Producer(
		kgo.ProducerLinger(time.Millisecond),
		kgo.MaxBufferedBytes(int(p.Config.Receiver.MaxInFlightBytes)),
		// The request was answered long before: what is not written by then
		// only holds memory, and its provider sends it again.
		kgo.RecordDeliveryTimeout(30*time.Second),
	)
	if err != nil {
		return Part{}, err
	}
	log := p.logger("receiver")
	checks := []httpserver.Check{{Name: "receiver kafka", Ask: producer.Ping}}
	closeAll := func() error { producer.Close(); return nil }
	deps := receiver.Deps{
		Surroundings: p.Config.surroundings(), Producer: producer, Topic: p.Config.Kafka.Topics().Raw, Unsubscribe: links,
		Meter:  p.Telemetry.Meter.Meter("mailriver/services/receiver"),
		Tracer: p.Telemetry.Tracer.Tracer("mailriver/services/receiver"), Propagator: p.Telemetry.Propagator,
		Logger: log,
	}
	if p.Config.Receiver.Spill.Enabled {
		store, err := p.openSpill(log)
		if err != nil {
			return Part{}, errors.Join(err, closeAll())
		}
		// A client of its own, without RecordDeliveryTimeout: its clock begins
		// with the record's timestamp, which is from before the outage.
		drainer, err := p.Clients.Producer()
		if err != nil {
			return Part{}, errors.Join(err, store.Close(), closeAll())
		}
		deps.Spill, deps.SpillProducer = store, drainer
		// Without Kafka, the receiver works on: it must get requests.
		checks[0].Optional = true
		checks = append(checks, httpserver.Check{Name: "receiver spill", Ask: store.Degraded, Optional: true})
		closeAll = func() error { producer.Close(); drainer.Close(); return store.Close() }
	}
	service, err := receiver.New(p.Config.Receiver, p.Config.Sources, deps)
	if err != nil {
		return Part{}, errors.Join(err, closeAll())
	}
	engine := httpserver.NewEngine(log)
	service.Routes(engine)
	server := httpserver.New(p.Config.Receiver.HTTP, engine, log)
	if err := server.Listen(ctx); err != nil {
		return Part{}, errors.Join(err, closeAll())
	}
	return Part{
		Run: []run.Service{
			{Name: "receiver", Run: service.Run},
			{Name: "receiver http", Run: server.Run},
		},
		Checks: append(checks,
			httpserver.Check{Name: "receiver", Ask: service.Ready},
			httpserver.Check{Name: "receiver secrets", Ask: service.Degraded, Optional: true}),
		Close: closeAll,
	}, nil
}

// openSpill opens the receiver's spill, in its folder by default.
func (p *Process) openSpill(log *slog.Logger) (*spill.Store, error) {
	cfg := p.Config.Receiver.Spill.Config
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(p.Config.dir("receiver"), "spill")
	}
	return spill.Open(cfg, spill.Deps{
		FS: vfs.Default, Meter: p.Telemetry.Meter.Meter("mailriver/pkg/spill"), Logger: log, Now: time.Now,
	})
}

func buildNormalizer(ctx context.Context, p *Process) (Part, error) {
	topics := p.Config.Kafka.Topics()
	registry, err := avro.Open(p.Config.Registry)
	if err != nil {
		return Part{}, err
	}
	id, err := eventavro.Lookup(ctx, registry, topics.Events)
	if err != nil {
		return Part{}, err
	}
	encoder, err := eventavro.NewEncoder(schemas.EmailEventV1, id)
	if err != nil {
		return Part{}, err
	}
	cfg := p.Config.Normalizer
	transactionalID := p.transactionalID("normalizer", cfg.TransactionalID)
	service, err := normalizer.New(cfg, normalizer.Deps{
		Open: func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error) {
			return p.Clients.Session(cfg.Group, transactionalID, []string{topics.Raw}, opts...)
		},
		Reader: p.Clients.Reader, Admin: p.Clients.Admin,
		Encoder: encoder, Providers: all.Providers(), Topics: topics, Dir: p.Config.dir("normalizer"), Version: p.Version,
		Meter: p.Telemetry.Meter.Meter("mailriver/services/normalizer"), Logger: p.logger("normalizer"), Now: time.Now,
	})
	if err != nil {
		return Part{}, err
	}
	return Part{
		Run:    []run.Service{{Name: "normalizer", Run: service.Run}},
		Checks: []httpserver.Check{{Name: "normalizer", Ask: service.Ready}},
	}, nil
}

func buildLoader(_ context.Context, p *Process) (Part, error) {
	topics := p.Config.Kafka.Topics()
	registry, err := avro.Open(p.Config.Registry)
	if err != nil {
		return Part{}, err
	}
	client, _, err := p.clickHouse()
	if err != nil {
		return Part{}, err
	}
	producer, err := p.Clients.Producer()
	if err != nil {
		return Part{}, errors.Join(err, client.Close())
	}
	closeAll := func() error { producer.Close(); return client.Close() }
	service, err := loader.New(p.Config.Loader, loader.Deps{
		NewClient: p.Clients.Group, Topic: topics.Events, Sink: client, Decoder: eventavro.NewDecoder(registry),
		Parker: kafka.Parker{Client: producer, Topic: topics.Dead, Stage: "loader"},
		Fence:  client,
		Meter:  p.Telemetry.Meter.Meter("mailriver/services/loader"), Logger: p.logger("loader"), Now: time.Now,
	})
	if err != nil {
		return Part{}, errors.Join(err, closeAll())
	}
	part := Part{
		Run:    []run.Service{{Name: "loader", Run: service.Run}},
		Checks: []httpserver.Check{{Name: "loader", Ask: service.Ready}},
		Close:  closeAll,
	}
	err = errors.Join(
		addStates(&part, p, producer, loader.StateDeps[suppressionavro.Record]{
			Table: "suppressions", Topic: topics.Suppressions, Sink: client.Suppressions(),
			Decoder: suppressionavro.NewDecoder(registry), Key: suppressionavro.ParseKey,
		}),
		addStates(&part, p, producer, loader.StateDeps[leadavro.Record]{
			Table: "lead_scores", Topic: topics.LeadScores, Sink: client.LeadScores(), Decoder: leadavro.NewDecoder(registry),
			Key: func(key []byte) (leadavro.Record, bool) {
				return leadavro.Record{State: lead.State{Recipient: string(key)}}, len(key) > 0
			},
		}),
		addStates(&part, p, producer, loader.StateDeps[leadavro.Signal]{
			Table: "lead_signals", Topic: topics.LeadSignals, Sink: client.LeadSignals(), Decoder: leadavro.NewSignalDecoder(registry),
			// What was told is not taken back: the topic is not compacted.
			Key: func([]byte) (leadavro.Signal, bool) { return leadavro.Signal{}, false },
		}),
	)
	if err != nil {
		return Part{}, errors.Join(err, closeAll())
	}
	return part, nil
}

// addStates adds the loader of a table of states to the part. Letters of states
// have stages of their own: what retries letters of the loader takes them for
// events.
func addStates[V any](part *Part, p *Process, producer *kgo.Client, deps loader.StateDeps[V]) error {
	name := "loader " + deps.Table
	deps.NewClient = p.Clients.Group
	deps.Parker = kafka.Parker{Client: producer, Topic: p.Config.Kafka.Topics().Dead, Stage: "loader." + deps.Table}
	deps.Meter, deps.Logger, deps.Now = p.Telemetry.Meter.Meter("mailriver/services/loader"), p.logger("loader"), time.Now
	states, err := loader.NewStates(p.Config.Loader, deps)
	if err != nil {
		return err
	}
	part.Run = append(part.Run, run.Service{Name: name, Run: states.Run})
	part.Checks = append(part.Checks, httpserver.Check{Name: name, Ask: states.Ready})
	return nil
}
