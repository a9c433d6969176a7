package rates

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/address"
	"mailriver/pkg/event"
)

// Counts are numbers of facts. They are the value of a record of the rates topic,
// as JSON: only this package reads it, restoring must not need the registry, and
// an operator can read it as it is.
type Counts struct {
	Delivered   int64 `json:"delivered"`
	Complained  int64 `json:"complained"`
	HardBounced int64 `json:"hard_bounced"`
}

func (c Counts) plus(d Counts) Counts {
	return Counts{c.Delivered + d.Delivered, c.Complained + d.Complained, c.HardBounced + d.HardBounced}
}

func (c Counts) minus(d Counts) Counts {
	return Counts{c.Delivered - d.Delivered, c.Complained - d.Complained, c.HardBounced - d.HardBounced}
}

// greater joins two states of one counter. Counters only grow, so the greater one
// is the later one, whatever the order in which they are read.
func (c Counts) greater(d Counts) Counts {
	return Counts{max(c.Delivered, d.Delivered), max(c.Complained, d.Complained), max(c.HardBounced, d.HardBounced)}
}

// hour counts the hours since 1970.
type hour int64

func hourOf(t time.Time) hour { return hour(t.Unix() / 3600) }

func (h hour) begin() time.Time { return time.Unix(int64(h)*3600, 0).UTC() }

// cell is what one counter is about.
type cell struct {
	sender string
	hour   hour
}

const hourForm = "2006-01-02T15Z"

// keyOf is the key of a counter. The partition is that of the events: a counter
// has one writer at a time.
func keyOf(partition int32, c cell) string {
	return fmt.Sprintf("%d|%s|%s", partition, c.sender, c.hour.begin().Format(hourForm))
}

// parseKey reads what keyOf writes. A sender may hold any byte.
func parseKey(key string) (partition int32, c cell, err error) {
	first, last := strings.IndexByte(key, '|'), strings.LastIndexByte(key, '|')
	if first < 0 || first == last {
		return 0, cell{}, fmt.Errorf("key %q is not partition|sender|hour", key)
	}
	p, err := strconv.ParseInt(key[:first], 10, 32)
	if err != nil {
		return 0, cell{}, fmt.Errorf("key %q: partition: %w", key, err)
	}
	at, err := time.Parse(hourForm, key[last+1:])
	if err != nil {
		return 0, cell{}, fmt.Errorf("key %q: hour: %w", key, err)
	}
	return int32(p), cell{key[first+1 : last], hourOf(at)}, nil
}

// parseCounter reads a record of the rates topic.
func parseCounter(key, value []byte) (partition int32, c cell, counts Counts, err error) {
	if partition, c, err = parseKey(string(key)); err != nil {
		return 0, cell{}, Counts{}, err
	}
	if err := json.Unmarshal(value, &counts); err != nil {
		return 0, cell{}, Counts{}, fmt.Errorf("key %q: %w", key, err)
	}
	return partition, c, counts, nil
}

// factOf says what an event counts for. ok is false for one that does not count.
func factOf(e *event.Event) (c cell, one Counts, ok bool) {
	// The normalizer publishes an event once; what is left out here is no mail, no
	// evidence against one message, or said by another event, too.
	if e.IsTest || e.RecipientAmbiguous || e.IsDuplicateHint || e.Revision > 0 {
		return cell{}, Counts{}, false
	}
	switch {
	case e.Type == event.Delivered:
		one.Delivered = 1
	case e.Type == event.Complained && e.ComplaintType != "not-spam":
		one.Complained = 1
	case e.Type == event.Bounced && e.BounceKind == event.KindHard:
		one.HardBounced = 1
	default:
		return cell{}, Counts{}, false
	}
	// A clock that is ahead must not move the window of everybody.
	at := e.OccurredAt
	if !e.ReceivedAt.IsZero() && e.ReceivedAt.Before(at) {
		at = e.ReceivedAt
	}
	return cell{senderOf(e), hourOf(at)}, one, true
}

// silent are the providers that do not name the sender of what they deliver, but
// do for what they bounce. Counted by domain, these would be rates of nothing.
func silent() []string { return []string{"postmark"} }

// senderOf is whom an event counts for.
func senderOf(e *event.Event) string {
	if e.Sender != "" && !slices.Contains(silent(), e.Provider) {
		if sender, ok := address.Normalize(e.Sender); ok {
			return sender.Domain
		}
	}
	return "source:" + e.Source // no domain has a colon
}
