package assembly_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	metricnoop "go.opentelemetry.io/otel/metric/noop"

	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/raw"
	"mailriver/pkg/spill"
	"mailriver/services/assembly"
)

// Without Kafka, a receiver that spills must get requests: what it says of Kafka
// does not make it unready. Without a spill it does.
func TestReceiver_readyWithoutKafka(t *testing.T) {
	for _, spills := range []bool{false, true} {
		cfg := assembly.DefaultConfig()
		cfg.DataDir, cfg.Instance = t.TempDir(), "one"
		cfg.Kafka.Brokers = []string{"127.0.0.1:1"}
		cfg.Receiver.HTTP.Addr = "127.0.0.1:0"
		cfg.Receiver.Spill.Enabled = spills
		part, err := buildReceiver(t, cfg)
		if err != nil {
			t.Fatal(err)
		}
		optional := map[string]bool{}
		for _, check := range part.Checks {
			optional[check.Name] = check.Optional
		}
		if optional["receiver kafka"] != spills || optional["receiver"] {
			t.Errorf("spill %t: checks and whether they are optional = %v", spills, optional)
		}
		_, held := optional["receiver spill"]
		_, err = os.Stat(filepath.Join(cfg.DataDir, "receiver", "one", "spill"))
		if held != spills || (err == nil) != spills {
			t.Errorf("spill %t: check receiver spill %t, folder %v", spills, held, err)
		}
		if spills {
			if _, err := buildReceiver(t, cfg); !errors.Is(err, spill.ErrInUse) {
				t.Errorf("a second receiver on one folder = %v, want %v", err, spill.ErrInUse)
			}
		}
		if err := part.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}
}

// The client times a record out by its timestamp, and that of a record of the
// spill is from before the outage. It must get through at any age, with the
// timestamp that it has.
func TestReceiver_drainsOldRecords(t *testing.T) {
	cluster := kafkatest.New(t)
	cfg := assembly.DefaultConfig()
	cfg.DataDir, cfg.Instance = t.TempDir(), "one"
	cfg.Kafka = cluster.Config
	cfg.Receiver.HTTP.Addr = "127.0.0.1:0"
	cfg.Receiver.Spill.Enabled = true
	cfg.Receiver.Spill.Config.Dir = filepath.Join(cfg.DataDir, "spill")

	store, err := spill.Open(cfg.Receiver.Spill.Config, spill.Deps{
		FS: vfs.Default, Meter: metricnoop.NewMeterProvider().Meter(""), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	received := time.Now().Add(-time.Hour).UTC().Truncate(time.Millisecond)
	record := raw.Record{Provider: "ses", Source: "ses", ReceivedAt: received, Body: []byte("v")}.Kafka(cluster.Topics.Raw, "k")
	if err := errors.Join(store.Append(t.Context(), record), store.Close()); err != nil {
		t.Fatal(err)
	}

	part, err := buildReceiver(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, service := range part.Run {
		wg.Go(func() {
			if err := service.Run(ctx); err != nil {
				t.Errorf("%s: %v", service.Name, err)
			}
		})
	}
	got := cluster.Read(t, cluster.Topics.Raw, 1)[0]
	stop()
	wg.Wait()
	if err := part.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if string(got.Key) != "k" || string(got.Value) != "v" || !got.Timestamp.Equal(received) {
		t.Errorf("record = %s %s of %s, want that of %s", got.Key, got.Value, got.Timestamp, received)
	}
}

func buildReceiver(t *testing.T, cfg assembly.Config) (assembly.Part, error) {
	t.Helper()
	p, err := assembly.Open(t.Context(), cfg, "receiver", "test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return assembly.Services()[0].Build(t.Context(), p)
}
