package suppression_test

import (
	"context"
	"testing"
	"time"

	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/replay"
	"mailriver/services/suppression"
)

// A replay (mailriver replay events --consumer suppression) adds what an earlier
// policy had left out, and keeps what people said since. Turns red without the
// rewind.
func TestService_replay(t *testing.T) {
	c := kafkatest.New(t)
	first := start(t, c, "a", t.TempDir(), func(cfg *suppression.Config, _ *suppression.Deps) {
		cfg.Policy.HardBounce.Suppress = false
	})
	opted := bounce("2", "opted@example.com")
	opted.Type = "unsubscribed"
	c.Produce(t, canonical(t, c, bounce("1", "opted@example.com")), canonical(t, c, opted))
	within(t, "the opt-out", func() bool { return first.get("opted@example.com", "").Suppressed })
	if entries := first.get("opted@example.com", "").Entries; len(entries) != 1 {
		t.Fatalf("entries = %+v, want one: bounces are switched off", entries)
	}
	first.stop()

	group := replay.Group{Consumer: "suppression", Name: c.Group("suppression"), Topic: c.Topics.Events}
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	within(t, "the group is empty", func() bool {
		described, err := admin.DescribeGroups(context.Background(), group.Name)
		return err == nil && len(described[group.Name].Members) == 0
	})
	rewound, err := replay.Rewind(t.Context(), c.Clients, group, kafka.Start(), 20*time.Second)
	if err != nil || len(rewound) == 0 {
		t.Fatalf("Rewind() = %v, %v, want the partitions that are read again", rewound, err)
	}
	second := start(t, c, "b", t.TempDir())
	within(t, "the bounce, beside the opt-out", func() bool { return len(second.get("opted@example.com", "").Entries) == 2 })
}
