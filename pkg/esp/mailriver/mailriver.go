// Package mailriver reads and writes Mailriver's own changes: what a person
// decided about an address, by one-click unsubscribe, by the suppression API,
// by an import or by a comparison with a provider's list. One body is
// {"changes": [...]}.
//
// It is a provider like the others, so that such a change goes the way of every
// event: stored as sent, made canonical, deduplicated, in the order of its
// recipient, in every audit and every replay. It differs in one thing
// ([esp.Provider.Own]): it is no one's webhook. No endpoint accepts it, and
// nothing verifies it; a body is genuine because it is in the raw topic under
// the source "mailriver", which no configured source may be called.
//
// It does not decide what a change means for an address: that is the
// suppression policy's. It does not put records on a topic either (package
// change does), and knows no more of an address than that it has a local part
// and a domain: who makes a change looks closer, with package address.
//
// # Identity
//
// Tier 1: the change's own id, a UUID that its maker computed or drew, together
// with the address. The maker of a change that may be written twice must give it
// the same id both times.
//
// # Choices
//
// Who writes is strict and who reads is not: [Encode] refuses what [Change.Validate]
// does, while Parse keeps an action that it does not know as unknown, and any
// reason and origin as they are, since a newer build may have written them. A
// scope that is not in the vocabulary is rejected instead: as an event it would
// lose its scope, and one that means a single list would be read as all of them.
// The dead letter can be retried by the build that knows the word. The same goes
// for an expiry that cannot be read.
package mailriver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"mailriver/pkg/esp"
	"mailriver/pkg/event"
)

const name = event.ProviderMailriver

// Source is the source of every own change.
const Source = name

// Provider is Mailriver itself.
var Provider = esp.Provider{
	Name:  name,
	Title: "Mailriver",
	// For the endpoint of one-click unsubscribe: it says of a link that is not
	// ours no more than that there is nothing.
	Answers: esp.Answers{Refuse: 404, Retry: 503},
	MaxBody: 4 << 20, // MaxChanges of the largest, and then some
	Own:     true,
	Parse:   parse,
	Types:   []event.Type{event.Unsubscribed, event.Resubscribed, event.SuppressionChanged, event.Unknown},
}

// Values of action.
const (
	ActionAdd         = "add"         // the address goes on the list
	ActionRemove      = "remove"      // it comes off the list
	ActionUnsubscribe = "unsubscribe" // the recipient opted out of the scope
	ActionResubscribe = "resubscribe" // the recipient opted in again
)

// Values of origin. Each becomes provider_variant.
const (
	OriginAPI      = "api"       // the suppression API, or the command line
	OriginImport   = "import"    // a file
	OriginSync     = "sync"      // a provider's own list
	OriginOneClick = "one_click" // a link in a message (RFC 8058)
)

// Keys of the metadata that a canonical event has of a change.
const (
	MetadataReason = "reason"
	MetadataNote   = "note"
	MetadataActor  = "actor"
)

// Bounds of a body and of its texts, in bytes.
const (
	MaxChanges = 500 // changes of one body
	MaxAddress = 320
	MaxScopeID = 256
	MaxReason  = 64
	MaxNote    = 500
	MaxActor   = 128
)

// Change is one decision about one address and one scope. Times are kept to the
// microsecond.
type Change struct {
	ID        event.ID  // the same when the change is written again
	Action    string    // Action...
	Address   string    // without display name
	ScopeKind string    // package event, Scope...
	ScopeID   string    // which one; empty for the scope address, and for a whole account
	Reason    string    // a word of package suppression; required to add
	At        time.Time // when it was decided
	ExpiresAt time.Time // zero: never
	Note      string    // for people
	Actor     string    // name of the API key, "cli" or "recipient"
	Origin    string    // Origin...
}

// Validate reports everything that is wrong, each problem with its field. It
// holds what [Encode] writes to what Parse understands.
func (c Change) Validate() error {
	var errs []error
	must := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	actions := []string{ActionAdd, ActionRemove, ActionUnsubscribe, ActionResubscribe}
	origins := []string{OriginAPI, OriginImport, OriginSync, OriginOneClick}
	kinds, _ := event.Vocabulary("scope_kind")

	must(!c.ID.IsZero(), "id: is required")
	must(slices.Contains(actions, c.Action), "action: is %q, must be one of %s", c.Action, strings.Join(actions, ", "))
	local, domain := cutAddress(c.Address)
	must(local != "" && domain != "" && plain(c.Address, MaxAddress),
		"address: must be local-part@domain, without control characters, of at most %d bytes", MaxAddress)
	must(slices.Contains(kinds, c.ScopeKind), "scope_kind: is %q, must be one of %s", c.ScopeKind, strings.Join(kinds, ", "))
	must(plain(c.ScopeID, MaxScopeID), "scope_id: must have at most %d bytes and no control characters", MaxScopeID)
	switch c.ScopeKind {
	case event.ScopeAddress:
		must(c.ScopeID == "", "scope_id: is %q, must be empty: the scope address is all of the address", c.ScopeID)
	case event.ScopeAccount:
	default:
		must(c.ScopeID != "" || !slices.Contains(kinds, c.ScopeKind), "scope_id: is required with the scope_kind %q", c.ScopeKind)
	}
	must(c.Reason != "" || c.Action != ActionAdd, "reason: is required to add")
	must(word(c.Reason), "reason: must be a word of a-z and _ of at most %d letters", MaxReason)
	must(c.At.Year() >= 2000 && c.At.Year() <= 9999, "at: is required, from the year 2000 on")
	must(c.ExpiresAt.IsZero() || c.ExpiresAt.After(c.At) && c.ExpiresAt.Year() <= 9999, "expires_at: must be after at")
	must(plain(c.Note, MaxNote), "note: must have at most %d bytes and no control characters", MaxNote)
	must(plain(c.Actor, MaxActor), "actor: must have at most %d bytes and no control characters", MaxActor)
	must(slices.Contains(origins, c.Origin), "origin: is %q, must be one of %s", c.Origin, strings.Join(origins, ", "))
	return errors.Join(errs...)
}

func cutAddress(address string) (local, domain string) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return "", ""
	}
	return address[:at], address[at+1:]
}

func plain(text string, most int) bool {
	return len(text) <= most && utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

func word(text string) bool {
	return len(text) <= MaxReason && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// timeLayout is RFC 3339 in UTC, always with microseconds.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// wire is a change as it stands in a body.
type wire struct {
	ID        event.ID `json:"id"`
	Action    string   `json:"action"`
	Address   string   `json:"address"`
	ScopeKind string   `json:"scope_kind"`
	ScopeID   string   `json:"scope_id"`
	Reason    string   `json:"reason"`
	At        string   `json:"at"`
	ExpiresAt string   `json:"expires_at,omitempty"`
	Note      string   `json:"note,omitempty"`
	Actor     string   `json:"actor"`
	Origin    string   `json:"origin"`
}

// Encode returns the body that says these changes, one at least and
// [MaxChanges] at most. The same changes give the same bytes. Its errors are
// those of [Validate].
func Encode(changes []Change) ([]byte, error) {
	if len(changes) < 1 || len(changes) > MaxChanges {
		return nil, fmt.Errorf("changes: are %d, must be from 1 to %d", len(changes), MaxChanges)
	}
	if err := Validate(changes); err != nil {
		return nil, err
	}
	body := struct {
		Changes []wire `json:"changes"`
	}{make([]wire, 0, len(changes))}
	for _, c := range changes {
		w := wire{
			ID: c.ID, Action: c.Action, Address: c.Address, ScopeKind: c.ScopeKind, ScopeID: c.ScopeID, Reason: c.Reason,
			At: c.At.UTC().Format(timeLayout), Note: c.Note, Actor: c.Actor, Origin: c.Origin,
		}
		if !c.ExpiresAt.IsZero() {
			w.ExpiresAt = c.ExpiresAt.UTC().Format(timeLayout)
		}
		body.Changes = append(body.Changes, w)
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		return nil, fmt.Errorf("changes: %w", err)
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

// Validate reports everything that is wrong with the changes, however many they
// are, each problem with its place and field (changes[3].scope_id: ...).
func Validate(changes []Change) error {
	var errs []error
	for i, c := range changes {
		if err := c.Validate(); err != nil {
			errs = append(errs, inPlace(i, err))
		}
	}
	return errors.Join(errs...)
}

// inPlace puts the place of a change before each of its problems.
func inPlace(i int, err error) error {
	place := fmt.Sprintf("changes[%d].", i)
	return errors.New(place + strings.ReplaceAll(err.Error(), "\n", "\n"+place))
}
