package listsync_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/esplist"
	"mailriver/pkg/esplist/esplisttest"
	"mailriver/pkg/esplist/mailgun"
	"mailriver/pkg/esplist/postmark"
	"mailriver/pkg/esplist/sendgrid"
	"mailriver/pkg/esplist/ses"
	"mailriver/pkg/event"
	"mailriver/pkg/listsync"
	"mailriver/pkg/suppression"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// list is Mailriver's own, in memory.
type list struct{ entries []suppression.Entry }

func (l *list) each(ctx context.Context, each func(suppression.Entry) error) error {
	for _, e := range l.entries {
		if err := errors.Join(ctx.Err(), each(e)); err != nil {
			return err
		}
	}
	return nil
}

func (l *list) add(_ context.Context, entries []suppression.Entry) error {
	l.entries = append(l.entries, entries...)
	return nil
}

func wide(address string, reason suppression.Reason) suppression.Entry {
	return suppression.Entry{Address: address, ScopeKind: event.ScopeAddress, Reason: reason, Since: now.Add(-time.Hour), Provider: "ses", Source: "ses-eu"}
}

func scoped(address, kind, id, provider, source string) suppression.Entry {
	return suppression.Entry{
		Address: address, ScopeKind: kind, ScopeID: id, Reason: suppression.Unsubscribe,
		Since: now.Add(-time.Hour), Provider: provider, Source: source,
	}
}

func newSendGrid(t *testing.T, s *esplisttest.SendGrid) esplist.Client {
	t.Helper()
	client, err := sendgrid.New(sendgrid.Options{
		Key: s.Key, BaseURL: s.URL, Transport: (&esplisttest.Clock{At: now}).Transport(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func options(t *testing.T, client esplist.Client, entries ...suppression.Entry) listsync.Options {
	l := &list{entries}
	return listsync.Options{
		Client: client, Ours: l.each, Policy: suppression.DefaultPolicy(), Now: now, Dir: t.TempDir(),
	}
}

func run(t *testing.T, o listsync.Options) listsync.Report {
	t.Helper()
	report, err := listsync.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) != 0 {
		t.Errorf("the temporary folder is still there: %v, %v", left, err)
	}
	return report
}

func short(rows []listsync.Difference) []string {
	out := []string{}
	for _, d := range rows {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s/%s %s<>%s %s",
			d.Kind, d.Address, d.ScopeKind, d.ScopeID, d.Ours, d.Theirs, d.Outcome)))
	}
	return out
}

func TestRun_compare(t *testing.T) {
	expiring := func(at time.Time) suppression.Entry {
		e := wide("a@example.com", suppression.SoftBounce)
		e.ExpiresAt = at
		return e
	}
	tests := []struct {
		name    string
		ours    []suppression.Entry
		theirs  func(s *esplisttest.SendGrid)
		sources []string
		want    []string
		leftOut map[string]int64
	}{
		{name: "nothing anywhere"},
		{
			name: "missing there",
			ours: []suppression.Entry{wide("a@example.com", suppression.HardBounce)},
			want: []string{"missing_there a@example.com account/ hard_bounce<>"},
		},
		{
			name:   "missing here, of the mailbox itself",
			theirs: func(s *esplisttest.SendGrid) { s.Put("bounces", "a@example.com", "", now) },
			want:   []string{"missing_here a@example.com address/ <>hard_bounce"},
		},
		{
			name:   "missing here, an opt-out, which is not widened",
			theirs: func(s *esplisttest.SendGrid) { s.Group(42, "a@example.com") },
			want:   []string{"missing_here a@example.com group/42 <>unsubscribe"},
		},
		{
			name:   "a block stops no mail",
			theirs: func(s *esplisttest.SendGrid) { s.Put("blocks", "a@example.com", "", now) },
		},
		{
			name:   "on both, in two spellings",
			ours:   []suppression.Entry{wide("Ann@example.com", suppression.HardBounce)},
			theirs: func(s *esplisttest.SendGrid) { s.Put("bounces", "ann@EXAMPLE.com", "", now) },
		},
		{
			name:   "added by us before: the list can hold no better reason",
			ours:   []suppression.Entry{wide("a@example.com", suppression.HardBounce)},
			theirs: func(s *esplisttest.SendGrid) { s.Put("unsubscribes", "a@example.com", "", now) },
		},
		{
			name:   "for different reasons",
			ours:   []suppression.Entry{wide("a@example.com", suppression.Complaint)},
			theirs: func(s *esplisttest.SendGrid) { s.Put("invalid_emails", "a@example.com", "", now) },
			want:   []string{"different_reason a@example.com account/ complaint<>invalid_address"},
		},
		{
			name: "one of several reasons is shared",
			ours: []suppression.Entry{wide("a@example.com", suppression.Complaint)},
			theirs: func(s *esplisttest.SendGrid) {
				s.Put("bounces", "a@example.com", "", now)
				s.Put("spam_reports", "a@example.com", "", now)
			},
		},
		{
			name: "the strongest of ours is what goes there, once",
			ours: []suppression.Entry{wide("a@example.com", suppression.HardBounce), wide("a@example.com", suppression.Complaint)},
			want: []string{"missing_there a@example.com account/ complaint<>"},
		},
		{
			name: "a group of theirs does not cover all mail",
			ours: []suppression.Entry{wide("a@example.com", suppression.Manual)},
			theirs: func(s *esplisttest.SendGrid) {
				s.Group(42, "a@example.com")
			},
			want: []string{"missing_there a@example.com account/ manual<>"},
		},
		{
			name:   "all mail covers a group",
			ours:   []suppression.Entry{scoped("a@example.com", event.ScopeGroup, "42", "sendgrid", "sg")},
			theirs: func(s *esplisttest.SendGrid) { s.Put("unsubscribes", "a@example.com", "", now) },
			want:   []string{"missing_here a@example.com account/ <>unsubscribe"},
		},
		{
			name: "scopes",
			ours: []suppression.Entry{
				scoped("group@example.com", event.ScopeGroup, "42", "sendgrid", "sg"),
				scoped("hand@example.com", event.ScopeGroup, "42", event.ProviderMailriver, ""),
				scoped("other@example.com", event.ScopeGroup, "42", "sendgrid", "another account"),
				scoped("stream@example.com", event.ScopeStream, "outbound", "postmark", "pm"),
				scoped("ses@example.com", event.ScopeAccount, "", "ses", "ses-eu"),
			},
			sources: []string{"sg"},
			want: []string{
				"missing_there group@example.com group/42 unsubscribe<>",
				"missing_there hand@example.com group/42 unsubscribe<>",
			},
			leftOut: map[string]int64{
				esplist.ErrScope.Error(): 1, "is about a scope of another provider or source": 2,
			},
		},
		{
			name:    "an entry that ends is not made one that does not",
			ours:    []suppression.Entry{expiring(now.Add(time.Second))},
			leftOut: map[string]int64{"expires, and the list cannot": 1},
		},
		{
			name:    "an entry that ends covers, as long as it lasts",
			ours:    []suppression.Entry{expiring(now.Add(time.Second))},
			theirs:  func(s *esplisttest.SendGrid) { s.Put("unsubscribes", "a@example.com", "", now) },
			leftOut: map[string]int64{"expires, and the list cannot": 1},
		},
		{
			name:    "and not longer",
			ours:    []suppression.Entry{expiring(now)},
			theirs:  func(s *esplisttest.SendGrid) { s.Put("unsubscribes", "a@example.com", "", now) },
			want:    []string{"missing_here a@example.com account/ <>unsubscribe"},
			leftOut: map[string]int64{"has expired": 1},
		},
		{
			name: "an entry that ends does not hide one that does not",
			ours: []suppression.Entry{
				wide("a@example.com", suppression.SoftBounce), expiring(now.Add(time.Second)),
			},
			want:    []string{"missing_there a@example.com account/ soft_bounce<>"},
			leftOut: map[string]int64{"expires, and the list cannot": 1},
		},
		{
			name:    "no addresses",
			ours:    []suppression.Entry{wide("nobody", suppression.Manual), wide(strings.Repeat("a", 2000)+"@example.com", suppression.Manual)},
			theirs:  func(s *esplisttest.SendGrid) { s.Put("invalid_emails", "a b@", "", now) },
			leftOut: map[string]int64{"is no usable address": 3},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := esplisttest.NewSendGrid(t)
			if test.theirs != nil {
				test.theirs(s)
			}
			o := options(t, newSendGrid(t, s), test.ours...)
			o.Sources = test.sources
			report := run(t, o)
			if got := short(report.Rows); !slices.Equal(got, test.want) && len(got)+len(test.want) > 0 {
				t.Errorf("Run = %q, want %q", got, test.want)
			}
			if !maps.Equal(report.LeftOut, test.leftOut) {
				t.Errorf("left out %v, want %v", report.LeftOut, test.leftOut)
			}
			for _, request := range s.Requests() {
				if !strings.HasPrefix(request, "GET ") {
					t.Errorf("a comparison sent %s", request)
				}
			}
		})
	}
}

// A tag cannot be added at Mailgun, and is on both lists all the same.
func TestRun_scopeThatIsOnlyRead(t *testing.T) {
	s := esplisttest.NewMailgun(t)
	s.Put("unsubscribes", "both@example.com", "", now, "news")
	s.Put("unsubscribes", "theirs@example.com", "", now, "news")
	client, err := mailgun.New(mailgun.Options{Key: s.Key, Domain: s.Domain, BaseURL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	report := run(t, options(t, client,
		scoped("both@example.com", event.ScopeTag, "news", "mailgun", "mg"),
		scoped("ours@example.com", event.ScopeTag, "news", "mailgun", "mg")))
	want := []string{"missing_here theirs@example.com tag/news <>unsubscribe"}
	if got := short(report.Rows); !slices.Equal(got, want) {
		t.Errorf("Run = %q, want %q", got, want)
	}
	if got := report.LeftOut[mailgun.ErrTag.Error()]; got != 2 {
		t.Errorf("left out %v, want 2 tags", report.LeftOut)
	}
}

// A reason that is not said may be any.
func TestRun_unsaidReason(t *testing.T) {
	theirs := &list{[]suppression.Entry{wide("a@example.com", suppression.ProviderList)}}
	report := run(t, options(t, memory{theirs}, wide("a@example.com", suppression.Complaint)))
	if len(report.Rows) != 0 || report.Agreed != 1 {
		t.Errorf("Run = %+v, want no difference", report)
	}
}

// What the policy does not suppress for is not missing.
func TestRun_reasonOff(t *testing.T) {
	theirs := &list{[]suppression.Entry{wide("a@example.com", suppression.ProviderList)}}
	o := options(t, memory{theirs})
	o.Policy.ProviderList.Suppress = false
	report := run(t, o)
	if len(report.Rows) != 0 || report.LeftOut["has a reason that the policy switches off"] != 1 {
		t.Errorf("Run = %+v, want it left out", report)
	}
}

// providers are all four, each with an empty server and one entry that somebody
// else put there.
func providers(t *testing.T) map[string]func() (esplist.Client, *esplisttest.Server) {
	transport := (&esplisttest.Clock{At: now}).Transport()
	check := func(client esplist.Client, err error) esplist.Client {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	return map[string]func() (esplist.Client, *esplisttest.Server){
		"ses": func() (esplist.Client, *esplisttest.Server) {
			s := esplisttest.NewSES(t)
			s.Put("theirs@example.com", "BOUNCE", now)
			client, err := ses.New(ses.Options{
				Region: s.Region, AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey,
				BaseURL: s.URL, Transport: transport,
			})
			return check(client, err), s.Server
		},
		"sendgrid": func() (esplist.Client, *esplisttest.Server) {
			s := esplisttest.NewSendGrid(t)
			s.Put("bounces", "theirs@example.com", "", now)
			return newSendGrid(t, s), s.Server
		},
		"postmark": func() (esplist.Client, *esplisttest.Server) {
			s := esplisttest.NewPostmark(t)
			s.Put("theirs@example.com", "HardBounce", "Recipient", now)
			client, err := postmark.New(postmark.Options{ServerToken: s.Token, Stream: s.Stream, BaseURL: s.URL, Transport: transport})
			return check(client, err), s.Server
		},
		"mailgun": func() (esplist.Client, *esplisttest.Server) {
			s := esplisttest.NewMailgun(t)
			s.Put("bounces", "theirs@example.com", "", now)
			client, err := mailgun.New(mailgun.Options{Key: s.Key, Domain: s.Domain, BaseURL: s.URL, Transport: transport})
			return check(client, err), s.Server
		},
	}
}

// After one run in both directions the next finds nothing to do. With a reason
// or a scope that does not survive the way to the provider and back, it would.
func TestRun_converges(t *testing.T) {
	for name, start := range providers(t) {
		t.Run(name, func(t *testing.T) {
			client, server := start()
			l := &list{}
			for _, reason := range suppression.Reasons() {
				l.entries = append(l.entries, wide(string(reason)+"@example.com", reason))
			}
			o := options(t, client)
			o.Ours, o.Apply, o.Import = l.each, true, l.add
			first := run(t, o)
			n := int64(len(suppression.Reasons()))
			if first.MissingThere != n || first.Added != n || first.MissingHere != 1 || first.Imported != 1 {
				t.Errorf("first run = %+v, want %d added and 1 imported", first, n)
			}
			if got := l.entries[len(l.entries)-1]; got.Address != "theirs@example.com" || got.ScopeKind != event.ScopeAddress ||
				got.Reason != suppression.HardBounce {
				t.Errorf("imported %+v, want the bounce, for all mail", got)
			}
			second := run(t, o)
			if len(second.Rows) != 0 || second.Agreed != n+1 {
				t.Errorf("second run = %+v, want no difference", second)
			}
			for _, request := range server.Requests() {
				if strings.HasPrefix(request, "DELETE") {
					t.Errorf("sent %s", request)
				}
			}
		})
	}
}

func TestRun_refused(t *testing.T) {
	s := esplisttest.NewPostmark(t)
	client, err := postmark.New(postmark.Options{ServerToken: s.Token, Stream: s.Stream, BaseURL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, client, wide("a@example.com", suppression.Manual))
	o.Apply = true
	s.Next(esplisttest.Answer{}, esplisttest.Answer{Status: 200, Body: `{"Suppressions":[
		{"EmailAddress":"a@example.com","Status":"Failed","Message":"not this one"}]}`})
	report := run(t, o)
	if report.Refused != 1 || report.Rows[0].Outcome != listsync.Refused || report.Rows[0].Detail != "not this one" {
		t.Errorf("Run = %+v, want it refused with the provider's words", report)
	}
}

// What was done before an error must be known, and what was not must not pass
// for done.
func TestRun_fails(t *testing.T) {
	s := esplisttest.NewSES(t)
	client, err := ses.New(ses.Options{
		Region: s.Region, AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey, BaseURL: s.URL,
	})
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, client,
		wide("a@example.com", suppression.Manual), wide("b@example.com", suppression.Manual), wide("c@example.com", suppression.Manual))
	o.Apply = true
	// The list, one address, and then the key is no longer good.
	s.Next(esplisttest.Answer{}, esplisttest.Answer{}, esplisttest.Answer{Status: http.StatusForbidden})
	report, err := listsync.Run(t.Context(), o)
	if problem, ok := errors.AsType[*esplist.Error](err); !ok || problem.Status != http.StatusForbidden {
		t.Errorf("Run = %v, want an error of HTTP 403", err)
	}
	want := []string{
		"missing_there a@example.com address/ manual<> added",
		"missing_there b@example.com address/ manual<> failed",
		"missing_there c@example.com address/ manual<> failed",
	}
	if got := short(report.Rows); !slices.Equal(got, want) {
		t.Errorf("Run = %q, want %q", got, want)
	}

	broken := errors.New("broken")
	o.Apply, o.Import = false, func(context.Context, []suppression.Entry) error { return broken }
	s.Put("theirs@example.com", "BOUNCE", now)
	report, err = listsync.Run(t.Context(), o)
	if !errors.Is(err, broken) || report.Failed != 1 || report.Imported != 0 {
		t.Errorf("Run = %+v, %v, want one failed and %v", report, err, broken)
	}

	o.Import, o.Ours = nil, func(context.Context, func(suppression.Entry) error) error { return broken }
	if _, err := listsync.Run(t.Context(), o); !errors.Is(err, broken) {
		t.Errorf("Run = %v, want %v", err, broken)
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) != 0 {
		t.Errorf("after errors there is left %v, %v", left, err)
	}

	if _, err := listsync.Run(t.Context(), listsync.Options{Client: client}); err == nil {
		t.Error("Run without a list = nil, want an error")
	}
}

// memory is a client whose list is in memory.
type memory struct{ *list }

func (memory) Provider() string { return "ses" }

func (m memory) List(ctx context.Context, each func(suppression.Entry) error) error {
	return m.each(ctx, each)
}

func (m memory) Express(e suppression.Entry) (suppression.Entry, error) {
	if !esplist.Wide(e) {
		return e, esplist.ErrScope
	}
	return e, nil
}

func (m memory) Add(_ context.Context, entries []suppression.Entry) (results []esplist.Result, err error) {
	for _, e := range entries {
		m.entries = append(m.entries, e)
		results = append(results, esplist.Result{Entry: e})
	}
	return results, nil
}

// Two lists in no order, larger than one batch of the sorter and one part of an
// import, are told apart as two sets are.
func TestRun_large(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	l, theirs := &list{}, &list{}
	var missingThere, missingHere []string
	const n = 12_000
	for _, i := range random.Perm(n) {
		address := fmt.Sprintf("%d@example.com", i)
		if i%3 != 0 {
			l.entries = append(l.entries, wide(address, suppression.HardBounce))
		}
		if i%5 != 0 {
			theirs.entries = append(theirs.entries, wide(address, suppression.HardBounce))
		}
		switch {
		case i%3 != 0 && i%5 == 0:
			missingThere = append(missingThere, address)
		case i%3 == 0 && i%5 != 0:
			missingHere = append(missingHere, address)
		}
	}
	random.Shuffle(len(theirs.entries), func(i, j int) {
		theirs.entries[i], theirs.entries[j] = theirs.entries[j], theirs.entries[i]
	})

	o := options(t, memory{theirs})
	o.Ours, o.Apply, o.MaxRows = l.each, true, 10
	var there, here []string
	largest, compared, added := 0, 0, 0
	o.Import = func(_ context.Context, entries []suppression.Entry) error {
		largest = max(largest, len(entries))
		return l.add(t.Context(), entries)
	}
	o.Each = func(d listsync.Difference) error {
		switch d.Kind {
		case listsync.MissingThere:
			there = append(there, d.Address)
		case listsync.MissingHere:
			here = append(here, d.Address)
		}
		return nil
	}
	o.Progress = func(stage listsync.Stage, n int) {
		switch stage {
		case listsync.Comparing:
			compared += n
		case listsync.Adding:
			added += n
		}
	}
	report := run(t, o)
	slices.Sort(missingThere)
	slices.Sort(missingHere)
	if !slices.Equal(there, missingThere) || !slices.Equal(here, missingHere) {
		t.Errorf("Run found %d missing there and %d here, or in another order; want %d and %d, sorted",
			len(there), len(here), len(missingThere), len(missingHere))
	}
	if largest != listsync.ImportSize {
		t.Errorf("Import was given up to %d, want %d", largest, listsync.ImportSize)
	}
	if len(report.Rows) != 10 || !report.Cut {
		t.Errorf("Run kept %d rows, cut %t, want 10 and true", len(report.Rows), report.Cut)
	}
	if int64(compared) != report.Addresses || report.Addresses != n-n/15 {
		t.Errorf("compared %d of %d addresses, want %d", compared, report.Addresses, n-n/15)
	}
	if int64(added) != report.Added || added != len(missingThere) {
		t.Errorf("told of %d added, reported %d, want %d", added, report.Added, len(missingThere))
	}
	if second := run(t, o); second.MissingThere+second.MissingHere != 0 {
		t.Errorf("second run = %+v, want no difference", second)
	}
}

func TestRun_canceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	theirs := &list{[]suppression.Entry{wide("a@example.com", suppression.Manual), wide("b@example.com", suppression.Manual)}}
	o := options(t, memory{theirs})
	o.Progress = func(stage listsync.Stage, _ int) {
		if stage == listsync.Comparing {
			cancel()
		}
	}
	if _, err := listsync.Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want canceled", err)
	}
}

func TestDifference_Row(t *testing.T) {
	if got, want := len(listsync.Difference{}.Row()), len(listsync.Columns()); got != want {
		t.Errorf("a row has %d cells, want %d", got, want)
	}
}

func BenchmarkRun(b *testing.B) {
	const n = 100_000
	l, theirs := &list{}, &list{}
	for i := range n {
		e := wide(fmt.Sprintf("somebody.%07d@example-%d.com", i*7919%n, i%50), suppression.HardBounce)
		l.entries = append(l.entries, e)
		if i%100 != 0 {
			theirs.entries = append(theirs.entries, e)
		}
	}
	o := listsync.Options{
		Client: memory{theirs}, Ours: l.each, Policy: suppression.DefaultPolicy(), Now: now, Dir: b.TempDir(), MaxRows: 1,
	}
	for b.Loop() {
		report, err := listsync.Run(b.Context(), o)
		if err != nil || report.MissingThere != n/100 {
			b.Fatalf("Run = %+v, %v", report, err)
		}
	}
	b.ReportMetric(cmp.Or(float64(b.N), 1)*2*n/b.Elapsed().Seconds(), "entries/s")
}
