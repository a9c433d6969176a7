package avro_test

import (
	"context"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"mailriver/pkg/avro"
	"mailriver/schemas"
)

func TestRegistry(t *testing.T) {
	registry := srfake.New()
	defer registry.Close()
	client, err := avro.Open(avro.Config{URL: registry.URL()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := avro.Lookup(ctx, client, "email.events.v1", schemas.EmailEventV1); !errors.Is(err, avro.ErrNotRegistered) {
		t.Errorf("Lookup() before = %v, want ErrNotRegistered", err)
	}
	first, err := avro.Register(ctx, client, "email.events.v1", schemas.EmailEventV1)
	if err != nil {
		t.Fatal(err)
	}
	again, err := avro.Register(ctx, client, "email.events.v1", schemas.EmailEventV1)
	if err != nil || again != first {
		t.Errorf("Register() again = %d, %v, want %d", again, err, first)
	}
	found, err := avro.Lookup(ctx, client, "email.events.v1", schemas.EmailEventV1)
	if err != nil || found != first {
		t.Errorf("Lookup() = %d, %v, want %d", found, err, first)
	}
	level := client.Compatibility(ctx, "email.events.v1-value")
	if len(level) != 1 || level[0].Level != sr.CompatFullTransitive {
		t.Errorf("compatibility = %+v, want FULL_TRANSITIVE", level)
	}
}
