package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/unsubscribe"
)

const linkKey = "link-key-0123456789abcdefghijklmnopqr"

func linkConfig(t *testing.T) string {
	t.Helper()
	return file(t, "mailriver.yaml", "unsubscribe:\n  keys: [\"${env:LINK_KEY}\"]\n  base_url: \"https://mail.example.com\"\n")
}

// opened is what a printed URL says.
func opened(t *testing.T, url string) unsubscribe.Link {
	t.Helper()
	keys, err := unsubscribe.NewKeys([]string{linkKey})
	if err != nil {
		t.Fatal(err)
	}
	token, ok := strings.CutPrefix(url, "https://mail.example.com/u/")
	if !ok {
		t.Fatalf("url = %q, want it below the base_url", url)
	}
	got, err := keys.Open(token, time.Now())
	if err != nil {
		t.Fatalf("Open(%s) = %v", token, err)
	}
	return got.Link
}

func TestUnsubscribeLink(t *testing.T) {
	config, environ := linkConfig(t), []string{"LINK_KEY=" + linkKey}
	began := time.Now().Truncate(time.Second)
	got := call(t, environ, "unsubscribe-link", "--config", config, "--address", "Ann@example.com")
	lines := strings.Split(got.out, "\n")
	if got.status != 0 || len(lines) != 5 || lines[0] != "Ann@example.com" || lines[2] != "List-Unsubscribe: <"+lines[1]+">" ||
		lines[3] != "List-Unsubscribe-Post: List-Unsubscribe=One-Click" || got.errors != "" {
		t.Fatalf("unsubscribe-link = %+v, want the address, the URL and the two headers", got)
	}
	link := opened(t, lines[1])
	if link.Address != "Ann@example.com" || link.ScopeKind != "account" || link.ScopeID != "" || !link.ExpiresAt.IsZero() ||
		link.IssuedAt.Before(began) || link.IssuedAt.After(time.Now()) {
		t.Errorf("the link says %+v, want all marketing mail to Ann, for ever, from now", link)
	}

	got = call(t, environ, "unsubscribe-link", "--config", config, "--address", "ann@example.com",
		"--scope-kind", "list", "--scope-id", "weekly", "--expires", "1h", "--output", "json")
	var list []struct {
		Address, URL string
		List         string `json:"list_unsubscribe"`
		Post         string `json:"list_unsubscribe_post"`
	}
	if err := json.Unmarshal([]byte(got.out), &list); err != nil || len(list) != 1 {
		t.Fatalf("unsubscribe-link --output json = %+v (%v)", got, err)
	}
	link = opened(t, list[0].URL)
	if link.ScopeKind != "list" || link.ScopeID != "weekly" || link.ExpiresAt.Sub(link.IssuedAt) != time.Hour ||
		list[0].List != "<"+list[0].URL+">" || list[0].Post != "List-Unsubscribe=One-Click" {
		t.Errorf("unsubscribe-link = %+v, which says %+v", list[0], link)
	}
}

// The good lines of a file become links, in order; the bad ones are told by
// their number, and the status says that there were some.
func TestUnsubscribeLink_file(t *testing.T) {
	config, environ := linkConfig(t), []string{"LINK_KEY=" + linkKey}
	addresses := file(t, "addresses.txt", "ann@example.com\r\n\n  bob@example.com \nnobody\nпочта@пример.example\n")
	got := call(t, environ, "unsubscribe-link", "--config", config, "--file", addresses, "--output", "csv")
	if got.status != 1 || got.errors != "mailriver: line 4: address: is not an email address\n" {
		t.Errorf("unsubscribe-link --file = %d, %q, want 1 and line 4", got.status, got.errors)
	}
	rows, err := csv.NewReader(strings.NewReader(got.out)).ReadAll()
	if err != nil || len(rows) != 4 || fmt.Sprint(rows[0]) != fmt.Sprint(linkColumns()) {
		t.Fatalf("unsubscribe-link --file printed %q (%v)", got.out, err)
	}
	for i, want := range []string{"ann@example.com", "bob@example.com", "почта@пример.example"} {
		if row := rows[i+1]; row[0] != want || opened(t, row[1]).Address != want {
			t.Errorf("row %d = %q, want the link of %s", i, row, want)
		}
	}

	many := file(t, "many.txt", strings.Repeat("nobody\n", maxToldLines+3))
	got = call(t, environ, "unsubscribe-link", "--config", config, "--file", many)
	if got.status != 1 || got.out != "" || strings.Count(got.errors, "\n") != maxToldLines+1 || !strings.HasSuffix(got.errors, "\nand 3 lines more\n") {
		t.Errorf("unsubscribe-link of bad lines only = %+v, want %d of them told", got, maxToldLines)
	}
}

func TestUnsubscribeLink_errors(t *testing.T) {
	t.Chdir(t.TempDir()) // no mailriver.yaml
	config := linkConfig(t)
	const help = "run `mailriver unsubscribe-link --help` for how to use it\n"
	tests := []struct {
		name string
		args []string
		want said
	}{
		{"nobody", nil, said{2, "", "mailriver: one of --address and --file is required\n" + help}},
		{"both", []string{"--address", "a@example.com", "--file", "f"}, said{2, "", "mailriver: one of --address and --file is required\n" + help}},
		{"no address", []string{"--address", "ann", "--config", config}, said{2, "", "mailriver: address: is not an email address\n" + help}},
		{
			"no such scope",
			[]string{"--address", "a@example.com", "--scope-kind", "galaxy"},
			said{2, "", "mailriver: scope_kind: is \"galaxy\", must be one of address, account, subaccount, domain, stream, list, group, topic, tag\n" + help},
		},
		{
			"a list without id",
			[]string{"--file", "f", "--scope-kind", "list"},
			said{2, "", "mailriver: scope_id: is required with the scope_kind \"list\"\n" + help},
		},
		{"expired", []string{"--address", "a@example.com", "--expires", "-1h"}, said{2, "", "mailriver: expires: is -1h0m0s, must not be negative\n" + help}},
		{"output", []string{"--output", "xml"}, said{2, "", "mailriver: output: is \"xml\", must be table, json or csv\n" + help}},
		{
			"nothing configured",
			[]string{"--address", "a@example.com"},
			said{2, "", "mailriver: configuration: unsubscribe.keys: at least one is required to make links; `openssl rand -base64 32` makes one\n" +
				"unsubscribe.base_url: is required to make links\n"},
		},
		{
			"no such file",
			[]string{"--file", "absent.txt", "--config", config},
			said{1, "", "mailriver: open absent.txt: no such file or directory\n"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := call(t, []string{"LINK_KEY=" + linkKey}, append([]string{"unsubscribe-link"}, tt.args...)...)
			if got != tt.want {
				t.Errorf("unsubscribe-link %q =\n%+v\nwant\n%+v", tt.args, got, tt.want)
			}
		})
	}
}
