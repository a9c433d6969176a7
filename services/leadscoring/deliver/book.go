package deliver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/kafka"
)

// Book is what people see of deliveries: it reads the deliveries topic, and needs
// no running service.
type Book struct {
	Clients *kafka.Clients
	Topics  kafka.Topics
	Now     func() time.Time
}

// Filter says which deliveries. The zero value is all that the topic has: those
// of its retention, 30 days.
type Filter struct {
	IDs       []string
	States    []State  // any of them; none: all
	Endpoints []string // as above
	Profiles  []string
	Recipient string // normalized
	Limit     int    // 0: no limit
}

func (f *Filter) lets(d *Delivery) bool {
	return among(f.IDs, d.ID()) && among(f.States, d.State) && among(f.Endpoints, d.Endpoint) &&
		among(f.Profiles, d.Signal.Profile) && (f.Recipient == "" || f.Recipient == d.Signal.Recipient)
}

func among[T comparable](wanted []T, value T) bool {
	return len(wanted) == 0 || slices.Contains(wanted, value)
}

// List returns deliveries, the one that changed last first, and whether the limit
// cut any off. It reads the whole topic.
func (b *Book) List(ctx context.Context, f Filter) (list []Delivery, more bool, err error) {
	span, err := b.Clients.Span(ctx, b.Topics.LeadDeliveries, kafka.Start(), kafka.End())
	if err != nil {
		return nil, false, fmt.Errorf("deliveries: %w", err)
	}
	latest := map[string]Delivery{}
	err = b.Clients.Read(ctx, span, func(r *kgo.Record) error {
		// What cannot be read is the business of its owner, who says so.
		if p, err := parse(r); err == nil && p.endpoint == "" {
			latest[p.delivery.ID()] = p.delivery
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("deliveries: %w", err)
	}
	for _, d := range latest {
		if f.lets(&d) {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b Delivery) int {
		return cmp.Or(b.UpdatedAt.Compare(a.UpdatedAt), cmp.Compare(a.ID(), b.ID()))
	})
	if f.Limit > 0 && len(list) > f.Limit {
		return list[:f.Limit], true, nil
	}
	return list, false, nil
}

// Errors of Retry.
var (
	ErrUnknown   = errors.New("there is no such delivery")
	ErrDelivered = errors.New("it was delivered")
)

// Retry has a delivery tried again now: from its first attempt, or, of a pending
// one, the next. It is sent also to an endpoint that answered 410 before. The
// service does it; Retry returns when it is written. Its errors do not name the
// delivery, which whoever asks has.
func (b *Book) Retry(ctx context.Context, id string) (Delivery, error) {
	list, _, err := b.List(ctx, Filter{IDs: []string{id}})
	if err != nil {
		return Delivery{}, err
	}
	if len(list) == 0 {
		return Delivery{}, ErrUnknown
	}
	if list[0].State == Delivered {
		return Delivery{}, fmt.Errorf("%w at %s", ErrDelivered, list[0].UpdatedAt.Format(time.RFC3339))
	}
	d := retried(list[0], b.Now().UTC())
	record, err := d.record(b.Topics.LeadDeliveries, "retry")
	if err != nil {
		return Delivery{}, err
	}
	client, err := b.Clients.Producer(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return Delivery{}, err
	}
	defer client.Close()
	if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
		return Delivery{}, err
	}
	return d, nil
}
