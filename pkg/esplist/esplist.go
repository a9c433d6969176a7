// Package esplist reads and extends the suppression lists that the email
// service providers keep themselves, over their public APIs. One folder below
// it is one provider; here is what they share: the interface, the errors, and
// an HTTP caller that retries, waits as it is told, and bounds what it reads.
//
// It deletes nothing from a provider's list, and has no code that could. It
// does not compare lists (pkg/listsync) and does not know Mailriver's own.
package esplist

import (
	"context"
	"errors"
	"fmt"

	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// Client is one list of one provider: that of an account, a message stream or
// a domain.
type Client interface {
	// Provider is the name in [suppression.Entry.Provider].
	Provider() string

	// List calls each for every entry, in the order of the provider, which may
	// be any. An entry can come twice, when the list changes meanwhile. Entries
	// have the scope and reason that the list itself has.
	List(ctx context.Context, each func(suppression.Entry) error) error

	// Express returns the entry as List would give it after Add: the scope and
	// the reason are those that the list can hold. Its errors are [ErrScope]
	// and those of the provider's package.
	Express(e suppression.Entry) (suppression.Entry, error)

	// Add puts entries on the list. An entry that is already there does no
	// harm. The results are in the order of the entries; after an error, only
	// those of the entries that were dealt with.
	Add(ctx context.Context, entries []suppression.Entry) ([]Result, error)
}

// Result is what became of one entry of an Add.
type Result struct {
	Entry   suppression.Entry
	Refused string // why, in the provider's words; empty when it is on the list
}

// ErrScope is returned by Express for an entry that is about something the
// list does not know, such as a group of another provider.
var ErrScope = errors.New("the list has no such scope")

// Slot tells which part of a list an entry of it is about. The empty slot is
// all mail that the list governs, and covers every other.
func Slot(e suppression.Entry) string {
	switch e.ScopeKind {
	case event.ScopeGroup, event.ScopeTag, event.ScopeList, event.ScopeTopic:
		return e.ScopeKind + ":" + e.ScopeID
	}
	return ""
}

// Wide reports whether an entry is about every mail to the address, or about
// every mail of an account. Which account, the entry does not say: see
// pkg/listsync.
func Wide(e suppression.Entry) bool {
	return e.ScopeKind == event.ScopeAddress || e.ScopeKind == event.ScopeAccount && e.ScopeID == ""
}

// Run returns how a client would hold the first entry, and how many of the first
// ones it would hold alike: they go together.
func Run(c Client, entries []suppression.Entry, alike func(a, b suppression.Entry) bool) (first suppression.Entry, n int, err error) {
	if first, err = c.Express(entries[0]); err != nil {
		return first, 0, fmt.Errorf("%s: add: %w", c.Provider(), err)
	}
	for n = 1; n < len(entries); n++ {
		if e, err := c.Express(entries[n]); err != nil || !alike(e, first) {
			break
		}
	}
	return first, n, nil
}

// AddInBatches calls post for parts of at most size entries. A part that the
// provider finds fault with ([Error.Content]) is halved until the entries at
// fault are alone, and only they are refused.
func AddInBatches(ctx context.Context, entries []suppression.Entry, size int,
	post func(ctx context.Context, part []suppression.Entry) error,
) ([]Result, error) {
	var results []Result
	var add func(part []suppression.Entry) error
	add = func(part []suppression.Entry) error {
		err := post(ctx, part)
		if err == nil {
			for _, e := range part {
				results = append(results, Result{Entry: e})
			}
			return nil
		}
		problem, ok := errors.AsType[*Error](err)
		if !ok || !problem.Content {
			return err
		}
		if len(part) == 1 {
			results = append(results, Result{Entry: part[0], Refused: problem.Message})
			return nil
		}
		half := len(part) / 2
		if err := add(part[:half]); err != nil {
			return err
		}
		return add(part[half:])
	}
	for len(entries) > 0 {
		n := min(size, len(entries))
		if err := add(entries[:n]); err != nil {
			return results, err
		}
		entries = entries[n:]
	}
	return results, nil
}
