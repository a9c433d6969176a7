// Package change puts Mailriver's own changes into the form of the raw topic.
// The three that make changes use it: the receiver for one-click unsubscribe,
// the suppression service for its API, and the comparison with a provider's own
// list.
//
// It has no client: producing, and waiting until Kafka has what was produced, is
// the caller's. What a change says, and what is allowed to be said, is package
// pkg/esp/mailriver's.
package change

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/raw"
)

// Records returns the records that say the changes, in order, as many as bodies
// are needed. Either all of the changes are good, or there is an error that
// names each bad one (changes[1000].address: ...) and no record. No changes are
// no records.
//
// at is now: it becomes received_at. A change from more than a day after it
// would be taken for one of this moment, as every event is.
//
// The key is the id of a change that is alone in its body, so that it lands on
// one partition however often it is written, else the digest of the body. The
// key says nothing about the order of changes: that is their own time's.
func Records(topic string, changes []mailriver.Change, at time.Time) ([]*kgo.Record, error) {
	if len(changes) == 0 {
		return nil, nil
	}
	if err := mailriver.Validate(changes); err != nil {
		return nil, err
	}
	var records []*kgo.Record
	for part := range slices.Chunk(changes, mailriver.MaxChanges) {
		body, err := mailriver.Encode(part)
		if err != nil {
			return nil, err
		}
		found := ""
		if len(part) == 1 {
			found = part[0].ID.String()
		}
		records = append(records, raw.Record{
			Provider: mailriver.Provider.Name, Source: mailriver.Source, ReceivedAt: at,
			ContentType: "application/json", Body: body,
		}.Kafka(topic, raw.DeliveryKey(found, body)))
	}
	return records, nil
}
