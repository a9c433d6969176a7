package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxMessage is well above the receiver's largest body, with its headers.
const maxMessage = 32 << 20

// never is a time that does not come, in the units that the broker's
// configuration has.
const never = 10 * 365 * 24 * time.Hour

type kafka struct {
	cluster *kfake.Cluster
	store   *store
	log     *slog.Logger
	once    sync.Once
	closed  error
}

// startKafka opens the broker on its data.
func startKafka(ctx context.Context, dir, addr string, log *slog.Logger) (*kafka, error) {
	ln, err := listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	st, err := openStore(dir, log)
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	gate := &gatedListener{Listener: ln, open: make(chan struct{})}
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return gate, nil }),
		kfake.ClusterID("mailriver-embedded"),
		kfake.DataDir(dir),
		kfake.SyncWrites(),
		kfake.WithLogger(kafkaLogger{log}),
		kfake.BrokerConfigs(map[string]string{
			"message.max.bytes": strconv.Itoa(maxMessage),
			"fetch.max.bytes":   strconv.Itoa(4 * maxMessage),
			// Neither retention nor compaction, see the package comment.
			"log.cleaner.backoff.ms":    strconv.FormatInt(never.Milliseconds(), 10),
			"offsets.retention.minutes": strconv.FormatInt(int64(never.Minutes()), 10),
		}),
	)
	if err != nil {
		_ = ln.Close()
		_ = st.close()
		return nil, err
	}
	k := &kafka{cluster: cluster, store: st, log: log}
	cluster.ControlKey(int16(kmsg.DeleteRecords), k.refuseDeleteRecords)
	cluster.ControlKey(int16(kmsg.TxnOffsetCommit), k.stage)
	cluster.ControlKey(int16(kmsg.EndTxn), k.decide)
	close(gate.open)
	return k, nil
}

// gatedListener lets nobody in before the broker is complete.
type gatedListener struct {
	net.Listener
	open chan struct{}
}

func (l *gatedListener) Accept() (net.Conn, error) {
	<-l.open
	return l.Listener.Accept()
}

func (k *kafka) addrs() []string { return k.cluster.ListenAddrs() }

func (k *kafka) close() error {
	k.once.Do(func() {
		k.cluster.Close()
		k.closed = k.store.closeClean()
	})
	return k.closed
}

// stage sees the offsets of a transaction on their way to the broker.
func (k *kafka) stage(req kmsg.Request) (kmsg.Response, error, bool) {
	if r, ok := req.(*kmsg.TxnOffsetCommitRequest); ok {
		k.store.stage(r)
	}
	return nil, nil, false
}

// decide writes down what becomes of a transaction before the broker begins
// with it. If that fails, the client loses its connection and asks again.
func (k *kafka) decide(req kmsg.Request) (kmsg.Response, error, bool) {
	k.cluster.KeepControl()
	if r, ok := req.(*kmsg.EndTxnRequest); ok {
		if err := k.store.decide(r); err != nil {
			k.log.Error("embedded kafka does not end a transaction", "err", err)
			return nil, err, true
		}
	}
	return nil, nil, false
}

func (k *kafka) refuseDeleteRecords(req kmsg.Request) (kmsg.Response, error, bool) {
	k.cluster.KeepControl()
	r, ok := req.(*kmsg.DeleteRecordsRequest)
	if !ok {
		return nil, nil, false
	}
	resp, _ := r.ResponseKind().(*kmsg.DeleteRecordsResponse)
	for _, topic := range r.Topics {
		rt := kmsg.NewDeleteRecordsResponseTopic()
		rt.Topic = topic.Topic
		for _, partition := range topic.Partitions {
			rp := kmsg.NewDeleteRecordsResponseTopicPartition()
			rp.Partition = partition.Partition
			rp.ErrorCode = kerr.PolicyViolation.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil, true
}

// kafkaLogger passes on what the broker says. Of its warnings only those about
// the disk are for an operator; the others are about clients.
type kafkaLogger struct{ log *slog.Logger }

func (l kafkaLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	to := slog.LevelDebug
	switch {
	case level == kfake.LogLevelError:
		to = slog.LevelError
	case level == kfake.LogLevelWarn && strings.HasPrefix(format, "persist"):
		to = slog.LevelWarn
	}
	ctx := context.Background() //nolint:forbidigo // the broker has none to give
	if l.log.Enabled(ctx, to) {
		l.log.Log(ctx, to, "embedded kafka", "line", fmt.Sprintf(format, args...))
	}
}
