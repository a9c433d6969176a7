package webhook_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mailriver/pkg/webhook"
)

func signal() webhook.Signal {
	return webhook.Signal{
		ID: "3f0e1a34-7d1c-5d5a-9a57-0d6c1b1f0a01", Recipient: "ada@example.com", Profile: "Self-Serve", Stage: "hot",
		Direction: webhook.Up, Score: 62.5, OccurredAt: time.Date(2026, 11, 24, 12, 0, 0, 123_456_000, time.UTC),
		Event: webhook.Event{
			ID: "0b1cbb8c-58b2-5d3a-8d4e-1f6f4c5d6e7f", Type: "clicked", Provider: "sendgrid", Source: "sendgrid",
			CampaignID: "spring", URL: "https://shop.example/pricing?a=1&b=<2>",
		},
	}
}

// The files are what the pages of the vendors, cited in template.go, ask for.
func TestBody(t *testing.T) {
	left := signal()
	left.Direction, left.Score, left.Event.CampaignID, left.Event.URL = webhook.Down, 1.0/3, "", ""
	for _, template := range []string{"generic", "hubspot", "salesforce"} {
		for name, s := range map[string]webhook.Signal{"entered": signal(), "left": left} {
			e := webhook.Endpoint{Template: template}
			body, err := e.Body(&s)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, body, "", "  "); err != nil {
				t.Fatalf("Body(%s) is no JSON: %v", template, err)
			}
			want, err := os.ReadFile(filepath.Join("testdata", template+"_"+name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			if got.String()+"\n" != string(want) {
				t.Errorf("Body(%s, %s) =\n%s\nwant\n%s", template, name, got.String(), want)
			}
		}
	}
}
