package mailriver

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

// element is a change as received: any field may have any type.
type element struct {
	id, action, address, scopeKind, scopeID, reason, at, expiresAt, note, actor, origin string
}

func read(v gjson.Result) element {
	var e element
	v.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "id":
			e.id = esp.Text(value)
		case "action":
			e.action = esp.Text(value)
		case "address":
			e.address = esp.Text(value)
		case "scope_kind":
			e.scopeKind = esp.Text(value)
		case "scope_id":
			e.scopeID = esp.Text(value)
		case "reason":
			e.reason = esp.Text(value)
		case "at":
			e.at = esp.Text(value)
		case "expires_at":
			e.expiresAt = esp.Text(value)
		case "note":
			e.note = esp.Text(value)
		case "actor":
			e.actor = esp.Text(value)
		case "origin":
			e.origin = esp.Text(value)
		}
		return true
	})
	return e
}

func parse(w esp.Webhook) (esp.Result, error) {
	if !esp.ValidJSON(w.Body) {
		return esp.Result{}, fault.Permanent(fault.BadBody, errors.New("body is not JSON"))
	}
	changes := gjson.GetBytes(w.Body, "changes")
	if !changes.IsArray() {
		return esp.Result{}, fault.Permanent(fault.BadBody, errors.New("body has no list of changes"))
	}
	var result esp.Result
	index := int32(-1)
	changes.ForEach(func(_, v gjson.Result) bool {
		index++
		e, err := parseOne(w, v)
		if err != nil {
			result.Rejected = append(result.Rejected, esp.Rejected{
				Raw: []byte(v.Raw), Index: index, Err: fault.Permanent(fault.BadElement, err),
			})
			return true
		}
		e.RawEventIndex = index
		result.Events = append(result.Events, e)
		return true
	})
	return result, nil
}

func parseOne(w esp.Webhook, v gjson.Result) (event.Event, error) {
	if !v.IsObject() {
		return event.Event{}, errors.New("change is not a JSON object")
	}
	c := read(v)
	if _, err := event.ParseID(c.id); err != nil {
		return event.Event{}, fmt.Errorf("id: is %q, must be a UUID", c.id)
	}
	if c.address == "" {
		return event.Event{}, errors.New("address: is required")
	}
	if kinds, _ := event.Vocabulary("scope_kind"); !slices.Contains(kinds, c.scopeKind) {
		return event.Event{}, fmt.Errorf("scope_kind: %q is not known to this build", c.scopeKind)
	}
	var expires time.Time
	if c.expiresAt != "" {
		var ok bool
		if expires, _, ok = esp.ParseTime(c.expiresAt); !ok {
			return event.Event{}, fmt.Errorf("expires_at: %q is no time", c.expiresAt)
		}
	}
	e := event.Event{
		ID:                   event.NewID(name, w.Source, c.address, c.id),
		Provider:             name,
		ProviderVariant:      c.origin,
		Source:               w.Source,
		NativeEventID:        c.id,
		NativeEventType:      c.action,
		Recipient:            c.address,
		ScopeKind:            c.scopeKind,
		ScopeID:              c.scopeID,
		SuppressionExpiresAt: expires,
		RejectReason:         rejectReason(c.reason),
		Metadata:             metadata(c),
	}
	esp.SetTime(&e, c.at, w.ReceivedAt)
	switch c.action {
	case ActionAdd:
		e.Type, e.SuppressionAction = event.SuppressionChanged, event.SuppressionAdd
	case ActionRemove:
		e.Type, e.SuppressionAction = event.SuppressionChanged, event.SuppressionRemove
	case ActionUnsubscribe:
		e.Type = event.Unsubscribed
	case ActionResubscribe:
		e.Type = event.Resubscribed
	default:
		e.Type = event.Unknown
		e.Warn(event.WarnUnknownType)
	}
	return e, nil
}

// rejectReason says a reason in the vocabulary of the canonical event, which
// has fewer words. The reason itself is in the metadata.
func rejectReason(reason string) string {
	switch reason {
	case "":
		return ""
	case "hard_bounce", "soft_bounce":
		return event.RejectPreviouslyBounced
	case "complaint":
		return event.RejectPreviouslyComplained
	case "unsubscribe":
		return event.RejectPreviouslyUnsubscribed
	case "invalid_address":
		return event.RejectInvalidAddress
	}
	return event.RejectPolicy
}

func metadata(c element) map[string]string {
	m := map[string]string{}
	for key, value := range map[string]string{MetadataReason: c.reason, MetadataNote: c.note, MetadataActor: c.actor} {
		if value != "" {
			m[key] = value
		}
	}
	if len(m) == 0 {
		return nil
	}
	return m
}
