package leadscoring_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/lead"
	"mailriver/pkg/replay"
	"mailriver/services/leadscoring"
)

// A replay (mailriver replay events --consumer leadscoring) gives a profile that
// is new what happened before it, and signals nothing: not what was signaled, and
// not what the new profile finds in old events. Turns red without the set of
// known events, and without the bound on the age of a signal.
func TestService_replaySignalsNothing(t *testing.T) {
	c := kafkatest.New(t)
	first := start(t, c, "a", t.TempDir())
	for _, at := range []int{3, 2, 1} {
		c.Produce(t, canonical(t, c, click(fmt.Sprint("new", at), "jane@example.com", at)))
		c.Produce(t, canonical(t, c, click(fmt.Sprint("old", at), "old@example.com", 60*24*2+at)))
	}
	within(t, "jane is warm", func() bool { return first.get("jane@example.com").Profiles[0].Stage == "warm" })
	within(t, "old scores", func() bool { return first.get("old@example.com").Profiles[0].Score > 10 })
	before := first.get("jane@example.com").Profiles[0]
	first.stop()
	within(t, "the group is empty", func() bool { return members(t, c) == 0 })

	rewound, err := replay.Rewind(t.Context(), c.Clients, replay.Group{
		Consumer: "leadscoring", Name: c.Group("leadscoring"), Topic: c.Topics.Events,
	}, kafka.Start(), 20*time.Second)
	if err != nil || len(rewound) == 0 {
		t.Fatalf("Rewind() = %v, %v, want the partitions that are read again", rewound, err)
	}
	// The second profile is hot after the old clicks; only it is asked about them anew.
	second := start(t, c, "b", t.TempDir(), func(cfg *leadscoring.Config, _ *leadscoring.Deps) {
		cfg.Profiles = append(cfg.Profiles, lead.Profile{
			Name: "second", HalfLife: 7 * 24 * time.Hour,
			Rules:  []lead.Rule{{Name: "old", When: `event_type == "clicked" && recipient == "old@example.com"`, Points: 100}},
			Stages: []lead.Stage{{Name: "hot", Enter: 60, Leave: 45}},
		})
	})
	within(t, "the new profile knows the old clicks", func() bool {
		profiles := second.get("old@example.com").Profiles
		return len(profiles) == 2 && profiles[1].Stage == "hot"
	})
	marker := click("marker", "marker@example.com", 1)
	marker.Type = event.Opened
	c.Produce(t, canonical(t, c, marker))
	within(t, "behind the marker", func() bool { return second.get("marker@example.com").Profiles[0].Score > 0 })
	within(t, "jane is there", func() bool { return len(second.get("jane@example.com").Profiles) == 2 })
	if after := second.get("jane@example.com").Profiles[0]; after.Stage != before.Stage {
		t.Errorf("jane after the replay = %+v, want the stage of before, %+v", after, before)
	}
	signals := signalsOf(t, c.ReadWithin(t, c.Topics.LeadSignals, 2, 2*time.Second))
	if len(signals) != 1 || signals[0].Recipient != "jane@example.com" {
		t.Errorf("signals = %+v, want the one of before the replay", signals)
	}
}

func members(t *testing.T, c *kafkatest.Cluster) int {
	t.Helper()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	described, err := admin.DescribeGroups(context.Background(), c.Group("leadscoring"))
	if err != nil {
		t.Fatal(err)
	}
	return len(described[c.Group("leadscoring")].Members)
}
