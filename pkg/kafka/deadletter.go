package kafka

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/fault"
)

// Names of the headers that a dead letter has beside those of the record it
// came from.
const (
	HeaderReason = "reason" // constant of package fault
	HeaderError  = "error"  // for people; at most maxErrorBytes
	HeaderStage  = "stage"  // service that gave it up
	HeaderOrigin = "origin" // topic/partition/offset, and #element where there are several
)

const maxErrorBytes = 1024

// Origin names the place of a record: topic/partition/offset.
func Origin(r *kgo.Record) string {
	return fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset)
}

// HeaderOf returns the first value of a header of a record, empty without one.
func HeaderOf(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// Letter says why something is given up.
type Letter struct {
	Stage  string // the service
	Origin string // see [Origin]
	Err    error  // permanent; its reason becomes a header
	Value  []byte // the bytes that could not be processed
}

// DeadLetter returns the record for the dead-letter topic: the key and headers
// of the record it came from, and what became of it. An origin header of that
// record gives way to the letter's own: it names the nearer place.
func DeadLetter(topic string, from *kgo.Record, l Letter) *kgo.Record {
	reason, ok := fault.Reason(l.Err)
	if !ok {
		reason = fault.BadRecord
	}
	headers := make([]kgo.RecordHeader, 0, len(from.Headers)+4)
	headers = append(
		headers,
		kgo.RecordHeader{Key: HeaderReason, Value: []byte(reason)},
		kgo.RecordHeader{Key: HeaderError, Value: []byte(shorten(l.Err.Error()))},
		kgo.RecordHeader{Key: HeaderStage, Value: []byte(l.Stage)},
		kgo.RecordHeader{Key: HeaderOrigin, Value: []byte(l.Origin)},
	)
	for _, h := range from.Headers {
		switch h.Key {
		case HeaderReason, HeaderError, HeaderStage, HeaderOrigin:
		default:
			headers = append(headers, h)
		}
	}
	return &kgo.Record{Topic: topic, Key: from.Key, Value: l.Value, Headers: headers}
}

func shorten(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxErrorBytes {
		return text
	}
	cut := maxErrorBytes
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut]
}

// Reject is a record on its way to the dead-letter topic, and why.
type Reject struct {
	Record *kgo.Record
	Err    error // permanent
}

// Parker writes rejects to the dead-letter topic.
type Parker struct {
	Client *kgo.Client
	Topic  string
	Stage  string
}

// Park returns when all rejects are acknowledged, or with the first error:
// nothing is known to be durable then, and they are to be parked again.
func (p Parker) Park(ctx context.Context, rejects []Reject) error {
	letters := make([]*kgo.Record, len(rejects))
	for i, r := range rejects {
		letters[i] = DeadLetter(p.Topic, r.Record, Letter{
			Stage: p.Stage, Origin: Origin(r.Record), Err: r.Err, Value: r.Record.Value,
		})
	}
	if err := p.Client.ProduceSync(ctx, letters...).FirstErr(); err != nil {
		return fmt.Errorf("dead-letter %d records: %w", len(rejects), err)
	}
	return nil
}
