package webhook

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// templates are the bodies by name.
var templates = map[string]func(*Signal) ([]byte, error){
	"generic":    generic,
	"hubspot":    hubspot,
	"salesforce": salesforce,
}

// generic has the members that Standard Webhooks recommends: type, timestamp and
// data.
func generic(s *Signal) ([]byte, error) {
	return compact(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      *Signal   `json:"data"`
	}{s.Type(), s.OccurredAt.UTC(), s})
}

// hubspot is the body of POST /crm/v3/objects/contacts/batch/upsert, and of
// .../batch/update, which makes no new contacts: one input with the address as
// its id
// (https://developers.hubspot.com/docs/api-reference/crm-contacts-v3/batch/post-crm-v3-objects-contacts-batch-upsert).
//
// A stage is a property of its own, true or false, because a signal says of one
// stage that it was entered or left, and not which one is the highest now.
// Values are texts there.
func hubspot(s *Signal) ([]byte, error) {
	profile := "mailriver_" + identifier(s.Profile)
	type input struct {
		IDProperty string            `json:"idProperty"`
		ID         string            `json:"id"`
		Properties map[string]string `json:"properties"`
	}
	return compact(struct {
		Inputs []input `json:"inputs"`
	}{[]input{{
		IDProperty: "email", ID: s.Recipient,
		Properties: map[string]string{
			profile + "_" + identifier(s.Stage): strconv.FormatBool(s.Direction == Up),
			profile + "_score":                  strconv.FormatFloat(s.Score, 'f', 2, 64),
			profile + "_at":                     s.OccurredAt.UTC().Format("2006-01-02T15:04:05.000Z"),
		},
	}}})
}

// identifier makes the part of a property's name: small letters, digits and _.
func identifier(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(text))
}

// salesforce is the body of POST /services/data/v63.0/sobjects/Mailriver_Signal__e/,
// which publishes a platform event
// (https://developer.salesforce.com/docs/atlas.en-us.platform_events.meta/platform_events/platform_events_publish_api.htm).
// The event is to be defined there with these fields.
func salesforce(s *Signal) ([]byte, error) {
	return compact(struct {
		ID         string  `json:"Signal_Id__c"`
		Type       string  `json:"Type__c"`
		Recipient  string  `json:"Recipient__c"`
		Profile    string  `json:"Profile__c"`
		Stage      string  `json:"Stage__c"`
		Score      float64 `json:"Score__c"`
		OccurredAt string  `json:"Occurred_At__c"`
		EventID    string  `json:"Event_Id__c"`
		EventType  string  `json:"Event_Type__c"`
		Campaign   string  `json:"Campaign_Id__c,omitempty"`
	}{
		s.ID, s.Type(), s.Recipient, s.Profile, s.Stage, s.Score,
		s.OccurredAt.UTC().Format("2006-01-02T15:04:05.000Z"), s.Event.ID, s.Event.Type, s.Event.CampaignID,
	})
}

// compact is JSON without line ends, and with & < > as they are: a URL stays
// readable.
func compact(v any) ([]byte, error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(body.Bytes(), []byte("\n")), nil
}
