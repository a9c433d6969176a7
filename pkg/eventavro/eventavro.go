// Package eventavro turns canonical events into Avro and back, in Confluent
// wire format: 0x00, the schema id as four bytes big-endian, the record.
//
// It is the only user of goavro and of the schema registry client. goavro is
// the codec, one codec per field: an Avro record is the plain concatenation of
// its fields' encodings (Avro 1.12, "Records"), and coding field by field costs
// a third of building a map for each record. A test holds both against each
// other.
//
// goavro does not resolve a reader's against a writer's schema. A record is
// therefore decoded by the schema that it was written with, found by its id,
// and its fields go by name into the event: unknown ones are skipped, missing
// ones stay zero.
//
// The package does not check vocabularies, and does not produce or consume.
package eventavro

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/linkedin/goavro/v2"

	"mailriver/pkg/event"
)

const magic = 0x00

// headerSize is the length of what precedes the record: magic byte and id.
const headerSize = 5

// schemaField is a field of a parsed record schema.
type schemaField struct {
	name     string
	optional bool // a union of null and one other type, null first
	zero     any  // what a field that cannot be null holds for "not said"
	codec    *goavro.Codec
}

// parseFields splits a record schema into its fields. Logical types are taken
// off: they do not change the bytes, and plain numbers are cheaper than
// time.Time in between.
func parseFields(schema string) ([]schemaField, error) {
	var record struct {
		Type   string `json:"type"`
		Fields []struct {
			Name string          `json:"name"`
			Type json.RawMessage `json:"type"`
		} `json:"fields"`
	}
	if err := json.Unmarshal([]byte(schema), &record); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	if record.Type != "record" {
		return nil, fmt.Errorf("schema: is %q, want a record", record.Type)
	}
	fields := make([]schemaField, 0, len(record.Fields))
	for _, f := range record.Fields {
		var typ any
		if err := json.Unmarshal(f.Type, &typ); err != nil {
			return nil, fmt.Errorf("schema: field %s: %w", f.Name, err)
		}
		field := schemaField{name: f.Name}
		if union, ok := typ.([]any); ok && len(union) == 2 && union[0] == "null" {
			field.optional = true
			typ = union[1]
		}
		typ = plainType(typ)
		field.zero = zeroOf(typ)
		text, err := json.Marshal(typ)
		if err != nil {
			return nil, fmt.Errorf("schema: field %s: %w", f.Name, err)
		}
		if field.codec, err = goavro.NewCodec(string(text)); err != nil {
			return nil, fmt.Errorf("schema: field %s: %w", f.Name, err)
		}
		fields = append(fields, field)
	}
	return fields, nil
}

// zeroOf returns the native zero of a type, as goavro wants it.
func zeroOf(typ any) any {
	if complex, ok := typ.(map[string]any); ok {
		typ = complex["type"]
	}
	switch typ {
	case "int":
		return int32(0)
	case "long":
		return int64(0)
	case "boolean":
		return false
	case "array":
		return []any{}
	case "map":
		return map[string]any{}
	}
	return ""
}

// plainType removes logicalType at every depth.
func plainType(typ any) any {
	switch t := typ.(type) {
	case map[string]any:
		plain := make(map[string]any, len(t))
		for key, value := range t {
			if key != "logicalType" {
				plain[key] = plainType(value)
			}
		}
		return plain
	case []any:
		plain := make([]any, len(t))
		for i, value := range t {
			plain[i] = plainType(value)
		}
		return plain
	}
	return typ
}

// Encoder writes events by one registered schema. It is safe for concurrent use.
type Encoder struct {
	header [headerSize]byte
	steps  []encodeStep
}

type encodeStep struct {
	schemaField
	get func(*event.Event) any
}

// NewEncoder returns the encoder for a schema and its registered id. Every
// field of the schema must be a field of the event.
func NewEncoder(schema string, id int) (*Encoder, error) {
	parsed, err := parseFields(schema)
	if err != nil {
		return nil, err
	}
	accessors := fieldsByName()
	enc := &Encoder{header: [headerSize]byte{magic}}
	binary.BigEndian.PutUint32(enc.header[1:], uint32(id))
	for _, f := range parsed {
		access, ok := accessors[f.name]
		if !ok {
			return nil, fmt.Errorf("schema: field %s is not a field of the event", f.name)
		}
		enc.steps = append(enc.steps, encodeStep{f, access.get})
	}
	return enc, nil
}

// Append adds the encoded event to buf and returns the longer slice.
func (enc *Encoder) Append(buf []byte, e *event.Event) ([]byte, error) {
	buf = append(buf, enc.header[:]...)
	var err error
	for i := range enc.steps {
		step := &enc.steps[i]
		value := step.get(e)
		if step.optional {
			// The branch of a union is its index as a zigzag varint.
			if value == nil {
				buf = append(buf, 0)
				continue
			}
			buf = append(buf, 2)
		} else if value == nil {
			value = step.zero
		}
		if buf, err = step.codec.BinaryFromNative(buf, value); err != nil {
			return nil, fmt.Errorf("field %s: %w", step.name, err)
		}
	}
	return buf, nil
}

// accessor reads and writes one field. get returns nil for "not said"; set
// takes what goavro decodes, and ignores a type it does not expect.
type accessor struct {
	get func(*event.Event) any
	set func(*event.Event, any)
}

func text(at func(*event.Event) *string) accessor {
	return accessor{
		get: func(e *event.Event) any {
			if s := *at(e); s != "" {
				return strings.ToValidUTF8(s, "\uFFFD") // Avro strings are UTF-8
			}
			return nil
		},
		set: func(e *event.Event, v any) {
			if s, ok := v.(string); ok {
				*at(e) = s
			}
		},
	}
}

func number(at func(*event.Event) *int32) accessor {
	return accessor{
		get: func(e *event.Event) any {
			if n := *at(e); n != 0 {
				return n
			}
			return nil
		},
		set: func(e *event.Event, v any) {
			switch n := v.(type) {
			case int32:
				*at(e) = n
			case int64:
				*at(e) = int32(n)
			}
		},
	}
}

func flag(at func(*event.Event) *bool) accessor {
	return accessor{
		get: func(e *event.Event) any { return *at(e) },
		set: func(e *event.Event, v any) {
			if b, ok := v.(bool); ok {
				*at(e) = b
			}
		},
	}
}

func instant(at func(*event.Event) *time.Time) accessor {
	return accessor{
		get: func(e *event.Event) any {
			if t := *at(e); !t.IsZero() {
				return t.UnixMicro()
			}
			return nil
		},
		set: func(e *event.Event, v any) {
			if n, ok := v.(int64); ok {
				*at(e) = time.UnixMicro(n).UTC()
			}
		},
	}
}

func list(at func(*event.Event) *[]string) accessor {
	return accessor{
		get: func(e *event.Event) any {
			strs := *at(e)
			native := make([]any, len(strs))
			for i, s := range strs {
				native[i] = strings.ToValidUTF8(s, "\uFFFD")
			}
			return native
		},
		set: func(e *event.Event, v any) {
			native, _ := v.([]any)
			var strs []string
			for _, element := range native {
				if s, ok := element.(string); ok {
					strs = append(strs, s)
				}
			}
			*at(e) = strs
		},
	}
}

// fieldsByName is the one table between the names of the schema and the event.
// A test checks that it holds every field of the event.
func fieldsByName() map[string]accessor {
	return map[string]accessor{
		"event_id": {
			get: func(e *event.Event) any { return e.ID.String() },
			set: func(e *event.Event, v any) {
				if s, ok := v.(string); ok {
					// A writer of ours never writes another form; a zero id
					// is refused by the reader of the event.
					e.ID, _ = event.ParseID(s)
				}
			},
		},
		"event_type": {
			get: func(e *event.Event) any { return string(e.Type) },
			set: func(e *event.Event, v any) {
				if s, ok := v.(string); ok {
					e.Type = event.Type(s)
				}
			},
		},
		"schema_version":        number(func(e *event.Event) *int32 { return &e.SchemaVersion }),
		"provider":              text(func(e *event.Event) *string { return &e.Provider }),
		"provider_variant":      text(func(e *event.Event) *string { return &e.ProviderVariant }),
		"source":                text(func(e *event.Event) *string { return &e.Source }),
		"account_id":            text(func(e *event.Event) *string { return &e.AccountID }),
		"subaccount_id":         text(func(e *event.Event) *string { return &e.SubaccountID }),
		"native_event_id":       text(func(e *event.Event) *string { return &e.NativeEventID }),
		"native_event_type":     text(func(e *event.Event) *string { return &e.NativeEventType }),
		"is_test":               flag(func(e *event.Event) *bool { return &e.IsTest }),
		"is_duplicate_hint":     flag(func(e *event.Event) *bool { return &e.IsDuplicateHint }),
		"revision":              number(func(e *event.Event) *int32 { return &e.Revision }),
		"occurred_at":           instant(func(e *event.Event) *time.Time { return &e.OccurredAt }),
		"occurred_at_precision": text(func(e *event.Event) *string { return &e.OccurredAtPrecision }),
		"occurred_at_source":    text(func(e *event.Event) *string { return &e.OccurredAtSource }),
		"received_at":           instant(func(e *event.Event) *time.Time { return &e.ReceivedAt }),
		"normalized_at":         instant(func(e *event.Event) *time.Time { return &e.NormalizedAt }),
		"recipient":             text(func(e *event.Event) *string { return &e.Recipient }),
		"recipient_normalized":  text(func(e *event.Event) *string { return &e.RecipientNormalized }),
		"recipient_domain":      text(func(e *event.Event) *string { return &e.RecipientDomain }),
		"recipient_ambiguous":   flag(func(e *event.Event) *bool { return &e.RecipientAmbiguous }),
		"recipient_count":       number(func(e *event.Event) *int32 { return &e.RecipientCount }),
		"sender":                text(func(e *event.Event) *string { return &e.Sender }),
		"subject":               text(func(e *event.Event) *string { return &e.Subject }),
		"provider_message_id":   text(func(e *event.Event) *string { return &e.ProviderMessageID }),
		"smtp_message_id":       text(func(e *event.Event) *string { return &e.SMTPMessageID }),
		"batch_message_id":      text(func(e *event.Event) *string { return &e.BatchMessageID }),
		"tags":                  list(func(e *event.Event) *[]string { return &e.Tags }),
		"metadata": {
			get: func(e *event.Event) any {
				native := make(map[string]any, len(e.Metadata))
				for key, value := range e.Metadata {
					native[strings.ToValidUTF8(key, "\uFFFD")] = strings.ToValidUTF8(value, "\uFFFD")
				}
				return native
			},
			set: func(e *event.Event, v any) {
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
		"campaign_id":           text(func(e *event.Event) *string { return &e.CampaignID }),
		"campaign_name":         text(func(e *event.Event) *string { return &e.CampaignName }),
		"template_id":           text(func(e *event.Event) *string { return &e.TemplateID }),
		"stream":                text(func(e *event.Event) *string { return &e.Stream }),
		"list_id":               text(func(e *event.Event) *string { return &e.ListID }),
		"group_id":              text(func(e *event.Event) *string { return &e.GroupID }),
		"scope_kind":            text(func(e *event.Event) *string { return &e.ScopeKind }),
		"scope_id":              text(func(e *event.Event) *string { return &e.ScopeID }),
		"ip_pool":               text(func(e *event.Event) *string { return &e.IPPool }),
		"sending_ip":            text(func(e *event.Event) *string { return &e.SendingIP }),
		"mx_host":               text(func(e *event.Event) *string { return &e.MXHost }),
		"mx_ip":                 text(func(e *event.Event) *string { return &e.MXIP }),
		"smtp_code":             number(func(e *event.Event) *int32 { return &e.SMTPCode }),
		"enhanced_code":         text(func(e *event.Event) *string { return &e.EnhancedCode }),
		"smtp_response":         text(func(e *event.Event) *string { return &e.SMTPResponse }),
		"attempt":               number(func(e *event.Event) *int32 { return &e.Attempt }),
		"retry_after_s":         number(func(e *event.Event) *int32 { return &e.RetryAfterS }),
		"bounce_kind":           text(func(e *event.Event) *string { return &e.BounceKind }),
		"bounce_cause":          text(func(e *event.Event) *string { return &e.BounceCause }),
		"bounce_is_async":       flag(func(e *event.Event) *bool { return &e.BounceIsAsync }),
		"provider_bounce_class": text(func(e *event.Event) *string { return &e.ProviderBounceClass }),
		"reject_reason":         text(func(e *event.Event) *string { return &e.RejectReason }),
		"provider_suppressed": {
			get: func(e *event.Event) any {
				if e.ProviderSuppressed == nil {
					return nil
				}
				return *e.ProviderSuppressed
			},
			set: func(e *event.Event, v any) {
				if b, ok := v.(bool); ok {
					e.ProviderSuppressed = &b
				}
			},
		},
		"complaint_type":         text(func(e *event.Event) *string { return &e.ComplaintType }),
		"suppression_action":     text(func(e *event.Event) *string { return &e.SuppressionAction }),
		"suppression_expires_at": instant(func(e *event.Event) *time.Time { return &e.SuppressionExpiresAt }),
		"url":                    text(func(e *event.Event) *string { return &e.URL }),
		"link_name":              text(func(e *event.Event) *string { return &e.LinkName }),
		"link_index": {
			get: func(e *event.Event) any {
				if e.LinkIndex == nil {
					return nil
				}
				return *e.LinkIndex
			},
			set: func(e *event.Event, v any) {
				if n, ok := v.(int32); ok {
					e.LinkIndex = &n
				}
			},
		},
		"client_ip":           text(func(e *event.Event) *string { return &e.ClientIP }),
		"user_agent":          text(func(e *event.Event) *string { return &e.UserAgent }),
		"device_type":         text(func(e *event.Event) *string { return &e.DeviceType }),
		"client_name":         text(func(e *event.Event) *string { return &e.ClientName }),
		"os_name":             text(func(e *event.Event) *string { return &e.OSName }),
		"geo_country":         text(func(e *event.Event) *string { return &e.GeoCountry }),
		"geo_region":          text(func(e *event.Event) *string { return &e.GeoRegion }),
		"geo_city":            text(func(e *event.Event) *string { return &e.GeoCity }),
		"machine":             text(func(e *event.Event) *string { return &e.Machine }),
		"machine_evidence":    list(func(e *event.Event) *[]string { return &e.MachineEvidence }),
		"bot_name":            text(func(e *event.Event) *string { return &e.BotName }),
		"engagement_variant":  text(func(e *event.Event) *string { return &e.EngagementVariant }),
		"raw_topic":           text(func(e *event.Event) *string { return &e.RawTopic }),
		"raw_partition":       number(func(e *event.Event) *int32 { return &e.RawPartition }),
		"raw_offset":          long(func(e *event.Event) *int64 { return &e.RawOffset }),
		"raw_event_index":     number(func(e *event.Event) *int32 { return &e.RawEventIndex }),
		"raw_recipient_index": number(func(e *event.Event) *int32 { return &e.RawRecipientIndex }),
		"normalizer_version":  text(func(e *event.Event) *string { return &e.NormalizerVersion }),
		"warnings":            list(func(e *event.Event) *[]string { return &e.Warnings }),
	}
}

func long(at func(*event.Event) *int64) accessor {
	return accessor{
		get: func(e *event.Event) any { return *at(e) },
		set: func(e *event.Event, v any) {
			if n, ok := v.(int64); ok {
				*at(e) = n
			}
		},
	}
}
