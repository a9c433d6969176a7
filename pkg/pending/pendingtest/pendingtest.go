// Package pendingtest lets a test kill a consumer as a crash does: without a last
// word to Kafka.
package pendingtest

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/pending"
)

// Wire is the network of one client. Its zero value is whole.
type Wire struct {
	mu    sync.Mutex
	dead  bool
	conns []net.Conn
}

// ErrCut is what a cut wire gives.
var ErrCut = errors.New("the wire is cut")

// Cut breaks all connections and allows no new one: from now on no byte reaches
// Kafka, not even that the client leaves its group.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = true
	for _, conn := range w.conns {
		_ = conn.Close()
	}
	w.conns = nil
}

// Restore allows connections again.
func (w *Wire) Restore() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = false
}

func (w *Wire) dial(ctx context.Context, network, host string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		_ = conn.Close()
		return nil, ErrCut
	}
	w.conns = append(w.conns, conn)
	return conn, nil
}

// NewClient makes clients as newClient does, on this wire, and in a hurry: a
// killed one is noticed after a second. The broker must allow such a session
// timeout.
func (w *Wire) NewClient(newClient pending.NewClient) pending.NewClient {
	return func(group string, topics []string, opts ...kgo.Opt) (*kgo.Client, error) {
		return newClient(group, topics, append(opts,
			kgo.Dialer(w.dial),
			kgo.SessionTimeout(time.Second), kgo.HeartbeatInterval(50*time.Millisecond),
			kgo.RebalanceTimeout(10*time.Second), kgo.RetryTimeout(time.Second),
			kgo.FetchMaxWait(50*time.Millisecond), kgo.MetadataMinAge(10*time.Millisecond),
		)...)
	}
}
