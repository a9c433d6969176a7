package suppression_test

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// softOn is the default policy with the counter of soft bounces switched on: 5
// messages within 30 days, the first and the last 3 days apart, for 30 days.
func softOn() suppression.Policy {
	p := suppression.DefaultPolicy()
	p.SoftBounce.Suppress = true
	return p
}

// softs are soft bounces of a message each, so many days after the start.
func softs(days ...int) []event.Event {
	var log []event.Event
	for i, d := range days {
		log = append(log, soft(time.Duration(d)*day, message(fmt.Sprint(i))))
	}
	return log
}

func TestEvaluate_threshold(t *testing.T) {
	p := softOn()
	delivered := func(after time.Duration) event.Event { return at(after, event.Delivered) }
	same := func(log []event.Event) []event.Event {
		for i := range log {
			log[i].ProviderMessageID = "1"
		}
		return log
	}
	check(t, &p, []row{
		{"one too few", softs(0, 1, 2, 4), ""},
		{"5 messages in 4 days", softs(0, 1, 2, 3, 4), "soft_bounce@address+4d..34d"},
		{"spread met exactly", softs(0, 0, 0, 0, 3), "soft_bounce@address+3d..33d"},
		{"spread too small", softs(0, 1, 2, 2, 2), ""},
		{"window met exactly", softs(0, 1, 2, 3, 30), "soft_bounce@address+30d..60d"},
		{"one fell out of the window", softs(0, 10, 20, 30, 31), ""},
		{"the window slides", softs(0, 10, 20, 30, 31, 33), "soft_bounce@address+33d..63d"},
		{"one message, again and again", same(softs(0, 1, 2, 3, 4, 5, 6)), ""},
		{"another one prolongs it, with too few in the window", softs(0, 1, 2, 3, 4, 33), "soft_bounce@address+4d..63d"},
		{"after expiry it takes as much again", softs(0, 1, 2, 3, 4, 40), "soft_bounce@address+4d..34d"},
		{"after expiry, met again", softs(0, 1, 2, 3, 4, 40, 41, 42, 43, 44), "soft_bounce@address+44d..74d"},
		{"at its very end it is over", softs(0, 1, 2, 3, 4, 34), "soft_bounce@address+4d..34d"},
		{"a delivery between takes the earlier ones back", append(softs(0, 1, 2, 3, 4), delivered(2*day+time.Hour)), ""},
		{
			"a delivery before changes nothing", append(softs(0, 1, 2, 3, 4), delivered(-time.Hour)),
			"soft_bounce@address+4d..34d",
		},
		{"a delivery afterwards ends it", append(softs(0, 1, 2, 3, 4), delivered(5*day)), ""},
		{"the newest delivery counts", append(
			softs(0, 1, 2, 3, 4), delivered(-day), delivered(3*day+1), delivered(day),
		), ""},
		{"deferred never counts", slices.Concat(softs(0, 1, 2, 3), []event.Event{
			at(4*day, event.Deferred, bounced(event.KindSoft, event.CauseMailboxFull)),
		}), ""},
		{"blocks count", func() []event.Event {
			log := softs(0, 1, 2, 3, 4)
			for i := range log {
				log[i].BounceKind = event.KindBlock
			}
			return log
		}(), "soft_bounce@address+4d..34d"},
		{"messages without an id are one each", func() []event.Event {
			log := softs(0, 1, 2, 3, 4)
			for i := range log {
				log[i].ProviderMessageID = ""
			}
			return log
		}(), "soft_bounce@address+4d..34d"},
		{"of several sources they count together", func() []event.Event {
			log := softs(0, 1, 2, 3, 4)
			log[1].Source, log[2].Provider = "ses-us", "mailgun"
			return log
		}(), "soft_bounce@address+4d..34d"},
		{"a person needs no threshold", []event.Event{
			byHand(0, event.SuppressionAdd, "soft_bounce"),
		}, "soft_bounce@address..30d"},
		{"a provider's removal is about its own list", append(softs(0, 1, 2, 3, 4),
			at(5*day, event.SuppressionChanged, listed(event.SuppressionRemove, event.RejectPreviouslyBounced)),
		), "soft_bounce@address+4d..34d"},
	})

	p.SoftBounce.Within = 0
	check(t, &p, []row{{"without a window", softs(0, 100, 200, 300, 400), "soft_bounce@address+400d..430d"}})
	p.SoftBounce.Expires = 0
	check(t, &p, []row{{"without expiry", softs(0, 100, 200, 300, 400, 500), "soft_bounce@address+400d"}})
}

// A threshold counts bounces. That an address is on a list is no bounce: it needs
// none, and it does not count as one. Without Fact.certain a provider's list
// entry would be half of what it takes, and so would a person's.
func TestEvaluate_thresholdAndLists(t *testing.T) {
	p := suppression.DefaultPolicy()
	p.HardBounce.Messages = 2
	p.HardBounce.Scope = suppression.ScopeGiven
	account := scope(event.ScopeAccount, "")
	added := at(time.Second, event.SuppressionChanged, account,
		listed(event.SuppressionAdd, event.RejectPreviouslyBounced))
	refused := at(time.Hour, event.Rejected, rejected(event.RejectPreviouslyBounced), account)
	check(t, &p, []row{
		{"one bounce", []event.Event{hard(0, account)}, ""},
		{"one message, two bounces", []event.Event{
			hard(0, account, message("1")), hard(time.Hour, account, message("1")),
		}, ""},
		{"two messages", []event.Event{hard(0, account), hard(time.Hour, account)}, "hard_bounce@account+1h0m0s"},
		{"the provider has it on its list", []event.Event{added}, "hard_bounce@account+1s"},
		{"the provider refuses because of its list", []event.Event{refused}, "hard_bounce@account+1h0m0s"},
		{"a person says so", []event.Event{
			byHand(0, event.SuppressionAdd, "hard_bounce", account),
		}, "hard_bounce@account"},
		{"an entry that expired does not help the next bounce over the threshold", []event.Event{
			func() event.Event { e := added; e.SuppressionExpiresAt = start.Add(day); return e }(), hard(2*day, account),
		}, "hard_bounce@account+1s..1d"},
	})
}

func TestEvaluate_expiry(t *testing.T) {
	p := suppression.DefaultPolicy()
	add := func(after, until time.Duration) event.Event {
		return byHand(after, event.SuppressionAdd, "manual", expires(until))
	}
	forever := byHand(time.Hour, event.SuppressionAdd, "manual")
	check(t, &p, []row{
		{"one", []event.Event{add(0, day)}, "manual@address..1d"},
		{"a later one prolongs", []event.Event{add(0, 2*day), add(day, 3*day)}, "manual@address..3d"},
		{"a later one does not shorten", []event.Event{add(0, 3*day), add(day, 2*day)}, "manual@address..3d"},
		{"one without expiry makes it last", []event.Event{add(0, day), forever}, "manual@address"},
		{"one without expiry stays", []event.Event{forever, add(day, 2*day)}, "manual@address+1h0m0s"},
		{"to shorten it, lift it first", []event.Event{
			forever, byHand(2*time.Hour, event.SuppressionRemove, ""), add(3*time.Hour, day),
		}, "manual@address+3h0m0s..1d"},
		{"a chain", []event.Event{add(0, 2*day), add(day, 3*day), add(2*day, 4*day)}, "manual@address..4d"},
		{"a gap starts anew", []event.Event{add(0, day), add(2*day, 3*day)}, "manual@address+2d..3d"},
		{"no gap between the end and the next", []event.Event{add(0, day), add(day, 2*day)}, "manual@address+1d..2d"},
		{"a link of the chain lifted", []event.Event{
			add(0, 5*day), byHand(day, event.SuppressionRemove, ""), add(2*day, 3*day),
		}, "manual@address+2d..3d"},
		{"past before it began", []event.Event{add(2*day, day)}, "manual@address+2d..1d"},
	})
	p.HardBounce.Expires = 10 * day
	check(t, &p, []row{
		{"by the policy", []event.Event{hard(0)}, "hard_bounce@address..10d"},
		{"after the last fact", []event.Event{hard(0), hard(9 * day)}, "hard_bounce@address..19d"},
		{"expired between", []event.Event{hard(0), hard(10 * day)}, "hard_bounce@address+10d..20d"},
		{"the event says when", []event.Event{
			byHand(0, event.SuppressionAdd, "hard_bounce", expires(2*day)),
		}, "hard_bounce@address..2d"},
	})
}

func TestActive(t *testing.T) {
	entries := []suppression.Entry{
		{Reason: suppression.Complaint},
		{Reason: suppression.Manual, ExpiresAt: start},
		{Reason: suppression.HardBounce, ExpiresAt: start.Add(time.Microsecond)},
	}
	for _, tt := range []struct {
		now  time.Time
		want int
	}{{start.Add(-time.Hour), 3}, {start, 2}, {start.Add(time.Microsecond), 1}} {
		if got := suppression.Active(entries, tt.now); len(got) != tt.want {
			t.Errorf("Active(entries, %s) = %v, want %d of them", tt.now, got, tt.want)
		}
	}
}

func TestPolicy_knobs(t *testing.T) {
	stream := scope(event.ScopeStream, "news")
	complained, unsubscribed := at(0, event.Complained, stream), at(0, event.Unsubscribed, stream)
	resubscribed := at(time.Minute, event.Resubscribed, stream)
	removed := at(time.Minute, event.SuppressionChanged, stream,
		listed(event.SuppressionRemove, event.RejectPreviouslyUnsubscribed))
	for _, tt := range []struct {
		set func(*suppression.Policy)
		row
	}{
		{func(p *suppression.Policy) {
			p.Complaint.Scope = suppression.ScopeGiven
		}, row{"scope given", []event.Event{complained}, "complaint@stream:news"}},
		{func(p *suppression.Policy) {
			p.Complaint.Scope = suppression.ScopeGiven
		}, row{"scope given, none said", []event.Event{at(0, event.Complained)}, "complaint@account"}},
		{func(p *suppression.Policy) {
			p.Unsubscribe.Scope = suppression.ScopeWide
		}, row{"scope address", []event.Event{unsubscribed}, "unsubscribe@address"}},
		{func(p *suppression.Policy) {
			p.Complaint.Suppress = false
		}, row{"off", []event.Event{complained, unsubscribed}, "unsubscribe@stream:news"}},
		{func(p *suppression.Policy) {
			p.Manual.Suppress = false
		}, row{"off, by hand", []event.Event{byHand(0, event.SuppressionAdd, "manual")}, ""}},
		{func(p *suppression.Policy) { p.Unsubscribe.LiftedBy = nil }, row{"lifted by nobody but a person", []event.Event{
			unsubscribed, resubscribed, removed,
			at(time.Minute, event.Resubscribed, stream, from(event.ProviderMailriver, "mailriver")),
		}, "unsubscribe@stream:news"}},
		{func(p *suppression.Policy) { p.Unsubscribe.LiftedBy = nil }, row{"lifted by a person", []event.Event{
			unsubscribed, byHand(time.Minute, event.SuppressionRemove, "unsubscribe", stream),
		}, ""}},
		{func(p *suppression.Policy) { p.Unsubscribe.LiftedBy = []string{suppression.ByProvider} }, row{
			"not by opting in", []event.Event{unsubscribed, resubscribed}, "unsubscribe@stream:news",
		}},
		{func(p *suppression.Policy) { p.Unsubscribe.LiftedBy = []string{suppression.ByResubscribe} }, row{
			"not by the provider", []event.Event{unsubscribed, removed}, "unsubscribe@stream:news",
		}},
		{func(p *suppression.Policy) { p.Complaint.Messages, p.Complaint.Within = 2, day }, row{
			"two complaints", []event.Event{complained, at(day, event.Complained)}, "complaint@address+1d",
		}},
		{func(p *suppression.Policy) { p.Complaint.Messages, p.Complaint.Within = 2, day }, row{
			"two complaints, too far apart", []event.Event{complained, at(day+1000, event.Complained)}, "",
		}},
	} {
		p := suppression.DefaultPolicy()
		tt.set(&p)
		check(t, &p, []row{tt.row})
	}
}

// Facts that were kept while a reason was on count no more when it is off.
func TestEvaluate_offLater(t *testing.T) {
	p := suppression.DefaultPolicy()
	states := fold(&p, []event.Event{at(0, event.Complained)})
	p.Complaint.Suppress = false
	for _, s := range states {
		v := suppression.Evaluate(s, &p)
		if len(v.Entries) != 0 || len(v.Judgements) != 1 || v.Judgements[0].Counts {
			t.Errorf("Evaluate() = %+v, want no entry, one judgement against it", v)
		}
	}
}

func TestPolicy_Fold(t *testing.T) {
	p := suppression.DefaultPolicy()
	if got, want := p.Fold("Jane@example.com"), "jane@example.com"; got != want {
		t.Errorf("Fold() = %q, want %q", got, want)
	}
	p.ExactLocalParts = true
	if got, want := p.Fold("Jane@example.com"), "Jane@example.com"; got != want {
		t.Errorf("Fold() with exact_local_parts = %q, want %q", got, want)
	}
}

func TestPolicy_Validate(t *testing.T) {
	p := suppression.DefaultPolicy()
	if err := p.Validate(); err != nil {
		t.Fatalf("Validate() of the default = %v, want none", err)
	}
	for _, tt := range []struct {
		want string
		set  func(*suppression.Policy)
	}{
		{"complaint.messages: is 0", func(p *suppression.Policy) { p.Complaint.Messages = 0 }},
		{"soft_bounce.messages: is 33", func(p *suppression.Policy) { p.SoftBounce.Messages = 33 }},
		{"soft_bounce.within: is -1ns", func(p *suppression.Policy) { p.SoftBounce.Within = -1 }},
		{"soft_bounce.spread: is -1ns", func(p *suppression.Policy) { p.SoftBounce.Spread = -1 }},
		{"soft_bounce.expires: is -1ns", func(p *suppression.Policy) { p.SoftBounce.Expires = -1 }},
		{"must not exceed within", func(p *suppression.Policy) { p.SoftBounce.Spread = p.SoftBounce.Within + 1 }},
		{"hard_bounce.spread: needs messages", func(p *suppression.Policy) { p.HardBounce.Spread = 1 }},
		{`manual.scope: is "wide"`, func(p *suppression.Policy) { p.Manual.Scope = "wide" }},
		{"provider_list.strength: is 0", func(p *suppression.Policy) { p.ProviderList.Strength = 0 }},
		{`hard_bounce.lifted_by: has "opened"`, func(p *suppression.Policy) {
			p.HardBounce.LiftedBy = []string{"opened"}
		}},
		// These would lift what they say nothing about, or nothing at all.
		{`complaint.lifted_by: has "delivered"`, func(p *suppression.Policy) {
			p.Complaint.LiftedBy = []string{suppression.ByDelivery}
		}},
		{`unsubscribe.lifted_by: has "delivered"`, func(p *suppression.Policy) {
			p.Unsubscribe.LiftedBy = []string{suppression.ByDelivery}
		}},
		{`complaint.lifted_by: has "resubscribed"`, func(p *suppression.Policy) {
			p.Complaint.LiftedBy = []string{suppression.ByResubscribe}
		}},
		{`manual.lifted_by: has "provider"`, func(p *suppression.Policy) {
			p.Manual.LiftedBy = []string{suppression.ByProvider}
		}},
		{`soft_bounce.lifted_by: has "provider"`, func(p *suppression.Policy) {
			p.SoftBounce.LiftedBy = []string{suppression.ByProvider}
		}},
		{"hard_bounce.lifted_by: delivered needs", func(p *suppression.Policy) {
			p.HardBounce.LiftedBy, p.HardBounce.Scope = []string{suppression.ByDelivery}, suppression.ScopeGiven
		}},
	} {
		p := suppression.DefaultPolicy()
		tt.set(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Validate() = %v, want %q", err, tt.want)
		}
	}
}

// The page for operators shows the policy of this build, and every key of it.
func TestDefaultPolicy_isDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/suppression-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "```yaml\n")
	block, _, ok := strings.Cut(block, "```\n")
	if !ok {
		t.Fatal("the page shows no configuration")
	}
	var cfg struct {
		Suppression struct {
			Policy suppression.Policy `yaml:"policy"`
		} `yaml:"suppression"`
	}
	if err := config.Parse(&cfg, "docs/suppression-policy.md", []byte(block), nil); err != nil {
		t.Fatal(err)
	}
	got, want := cfg.Suppression.Policy, suppression.DefaultPolicy()
	for _, p := range []*suppression.Policy{&got, &want} { // a list that is empty is as good as none
		for _, r := range []*suppression.Rule{&p.Complaint, &p.Manual} {
			r.LiftedBy = append([]string{}, r.LiftedBy...)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the page shows the policy\n%+v, want\n%+v", got, want)
	}
}

// A fingerprint changes with whatever can change an entry or where it is found,
// and with nothing else: a change makes every reader evaluate the facts itself.
func TestPolicy_Fingerprint(t *testing.T) {
	base := softOn()
	for _, tt := range []struct {
		name string
		same bool
		set  func(*suppression.Policy)
	}{
		{"off", false, func(p *suppression.Policy) { p.Manual.Suppress = false }},
		{"messages", false, func(p *suppression.Policy) { p.SoftBounce.Messages++ }},
		{"within", false, func(p *suppression.Policy) { p.SoftBounce.Within++ }},
		{"spread", false, func(p *suppression.Policy) { p.SoftBounce.Spread++ }},
		{"scope", false, func(p *suppression.Policy) { p.Unsubscribe.Scope = suppression.ScopeWide }},
		{"expires", false, func(p *suppression.Policy) { p.HardBounce.Expires = day }},
		{"lifted_by", false, func(p *suppression.Policy) { p.HardBounce.LiftedBy = nil }},
		{"another order of strength", false, func(p *suppression.Policy) { p.HardBounce.Strength = 100 }},
		{"exact_local_parts", false, func(p *suppression.Policy) { p.ExactLocalParts = true }},
		{"strengths in the same order", true, func(p *suppression.Policy) { p.Complaint.Strength = 99 }},
		{"equal strengths in the usual order", true, func(p *suppression.Policy) {
			p.Manual.Strength = p.Complaint.Strength
		}},
		{"a window for one message", true, func(p *suppression.Policy) { p.Manual.Within = day }},
		{"another order of lifted_by", true, func(p *suppression.Policy) {
			p.Unsubscribe.LiftedBy = []string{suppression.ByProvider, suppression.ByResubscribe, suppression.ByProvider}
		}},
	} {
		p := base
		tt.set(&p)
		if same := p.Fingerprint() == base.Fingerprint(); same != tt.same {
			t.Errorf("%s: Fingerprint() is the same: %t, want %t", tt.name, same, tt.same)
		}
	}
	a, b := suppression.DefaultPolicy(), suppression.DefaultPolicy()
	b.SoftBounce.Messages, b.SoftBounce.Strength = 7, 99
	if a.Fingerprint() != b.Fingerprint() {
		t.Error("Fingerprint() depends on a rule that is off")
	}
	if got, want := a.Fingerprint(), suppression.DefaultPolicy(); got != want.Fingerprint() {
		t.Error("Fingerprint() differs between two calls")
	}
}
