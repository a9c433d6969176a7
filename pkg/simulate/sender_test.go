package simulate_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/simulate"
)

// answers is a receiver that gives each request its next status; 0 hangs up.
type answers struct {
	mu     sync.Mutex
	status []int
	seen   []*http.Request
	bodies []string
}

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	a.mu.Lock()
	a.seen, a.bodies = append(a.seen, r), append(a.bodies, string(body))
	status := 200
	if len(a.status) > 0 {
		status, a.status = a.status[0], a.status[1:]
	}
	a.mu.Unlock()
	if status == 0 {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(status)
}

func (a *answers) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}

func noWait(int) time.Duration { return 0 }

func TestSender_retriesAsTheProviderDoes(t *testing.T) {
	tests := []struct {
		provider string
		native   string
		status   []int
		posts    int
		accepted bool
		all      bool
	}{
		{"sendgrid", "open", []int{500, 503, 401, 404, 200}, 5, true, false},
		{"sendgrid", "open", []int{202}, 1, true, false},
		{"sendgrid", "open", []int{0, 200}, 2, true, false},
		{"sendgrid", "open", []int{302, 200}, 2, true, false},
		{"mailgun", "opened", []int{503, 401, 204, 200}, 4, true, false},
		{"mailgun", "opened", []int{406}, 1, false, false},
		{"mailgun", "delivered", []int{503}, 1, false, false},
		{"mailgun", "delivered", []int{503, 200}, 2, true, true},
		{"mailgun", "opened", []int{406, 200}, 2, true, true},
		{"postmark", "Open", []int{401, 500, 204, 200}, 4, true, false},
		{"postmark", "Open", []int{403}, 1, false, false},
		{"ses", "Open", []int{503, 0, 500, 200}, 4, true, false},
		{"ses", "Open", []int{403}, 1, false, false},
		{"ses", "Open", []int{429}, 1, false, false},
		{"ses", "Open", []int{204}, 1, true, false},
		{"mandrill", "open", []int{401, 404, 503, 200}, 4, true, false},
		{"mandrill", "open", []int{204, 200}, 2, true, false},
		{"mandrill", "open", []int{503, 503, 503, 503, 503, 503}, 6, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.provider+" "+tt.native, func(t *testing.T) {
			receiver := &answers{status: slices.Clone(tt.status)}
			server := httptest.NewServer(receiver)
			defer server.Close()
			r := simulate.Request{
				Source: tt.provider, Provider: tt.provider, URL: server.URL, Body: []byte("{}"), Distinct: 1,
				Header: http.Header{"X-Mark": {"7"}}, Truth: []event.Event{{NativeEventType: tt.native}},
			}
			sum, err := simulate.Sender{Wait: noWait, Attempts: 6, RetryAll: tt.all}.Send(t.Context(), slices.Values([]simulate.Request{r}))
			if err != nil {
				t.Fatal(err)
			}
			if receiver.count() != tt.posts || (sum.Accepted == 1) != tt.accepted || (sum.GivenUp == 1) == tt.accepted {
				t.Errorf("answers %v: %d posts, accepted %d, given up %d, want %d posts, accepted %t",
					tt.status, receiver.count(), sum.Accepted, sum.GivenUp, tt.posts, tt.accepted)
			}
			want := map[int]int{}
			for _, status := range tt.status[:tt.posts] {
				want[status]++
			}
			for status, n := range want {
				if sum.Answers[status] != n {
					t.Errorf("Answers = %v, want %v", sum.Answers, want)
				}
			}
			if sum.Requests != 1 || sum.Retries != tt.posts-1 || sum.Bytes != int64(2*tt.posts) || sum.Events != map[bool]int{true: 1}[tt.accepted] {
				t.Errorf("Summary = %+v", sum)
			}
			if got := receiver.seen[0]; got.Method != http.MethodPost || got.Header.Get("X-Mark") != "7" || receiver.bodies[0] != "{}" {
				t.Errorf("posted %s, header %v, body %q", got.Method, got.Header, receiver.bodies[0])
			}
		})
	}
}

func TestSender_forgeriesAreNotRepeated(t *testing.T) {
	receiver := &answers{status: []int{503, 200}}
	server := httptest.NewServer(receiver)
	defer server.Close()
	forged := simulate.Request{Source: "x", Provider: "mandrill", URL: server.URL, Forged: true}
	sum, err := simulate.Sender{Wait: noWait, Concurrency: 1, RetryAll: true}.Send(t.Context(), slices.Values([]simulate.Request{forged, forged}))
	if err != nil || receiver.count() != 2 || sum.Refused != 1 || sum.Slipped != 1 || sum.Accepted != 0 {
		t.Errorf("%d posts, %+v, %v, want one refused and one slipped through", receiver.count(), sum, err)
	}
}

func TestSender_ledgerHoldsWhatWasAccepted(t *testing.T) {
	receiver := &answers{status: []int{200, 406, 503, 200}}
	server := httptest.NewServer(receiver)
	defer server.Close()
	request := func(n byte) simulate.Request {
		return simulate.Request{Source: "x", Provider: "mailgun", URL: server.URL, Truth: []event.Event{{ID: event.ID{n}}}, Distinct: 1}
	}
	var file bytes.Buffer
	requests := slices.Values([]simulate.Request{request(1), request(2), request(3)})
	if _, err := (simulate.Sender{Wait: noWait, Concurrency: 1, Ledger: simulate.NewLedger(&file)}).Send(t.Context(), requests); err != nil {
		t.Fatal(err)
	}
	want := event.ID{1}.String() + "\n" + event.ID{3}.String() + "\n"
	if file.String() != want {
		t.Errorf("ledger = %q, want %q", file.String(), want)
	}
}

type fullDisk struct{}

var errFull = errors.New("disk is full")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestSender_endsWithoutLedger(t *testing.T) {
	server := httptest.NewServer(&answers{})
	defer server.Close()
	endless := func(yield func(simulate.Request) bool) {
		for yield(simulate.Request{Source: "x", Provider: "ses", URL: server.URL, Truth: []event.Event{{}}}) {
		}
	}
	_, err := simulate.Sender{Ledger: simulate.NewLedger(fullDisk{})}.Send(t.Context(), endless)
	if !errors.Is(err, errFull) {
		t.Errorf("Send() = %v, want %v", err, errFull)
	}
}

// A run that waits for its rate, for a retry or for an answer ends with ctx.
func TestSender_endsWithContext(t *testing.T) {
	hang := make(chan struct{})
	tests := []struct {
		name    string
		sender  simulate.Sender
		handler http.HandlerFunc
	}{
		{"rate", simulate.Sender{Rate: 1e-6}, func(http.ResponseWriter, *http.Request) {}},
		{"retry", simulate.Sender{Wait: func(int) time.Duration { return time.Hour }}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }},
		{"answer", simulate.Sender{Client: &http.Client{}}, func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush() // a status, and no end
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first := make(chan struct{}, 100)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				first <- struct{}{}
				tt.handler(w, r)
			}))
			defer server.Close()
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-first; cancel() }()
			endless := func(yield func(simulate.Request) bool) {
				for yield(simulate.Request{Source: "x", Provider: "sendgrid", URL: server.URL, Truth: []event.Event{{}}}) {
				}
			}
			tt.sender.Concurrency = 1
			if _, err := tt.sender.Send(ctx, endless); !errors.Is(err, context.Canceled) {
				t.Errorf("Send() = %v, want context.Canceled", err)
			}
		})
	}
	close(hang)
}

func TestSender_wholeRun(t *testing.T) {
	keys := newKeys(t)
	server := httptest.NewServer(&answers{status: []int{503, 0, 500}})
	defer server.Close()
	var mu sync.Mutex
	told := 0
	sender := simulate.Sender{Wait: noWait, RetryAll: true, OnAnswer: func(simulate.Request, int, error) {
		mu.Lock()
		defer mu.Unlock()
		told++
	}}
	var file bytes.Buffer
	sender.Ledger = simulate.NewLedger(&file)
	requests := generate(t, keys.Sources(server.URL, certHost), simulate.Options{Seed: 3, Events: 500, Duplicates: 0.2})
	sum, err := sender.Send(t.Context(), requests)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for line := range strings.Lines(file.String()) {
		ids[line] = true
	}
	if sum.Events != 500 || len(ids) != 500 || sum.Retries != 3 || told != sum.Requests+3 || len(sum.BySource) != 5 {
		t.Errorf("Summary = %+v, %d ids in the ledger, told %d times", sum, len(ids), told)
	}
}

func TestSignedCurl(t *testing.T) {
	keys := newKeys(t)
	source := only(keys.Sources("http://127.0.0.1:8080", certHost), "mailgun")[0]
	for n := range 50 { // some subjects and names hold quotes
		now := start.Add(time.Duration(n) * time.Millisecond)
		command, err := simulate.SignedCurl(source, now)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(command, "\n") {
			t.Errorf("SignedCurl() has several lines: %s", command)
		}
		// A shell takes the command apart; a function stands in for curl.
		out, err := exec.CommandContext(t.Context(), "sh", "-c", `curl() { for word; do printf '%s\0' "$word"; done; }; `+command).Output()
		if err != nil {
			t.Fatal(err)
		}
		words := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if len(words) != 8 || words[3] != source.Endpoint || words[6] != "--data-binary" {
			t.Fatalf("SignedCurl() = %q", words)
		}
		if err := genuine(keys, simulate.Request{Provider: "mailgun", Body: []byte(words[7])}); err != nil {
			t.Errorf("the body is not genuine: %v", err)
		}
	}
	if _, err := simulate.SignedCurl(simulate.Source{Name: "x", Provider: "ses"}, start); err == nil {
		t.Error("SignedCurl(ses) = nil error")
	}
}
