package webhook_test

import (
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"mailriver/pkg/config"
	"mailriver/pkg/webhook"
)

func endpoint() webhook.Endpoint {
	return webhook.Endpoint{
		Name: "crm", URL: "https://crm.example.com/hook", Secrets: []config.Secret{config.NewSecret("${env:HOOK}")},
	}
}

// The contract of the configuration, as it is documented.
func TestEndpoint_yaml(t *testing.T) {
	var list []webhook.Endpoint
	text := `- { name: crm, url: "https://crm.example.com/hook", secrets: ["whsec_x"], profiles: [marketing], stages: [hot],
    campaigns: [spring], template: generic, allow_private: true, timeout: 5s, headers: { Authorization: "Bearer x" } }`
	if err := yaml.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	e := list[0]
	if err := e.Validate(); err != nil {
		t.Errorf("Validate() = %v, want nil", err)
	}
	if e.Name != "crm" || len(e.Secrets) != 1 || e.Profiles[0] != "marketing" || e.Stages[0] != "hot" ||
		e.Campaigns[0] != "spring" || !e.AllowPrivate || e.Timeout != 5*time.Second || len(e.Headers) != 1 {
		t.Errorf("the endpoint is %+v", e)
	}
}

func TestEndpoint_Validate(t *testing.T) {
	e := endpoint()
	if err := e.Validate(); err != nil {
		t.Errorf("Validate() = %v, want nil", err)
	}
	for _, tt := range []struct {
		change func(*webhook.Endpoint)
		want   string
	}{
		{func(e *webhook.Endpoint) { e.Name = "a b" }, "name: is \"a b\""},
		{func(e *webhook.Endpoint) { e.Name = "" }, "name: is \"\""},
		{func(e *webhook.Endpoint) { e.URL = "crm.example.com" }, "url: must be https://host/path"},
		{func(e *webhook.Endpoint) { e.URL = "http://crm.example.com" }, "url: must begin with https://"},
		{func(e *webhook.Endpoint) { e.URL, e.AllowPrivate = "file:///x", true }, "url: must be https://host/path"},
		{func(e *webhook.Endpoint) { e.URL, e.AllowPrivate = "gopher://x", true }, "url: must begin with https://"},
		{func(e *webhook.Endpoint) { e.URL = "https://u:p@crm.example.com" }, "url: must have no user"},
		{func(e *webhook.Endpoint) { e.Secrets = nil }, "secrets: at least one"},
		{func(e *webhook.Endpoint) { e.Secrets = []config.Secret{{}} }, "secrets[0]: is empty"},
		{func(e *webhook.Endpoint) { e.Template = "pipedrive" }, "template: is \"pipedrive\""},
		{func(e *webhook.Endpoint) { e.Timeout = time.Minute }, "timeout: is 1m0s"},
		{func(e *webhook.Endpoint) { e.Timeout = -1 }, "timeout: is -1ns"},
		{func(e *webhook.Endpoint) { e.Headers = map[string]config.Secret{"webhook-id": {}} }, "headers: webhook-id cannot be set"},
		{func(e *webhook.Endpoint) { e.Headers = map[string]config.Secret{"a b": {}} }, "headers: \"a b\" is no name"},
	} {
		e := endpoint()
		tt.change(&e)
		if err := e.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Validate() = %v, want %q in it", err, tt.want)
		}
	}
}

func TestEndpoint_Wants(t *testing.T) {
	s := signal()
	for _, tt := range []struct {
		e    webhook.Endpoint
		want bool
	}{
		{webhook.Endpoint{}, true},
		{webhook.Endpoint{Profiles: []string{"Self-Serve"}, Stages: []string{"warm", "hot"}, Campaigns: []string{"spring"}}, true},
		{webhook.Endpoint{Profiles: []string{"marketing"}}, false},
		{webhook.Endpoint{Stages: []string{"warm"}}, false},
		{webhook.Endpoint{Campaigns: []string{"summer"}}, false},
	} {
		if got := tt.e.Wants(&s); got != tt.want {
			t.Errorf("Wants(%+v) = %t, want %t", tt.e, got, tt.want)
		}
	}
}

func TestEndpoint_Fingerprint(t *testing.T) {
	first := endpoint()
	for name, tt := range map[string]struct {
		change func(*webhook.Endpoint)
		same   bool
	}{
		"nothing": {func(*webhook.Endpoint) {}, true},
		"secrets": {func(e *webhook.Endpoint) { e.Secrets = []config.Secret{config.NewSecret("other")} }, true},
		"url":     {func(e *webhook.Endpoint) { e.URL += "2" }, false},
		"stages":  {func(e *webhook.Endpoint) { e.Stages = []string{"hot"} }, false},
	} {
		e := endpoint()
		tt.change(&e)
		if got := e.Fingerprint() == first.Fingerprint(); got != tt.same {
			t.Errorf("%s: the fingerprint is the same = %t, want %t", name, got, tt.same)
		}
	}
}
