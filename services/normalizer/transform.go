package normalizer

import (
	"fmt"
	"sort"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/address"
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/machine"
	"mailriver/pkg/raw"
)

const (
	stage = "normalizer"

	// maxDecoded bounds an encoded body. The receiver accepts less, so a
	// larger one was not written by it.
	maxDecoded = 64 << 20
	// maxEvent leaves room for headers below max.message.bytes of the topic.
	maxEvent = 1 << 20
	// maxMetadata bounds what a sender may put beside an event, in bytes.
	maxMetadata = 64 << 10
)

// Transformer makes canonical records and dead letters of one raw record. It is
// pure but for normalized_at, and safe for concurrent use: replay and audit ask
// it what the normalizer of today makes of an old record.
type Transformer struct {
	providers map[string]esp.Provider
	encoder   *eventavro.Encoder
	topics    kafka.Topics
	version   string
	now       func() time.Time
}

// NewTransformer returns a transformer for the given providers. The version is
// that of this build.
func NewTransformer(providers []esp.Provider, encoder *eventavro.Encoder, topics kafka.Topics, version string, now func() time.Time) *Transformer {
	t := &Transformer{providers: map[string]esp.Provider{}, encoder: encoder, topics: topics, version: version, now: now}
	for _, p := range providers {
		t.providers[p.Name] = p
	}
	return t
}

// Canonical is an event, and the record for the canonical topic that holds it.
type Canonical struct {
	Event  *event.Event
	Record *kgo.Record
}

// Made is what one raw record became.
type Made struct {
	Provider   string    // a provider of this build, or "unknown"
	ReceivedAt time.Time // zero when the record does not say
	Events     []Canonical
	Letters    []*kgo.Record // dead letters
	// Duplicates are the events left out because they were published before. A
	// transformer alone leaves none out.
	Duplicates int64
}

// Transform never fails: what cannot be read is a letter.
func (t *Transformer) Transform(in *kgo.Record) Made {
	out := Made{Provider: "unknown"}
	give := func(index int32, value []byte, err error) {
		origin := kafka.Origin(in)
		if index >= 0 {
			origin += "#" + strconv.Itoa(int(index))
		}
		letter := kafka.DeadLetter(t.topics.Dead, in, kafka.Letter{Stage: stage, Origin: origin, Err: err, Value: value})
		letter.Context = in.Context
		out.Letters = append(out.Letters, letter)
	}
	request, err := raw.Read(in)
	if err != nil {
		give(-1, in.Value, err)
		return out
	}
	out.ReceivedAt = request.ReceivedAt
	provider, ok := t.providers[request.Provider]
	if !ok {
		give(-1, in.Value, fault.Permanentf(fault.UnknownProvider, "provider %q is not in this build", request.Provider))
		return out
	}
	out.Provider = provider.Name
	hook, err := request.Webhook(maxDecoded)
	if err != nil {
		give(-1, in.Value, err)
		return out
	}
	result, err := parse(provider, hook)
	if err != nil {
		give(-1, in.Value, err)
		return out
	}
	for _, rejected := range result.Rejected {
		give(rejected.Index, rejected.Raw, rejected.Err)
	}
	for i := range result.Events {
		e := &result.Events[i]
		t.complete(e, in, request)
		record, err := t.encode(e, in)
		if err != nil {
			give(e.RawEventIndex, hook.Body, err)
			continue
		}
		out.Events = append(out.Events, Canonical{e, record})
	}
	return out
}

// parse calls the provider. A panic there is a bug, but one record must not
// stop the topic for the others: it is given up like any body that cannot be
// read, and kept.
func parse(provider esp.Provider, hook esp.Webhook) (result esp.Result, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			result = esp.Result{}
			err = fault.Permanentf(fault.BadBody, "parser of %s panicked: %v", provider.Name, cause)
		}
	}()
	result, err = provider.Parse(hook)
	if err == nil {
		return result, nil
	}
	if _, permanent := fault.Reason(err); !permanent {
		err = fault.Permanent(fault.BadBody, err)
	}
	return result, err
}

// complete fills in what no provider knows, and holds the event to the contract.
func (t *Transformer) complete(e *event.Event, in *kgo.Record, request raw.Record) {
	e.SchemaVersion = event.SchemaVersion
	e.NormalizerVersion = t.version
	e.NormalizedAt = t.now().UTC().Truncate(time.Microsecond)
	e.ReceivedAt = request.ReceivedAt
	e.Provider, e.Source = request.Provider, request.Source
	e.RawTopic, e.RawPartition, e.RawOffset = in.Topic, in.Partition, in.Offset

	if e.Recipient != "" {
		normal, ok := address.Normalize(e.Recipient)
		e.RecipientNormalized, e.RecipientDomain = normal.Full, normal.Domain
		if !ok {
			e.Warn(event.WarnBadRecipient)
		}
	}
	for _, field := range e.Check() {
		e.Warn(event.WarnBadVocabulary)
		clearField(e, field)
	}
	if verdict, evidence := machine.Stateless(e); verdict != "" {
		e.Machine, e.MachineEvidence = verdict, evidence
	}
	trimMetadata(e)
}

// clearField takes out a value that is not in its vocabulary: a wrong word
// would be counted as if it meant something.
func clearField(e *event.Event, field string) {
	switch field {
	case "event_type":
		e.Type = event.Unknown
	case "bounce_kind":
		e.BounceKind = event.KindUndetermined
	case "bounce_cause":
		e.BounceCause = event.CauseOther
	case "reject_reason":
		e.RejectReason = event.RejectOther
	case "scope_kind":
		e.ScopeKind = ""
	case "machine":
		e.Machine = event.MachineUnknown
	case "suppression_action":
		e.SuppressionAction = ""
	case "occurred_at_precision":
		e.OccurredAtPrecision = ""
	case "occurred_at_source":
		e.OccurredAtSource = ""
	case "engagement_variant":
		e.EngagementVariant = ""
	}
}

// trimMetadata drops entries from the end of the alphabet until the rest fits:
// the same ones on every run.
func trimMetadata(e *event.Event) {
	size := 0
	for key, value := range e.Metadata {
		size += len(key) + len(value)
	}
	if size <= maxMetadata {
		return
	}
	e.Warn(event.WarnTruncated)
	keys := make([]string, 0, len(e.Metadata))
	for key := range e.Metadata {
		keys = append(keys, key)
	}
	sort.Sort(sort.Reverse(sort.StringSlice(keys)))
	for _, key := range keys {
		if size <= maxMetadata {
			return
		}
		size -= len(key) + len(e.Metadata[key])
		delete(e.Metadata, key)
	}
}

func (t *Transformer) encode(e *event.Event, in *kgo.Record) (*kgo.Record, error) {
	value, err := t.encoder.Append(make([]byte, 0, 768), e)
	if err != nil {
		return nil, fault.Permanent(fault.BadValue, err)
	}
	if len(value) > maxEvent {
		return nil, fault.Permanentf(fault.TooLarge, "event %s is %d bytes, at most %d fit", e.ID, len(value), maxEvent)
	}
	return &kgo.Record{
		Topic:   t.topics.Events,
		Key:     []byte(key(e)),
		Value:   value,
		Headers: t.headers(e, in),
		Context: in.Context, // carries the trace
	}, nil
}

// key keeps all events of a recipient in order. What has no recipient goes by
// its message, and what has neither stands alone.
func key(e *event.Event) string {
	switch {
	case e.RecipientNormalized != "":
		return e.RecipientNormalized
	case e.ProviderMessageID != "":
		return e.ProviderMessageID
	}
	return e.ID.String()
}

// headers are CloudEvents 1.0 in binary mode (Kafka protocol binding 3.2), and
// the place of the raw record.
func (t *Transformer) headers(e *event.Event, in *kgo.Record) []kgo.RecordHeader {
	return []kgo.RecordHeader{
		{Key: "ce_specversion", Value: []byte("1.0")},
		{Key: "ce_id", Value: []byte(e.ID.String())},
		{Key: "ce_type", Value: []byte("io.mailriver.email." + string(e.Type) + ".v1")},
		{Key: "ce_source", Value: []byte("/sources/" + e.Source)},
		{Key: "ce_time", Value: []byte(e.OccurredAt.Format(time.RFC3339Nano))},
		{Key: "content-type", Value: []byte("application/avro")},
		{Key: kafka.HeaderOrigin, Value: []byte(fmt.Sprintf("%s#%d", kafka.Origin(in), e.RawEventIndex))},
	}
}
