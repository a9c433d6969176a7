package assembly

import (
	"strings"
	"testing"
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// Everything that is wrong with a list is said, without a look at its secrets:
// the machine that checks the configuration need not be the one that syncs.
func TestConfig_suppressionSync(t *testing.T) {
	secret := config.NewSecret("${file:/nowhere/key}")
	good := []SyncList{
		{Name: "ses", Provider: "ses", Key: secret, AccessKeyID: "AKIA", Region: "eu-west-1", Sources: []string{"aws"}},
		{Name: "sg", Provider: "sendgrid", Key: secret, Groups: []string{"12"}},
		{Name: "pm", Provider: "postmark", Key: secret, Stream: "outbound"},
		{Name: "mg", Provider: "mailgun", Key: secret, Domain: "mg.example.com", BaseURL: "https://api.eu.mailgun.net"},
	}
	if err := checkLists(good, []string{"aws"}); err != nil {
		t.Errorf("checkLists() = %v, want nil", err)
	}
	for want, list := range map[string]SyncList{
		`provider: is "mandrill", must be one of ses, sendgrid, postmark, mailgun`: {Name: "x", Provider: "mandrill"},
		"key: is required": {Name: "x", Provider: "mailgun", Domain: "mg.example.com"},
		"stream: is for postmark only\nsuppression_sync[0] (x): key: is required": {Name: "x", Provider: "sendgrid", Stream: "y"},
		"access_key_id: is required":                         {Name: "x", Provider: "ses", Key: secret, Region: "eu-west-1"},
		`region: is "", must be one such as eu-west-1`:       {Name: "x", Provider: "ses", Key: secret, AccessKeyID: "A"},
		`domain: is "", must be a sending domain`:            {Name: "x", Provider: "mailgun", Key: secret},
		`stream: is "", must be the id of a message stream`:  {Name: "x", Provider: "postmark", Key: secret},
		"base URL must be https://host":                      {Name: "x", Provider: "sendgrid", Key: secret, BaseURL: "http://example.com"},
		`sources: "nope" is no source of this configuration`: {Name: "x", Provider: "sendgrid", Key: secret, Sources: []string{"nope"}},
		`session_token: is for ses only`:                     {Name: "x", Provider: "sendgrid", Key: secret, SessionToken: secret},
	} {
		err := checkLists([]SyncList{list}, nil)
		if err == nil || err.Error() != "suppression_sync[0] (x): "+want {
			t.Errorf("checkLists(%+v) = %v, want %s", list, err, want)
		}
	}
	twice := []SyncList{good[1], good[1], {Provider: "sendgrid", Key: secret}}
	want := "suppression_sync[1] (sg): name: is there twice\nsuppression_sync[2] (): name: is required"
	if err := checkLists(twice, nil); err == nil || err.Error() != want {
		t.Errorf("checkLists() = %v, want %s", err, want)
	}
}

func TestFindSyncList(t *testing.T) {
	cfg := Config{SuppressionSync: []SyncList{
		{Name: "one", Provider: "mailgun"}, {Name: "two", Provider: "mailgun"}, {Name: "three", Provider: "ses"},
	}}
	for _, tt := range []struct{ provider, name, want, err string }{
		{"ses", "", "three", ""},
		{"mailgun", "two", "two", ""},
		{"mailgun", "", "", "list: is required: mailgun has one, two"},
		{"mailgun", "three", "", `list: is "three"; the lists of mailgun are one, two`},
		{"postmark", "", "", "configuration: suppression_sync: has no list of postmark: say how its API is reached"},
	} {
		got, err := FindSyncList(cfg, tt.provider, tt.name)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got.Name != tt.want || text != tt.err {
			t.Errorf("FindSyncList(%s, %s) = %q, %q, want %q, %q", tt.provider, tt.name, got.Name, text, tt.want, tt.err)
		}
	}
}

// The same entry is the same change at any time, and a good one whatever time it
// has. Red when the moment of the import is part of the id.
func TestImports(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	list := SyncList{Name: "mg", Provider: "mailgun"}
	entries := []suppression.Entry{
		{Address: "a@example.com", ScopeKind: event.ScopeAddress, Reason: suppression.Complaint, Since: now.Add(-time.Hour)},
		{Address: "b@example.com", ScopeKind: event.ScopeTag, ScopeID: "news", Reason: suppression.Unsubscribe},
		{Address: "c@example.com", ScopeKind: event.ScopeAddress, Since: now.Add(time.Hour)},
		{Address: "d@example.com", ScopeKind: event.ScopeAddress, Reason: suppression.HardBounce, Since: time.Unix(0, 0)},
	}
	first, later := imports(list, entries, now), imports(list, entries, now.Add(time.Minute))
	if err := mailriver.Validate(first); err != nil {
		t.Errorf("Validate() = %v, want nil", err)
	}
	ids := map[event.ID]bool{}
	for i := range first {
		ids[first[i].ID] = true
		if first[i].ID != later[i].ID {
			t.Errorf("%s: id %s, and %s a minute later", entries[i].Address, first[i].ID, later[i].ID)
		}
		if first[i].At.After(now) || first[i].Origin != mailriver.OriginSync || !strings.HasSuffix(first[i].Note, "mailgun") {
			t.Errorf("change = %+v", first[i])
		}
	}
	if len(ids) != len(entries) || !first[0].At.Equal(entries[0].Since) || !first[1].At.Equal(now) || first[2].Reason != "provider_list" {
		t.Errorf("imports() = %+v", first)
	}
}
