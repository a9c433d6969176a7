package embedded

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"mailriver/pkg/embedded/chdb"
)

func options(t testing.TB, dir string) Options {
	return Options{
		DataDir: dir, KafkaAddr: "127.0.0.1:0", RegistryAddr: "127.0.0.1:0", ClickHouseAddr: "127.0.0.1:0",
		Library: library(t), Logger: testLog(t),
	}
}

func start(t testing.TB, dir string) *Env {
	t.Helper()
	env, err := Start(t.Context(), options(t, dir))
	if err != nil {
		t.Fatalf("Start() = %v, want nil", err)
	}
	t.Cleanup(func() {
		if err := env.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		<-env.Done()
		if err := env.Err(); err != nil {
			t.Errorf("Err() after Close = %v, want nil", err)
		}
	})
	return env
}

// query asks ClickHouse, and returns its answer without the line end.
func query(ctx context.Context, env *Env, sql string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, env.ClickHouseURL, strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	return strings.TrimSpace(string(b)), err
}

func mustQuery(t testing.TB, env *Env, sql string) string {
	t.Helper()
	got, err := query(within(t), env, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}

func TestEnvRestarts(t *testing.T) {
	dir := t.TempDir()
	env := start(t, dir)
	createTopic(t, env.Brokers, 1)
	produce(t, client(t, env.Brokers), 0, "a")
	rcl, err := sr.NewClient(sr.URLs(env.RegistryURL))
	if err != nil {
		t.Fatal(err)
	}
	schema, err := rcl.CreateSchema(within(t), "email.events.v1-value", avro("E"))
	if err != nil {
		t.Fatal(err)
	}
	mustQuery(t, env, "CREATE TABLE t (a Int32) ENGINE = MergeTree ORDER BY a")
	mustQuery(t, env, "INSERT INTO t VALUES (7)")

	if _, err := chdb.Lock(filepath.Join(dir, "lock"), 0); !errors.Is(err, chdb.ErrLocked) ||
		!strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("Lock() of a directory in use = %v, want %v and the process", err, chdb.ErrLocked)
	}
	if err := env.Close(); err != nil {
		t.Fatalf("Close() = %v, want nil", err)
	}

	again := start(t, dir)
	if got := committed(t, again.Brokers, 1)[0]; !slices.Equal(got, []string{"a"}) {
		t.Errorf("records = %q, want a", got)
	}
	if rcl, err = sr.NewClient(sr.URLs(again.RegistryURL)); err != nil {
		t.Fatal(err)
	}
	if got, err := rcl.SchemaByVersion(within(t), "email.events.v1-value", 1); err != nil || got.ID != schema.ID {
		t.Errorf("SchemaByVersion() = %+v, %v, want id %d", got, err, schema.ID)
	}
	if got := mustQuery(t, again, "SELECT a FROM t"); got != "7" {
		t.Errorf("SELECT = %q, want 7", got)
	}
}

// TestEnvBringsClickHouseBack kills the child, which the environment outlives.
func TestEnvBringsClickHouseBack(t *testing.T) {
	env := start(t, t.TempDir())
	mustQuery(t, env, "CREATE TABLE t (a Int32) ENGINE = MergeTree ORDER BY a")
	for i := range 3 {
		mustQuery(t, env, fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
		pid := env.ClickHousePID()
		child, err := os.FindProcess(pid)
		if err == nil {
			err = child.Kill()
		}
		if err != nil {
			t.Fatalf("kill %d: %v", pid, err)
		}
		// The next query may fail with the child that dies, and then waits for the
		// one that comes.
		eventually(t, "the rows are back", func() bool {
			got, err := query(t.Context(), env, "SELECT count() FROM t")
			return err == nil && got == strconv.Itoa(i+1)
		})
		eventually(t, "another child", func() bool {
			now := env.ClickHousePID()
			return now != 0 && now != pid
		})
	}
	select {
	case <-env.Done():
		t.Errorf("Done() after a child was killed, Err() = %v", env.Err())
	default:
	}
}

func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	tests := []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"library", func(o *Options) { o.Library = "/nowhere/libchdb.so" }, "libchdb is not installed at the given path"},
		{"not a library", func(o *Options) { o.Library = "/dev/null" }, "embedded clickhouse: clickhouse engine: open /dev/null"},
		{"kafka address", func(o *Options) { o.KafkaAddr = taken.Addr().String() }, "embedded kafka: listen tcp"},
		{"registry address", func(o *Options) { o.RegistryAddr = taken.Addr().String() }, "embedded registry: listen tcp"},
		{"clickhouse address", func(o *Options) { o.ClickHouseAddr = taken.Addr().String() }, "embedded clickhouse: listen tcp"},
		{"every address", func(o *Options) { o.KafkaAddr = "0.0.0.0:0" }, "must name the host"},
		{"every address of clickhouse", func(o *Options) { o.ClickHouseAddr = ":8123" }, "must name the host"},
		{"no port", func(o *Options) { o.RegistryAddr = "localhost" }, "missing port"},
		{"logger", func(o *Options) { o.Logger = nil }, "no logger"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opts := options(t, t.TempDir())
			tt.change(&opts)
			env, err := Start(t.Context(), opts)
			if err == nil {
				_ = env.Close()
				t.Fatalf("Start() = nil, want %q", tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Start() = %v, want %q", err, tt.want)
			}
		})
	}
}

// A victim is this test binary, started to be killed. It says what it has
// acknowledged, one JSON value a line.
type victimProcess struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startVictim(t testing.TB, name, dir string) *victimProcess {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), victimName+"="+name, victimDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &victimProcess{cmd: cmd, lines: bufio.NewScanner(out)}
}

// kill ends the victim, and returns what it had said meanwhile.
func (v *victimProcess) kill(t testing.TB) (rest []string) {
	t.Helper()
	if err := v.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for v.lines.Scan() {
		rest = append(rest, v.lines.Text())
	}
	_ = v.cmd.Wait() // killed, it says
	return rest
}

// runVictim is the main of a victim.
func runVictim(name, dir string) {
	ctx := context.Background()
	out := json.NewEncoder(os.Stdout)
	var err error
	switch name {
	case "transactions":
		err = transact(ctx, dir, func(n int) { _ = out.Encode(n) })
	case "environment":
		err = useEnvironment(ctx, dir, func(v any) { _ = out.Encode(v) })
	default:
		err = fmt.Errorf("no victim called %q", name)
	}
	fmt.Fprintln(os.Stderr, "victim:", err)
	os.Exit(1)
}

const txPartitions = 4

// transact commits one transaction after another for ever: a record with its
// number in each partition, and the number as the offset of a group.
func transact(ctx context.Context, dir string, acked func(int)) error {
	k, err := startKafka(ctx, dir, "127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if err := tryCreateTopic(ctx, k.addrs(), txPartitions); err != nil && !strings.Contains(err.Error(), "TOPIC_ALREADY_EXISTS") {
		return err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.addrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.TransactionalID("normalizer"), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	first, err := nextNumber(ctx, cl)
	if err != nil {
		return err
	}
	for n := first; ; n++ {
		if err := cl.BeginTransaction(); err != nil {
			return err
		}
		var records []*kgo.Record
		for p := range int32(txPartitions) {
			records = append(records, &kgo.Record{Topic: topic, Partition: p, Value: []byte(strconv.Itoa(n))})
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			return err
		}
		if err := txOffset(ctx, cl, int64(n+1), ""); err != nil {
			return err
		}
		if n%5 == 4 { // some are aborted, and come again
			if err := cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
				return err
			}
			if err := cl.BeginTransaction(); err != nil {
				return err
			}
			if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
				return err
			}
			if err := txOffset(ctx, cl, int64(n+1), ""); err != nil {
				return err
			}
		}
		if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
			return err
		}
		acked(n)
	}
}

// nextNumber is the offset of the group: as a consumer, the victim goes on
// where it had committed.
func nextNumber(ctx context.Context, cl *kgo.Client) (int, error) {
	got, err := kadm.NewClient(cl).FetchOffsets(ctx, "mailriver.loader")
	if err != nil {
		return 0, nil //nolint:nilerr // the group does not exist yet
	}
	o, ok := got.Lookup(topic, 0)
	if !ok || o.At < 0 {
		return 0, nil
	}
	return int(o.At), nil
}

// TestKafkaTransactionsSurviveKill kills a broker in the middle of whatever it
// does, again and again: each transaction is in every partition once, or in
// none, and the offset agrees.
func TestKafkaTransactionsSurviveKill(t *testing.T) {
	dir := t.TempDir()
	last := -1
	for round := range 12 {
		v := startVictim(t, "transactions", dir)
		for range 3 + 2*round {
			if !v.lines.Scan() {
				t.Fatalf("the victim ended in round %d", round)
			}
			last = number(t, v.lines.Text())
		}
		for _, line := range v.kill(t) {
			last = number(t, line)
		}
	}
	k := broker(t, dir)
	got := committed(t, k.addrs(), txPartitions)
	for p := range got {
		if !slices.Equal(got[p], got[0]) {
			t.Errorf("partition %d has %d transactions, partition 0 has %d", p, len(got[p]), len(got[0]))
		}
	}
	for n, value := range got[0] {
		if value != strconv.Itoa(n) {
			t.Fatalf("transaction %d is %s: one is missing or twice", n, value)
		}
	}
	if len(got[0]) <= last {
		t.Errorf("%d transactions, want at least the %d that were acknowledged", len(got[0]), last+1)
	}
	if at, _ := groupOffset(t, k.addrs()); at != int64(len(got[0])) {
		t.Errorf("offset of the group = %d, want %d", at, len(got[0]))
	}
}

func number(t testing.TB, line string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// useEnvironment writes a number to all three, one after another for ever.
func useEnvironment(ctx context.Context, dir string, say func(any)) error {
	library, err := chdb.FindLibrary(os.Getenv("MAILRIVER_CHDB_LIBRARY"), "../..")
	if err != nil {
		return err
	}
	env, err := Start(ctx, Options{
		DataDir: dir, KafkaAddr: "127.0.0.1:0", RegistryAddr: "127.0.0.1:0", ClickHouseAddr: "127.0.0.1:0",
		Library: library, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	say(env.ClickHousePID())
	if err := tryCreateTopic(ctx, env.Brokers, 1); err != nil && !strings.Contains(err.Error(), "TOPIC_ALREADY_EXISTS") {
		return err
	}
	if _, err := query(ctx, env, "CREATE TABLE IF NOT EXISTS t (a Int64) ENGINE = MergeTree ORDER BY a"); err != nil {
		return err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(env.Brokers...))
	if err != nil {
		return err
	}
	rcl, err := sr.NewClient(sr.URLs(env.RegistryURL))
	if err != nil {
		return err
	}
	for n := int64(0); ; n++ {
		round := int64(os.Getpid())*1_000_000 + n
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(strconv.FormatInt(round, 10))}).FirstErr(); err != nil {
			return err
		}
		if _, err := query(ctx, env, fmt.Sprintf("INSERT INTO t VALUES (%d)", round)); err != nil {
			return err
		}
		schema, err := rcl.CreateSchema(ctx, fmt.Sprintf("s%d-value", round), avro(fmt.Sprintf("S%d", round)))
		if err != nil {
			return err
		}
		say(ack{Number: round, Schema: schema.ID})
	}
}

type ack struct {
	Number int64
	Schema int
}

// TestEnvSurvivesKill kills the whole environment while it is used: what was
// acknowledged is there after the next start, and the child is gone.
func TestEnvSurvivesKill(t *testing.T) {
	library(t)
	dir := t.TempDir()
	var acks []ack
	for range 3 {
		v := startVictim(t, "environment", dir)
		if !v.lines.Scan() {
			t.Fatal("the victim does not start")
		}
		child := number(t, v.lines.Text())
		var lines []string
		for range 5 {
			if !v.lines.Scan() {
				t.Fatal("the victim ended")
			}
			lines = append(lines, v.lines.Text())
		}
		for _, line := range append(lines, v.kill(t)...) {
			var a ack
			if err := json.Unmarshal([]byte(line), &a); err != nil {
				t.Fatal(err)
			}
			acks = append(acks, a)
		}
		eventually(t, "the child ends with its parent", func() bool { return !alive(child) })
	}

	env := start(t, dir)
	records := committed(t, env.Brokers, 1)[0]
	rows := strings.Fields(mustQuery(t, env, "SELECT a FROM t"))
	rcl, err := sr.NewClient(sr.URLs(env.RegistryURL))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range acks {
		n := strconv.FormatInt(a.Number, 10)
		if !slices.Contains(records, n) {
			t.Errorf("record %s was acknowledged and is gone", n)
		}
		if !slices.Contains(rows, n) {
			t.Errorf("row %s was acknowledged and is gone", n)
		}
		if s, err := rcl.SchemaByVersion(within(t), "s"+n+"-value", 1); err != nil || s.ID != a.Schema {
			t.Errorf("schema of s%s-value = %d, %v, want %d", n, s.ID, err, a.Schema)
		}
	}
}

// alive says whether a process runs; one that only waits to be noticed by its
// parent does not.
func alive(pid int) bool {
	if _, err := os.Stat("/proc/self/stat"); err != nil { // not Linux
		p, err := os.FindProcess(pid)
		return err == nil && p.Signal(syscall.Signal(0)) == nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, fields, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(fields, "Z")
}

// Without an address for Kafka the rest runs, for use with a real one.
func TestStart_withoutBroker(t *testing.T) {
	dir := t.TempDir()
	opts := options(t, dir)
	opts.KafkaAddr = ""
	env, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("Start() = %v, want nil", err)
	}
	defer func() {
		if err := env.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	}()
	if len(env.Brokers) != 0 || env.RegistryURL == "" {
		t.Errorf("Start() = brokers %v, registry %q, want no broker and a registry", env.Brokers, env.RegistryURL)
	}
	if got := mustQuery(t, env, "SELECT 1"); got != "1" {
		t.Errorf("SELECT 1 = %q, want 1", got)
	}
}
