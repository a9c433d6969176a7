package replay_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/replay"
)

const patience = 20 * time.Second

// A group is set back, never forward, and only while nobody is in it.
func TestRewind(t *testing.T) {
	c := kafkatest.New(t)
	g := replay.Group{Consumer: "folder", Name: c.Group("folder"), Topic: c.Topics.Events}
	rewind := func(from kafka.Moment) []replay.Rewound {
		t.Helper()
		rewound, err := replay.Rewind(t.Context(), c.Clients, g, from, patience)
		if err != nil {
			t.Fatal(err)
		}
		return rewound
	}
	if got := rewind(kafka.Start()); len(got) != 0 {
		t.Errorf("Rewind() of a group that never committed = %v, want nothing", got)
	}

	for range 5 {
		c.Produce(t, &kgo.Record{Topic: g.Topic, Key: []byte("ada@example.com"), Value: []byte("event")})
	}
	records := c.Read(t, g.Topic, 5)
	partition := records[0].Partition
	client, err := c.Clients.Group(g.Name, []string{g.Topic})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for n := 0; n < 3; {
		polled := client.PollRecords(t.Context(), 3-n)
		if err := client.CommitRecords(t.Context(), polled.Records()...); err != nil {
			t.Fatal(err)
		}
		n += polled.NumRecords()
	}
	client.AllowRebalance()
	// Turns red when neither the members are looked at nor what Kafka answers to
	// somebody who is no member.
	if _, err := replay.Rewind(t.Context(), c.Clients, g, kafka.Start(), patience); !errors.Is(err, replay.ErrRunning) {
		t.Errorf("Rewind() while the group has a member = %v, want ErrRunning", err)
	}
	client.Close()

	if got := rewind(kafka.End()); len(got) != 0 {
		t.Errorf("Rewind(end) = %v, want nothing: it would skip what was not read", got)
	}
	want := []replay.Rewound{{Partition: partition, From: records[0].Offset, Was: records[3].Offset}}
	if got := rewind(kafka.Start()); !slices.Equal(got, want) {
		t.Errorf("Rewind(start) = %v, want %v", got, want)
	}
	if got, err := c.Clients.Committed(t.Context(), g.Name, g.Topic); err != nil || got[partition] != records[0].Offset {
		t.Errorf("Committed() = %v, %v after a rewind to the start, want partition %d at %d", got, err, partition, records[0].Offset)
	}
	if got := replayedUntil(t, c, g, partition); got != records[3].Offset {
		t.Errorf("a replay until %d, want until %d, where the group was", got, records[3].Offset)
	}
	if got := rewind(kafka.Start()); len(got) != 0 {
		t.Errorf("Rewind() for the second time = %v, want nothing", got)
	}
}

// A rewind in the middle of what another one has read again must not make the
// rest of it news. Turns red when the place of the second one counts.
func TestRewind_inTheMiddleOfAnother(t *testing.T) {
	c := kafkatest.New(t)
	g := replay.Group{Consumer: "folder", Name: c.Group("folder"), Topic: c.Topics.Events}
	for range 3 {
		c.Produce(t, &kgo.Record{Topic: g.Topic, Key: []byte("ada@example.com"), Value: []byte("event")})
	}
	records := c.Read(t, g.Topic, 3)
	partition, end := records[0].Partition, records[2].Offset+1
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for _, test := range []struct {
		was      int64
		metadata string
		want     int64
	}{
		{records[2].Offset, kafka.ReplayMark(end), end},
		{records[2].Offset, kafka.ReplayMark(records[1].Offset), records[2].Offset},
		{records[2].Offset, "what kgo leaves", records[2].Offset},
	} {
		var offsets kadm.Offsets
		offsets.Add(kadm.Offset{Topic: g.Topic, Partition: partition, At: test.was, LeaderEpoch: -1, Metadata: test.metadata})
		if err := admin.CommitAllOffsets(t.Context(), g.Name, offsets); err != nil {
			t.Fatal(err)
		}
		if _, err := replay.Rewind(t.Context(), c.Clients, g, kafka.Start(), patience); err != nil {
			t.Fatal(err)
		}
		if got := replayedUntil(t, c, g, partition); got != test.want {
			t.Errorf("Rewind() of a group at %d with %q: a replay until %d, want %d", test.was, test.metadata, got, test.want)
		}
	}
}

// replayedUntil returns where the replay ends that the group is in.
func replayedUntil(t *testing.T, c *kafkatest.Cluster, g replay.Group, partition int32) int64 {
	t.Helper()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	offsets, err := admin.FetchOffsets(t.Context(), g.Name)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := offsets.Lookup(g.Topic, partition)
	return kafka.ReplayUntil(o.Metadata)
}

// A transaction that was left open could commit its offsets later, over those of
// a rewind. Turns red without RequireStable.
func TestRewind_waitsForOpenTransaction(t *testing.T) {
	c := kafkatest.New(t)
	g := replay.Group{Consumer: "folder", Name: c.Group("folder"), Topic: c.Topics.Events}
	c.Produce(t, &kgo.Record{Topic: g.Topic, Key: []byte("ada@example.com"), Value: []byte("event")})
	record := c.Read(t, g.Topic, 1)[0]
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	var offsets kadm.Offsets
	offsets.AddOffset(g.Topic, record.Partition, record.Offset+1, -1)
	if err := admin.CommitAllOffsets(t.Context(), g.Name, offsets); err != nil {
		t.Fatal(err)
	}
	commitOpenly(t, c, g, record)
	_, err = replay.Rewind(t.Context(), c.Clients, g, kafka.Start(), 300*time.Millisecond)
	if err == nil {
		t.Error("Rewind() over an open transaction = nil, want an error")
	}
	if got, err := c.Clients.Committed(t.Context(), g.Name, g.Topic); err != nil || got[record.Partition] != record.Offset+1 {
		t.Errorf("Committed() = %v, %v, want partition %d untouched", got, err, record.Partition)
	}
}

// commitOpenly commits an offset in a transaction that stays open until the test
// ends, as that of a member that was killed.
func commitOpenly(t *testing.T, c *kafkatest.Cluster, g replay.Group, record *kgo.Record) {
	t.Helper()
	transactional := g.Name + ".open"
	client, err := c.Clients.Producer(kgo.TransactionalID(transactional))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	id, epoch, err := client.ProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = transactional, id, epoch, g.Name
	if answer, err := add.RequestWith(t.Context(), client); err != nil || answer.ErrorCode != 0 {
		t.Fatalf("AddOffsetsToTxn = %+v, %v", answer, err)
	}
	commit := kmsg.NewPtrTxnOffsetCommitRequest()
	commit.TransactionalID, commit.ProducerID, commit.ProducerEpoch, commit.Group = transactional, id, epoch, g.Name
	commit.Generation = -1
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	listed, err := admin.ListTopics(t.Context(), g.Topic)
	if err != nil {
		t.Fatal(err)
	}
	topic := kmsg.NewTxnOffsetCommitRequestTopic()
	topic.Topic, topic.TopicID = g.Topic, listed[g.Topic].ID
	partition := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	partition.Partition, partition.Offset = record.Partition, record.Offset+1
	topic.Partitions = append(topic.Partitions, partition)
	commit.Topics = append(commit.Topics, topic)
	answer, err := commit.RequestWith(t.Context(), client)
	if err != nil || answer.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("TxnOffsetCommit = %+v, %v", answer, err)
	}
}
