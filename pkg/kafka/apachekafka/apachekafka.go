// Package apachekafka runs real Apache Kafka brokers (KRaft, combined mode) on
// loopback from their jars, so that tests can kill, pause and restart them.
//
// `make kafka-jars` fetches the jars by services/e2e/kafka/pom.xml. The package
// is for tests and for trying things out: its brokers have no authentication
// and one controller each. It creates no topics.
package apachekafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Options say what to start.
type Options struct {
	Jars    string // folder of the jars
	Dir     string // data and logs of the brokers
	Brokers int    // 1 or 3
	Heap    string // -Xmx of each broker, as "512m"
	// Port of the first broker; each takes two, its own and its controller's.
	// 0 takes free ones.
	Port int
}

// Cluster is a set of running brokers.
type Cluster struct {
	opts  Options
	nodes []*node
}

type node struct {
	id                   int
	address, controller  string
	properties, dir, log string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// clusterID is any base64 UUID: nothing of these clusters outlives their folder.
const clusterID = "bWFpbHJpdmVyLXRlc3RzMQ"

// Start formats the folders where they are new, starts the brokers, and returns
// when they answer. The caller closes the cluster, also after an error of a
// later call.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.Brokers != 1 && opts.Brokers != 3 {
		return nil, fmt.Errorf("brokers: is %d, must be 1 or 3", opts.Brokers)
	}
	if jars, err := filepath.Glob(filepath.Join(opts.Jars, "kafka_*.jar")); err != nil || len(jars) == 0 {
		return nil, fmt.Errorf("jars: no kafka_*.jar in %s: run `make kafka-jars`", opts.Jars)
	}
	if _, err := exec.LookPath("java"); err != nil {
		return nil, errors.New("java is not installed: Kafka 4 needs Java 17 or later")
	}
	c := &Cluster{opts: opts}
	ports, err := c.ports()
	if err != nil {
		return nil, err
	}
	for i := range opts.Brokers {
		dir := filepath.Join(opts.Dir, fmt.Sprintf("broker-%d", i+1))
		c.nodes = append(c.nodes, &node{
			id: i + 1, dir: dir, properties: filepath.Join(dir, "server.properties"), log: filepath.Join(dir, "broker.log"),
			address:    fmt.Sprintf("127.0.0.1:%d", ports[2*i]),
			controller: fmt.Sprintf("127.0.0.1:%d", ports[2*i+1]),
		})
	}
	for _, n := range c.nodes {
		if err := c.format(ctx, n); err != nil {
			return nil, err
		}
	}
	for i := range c.nodes {
		if err := c.Start(i); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	if err := c.Wait(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) ports() ([]int, error) {
	ports := make([]int, 2*c.opts.Brokers)
	for i := range ports {
		if c.opts.Port != 0 {
			ports[i] = c.opts.Port + i
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all are open until all are drawn
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

func (c *Cluster) format(ctx context.Context, n *node) error {
	if err := os.MkdirAll(n.dir, 0o750); err != nil {
		return err
	}
	var voters []string
	for _, other := range c.nodes {
		voters = append(voters, fmt.Sprintf("%d@%s", other.id, other.controller))
	}
	replicas, minISR := 1, 1
	if len(c.nodes) == 3 {
		replicas, minISR = 3, 2
	}
	lines := []string{
		"process.roles=broker,controller",
		fmt.Sprintf("node.id=%d", n.id),
		"controller.quorum.voters=" + strings.Join(voters, ","),
		fmt.Sprintf("listeners=PLAINTEXT://%s,CONTROLLER://%s", n.address, n.controller),
		"advertised.listeners=PLAINTEXT://" + n.address,
		"controller.listener.names=CONTROLLER",
		"inter.broker.listener.name=PLAINTEXT",
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs=" + filepath.Join(n.dir, "log"),
		fmt.Sprintf("default.replication.factor=%d", replicas),
		fmt.Sprintf("min.insync.replicas=%d", minISR),
		fmt.Sprintf("offsets.topic.replication.factor=%d", replicas),
		fmt.Sprintf("transaction.state.log.replication.factor=%d", replicas),
		fmt.Sprintf("transaction.state.log.min.isr=%d", minISR),
		"offsets.topic.num.partitions=4",
		"transaction.state.log.num.partitions=4",
		"group.initial.rebalance.delay.ms=0",
		// Tests kill members of groups, and do not wait 6 s for each.
		"group.min.session.timeout.ms=100",
		"group.consumer.min.session.timeout.ms=100",
		"group.consumer.min.heartbeat.interval.ms=50",
		"auto.create.topics.enable=false",
		"message.max.bytes=20971520",
		"replica.fetch.max.bytes=20971520",
		"log.cleaner.dedupe.buffer.size=16777216",
		"log.cleaner.backoff.ms=1000",
	}
	if err := os.WriteFile(n.properties, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	cmd := c.java(ctx, n, "128m", "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", n.properties, "--ignore-formatted")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format broker %d: %w: %s", n.id, err, out)
	}
	return nil
}

func (c *Cluster) java(ctx context.Context, n *node, heap, class string, args ...string) *exec.Cmd {
	all := append([]string{"-Xmx" + heap, "-XX:+UseSerialGC", "-Dkafka.logs.dir=" + n.dir, "-cp", filepath.Join(c.opts.Jars, "*"), class}, args...)
	return exec.CommandContext(ctx, "java", all...) //nolint:gosec // G204: a test's own arguments
}

// Addrs are the addresses of the brokers, running or not.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		addrs[i] = n.address
	}
	return addrs
}

// Start starts broker i (from 0), which must not be running. It does not wait.
func (c *Cluster) Start(i int) error {
	n := c.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	// A broker outlives the call that started it.
	cmd := c.java(context.Background(), n, c.opts.Heap, "kafka.Kafka", n.properties) //nolint:forbidigo // see above
	cmd.Stdout, cmd.Stderr = log, log
	// A test that is killed must not leave brokers behind.
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("broker %d: %w", n.id, err)
	}
	n.cmd, n.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}(n.done)
	return nil
}

// Signal sends a signal to broker i: SIGKILL, SIGSTOP, SIGCONT, SIGTERM.
func (c *Cluster) Signal(i int, signal syscall.Signal) error {
	n := c.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return fmt.Errorf("broker %d: is not running", n.id)
	}
	return n.cmd.Process.Signal(signal)
}

// Kill ends broker i with SIGKILL and waits until it is gone.
func (c *Cluster) Kill(i int) error { return c.end(i, syscall.SIGKILL, 10*time.Second) }

// Stop ends broker i with SIGTERM, and with SIGKILL after a while.
func (c *Cluster) Stop(i int) error {
	return errors.Join(c.end(i, syscall.SIGTERM, 20*time.Second))
}

func (c *Cluster) end(i int, signal syscall.Signal, patience time.Duration) error {
	n := c.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return nil
	}
	err := n.cmd.Process.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	select {
	case <-n.done:
	case <-time.After(patience):
		err = errors.Join(err, n.cmd.Process.Kill())
		<-n.done
	}
	n.cmd = nil
	return err
}

// Wait returns when the cluster answers, and every running broker with it.
func (c *Cluster) Wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		if last = c.ping(ctx); last == nil {
			return nil
		}
		for _, n := range c.nodes {
			select {
			case <-n.ended():
				return fmt.Errorf("broker %d ended by itself: see %s", n.id, n.log)
			default:
			}
		}
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return fmt.Errorf("kafka does not answer: %w: see %s", last, filepath.Join(c.opts.Dir, "*", "broker.log"))
}

// ended is closed when a started broker has ended; nil, so never, for one that
// was stopped on purpose.
func (n *node) ended() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return nil
	}
	return n.done
}

func (c *Cluster) ping(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.RetryTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	admin := kadm.NewClient(client)
	brokers, err := admin.ListBrokers(ctx)
	if err != nil {
		return err
	}
	running := 0
	for _, n := range c.nodes {
		if n.ended() != nil {
			running++
		}
	}
	if len(brokers) < running {
		return fmt.Errorf("%d of %d brokers have joined", len(brokers), running)
	}
	// The first question makes the topic of the committed offsets, and the one
	// after it is answered.
	coordinators := admin.FindGroupCoordinators(ctx, "any")
	return coordinators.Error()
}

// Close stops every broker.
func (c *Cluster) Close() error {
	var wg sync.WaitGroup
	errs := make([]error, len(c.nodes))
	for i := range c.nodes {
		wg.Go(func() {
			_ = c.Signal(i, syscall.SIGCONT) // one that is paused cannot stop
			errs[i] = c.Stop(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
