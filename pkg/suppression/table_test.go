package suppression_test

import (
	"slices"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// What suppresses, by the default policy. Without its row in Classify an event
// of the kind would be missing on the list, or on it by mistake.
func TestDefaultPolicy_suppresses(t *testing.T) {
	p := suppression.DefaultPolicy()
	yes, no := true, false
	says := func(suppressed *bool) func(*event.Event) {
		return func(e *event.Event) { e.ProviderSuppressed = suppressed }
	}
	class := func(text string) func(*event.Event) { return func(e *event.Event) { e.ProviderBounceClass = text } }
	ambiguous := func(e *event.Event) { e.RecipientAmbiguous = true }
	complaint := func(kind string) func(*event.Event) { return func(e *event.Event) { e.ComplaintType = kind } }

	var rows []row
	add := func(quote, want string, log ...event.Event) { rows = append(rows, row{quote, log, want}) }

	const q1 = "bounced hard, cause unknown_recipient, mailbox_disabled, unknown_domain, invalid_address: " +
		"yes, address-wide"
	for _, cause := range []string{
		event.CauseUnknownRecipient, event.CauseMailboxDisabled, event.CauseUnknownDomain, event.CauseInvalidAddress,
	} {
		add(q1+": "+cause, "hard_bounce@address", at(0, event.Bounced, bounced(event.KindHard, cause)))
	}
	add(q1+": provider may limit to domain, stream: apply wide", "hard_bounce@address",
		hard(0, scope(event.ScopeStream, "news")))

	const q2 = "bounced hard, other cause: yes if provider_suppressed or the provider names it hard"
	for _, cause := range []string{
		"", event.CauseOther, event.CauseReputation, event.CausePolicy, event.CauseMailboxFull,
	} {
		other := bounced(event.KindHard, cause)
		add(q2+": neither, "+cause, "", at(0, event.Bounced, other))
		add(q2+": not suppressed, "+cause, "", at(0, event.Bounced, other, says(&no)))
		add(q2+": suppressed, "+cause, "hard_bounce@address", at(0, event.Bounced, other, says(&yes)))
		add(q2+": named, "+cause, "hard_bounce@address", at(0, event.Bounced, other, class("ses:Permanent/General")))
	}

	const q3 = "bounced soft / block / undetermined; deferred: no"
	for _, kind := range []string{event.KindSoft, event.KindBlock, event.KindUndetermined, ""} {
		var many []event.Event
		for i := range 40 {
			many = append(many, at(time.Duration(i)*day, event.Bounced, bounced(kind, event.CauseMailboxFull), says(&yes)))
		}
		add(q3+": "+kind, "", many...)
	}
	add(q3+": deferred", "", at(0, event.Deferred, bounced(event.KindHard, event.CauseUnknownRecipient)))

	const q4 = "bounced, recipient_ambiguous: no"
	add(q4, "", hard(0, ambiguous))
	const q5 = "complained: yes, address-wide; not for complaint_type not-spam; not when ambiguous"
	add(q5, "complaint@address", at(0, event.Complained))
	add(q5+": of a stream", "complaint@address", at(0, event.Complained, scope(event.ScopeStream, "news")))
	add(q5+": abuse", "complaint@address", at(0, event.Complained, complaint("abuse")))
	add(q5+": not-spam", "", at(0, event.Complained, complaint("not-spam")))
	add(q5+": Not-Spam, for feedback types have no case (RFC 5965)", "",
		at(0, event.Complained, complaint("Not-Spam")))
	add(q5+": ambiguous", "", at(0, event.Complained, ambiguous))

	const q6 = "unsubscribed: yes, exactly scope_kind/scope_id; unknown scope: account"
	for _, kind := range []string{
		event.ScopeSubaccount, event.ScopeDomain, event.ScopeStream, event.ScopeList,
		event.ScopeGroup, event.ScopeTopic, event.ScopeTag,
	} {
		add(q6+": "+kind, "unsubscribe@"+kind+":7", at(0, event.Unsubscribed, scope(kind, "7")))
		add(q6+": unnamed "+kind, "unsubscribe@account", at(0, event.Unsubscribed, scope(kind, "")))
	}
	add(q6+": account", "unsubscribe@account:a7", at(0, event.Unsubscribed, scope(event.ScopeAccount, "a7")))
	add(q6+": address", "unsubscribe@address",
		at(0, event.Unsubscribed, scope(event.ScopeAddress, "jane@example.com")))
	add(q6+": unknown", "unsubscribe@account", at(0, event.Unsubscribed))

	const q7 = "suppression_changed add: yes, as given, same reason, expiry honoured"
	stream := scope(event.ScopeStream, "news")
	for reject, reason := range map[string]string{
		event.RejectPreviouslyBounced: "hard_bounce", event.RejectPreviouslyComplained: "complaint",
		event.RejectPreviouslyUnsubscribed: "unsubscribe", event.RejectInvalidAddress: "invalid_address",
		event.RejectPolicy: "provider_list", "": "provider_list",
	} {
		changed := at(0, event.SuppressionChanged, listed(event.SuppressionAdd, reject), stream)
		add(q7+": "+reject, reason+"@stream:news", changed)
		changed.SuppressionExpiresAt = start.Add(3 * day)
		add(q7+": with expiry, "+reject, reason+"@stream:news..3d", changed)
	}
	for _, reason := range suppression.Reasons()[:6] {
		add(q7+": by hand, "+string(reason), string(reason)+"@address", byHand(0, event.SuppressionAdd, string(reason)))
	}
	add(q7+": by hand, of a later version", "manual@address", byHand(0, event.SuppressionAdd, "dreamt_of_it"))
	add(q7+": an allow list", "", at(0, event.SuppressionChanged))

	const q8 = "rejected previously_*: confirm: create if missing, as the reason says"
	add(q8+": bounced", "hard_bounce@address", at(0, event.Rejected, rejected(event.RejectPreviouslyBounced), stream))
	add(q8+": complained", "complaint@address",
		at(0, event.Rejected, rejected(event.RejectPreviouslyComplained), stream))
	add(q8+": unsubscribed", "unsubscribe@stream:news",
		at(0, event.Rejected, rejected(event.RejectPreviouslyUnsubscribed), stream))
	const q9 = "rejected invalid_address: yes, address-wide"
	add(q9, "invalid_address@address", at(0, event.Rejected, rejected(event.RejectInvalidAddress), stream))

	const q10 = "rejected policy/quota/content/duplicate/sender_error/test_mode; failed: no"
	for _, reason := range []string{
		event.RejectPolicy, event.RejectQuota, event.RejectContent, event.RejectDuplicate, event.RejectSenderError,
		event.RejectTestMode, event.RejectVirus, event.RejectTimedOut, event.RejectOther, "",
	} {
		add(q10+": "+reason, "", at(0, event.Rejected, rejected(reason), says(&yes)))
	}
	add(q10+": failed", "", at(0, event.Failed, rejected(event.RejectPreviouslyBounced)))

	const q11 = "autoresponded, accepted, sent, delivered, opened, clicked: no"
	const q12 = "account_notice, inbound, test, unknown, is_test: never"
	never := []event.Type{
		event.Autoresponded, event.Accepted, event.Sent, event.Delivered, event.Opened, event.Clicked,
		event.AccountNotice, event.Inbound, event.Test, event.Unknown, "of_a_later_version",
	}
	bad := []func(*event.Event){
		bounced(event.KindHard, event.CauseUnknownRecipient), says(&yes),
		listed(event.SuppressionAdd, event.RejectPreviouslyComplained),
	}
	for _, typ := range never {
		add(q11+" / "+q12+": "+string(typ), "", at(0, typ, bad...))
	}
	for _, typ := range event.Types() {
		add(q12+": "+string(typ), "",
			at(0, typ, append(slices.Clone(bad), func(e *event.Event) { e.IsTest = true })...))
		add(q4+": "+string(typ), "", at(0, typ, append(slices.Clone(bad), ambiguous)...))
		add("no recipient: "+string(typ), "",
			at(0, typ, append(slices.Clone(bad), func(e *event.Event) { e.RecipientNormalized = "jane" })...))
	}
	check(t, &p, rows)
}

// What lifts, by the default policy.
func TestDefaultPolicy_lifts(t *testing.T) {
	p := suppression.DefaultPolicy()
	group, other := scope(event.ScopeGroup, "7"), scope(event.ScopeGroup, "8")
	added := func(reject string, set ...func(*event.Event)) event.Event {
		return at(0, event.SuppressionChanged, append(set, listed(event.SuppressionAdd, reject))...)
	}
	removed := func(after time.Duration, reject string, set ...func(*event.Event)) event.Event {
		return at(after, event.SuppressionChanged, append(set, listed(event.SuppressionRemove, reject))...)
	}
	ours := from(event.ProviderMailriver, "mailriver")
	const (
		q1 = "resubscribed: unsubscribe entry of the same scope only"
		q2 = "suppression_changed remove: entry of the same provider reason"
		q3 = "complaint only if the operator allows it"
		q4 = "delivered later than the bounce: only by policy, off by default"
		q5 = "manual removal: any"
	)
	check(t, &p, []row{
		{q1, []event.Event{at(0, event.Unsubscribed, group), at(time.Minute, event.Resubscribed, group)}, ""},
		{q1, []event.Event{at(0, event.Unsubscribed), at(time.Minute, event.Resubscribed)}, ""},
		{q1 + ": another scope", []event.Event{
			at(0, event.Unsubscribed, group), at(time.Minute, event.Resubscribed, other),
		}, "unsubscribe@group:7"},
		{q1 + ": another source", []event.Event{
			at(0, event.Unsubscribed, group), at(time.Minute, event.Resubscribed, group, from("ses", "ses-us")),
		}, "unsubscribe@group:7"},
		{q1 + ": a source whose name another provider had", []event.Event{
			at(0, event.Unsubscribed, group), at(time.Minute, event.Resubscribed, group, from("postmark", "ses-eu")),
		}, "unsubscribe@group:7"},
		{q1 + ": on our own page", []event.Event{
			at(0, event.Unsubscribed, group), at(time.Minute, event.Resubscribed, group, ours),
		}, ""},
		{q1 + ": at a provider, of our own page", []event.Event{
			at(0, event.Unsubscribed, group, ours), at(time.Minute, event.Resubscribed, group),
		}, "unsubscribe@group:7"},
		{q1 + ": never lifts bounce or complaint", []event.Event{
			hard(0), at(0, event.Complained), at(time.Minute, event.Resubscribed, scope(event.ScopeAddress, "")),
			at(time.Minute, event.Resubscribed, scope(event.ScopeAddress, ""), ours),
		}, "complaint@address hard_bounce@address"},
		{q2, []event.Event{
			added(event.RejectPreviouslyBounced, group), removed(time.Minute, event.RejectPreviouslyBounced, group),
		}, ""},
		{q2 + ": an unsubscribe", []event.Event{
			at(0, event.Unsubscribed, group), removed(time.Minute, event.RejectPreviouslyUnsubscribed, group),
		}, ""},
		{q2 + ": an invalid address", []event.Event{
			at(0, event.Rejected, rejected(event.RejectInvalidAddress)), removed(time.Minute, event.RejectInvalidAddress),
		}, ""},
		{q2 + ": a refusal", []event.Event{
			at(0, event.Rejected, rejected(event.RejectPreviouslyBounced)), removed(time.Minute, event.RejectPreviouslyBounced),
		}, ""},
		{q2 + ": its own list", []event.Event{
			added(event.RejectPolicy, group), removed(time.Minute, event.RejectPolicy, group),
		}, ""},
		{q2 + ": another reason", []event.Event{
			added(event.RejectPreviouslyBounced, group), removed(time.Minute, event.RejectPolicy, group),
		}, "hard_bounce@group:7"},
		{q2 + ": another scope", []event.Event{
			added(event.RejectPreviouslyBounced, group), removed(time.Minute, event.RejectPreviouslyBounced, other),
		}, "hard_bounce@group:7"},
		{q2 + ": another source", []event.Event{
			hard(0), removed(time.Minute, event.RejectPreviouslyBounced, from("ses", "ses-us")),
		}, "hard_bounce@address"},
		{q2 + ": another provider under the name of the source", []event.Event{
			hard(0), removed(time.Minute, event.RejectPreviouslyBounced, from("mandrill", "ses-eu")),
		}, "hard_bounce@address"},
		{q2 + ": what was applied wide", []event.Event{
			hard(0), removed(time.Minute, event.RejectPreviouslyBounced),
		}, ""},
		{q2 + ": of the whole account, what was applied wide from a part", []event.Event{
			hard(0, func(e *event.Event) { e.SubaccountID = "7" }),
			removed(time.Minute, event.RejectPreviouslyBounced, scope(event.ScopeAccount, "")),
		}, ""},
		{q2 + ": what was applied wide from the same subaccount", []event.Event{
			hard(0, func(e *event.Event) { e.SubaccountID = "7" }),
			removed(time.Minute, event.RejectPreviouslyBounced, scope(event.ScopeSubaccount, "7")),
		}, ""},
		{q2 + ": not what was applied wide from another subaccount", []event.Event{
			hard(0, func(e *event.Event) { e.SubaccountID = "7" }),
			removed(time.Minute, event.RejectPreviouslyBounced, scope(event.ScopeSubaccount, "8")),
		}, "hard_bounce@address"},
		{q2 + ": not what was applied wide from the whole account", []event.Event{
			hard(0), removed(time.Minute, event.RejectPreviouslyBounced, scope(event.ScopeStream, "news")),
		}, "hard_bounce@address"},
		{q2 + ": not a person's entry", []event.Event{
			byHand(0, event.SuppressionAdd, "hard_bounce"), removed(time.Minute, event.RejectPreviouslyBounced),
		}, "hard_bounce@address"},
		{q3, []event.Event{
			at(0, event.Complained), removed(time.Minute, event.RejectPreviouslyComplained),
		}, "complaint@address"},
		{q3 + ": an added one", []event.Event{
			added(event.RejectPreviouslyComplained, group), removed(time.Minute, event.RejectPreviouslyComplained, group),
		}, "complaint@group:7"},
		{q4, []event.Event{hard(0), at(time.Minute, event.Delivered)}, "hard_bounce@address"},
		{q4 + ": a machine open is not evidence", []event.Event{
			hard(0), at(time.Minute, event.Opened), at(time.Minute, event.Clicked),
		}, "hard_bounce@address"},
		{q5, []event.Event{
			hard(0), at(0, event.Complained), at(0, event.Rejected, rejected(event.RejectInvalidAddress)),
			byHand(0, event.SuppressionAdd, "manual"),
			at(0, event.Unsubscribed, scope(event.ScopeAddress, "")), byHand(time.Minute, event.SuppressionRemove, ""),
		}, ""},
		{q5 + ": of one reason", []event.Event{
			hard(0), at(0, event.Complained), byHand(time.Minute, event.SuppressionRemove, "complaint"),
		}, "hard_bounce@address"},
		{q5 + ": for a reason that is none lifts none", []event.Event{
			hard(0), byHand(time.Minute, event.SuppressionRemove, "complain"),
		}, "hard_bounce@address"},
		{q5 + ": in its scope", []event.Event{
			at(0, event.Unsubscribed, group), at(0, event.Unsubscribed, other),
			byHand(time.Minute, event.SuppressionRemove, "", group),
		}, "unsubscribe@group:8"},
		{q5 + ": and what the provider refuses afterwards counts again", []event.Event{
			hard(0), byHand(time.Minute, event.SuppressionRemove, ""),
			at(time.Hour, event.Rejected, rejected(event.RejectPreviouslyBounced)),
		}, "hard_bounce@address+1h0m0s"},
	})

	p.Complaint.LiftedBy = []string{suppression.ByProvider}
	check(t, &p, []row{{q3 + ": allowed", []event.Event{
		at(0, event.Complained), removed(time.Minute, event.RejectPreviouslyComplained),
	}, ""}})
	p.HardBounce.LiftedBy = []string{suppression.ByDelivery}
	check(t, &p, []row{
		{q4 + ": on", []event.Event{hard(0), at(time.Minute, event.Delivered)}, ""},
		{q4 + ": on, by any provider", []event.Event{
			hard(0), at(time.Minute, event.Delivered, from("mailgun", "mg")),
		}, ""},
		{"delivered older than the bounce never lifts", []event.Event{
			hard(0), at(-time.Minute, event.Delivered),
		}, "hard_bounce@address"},
		{q4 + ": on, a complaint stays", []event.Event{
			at(0, event.Complained), at(time.Minute, event.Delivered),
		}, "complaint@address"},
		{q2 + ": not allowed", []event.Event{
			hard(0), removed(time.Minute, event.RejectPreviouslyBounced),
		}, "hard_bounce@address"},
	})
}

// The paragraph on ordering. Each row is read in both directions.
func TestDefaultPolicy_order(t *testing.T) {
	p := suppression.DefaultPolicy()
	const (
		q1 = "compare occurred_at"
		q2 = "ties and equal seconds: suppressing event wins over lifting one"
		q3 = "an event older than the newest lift of the same scope changes nothing"
		q4 = "delivered then bounced (async): both; bounced wins"
	)
	lift := func(after time.Duration, set ...func(*event.Event)) event.Event {
		return byHand(after, event.SuppressionRemove, "", set...)
	}
	ms := time.Millisecond
	check(t, &p, []row{
		{q1, []event.Event{lift(0), hard(time.Microsecond)}, "hard_bounce@address+1µs"},
		{q1, []event.Event{hard(0), lift(time.Microsecond)}, ""},
		{q2 + ": the same moment", []event.Event{hard(0), lift(0)}, "hard_bounce@address"},
		{q2 + ": the same whole second", []event.Event{
			hard(0, wholeSecond), lift(0, wholeSecond),
		}, "hard_bounce@address+-250ms"},
		{q2 + ": a whole second and a part of it", []event.Event{
			hard(0, wholeSecond), lift(500 * ms),
		}, "hard_bounce@address+-250ms"},
		{q2 + ": a part of a second and the whole one", []event.Event{
			hard(0), lift(500*ms, wholeSecond),
		}, "hard_bounce@address"},
		{q2 + ": the next whole second", []event.Event{hard(0, wholeSecond), lift(time.Second, wholeSecond)}, ""},
		{q2 + ": the next second", []event.Event{hard(0, wholeSecond), lift(time.Second)}, ""},
		{q2 + ": opting out and in", []event.Event{
			at(0, event.Unsubscribed, wholeSecond), at(0, event.Resubscribed, wholeSecond),
		}, "unsubscribe@account+-250ms"},
		{q3, []event.Event{lift(time.Hour), hard(0), hard(time.Minute), at(0, event.Complained)}, ""},
		{q3 + ": a newer one begins anew", []event.Event{
			hard(0), lift(time.Hour), hard(2 * time.Hour),
		}, "hard_bounce@address+2h0m0s"},
		{q3 + ": lifted twice", []event.Event{hard(0), lift(time.Hour), hard(2 * time.Hour), lift(3 * time.Hour)}, ""},
		{q3 + ": of another scope", []event.Event{at(0, event.Unsubscribed), lift(time.Hour)}, "unsubscribe@account"},
		{q4, []event.Event{at(0, event.Delivered), hard(time.Hour)}, "hard_bounce@address+1h0m0s"},
		{"expiry", []event.Event{byHand(0, event.SuppressionAdd, "manual", expires(day))}, "manual@address..1d"},
	})
}

// "Strength: complaint > manual > unsubscribe > hard bounce > soft counter; a
// weaker reason never overwrites a stronger one, both are kept".
func TestEvaluate_strength(t *testing.T) {
	wide := scope(event.ScopeAddress, "")
	log := []event.Event{
		soft(0, message("1")), at(0, event.Rejected, rejected(event.RejectInvalidAddress)), hard(0),
		at(0, event.Unsubscribed, wide),
		at(0, event.SuppressionChanged, listed(event.SuppressionAdd, ""), wide),
		byHand(0, event.SuppressionAdd, "manual"), at(0, event.Complained),
	}
	reasons := func(p *suppression.Policy) (got []suppression.Reason) {
		for _, s := range fold(p, log) {
			for _, e := range suppression.Evaluate(s, p).Entries {
				got = append(got, e.Reason)
			}
		}
		return got
	}
	p := suppression.DefaultPolicy()
	p.SoftBounce.Suppress, p.SoftBounce.Messages, p.SoftBounce.Spread = true, 1, 0
	for range 2 {
		if got, want := reasons(&p), suppression.Reasons(); !slices.Equal(got, want) {
			t.Errorf("Entries = %q, want %q", got, want)
		}
		slices.Reverse(log)
	}
	// Of equal strength the usual order decides.
	p.HardBounce.Strength, p.Manual.Strength = 90, 90
	want := []suppression.Reason{
		"manual", "hard_bounce", "complaint", "unsubscribe", "invalid_address", "provider_list", "soft_bounce",
	}
	if got := reasons(&p); !slices.Equal(got, want) {
		t.Errorf("Entries with hard_bounce and manual on top = %q, want %q", got, want)
	}
}

// The facts of an event are about its recipient, whatever else the event names.
func TestClassify_onlyTheFailingRecipient(t *testing.T) {
	p := suppression.DefaultPolicy()
	e := hard(0, func(e *event.Event) {
		e.RecipientNormalized, e.Recipient, e.RecipientCount = "joe@example.com", "Jane <jane@example.com>", 3
	})
	for key := range fold(&p, []event.Event{e}) {
		if want := "address|joe@example.com"; key != want {
			t.Errorf("state %q, want %q alone", key, want)
		}
	}
	if got, want := listOf(&p, []event.Event{e}), "hard_bounce@address"; got != want {
		t.Errorf("list = %q, want %q", got, want)
	}
}

func TestClassify_skips(t *testing.T) {
	p := suppression.DefaultPolicy()
	for _, tt := range []struct {
		e    event.Event
		want string
	}{
		{at(0, event.Test), suppression.SkipTest},
		{hard(0, func(e *event.Event) { e.IsTest = true }), suppression.SkipTest},
		{hard(0, func(e *event.Event) { e.RecipientNormalized = "" }), suppression.SkipNoRecipient},
		{hard(0, func(e *event.Event) { e.RecipientAmbiguous = true }), suppression.SkipAmbiguous},
		{soft(0), suppression.SkipOff},
		{at(0, event.Delivered), suppression.SkipOff},
		{at(0, event.Inbound), suppression.SkipIrrelevant},
		{at(0, event.Opened), suppression.SkipIrrelevant},
	} {
		facts, got := suppression.Classify(&tt.e, &p)
		if got != tt.want || facts != nil {
			t.Errorf("Classify(%s) = %v, %q, want none, %q", tt.e.Type, facts, got, tt.want)
		}
	}
}
