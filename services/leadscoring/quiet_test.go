package leadscoring_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/sr"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/lead"
	"mailriver/pkg/replay"
	"mailriver/services/leadscoring"
)

// heldSchema is another id of the schema of events.
const heldSchema = 50

// gate is a registry that does not know heldSchema while it is closed, so that a
// batch with a record of it fails and comes again.
type gate struct {
	registry

	closed bool
	asked  atomic.Int64
}

func (g *gate) SchemaByID(ctx context.Context, id int) (sr.Schema, error) {
	if id != heldSchema {
		return g.registry.SchemaByID(ctx, id)
	}
	if g.asked.Add(1); g.closed {
		return sr.Schema{}, errors.New("registry is away")
	}
	return g.registry.SchemaByID(ctx, eventSchema)
}

// A rule that is new finds crossings in young events that are read again, and
// nobody is told of these: not by who began the replay, not after batches that
// failed, and not by who takes over in the middle. The first event behind the
// replay signals what it crosses. Turns red when the mark of the rewind is not
// kept in the committed offsets, or the fold does not ask for it.
func TestService_replayOfYoungEventsTellsNothing(t *testing.T) {
	const jane = "jane@example.com"
	c := kafkatest.New(t)
	rules := func(name string, points float64, stages ...lead.Stage) lead.Profile {
		return lead.Profile{
			Name: name, HalfLife: 7 * 24 * time.Hour, Stages: stages,
			Rules: []lead.Rule{{Name: "click", When: `event_type == "clicked"`, Points: points}},
		}
	}
	known := rules("known", 10, lead.Stage{Name: "warm", Enter: 25, Leave: 15})
	added := rules("added", 20,
		lead.Stage{Name: "warm", Enter: 30, Leave: 20}, lead.Stage{Name: "hot", Enter: 70, Leave: 60},
		lead.Stage{Name: "blazing", Enter: 110, Leave: 100})
	reader := sdk.NewManualReader()
	scoring := func(g *gate, profiles ...lead.Profile) edit {
		return func(cfg *leadscoring.Config, deps *leadscoring.Deps) {
			cfg.Profiles, cfg.MaxRecords, deps.Schemas = profiles, 1, g
			if len(profiles) > 1 {
				cfg.Segments = []lead.Segment{
					{Name: "eager", When: `score("added") > 70`}, {Name: "fan", When: `score("added") > 110`},
				}
			}
			if !g.closed && len(profiles) > 1 {
				deps.Meter = sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
			}
		}
	}

	clicks := make([]event.Event, 6)
	for i := range clicks {
		clicks[i] = click(fmt.Sprint(i), jane, 30-i)
	}
	first := start(t, c, "a", t.TempDir(), scoring(&gate{}, known))
	for i, e := range clicks[:5] {
		record := canonical(t, c, e)
		if i == 2 {
			binary.BigEndian.PutUint32(record.Value[1:], heldSchema)
		}
		c.Produce(t, record)
	}
	knows(t, c, jane, 5)
	first.stop()
	within(t, "the group is empty", func() bool { return members(t, c) == 0 })
	rewound, err := replay.Rewind(t.Context(), c.Clients, replay.Group{
		Consumer: "leadscoring", Name: c.Group("leadscoring"), Topic: c.Topics.Events,
	}, kafka.Start(), 20*time.Second)
	if err != nil || len(rewound) != 1 {
		t.Fatalf("Rewind() = %v, %v, want the partition of jane", rewound, err)
	}
	partition, was := rewound[0].Partition, rewound[0].Was

	closed := &gate{closed: true}
	second := start(t, c, "b", t.TempDir(), scoring(closed, known, added))
	within(t, "the third click comes again and again", func() bool { return closed.asked.Load() > 2 })
	second.stop()
	within(t, "two clicks committed", func() bool { return placeOf(t, c, partition).At >= rewound[0].From+2 })
	middle := placeOf(t, c, partition)

	third := start(t, c, "c", t.TempDir(), scoring(&gate{}, known, added))
	if middle.At != rewound[0].From+2 || kafka.ReplayUntil(middle.Metadata) != was {
		t.Errorf("committed in the middle of the replay = %d %q, want %d and a replay until %d",
			middle.At, middle.Metadata, rewound[0].From+2, was)
	}
	within(t, "the replay is over", func() bool { return placeOf(t, c, partition).At >= was })
	if o := placeOf(t, c, partition); kafka.ReplayUntil(o.Metadata) != 0 {
		t.Errorf("committed behind the replay = %d %q, want no mark", o.At, o.Metadata)
	}
	within(t, "the new profile knows the clicks of before", func() bool { return third.get(jane).Profiles[1].Stage == "hot" })
	c.Produce(t, canonical(t, c, clicks[5]))
	within(t, "the new click is scored", func() bool { return third.get(jane).Profiles[1].Stage == "blazing" })
	third.stop() // and so has counted

	var got []string
	for _, s := range signalsOf(t, c.ReadWithin(t, c.Topics.LeadSignals, 1<<20, time.Second)) {
		got = append(got, fmt.Sprint(s.Crossing.Profile, " ", s.Crossing.Stage, " ", s.EventID))
	}
	want := []string{fmt.Sprint("known warm ", clicks[2].ID), fmt.Sprint("added blazing ", clicks[5].ID)}
	if !slices.Equal(got, want) {
		t.Errorf("signals = %q, want %q: of before the replay, and of behind it", got, want)
	}
	if got, want := told(t, c, jane), []string{"entered fan event " + clicks[5].ID.String()}; !slices.Equal(got, want) {
		t.Errorf("changes of segments = %q, want %q", got, want)
	}
	for name, want := range map[string]map[string]int64{
		"mailriver.leadscoring.signals":         {"replayed": 1, "signaled": 1},
		"mailriver.leadscoring.segment_changes": {"replayed": 1, "told": 1},
	} {
		if got := counted(t, reader, name); !maps.Equal(got, want) {
			t.Errorf("%s by outcome = %v, want %v", name, got, want)
		}
	}
}

func placeOf(t *testing.T, c *kafkatest.Cluster, partition int32) kadm.OffsetResponse {
	t.Helper()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	offsets, err := admin.FetchOffsets(t.Context(), c.Group("leadscoring"))
	if err != nil {
		t.Fatal(err)
	}
	o, _ := offsets.Lookup(c.Topics.Events, partition)
	return o
}

// counted returns a counter by outcome.
func counted(t *testing.T, reader *sdk.ManualReader, name string) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	byOutcome := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if m.Name != name || !ok {
				continue
			}
			for _, point := range sum.DataPoints {
				outcome, _ := point.Attributes.Value("outcome")
				byOutcome[outcome.AsString()] += point.Value
			}
		}
	}
	return byOutcome
}
