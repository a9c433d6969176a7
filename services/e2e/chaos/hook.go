package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/kafka"
)

// hook is somebody's endpoint for signals. It keeps the id of each that it is
// sent, and is no better than others: now and then it refuses, and now and then
// it takes a signal and the answer is lost.
type hook struct {
	url    string
	server *http.Server
	ended  chan error

	mu      sync.Mutex
	draw    *rand.Rand
	seen    map[string]bool
	order   map[string][]string // ids by recipient, as they came for the first time
	again   int                 // came and were there
	refused int
	lost    int // answers
}

// openHook listens and serves.
func openHook(ctx context.Context, seed uint64) (*hook, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hook{
		url: "http://" + listener.Addr().String(), ended: make(chan error, 1),
		draw: rand.New(rand.NewPCG(seed, 0x686f6f6b)), //nolint:gosec // G404: repeatable on purpose
		seen: map[string]bool{}, order: map[string][]string{},
	}
	h.server = &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() { h.ended <- h.server.Serve(listener) }()
	return h, nil
}

func (h *hook) close() error {
	err := h.server.Close()
	if served := <-h.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// secret signs. That signatures are right is tested elsewhere.
func (h *hook) secret() string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte("of an endpoint of the chaos suite"))
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var message struct {
		Data struct {
			Recipient string `json:"recipient"`
		} `json:"data"`
	}
	if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest) // it was cut off: nothing was sent
		return
	}
	id, recipient := r.Header.Get("Webhook-Id"), message.Data.Recipient
	h.mu.Lock()
	chance := h.draw.IntN(100)
	switch {
	case chance < 5:
		h.refused++
	case h.seen[id]:
		h.again++
	default:
		h.seen[id] = true
		h.order[recipient] = append(h.order[recipient], id)
	}
	if chance == 5 {
		h.lost++
	}
	h.mu.Unlock()
	switch {
	case chance < 5:
		w.WriteHeader(http.StatusServiceUnavailable)
	case chance == 5:
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}
}

func (h *hook) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.seen)
}

// drainHook waits until the endpoint has as many signals as there are. Which
// they are, the books say.
func (w *world) drainHook(ctx context.Context) error {
	span, err := w.clients.Span(ctx, w.topics.LeadSignals, kafka.Start(), kafka.End())
	if err != nil {
		return err
	}
	want := 0
	if err := w.clients.Read(ctx, span, func(*kgo.Record) error { want++; return nil }); err != nil {
		return err
	}
	most, changed, shown := 0, time.Now(), time.Now()
	for most < want && time.Since(changed) < stuck {
		if time.Since(shown) > 10*time.Second {
			shown = time.Now()
			fmt.Fprintf(w.out, "%d of %d signals are delivered\n", most, want)
		}
		if !pause(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
		if n := w.hook.count(); n > most {
			most, changed = n, time.Now()
		}
	}
	return nil
}

// balanceHook compares what the endpoint got with the signals of the topic, in
// their order, by recipient.
func (w *world) balanceHook(topic map[string][]string) {
	r, h := w.result, w.hook
	h.mu.Lock()
	defer h.mu.Unlock()
	r.hooked.events, r.hookedAgain, r.hookRefused, r.hookLost = len(h.seen), h.again, h.refused, h.lost
	left := len(h.seen)
	for recipient, want := range topic {
		missing := slices.DeleteFunc(slices.Clone(want), func(id string) bool { return h.seen[id] })
		r.hooked.missing += len(missing)
		left -= len(want) - len(missing)
		for _, id := range missing {
			r.complain("webhook: signal %s is missing", id)
		}
		if got := h.order[recipient]; len(missing) == 0 && !slices.Equal(got, want) {
			r.hookOrder++
			r.complain("webhook: signals of %s came as %q, want %q", recipient, got, want)
		}
	}
	r.hooked.untold = left
}
