package simulate_test

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"os/exec"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/idna"

	"mailriver/pkg/event"
	"mailriver/pkg/simulate"
)

var start = time.Date(2026, time.November, 23, 10, 0, 0, 0, time.UTC)

const (
	base     = "https://hooks.example.com"
	certHost = "127.0.0.1:9443"
)

func newKeys(t testing.TB) simulate.Keys {
	t.Helper()
	keys, err := simulate.GenerateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func generate(t testing.TB, sources []simulate.Source, opt simulate.Options) iter.Seq[simulate.Request] {
	t.Helper()
	if opt.Start.IsZero() {
		opt.Start = start
	}
	requests, err := simulate.Generate(sources, opt)
	if err != nil {
		t.Fatal(err)
	}
	return requests
}

func only(sources []simulate.Source, provider string) []simulate.Source {
	return slices.DeleteFunc(slices.Clone(sources), func(s simulate.Source) bool { return s.Provider != provider })
}

func TestGenerate_sameSeedSameTraffic(t *testing.T) {
	sources := newKeys(t).Sources(base, certHost)
	opt := simulate.Options{Seed: 7, Events: 400, Start: start, Duplicates: 0.2, Reorder: 0.2, Forgeries: 0.1}
	first := slices.Collect(generate(t, sources, opt))
	again := slices.Collect(generate(t, sources, opt))
	if len(again) != len(first) {
		t.Fatalf("a second run has %d requests, want %d", len(again), len(first))
	}
	for i, a := range first {
		b := again[i]
		a.Header, b.Header = a.Header.Clone(), b.Header.Clone()
		a.Header.Del(signatureHeader) // ECDSA holds a random number
		b.Header.Del(signatureHeader)
		if !bytes.Equal(a.Body, b.Body) || !reflect.DeepEqual(a.Header, b.Header) || !reflect.DeepEqual(a.Truth, b.Truth) ||
			a.URL != b.URL || a.Copy != b.Copy || a.Forged != b.Forged || a.Distinct != b.Distinct {
			t.Fatalf("request %d of a second run differs:\n%s\nwant\n%s", i, b.Body, a.Body)
		}
	}
	opt.Seed = 8
	other := slices.Collect(generate(t, sources, opt))
	if len(other) > 0 && bytes.Equal(other[0].Body, first[0].Body) {
		t.Error("another seed makes the same first request")
	}
}

func TestGenerate_iteratesAgain(t *testing.T) {
	requests := generate(t, only(newKeys(t).Sources(base, certHost), "postmark"), simulate.Options{Seed: 1, Events: 50})
	for range requests {
		break // a run that was given up must not leave anything behind
	}
	a, b := slices.Collect(requests), slices.Collect(requests)
	if len(a) != len(b) || len(a) == 0 || !bytes.Equal(a[len(a)-1].Body, b[len(b)-1].Body) {
		t.Errorf("two iterations give %d and %d requests, or different ones", len(a), len(b))
	}
}

func TestGenerate_countsDistinctEvents(t *testing.T) {
	sources := newKeys(t).Sources(base, certHost)
	for _, events := range []int{0, 1, 2, 3, 17, 1000} {
		for _, disorder := range []float64{0, 0.3, 1} {
			t.Run(fmt.Sprintf("%d events, disorder %g", events, disorder), func(t *testing.T) {
				opt := simulate.Options{Seed: 3, Events: events, Duplicates: disorder, Reorder: disorder, Forgeries: disorder}
				distinct, all := map[event.ID]int{}, map[event.ID]int{}
				copies, forged := 0, 0
				for r := range generate(t, sources, opt) {
					if r.Distinct > len(r.Truth) || r.Copy != (r.Distinct == 0 && !r.Forged) {
						t.Fatalf("request with %d truths, %d of them distinct: Copy is %t", len(r.Truth), r.Distinct, r.Copy)
					}
					if r.Forged && len(r.Truth) > 0 {
						t.Fatal("forgery with a truth")
					}
					for i, e := range r.Truth {
						all[e.ID]++
						if i < r.Distinct {
							distinct[e.ID]++
						}
					}
					copies += len(r.Truth) - r.Distinct
					if r.Forged {
						forged++
					}
				}
				if len(distinct) != events || len(all) != events {
					t.Errorf("%d distinct events, %d over all, want %d", len(distinct), len(all), events)
				}
				for id, n := range distinct {
					if n != 1 {
						t.Errorf("event %s is distinct %d times", id, n)
					}
				}
				if disorder == 0 && (copies > 0 || forged > 0) {
					t.Errorf("%d copies and %d forgeries, want none", copies, forged)
				}
				if disorder == 1 && events > 2 && (copies < events/2 || forged == 0) {
					t.Errorf("%d copies and %d forgeries of %d events, want more", copies, forged, events)
				}
			})
		}
	}
}

// Every type is told within ten thousand events, and everything else in the
// vocabularies that these providers can say within sixty thousand. The one type
// left out is "test", a ping: none of the five sends one with an event in it.
func TestGenerate_tellsEverything(t *testing.T) {
	sources := newKeys(t).Sources(base, certHost)
	types := map[event.Type]int{}
	words := map[string]map[string]bool{}
	n := 0
	for r := range generate(t, sources, simulate.Options{Seed: 5, Events: 60_000, Unsigned: true}) {
		for _, e := range r.Truth {
			if n++; n <= 10_000 {
				types[e.Type]++
			}
			for field, word := range map[string]string{
				"bounce_kind": e.BounceKind, "reject_reason": e.RejectReason, "machine": e.Machine,
				"scope_kind": e.ScopeKind, "suppression_action": e.SuppressionAction, "occurred_at_precision": e.OccurredAtPrecision,
				"provider_variant": e.ProviderVariant, "complaint_type": e.ComplaintType,
				"warnings": strings.Join(e.Warnings, "+"), "is_test": fmt.Sprint(e.IsTest), "ambiguous": fmt.Sprint(e.RecipientAmbiguous),
			} {
				if words[field] == nil {
					words[field] = map[string]bool{}
				}
				words[field][word] = true
			}
		}
	}
	for _, typ := range event.Types() {
		if typ != event.Test && types[typ] == 0 {
			t.Errorf("no event of type %s", typ)
		}
	}
	for field, want := range map[string][]string{
		"bounce_kind":           {event.KindHard, event.KindSoft, event.KindBlock, event.KindUndetermined},
		"machine":               {event.MachineYes, event.MachineUnknown},
		"scope_kind":            {event.ScopeAccount, event.ScopeSubaccount, event.ScopeDomain, event.ScopeStream, event.ScopeList, event.ScopeGroup, event.ScopeTopic},
		"suppression_action":    {event.SuppressionAdd, event.SuppressionRemove},
		"occurred_at_precision": {event.PrecisionSecond, event.PrecisionMillisecond, event.PrecisionMicrosecond},
		"provider_variant":      {"event_publishing", "feedback_notification"},
		"complaint_type":        {"abuse"},
		"warnings":              {event.WarnUnknownType},
		"is_test":               {"true", "false"},
		"ambiguous":             {"true", "false"},
		"reject_reason": {
			event.RejectPreviouslyBounced, event.RejectPreviouslyUnsubscribed, event.RejectPreviouslyComplained,
			event.RejectInvalidAddress, event.RejectPolicy, event.RejectQuota, event.RejectContent, event.RejectSenderError,
			event.RejectVirus, event.RejectTestMode,
		},
	} {
		for _, word := range want {
			if !words[field][word] {
				t.Errorf("no event with %s = %s; there are %v", field, word, slices.Sorted(maps.Keys(words[field])))
			}
		}
	}
	share := func(typ event.Type) float64 { return float64(types[typ]) / 10_000 }
	if share(event.Delivered) < 0.2 || share(event.Opened) < 0.1 || share(event.Bounced)+share(event.Rejected) > 0.1 ||
		share(event.Complained) > 0.01 || share(event.Unknown) > 0.01 {
		t.Errorf("proportions are not those of real traffic: %v", types)
	}
}

func TestGenerate_truthIsWhole(t *testing.T) {
	sources := newKeys(t).Sources(base, certHost)
	ids := map[event.ID]bool{}
	for r := range generate(t, sources, simulate.Options{Seed: 6, Events: 4000, Unsigned: true}) {
		for _, e := range r.Truth {
			if bad := e.Check(); bad != nil {
				t.Errorf("%s: outside the vocabulary: %v", e.NativeEventType, bad)
			}
			if ids[e.ID] || e.ID.IsZero() || e.Provider != r.Provider || e.Source != r.Source || e.NativeEventType == "" {
				t.Errorf("id %s is empty or used before, or the origin is missing: %+v", e.ID, e)
			}
			ids[e.ID] = true
			if e.OccurredAt.Before(start) || e.OccurredAt.After(start.Add(time.Hour)) || e.OccurredAt.Nanosecond()%1000 != 0 {
				t.Errorf("occurred_at = %s, want within the run, in microseconds", e.OccurredAt)
			}
			if !e.ReceivedAt.IsZero() || e.RawTopic != "" || e.RawEventIndex != 0 || e.SchemaVersion != 0 {
				t.Errorf("truth holds what the provider does not determine: %+v", e)
			}
			if (e.Recipient == "") != (e.RecipientNormalized == "") || (e.Machine != "") != (e.Type == event.Opened || e.Type == event.Clicked) {
				t.Errorf("recipient %q, normalized %q, type %s, machine %q do not fit", e.Recipient, e.RecipientNormalized, e.Type, e.Machine)
			}
			if e.Recipient == "" {
				continue
			}
			local, domain, _ := strings.Cut(e.Recipient, "@")
			ascii, err := idna.Lookup.ToASCII(domain)
			if err != nil || e.RecipientDomain != ascii || e.RecipientNormalized != local+"@"+ascii {
				t.Errorf("recipient %s is normalized to %s and %s, want domain %s (%v)", e.Recipient, e.RecipientNormalized, e.RecipientDomain, ascii, err)
			}
		}
	}
}

func TestGenerate_batches(t *testing.T) {
	sources := newKeys(t).Sources(base, certHost)
	largest := map[string]int{}
	requests := map[string]int{}
	for r := range generate(t, sources, simulate.Options{Seed: 9, Events: 60_000, Duplicates: 0.1, Unsigned: true}) {
		largest[r.Provider] = max(largest[r.Provider], len(r.Truth))
		requests[r.Provider]++
		if limit := map[string]int{"sendgrid": 768 << 10, "mandrill": 16 << 20}[r.Provider]; limit > 0 && len(r.Body) > limit {
			t.Errorf("%s body of %d bytes, want at most %d", r.Provider, len(r.Body), limit)
		} else if limit == 0 && len(r.Body) > 16<<10 {
			t.Errorf("%s body of %d bytes, want a small one", r.Provider, len(r.Body))
		}
	}
	for provider, want := range map[string][2]int{
		"sendgrid": {100, 500}, "mandrill": {100, 1000}, "ses": {2, 4}, "postmark": {1, 1}, "mailgun": {1, 1},
	} {
		if largest[provider] < want[0] || largest[provider] > want[1] {
			t.Errorf("largest request of %s holds %d events, want %d to %d", provider, largest[provider], want[0], want[1])
		}
	}
}

// A late request is late by a bounded number of places, and there are some.
func TestGenerate_reorderIsBounded(t *testing.T) {
	source := only(newKeys(t).Sources(base, certHost), "mailgun")
	for _, reorder := range []float64{0, 0.5} {
		var times []time.Time
		for r := range generate(t, source, simulate.Options{Seed: 4, Events: 2000, Reorder: reorder}) {
			times = append(times, r.Truth[0].OccurredAt.Truncate(time.Second))
		}
		sorted := slices.Clone(times)
		slices.SortFunc(sorted, time.Time.Compare)
		moved := 0
		for i, at := range times {
			// Several happen in one second: the nearest place with this time counts.
			low, _ := slices.BinarySearchFunc(sorted, at, time.Time.Compare)
			high, _ := slices.BinarySearchFunc(sorted, at.Add(time.Second), time.Time.Compare)
			distance := max(low-i, i-high, 0)
			if distance > 0 {
				moved++
			}
			if distance > simulate.ReorderWindow {
				t.Fatalf("request %d is %d places from its own", i, distance)
			}
		}
		if (reorder > 0) != (moved > 0) {
			t.Errorf("reorder %g moved %d requests", reorder, moved)
		}
	}
}

// The oddities that receivers stumble over are in the traffic.
func TestGenerate_oddShapes(t *testing.T) {
	sources := newKeys(t).Sources(base, certHost)
	odd := map[string][]string{
		"sendgrid": {`"category":"`, `"category":\[`, `"timestamp":"\d`, `"attempt":\d`, `\]\r\n$`, `cat facts`, `"sg_machine_open":true`, `bücher\.example`, `12345678901234567890`},
		"mailgun":  {`"delivery-status":null`, `"user-variables":\[\]`, `"user-variables":null`, `"tags":null`, `"geolocation":null`, `"timestamp":\d+\.\d\d,`, `"mailing-list":`, `"quantum-state":`, `"is-system-test":true`, `García, José\\"`},
		"postmark": {`"Geo":\{\}`, `"Metadata":null`, `"Tag":null`, `"Tag":""`, `\.\d{7}Z`, `\.\d{7}-05:00`, `T\d\d:\d\d:\d\dZ`, `00000000-0000-0000-0000-000000000000`, `"ID":"\d`, `TomorrowsField`},
		"ses":      {`notificationType`, `eventType`, `"destination\\":\\"`, `"complaintSubType\\":null`, `simulator\.amazonses\.com`, `Successfully validated`, `OnAccountSuppressionList`, `"processingTimeMillis\\":\\"`, `4\.4\.7\\"\},?\]|4\.4\.7\\"\}\]`, `wormhole`},
		"mandrill": {`%22metadata%22%3A%5B%5D`, `%22metadata%22%3Anull`, `%22tags%22%3Anull`, `%22location%22%3Anull`, `%22user_agent_parsed%22%3Anull`, `%22ts%22%3A%22`, `%5C%2F`, `%5Cu[0-9a-f]{4}`, `%22type%22%3A%22whitelist`, `%22_id%22%3A%22example`, `antimatter`},
	}
	for provider, patterns := range odd {
		found := map[string]bool{}
		for r := range generate(t, only(sources, provider), simulate.Options{Seed: 2, Events: 12_000, Unsigned: true}) {
			for _, pattern := range patterns {
				if !found[pattern] && regexp.MustCompile(pattern).Match(r.Body) {
					found[pattern] = true
				}
			}
			if len(found) == len(patterns) {
				break
			}
		}
		for _, pattern := range patterns {
			if !found[pattern] {
				t.Errorf("%s: nothing matches %s", provider, pattern)
			}
		}
	}
}

func TestGenerate_refuses(t *testing.T) {
	keys := newKeys(t)
	source := func(provider string, change func(*simulate.Source)) []simulate.Source {
		s := only(keys.Sources(base, certHost), provider)
		change(&s[0])
		return s
	}
	tests := []struct {
		name    string
		sources []simulate.Source
		opt     simulate.Options
		want    string
	}{
		{"no source", nil, simulate.Options{}, "sources: there is none"},
		{"no name", source("mailgun", func(s *simulate.Source) { s.Name = "" }), simulate.Options{}, "name"},
		{"no endpoint", source("mailgun", func(s *simulate.Source) { s.Endpoint = "" }), simulate.Options{}, "endpoint"},
		{"unknown provider", source("mailgun", func(s *simulate.Source) { s.Provider = "pigeon" }), simulate.Options{}, "pigeon"},
		{"negative share", source("mailgun", func(s *simulate.Source) { s.Share = -1 }), simulate.Options{}, "share"},
		{"twice", append(source("mailgun", func(*simulate.Source) {}), source("mailgun", func(*simulate.Source) {})...), simulate.Options{}, "twice"},
		{"mailgun without key", source("mailgun", func(s *simulate.Source) { s.Keys = nil }), simulate.Options{}, "keys"},
		{"mandrill without key", source("mandrill", func(s *simulate.Source) { s.Keys = nil }), simulate.Options{}, "keys"},
		{"postmark without password", source("postmark", func(s *simulate.Source) { s.BasicAuth = "user" }), simulate.Options{}, "basic_auth"},
		{"sendgrid with RSA", source("sendgrid", func(s *simulate.Source) { s.PrivateKeyPEM = keys.File("sns.key.pem") }), simulate.Options{}, "ECDSA"},
		{"sendgrid without PEM", source("sendgrid", func(s *simulate.Source) { s.PrivateKeyPEM = nil }), simulate.Options{}, "PEM"},
		{"ses with EC", source("ses", func(s *simulate.Source) { s.PrivateKeyPEM = keys.File("sendgrid.key.pem") }), simulate.Options{}, "RSA"},
		{"ses without topic", source("ses", func(s *simulate.Source) { s.TopicARN = "arn" }), simulate.Options{}, "topic"},
		{"ses without cert url", source("ses", func(s *simulate.Source) { s.CertURL = "" }), simulate.Options{}, "cert url"},
		{"negative events", source("mailgun", func(*simulate.Source) {}), simulate.Options{Events: -1}, "events"},
		{"duplicates above one", source("mailgun", func(*simulate.Source) {}), simulate.Options{Duplicates: 1.1}, "duplicates"},
		{"reorder below zero", source("mailgun", func(*simulate.Source) {}), simulate.Options{Reorder: -0.1}, "reorder"},
		{"negative span", source("mailgun", func(*simulate.Source) {}), simulate.Options{Span: -time.Second}, "span"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := simulate.Generate(tt.sources, tt.opt)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Generate() = %v, want an error about %q", err, tt.want)
			}
		})
	}
}

func TestGenerate_defaultStartIsRecent(t *testing.T) {
	requests, err := simulate.Generate(only(newKeys(t).Sources(base, certHost), "postmark"), simulate.Options{Seed: 1, Events: 500})
	if err != nil {
		t.Fatal(err)
	}
	for r := range requests {
		if age := time.Since(r.Truth[0].OccurredAt); age < 0 || age > time.Hour {
			t.Fatalf("event is %s old, want it over and recent", age)
		}
	}
}

// The memory of a run is that of its open stories and its windows, however many
// events there are.
func TestGenerate_memoryIsBounded(t *testing.T) {
	sources := newKeys(t).Sources(base, certHost)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var early, late uint64
	n := 0
	for r := range generate(t, sources, simulate.Options{Seed: 1, Events: 200_000, Duplicates: 0.05, Reorder: 0.05, Unsigned: true}) {
		was := n / 20_000
		n += r.Distinct
		if n/20_000 == was {
			continue
		}
		switch used := heap() - min(before, heap()); {
		case n <= 100_000:
			early = max(early, used)
		default:
			late = max(late, used)
		}
	}
	if late > 2*early+(8<<20) || late > 128<<20 {
		t.Errorf("heap is %d MiB in the second half, %d MiB in the first", late>>20, early>>20)
	}
}

// The truth would prove nothing if it came from the parsers that it is to judge.
func TestImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"mailriver/pkg/event", "mailriver/pkg/simulate"}
	for dep := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(dep, "mailriver/") && !slices.Contains(allowed, dep) || strings.Contains(strings.Split(dep, "/")[0], ".") {
			t.Errorf("depends on %s, which is neither the standard library nor %v", dep, allowed)
		}
	}
}

func BenchmarkGenerate(b *testing.B) {
	sources := newKeys(b).Sources(base, certHost)
	for _, s := range append([]simulate.Source{{Provider: "all"}}, sources...) {
		b.Run(s.Provider, func(b *testing.B) {
			from := sources
			if s.Name != "" {
				from = []simulate.Source{s}
			}
			b.ReportAllocs()
			size := 0
			for r := range generate(b, from, simulate.Options{Seed: 1, Events: b.N}) {
				size += len(r.Body)
			}
			b.SetBytes(int64(size / b.N))
		})
	}
}

// A message to several people lists nobody twice: both would be one event.
func TestGenerate_listsNobodyTwice(t *testing.T) {
	source := only(newKeys(t).Sources(base, certHost), "ses")
	several := 0
	for r := range generate(t, source, simulate.Options{Seed: 99, Events: 120_000, Unsigned: true}) {
		for i, e := range r.Truth {
			for _, other := range r.Truth[:i] {
				several++
				if e.ID == other.ID {
					t.Fatalf("two events with id %s in\n%s", e.ID, r.Body)
				}
			}
		}
	}
	if several == 0 {
		t.Error("no message went to several people")
	}
}
