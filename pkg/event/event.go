// Package event is the canonical email event: one fact about one message and,
// where the provider tells, one recipient.
//
// It holds the record, its vocabularies and its identity. It does not parse any
// provider's payload, does not encode to Avro, and imports nothing but the
// standard library, so every other package may depend on it.
//
// Field names in JSON are the names of the Avro fields and of the ClickHouse
// columns. A zero value means "the provider did not say", except where a field
// says otherwise; pointers are used only where zero is a real answer.
package event

import "time"

// SchemaVersion is the version of the record as written by this build.
const SchemaVersion = 1

// Event is one canonical event. See docs/canonical-event.md for the meaning of
// each field and schemas/avro for its wire form.
type Event struct {
	// Identity and origin.

	SchemaVersion   int32  `json:"schema_version,omitempty"`   // filled by the normalizer
	ID              ID     `json:"event_id"`                   // same on every delivery and every replay
	Type            Type   `json:"event_type"`                 // vocabulary of this package
	Provider        string `json:"provider"`                   // name of the provider package
	ProviderVariant string `json:"provider_variant,omitempty"` // "event_publishing", "feedback_notification", "legacy", ...
	Source          string `json:"source,omitempty"`           // the endpoint's configured name; the tenant boundary
	AccountID       string `json:"account_id,omitempty"`       // the account at the provider
	SubaccountID    string `json:"subaccount_id,omitempty"`    // subaccount, server id, configuration set
	NativeEventID   string `json:"native_event_id,omitempty"`  // the provider's own id of the event, as received
	NativeEventType string `json:"native_event_type,omitempty"`
	IsTest          bool   `json:"is_test,omitempty"`           // a dashboard sample or a simulator address
	IsDuplicateHint bool   `json:"is_duplicate_hint,omitempty"` // second signal of a fact that another event reports
	Revision        int32  `json:"revision,omitempty"`          // 0, and one more for each correction by a replay

	// Time, always UTC, microseconds.

	OccurredAt          time.Time `json:"occurred_at"`
	OccurredAtPrecision string    `json:"occurred_at_precision,omitempty"` // "s", "ms", "us": what the provider sent
	OccurredAtSource    string    `json:"occurred_at_source,omitempty"`    // "provider", or "received" when the provider's time was unusable
	ReceivedAt          time.Time `json:"received_at,omitzero"`            // filled by the normalizer
	NormalizedAt        time.Time `json:"normalized_at,omitzero"`          // filled by the normalizer

	// Message and recipient.

	Recipient           string            `json:"recipient,omitempty"`            // address as received, without display name
	RecipientNormalized string            `json:"recipient_normalized,omitempty"` // filled by the normalizer
	RecipientDomain     string            `json:"recipient_domain,omitempty"`     // filled by the normalizer; A-label form
	RecipientAmbiguous  bool              `json:"recipient_ambiguous,omitempty"`  // the provider does not say which of several recipients
	RecipientCount      int32             `json:"recipient_count,omitempty"`      // recipients of the native event, when more than one is possible
	Sender              string            `json:"sender,omitempty"`               // address, without display name
	Subject             string            `json:"subject,omitempty"`
	ProviderMessageID   string            `json:"provider_message_id,omitempty"`
	SMTPMessageID       string            `json:"smtp_message_id,omitempty"`  // without angle brackets
	BatchMessageID      string            `json:"batch_message_id,omitempty"` // API call or transmission, shared by recipients
	Tags                []string          `json:"tags,omitempty"`             // order kept, no empty ones, no duplicates
	Metadata            map[string]string `json:"metadata,omitempty"`         // non-string values as compact JSON text
	CampaignID          string            `json:"campaign_id,omitempty"`
	CampaignName        string            `json:"campaign_name,omitempty"`
	TemplateID          string            `json:"template_id,omitempty"`
	Stream              string            `json:"stream,omitempty"`
	ListID              string            `json:"list_id,omitempty"`
	GroupID             string            `json:"group_id,omitempty"`
	ScopeKind           string            `json:"scope_kind,omitempty"` // what an opt-out or opt-in is about
	ScopeID             string            `json:"scope_id,omitempty"`

	// Delivery.

	IPPool              string `json:"ip_pool,omitempty"`
	SendingIP           string `json:"sending_ip,omitempty"`
	MXHost              string `json:"mx_host,omitempty"`
	MXIP                string `json:"mx_ip,omitempty"`
	SMTPCode            int32  `json:"smtp_code,omitempty"`     // 2xx, 4xx, 5xx; 0 unknown
	EnhancedCode        string `json:"enhanced_code,omitempty"` // RFC 3463, "5.1.1"
	SMTPResponse        string `json:"smtp_response,omitempty"` // at most 2 KiB
	Attempt             int32  `json:"attempt,omitempty"`       // counts from 1; 0 unknown
	RetryAfterS         int32  `json:"retry_after_s,omitempty"`
	BounceKind          string `json:"bounce_kind,omitempty"`
	BounceCause         string `json:"bounce_cause,omitempty"`
	BounceIsAsync       bool   `json:"bounce_is_async,omitempty"`       // reported after the message had been accepted
	ProviderBounceClass string `json:"provider_bounce_class,omitempty"` // "ses:Permanent/General"
	RejectReason        string `json:"reject_reason,omitempty"`
	ProviderSuppressed  *bool  `json:"provider_suppressed,omitempty"` // the provider says whether it now suppresses the address

	// Complaints and list changes.

	ComplaintType        string    `json:"complaint_type,omitempty"`     // RFC 5965 feedback type
	SuppressionAction    string    `json:"suppression_action,omitempty"` // "add" or "remove"
	SuppressionExpiresAt time.Time `json:"suppression_expires_at,omitzero"`

	// Engagement. Addresses and user agents are personal data.

	URL               string   `json:"url,omitempty"`
	LinkName          string   `json:"link_name,omitempty"`
	LinkIndex         *int32   `json:"link_index,omitempty"`
	ClientIP          string   `json:"client_ip,omitempty"`
	UserAgent         string   `json:"user_agent,omitempty"`
	DeviceType        string   `json:"device_type,omitempty"`
	ClientName        string   `json:"client_name,omitempty"`
	OSName            string   `json:"os_name,omitempty"`
	GeoCountry        string   `json:"geo_country,omitempty"` // ISO 3166-1 alpha-2 where the provider gives it, else as received
	GeoRegion         string   `json:"geo_region,omitempty"`
	GeoCity           string   `json:"geo_city,omitempty"`
	Machine           string   `json:"machine,omitempty"`          // "yes", "no", "unknown" for opened and clicked; empty for the rest
	MachineEvidence   []string `json:"machine_evidence,omitempty"` // codes, "provider_flag", ...
	BotName           string   `json:"bot_name,omitempty"`
	EngagementVariant string   `json:"engagement_variant,omitempty"` // "all", "first_only", "top_pixel"

	// Where it came from. Filled by the normalizer.

	RawTopic          string   `json:"raw_topic,omitempty"`
	RawPartition      int32    `json:"raw_partition,omitempty"`
	RawOffset         int64    `json:"raw_offset,omitempty"`
	RawEventIndex     int32    `json:"raw_event_index,omitempty"`     // element of the body, from 0; filled by the provider
	RawRecipientIndex int32    `json:"raw_recipient_index,omitempty"` // recipient of the element, from 0; filled by the provider
	NormalizerVersion string   `json:"normalizer_version,omitempty"`
	Warnings          []string `json:"warnings,omitempty"` // constants Warn...
}

// Warnings an event may carry.
const (
	WarnBadTimestamp  = "bad_timestamp"  // occurred_at is received_at
	WarnBadRecipient  = "bad_recipient"  // recipient is not an address; kept as received
	WarnUnknownType   = "unknown_type"   // the native type is not in the provider's table
	WarnTruncated     = "truncated"      // smtp_response or metadata was cut to its limit
	WarnUnknownClass  = "unknown_class"  // the provider's bounce class or reason is not in the table
	WarnNoNativeID    = "no_native_id"   // identity fell back from the provider's id to the fingerprint
	WarnBadVocabulary = "bad_vocabulary" // a value outside its vocabulary was replaced
)

// Warn adds a warning once.
func (e *Event) Warn(code string) {
	for _, have := range e.Warnings {
		if have == code {
			return
		}
	}
	e.Warnings = append(e.Warnings, code)
}
