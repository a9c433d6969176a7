// Package e2e tests Mailriver as a black box: real processes, signed requests
// in, ClickHouse, Kafka and the command line out. It imports no service.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailriver/pkg/embedded"
	"mailriver/pkg/event"
	"mailriver/pkg/simulate"
)

// patience bounds a wait for what must happen. It is no claim about speed.
const patience = 90 * time.Second

// bin holds the binaries under test.
var bin string

func TestMain(m *testing.M) {
	embedded.RunChildIfAsked()
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "mailriver-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is in the temporary folder
	bin = dir
	for name, path := range map[string]string{"mailriver": "mailriver/services/mailriver", "mailriver-allinone": "mailriver/services/allinone"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), path)
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build %s: %v\n%s", path, err, out)
			return 1
		}
	}
	return m.Run()
}

// library returns the path of libchdb, or skips the test. Where it is required,
// as in CI, its absence is a failure.
func library(t *testing.T) string {
	t.Helper()
	path := os.Getenv("MAILRIVER_CHDB_LIBRARY")
	if _, err := os.Stat(path); path != "" && err == nil {
		return path
	}
	if strings.Contains(os.Getenv("MAILRIVER_REQUIRE"), "clickhouse") {
		t.Fatalf("libchdb is required and not at %q: run `make chdb`", path)
	}
	t.Skip("libchdb is not installed: run `make test`, or `make chdb` and set MAILRIVER_CHDB_LIBRARY")
	return ""
}

// environ is the environment of a process under test: none of the settings of
// whoever runs the tests.
func environ(extra ...string) []string {
	clean := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "MAILRIVER_") })
	return append(clean, extra...)
}

// river is an all-in-one under test.
type river struct {
	t          *testing.T
	dir        string // its data
	config     string
	library    string
	keys       simulate.Keys
	receiver   string // URL
	admin      string // URL
	clickhouse string // URL
	registry   string // URL
	list       string // URL of the suppression API
	leads      string // URL of the lead scoring API
	kafka      string // address
	certHost   string
	certs      *simulate.CertServer
	process    *process
}

// newRiver prepares a folder and a configuration, and starts nothing.
func newRiver(t *testing.T, extraConfig string) *river {
	t.Helper()
	r := &river{t: t, dir: t.TempDir(), library: library(t)}
	ports := freePorts(t, 7)
	r.receiver, r.admin, r.clickhouse, r.registry = "http://"+ports[0], "http://"+ports[1], "http://"+ports[2], "http://"+ports[3]
	r.kafka, r.list, r.leads = ports[4], "http://"+ports[5], "http://"+ports[6]
	keys, err := simulate.GenerateKeys(filepath.Join(r.dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	r.keys = keys
	if r.certs, err = simulate.OpenCertServer(t.Context(), keys, "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() { served <- r.certs.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("certificate server: %v", err)
		}
	})
	r.certHost = r.certs.Host()
	text := fmt.Sprintf("data_dir: %q\nkafka: { brokers: [%q] }\nregistry: { url: %q }\nclickhouse: { url: %q }\nadmin: { addr: %q }\nreceiver: { addr: %q }\n"+
		"suppression: { api: { addr: %q } }\nleadscoring: { api: { addr: %q } }\n",
		r.dir, r.kafka, r.registry, r.clickhouse+"/mailriver", ports[1], ports[0], ports[5], ports[6]) + extraConfig + "\n" + keys.ConfigYAML(r.receiver, r.certHost)
	r.config = filepath.Join(r.dir, "mailriver.yaml")
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs the all-in-one and waits until it is ready.
func (r *river) start() {
	r.t.Helper()
	r.process = startProcess(r.t, filepath.Join(bin, "mailriver-allinone"), environ("MAILRIVER_CHDB_LIBRARY="+r.library),
		"--config", r.config, "--data-dir", r.dir)
	r.awaitReady()
}

func (r *river) awaitReady() {
	r.t.Helper()
	eventually(r.t, "ready", func() error {
		if r.process.ended() {
			r.t.Fatalf("the process ended: %s", r.process.output())
		}
		resp, err := http.Get(r.admin + "/readyz")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(resp.Body)
			return fmt.Errorf("readyz: %s: %s", resp.Status, text)
		}
		return nil
	})
}

// sources are the simulated sources of the river.
func (r *river) sources() []simulate.Source { return r.keys.Sources(r.receiver, r.certHost) }

// process is a child that ends with its test.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *lockedBuffer
	done chan struct{}
	err  error
}

func startProcess(t *testing.T, path string, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(path, args...), out: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("output of %s:\n%s", filepath.Base(path), p.output())
		}
	})
	return p
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// output is the end of what the process wrote.
func (p *process) output() string {
	text := p.out.String()
	return text[max(0, len(text)-8000):]
}

// kill ends the process as a power failure would, and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	<-p.done
}

// stop asks the process to end and returns how it ended.
func (p *process) stop() error {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("not stopped %s after SIGTERM: %s", patience, p.output())
	}
	return p.err
}

// run runs a command to its end and returns what it wrote.
func (r *river) run(args ...string) (stdout string, status int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "mailriver"), append(args, "--config", r.config)...)
	cmd.Env = environ()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		r.t.Fatal(err)
	}
	if cmd.ProcessState.ExitCode() != 0 {
		r.t.Logf("mailriver %s: %s", strings.Join(args, " "), errs.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// query asks ClickHouse over HTTP, as an analyst's curl does.
func (r *river) query(sql string) (string, error) {
	values := url.Values{"query": {sql}, "date_time_output_format": {"iso"}, "output_format_json_quote_64bit_integers": {"0"}}
	resp, err := http.Get(r.clickhouse + "/?" + values.Encode())
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("clickhouse: %s: %s", resp.Status, text)
	}
	return strings.TrimSpace(string(text)), err
}

// rows returns every row of mailriver.events.
func (r *river) rows() []event.Event {
	r.t.Helper()
	text, err := r.query("SELECT * FROM mailriver.events FORMAT JSONEachRow")
	if err != nil {
		r.t.Fatal(err)
	}
	var rows []event.Event
	dec := json.NewDecoder(strings.NewReader(text))
	for dec.More() {
		var e event.Event
		if err := dec.Decode(&e); err != nil {
			r.t.Fatal(err)
		}
		rows = append(rows, e)
	}
	return rows
}

// awaitRows waits until mailriver.events holds n distinct events.
func (r *river) awaitRows(n int) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d events in ClickHouse", n), func() error {
		text, err := r.query("SELECT uniqExact(event_id) FROM mailriver.events")
		if err != nil {
			return err
		}
		if text != fmt.Sprint(n) {
			return fmt.Errorf("%s events", text)
		}
		return nil
	})
}

// eventually waits until check passes.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // all are open until all are drawn
		addresses = append(addresses, l.Addr().String())
	}
	return addresses
}
