package assembly_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	broker "github.com/twmb/franz-go/pkg/kfake" // imports_test.go has constants of their own names
	schemas "github.com/twmb/franz-go/pkg/sr/srfake"

	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/embedded/embeddedtest"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/services/assembly"
)

// empty is a process on a broker and a registry that hold nothing yet.
func empty(t *testing.T) *assembly.Process {
	t.Helper()
	cluster, err := broker.NewCluster(broker.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	registry := schemas.New()
	t.Cleanup(registry.Close)
	cfg := assembly.DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.Kafka.Brokers = cluster.ListenAddrs()
	cfg.Registry.URL = registry.URL()
	cfg.Admin.Addr, cfg.Receiver.HTTP.Addr = "127.0.0.1:0", "127.0.0.1:0"
	return opened(t, cfg)
}

func opened(t *testing.T, cfg assembly.Config) *assembly.Process {
	t.Helper()
	p, err := assembly.Open(t.Context(), cfg, "test", "1", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	return p
}

// registered are the topics whose values are Avro, in the order of their ids.
var registered = []string{
	"email.events.v1", "email.suppressions.v1", "email.alerts.v1", "email.lead-scores.v1", "email.lead-signals.v1",
	"email.segments.v1",
}

// A service refuses to start while setup is pending, names all that is, as far
// as it needs it, and the command that makes it.
func TestRun_refusesWhileSetupIsPending(t *testing.T) {
	p := empty(t)
	declared, err := kafka.Declared("email.")
	if err != nil {
		t.Fatal(err)
	}
	topics, subjects := "", ""
	for _, topic := range declared {
		topics += ", topic " + topic.Name
	}
	for _, name := range registered {
		subjects += ", schema " + name + "-value"
	}
	topics = strings.TrimPrefix(topics, ", ")
	for service, want := range map[string]string{
		"receiver":            topics,
		"normalizer":          topics + subjects,
		"receiver,normalizer": topics + subjects,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), kafkatest.Patience)
		err := p.Run(ctx, strings.Split(service, ","), func() { t.Errorf("%s: started", service) })
		cancel()
		want = "setup is pending: run `mailriver setup` first; it would make: " + want
		if !errors.Is(err, assembly.ErrPending) || err.Error() != want {
			t.Errorf("Run(%s) = %v, want %s", service, err, want)
		}
	}
}

func TestRun_names(t *testing.T) {
	p := empty(t)
	all := "there are " + strings.Join(assembly.ServiceNames(), ", ")
	for names, want := range map[string]string{
		"":                  "no service is called \"\": " + all,
		"nope":              "no service is called \"nope\": " + all,
		"receiver,receiver": "service receiver is named twice",
	} {
		if err := p.Run(t.Context(), strings.Split(names, ","), nil); err == nil || err.Error() != want {
			t.Errorf("Run(%q) = %v, want %s", names, err, want)
		}
	}
	if err := p.Run(t.Context(), nil, nil); err == nil || err.Error() != "no service is named: "+all {
		t.Errorf("Run(nil) = %v, want that none is named", err)
	}
}

// A dependency that does not answer is waited for, until the one who waits is
// told to stop. Meanwhile the process says that it lives, and what it waits for.
func TestRun_waitsForDependencies(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	free := httptest.NewServer(nil)
	free.Close()
	cfg := assembly.DefaultConfig()
	cfg.Kafka.Brokers = []string{gone.Listener.Addr().String()}
	cfg.Admin.Addr = free.Listener.Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), kafkatest.Patience)
	defer cancel()
	ended := make(chan error, 1)
	process := opened(t, cfg)
	go func() { ended <- process.Run(ctx, []string{"receiver"}, nil) }()

	want := "waiting for a dependency: kafka at " + cfg.Kafka.Brokers[0] + ": "
	for said := ""; !strings.Contains(said, want); {
		select {
		case err := <-ended:
			t.Fatalf("Run() = %v before it said what it waits for; it said %q", err, said)
		default:
		}
		if live, err := http.Get("http://" + cfg.Admin.Addr + "/livez"); err == nil {
			if live.StatusCode != http.StatusOK {
				t.Errorf("livez = %s while waiting, want 200", live.Status)
			}
			_ = live.Body.Close()
		}
		ready, err := http.Get("http://" + cfg.Admin.Addr + "/readyz")
		if err != nil {
			continue // not listening yet
		}
		text, err := io.ReadAll(ready.Body)
		_ = ready.Body.Close()
		if err != nil || ready.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("readyz = %s, %v while waiting, want 503", ready.Status, err)
		}
		said = string(text)
	}
	cancel()
	err := <-ended
	if err == nil || !strings.HasPrefix(err.Error(), "interrupted while "+want) {
		t.Errorf("Run() = %v, want that it was interrupted while it waited for kafka", err)
	}
}

// Setup makes everything once. The second run finds it, and nothing is pending.
func TestSetup(t *testing.T) {
	server := embeddedtest.ClickHouse(t)
	cfg := empty(t).Config
	cfg.ClickHouse = clickhousetest.Empty(t, server)
	p := opened(t, cfg)
	needs := assembly.Needs{Kafka: true, Registry: true, ClickHouse: true}
	pending, err := assembly.Pending(t.Context(), p, needs)
	if err != nil {
		t.Fatal(err)
	}

	first := setup(t, p)
	made := map[string]int{}
	for _, step := range first {
		made[step.What]++
		if want := map[string]string{"topic": "created", "schema": "registered", "migration": "applied"}[step.What]; step.Done != want {
			t.Errorf("the first setup: %+v, want it to be %s", step, want)
		}
	}
	if len(first) != len(pending) {
		t.Errorf("setup made %d things, and %d were pending: %q", len(first), len(pending), pending)
	}
	if made["topic"] == 0 || made["schema"] != len(registered) || made["migration"] == 0 {
		t.Errorf("setup made %v, want the topics, %d schemas and the migrations", made, len(registered))
	}
	if pending, err := assembly.Pending(t.Context(), p, needs); err != nil || len(pending) > 0 {
		t.Errorf("Pending() after setup = %q, %v, want nothing", pending, err)
	}

	second := setup(t, p)
	for _, step := range second {
		if step.Done != "present" {
			t.Errorf("the second setup: %+v, want it to be present", step)
		}
	}
	if want := made["topic"] + made["schema"] + 1; len(second) != want { // migrations are one line then
		t.Errorf("the second setup reported %d steps, want %d: %v", len(second), want, second)
	}
}

func setup(t *testing.T, p *assembly.Process) []assembly.Step {
	t.Helper()
	var steps []assembly.Step
	if err := assembly.Setup(t.Context(), p, func(s assembly.Step) { steps = append(steps, s) }); err != nil {
		t.Fatal(err)
	}
	return steps
}
