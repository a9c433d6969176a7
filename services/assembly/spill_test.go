package assembly_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

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
