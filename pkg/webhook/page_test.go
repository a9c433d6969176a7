package webhook_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"mailriver/pkg/webhook"
)

// The bodies and the signature that docs/lead-webhooks.md shows are those of this
// build, and the signature fits.
func TestPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/lead-webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	s := signal()
	s.Profile, s.Event.URL = "marketing", "https://shop.example/pricing"
	for _, template := range []string{"generic", "hubspot", "salesforce"} {
		e := webhook.Endpoint{Template: template}
		body, err := e.Body(&s)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(page, "\n"+string(body)+"\n") {
			t.Errorf("the page does not show the body of the template %s:\n%s", template, body)
		}
	}
	header := http.Header{}
	for _, m := range regexp.MustCompile(`(?m)^(webhook-\w+): (.+)$`).FindAllStringSubmatch(page, -1) {
		header.Set(m[1], m[2])
	}
	receiver, err := standardwebhooks.NewWebhook(regexp.MustCompile(`whsec_\w{32}`).FindString(page))
	if err != nil {
		t.Fatal(err)
	}
	e := webhook.Endpoint{}
	body, err := e.Body(&s)
	if err != nil {
		t.Fatal(err)
	}
	if err := receiver.VerifyIgnoringTimestamp(body, header); err != nil {
		t.Errorf("the signature on the page does not fit: %v", err)
	}
}
