package pending_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/pending"
)

// fence is one that the test closes and opens.
type fence struct {
	mu     sync.Mutex
	closed bool
	looks  int
	look   func(n int) // called at each look, before the answer is known
}

func (f *fence) Closed(context.Context) (bool, error) {
	f.mu.Lock()
	f.looks++
	n, look := f.looks, f.look
	f.mu.Unlock()
	if look != nil {
		look(n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed, nil
}

func (f *fence) set(closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = closed
}

func (f *fence) looked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks
}

func startFenced(t *testing.T, c *kafkatest.Cluster, s pending.Handler, f pending.Fence) *process {
	t.Helper()
	p := &process{done: make(chan error, 1)}
	p.log.to = t.Output()
	consumer, err := pending.New(c.Topics.Events, group, quick(), pending.Deps{
		NewClient: p.wire.NewClient(c.Clients.Group), Handler: s, Fence: f, Logger: slog.New(slog.NewTextHandler(&p.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Consumer = consumer
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() { p.done <- consumer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-p.done; err != nil {
			t.Logf("Run() = %v", err)
		}
	})
	return p
}

func marked(t *testing.T, c *kafkatest.Cluster) []int32 {
	t.Helper()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	progress, err := pending.ReadProgress(context.Background(), admin, group, c.Topics.Events)
	if err != nil {
		t.Fatal(err)
	}
	return progress.Marked
}

// Without the look at the fence the range is delivered while it is closed; without
// taking the note back, whoever closed it would wait for ever.
func TestFence_holdsRangesBack(t *testing.T) {
	c, s, f := newCluster(t), newSink(), &fence{closed: true}
	produce(t, c, 0, numbered(0, 10)...)
	p := startFenced(t, c, s, f)
	eventually(t, "the consumer looks again and again", func() bool { return f.looked() > 3 })
	eventually(t, "nothing is marked", func() bool { return len(marked(t, c)) == 0 })
	if rows, deliveries := s.snapshot(); len(rows) != 0 || len(deliveries) != 0 {
		t.Errorf("%d rows and %d deliveries behind a closed fence, want none", len(rows), len(deliveries))
	}
	f.set(false)
	s.waitFor(t, "rows", holds(10))
	p.stop(t)
	rows, _ := s.snapshot()
	sameOnce(t, rows, 10)
	if offset, metadata := committed(t, c, 0); offset != 10 || metadata != "" {
		t.Errorf("committed %d %q, want 10 and no metadata", offset, metadata)
	}
}

// The fence is looked at after the range is noted. The other way around, somebody
// could close it, find nothing noted, and be wrong.
func TestFence_isLookedAtAfterTheNote(t *testing.T) {
	c, s, f := newCluster(t), newSink(), &fence{}
	var mu sync.Mutex
	var first []int32
	f.look = func(n int) {
		if n == 1 {
			found := marked(t, c)
			mu.Lock()
			defer mu.Unlock()
			first = found
		}
	}
	produce(t, c, 2, numbered(0, 10)...)
	startFenced(t, c, s, f)
	s.waitFor(t, "rows", holds(10))
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(first, []int32{2}) {
		t.Errorf("marked when the fence was looked at = %v, want partition 2", first)
	}
}

// A range that may be in already is delivered behind a closed fence too: who
// closed it waits for exactly that.
func TestFence_letsPendingRangesFinish(t *testing.T) {
	c, s, f := newCluster(t), newSink(), &fence{}
	produce(t, c, 0, numbered(0, 10)...)
	first := startFenced(t, c, s, f)
	killed := make(chan struct{})
	s.set(nil, func(delivery) error {
		first.kill()
		close(killed)
		return errors.New("dead")
	})
	<-killed
	f.set(true)
	if got := marked(t, c); !slices.Equal(got, []int32{0}) {
		t.Fatalf("marked after the crash = %v, want partition 0", got)
	}
	s.set(nil, nil)
	startFenced(t, c, s, f)
	eventually(t, "nothing is marked", func() bool { return len(marked(t, c)) == 0 })
	rows, _ := s.snapshot()
	sameOnce(t, rows, 10)
}

func TestFence_doesNotHoldUpShutdown(t *testing.T) {
	c, s, f := newCluster(t), newSink(), &fence{closed: true}
	produce(t, c, 0, numbered(0, 10)...)
	p := startFenced(t, c, s, f)
	eventually(t, "the consumer waits", func() bool { return f.looked() > 1 })
	p.stop(t)
	if rows, _ := s.snapshot(); len(rows) != 0 {
		t.Errorf("%d rows behind a closed fence, want none", len(rows))
	}
}

func TestReadProgress_ofNobody(t *testing.T) {
	c := newCluster(t)
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	progress, err := pending.ReadProgress(t.Context(), admin, "nobody", c.Topics.Events)
	if err != nil || len(progress.Committed) != 0 || len(progress.Marked) != 0 {
		t.Errorf("ReadProgress() of a group that does not exist = %+v, %v, want nothing", progress, err)
	}
}
