package ses_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/esplist"
	"mailriver/pkg/esplist/esplisttest"
	"mailriver/pkg/esplist/ses"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

var at = time.Date(2026, 11, 1, 8, 30, 0, 250_000_000, time.UTC)

func start(t *testing.T) esplisttest.Fixture {
	s := esplisttest.NewSES(t)
	var want []suppression.Entry
	for i := range 7 {
		e := suppression.Entry{
			Address: string(rune('a'+i)) + "@example.com", ScopeKind: event.ScopeAddress,
			Reason: suppression.HardBounce, Since: at.Add(time.Duration(i) * time.Minute), Provider: "ses",
		}
		native := "BOUNCE"
		switch i {
		case 2:
			native, e.Reason = "COMPLAINT", suppression.Complaint
		case 3:
			native, e.Reason = "A_NEW_REASON", suppression.ProviderList
		}
		s.Put(e.Address, native, e.Since)
		want = append(want, e)
	}
	return esplisttest.Fixture{
		Server: s.Server, Key: s.SecretAccessKey, Want: want,
		Client: func(t *testing.T, key string, transport esplist.Transport) esplist.Client {
			return client(t, ses.Options{
				Region: s.Region, AccessKeyID: s.AccessKeyID, SecretAccessKey: key, BaseURL: s.URL, Transport: transport,
			})
		},
	}
}

func client(t *testing.T, o ses.Options) *ses.Client {
	t.Helper()
	c, err := ses.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClient(t *testing.T) { esplisttest.Run(t, start) }

func TestNew(t *testing.T) {
	good := ses.Options{Region: "eu-west-1", AccessKeyID: "id", SecretAccessKey: "secret"}
	if _, err := ses.New(good); err != nil {
		t.Errorf("New = %v", err)
	}
	tests := []struct {
		name   string
		change func(*ses.Options)
	}{
		{"no region", func(o *ses.Options) { o.Region = "" }},
		{"a region that leads elsewhere", func(o *ses.Options) { o.Region = "x.example.com/" }},
		{"no key id", func(o *ses.Options) { o.AccessKeyID = "" }},
		{"no secret", func(o *ses.Options) { o.SecretAccessKey = "" }},
		{"not encrypted", func(o *ses.Options) { o.BaseURL = "http://example.com" }},
		{"a user in the URL", func(o *ses.Options) { o.BaseURL = "https://u:secret@example.com" }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := good
			test.change(&o)
			if _, err := ses.New(o); err == nil || strings.Contains(err.Error(), "secret@") {
				t.Errorf("New = %v, want an error that shows no secret", err)
			}
		})
	}
}

// Temporary credentials have a token, which must be sent and signed.
func TestClient_sessionToken(t *testing.T) {
	s := esplisttest.NewSES(t)
	c := client(t, ses.Options{
		Region: s.Region, AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey, SessionToken: "token",
		BaseURL: s.URL,
	})
	esplisttest.List(t, c)
	header := s.Headers()[0]
	if got := header.Get("X-Amz-Security-Token"); got != "token" {
		t.Errorf("X-Amz-Security-Token = %q, want token", got)
	}
	if got := header.Get("Authorization"); !strings.Contains(got, "x-amz-security-token") {
		t.Errorf("Authorization = %q, want the token signed", got)
	}
}

// SES says "later" with 400, too; and an expired token is no fault of one
// address.
func TestClient_Add_status400(t *testing.T) {
	entries := []suppression.Entry{
		{Address: "a@example.com", ScopeKind: event.ScopeAddress, Reason: suppression.Manual},
		{Address: "b@example.com", ScopeKind: event.ScopeAddress, Reason: suppression.Manual},
	}
	refusal := func(kind string) esplisttest.Answer {
		return esplisttest.Answer{
			Status: http.StatusBadRequest, Header: map[string]string{"X-Amzn-Errortype": kind + ":"}, Body: `{"message":"no"}`,
		}
	}
	f := start(t)
	clock := &esplisttest.Clock{At: esplisttest.Noon}
	c := f.Client(t, f.Key, clock.Transport())

	f.Server.Next(refusal("ThrottlingException"))
	if results, err := c.Add(t.Context(), entries); err != nil || len(results) != 2 || results[0].Refused != "" {
		t.Errorf("Add = %+v, %v, want both added", results, err)
	}
	if got, want := clock.Slept(), []time.Duration{375 * time.Millisecond}; !slices.Equal(got, want) {
		t.Errorf("slept %v, want %v", got, want)
	}

	f.Server.Next(esplisttest.Answer{}, refusal("ExpiredTokenException"))
	results, err := c.Add(t.Context(), entries)
	if err == nil || !strings.Contains(err.Error(), "ExpiredToken") || len(results) != 1 {
		t.Errorf("Add = %+v, %v, want one result and an error", results, err)
	}
}
