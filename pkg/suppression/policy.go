package suppression

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/config"
)

// What may lift the entries of a reason, beside a person and expiry, which
// always may.
const (
	ByResubscribe = "resubscribed" // the recipient opted in again, in the same scope
	ByProvider    = "provider"     // the provider took the address off its list, for the same reason
	ByDelivery    = "delivered"    // a later message arrived
)

// Where an entry applies.
const (
	ScopeWide  = "address" // all mail to the address
	ScopeGiven = "given"   // the scope that the event names; account, when it names none
)

// Rule is the policy of one reason.
type Rule struct {
	// Suppress switches the reason on. Facts of one that is off are not kept.
	Suppress bool `yaml:"suppress"`
	// Messages is how many distinct messages it takes, at most 32. A person or
	// a provider that puts an address on a list needs none.
	Messages int `yaml:"messages"`
	// Within is the time in which they must fall; 0 is any.
	Within time.Duration `yaml:"within"`
	// Spread is the least time between the first and the last of them.
	Spread time.Duration `yaml:"spread"`
	// Scope is where the entry applies: address, or given.
	Scope string `yaml:"scope"`
	// Strength orders the reasons of an address: the highest is shown first.
	Strength int `yaml:"strength"`
	// Expires ends an entry this long after its last fact; 0 is never.
	Expires time.Duration `yaml:"expires"`
	// LiftedBy lists what lifts an entry beside a person: resubscribed (of
	// unsubscribe only), provider (not of manual and soft_bounce), delivered (of
	// hard_bounce, invalid_address and soft_bounce, with the scope address).
	LiftedBy []string `yaml:"lifted_by"`
}

// Policy says what each reason needs, where it applies, and what ends it.
type Policy struct {
	Complaint      Rule `yaml:"complaint"`
	Manual         Rule `yaml:"manual"`
	Unsubscribe    Rule `yaml:"unsubscribe"`
	HardBounce     Rule `yaml:"hard_bounce"`
	InvalidAddress Rule `yaml:"invalid_address"`
	ProviderList   Rule `yaml:"provider_list"`
	// SoftBounce is off. While it is on, the newest delivery of every recipient
	// is kept as well.
	SoftBounce Rule `yaml:"soft_bounce"`
	// ExactLocalParts keeps Jane@example.com and jane@example.com apart.
	ExactLocalParts bool `yaml:"exact_local_parts"`
}

// DefaultPolicy suppresses for everything that says the recipient cannot or
// will not be mailed, and for nothing that is the sender's own fault.
func DefaultPolicy() Policy {
	const day = 24 * time.Hour
	return Policy{
		Complaint:      Rule{Suppress: true, Messages: 1, Scope: ScopeWide, Strength: 70},
		Manual:         Rule{Suppress: true, Messages: 1, Scope: ScopeGiven, Strength: 60},
		Unsubscribe:    Rule{Suppress: true, Messages: 1, Scope: ScopeGiven, Strength: 50, LiftedBy: lifters(Unsubscribe)},
		HardBounce:     Rule{Suppress: true, Messages: 1, Scope: ScopeWide, Strength: 40, LiftedBy: []string{ByProvider}},
		InvalidAddress: Rule{Suppress: true, Messages: 1, Scope: ScopeWide, Strength: 30, LiftedBy: []string{ByProvider}},
		ProviderList:   Rule{Suppress: true, Messages: 1, Scope: ScopeGiven, Strength: 20, LiftedBy: []string{ByProvider}},
		SoftBounce: Rule{
			Messages: 5, Within: 30 * day, Spread: 3 * day, Scope: ScopeWide, Strength: 10, Expires: 30 * day,
			LiftedBy: []string{ByDelivery},
		},
	}
}

// Rule returns the rule of a reason; that of an unknown one is off.
func (p *Policy) Rule(r Reason) Rule {
	switch r {
	case Complaint:
		return p.Complaint
	case Manual:
		return p.Manual
	case Unsubscribe:
		return p.Unsubscribe
	case HardBounce:
		return p.HardBounce
	case InvalidAddress:
		return p.InvalidAddress
	case ProviderList:
		return p.ProviderList
	case SoftBounce:
		return p.SoftBounce
	}
	return Rule{}
}

// watchesDeliveries reports whether a delivery can change anything.
func (p *Policy) watchesDeliveries() bool {
	for _, r := range Reasons() {
		if rule := p.Rule(r); rule.Suppress && rule.liftedBy(ByDelivery) {
			return true
		}
	}
	return false
}

// Fingerprint tells policies apart: two that give the same entries have the
// same. It is kept with the entries, so that a reader knows whether they are
// those of its own policy.
func (p *Policy) Fingerprint() string {
	reasons := slices.DeleteFunc(Reasons(), func(r Reason) bool { return !p.Rule(r).Suppress })
	slices.SortFunc(reasons, p.compareStrength)
	h := fnv.New64a()
	// The number is that of the rules of Evaluate. Writing to h never fails.
	_, _ = fmt.Fprintf(h, "1 exact=%t\n", p.ExactLocalParts)
	for _, reason := range reasons {
		r := p.Rule(reason)
		if r.Messages <= 1 {
			r.Messages, r.Within, r.Spread = 1, 0, 0 // one message needs no window
		}
		by := slices.Compact(slices.Sorted(slices.Values(r.LiftedBy)))
		_, _ = fmt.Fprintf(h, "%s %d %d %d %s %d %s\n", reason, r.Messages, r.Within, r.Spread, r.Scope, r.Expires, by)
	}
	return strconv.FormatUint(h.Sum64(), 36)
}

// compareStrength puts the stronger reason first.
func (p *Policy) compareStrength(a, b Reason) int {
	return cmp.Or(cmp.Compare(p.Rule(b).Strength, p.Rule(a).Strength), cmp.Compare(b.Strength(), a.Strength()))
}

func (r Rule) liftedBy(what string) bool { return slices.Contains(r.LiftedBy, what) }

// Validate reports everything that is wrong.
func (p *Policy) Validate() error {
	var problems config.Problems
	for _, reason := range Reasons() {
		problems.Add(config.Prefix(string(reason)+".", p.Rule(reason).validate(reason)))
	}
	return problems.Err()
}

func (r Rule) validate(reason Reason) error {
	var problems config.Problems
	problems.Must(r.Messages >= 1 && r.Messages <= KeptFacts, "messages: is %d, must be 1 to %d", r.Messages, KeptFacts)
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"within", r.Within}, {"spread", r.Spread}, {"expires", r.Expires}} {
		problems.Must(d.value >= 0, "%s: is %s, must not be negative", d.key, d.value)
	}
	problems.Must(r.Within == 0 || r.Spread <= r.Within, "spread: is %s, must not exceed within (%s)", r.Spread, r.Within)
	problems.Must(r.Spread == 0 || r.Messages > 1, "spread: needs messages of at least 2")
	problems.Must(r.Scope == ScopeWide || r.Scope == ScopeGiven,
		"scope: is %q, must be %s or %s", r.Scope, ScopeWide, ScopeGiven)
	problems.Must(r.Strength > 0, "strength: is %d, must be positive", r.Strength)
	known := lifters(reason)
	for _, what := range r.LiftedBy {
		problems.Must(slices.Contains(known, what), "lifted_by: has %q, must be of [%s]", what, strings.Join(known, ", "))
	}
	// Deliveries are known of the address, not of a stream or a list.
	problems.Must(!r.liftedBy(ByDelivery) || r.Scope == ScopeWide, "lifted_by: delivered needs the scope %s", ScopeWide)
	return problems.Err()
}

// lifters lists what may lift a reason: an opt-out ends with an opt-in and never
// with a delivery, and only what a provider keeps a list of can it take off.
func lifters(reason Reason) []string {
	switch reason {
	case Complaint, ProviderList:
		return []string{ByProvider}
	case Unsubscribe:
		return []string{ByResubscribe, ByProvider}
	case HardBounce, InvalidAddress:
		return []string{ByProvider, ByDelivery}
	case SoftBounce:
		return []string{ByDelivery}
	}
	return nil
}
