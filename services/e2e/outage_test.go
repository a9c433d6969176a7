package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/embedded"
	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/apachekafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/simulate"
)

// outage is how long something is away: MAILRIVER_OUTAGE, for example 60m.
func outage(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("MAILRIVER_OUTAGE")
	if text == "" {
		return 10 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		t.Fatalf("MAILRIVER_OUTAGE = %q, want a duration such as 60m", text)
	}
	return d
}

// perSecond is how many events are posted in a second, in some 30 requests.
const perSecond = 50

// gate is the way to a server, through which all of its clients go. Shut, nobody
// listens there.
type gate struct {
	t            *testing.T
	addr, target string

	mu    sync.Mutex
	l     net.Listener
	conns map[net.Conn]bool
	mute  bool // takes connections and says nothing
	wg    sync.WaitGroup
}

func newGate(t *testing.T, url, targetURL string) *gate {
	t.Helper()
	g := &gate{
		t: t, addr: strings.TrimPrefix(url, "http://"), target: strings.TrimPrefix(targetURL, "http://"),
		conns: map[net.Conn]bool{},
	}
	g.open()
	t.Cleanup(func() {
		g.shut()
		g.wg.Wait()
	})
	return g
}

// open lets clients through.
func (g *gate) open() {
	g.t.Helper()
	g.shut()
	g.listen(false)
}

// silence takes connections, those that there are and new ones, and lets nothing
// through: a server that hangs, or a network that drops packets.
func (g *gate) silence() {
	g.t.Helper()
	g.shut()
	g.listen(true)
}

func (g *gate) listen(mute bool) {
	g.t.Helper()
	eventually(g.t, "listen on "+g.addr, func() error {
		l, err := net.Listen("tcp", g.addr)
		if err != nil {
			return err // the port may have been lent to a connection meanwhile
		}
		g.mu.Lock()
		g.l, g.mute = l, mute
		g.mu.Unlock()
		g.wg.Go(func() { g.accept(l) })
		return nil
	})
}

// shut ends every connection and stops listening.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.l != nil {
		_ = g.l.Close() // its accept ends
	}
	g.l = nil
	for c := range g.conns {
		_ = c.Close()
	}
	clear(g.conns)
}

func (g *gate) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		if g.l != l {
			_ = client.Close()
			g.mu.Unlock()
			continue
		}
		g.conns[client] = true
		mute := g.mute
		g.mu.Unlock()
		if mute {
			continue
		}
		server, err := net.Dial("tcp", g.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		g.mu.Lock()
		if g.l != l { // shut meanwhile
			_ = client.Close()
			_ = server.Close()
		}
		g.conns[server] = true
		g.mu.Unlock()
		for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
			g.wg.Go(func() {
				_, _ = io.Copy(pair[0], pair[1]) // it ends with either side
				_ = pair[0].Close()
				_ = pair[1].Close()
				g.mu.Lock()
				delete(g.conns, pair[0])
				delete(g.conns, pair[1])
				g.mu.Unlock()
			})
		}
	}
}

// estuary is a river whose services are processes of their own. ClickHouse and
// the registry are behind gates. Kafka is Apache Kafka where its jars are, and
// the embedded one elsewhere.
type estuary struct {
	*river
	cluster    *apachekafka.Cluster // nil for the embedded one
	toEngine   *gate
	toRegistry *gate
	clients    *kafka.Clients
	topics     kafka.Topics
	services   map[string]*service
	environ    []string // of the services
}

// service is one process of an estuary.
type service struct {
	*process
	name, admin string
	memory      memory
}

// memory is what a process holds, in MiB.
type memory struct{ before, peak, after float64 }

func newEstuary(t *testing.T, extraConfig string, extraEnviron ...string) *estuary {
	t.Helper()
	e := &estuary{river: newRiver(t, extraConfig), services: map[string]*service{}, environ: environ(extraEnviron...)}
	options := embedded.Options{
		DataDir: filepath.Join(e.dir, "engines"), KafkaAddr: e.kafka, RegistryAddr: "127.0.0.1:0", ClickHouseAddr: "127.0.0.1:0",
		Library: e.library, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if jars := os.Getenv("MAILRIVER_KAFKA_JARS"); jars != "" {
		e.startKafka(jars)
		options.KafkaAddr = ""
	}
	env, err := embedded.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Close(); err != nil {
			t.Error(err)
		}
	})
	e.toEngine = newGate(t, e.river.clickhouse, env.ClickHouseURL)
	e.toRegistry = newGate(t, e.registry, env.RegistryURL)
	e.river.clickhouse = env.ClickHouseURL // the test itself asks behind the gate
	cfg := kafka.DefaultConfig()
	cfg.Brokers = []string{e.kafka}
	e.clients, e.topics = kafkatest.Clients(t, cfg), cfg.Topics()
	if out, status := e.run("setup"); status != 0 {
		t.Fatalf("setup: status %d: %s", status, out)
	}
	names := []string{"receiver", "normalizer", "loader"}
	for i, addr := range freePorts(t, len(names)) {
		e.services[names[i]] = &service{name: names[i], admin: addr}
		e.launch(names[i])
	}
	for _, name := range names {
		e.awaitService(name)
	}
	return e
}

// startKafka starts a broker, and names it in the configuration.
func (e *estuary) startKafka(jars string) {
	e.t.Helper()
	cluster, err := apachekafka.Start(e.t.Context(), apachekafka.Options{
		Jars: jars, Dir: filepath.Join(e.dir, "kafka"), Brokers: 1, Heap: "512m",
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			e.t.Error(err)
		}
	})
	text, err := os.ReadFile(e.config)
	if err != nil {
		e.t.Fatal(err)
	}
	broker := cluster.Addrs()[0]
	if err := os.WriteFile(e.config, []byte(strings.Replace(string(text), e.kafka, broker, 1)), 0o600); err != nil {
		e.t.Fatal(err)
	}
	e.cluster, e.kafka = cluster, broker
}

// launch starts the process of a service, and does not wait.
func (e *estuary) launch(name string) {
	e.t.Helper()
	s := e.services[name]
	s.process = startProcess(e.t, filepath.Join(bin, "mailriver"),
		append(slices.Clone(e.environ), "MAILRIVER_ADMIN_ADDR="+s.admin, "MAILRIVER_INSTANCE="+name), name, "--config", e.config)
}

// ready says what the service's /readyz answers; nil is yes.
func (s *service) ready() error {
	resp, err := http.Get("http://" + s.admin + "/readyz")
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("readyz: %s: %s", resp.Status, text)
	}
	return nil
}

func (e *estuary) awaitService(name string) {
	e.t.Helper()
	eventually(e.t, name+" is ready", func() error {
		e.alive()
		return e.services[name].ready()
	})
}

// alive fails the test when a process has ended.
func (e *estuary) alive() {
	e.t.Helper()
	for name, s := range e.services {
		if s.ended() {
			e.t.Fatalf("%s ended by itself: %v: %s", name, s.err, s.output())
		}
	}
}

// gauge reads a metric of a service that is one series.
func (s *service) gauge(t *testing.T, name string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + s.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if series, _, _ := strings.Cut(fields[0], "{"); series == name {
			n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return n
		}
	}
	t.Fatalf("%s does not say %s", s.name, name)
	return 0
}

// resident reads VmRSS of a process (proc(5)); 0 where the system does not say.
func resident(t *testing.T, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return kib / 1024
		}
	}
	return 0
}

// endure lets an outage last, and looks every second at what must hold in it:
// that every process runs, and check, unless it is nil.
func (e *estuary) endure(d time.Duration, check func() error) {
	e.t.Helper()
	for _, s := range e.services {
		rss := resident(e.t, s.cmd.Process.Pid)
		s.memory = memory{before: rss, peak: rss}
	}
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-end.C:
			over = true
		case <-tick.C:
		}
		e.alive()
		for _, s := range e.services {
			s.memory.after = resident(e.t, s.cmd.Process.Pid)
			s.memory.peak = max(s.memory.peak, s.memory.after)
		}
		if check == nil {
			continue
		}
		if err := check(); err != nil {
			e.t.Fatal(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.services)) {
		m := e.services[name].memory
		e.t.Logf("%s: %.0f MiB resident before, %.0f at most, %.0f after %s", name, m.before, m.peak, m.after, d)
		// Generous: what a garbage collector leaves lying about is no leak, and
		// an hour of events is more than this.
		if m.after > 2*m.before+100 {
			e.t.Errorf("%s: %.0f MiB resident after the outage, %.0f before it", name, m.after, m.before)
		}
	}
}

// load is traffic that goes on until it is stopped.
type load struct {
	e       *estuary
	stopped chan struct{}
	ended   chan error
	summary simulate.Summary

	mu       sync.Mutex
	truth    map[event.ID]event.Event
	order    map[[sha256.Size]byte]int       // requests by body, as they were begun
	accepted map[[sha256.Size]byte]time.Time // when they were answered 200
	begun    map[[sha256.Size]byte]time.Time
}

// pour begins with traffic that may go on for longer than d.
func (e *estuary) pour(d time.Duration, opt simulate.Options, sender simulate.Sender) *load {
	e.t.Helper()
	l := &load{
		e: e, stopped: make(chan struct{}), ended: make(chan error, 1), truth: map[event.ID]event.Event{},
		order: map[[sha256.Size]byte]int{}, accepted: map[[sha256.Size]byte]time.Time{}, begun: map[[sha256.Size]byte]time.Time{},
	}
	whole := d + 5*time.Minute
	opt.Events = int(whole.Seconds() * perSecond)
	if whole > 10*time.Minute { // signatures bear the time of their event, and must not be old
		opt.Span, opt.Start = whole, time.Now().Add(-10*time.Minute)
	}
	requests, err := simulate.Generate(e.sources(), opt)
	if err != nil {
		e.t.Fatal(err)
	}
	sender.Rate = perSecond
	sender.OnAnswer = func(r simulate.Request, status int, err error) {
		if status != http.StatusOK {
			e.t.Logf("%s: status %d, %v", r.Source, status, err)
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.accepted[sha256.Sum256(r.Body)] = time.Now()
	}
	go func() {
		var err error
		l.summary, err = sender.Send(e.t.Context(), func(yield func(simulate.Request) bool) {
			for r := range requests {
				select {
				case <-l.stopped:
					return
				default:
				}
				l.begin(r)
				if !yield(r) {
					return
				}
			}
		})
		l.ended <- err
	}()
	return l
}

func (l *load) begin(r simulate.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := sha256.Sum256(r.Body)
	if _, copied := l.begun[sum]; !copied {
		l.order[sum], l.begun[sum] = len(l.order), time.Now()
	}
	for _, e := range r.Truth {
		l.truth[e.ID] = e
	}
}

// stop ends the traffic. All of it must have been answered 200 in the end.
func (l *load) stop() {
	l.e.t.Helper()
	close(l.stopped)
	if err := <-l.ended; err != nil {
		l.e.t.Fatal(err)
	}
	if l.summary.GivenUp > 0 || l.summary.Accepted == 0 {
		l.e.t.Errorf("%d requests were answered 200, %d were not, want all", l.summary.Accepted, l.summary.GivenUp)
	}
}

// events is how many distinct events were begun so far.
func (l *load) events() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.truth)
}

// loaded is how many rows ClickHouse has.
func (e *estuary) loaded() int {
	e.t.Helper()
	text, err := e.query("SELECT count() FROM mailriver.events")
	if err != nil {
		e.t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		e.t.Fatal(err)
	}
	return n
}

// flows waits until more rows than n have come through.
func (e *estuary) flows(n int) {
	e.t.Helper()
	eventually(e.t, fmt.Sprintf("more than %d rows", n), func() error {
		e.alive()
		if have := e.loaded(); have <= n {
			return fmt.Errorf("%d rows", have)
		}
		return nil
	})
}

// all returns the records of a topic.
func (e *estuary) all(topic string) []*kgo.Record {
	e.t.Helper()
	span, err := e.clients.Span(e.t.Context(), topic, kafka.Start(), kafka.End())
	if err != nil {
		e.t.Fatal(err)
	}
	var records []*kgo.Record
	if err := e.clients.Read(e.t.Context(), span, func(r *kgo.Record) error {
		records = append(records, r)
		return nil
	}); err != nil {
		e.t.Fatal(err)
	}
	return records
}

// balance waits until all is drained, and compares every place with what was
// answered 200. It returns the records of the raw topic.
func (e *estuary) balance(l *load) []*kgo.Record {
	e.t.Helper()
	begun := time.Now()
	for have := e.loaded(); have < len(l.truth); have = e.loaded() {
		e.flows(have) // however much there is: as long as it moves
	}
	e.awaitRows(len(l.truth))
	e.t.Logf("%d events in %d requests; drained %s after the end of the traffic", len(l.truth), l.summary.Accepted, time.Since(begun).Round(100*time.Millisecond))
	e.alive()

	raw := e.all(e.topics.Raw)
	lost := maps.Clone(l.accepted)
	for _, record := range raw {
		delete(lost, sha256.Sum256(record.Value))
	}
	if len(lost) > 0 {
		e.t.Errorf("%d requests that were answered 200 are not in the raw topic", len(lost))
	}
	canonical := map[string]int{}
	for _, record := range e.all(e.topics.Events) {
		canonical[kafkatest.Header(record, "ce_id")]++
	}
	for id, told := range l.truth {
		if n := canonical[id.String()]; n != 1 {
			e.t.Errorf("%s %s %s is canonical %d times, want once", told.Provider, told.Type, id, n)
		}
	}
	if len(canonical) != len(l.truth) {
		e.t.Errorf("%d events are canonical, want %d", len(canonical), len(l.truth))
	}
	e.compare(l.truth)
	e.exact(len(l.truth))
	eventually(e.t, "no lag and balanced books", func() error {
		out, status := e.run("audit", "--from", "start", "--output", "json")
		if status != 0 || !strings.Contains(out, `"balanced":true`) {
			return fmt.Errorf("audit: status %d: %.2000s", status, out)
		}
		if strings.Count(out, `"raw_in_flight":0,"rows_in_flight":0`) != strings.Count(out, `"raw_in_flight"`) {
			return fmt.Errorf("audit: in flight: %.2000s", out)
		}
		return nil
	})
	for _, name := range slices.Sorted(maps.Keys(e.services)) {
		e.awaitService(name)
	}
	return raw
}

// ClickHouse is away for as long as it likes: it refuses connections, or takes
// them and says nothing. The others work on, the loader holds as much as its
// configuration allows and no more, says that it is not ready, and catches up.
// Turns red when the loader gives up, drops or repeats a range, goes on fetching
// what it has no room for, or loses its place in the group.
func TestOutage_clickHouse(t *testing.T) {
	room := max(100, int(outage(t).Seconds()*perSecond/10))
	for name, away := range map[string]func(*gate){"refuses": (*gate).shut, "hangs": (*gate).silence} {
		t.Run(name, func(t *testing.T) {
			e := newEstuary(t, fmt.Sprintf("loader: { max_rows: %d, buffer_rows: %d, insert_timeout: 3s, retry_max: 2s }\n", room, room))
			l := e.pour(outage(t), simulate.Options{Seed: 37, Duplicates: 0.05, Reorder: 0.05}, simulate.Sender{RetryAll: true})
			e.flows(100)
			away(e.toEngine)
			full := 0.0 // records held when no partition was fetched any more
			e.endure(outage(t), func() error {
				loader := e.services["loader"]
				paused := loader.gauge(t, "mailriver_loader_paused")
				held := loader.gauge(t, "mailriver_loader_buffered")
				if full == 0 && paused == loader.gauge(t, "mailriver_loader_partitions") {
					full = held
				}
				if full > 0 && held > full+float64(room) {
					return fmt.Errorf("the loader holds %g records, held %g when it was full, and has room for %d", held, full, room)
				}
				return nil
			})
			e.awaitService("receiver")
			e.awaitService("normalizer")
			if full == 0 {
				t.Errorf("after %d events the loader was never full, and has room for %d", l.events(), room)
			}
			if err := e.services["loader"].ready(); err == nil {
				t.Error("the loader says that it is ready while ClickHouse is away")
			}
			before := e.loaded()
			e.toEngine.open()
			e.flows(before)
			l.stop()
			e.balance(l)
		})
	}
}

// The registry is away. What runs knows its schema and goes on; what is started
// meanwhile waits, without ending, and goes on when the registry is back. Turns
// red when a running service asks the registry for what it knows, or a starting
// one ends.
func TestOutage_registry(t *testing.T) {
	e := newEstuary(t, "")
	l := e.pour(outage(t), simulate.Options{Seed: 41, Duplicates: 0.05, Reorder: 0.05}, simulate.Sender{RetryAll: true})
	e.flows(100)
	e.toRegistry.shut()
	half := outage(t) / 2
	e.endure(half, nil)
	for name := range e.services {
		e.awaitService(name)
	}
	e.flows(l.events()) // what is posted in the outage comes through

	for _, name := range []string{"normalizer", "loader"} {
		if err := e.services[name].stop(); err != nil {
			t.Errorf("%s, SIGTERM: %v, want exit status 0", name, err)
		}
		e.launch(name)
		eventually(t, name+" says that it waits", func() error {
			e.alive()
			if text := e.services[name].output(); !strings.Contains(text, "waiting for a dependency") {
				return errors.New(text)
			}
			return nil
		})
	}
	e.endure(half, nil)
	e.awaitService("receiver")
	for _, name := range []string{"normalizer", "loader"} {
		if err := e.services[name].ready(); err == nil {
			t.Errorf("%s, started without the registry, says that it is ready", name)
		}
	}
	before := e.loaded()
	e.toRegistry.open()
	e.flows(before)
	l.stop()
	e.balance(l)
}

// kafkaAway is longer than the 30 s after which the receiver's client gives a
// record up, and than the time-outs of a group and of a transaction.
const kafkaAway = 45 * time.Second

// Kafka is away and the spill is on: every request is answered 200, what was
// spilled reaches the raw topic in its order, and each event is there once in
// the end. Turns red without the spill, when its drain loses, reorders or doubles
// beyond what the normalizer drops, or when a service ends with its broker.
func TestOutage_kafka(t *testing.T) {
	if os.Getenv("MAILRIVER_KAFKA_JARS") == "" {
		if strings.Contains(os.Getenv("MAILRIVER_REQUIRE"), "kafka") {
			t.Fatal("Kafka is required and MAILRIVER_KAFKA_JARS is not set: run `make outage`")
		}
		t.Skip("needs Kafka's jars: run `make outage`")
	}
	d := max(outage(t), kafkaAway)
	e := newEstuary(t, "", "MAILRIVER_RECEIVER_SPILL_ENABLED=true", "MAILRIVER_RECEIVER_SPILL_SEGMENT_BYTES=262144") // several files
	// One at a time, so that their order is known; no copies, so that a body says
	// which it is. Each is posted once: nobody sends again.
	l := e.pour(d, simulate.Options{Seed: 43}, simulate.Sender{Concurrency: 1, Attempts: 1})
	e.flows(100)
	from := time.Now()
	if err := e.cluster.Kill(0); err != nil {
		t.Fatal(err)
	}
	e.endure(d, nil)
	e.awaitService("receiver")
	held := e.services["receiver"].gauge(t, "mailriver_spill_records")
	to := time.Now()
	if err := e.cluster.Start(0); err != nil {
		t.Fatal(err)
	}
	if err := e.cluster.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := e.loaded()
	e.flows(before)
	l.stop()
	raw := e.balance(l)
	if left := e.services["receiver"].gauge(t, "mailriver_spill_records"); left != 0 {
		t.Errorf("the spill holds %g records, want none", left)
	}

	// Those that waited for Kafka are with its client as well, and may overtake.
	spilled := map[[sha256.Size]byte]int{}
	for sum, at := range l.accepted {
		if begun := l.begun[sum]; begun.After(from) && at.Before(to) && at.Sub(begun) < time.Second {
			spilled[sum] = l.order[sum]
		}
	}
	if held == 0 || len(spilled) == 0 || float64(len(spilled)) > held {
		t.Errorf("%d requests were answered at once while Kafka was away, %g were spilled, want some, and no more", len(spilled), held)
	}
	last, first := map[int32]int{}, map[[sha256.Size]byte]bool{}
	for _, record := range raw {
		sum := sha256.Sum256(record.Value)
		at, ok := spilled[sum]
		if !ok || first[sum] {
			continue
		}
		first[sum] = true
		if before, ok := last[record.Partition]; ok && at < before {
			t.Errorf("raw %d/%d: request %d came from the spill behind request %d", record.Partition, record.Offset, at, before)
		}
		last[record.Partition] = at
	}
	t.Logf("%d requests were spilled in %s, %d records are in the raw topic", int(held), d, len(raw))
}
