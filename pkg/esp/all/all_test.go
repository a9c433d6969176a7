package all_test

import (
	"context"
	"net/http"
	"net/textproto"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/all"
	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/esp/mailriver"
)

// What holds for every provider. Their own tests hold the facts.
func TestProviders(t *testing.T) {
	name := regexp.MustCompile(`^[a-z][a-z0-9]*$`)
	seen := map[string]bool{}
	for _, p := range all.Providers() {
		t.Run(p.Name, func(t *testing.T) {
			if !name.MatchString(p.Name) || seen[p.Name] {
				t.Errorf("name %q is taken or not a plain word", p.Name)
			}
			seen[p.Name] = true
			if p.Title == "" || p.MaxBody <= 0 || p.Parse == nil || len(p.Types) == 0 {
				t.Errorf("title %q, max body %d, parse set %t, %d types: all are required", p.Title, p.MaxBody, p.Parse != nil, len(p.Types))
			}
			if facts := p.Facts; !p.Own && (facts.Authentication == "" || facts.Batch == "" || facts.Retries == "") {
				t.Errorf("facts are %+v, want all three", facts)
			}
			if p.Answers.Refuse < 400 || p.Answers.Refuse > 499 {
				t.Errorf("a forgery is answered %d, want a 4xx", p.Answers.Refuse)
			}
			if p.Answers.Retry != http.StatusServiceUnavailable && p.Answers.Retry != http.StatusTooManyRequests {
				t.Errorf("an overload is answered %d, want 503 or 429", p.Answers.Retry)
			}
			if p.Signs != (p.NewVerifier != nil) {
				t.Errorf("signs = %t, and NewVerifier set = %t", p.Signs, p.NewVerifier != nil)
			}
			for _, h := range p.Headers {
				switch textproto.CanonicalMIMEHeaderKey(h) {
				case "Authorization", "Cookie":
					t.Errorf("header %s must never be kept", h)
				}
			}
			if p.Own && (p.Name != mailriver.Source || p.Signs || len(p.Headers) > 0) {
				t.Errorf("own changes are of %q, sign %t, keep headers %q; want %q, and neither", p.Name, p.Signs, p.Headers, mailriver.Source)
			}
			got, ok := all.ByName(p.Name)
			if !ok || got.Title != p.Title {
				t.Errorf("ByName(%q) = %q, %t", p.Name, got.Title, ok)
			}
			if fixtures := esptest.Fixtures(t, filepath.Join("..", p.Name, "testdata")); len(fixtures) < len(p.Types) {
				t.Errorf("%d fixtures for %d types", len(fixtures), len(p.Types))
			}
		})
	}
	if _, ok := all.ByName("nobody"); ok {
		t.Error("ByName(nobody) = true")
	}
}

// Own changes are the one provider that no endpoint accepts. Red when a real
// provider is marked so, which would refuse its sources, or when the mark is
// lost, which would let anybody suppress and lift.
func TestProviders_own(t *testing.T) {
	var own []string
	for _, p := range all.Providers() {
		if p.Own {
			own = append(own, p.Name)
		}
	}
	if len(own) != 1 || own[0] != mailriver.Source {
		t.Errorf("own providers are %q, want %q alone", own, mailriver.Source)
	}
}

// A provider that signs refuses settings without anything to verify by, and
// does not repeat a key in its error.
func TestProviders_settings(t *testing.T) {
	const bad = "SECRET-not-a-key"
	for _, p := range all.Providers() {
		if !p.Signs {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			base := esp.Settings{
				Now: time.Now,
				Fetch: func(context.Context, string) ([]byte, error) {
					t.Error("fetched something before any webhook")
					return nil, nil
				},
			}
			if v, err := p.NewVerifier(base); err == nil {
				t.Errorf("NewVerifier() without keys = %v, want an error", v)
			}
			base.Keys = []string{bad, ""}
			if _, err := p.NewVerifier(base); err != nil && regexp.MustCompile(bad).MatchString(err.Error()) {
				t.Errorf("the error repeats the key: %v", err)
			}
		})
	}
}
