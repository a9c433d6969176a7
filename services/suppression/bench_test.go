package suppression_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/twmb/franz-go/pkg/kgo"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"mailriver/pkg/event"
	"mailriver/pkg/httpserver"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/measure"
	model "mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
	"mailriver/services/suppression"
)

// What stands between the benchmark and the process that it measures.
const (
	envEntries = "MAILRIVER_BENCH_ENTRIES"         // how many addresses are suppressed; a million without it
	envBrokers = "MAILRIVER_BENCH_CHILD_BROKERS"   // of the parent
	envFolder  = "MAILRIVER_BENCH_CHILD_DIRECTORY" // of the local copy
)

// measured is what a process says about itself.
type measured struct {
	Ready, Filtered, Resident, Disk                   float64 // s, s, MB, MB
	Ratio, RatioLow, P50, P99, Few, All, ResidentLast float64 // of an empty handler; us; ms; MB
	CPU, CPUBare, CPUProcess                          float64 // us for each GET
}

// BenchmarkSuppression fills the topic of the list with entries on the broker of
// kafkatest and measures, in a process of its own, how long an empty copy takes
// to be read from it, how long a restart takes, what the copy costs on disk and
// in memory, and how fast look-ups are. It prints a table; make bench-suppression.
func BenchmarkSuppression(b *testing.B) {
	n := 1_000_000
	if text := os.Getenv(envEntries); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	c := kafkatest.New(b)
	fill(b, c, n)
	dir := b.TempDir()
	child := func() (m measured) {
		cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestBenchmarkedProcess$", "-test.v", "-test.timeout=0")
		cmd.Env = append(os.Environ(), envBrokers+"="+strings.Join(c.Config.Brokers, ","), envFolder+"="+dir, envEntries+"="+strconv.Itoa(n))
		out, err := cmd.CombinedOutput()
		_, text, found := bytes.Cut(out, []byte("measured: "))
		text, _, _ = bytes.Cut(text, []byte("\n"))
		if err != nil || !found || json.Unmarshal(text, &m) != nil {
			b.Fatalf("child: %v\n%s", err, out)
		}
		return m
	}
	for b.Loop() {
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		rebuilt := child()
		again := child()
		b.ReportMetric(float64(n)/rebuilt.Ready, "rebuilt/s")
		b.ReportMetric(again.Ratio, "x_bare(median)")
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "\n%d addresses\t\tgoal\n", n)
		for _, row := range []struct {
			what, format string
			value        float64
			goal         string
		}{
			{"rebuild from the topic, entries/s", "%.0f", float64(n) / rebuilt.Ready, ">= 100000"},
			{"restart to ready, s", "%.2f", again.Ready, "< 5"},
			{"restart to filtered look-ups, s", "%.2f", again.Filtered, ""},
			{"local copy on disk, MB", "%.0f", again.Disk, "< 2000 at 10 million"},
			{"resident memory after a rebuild, MB", "%.0f", rebuilt.Resident, "< 300"},
			{"resident memory after a restart, MB", "%.0f", again.Resident, "< 300"},
			{"resident memory after look-ups, MB", "%.0f", again.ResidentLast, "< 300"},
			{"GET, requests/s to an empty handler (median)", "%.2f", again.Ratio, ">= 0.8"},
			{"GET, requests/s to an empty handler (worst tenth)", "%.2f", again.RatioLow, ""},
			{"GET, processor time with client, us", "%.1f", again.CPU, ""},
			{"empty handler, processor time with client, us", "%.1f", again.CPUBare, ""},
			{"GET in process, processor time, us", "%.1f", again.CPUProcess, ""},
			{"GET in process, median, us", "%.0f", again.P50, ""},
			{"GET in process, p99, us", "%.0f", again.P99, "< 1000"},
			{"10,000 addresses, one in 20 suppressed, ms", "%.1f", again.Few, "< 20"},
			{"10,000 addresses, all suppressed, ms", "%.1f", again.All, ""},
		} {
			fmt.Fprintf(w, "%s\t"+row.format+"\t%s\n", row.what, row.value, row.goal)
		}
		if err := w.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// benchAddress comes in a random order of keys, as addresses do.
func benchAddress(i int) string {
	return fmt.Sprintf("user%015x@example%d.com", uint64(i)*0x9e3779b97f4a7c15>>4, i%1000)
}

// fill publishes the states of n suppressed addresses, as the owner would.
func fill(b *testing.B, c *kafkatest.Cluster, n int) {
	b.Helper()
	enc, err := suppressionavro.NewEncoder(stateSchema)
	if err != nil {
		b.Fatal(err)
	}
	client, err := c.Clients.Producer(kgo.ProducerLinger(20*time.Millisecond), kgo.MaxBufferedRecords(100_000))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	policy := model.DefaultPolicy()
	fingerprint := policy.Fingerprint()
	var once sync.Once
	var failed error
	for i := range n {
		address := benchAddress(i)
		e := bounce(strconv.Itoa(i), address)
		placed, _ := model.Classify(&e, &policy)
		state := model.State{Address: address, ScopeKind: event.ScopeAddress}.Add(placed[0].Fact)
		record := suppressionavro.NewRecord(state, &policy, fingerprint)
		value, err := enc.Append(nil, &record)
		if err != nil {
			b.Fatal(err)
		}
		client.Produce(b.Context(), &kgo.Record{Topic: c.Topics.Suppressions, Key: []byte(state.Key()), Value: value},
			func(_ *kgo.Record, err error) {
				if err != nil {
					once.Do(func() { failed = err })
				}
			})
	}
	if err := client.Flush(b.Context()); err != nil || failed != nil {
		b.Fatal(err, failed)
	}
}

// TestBenchmarkedProcess is the other half of BenchmarkSuppression.
func TestBenchmarkedProcess(t *testing.T) {
	brokers := os.Getenv(envBrokers)
	if brokers == "" {
		t.Skip("is started by BenchmarkSuppression")
	}
	n, err := strconv.Atoi(os.Getenv(envEntries))
	if err != nil {
		t.Fatal(err)
	}
	config := kafka.DefaultConfig()
	config.Brokers = strings.Split(brokers, ",")
	c := &kafkatest.Cluster{Config: config, Topics: config.Topics(), Clients: kafkatest.Clients(t, config)}
	dir := os.Getenv(envFolder)
	key, hash := api.GenerateKey()
	var m measured
	begun := time.Now()
	service, engine, stop := build(t, c, "bench", dir, func(cfg *suppression.Config, deps *suppression.Deps) {
		cfg.API.Keys = []api.Key{{Name: "bench", Hash: hash, Scopes: []api.Scope{api.Read}}}
		deps.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader())).Meter("bench")
	})
	defer stop()
	for service.Ready(t.Context()) != nil {
		select {
		case <-t.Context().Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	m.Ready, m.Resident, m.Disk = time.Since(begun).Seconds(), resident(t), megabytes(t, dir)
	for !service.Filtered() {
		select {
		case <-t.Context().Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	m.Filtered = time.Since(begun).Seconds()
	m.lookups(t, engine, key, n)
	m.ResidentLast = resident(t)
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nmeasured: %s\n", text)
}

// must returns what package measure found.
func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// resident is the resident memory of this process in MB; 0 where the system does
// not tell.
func resident(t *testing.T) float64 {
	t.Helper()
	return float64(must[int64](t)(measure.Resident())) / (1 << 20)
}

// processorTime is what this process has used. It says less about the neighbors
// than the clock does.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	return must[time.Duration](t)(measure.CPU())
}

func megabytes(t *testing.T, dir string) float64 {
	t.Helper()
	return float64(must[int64](t)(measure.Disk(dir))) / 1e6
}

// discarded is an answer that nobody reads.
type discarded struct {
	header http.Header
	status int
	size   int
}

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(p []byte) (int, error) { d.size += len(p); return len(p), nil }
func (d *discarded) WriteHeader(status int)      { d.status = status }

// asked is address i of the questions, of which one in so many is suppressed.
func asked(i, n, one int) string {
	at := i * 7919 % n
	if i%one != 0 {
		at += n
	}
	return benchAddress(at)
}

func (m *measured) lookups(t *testing.T, engine *gin.Engine, key string, n int) {
	request := func(method, target string, body io.Reader) *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), method, target, body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		return r
	}
	serve := func(r *http.Request) time.Duration {
		w := &discarded{header: http.Header{}, status: http.StatusOK}
		begun := time.Now()
		engine.ServeHTTP(w, r)
		took := time.Since(begun)
		if w.status != http.StatusOK || w.size == 0 {
			t.Fatalf("%s %s = %d", r.Method, r.URL, w.status)
		}
		return took
	}
	// One address at a time, in process.
	var each []time.Duration
	used := processorTime(t)
	for i := range 50_000 {
		each = append(each, serve(request(http.MethodGet, v1+"/"+asked(i, n, 20), nil)))
	}
	m.CPUProcess = float64((processorTime(t) - used).Microseconds()) / float64(len(each))
	slices.Sort(each)
	m.P50, m.P99 = float64(each[len(each)/2].Microseconds()), float64(each[len(each)*99/100].Microseconds())

	// Many in one call.
	many := func(one int) float64 {
		var rounds []time.Duration
		for round := range 21 {
			var body struct {
				Addresses []string `json:"addresses"`
			}
			for i := range 10_000 {
				body.Addresses = append(body.Addresses, asked(i*one+round*104729*one+min(i%20, one-1), n, one))
			}
			text, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			r := request(http.MethodPost, v1+"/check", bytes.NewReader(text))
			r.Header.Set("Content-Type", "application/json")
			rounds = append(rounds, serve(r))
		}
		slices.Sort(rounds)
		return float64(rounds[len(rounds)/2].Microseconds()) / 1000
	}
	m.Few, m.All = many(20), many(1)

	// Over HTTP, beside an empty handler with the same answer, in turns.
	w := httptest.NewRecorder()
	engine.ServeHTTP(w, request(http.MethodGet, v1+"/"+asked(1, n, 20), nil))
	bare := httpserver.NewEngine(slog.New(slog.DiscardHandler))
	bare.GET(v1+"/:address", func(c *gin.Context) {
		c.Data(http.StatusOK, "application/json; charset=utf-8", w.Body.Bytes())
	})
	ours, theirs := httptest.NewServer(engine), httptest.NewServer(bare)
	defer ours.Close()
	defer theirs.Close()
	const connections, round = 16, 4000
	transport := &http.Transport{MaxIdleConnsPerHost: connections}
	defer transport.CloseIdleConnections()
	at := 0
	load := func(url string) time.Duration {
		from := at
		at += round
		begun := time.Now()
		var wg sync.WaitGroup
		for worker := range connections {
			wg.Go(func() {
				for i := worker; i < round; i += connections {
					response, err := transport.RoundTrip(request(http.MethodGet, url+v1+"/"+asked(from+i, n, 20), nil))
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
			})
		}
		wg.Wait()
		return time.Since(begun)
	}
	load(ours.URL)
	load(theirs.URL)
	var ratios []float64
	var cpu [2]time.Duration
	for i := range 30 {
		var took [2]time.Duration
		for turn := range 2 {
			which := (i + turn) % 2
			used := processorTime(t)
			took[which] = load([]string{ours.URL, theirs.URL}[which])
			cpu[which] += processorTime(t) - used
		}
		ratios = append(ratios, took[1].Seconds()/took[0].Seconds())
	}
	m.CPU = float64(cpu[0].Microseconds()) / float64(len(ratios)*round)
	m.CPUBare = float64(cpu[1].Microseconds()) / float64(len(ratios)*round)
	slices.Sort(ratios)
	m.Ratio, m.RatioLow = ratios[len(ratios)/2], ratios[len(ratios)/10]
}
