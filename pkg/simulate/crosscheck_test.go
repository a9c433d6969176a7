package simulate_test

import (
	"context"
	"errors"
	"net/textproto"
	"testing"
	"time"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/all"
	"mailriver/pkg/esp/ses"
	"mailriver/pkg/machine"
	"mailriver/pkg/simulate"
)

// The package does not know the parsers, so that they and it can be held against
// each other. Where they differ, the rules of the vendor say who is wrong.

func provider(t *testing.T, name string) esp.Provider {
	t.Helper()
	p, ok := all.ByName(name)
	if !ok {
		t.Fatalf("no provider %s", name)
	}
	return p
}

func webhook(r simulate.Request, received time.Time) esp.Webhook {
	return esp.Webhook{Source: r.Source, Header: textproto.MIMEHeader(r.Header), Body: r.Body, ReceivedAt: received}
}

func TestParsersAgree(t *testing.T) {
	keys := newKeys(t)
	for _, source := range keys.Sources(base, certHost) {
		t.Run(source.Provider, func(t *testing.T) {
			p := provider(t, source.Provider)
			shown := map[string]int{} // a field that is wrong is wrong a thousand times
			opt := simulate.Options{Seed: 1, Events: 3000, Duplicates: 0.02, Unsigned: true}
			for r := range generate(t, []simulate.Source{source}, opt) {
				got, err := p.Parse(webhook(r, start.Add(time.Hour)))
				if err != nil || len(got.Rejected) > 0 || len(got.Events) != len(r.Truth) {
					t.Fatalf("Parse() = %d events, %v, %v, want %d events of\n%.800s", len(got.Events), got.Rejected, err, len(r.Truth), r.Body)
				}
				for i, want := range r.Truth {
					// The normalizer fills these in.
					got.Events[i].RecipientNormalized = want.RecipientNormalized
					got.Events[i].RecipientDomain = want.RecipientDomain
					if verdict, evidence := machine.Stateless(&got.Events[i]); verdict != "" {
						got.Events[i].Machine, got.Events[i].MachineEvidence = verdict, evidence
					}
					for _, diff := range simulate.Compare(want, got.Events[i]) {
						key := string(want.Type) + diff.Field
						if shown[key]++; shown[key] == 1 {
							t.Errorf("%s, %s: %s, in\n%.1500s", want.NativeEventType, want.Type, diff, r.Body)
						}
					}
				}
			}
		})
	}
}

func TestVerifiersAgree(t *testing.T) {
	keys := newKeys(t)
	now := time.Now() // the SNS certificate is of today
	sources := keys.Sources(base, certHost)
	verifiers := map[string]esp.Verifier{}
	for _, s := range sources {
		p := provider(t, s.Provider)
		if p.NewVerifier == nil {
			continue
		}
		c := keys.Configured(s.Provider, s.Endpoint, certHost)
		settings := esp.Settings{
			Keys: c.Keys, URL: c.URL, TopicARNs: c.TopicARNs, CertHosts: c.CertHosts,
			Now: func() time.Time { return now },
			Fetch: func(_ context.Context, url string) ([]byte, error) {
				if url != s.CertURL {
					return nil, errors.New("not there")
				}
				return keys.File("sns.cert.pem"), nil
			},
		}
		verifier, err := p.NewVerifier(settings)
		if err != nil {
			t.Fatalf("%s: %v", s.Provider, err)
		}
		verifiers[s.Provider] = verifier
	}
	seen := map[string]map[bool]int{}
	for r := range generate(t, sources, simulate.Options{Seed: 13, Events: 1200, Duplicates: 0.2, Forgeries: 0.5, Start: now.Add(-20 * time.Minute)}) {
		verifier := verifiers[r.Provider]
		if verifier == nil {
			continue // it signs nothing
		}
		_, err := verifier.Verify(t.Context(), webhook(r, now))
		if err != nil != r.Forged || err != nil && !errors.Is(err, esp.ErrNotGenuine) {
			t.Fatalf("%s: Verify(forged %t) = %v", r.Provider, r.Forged, err)
		}
		if seen[r.Provider] == nil {
			seen[r.Provider] = map[bool]int{}
		}
		seen[r.Provider][r.Forged]++
	}
	for name := range verifiers {
		if seen[name][true] == 0 || seen[name][false] == 0 {
			t.Errorf("%s: verified %v requests, want genuine and forged ones", name, seen[name])
		}
	}
}

func TestVerifiersAgree_confirmation(t *testing.T) {
	keys, now := newKeys(t), time.Now()
	source := only(keys.Sources(base, certHost), "ses")[0]
	verifier, err := ses.Provider.NewVerifier(esp.Settings{
		TopicARNs: []string{keys.Text("sns.topic")}, CertHosts: []string{certHost},
		Now:   func() time.Time { return now },
		Fetch: func(context.Context, string) ([]byte, error) { return keys.File("sns.cert.pem"), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	subscribe := "https://" + certHost + "/?Action=ConfirmSubscription&Token=7a7a&TopicArn=" + keys.Text("sns.topic")
	r, err := simulate.Confirmation(source, subscribe, "7a7a", now)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := verifier.Verify(t.Context(), webhook(r, now))
	if err != nil || verified.ConfirmURL != subscribe {
		t.Errorf("Verify(confirmation) = %q, %v, want to confirm at %s", verified.ConfirmURL, err, subscribe)
	}
}
