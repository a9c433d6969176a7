package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.yaml.in/yaml/v3"

	"mailriver/pkg/embedded"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/apachekafka"
	"mailriver/pkg/lead"
	"mailriver/pkg/simulate"
)

// world is everything that runs, and what is known of it.
type world struct {
	o    options
	dir  string
	out  io.Writer
	logs string // folder of the services' logs

	cluster    *apachekafka.Cluster // nil with KAFKA_BROKERS
	env        *embedded.Env
	clients    *kafka.Clients
	admin      *kadm.Client
	topics     kafka.Topics
	prefix     string // of topics and groups
	follows    []follow
	profiles   []lead.Profile
	config     string
	processes  []*process
	keys       simulate.Keys
	certs      *simulate.CertServer
	hook       *hook
	posted     string // base URL of the receiver
	stopCerts  context.CancelFunc
	certsEnded chan error

	mu     sync.Mutex
	busy   map[string]bool // what is disrupted just now
	holds  sync.WaitGroup  // disruptions that are not over
	result *result

	ledger struct {
		sync.Mutex
		accepted map[[sha256.Size]byte]bool // bodies that were answered 200
	}
}

func newWorld(ctx context.Context, o options, dir string, out io.Writer) (_ *world, err error) {
	w := &world{o: o, dir: dir, out: out, logs: filepath.Join(dir, "logs"), busy: map[string]bool{}, result: &result{kinds: map[string]*tally{}}}
	w.ledger.accepted = map[[sha256.Size]byte]bool{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := os.MkdirAll(w.logs, 0o700); err != nil {
		return nil, err
	}
	if err := w.startEngines(ctx); err != nil {
		return nil, err
	}
	if err := w.startKeys(ctx); err != nil {
		return nil, err
	}
	if w.hook, err = openHook(ctx, o.seed); err != nil {
		return nil, err
	}
	services := instances()
	ports, err := freePorts(1 + 2*len(services))
	if err != nil {
		return nil, err
	}
	w.posted = "http://" + ports[0]
	if err := w.configure(ports[0]); err != nil {
		return nil, err
	}
	setup := exec.CommandContext(ctx, o.binary, "setup", "--config", w.config) //nolint:gosec // G204: the binary under test
	setup.Env = o.environ
	if text, err := setup.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mailriver setup: %w: %s", err, text)
	}
	for i, service := range services {
		name := fmt.Sprintf("%s-%d", service, len(w.of(service))+1)
		admin, api := ports[1+2*i], ports[2+2*i]
		p := &process{
			name: name, service: service, binary: o.binary, args: []string{service, "--config", w.config},
			env: append(append([]string(nil), o.environ...), "MAILRIVER_INSTANCE="+w.prefix+name, "MAILRIVER_ADMIN_ADDR="+admin),
			log: filepath.Join(w.logs, name+".log"), data: filepath.Join(w.dir, "data", service, w.prefix+name),
		}
		if service == suppression || service == leadscoring {
			p.env, p.api = append(p.env, "MAILRIVER_"+strings.ToUpper(service)+"_API_ADDR="+api), "http://"+api
		}
		w.processes = append(w.processes, p)
		if err := p.start(); err != nil {
			return nil, err
		}
	}
	return w, w.await(ctx, "the receiver", func() error {
		resp, err := http.Get("http://" + ports[1] + "/readyz") //nolint:noctx // await is bounded
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: %s", resp.Status)
		}
		return nil
	})
}

// startEngines starts what is not Mailriver's own.
func (w *world) startEngines(ctx context.Context) (err error) {
	cfg := kafka.DefaultConfig()
	w.prefix, w.profiles = "mailriver.", profiles()
	if w.o.external != nil {
		cfg.Brokers = w.o.external
		cfg.TopicPrefix = fmt.Sprintf("chaos-%x.", time.Now().UnixNano())
		w.prefix = cfg.TopicPrefix
	} else {
		w.cluster, err = apachekafka.Start(ctx, apachekafka.Options{
			Jars: w.o.jars, Dir: filepath.Join(w.dir, "kafka"), Brokers: w.o.brokers, Heap: w.o.heap,
		})
		if err != nil {
			return err
		}
		cfg.Brokers = w.cluster.Addrs()
	}
	w.topics = cfg.Topics()
	w.follows = []follow{
		{w.prefix + normalizer, w.topics.Raw, false},
		{w.prefix + loader, w.topics.Events, true},
		{w.prefix + suppression, w.topics.Events, false},
		{w.prefix + suppression + ".rates", w.topics.Events, false},
		{w.prefix + leadscoring, w.topics.Events, false},
		{w.prefix + leadscoring + ".webhooks", w.topics.LeadSignals, false},
		{w.prefix + loader + ".suppressions", w.topics.Suppressions, true},
	}
	quiet := slog.New(slog.DiscardHandler)
	w.clients, err = kafka.NewClients(cfg, kafka.Deps{
		ClientID: "mailriver-chaos", Logger: quiet, Meter: metricnoop.NewMeterProvider(),
		Tracer: tracenoop.NewTracerProvider(), Propagator: propagation.TraceContext{},
	})
	if err != nil {
		return err
	}
	if w.admin, err = w.clients.Admin(); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(w.logs, "embedded.log"))
	if err != nil {
		return err
	}
	w.env, err = embedded.Start(ctx, embedded.Options{
		DataDir: filepath.Join(w.dir, "embedded"), RegistryAddr: "127.0.0.1:0", ClickHouseAddr: "127.0.0.1:0",
		Library: w.o.library, Logger: slog.New(slog.NewJSONHandler(log, nil)), // the log ends with the program
	})
	return err
}

func (w *world) startKeys(ctx context.Context) (err error) {
	if w.keys, err = simulate.GenerateKeys(filepath.Join(w.dir, "keys")); err != nil {
		return err
	}
	if w.certs, err = simulate.OpenCertServer(ctx, w.keys, "127.0.0.1:0"); err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stopCerts, w.certsEnded = stop, make(chan error, 1)
	go func() { w.certsEnded <- w.certs.Run(serving) }()
	return nil
}

// follow is a group that reads a topic.
type follow struct {
	group, topic string
	notes        bool // it notes a range beside the offset while that is pending
}

// profiles are rules by which most recipients go up and down many times, next to
// the usual ones. Points fade by far less between two events than a score may
// come close to a threshold: no stage is left by time alone.
func profiles() []lead.Profile {
	return append(lead.DefaultProfiles(), lead.Profile{
		Name: "nervous", HalfLife: 1000 * time.Hour,
		Rules: []lead.Rule{
			{Name: "delivery", When: `event_type == "delivered"`, Points: 1, Cap: &lead.Cap{Points: 3, Window: time.Hour}},
			{Name: "open", When: `event_type == "opened"`, Points: 3},
			{Name: "click", When: `event_type == "clicked" && url != ""`, Points: 10},
			{Name: "trouble", When: `event_type in ["bounced", "deferred"]`, Points: -4},
			{Name: "away", When: `event_type in ["unsubscribed", "complained"]`, Points: -12},
		},
		Stages: []lead.Stage{{Name: "lukewarm", Enter: 1.5, Leave: 0.5}, {Name: "warm", Enter: 5.5, Leave: 3.5}, {Name: "hot", Enter: 15.5, Leave: 9.5}},
	})
}

func (w *world) configure(receiver string) error {
	brokers := w.o.external
	if w.cluster != nil {
		brokers = w.cluster.Addrs()
	}
	text, err := yaml.Marshal(map[string]any{
		"data_dir": filepath.Join(w.dir, "data"),
		"kafka":    map[string]any{"brokers": brokers, "topic_prefix": strings.TrimSuffix(w.topics.Raw, "raw.v1")},
		"registry": map[string]any{"url": w.env.RegistryURL}, "clickhouse": map[string]any{"url": w.env.ClickHouseURL + "/mailriver"},
		"receiver": map[string]any{"addr": receiver}, "normalizer": map[string]any{"group": w.prefix + normalizer},
		"loader":      map[string]any{"group": w.prefix + loader},
		"suppression": map[string]any{"group": w.prefix + suppression, "rates": map[string]any{"group": w.prefix + suppression + ".rates"}},
		"leadscoring": map[string]any{
			"group": w.prefix + leadscoring, "profiles": w.profiles,
			"webhooks": []any{map[string]any{"name": "hook", "url": w.hook.url, "secrets": []string{w.hook.secret()}, "allow_private": true}},
			"deliveries": map[string]any{
				"group": w.prefix + leadscoring + ".webhooks", "in_flight": 16, "attempts": 1000,
				"retry_min": "100ms", "retry_max": "1s", "break_min": "200ms", "break_max": "1s",
			},
		},
	})
	if err != nil {
		return err
	}
	text = append(text, w.keys.ConfigYAML(w.posted, w.certs.Host())...)
	w.config = filepath.Join(w.dir, "mailriver.yaml")
	return os.WriteFile(w.config, text, 0o600)
}

// close ends everything, in the reverse order.
func (w *world) close() error {
	var errs []error
	for _, p := range w.processes {
		errs = append(errs, p.end(syscall.SIGKILL, time.Second))
	}
	if w.hook != nil {
		errs = append(errs, w.hook.close())
	}
	if w.stopCerts != nil {
		w.stopCerts()
		errs = append(errs, <-w.certsEnded)
	}
	if w.env != nil {
		if pid := w.env.ClickHousePID(); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGCONT) // one that is paused cannot stop
		}
		errs = append(errs, w.env.Close())
	}
	if w.admin != nil {
		if w.o.external != nil {
			w.removeTopics()
		}
		w.admin.Close()
	}
	if w.cluster != nil {
		errs = append(errs, w.cluster.Close())
	}
	return errors.Join(errs...)
}

// removeTopics leaves somebody else's cluster as it was.
func (w *world) removeTopics() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	declared, err := kafka.Declared(strings.TrimSuffix(w.topics.Raw, "raw.v1"))
	var all []string
	for _, t := range declared {
		all = append(all, t.Name)
	}
	if err == nil {
		_, err = w.admin.DeleteTopics(ctx, all...)
	}
	if err != nil {
		fmt.Fprintf(w.out, "topics %s* are left on the cluster: %v\n", strings.TrimSuffix(w.topics.Raw, "raw.v1"), err)
	}
}

// play posts the traffic, disrupts, waits until all is drained, and balances.
func (w *world) play(ctx context.Context) (*result, error) {
	sources := w.keys.Sources(w.posted, w.certs.Host())
	for i := range sources {
		if sources[i].Provider == "ses" {
			sources[i].Share = 0.2 // an SNS signature costs most of a millisecond
		}
	}
	requests, err := simulate.Generate(sources, simulate.Options{
		Seed: w.o.seed, Events: w.o.events, Duplicates: w.o.duplicates, Reorder: w.o.reorder, Forgeries: w.o.forgeries,
	})
	if err != nil {
		return nil, err
	}
	truth, err := newBins(filepath.Join(w.dir, "truth"))
	if err != nil {
		return nil, err
	}
	g := newGate(plan(w.o, w.cluster != nil))
	begun := time.Now()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var background sync.WaitGroup
	background.Go(func() { w.revive(watching) })
	background.Go(func() { w.sample(watching) })
	disrupted := make(chan error, 1)
	go func() { disrupted <- w.disrupt(ctx, g) }()

	sender := simulate.Sender{
		Rate: w.o.rate, Attempts: 10_000, RetryAll: true,
		Wait:     func(n int) time.Duration { return min(time.Duration(n)*50*time.Millisecond, time.Second) },
		OnAnswer: w.answered,
	}
	var writeErr error
	summary, err := sender.Send(ctx, w.told(ctx, requests, truth, g, &writeErr))
	g.finish()
	if err = errors.Join(err, <-disrupted, writeErr, truth.flush()); err != nil {
		return nil, err
	}
	w.holds.Wait()
	r := w.result
	r.summary, r.posting = summary, time.Since(begun)
	fmt.Fprintf(w.out, "posted %d events in %d requests after %s; waiting until all is drained\n", summary.Events, summary.Requests, r.posting.Round(time.Second))
	if err := w.drain(ctx); err != nil {
		return nil, err
	}
	if err := w.drainHook(ctx); err != nil {
		return nil, err
	}
	r.duration = time.Since(begun)
	stop()
	background.Wait()
	for _, p := range w.processes {
		r.alone += p.endedAlone()
	}
	if err := w.balance(ctx, truth); err != nil {
		return nil, err
	}
	r.elapsed = time.Since(begun)
	return r, nil
}

// answered keeps the ledger.
func (w *world) answered(r simulate.Request, status int, _ error) {
	if r.Forged || status != http.StatusOK {
		return
	}
	sum := sha256.Sum256(r.Body)
	w.ledger.Lock()
	defer w.ledger.Unlock()
	w.ledger.accepted[sum] = true
}

// told writes down the truth, and lets no event pass before the disruption that
// belongs in front of it.
func (w *world) told(ctx context.Context, requests iter.Seq[simulate.Request], truth *bins, g *gate, failed *error) iter.Seq[simulate.Request] {
	return func(yield func(simulate.Request) bool) {
		events, shown := 0, time.Now()
		for r := range requests {
			for _, e := range r.Truth[:r.Distinct] {
				if *failed = truth.add(e); *failed != nil {
					return
				}
			}
			events += r.Distinct
			if !g.pass(ctx, events) || !yield(r) {
				return
			}
			if time.Since(shown) > 15*time.Second {
				shown = time.Now()
				fmt.Fprintf(w.out, "%d of %d events posted, %d disruptions\n", events, w.o.events, g.fired())
			}
		}
	}
}

// revive starts services that ended by themselves, as their supervisor would.
func (w *world) revive(ctx context.Context) {
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, p := range w.processes {
			w.mu.Lock()
			if !w.busy[p.name] && !p.running() {
				if err := p.start(); err != nil {
					fmt.Fprintf(w.out, "%s: %v\n", p.name, err)
				}
			}
			w.mu.Unlock()
		}
	}
}

// sample adds up how many inserts ClickHouse ignored because it had seen their
// token. A kill sets its counter back to 0.
func (w *world) sample(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last := 0
	for ctx.Err() == nil {
		n, err := w.number(ctx, "SELECT sum(value) FROM system.events WHERE event = 'DuplicatedInsertedBlocks'")
		if err == nil {
			if n < last {
				last = 0
			}
			w.mu.Lock()
			w.result.ignored += n - last
			w.mu.Unlock()
			last = n
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// stuck is how long a drain may go without any progress.
const stuck = 4 * time.Minute

// drain waits until every group has read all of its topic.
func (w *world) drain(ctx context.Context) error {
	rows, least, changed, shown := -1, int64(math.MaxInt64), time.Now(), time.Now()
	for {
		left, err := w.left(ctx)
		if time.Since(shown) > 10*time.Second {
			shown = time.Now()
			fmt.Fprintf(w.out, "%d records are left, %d rows are in, %v\n", left, rows, err)
		}
		if err == nil && left == 0 {
			w.result.drained = true
			return nil
		}
		if err == nil && left < least {
			least, changed = left, time.Now()
		}
		if n, countErr := w.number(ctx, "SELECT count() FROM mailriver.events"); countErr == nil && n != rows {
			rows, changed = n, time.Now()
		}
		if time.Since(changed) > stuck {
			fmt.Fprintf(w.out, "not drained: nothing has moved for %s: %d records are left, %v\n", stuck, left, err)
			return nil // the books say what is missing
		}
		if !pause(ctx, time.Second) {
			return ctx.Err()
		}
	}
}

// left counts the records that the groups have not committed. What one group
// writes is the input of those behind it in the list, so it is asked first.
func (w *world) left(ctx context.Context) (all int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, f := range w.follows {
		left, err := w.leftOf(ctx, f)
		if err != nil {
			return 0, fmt.Errorf("group %s: %w", f.group, err)
		}
		all += left
	}
	return all, nil
}

func (w *world) leftOf(ctx context.Context, f follow) (left int64, err error) {
	span, err := w.clients.Span(ctx, f.topic, kafka.Start(), kafka.End())
	if err != nil {
		return 0, err
	}
	ends, err := w.admin.ListEndOffsets(ctx, f.topic)
	if err != nil {
		return 0, err
	}
	ends.Each(func(o kadm.ListedOffset) { left += max(0, o.Offset-span.To[o.Partition]) }) // open transactions
	committed, err := w.admin.FetchOffsets(ctx, f.group)
	if err != nil {
		return 0, err
	}
	committed.Each(func(o kadm.OffsetResponse) {
		if o.Topic == f.topic {
			span.From[o.Partition] = max(span.From[o.Partition], o.At)
		}
		if f.notes && o.Metadata != "" {
			left++ // a pending range; the clients of other groups note who they are
		}
	})
	if n := span.Len(); n == 0 || left+n > 100 {
		return left + n, nil
	}
	// A few offsets may be the ends of transactions alone.
	err = w.clients.Read(ctx, span, func(*kgo.Record) error { left++; return nil })
	return left, err
}

// query asks ClickHouse over HTTP.
func (w *world) query(ctx context.Context, sql string) (io.ReadCloser, error) {
	values := url.Values{"query": {sql}, "date_time_output_format": {"iso"}, "output_format_json_quote_64bit_integers": {"0"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.env.ClickHouseURL+"/?"+values.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		_ = resp.Body.Close()
		return nil, fmt.Errorf("clickhouse: %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return resp.Body, nil
}

func (w *world) text(ctx context.Context, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	body, err := w.query(ctx, sql)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	text, err := io.ReadAll(body)
	return strings.TrimSpace(string(text)), err
}

func (w *world) number(ctx context.Context, sql string) (n int, err error) {
	text, err := w.text(ctx, sql)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(text, &n)
	return n, err
}

// await waits until check passes.
func (w *world) await(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if !pause(ctx, 200*time.Millisecond) {
			return fmt.Errorf("%s does not come up: %w", what, err)
		}
	}
}

// pause reports whether d passed before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func freePorts(n int) (addresses []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all are open until all are drawn
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}
