package lead

import (
	"time"

	"mailriver/pkg/event"
)

// Fields are what a condition sees: the fields of the canonical event by their
// names. What may be absent there has a zero value here; link_index is -1 then.
type Fields struct {
	SchemaVersion        int               `expr:"schema_version"`
	ID                   string            `expr:"event_id"`
	Type                 string            `expr:"event_type"`
	Provider             string            `expr:"provider"`
	ProviderVariant      string            `expr:"provider_variant"`
	Source               string            `expr:"source"`
	AccountID            string            `expr:"account_id"`
	SubaccountID         string            `expr:"subaccount_id"`
	NativeEventID        string            `expr:"native_event_id"`
	NativeEventType      string            `expr:"native_event_type"`
	IsTest               bool              `expr:"is_test"`
	IsDuplicateHint      bool              `expr:"is_duplicate_hint"`
	Revision             int               `expr:"revision"`
	OccurredAt           time.Time         `expr:"occurred_at"`
	OccurredAtPrecision  string            `expr:"occurred_at_precision"`
	OccurredAtSource     string            `expr:"occurred_at_source"`
	ReceivedAt           time.Time         `expr:"received_at"`
	NormalizedAt         time.Time         `expr:"normalized_at"`
	Recipient            string            `expr:"recipient"`
	RecipientNormalized  string            `expr:"recipient_normalized"`
	RecipientDomain      string            `expr:"recipient_domain"`
	RecipientAmbiguous   bool              `expr:"recipient_ambiguous"`
	RecipientCount       int               `expr:"recipient_count"`
	Sender               string            `expr:"sender"`
	Subject              string            `expr:"subject"`
	ProviderMessageID    string            `expr:"provider_message_id"`
	SMTPMessageID        string            `expr:"smtp_message_id"`
	BatchMessageID       string            `expr:"batch_message_id"`
	Tags                 []string          `expr:"tags"`
	Metadata             map[string]string `expr:"metadata"`
	CampaignID           string            `expr:"campaign_id"`
	CampaignName         string            `expr:"campaign_name"`
	TemplateID           string            `expr:"template_id"`
	Stream               string            `expr:"stream"`
	ListID               string            `expr:"list_id"`
	GroupID              string            `expr:"group_id"`
	ScopeKind            string            `expr:"scope_kind"`
	ScopeID              string            `expr:"scope_id"`
	IPPool               string            `expr:"ip_pool"`
	SendingIP            string            `expr:"sending_ip"`
	MXHost               string            `expr:"mx_host"`
	MXIP                 string            `expr:"mx_ip"`
	SMTPCode             int               `expr:"smtp_code"`
	EnhancedCode         string            `expr:"enhanced_code"`
	SMTPResponse         string            `expr:"smtp_response"`
	Attempt              int               `expr:"attempt"`
	RetryAfterS          int               `expr:"retry_after_s"`
	BounceKind           string            `expr:"bounce_kind"`
	BounceCause          string            `expr:"bounce_cause"`
	BounceIsAsync        bool              `expr:"bounce_is_async"`
	ProviderBounceClass  string            `expr:"provider_bounce_class"`
	RejectReason         string            `expr:"reject_reason"`
	ProviderSuppressed   bool              `expr:"provider_suppressed"`
	ComplaintType        string            `expr:"complaint_type"`
	SuppressionAction    string            `expr:"suppression_action"`
	SuppressionExpiresAt time.Time         `expr:"suppression_expires_at"`
	URL                  string            `expr:"url"`
	LinkName             string            `expr:"link_name"`
	LinkIndex            int               `expr:"link_index"`
	ClientIP             string            `expr:"client_ip"`
	UserAgent            string            `expr:"user_agent"`
	DeviceType           string            `expr:"device_type"`
	ClientName           string            `expr:"client_name"`
	OSName               string            `expr:"os_name"`
	GeoCountry           string            `expr:"geo_country"`
	GeoRegion            string            `expr:"geo_region"`
	GeoCity              string            `expr:"geo_city"`
	Machine              string            `expr:"machine"`
	MachineEvidence      []string          `expr:"machine_evidence"`
	BotName              string            `expr:"bot_name"`
	EngagementVariant    string            `expr:"engagement_variant"`
	RawTopic             string            `expr:"raw_topic"`
	RawPartition         int               `expr:"raw_partition"`
	RawOffset            int               `expr:"raw_offset"`
	RawEventIndex        int               `expr:"raw_event_index"`
	RawRecipientIndex    int               `expr:"raw_recipient_index"`
	NormalizerVersion    string            `expr:"normalizer_version"`
	Warnings             []string          `expr:"warnings"`
}

// fill copies the fields of an event.
func (f *Fields) fill(e *event.Event) {
	*f = Fields{
		SchemaVersion:        int(e.SchemaVersion),
		ID:                   e.ID.String(),
		Type:                 string(e.Type),
		Provider:             e.Provider,
		ProviderVariant:      e.ProviderVariant,
		Source:               e.Source,
		AccountID:            e.AccountID,
		SubaccountID:         e.SubaccountID,
		NativeEventID:        e.NativeEventID,
		NativeEventType:      e.NativeEventType,
		IsTest:               e.IsTest,
		IsDuplicateHint:      e.IsDuplicateHint,
		Revision:             int(e.Revision),
		OccurredAt:           e.OccurredAt,
		OccurredAtPrecision:  e.OccurredAtPrecision,
		OccurredAtSource:     e.OccurredAtSource,
		ReceivedAt:           e.ReceivedAt,
		NormalizedAt:         e.NormalizedAt,
		Recipient:            e.Recipient,
		RecipientNormalized:  e.RecipientNormalized,
		RecipientDomain:      e.RecipientDomain,
		RecipientAmbiguous:   e.RecipientAmbiguous,
		RecipientCount:       int(e.RecipientCount),
		Sender:               e.Sender,
		Subject:              e.Subject,
		ProviderMessageID:    e.ProviderMessageID,
		SMTPMessageID:        e.SMTPMessageID,
		BatchMessageID:       e.BatchMessageID,
		Tags:                 e.Tags,
		Metadata:             e.Metadata,
		CampaignID:           e.CampaignID,
		CampaignName:         e.CampaignName,
		TemplateID:           e.TemplateID,
		Stream:               e.Stream,
		ListID:               e.ListID,
		GroupID:              e.GroupID,
		ScopeKind:            e.ScopeKind,
		ScopeID:              e.ScopeID,
		IPPool:               e.IPPool,
		SendingIP:            e.SendingIP,
		MXHost:               e.MXHost,
		MXIP:                 e.MXIP,
		SMTPCode:             int(e.SMTPCode),
		EnhancedCode:         e.EnhancedCode,
		SMTPResponse:         e.SMTPResponse,
		Attempt:              int(e.Attempt),
		RetryAfterS:          int(e.RetryAfterS),
		BounceKind:           e.BounceKind,
		BounceCause:          e.BounceCause,
		BounceIsAsync:        e.BounceIsAsync,
		ProviderBounceClass:  e.ProviderBounceClass,
		RejectReason:         e.RejectReason,
		ProviderSuppressed:   e.ProviderSuppressed != nil && *e.ProviderSuppressed,
		ComplaintType:        e.ComplaintType,
		SuppressionAction:    e.SuppressionAction,
		SuppressionExpiresAt: e.SuppressionExpiresAt,
		URL:                  e.URL,
		LinkName:             e.LinkName,
		ClientIP:             e.ClientIP,
		UserAgent:            e.UserAgent,
		DeviceType:           e.DeviceType,
		ClientName:           e.ClientName,
		OSName:               e.OSName,
		GeoCountry:           e.GeoCountry,
		GeoRegion:            e.GeoRegion,
		GeoCity:              e.GeoCity,
		Machine:              e.Machine,
		MachineEvidence:      e.MachineEvidence,
		BotName:              e.BotName,
		EngagementVariant:    e.EngagementVariant,
		RawTopic:             e.RawTopic,
		RawPartition:         int(e.RawPartition),
		RawOffset:            int(e.RawOffset),
		RawEventIndex:        int(e.RawEventIndex),
		RawRecipientIndex:    int(e.RawRecipientIndex),
		NormalizerVersion:    e.NormalizerVersion,
		Warnings:             e.Warnings,
		LinkIndex:            -1,
	}
	if e.LinkIndex != nil {
		f.LinkIndex = int(*e.LinkIndex)
	}
}
