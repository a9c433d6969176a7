package rates

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/schemas"
)

// What a batch of deliveries costs before it is written.
func BenchmarkTally(b *testing.B) {
	encoder, err := eventavro.NewEncoder(schemas.EmailEventV1, eventSchema)
	if err != nil {
		b.Fatal(err)
	}
	batch := make([]*kgo.Record, 10_000)
	for i := range batch {
		e := delivered()
		e.ID = event.NewID("ses", "ses", fmt.Sprint(i))
		e.Sender = fmt.Sprintf("news@shop-%d.example", i%50)
		value, err := encoder.Append(nil, &e)
		if err != nil {
			b.Fatal(err)
		}
		batch[i] = &kgo.Record{Partition: int32(i % 6), Value: value}
	}
	s := Service{deps: Deps{Events: eventavro.NewDecoder(registry{})}}
	for b.Loop() {
		if _, err := s.tally(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(batch))*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// What a look at 10,000 domains costs, each with a counter for every hour of a day.
func BenchmarkJudge(b *testing.B) {
	cfg := DefaultConfig()
	s := newSums(cfg.hours(), noon)
	for domain := range 10_000 {
		for h := range hour(24) {
			s.add(int32(domain%6), cell{fmt.Sprintf("shop-%d.example", domain), h0 + h}, Counts{Delivered: 100}, noon)
		}
	}
	last := map[string]Alert{}
	for b.Loop() {
		end := s.end(noon)
		if crossed := cfg.crossed(s.all(end), last, end, noon.Add(time.Second)); len(crossed) != 0 {
			b.Fatalf("crossed() = %v, want nothing", crossed)
		}
	}
}
