// Package listsync compares Mailriver's suppression list with one that a
// provider keeps, and brings over what is missing, to the provider or from it.
//
// It deletes nothing, on either side: a list of a provider also holds what
// others put there, and what was lifted in Mailriver must be lifted at the
// provider by a person. It does not speak to providers itself (pkg/esplist) and
// does not write Mailriver's list: the caller gives it a way to read that and,
// for an import, to change it.
//
// Both lists are sorted on disk, in a temporary folder that goes when the run
// ends, so memory does not grow with them: it holds one address at a time, the
// next thousand differences, and the rows of the report.
package listsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"mailriver/pkg/address"
	"mailriver/pkg/esplist"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// Kind is what differs.
type Kind string

// The kinds of differences.
const (
	MissingThere    Kind = "missing_there"    // Mailriver suppresses, the provider does not
	MissingHere     Kind = "missing_here"     // the provider suppresses, Mailriver does not
	DifferentReason Kind = "different_reason" // both do, for reasons that have nothing in common
)

// Outcome is what was done about a difference.
type Outcome string

// The outcomes.
const (
	Told     Outcome = ""         // nothing: it was not asked for, or cannot be done
	Added    Outcome = "added"    // it is on the provider's list now
	Refused  Outcome = "refused"  // the provider does not take it
	Imported Outcome = "imported" // it was given to Options.Import
	Failed   Outcome = "failed"   // the run ended before
)

// Difference is one address in one scope.
type Difference struct {
	Kind      Kind               `json:"kind"`
	Address   string             `json:"address"`
	ScopeKind string             `json:"scope_kind"` // where it is missing, in the terms of that side
	ScopeID   string             `json:"scope_id"`
	Ours      suppression.Reason `json:"ours,omitempty"`   // the strongest here
	Theirs    suppression.Reason `json:"theirs,omitempty"` // the strongest there
	Since     time.Time          `json:"since,omitzero"`   // of the entry that the other side lacks
	Outcome   Outcome            `json:"outcome,omitempty"`
	Detail    string             `json:"detail,omitempty"`

	entry suppression.Entry // what to add or to import
}

// Options says what to compare, and what to do about it.
type Options struct {
	Client esplist.Client
	// Ours calls each for every entry of Mailriver's list.
	Ours func(ctx context.Context, each func(suppression.Entry) error) error
	// Policy says which spellings are one address, which reasons count, and
	// which of a provider's entries apply to all mail.
	Policy suppression.Policy
	// Sources are those whose events are about this account of the provider.
	// What other sources say of their scopes is not added. Empty: any source of
	// the provider.
	Sources []string
	Now     time.Time
	Dir     string // for the temporary folder; empty: the system's

	// Apply adds to the provider's list what is missing there.
	Apply bool
	// Import is given what is missing here, at most ImportSize at once. What it
	// is given twice must count once. Nil: nothing is imported.
	Import func(ctx context.Context, entries []suppression.Entry) error

	// MaxRows is how many differences the report keeps; 0 is all. Each is told
	// of all of them, if it is set.
	MaxRows int
	Each    func(Difference) error
	// Progress is told of entries read, addresses compared and entries added or
	// refused.
	Progress func(stage Stage, n int)
}

// Stage is what a run is at.
type Stage string

// The stages, in order.
const (
	ReadingOurs   Stage = "reading ours"
	ReadingTheirs Stage = "reading theirs"
	Comparing     Stage = "comparing"
	Adding        Stage = "adding" // in turns with comparing
)

// ImportSize is how many entries Import is given at once, at most.
const ImportSize = 500

// chunk is how many differences are dealt with together, and addSize how many
// entries a client is given at once: a provider that takes one address a call
// should not be without news for long.
const (
	chunk   = 1000
	addSize = 250
)

// Report is what a run found and did.
type Report struct {
	Provider  string `json:"provider"`
	Ours      int64  `json:"ours"`      // entries read
	Theirs    int64  `json:"theirs"`    // entries read
	Addresses int64  `json:"addresses"` // on either list
	Agreed    int64  `json:"agreed"`    // scopes of addresses that both sides suppress

	MissingThere    int64 `json:"missing_there"`
	MissingHere     int64 `json:"missing_here"`
	DifferentReason int64 `json:"different_reason"`
	Added           int64 `json:"added"`
	Refused         int64 `json:"refused"`
	Imported        int64 `json:"imported"`
	Failed          int64 `json:"failed"`

	// LeftOut counts entries that were not compared or could not be brought
	// over, by the reason.
	LeftOut map[string]int64 `json:"left_out"`

	Rows []Difference `json:"rows"`
	Cut  bool         `json:"cut"` // there were more rows than MaxRows
}

// Columns are the names of what [Difference.Row] gives.
func Columns() []string {
	return []string{"kind", "address", "scope_kind", "scope_id", "ours", "theirs", "since", "outcome", "detail"}
}

// Row is the difference as a row of a table.
func (d Difference) Row() []any {
	return []any{
		string(d.Kind), d.Address, d.ScopeKind, d.ScopeID, string(d.Ours), string(d.Theirs), d.Since,
		string(d.Outcome), d.Detail,
	}
}

// Why an entry is left out, beside the errors of Express.
const (
	leftUnusable = "is no usable address"
	leftExpired  = "has expired"
	leftExpires  = "expires, and the list cannot"
	leftForeign  = "is about a scope of another provider or source"
	leftOff      = "has a reason that the policy switches off"
)

// Run compares the lists and does what the options ask for. After an error the
// report says how far it came.
func Run(ctx context.Context, o Options) (report Report, err error) {
	if o.Client == nil || o.Ours == nil || o.Now.IsZero() {
		return Report{}, errors.New("listsync: a dependency is missing")
	}
	report = Report{Provider: o.Client.Provider(), LeftOut: map[string]int64{}}
	s, err := openSorter(o.Dir)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, s.close()) }()

	r := run{o: o, report: &report, sorter: s}
	if err := r.read(ctx, ReadingOurs, ours, o.Ours, &report.Ours); err != nil {
		return report, fmt.Errorf("read ours: %w", err)
	}
	if err := r.read(ctx, ReadingTheirs, theirs, o.Client.List, &report.Theirs); err != nil {
		return report, fmt.Errorf("read theirs: %w", err)
	}
	err = s.addresses(func(here, there []suppression.Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		report.Addresses++
		r.progress(Comparing, 1)
		r.pending = append(r.pending, r.compare(here, there)...)
		if len(r.pending) < chunk {
			return nil
		}
		return r.settle(ctx)
	})
	if err == nil {
		err = r.settle(ctx)
	}
	return report, err
}

type run struct {
	o       Options
	report  *Report
	sorter  *sorter
	pending []Difference
}

func (r *run) progress(stage Stage, n int) {
	if r.o.Progress != nil {
		r.o.Progress(stage, n)
	}
}

func (r *run) read(ctx context.Context, stage Stage, of side,
	list func(context.Context, func(suppression.Entry) error) error, count *int64,
) error {
	err := list(ctx, func(e suppression.Entry) error {
		*count++
		r.progress(stage, 1)
		normal, ok := address.Normalize(e.Address)
		if !ok || len(normal.Full) > maxAddress {
			r.report.LeftOut[leftUnusable]++
			return nil
		}
		return r.sorter.put(r.o.Policy.Fold(normal.Full), of, e)
	})
	if err != nil {
		return err
	}
	return r.sorter.flush()
}

// place is what one side says of an address in one slot of the list.
type place struct {
	reasons  map[suppression.Reason]bool // also as the list would put them
	listed   suppression.Entry           // the strongest, in the terms of the list
	strength suppression.Reason          // of it, as this side has it
	push     *suppression.Entry          // the strongest of what can be added
}

func (p *place) take(listed suppression.Entry, as ...suppression.Reason) {
	if p.reasons == nil {
		p.reasons = map[suppression.Reason]bool{}
		p.listed, p.strength = listed, as[0]
	}
	for _, reason := range as {
		p.reasons[reason] = true
	}
	if as[0].Strength() > p.strength.Strength() {
		p.listed, p.strength = listed, as[0]
	}
}

func at(places map[string]*place, slot string) *place {
	if places[slot] == nil {
		places[slot] = &place{}
	}
	return places[slot]
}

// compare finds the differences of one address.
func (r *run) compare(ours, theirs []suppression.Entry) []Difference {
	here, there := map[string]*place{}, map[string]*place{}
	for _, e := range ours {
		r.placeOurs(here, e)
	}
	for _, e := range theirs {
		at(there, esplist.Slot(e)).take(e, e.Reason)
	}

	var found []Difference
	for _, slot := range slices.Sorted(maps.Keys(here)) {
		h, t := here[slot], there[slot]
		switch {
		case t != nil && !common(h.reasons, t.reasons):
			found = append(found, difference(DifferentReason, h.listed, h.strength, t.strength))
		case t != nil || there[""] != nil:
			r.report.Agreed++
		case h.push != nil:
			// What goes to the provider is the entry as it is; the row says where
			// it goes.
			listed, _ := r.o.Client.Express(*h.push) // placeOurs has seen that it can be
			d := difference(MissingThere, listed, h.push.Reason, "")
			d.entry = *h.push
			found = append(found, d)
		}
	}
	for _, slot := range slices.Sorted(maps.Keys(there)) {
		if here[slot] != nil || here[""] != nil {
			continue
		}
		t := there[slot]
		rule := r.o.Policy.Rule(t.strength)
		if !rule.Suppress {
			r.report.LeftOut[leftOff]++
			continue
		}
		e := t.listed
		if rule.Scope == suppression.ScopeWide {
			// The provider limits to a domain or a stream what is true of the
			// mailbox itself.
			e.ScopeKind, e.ScopeID = event.ScopeAddress, ""
		}
		if len(r.o.Sources) == 1 {
			e.Source = r.o.Sources[0]
		}
		d := difference(MissingHere, e, "", t.strength)
		d.entry = e
		found = append(found, d)
	}
	return found
}

func difference(kind Kind, e suppression.Entry, ours, theirs suppression.Reason) Difference {
	return Difference{
		Kind: kind, Address: e.Address, ScopeKind: e.ScopeKind, ScopeID: e.ScopeID,
		Ours: ours, Theirs: theirs, Since: e.Since,
	}
}

// placeOurs finds where an entry would stand on the list, and whether it can be
// put there.
func (r *run) placeOurs(here map[string]*place, e suppression.Entry) {
	if !e.ExpiresAt.IsZero() && !r.o.Now.Before(e.ExpiresAt) {
		r.report.LeftOut[leftExpired]++
		return
	}
	listed, err := r.o.Client.Express(e)
	if err != nil {
		r.report.LeftOut[err.Error()]++
		if slot := esplist.Slot(e); slot != "" {
			at(here, slot).take(e, e.Reason) // what cannot be added can be there all the same
		}
		return
	}
	p := at(here, esplist.Slot(listed))
	p.take(listed, e.Reason, listed.Reason)
	switch {
	case !e.ExpiresAt.IsZero():
		r.report.LeftOut[leftExpires]++ // it would stay there for ever
	case !r.meant(e):
		r.report.LeftOut[leftForeign]++
	case p.push == nil || e.Reason.Strength() > p.push.Reason.Strength():
		p.push = &e
	}
}

// meant reports whether the scope of an entry is one of this account. An entry
// for the address itself always is, and so is one made by hand.
func (r *run) meant(e suppression.Entry) bool {
	switch {
	case e.ScopeKind == event.ScopeAddress, e.Provider == event.ProviderMailriver, e.Provider == "":
		return true
	case e.Provider != r.o.Client.Provider():
		return false
	}
	return len(r.o.Sources) == 0 || slices.Contains(r.o.Sources, e.Source)
}

// common reports whether two sides share a reason. One that is not said may be
// any.
func common(a, b map[suppression.Reason]bool) bool {
	if a[suppression.ProviderList] || b[suppression.ProviderList] {
		return true
	}
	for reason := range a {
		if b[reason] {
			return true
		}
	}
	return false
}

// settle does what is to be done about the pending differences, and reports
// them, also when doing so fails.
func (r *run) settle(ctx context.Context) error {
	err := r.add(ctx)
	if err == nil {
		err = r.importAll(ctx)
	}
	for _, d := range r.pending {
		r.count(d)
		if r.o.MaxRows > 0 && len(r.report.Rows) >= r.o.MaxRows {
			r.report.Cut = true
		} else {
			r.report.Rows = append(r.report.Rows, d)
		}
		if r.o.Each != nil && err == nil {
			err = r.o.Each(d)
		}
	}
	r.pending = r.pending[:0]
	return err
}

func (r *run) count(d Difference) {
	switch d.Kind {
	case MissingThere:
		r.report.MissingThere++
	case MissingHere:
		r.report.MissingHere++
	case DifferentReason:
		r.report.DifferentReason++
	}
	switch d.Outcome {
	case Added:
		r.report.Added++
	case Refused:
		r.report.Refused++
	case Imported:
		r.report.Imported++
	case Failed:
		r.report.Failed++
	}
}

// of lists the pending differences of a kind, as yet undone.
func (r *run) of(kind Kind) (list []*Difference) {
	for i := range r.pending {
		if d := &r.pending[i]; d.Kind == kind {
			d.Outcome = Failed // until it is known better
			list = append(list, d)
		}
	}
	return list
}

func (r *run) add(ctx context.Context) error {
	if !r.o.Apply {
		return nil
	}
	list := r.of(MissingThere)
	// Neighbours of one list and reason go in one call.
	slices.SortStableFunc(list, func(a, b *Difference) int {
		return cmp.Or(cmp.Compare(a.ScopeKind, b.ScopeKind), cmp.Compare(a.ScopeID, b.ScopeID), cmp.Compare(a.Ours, b.Ours))
	})
	for part := range slices.Chunk(list, addSize) {
		entries := make([]suppression.Entry, len(part))
		for i, d := range part {
			entries[i] = d.entry
		}
		results, err := r.o.Client.Add(ctx, entries)
		if len(results) > len(part) || err == nil && len(results) != len(part) {
			return errors.Join(err, fmt.Errorf("add: %d results for %d entries", len(results), len(part)))
		}
		for i, result := range results {
			part[i].Outcome = Added
			if result.Refused != "" {
				part[i].Outcome, part[i].Detail = Refused, result.Refused
			}
		}
		r.progress(Adding, len(results))
		if err != nil {
			return fmt.Errorf("add: %w", err)
		}
	}
	return nil
}

func (r *run) importAll(ctx context.Context) error {
	if r.o.Import == nil {
		return nil
	}
	for part := range slices.Chunk(r.of(MissingHere), ImportSize) {
		entries := make([]suppression.Entry, len(part))
		for i, d := range part {
			entries[i] = d.entry
		}
		if err := r.o.Import(ctx, entries); err != nil {
			return fmt.Errorf("import: %w", err)
		}
		for _, d := range part {
			d.Outcome = Imported
		}
	}
	return nil
}
