package main

import (
	"strings"
	"testing"

	"mailriver/pkg/config"
	"mailriver/pkg/httpserver/api"
)

// What the command prints is what the configuration reads, and the key opens
// what it says.
func TestAPIKeyNew(t *testing.T) {
	t.Chdir(t.TempDir())
	got := call(t, nil, "api-key", "new", "--name", "crm", "--scope", "read")
	key, section, _ := strings.Cut(got.out, "\n\n")
	var parsed struct {
		API api.Config `yaml:",inline"`
	}
	if err := config.Parse(&parsed, "mailriver.yaml", []byte(section), nil); err != nil {
		t.Fatalf("api-key new = %+v: %v", got, err)
	}
	want := api.Key{Name: "crm", Hash: api.HashKey(key), Scopes: []api.Scope{api.Read}}
	if got.status != 0 || got.errors != "" || len(parsed.API.Keys) != 1 {
		t.Fatalf("api-key new = %+v, want one key", got)
	}
	if k := parsed.API.Keys[0]; k.Name != want.Name || k.Hash != want.Hash || len(k.Scopes) != 1 || k.Scopes[0] != api.Read {
		t.Errorf("api-key new = %+v for %s, want %+v", k, key, want)
	}
	if _, err := api.NewGuard(parsed.API.Keys); err != nil || !strings.HasPrefix(key, api.KeyPrefix) {
		t.Errorf("api-key new = %q, %v, want a valid key", key, err)
	}
}

func TestAPIKeyNew_usage(t *testing.T) {
	t.Chdir(t.TempDir())
	const hint = "\nrun `mailriver api-key new --help` for how to use it\n"
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "name: is missing: changes made with the key are recorded under it"},
		{[]string{"--name", "cli"}, `name: is "cli", which is recorded for changes that were made without a key`},
		{
			[]string{"--name", "a/b", "--scope", "read,admin"},
			`name: is "a/b", must be 1 to 64 letters, digits, dots, underscores and hyphens` + "\n" +
				`scope: is "admin", must be read or write`,
		},
		{[]string{"--name", "a", "--scope", ""}, "scope: is empty, must be read, write or both"},
	} {
		got := call(t, nil, append([]string{"api-key", "new"}, tt.args...)...)
		if want := (said{2, "", "mailriver: " + tt.want + hint}); got != want {
			t.Errorf("mailriver api-key new %q =\n%+v, want\n%+v", tt.args, got, want)
		}
	}
}
