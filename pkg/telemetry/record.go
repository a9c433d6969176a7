package telemetry

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kotel"
	"go.opentelemetry.io/otel/propagation"
)

// Inject puts the trace of ctx into the record's headers. Without one it puts
// nothing.
func Inject(ctx context.Context, p propagation.TextMapPropagator, record *kgo.Record) {
	p.Inject(ctx, kotel.NewRecordCarrier(record))
}

// Extract returns ctx with the trace that the record's headers name, if any.
func Extract(ctx context.Context, p propagation.TextMapPropagator, record *kgo.Record) context.Context {
	return p.Extract(ctx, kotel.NewRecordCarrier(record))
}
