package pending

import (
	"context"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/kafka/kafkatest"
)

// A commit that is checked and found too late must not leave, also when it
// waited behind others since it was asked for.
func TestCommit_asksJustBeforeItLeaves(t *testing.T) {
	c := kafkatest.New(t)
	client, err := c.Clients.Group("g", []string{c.Topics.Events})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	at := func(offset int64, metadata string, check error) error {
		ctx, cancel := context.WithTimeout(t.Context(), kafkatest.Patience)
		defer cancel()
		return commit(ctx, client, c.Topics.Events, 0, kgo.EpochOffset{Epoch: -1, Offset: offset}, metadata,
			func() error { return check })
	}
	c.Produce(t, &kgo.Record{Topic: c.Topics.Events, Value: []byte("x")})
	client.PollFetches(t.Context()) // joined
	if err := at(7, "m", nil); err != nil {
		t.Fatal(err)
	}
	if err := at(8, "", errAbandoned); !errors.Is(err, errAbandoned) {
		t.Errorf("commit() = %v, want %v", err, errAbandoned)
	}
	offsets, err := admin.FetchOffsets(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := offsets.Lookup(c.Topics.Events, 0); o.At != 7 || o.Metadata != "m" {
		t.Errorf("committed %d %q, want 7 and its metadata", o.At, o.Metadata)
	}
}
