package kafka_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
)

func TestConfig(t *testing.T) {
	if err := kafka.DefaultConfig().Validate(); err != nil {
		t.Errorf("the default is not valid: %v", err)
	}
	tests := []struct {
		want   string
		change func(*kafka.Config)
	}{
		{"brokers: at least one", func(c *kafka.Config) { c.Brokers = nil }},
		{"brokers[0]: is empty", func(c *kafka.Config) { c.Brokers = []string{""} }},
		{"replication_factor: is -1", func(c *kafka.Config) { c.ReplicationFactor = -1 }},
		{"cert_file and key_file belong together", func(c *kafka.Config) { c.TLS = kafka.TLS{Enabled: true, CertFile: "a"} }},
		{"enabled is false", func(c *kafka.Config) { c.TLS.CAFile = "a" }},
		{"sasl.mechanism: is \"magic\"", func(c *kafka.Config) { c.SASL.Mechanism = "magic" }},
		{"sasl.username: is required", func(c *kafka.Config) { c.SASL.Mechanism = "plain" }},
	}
	for _, tt := range tests {
		c := kafka.DefaultConfig()
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Validate() = %v, want %q in it", err, tt.want)
		}
	}
}

func TestTopics_createsWhatIsMissingOnly(t *testing.T) {
	c := kafkatest.New(t)
	ctx := context.Background()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	declared, err := kafka.Declared(c.Config.TopicPrefix)
	if err != nil {
		t.Fatal(err)
	}
	missing, err := kafka.MissingTopics(ctx, admin, declared)
	if err != nil || len(missing) != 0 {
		t.Errorf("MissingTopics() = %v, %v, want none", missing, err)
	}
	other, err := kafka.Declared(c.Group("other."))
	if err != nil {
		t.Fatal(err)
	}
	missing, err = kafka.MissingTopics(ctx, admin, append(declared, other[0]))
	if err != nil || kafka.Names(missing) != other[0].Name {
		t.Errorf("MissingTopics() = %s, %v, want %s", kafka.Names(missing), err, other[0].Name)
	}
	for range 2 { // the second time it exists
		if err := kafka.CreateTopics(ctx, admin, missing, 0); err != nil {
			t.Fatal(err)
		}
	}
	// A client keeps metadata for a moment; another one asks anew.
	again, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	details, err := again.ListTopics(ctx, other[0].Name)
	if err != nil || len(details[other[0].Name].Partitions) != int(other[0].Partitions) {
		t.Errorf("topic has %d partitions, %v, want %d", len(details[other[0].Name].Partitions), err, other[0].Partitions)
	}
}

func TestParker(t *testing.T) {
	c := kafkatest.New(t)
	client, err := c.Clients.Producer()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	from := &kgo.Record{
		Topic: "email.events.v1", Partition: 3, Offset: 41, Key: []byte("ann@example.com"), Value: []byte{1, 2},
		Headers: []kgo.RecordHeader{{Key: "origin", Value: []byte("email.raw.v1/0/7#0")}, {Key: "ce_id", Value: []byte("x")}},
	}
	long := strings.Repeat("é", 2000)
	reject := kafka.Reject{Record: from, Err: fault.Permanentf(fault.BadAvro, "%s", long)}
	if err := (kafka.Parker{Client: client, Topic: c.Topics.Dead, Stage: "loader"}).Park(context.Background(), []kafka.Reject{reject}); err != nil {
		t.Fatal(err)
	}
	letter := c.Read(t, c.Topics.Dead, 1)[0]
	if string(letter.Key) != "ann@example.com" || !slices.Equal(letter.Value, []byte{1, 2}) {
		t.Errorf("dead letter has key %q and value %v", letter.Key, letter.Value)
	}
	for name, want := range map[string]string{"reason": fault.BadAvro, "stage": "loader", "origin": "email.events.v1/3/41", "ce_id": "x"} {
		if got := kafkatest.Header(letter, name); got != want {
			t.Errorf("header %s = %q, want %q", name, got, want)
		}
	}
	if text := kafkatest.Header(letter, "error"); len(text) > 1024 || !strings.HasPrefix(text, "bad_avro: é") || strings.Contains(text, "\uFFFD") {
		t.Errorf("error of %d bytes is not cut at a character within 1024: %q", len(text), text)
	}
}

// A span ends where the committed records end, also when the last offset is the
// end of a transaction, and leaves aborted records out.
func TestRead_span(t *testing.T) {
	c := kafkatest.New(t)
	ctx, cancel := context.WithTimeout(context.Background(), kafkatest.Patience)
	defer cancel()
	client, err := c.Clients.Producer(kgo.TransactionalID("span"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			r := &kgo.Record{Topic: c.Topics.Events, Key: []byte("k"), Value: []byte{byte('0' + i)}}
			if err := client.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.EndTransaction(ctx, end); err != nil {
			t.Fatal(err)
		}
	}
	span, err := c.Clients.Span(ctx, c.Topics.Events, kafka.Start(), kafka.End())
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	if err := c.Clients.Read(ctx, span, func(r *kgo.Record) error { got = append(got, r.Value...); return nil }); err != nil {
		t.Fatal(err)
	}
	if string(got) != "0000022222" {
		t.Errorf("Read() gave %s, want 0000022222", got)
	}
	stop := errors.New("enough")
	if err := c.Clients.Read(ctx, span, func(*kgo.Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Read() = %v, want the error of the function", err)
	}
	empty, err := c.Clients.Span(ctx, c.Topics.Events, kafka.At(time.Now().Add(time.Hour)), kafka.End())
	if err != nil || empty.Len() != 0 {
		t.Errorf("span from the future has %d offsets, %v, want none", empty.Len(), err)
	}
}

func TestParseMoment(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]kafka.Moment{
		"start": kafka.Start(), "end": kafka.End(),
		"15m":                  kafka.At(now.Add(-15 * time.Minute)),
		"2026-11-23T11:00:00Z": kafka.At(now.Add(-time.Hour)),
	} {
		if got, err := kafka.ParseMoment(text, now); err != nil || got != want {
			t.Errorf("ParseMoment(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "yesterday", "-5m"} {
		if _, err := kafka.ParseMoment(text, now); err == nil {
			t.Errorf("ParseMoment(%q) = nil error", text)
		}
	}
}
