package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
)

func TestReplayUntil(t *testing.T) {
	for _, test := range []struct {
		metadata string
		want     int64
	}{
		{kafka.ReplayMark(42), 42},
		{`{"mailriver_replay":1,"until":42}`, 42}, // as it was written by earlier builds
		{"", 0},
		{"kgo-5f0c3a52", 0},
		{`{"mailriver_pending":1,"first":1,"last":42,"token":"t"}`, 0},
		{`{"mailriver_replay":2,"until":42}`, 0},
		{`{"mailriver_replay":1,"until":-42}`, 0},
	} {
		if got := kafka.ReplayUntil(test.metadata); got != test.want {
			t.Errorf("ReplayUntil(%s) = %d, want %d", test.metadata, got, test.want)
		}
	}
}

// handled is what handlers were given.
type handled struct {
	mu       sync.Mutex
	replayed map[int64]bool // by offset
	times    map[int64]int
}

func (h *handled) see(offset int64, replayed bool) (times int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if before, seen := h.replayed[offset]; seen && before != replayed {
		h.replayed[-1] = true // it was said to be both, which the test finds
	}
	h.replayed[offset] = replayed
	h.times[offset]++
	return h.times[offset]
}

// A record below the mark is a replay: to who begins, after a batch that failed,
// and to who takes over in the middle. Turns red without the marks in what the
// transactor commits, and without those that the session learns.
func TestTransactor_replays(t *testing.T) {
	c := kafkatest.New(t)
	group := c.Group("quiet")
	for i := range 6 {
		c.Produce(t, &kgo.Record{Topic: c.Topics.Events, Key: []byte("ada@example.com"), Value: fmt.Append(nil, i)})
	}
	records := c.Read(t, c.Topics.Events, 6)
	partition := records[0].Partition
	at := func(n int) int64 { return records[n].Offset }
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	var back kadm.Offsets
	back.Add(kadm.Offset{
		Topic: c.Topics.Events, Partition: partition, At: at(0), LeaderEpoch: -1, Metadata: kafka.ReplayMark(at(4)),
	})
	if err := admin.CommitAllOffsets(t.Context(), group, back); err != nil {
		t.Fatal(err)
	}
	// committed returns the offset as soon as it is so far: that of a transaction
	// is there a moment after it ended.
	committed := func(so int64) (o kadm.OffsetResponse) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.After(kafkatest.Patience); o.At < so; {
			offsets, err := admin.FetchOffsets(t.Context(), group)
			if err != nil {
				t.Fatal(err)
			}
			o, _ = offsets.Lookup(c.Topics.Events, partition)
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("committed %d, not %d within %s", o.At, so, kafkatest.Patience)
			}
		}
		return o
	}

	all := &handled{replayed: map[int64]bool{}, times: map[int64]int{}}
	run := func(name string, handle func(ctx context.Context, r *kgo.Record, times int) error) (stop func()) {
		replays := &kafka.Replays{}
		transactor := kafka.Transactor{
			Open: func() (*kgo.GroupTransactSession, error) {
				return c.Clients.Session(group, c.Group("quiet."+name), []string{c.Topics.Events}, replays.Option())
			},
			Handle: func(ctx context.Context, batch []*kgo.Record) (kafka.Outcome, error) {
				r := batch[0]
				return kafka.Outcome{}, handle(ctx, r, all.see(r.Offset, replays.Has(r)))
			},
			MaxRecords: 1, RetryWait: time.Millisecond, Replays: replays, Logger: slog.New(slog.DiscardHandler),
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- transactor.Run(ctx) }()
		stop = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run() = %v, want nil after the context ended", err)
			}
		})
		t.Cleanup(stop)
		return stop
	}
	wait := func(what string, done <-chan struct{}) {
		t.Helper()
		select {
		case <-done:
		case <-time.After(kafkatest.Patience):
			t.Fatalf("not %s within %s", what, kafkatest.Patience)
		}
	}

	arrived := make(chan struct{})
	arrive := sync.OnceFunc(func() { close(arrived) })
	stop := run("a", func(ctx context.Context, r *kgo.Record, times int) error {
		switch {
		case r.Offset == at(1) && times == 1:
			return errors.New("comes again")
		case r.Offset == at(2):
			arrive()
			<-ctx.Done() // as one that is stopped with a batch in hand
			return ctx.Err()
		}
		return nil
	})
	wait("at the third record", arrived)
	stop()
	if o := committed(at(2)); o.At != at(2) || kafka.ReplayUntil(o.Metadata) != at(4) {
		t.Errorf("committed in the middle of the replay = %d %q, want %d and still a replay until %d", o.At, o.Metadata, at(2), at(4))
	}

	run("b", func(context.Context, *kgo.Record, int) error { return nil })
	if o := committed(at(5) + 1); kafka.ReplayUntil(o.Metadata) != 0 {
		t.Errorf("committed behind the replay = %d %q, want no mark", o.At, o.Metadata)
	}
	want := map[int64]bool{at(0): true, at(1): true, at(2): true, at(3): true, at(4): false, at(5): false}
	all.mu.Lock()
	defer all.mu.Unlock()
	if !maps.Equal(all.replayed, want) {
		t.Errorf("replayed, by offset = %v, want %v", all.replayed, want)
	}
	if all.times[at(1)] < 2 || all.times[at(2)] < 2 {
		t.Errorf("handled, by offset = %v, want the second and the third record twice", all.times)
	}
}
