package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/simulate"
)

// generate returns requests that a test may go through once, and remembers what
// they tell.
func (r *river) generate(opt simulate.Options) ([]simulate.Request, map[event.ID]event.Event) {
	r.t.Helper()
	seq, err := simulate.Generate(r.sources(), opt)
	if err != nil {
		r.t.Fatal(err)
	}
	var requests []simulate.Request
	truth := map[event.ID]event.Event{}
	for request := range seq {
		requests = append(requests, request)
		for _, e := range request.Truth[:request.Distinct] {
			truth[e.ID] = e
		}
	}
	return requests, truth
}

func each(requests []simulate.Request) func(func(simulate.Request) bool) {
	return func(yield func(simulate.Request) bool) {
		for _, request := range requests {
			if !yield(request) {
				return
			}
		}
	}
}

// compare checks every field of every event, and that each is there once.
func (r *river) compare(truth map[event.ID]event.Event) {
	r.t.Helper()
	seen := map[event.ID]bool{}
	for _, row := range r.rows() {
		want, told := truth[row.ID]
		switch {
		case !told:
			r.t.Errorf("%s %s %s was never told", row.Provider, row.Type, row.ID)
		case seen[row.ID]:
			r.t.Errorf("%s %s %s is there twice", row.Provider, row.Type, row.ID)
		default:
			for _, difference := range simulate.Compare(want, row) {
				r.t.Errorf("%s %s %s: %s", row.Provider, row.Type, row.ID, difference)
			}
		}
		seen[row.ID] = true
	}
	for id, e := range truth {
		if !seen[id] {
			r.t.Errorf("%s %s %s is missing", e.Provider, e.Type, id)
		}
	}
}

// The whole path, for every provider: signed requests in, rows out, forgeries
// refused. The other readers see the same: mailriver tail, and a Kafka client
// that knows nothing but the registry.
func TestAllInOne_wholePath(t *testing.T) {
	r := newRiver(t, "")
	r.start()
	requests, truth := r.generate(simulate.Options{Seed: 7, Events: 1500, Duplicates: 0.1, Reorder: 0.1, Forgeries: 0.05})
	summary, err := simulate.Sender{}.Send(t.Context(), each(requests))
	if err != nil {
		t.Fatal(err)
	}
	if summary.GivenUp != 0 || summary.Slipped != 0 || summary.Refused == 0 {
		t.Fatalf("summary = %+v, want no genuine request refused and every forgery", summary)
	}
	r.awaitRows(len(truth))
	r.compare(truth)

	t.Run("roll-up", func(t *testing.T) {
		if sum, err := r.query("SELECT sum(events) FROM mailriver.events_hourly"); err != nil || sum != fmt.Sprint(len(truth)) {
			t.Errorf("sum of events_hourly = %s, %v, want %d", sum, err, len(truth))
		}
	})
	t.Run("tail", func(t *testing.T) {
		out, status := r.run("tail", "--from", "start", "--follow=false")
		if lines := strings.Count(out, "\n"); status != 0 || lines != len(truth) {
			t.Fatalf("tail printed %d lines, status %d, want %d", lines, status, len(truth))
		}
		dec := json.NewDecoder(strings.NewReader(out))
		for dec.More() {
			var e event.Event
			if err := dec.Decode(&e); err != nil {
				t.Fatal(err)
			}
			if differences := simulate.Compare(truth[e.ID], e); len(differences) > 0 {
				t.Errorf("%s: %v", e.ID, differences)
			}
		}
		out, status = r.run("tail", "--from", "start", "--follow=false", "--type", "bounced", "--provider", "ses")
		if status != 0 || !strings.Contains(out, `"event_type":"bounced"`) || strings.Contains(out, `"provider":"mailgun"`) {
			t.Errorf("filtered tail, status %d: %.500s", status, out)
		}
	})
	t.Run("plain Kafka client", func(t *testing.T) { plainClient(t, r, truth) })
}

// plainClient reads the canonical topic as another team would: any Kafka client,
// any Avro library, the registry's REST API.
func plainClient(t *testing.T, r *river, truth map[event.ID]event.Event) {
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka), kgo.ConsumeTopics("email.events.v1"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	codecs := map[uint32]*goavro.Codec{}
	seen := map[string]bool{}
	for len(seen) < len(truth) {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %d of %d events: %v", len(seen), len(truth), err)
		}
		for record := range fetches.RecordsAll() {
			id := binary.BigEndian.Uint32(record.Value[1:5])
			if codecs[id] == nil {
				codecs[id] = registryCodec(t, r.registry, id)
			}
			native, rest, err := codecs[id].NativeFromBinary(record.Value[5:])
			if err != nil || len(rest) > 0 {
				t.Fatalf("schema %d: %v, %d bytes left", id, err, len(rest))
			}
			eventID := native.(map[string]any)["event_id"].(string)
			if seen[eventID] {
				t.Errorf("event %s is on the topic twice", eventID)
			}
			seen[eventID] = true
			parsed, err := event.ParseID(eventID)
			if _, told := truth[parsed]; err != nil || !told {
				t.Errorf("event %s was never told", eventID)
			}
		}
	}
}

func registryCodec(t *testing.T, registry string, id uint32) *goavro.Codec {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("%s/schemas/ids/%d", registry, id))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct{ Schema string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	codec, err := goavro.NewCodec(answer.Schema)
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

// Promise 1 and 2 over a crash: the process is killed and stopped in the middle
// of a load, and started again on the same data. Every request that was
// answered 200 is there, once, and the schema ids are what they were.
func TestAllInOne_survivesKillAndStop(t *testing.T) {
	r := newRiver(t, "")
	r.start()
	before := r.schemas()
	requests, truth := r.generate(simulate.Options{Seed: 11, Events: 3000, Duplicates: 0.1, Reorder: 0.1})

	third := len(requests) / 3
	for i, end := range []func(){
		func() { r.process.kill() },
		func() {
			if err := r.process.stop(); err != nil {
				t.Errorf("SIGTERM: %v, want exit status 0", err)
			}
		},
		nil,
	} {
		part := requests[i*third : (i+1)*third]
		if end == nil {
			part = requests[i*third:]
		}
		// The providers go on posting over the outage, until they get their 200.
		sender := simulate.Sender{RetryAll: true, Attempts: 10_000, Wait: func(int) time.Duration { return 50 * time.Millisecond }}
		answered := make(chan struct{})
		var accepted atomic.Int64
		half := int64(len(part) / 2)
		sender.Concurrency = 8
		sender.OnAnswer = func(_ simulate.Request, status int, _ error) {
			if status == http.StatusOK && accepted.Add(1) == half {
				close(answered)
			}
		}
		sent := make(chan error, 1)
		go func() {
			summary, err := sender.Send(t.Context(), each(part))
			if err == nil && summary.GivenUp > 0 {
				err = fmt.Errorf("%d requests were given up", summary.GivenUp)
			}
			sent <- err
		}()
		select {
		case <-answered:
		case <-time.After(patience):
			t.Fatal("half of the requests were not answered")
		}
		if end != nil {
			end()
			r.start()
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
	r.awaitRows(len(truth))
	r.compare(truth)
	if after := r.schemas(); after != before {
		t.Errorf("schemas are %s, were %s", after, before)
	}
}

func (r *river) schemas() string {
	r.t.Helper()
	resp, err := http.Get(r.registry + "/subjects/email.events.v1-value/versions/latest")
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct{ ID, Version int }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		r.t.Fatal(err)
	}
	return fmt.Sprintf("id %d version %d", answer.ID, answer.Version)
}

// ClickHouse dies and comes back: the loader waits and catches up, and nothing
// but the loader is held up.
func TestAllInOne_clickHouseDies(t *testing.T) {
	r := newRiver(t, "")
	r.start()
	requests, truth := r.generate(simulate.Options{Seed: 13, Events: 600})
	half := len(requests) / 2
	if _, err := (simulate.Sender{}).Send(t.Context(), each(requests[:half])); err != nil {
		t.Fatal(err)
	}
	killClickHouse(t, r.process.cmd.Process.Pid)
	summary, err := simulate.Sender{Attempts: 1}.Send(t.Context(), each(requests[half:]))
	if err != nil || summary.GivenUp > 0 {
		t.Fatalf("while ClickHouse was away: %v, %d requests not accepted", err, summary.GivenUp)
	}
	r.awaitRows(len(truth))
	r.compare(truth)
}

// killClickHouse kills the child process that serves ClickHouse.
func killClickHouse(t *testing.T, parent int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Skipf("this system has no /proc to find the child process in (%v)", err)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		// pid (name) state ppid ...; the name may hold spaces and parentheses.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if fields[1] != fmt.Sprint(parent) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("process %d has no child", parent)
}

// What a request that is wrong gets, and that nothing of it is stored.
func TestAllInOne_badInput(t *testing.T) {
	r := newRiver(t, "")
	r.start()
	signed := mailgunBody(t, r.keys.Text("mailgun.key"), "ann@example.com")
	huge := bytes.Repeat([]byte(" "), 9<<20)
	tests := []struct {
		name, method, path string
		body               []byte
		header             map[string]string
		want               int
	}{
		{"unknown source", "POST", "/webhooks/nobody", signed, nil, 404},
		{"wrong method", "PUT", "/webhooks/mailgun", signed, nil, 405},
		{"probe HEAD", "HEAD", "/webhooks/mandrill", nil, nil, 200},
		{"probe GET", "GET", "/webhooks/mandrill", nil, nil, 200},
		{"probe OPTIONS", "OPTIONS", "/webhooks/mandrill", nil, nil, 200},
		{"too large", "POST", "/webhooks/mailgun", huge, nil, 413},
		{"broken gzip", "POST", "/webhooks/mailgun", []byte("abc"), map[string]string{"Content-Encoding": "gzip"}, 400},
		{"forged Mailgun", "POST", "/webhooks/mailgun", mailgunBody(t, "another key", "ann@example.com"), nil, 406},
		{"unsigned SendGrid", "POST", "/webhooks/sendgrid", []byte(`[]`), nil, 401},
		{"Postmark without credentials", "POST", "/webhooks/postmark", []byte(`{}`), nil, 401},
		{"unsigned SNS", "POST", "/webhooks/ses", []byte(`{"Type":"Notification"}`), nil, 403},
		{"unsigned Mandrill", "POST", "/webhooks/mandrill", []byte(`mandrill_events=[]`), nil, 401},
		{"genuine", "POST", "/webhooks/mailgun", signed, nil, 200},
		{
			"genuine, gzip", "POST", "/webhooks/mailgun", pack(t, mailgunBody(t, r.keys.Text("mailgun.key"), "bob@example.com")),
			map[string]string{"Content-Encoding": "gzip"},
			200,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, r.receiver+tt.path, bytes.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range tt.header {
				req.Header.Set(name, value)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.want {
				t.Errorf("%s %s = %d %s, want %d", tt.method, tt.path, resp.StatusCode, body, tt.want)
			}
		})
	}
	r.awaitRows(2) // the genuine ones, and nothing beside them
	offsets, err := r.query("SELECT groupArray(recipient) FROM (SELECT recipient FROM mailriver.events ORDER BY recipient)")
	if err != nil || offsets != "['ann@example.com','bob@example.com']" {
		t.Errorf("recipients = %s, %v", offsets, err)
	}
}

// mailgunBody is a signed Mailgun webhook, made here from the vendor's rules.
func mailgunBody(t *testing.T, key, recipient string) []byte {
	t.Helper()
	return mailgunEvent(t, key, map[string]any{
		"event": "delivered", "id": "id-" + recipient, "timestamp": float64(time.Now().Unix()), "recipient": recipient,
		"message": map[string]any{"headers": map[string]any{"message-id": "m1@example.org"}},
	})
}

// mailgunEvent signs the data of an event.
func mailgunEvent(t *testing.T, key string, data map[string]any) []byte {
	t.Helper()
	timestamp, token := fmt.Sprint(time.Now().Unix()), rand.Text()+rand.Text()[:24]
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(timestamp + token))
	body, err := json.Marshal(map[string]any{
		"signature":  map[string]any{"timestamp": timestamp, "token": token, "signature": hex.EncodeToString(mac.Sum(nil))},
		"event-data": data,
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func pack(t *testing.T, body []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(body)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
