// Package eventavro turns canonical events into Avro and back. It holds the table
// between the event and its schema, and the event's subject in the registry.
//
// How records are coded is the business of package avro. The package does not
// check vocabularies, and does not produce or consume.
package eventavro

import (
	"context"
	"strings"
	"time"

	"mailriver/pkg/avro"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/schemas"
)

// Encoder writes events by one registered schema.
type Encoder = avro.Encoder[event.Event]

// Decoder reads events by the schema that each was written with.
type Decoder = avro.Decoder[event.Event]

// NewEncoder returns the encoder for a schema of the event and its registered
// id.
func NewEncoder(schema string, id int) (*Encoder, error) {
	return avro.NewEncoder(schema, id, fieldsByName())
}

// NewDecoder returns a decoder that asks schemas for what it has not seen. An
// event without an id is permanently unreadable.
func NewDecoder(schemas avro.Schemas) *Decoder {
	return avro.NewDecoder(schemas, fieldsByName(), func(e *event.Event) error {
		if e.ID.IsZero() {
			return fault.Permanentf(fault.BadAvro, "event_id is missing or no UUID")
		}
		return nil
	})
}

// Lookup returns the id of this build's schema of the event under the subject
// of the topic.
func Lookup(ctx context.Context, client *avro.Registry, topic string) (int, error) {
	return avro.Lookup(ctx, client, topic, schemas.EmailEventV1)
}

// fieldsByName is the one table between the names of the schema and the event.
// A test checks that it holds every field of the event.
func fieldsByName() avro.Fields[event.Event] {
	return avro.Fields[event.Event]{
		"event_id": {
			Get: func(e *event.Event) any { return e.ID.String() },
			Set: func(e *event.Event, v any) {
				if s, ok := v.(string); ok {
					// A writer of ours never writes another form; a zero id
					// is refused by the reader of the event.
					e.ID, _ = event.ParseID(s)
				}
			},
		},
		"event_type": {
			Get: func(e *event.Event) any { return string(e.Type) },
			Set: func(e *event.Event, v any) {
				if s, ok := v.(string); ok {
					e.Type = event.Type(s)
				}
			},
		},
		"schema_version":        avro.Number(func(e *event.Event) *int32 { return &e.SchemaVersion }),
		"provider":              avro.Text(func(e *event.Event) *string { return &e.Provider }),
		"provider_variant":      avro.Text(func(e *event.Event) *string { return &e.ProviderVariant }),
		"source":                avro.Text(func(e *event.Event) *string { return &e.Source }),
		"account_id":            avro.Text(func(e *event.Event) *string { return &e.AccountID }),
		"subaccount_id":         avro.Text(func(e *event.Event) *string { return &e.SubaccountID }),
		"native_event_id":       avro.Text(func(e *event.Event) *string { return &e.NativeEventID }),
		"native_event_type":     avro.Text(func(e *event.Event) *string { return &e.NativeEventType }),
		"is_test":               avro.Flag(func(e *event.Event) *bool { return &e.IsTest }),
		"is_duplicate_hint":     avro.Flag(func(e *event.Event) *bool { return &e.IsDuplicateHint }),
		"revision":              avro.Number(func(e *event.Event) *int32 { return &e.Revision }),
		"occurred_at":           avro.Instant(func(e *event.Event) *time.Time { return &e.OccurredAt }),
		"occurred_at_precision": avro.Text(func(e *event.Event) *string { return &e.OccurredAtPrecision }),
		"occurred_at_source":    avro.Text(func(e *event.Event) *string { return &e.OccurredAtSource }),
		"received_at":           avro.Instant(func(e *event.Event) *time.Time { return &e.ReceivedAt }),
		"normalized_at":         avro.Instant(func(e *event.Event) *time.Time { return &e.NormalizedAt }),
		"recipient":             avro.Text(func(e *event.Event) *string { return &e.Recipient }),
		"recipient_normalized":  avro.Text(func(e *event.Event) *string { return &e.RecipientNormalized }),
		"recipient_domain":      avro.Text(func(e *event.Event) *string { return &e.RecipientDomain }),
		"recipient_ambiguous":   avro.Flag(func(e *event.Event) *bool { return &e.RecipientAmbiguous }),
		"recipient_count":       avro.Number(func(e *event.Event) *int32 { return &e.RecipientCount }),
		"sender":                avro.Text(func(e *event.Event) *string { return &e.Sender }),
		"subject":               avro.Text(func(e *event.Event) *string { return &e.Subject }),
		"provider_message_id":   avro.Text(func(e *event.Event) *string { return &e.ProviderMessageID }),
		"smtp_message_id":       avro.Text(func(e *event.Event) *string { return &e.SMTPMessageID }),
		"batch_message_id":      avro.Text(func(e *event.Event) *string { return &e.BatchMessageID }),
		"tags":                  avro.List(func(e *event.Event) *[]string { return &e.Tags }),
		"metadata": {
			Get: func(e *event.Event) any {
				native := make(map[string]any, len(e.Metadata))
				for key, value := range e.Metadata {
					native[strings.ToValidUTF8(key, "\uFFFD")] = strings.ToValidUTF8(value, "\uFFFD")
				}
				return native
			},
			Set: func(e *event.Event, v any) {
				native, _ := v.(map[string]any)
				if len(native) == 0 {
					return
				}
				e.Metadata = make(map[string]string, len(native))
				for key, value := range native {
					if s, ok := value.(string); ok {
						e.Metadata[key] = s
					}
				}
			},
		},
		"campaign_id":           avro.Text(func(e *event.Event) *string { return &e.CampaignID }),
		"campaign_name":         avro.Text(func(e *event.Event) *string { return &e.CampaignName }),
		"template_id":           avro.Text(func(e *event.Event) *string { return &e.TemplateID }),
		"stream":                avro.Text(func(e *event.Event) *string { return &e.Stream }),
		"list_id":               avro.Text(func(e *event.Event) *string { return &e.ListID }),
		"group_id":              avro.Text(func(e *event.Event) *string { return &e.GroupID }),
		"scope_kind":            avro.Text(func(e *event.Event) *string { return &e.ScopeKind }),
		"scope_id":              avro.Text(func(e *event.Event) *string { return &e.ScopeID }),
		"ip_pool":               avro.Text(func(e *event.Event) *string { return &e.IPPool }),
		"sending_ip":            avro.Text(func(e *event.Event) *string { return &e.SendingIP }),
		"mx_host":               avro.Text(func(e *event.Event) *string { return &e.MXHost }),
		"mx_ip":                 avro.Text(func(e *event.Event) *string { return &e.MXIP }),
		"smtp_code":             avro.Number(func(e *event.Event) *int32 { return &e.SMTPCode }),
		"enhanced_code":         avro.Text(func(e *event.Event) *string { return &e.EnhancedCode }),
		"smtp_response":         avro.Text(func(e *event.Event) *string { return &e.SMTPResponse }),
		"attempt":               avro.Number(func(e *event.Event) *int32 { return &e.Attempt }),
		"retry_after_s":         avro.Number(func(e *event.Event) *int32 { return &e.RetryAfterS }),
		"bounce_kind":           avro.Text(func(e *event.Event) *string { return &e.BounceKind }),
		"bounce_cause":          avro.Text(func(e *event.Event) *string { return &e.BounceCause }),
		"bounce_is_async":       avro.Flag(func(e *event.Event) *bool { return &e.BounceIsAsync }),
		"provider_bounce_class": avro.Text(func(e *event.Event) *string { return &e.ProviderBounceClass }),
		"reject_reason":         avro.Text(func(e *event.Event) *string { return &e.RejectReason }),
		"provider_suppressed": {
			Get: func(e *event.Event) any {
				if e.ProviderSuppressed == nil {
					return nil
				}
				return *e.ProviderSuppressed
			},
			Set: func(e *event.Event, v any) {
				if b, ok := v.(bool); ok {
					e.ProviderSuppressed = &b
				}
			},
		},
		"complaint_type":         avro.Text(func(e *event.Event) *string { return &e.ComplaintType }),
		"suppression_action":     avro.Text(func(e *event.Event) *string { return &e.SuppressionAction }),
		"suppression_expires_at": avro.Instant(func(e *event.Event) *time.Time { return &e.SuppressionExpiresAt }),
		"url":                    avro.Text(func(e *event.Event) *string { return &e.URL }),
		"link_name":              avro.Text(func(e *event.Event) *string { return &e.LinkName }),
		"link_index": {
			Get: func(e *event.Event) any {
				if e.LinkIndex == nil {
					return nil
				}
				return *e.LinkIndex
			},
			Set: func(e *event.Event, v any) {
				if n, ok := v.(int32); ok {
					e.LinkIndex = &n
				}
			},
		},
		"client_ip":           avro.Text(func(e *event.Event) *string { return &e.ClientIP }),
		"user_agent":          avro.Text(func(e *event.Event) *string { return &e.UserAgent }),
		"device_type":         avro.Text(func(e *event.Event) *string { return &e.DeviceType }),
		"client_name":         avro.Text(func(e *event.Event) *string { return &e.ClientName }),
		"os_name":             avro.Text(func(e *event.Event) *string { return &e.OSName }),
		"geo_country":         avro.Text(func(e *event.Event) *string { return &e.GeoCountry }),
		"geo_region":          avro.Text(func(e *event.Event) *string { return &e.GeoRegion }),
		"geo_city":            avro.Text(func(e *event.Event) *string { return &e.GeoCity }),
		"machine":             avro.Text(func(e *event.Event) *string { return &e.Machine }),
		"machine_evidence":    avro.List(func(e *event.Event) *[]string { return &e.MachineEvidence }),
		"bot_name":            avro.Text(func(e *event.Event) *string { return &e.BotName }),
		"engagement_variant":  avro.Text(func(e *event.Event) *string { return &e.EngagementVariant }),
		"raw_topic":           avro.Text(func(e *event.Event) *string { return &e.RawTopic }),
		"raw_partition":       avro.Number(func(e *event.Event) *int32 { return &e.RawPartition }),
		"raw_offset":          avro.Long(func(e *event.Event) *int64 { return &e.RawOffset }),
		"raw_event_index":     avro.Number(func(e *event.Event) *int32 { return &e.RawEventIndex }),
		"raw_recipient_index": avro.Number(func(e *event.Event) *int32 { return &e.RawRecipientIndex }),
		"normalizer_version":  avro.Text(func(e *event.Event) *string { return &e.NormalizerVersion }),
		"warnings":            avro.List(func(e *event.Event) *[]string { return &e.Warnings }),
	}
}
