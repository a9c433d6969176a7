package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mailriver/pkg/embedded"
	"mailriver/services/assembly"
)

func TestAllinone_usage(t *testing.T) {
	t.Chdir(t.TempDir())
	for args, want := range map[string]string{
		"bogus":                `"bogus"`,
		"--bogus":              "--bogus",
		"demo bogus":           `"bogus"`,
		"--config absent.yaml": "absent.yaml: no such file or directory",
		"demo --events=some":   "--events",
	} {
		var out, errs strings.Builder
		if status := allinone(t.Context(), strings.Fields(args), nil, &out, &errs); status != 2 {
			t.Errorf("mailriver-allinone %s = %d, want 2 (%s)", args, status, errs.String())
		}
		if !strings.Contains(errs.String(), want) || out.Len() > 0 {
			t.Errorf("mailriver-allinone %s says %q and %q, want %s", args, out.String(), errs.String(), want)
		}
	}
}

// The first start makes a configuration that `mailriver` can use, too, and the
// banner shows what can be copied.
func TestBanner(t *testing.T) {
	t.Chdir(t.TempDir())
	tests := []struct {
		receiver, admin         string
		wantReceiver, wantAdmin string
	}{
		{":8080", ":9464", "http://localhost:8080", "http://localhost:9464"},
		{"0.0.0.0:80", "[::]:81", "http://localhost:80", "http://localhost:81"},
		{"192.0.2.1:8080", "127.0.0.1:9464", "http://192.0.2.1:8080", "http://127.0.0.1:9464"},
	}
	for _, tt := range tests {
		dir := t.TempDir()
		cfg, file, err := loadConfig("", dir, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dir, "mailriver.yaml"); file != want {
			t.Errorf("loadConfig() read %s, want %s", file, want)
		}
		cfg.Receiver.HTTP.Addr, cfg.Admin.Addr = tt.receiver, tt.admin
		var out strings.Builder
		banner(&out, started{
			config: cfg, file: file, command: "bin/mailriver",
			env: &embedded.Env{
				Brokers: []string{"127.0.0.1:9092"}, RegistryURL: "http://127.0.0.1:8081", ClickHouseURL: "http://127.0.0.1:8123",
			},
		})
		for _, want := range []string{
			"Data is in " + dir + ".", "POST " + tt.wantReceiver + "/webhooks/{source}", tt.wantAdmin + "/metrics",
			"127.0.0.1:9092", "http://127.0.0.1:8081", "\ncurl -i -X POST '" + tt.wantReceiver + "/webhooks/mailgun' ",
			"\ncurl -s 'http://127.0.0.1:8123/?query=SELECT+",
			"\nbin/mailriver simulate --config " + file + "\n", "\nbin/mailriver tail --config " + file + "\n",
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("banner with receiver.addr %s lacks %q:\n%s", tt.receiver, want, out.String())
			}
		}
	}
}

// The keys are named where the configuration may not lead to them: --data-dir
// of this command is not in the file that the other one reads.
func TestBanner_ownFile(t *testing.T) {
	t.Chdir(t.TempDir())
	dir := t.TempDir()
	cfg, file, err := loadConfig("", dir, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "own.yaml")
	if err := os.Rename(file, own); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	banner(&out, started{config: cfg, file: own, command: "bin/mailriver", env: &embedded.Env{Brokers: []string{"x"}}})
	want := "\nbin/mailriver simulate --config " + own + " --keys " + filepath.Join(dir, "keys") + "\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("banner lacks %q:\n%s", want, out.String())
	}
}

// A configuration of the user's own is named in the commands only where one has
// to name it.
func TestBanner_ownSources(t *testing.T) {
	t.Chdir(t.TempDir())
	cfg := assembly.DefaultConfig()
	cfg.DataDir = t.TempDir()
	var out strings.Builder
	banner(&out, started{config: cfg, file: assembly.DefaultFile, command: "bin/mailriver", env: &embedded.Env{Brokers: []string{"x"}}})
	if text := out.String(); !strings.Contains(text, "\nbin/mailriver tail\n") || strings.Contains(text, "simulate") ||
		strings.Contains(text, "curl -i") {
		t.Errorf("banner without the simulator's keys is\n%s\nwant tail, and nothing that needs the keys", text)
	}
}
