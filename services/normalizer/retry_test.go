package normalizer_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/dead"
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/schemas"
	"mailriver/services/normalizer"
)

// noTable is the ClickHouse of a test that has no letters of the loader.
type noTable struct{}

var errNotAsked = errors.New("not asked for")

func (noTable) Insert(context.Context, string, []event.Event) error { return errNotAsked }
func (noTable) Has(context.Context, event.ID) (bool, error)         { return false, errNotAsked }

// A parser that was wrong is mended, and its letters are retried: each event is
// canonical once, also those beside the letters, which were published before.
func TestNormalizer_deadLettersAreRetried(t *testing.T) {
	c := kafkatest.New(t)
	var mended atomic.Bool // the parser of the running normalizer
	provider := func(good func() bool) esp.Provider {
		return esp.Provider{Name: "lines", Parse: func(w esp.Webhook) (esp.Result, error) {
			if good() {
				w.Body = []byte(strings.ReplaceAll(string(w.Body), "!", "cured"))
			}
			return lines.Parse(w)
		}}
	}
	startWith(t, c, nil, provider(mended.Load))
	c.Produce(t, request(c, "shop", "ann@example.com\n!\n?x"), request(c, "shop", "bob@example.com\n?"))
	c.Read(t, c.Topics.Events, 2)
	c.Read(t, c.Topics.Dead, 2)

	encoder, err := eventavro.NewEncoder(schemas.EmailEventV1, schemaID)
	if err != nil {
		t.Fatal(err)
	}
	today := normalizer.NewTransformer([]esp.Provider{provider(func() bool { return true })}, encoder, c.Topics, "test", time.Now)
	box, err := dead.New(dead.Deps{
		Clients: c.Clients, Topics: c.Topics, NormalizerGroup: c.Group("normalizer"), TransactionalID: c.Group("dead"),
		DedupWindow: normalizer.DefaultConfig().DedupWindow, Table: noTable{}, Now: time.Now,
		Decode: eventavro.NewDecoder(oneSchema{}).Decode,
		Transform: func(k *kgo.Record) dead.Made {
			made := today.Transform(k)
			out := dead.Made{ReceivedAt: made.ReceivedAt}
			for _, e := range made.Events {
				out.Events = append(out.Events, e.Event.RawEventIndex)
			}
			for _, letter := range made.Letters {
				out.Refused = append(out.Refused, dead.Refusal{Index: dead.Element(kafkatest.Header(letter, kafka.HeaderOrigin))})
			}
			return out
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	retry := func(want ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), kafkatest.Patience)
		defer cancel()
		outcomes, err := box.Retry(ctx, dead.Filter{}, dead.RetryOptions{Wait: kafkatest.Patience})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range outcomes {
			got = append(got, o.Outcome)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("Retry() = %v, want %v", got, want)
		}
	}
	// The command line is newer than the normalizer that runs: it refuses again,
	// and leaves a new letter. The body that nobody can read stays as it is.
	retry(dead.RefusedAgain, dead.StillRefused)
	mended.Store(true)
	retry(dead.Published, dead.StillRefused)
	retry(dead.StillRefused)

	events := map[string]int{}
	for _, r := range c.ReadWithin(t, c.Topics.Events, 10, 2*time.Second) {
		events[decode(t, r).Recipient]++
	}
	if len(events) != 3 || events["ann@example.com"] != 1 || events["?x"] != 1 || events["cured"] != 1 {
		t.Errorf("canonical events = %v, want each of ann, ?x and cured once", events)
	}
	open, _, err := box.List(t.Context(), dead.Filter{})
	if err != nil || len(open) != 1 || open[0].Reason != fault.BadBody {
		t.Errorf("open letters = %+v, %v, want the body that cannot be read", open, err)
	}
}
