package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/simulate"
	"mailriver/pkg/suppression"
	"mailriver/services/e2e/expect"
)

// entry is an entry as the API tells it.
type entry struct {
	ScopeKind string             `json:"scope_kind"`
	ScopeID   string             `json:"scope_id"`
	Reason    suppression.Reason `json:"reason"`
	Since     time.Time          `json:"since"`
	EventID   string             `json:"event_id"`
}

type suppressed struct {
	Suppressed bool    `json:"suppressed"`
	Entries    []entry `json:"entries"`
	AsOf       string  `json:"as_of"`
	Position   string  `json:"position"`
}

// configure adds sections to the configuration that need the river's addresses.
func (r *river) configure(text string) {
	r.t.Helper()
	r.rewrite(func(config string) string { return config + text })
}

// rewrite changes the configuration.
func (r *river) rewrite(change func(string) string) {
	r.t.Helper()
	text, err := os.ReadFile(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.config, []byte(change(string(text))), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// ask makes a request to the suppression API and returns the status.
func (r *river) ask(method, path string, body, into any) (status int, err error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, r.list+path, reader)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode >= 300 {
		return resp.StatusCode, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return resp.StatusCode, json.Unmarshal(text, into)
}

func (r *river) lookUp(address, query string) (suppressed, error) {
	var a suppressed
	_, err := r.ask(http.MethodGet, "/v1/suppressions/"+url.PathEscape(address)+query, nil, &a)
	return a, err
}

// said folds what is true with the policy, without any of the pipeline.
func said(truth map[event.ID]event.Event) map[string][]entry {
	list := expect.NewList(suppression.DefaultPolicy())
	for _, e := range truth {
		list.Add(&e)
	}
	want := map[string][]entry{}
	for address, entries := range list.Answers(time.Now()) {
		want[address] = nil
		for _, e := range entries {
			want[address] = append(want[address], entry{e.ScopeKind, e.ScopeID, e.Reason, e.Since, e.EventID})
		}
		sortEntries(want[address])
	}
	return want
}

// listed is what the table for analysts holds: the entries in force, by address.
func (r *river) listed() (map[string][]entry, error) {
	text, err := r.query(`SELECT address_folded, scope_kind, scope_id, e.1 AS reason, e.2 AS since, e.3 AS event_id
FROM
(
    SELECT *, arrayJoin(arrayZip(
        arrayConcat([reason], weaker.reason), arrayConcat([since], weaker.since),
        arrayConcat([event_id], weaker.event_id), arrayConcat([expires_at], weaker.expires_at))) AS e
    FROM mailriver.suppressions WHERE in_force
)
WHERE e.4 IS NULL OR e.4 > now() FORMAT JSONEachRow`)
	if err != nil {
		return nil, err
	}
	got := map[string][]entry{}
	dec := json.NewDecoder(strings.NewReader(text))
	for dec.More() {
		var row struct {
			Address string `json:"address_folded"`
			entry
		}
		if err := dec.Decode(&row); err != nil {
			return nil, err
		}
		got[row.Address] = append(got[row.Address], row.entry)
	}
	for _, entries := range got {
		sortEntries(entries)
	}
	return got, nil
}

func sameEntries(a, b []entry) bool {
	return slices.EqualFunc(a, b, func(a, b entry) bool {
		since := a.Since.Equal(b.Since)
		a.Since, b.Since = time.Time{}, time.Time{}
		return since && a == b
	})
}

func sortEntries(entries []entry) {
	slices.SortFunc(entries, func(a, b entry) int {
		return strings.Compare(a.ScopeKind+"\x00"+a.ScopeID+"\x00"+string(a.Reason), b.ScopeKind+"\x00"+b.ScopeID+"\x00"+string(b.Reason))
	})
}

// Promise 5 as a black box: what the list says about every recipient of a load
// of every provider, with copies, late and forged requests among them, is what
// the policy makes of the set of true events. Also after a kill of everything.
func TestSuppression_isWhatTheTruthSays(t *testing.T) {
	r := newRiver(t, "")
	r.start()
	requests, truth := r.generate(simulate.Options{Seed: 11, Events: 4000, Duplicates: 0.1, Reorder: 0.1, Forgeries: 0.02})
	half := len(requests) / 2
	post := func(requests []simulate.Request) {
		t.Helper()
		if summary, err := (simulate.Sender{}).Send(t.Context(), each(requests)); err != nil || summary.GivenUp != 0 {
			t.Fatalf("Send() = %+v, %v", summary, err)
		}
	}
	post(requests[:half])
	r.process.kill()
	r.start()
	post(requests[half:])

	want := said(truth)
	addresses := slices.Sorted(maps.Keys(want))
	entries := 0
	for _, list := range want {
		entries += len(list)
	}
	if entries < 20 {
		t.Fatalf("the load suppresses %d times only: it proves nothing", entries)
	}
	var answers map[string]suppressed
	eventually(t, "as the truth says", func() error {
		clear(answers)
		if _, err := r.ask(http.MethodPost, "/v1/suppressions/check", map[string]any{"addresses": addresses}, &answers); err != nil {
			return err
		}
		for _, address := range addresses {
			a := answers[address]
			sortEntries(a.Entries)
			if !sameEntries(a.Entries, want[address]) {
				return fmt.Errorf("%s: got %+v, want %+v", address, a.Entries, want[address])
			}
		}
		return nil
	})
	// And the table for analysts says of every address what the API says.
	eventually(t, "the table as the API", func() error {
		got, err := r.listed()
		if err != nil {
			return err
		}
		for _, address := range addresses {
			if !sameEntries(got[address], answers[address].Entries) {
				return fmt.Errorf("%s: the table has %+v, the API %+v", address, got[address], answers[address].Entries)
			}
			delete(got, address)
		}
		if len(got) > 0 {
			return fmt.Errorf("the table has %d addresses that nobody asked about: %+v", len(got), got)
		}
		return nil
	})
	text, err := r.query("SELECT count(), uniqExact(address, scope_kind, scope_id), countIf(in_force) FROM mailriver.suppressions")
	if err != nil {
		t.Fatal(err)
	}
	if counts := strings.Fields(text); len(counts) != 3 || counts[0] != counts[1] {
		t.Errorf("the table has %s rows, keys and rows in force, want a row for each key", text)
	}
}

// A complaint that arrives as a signed webhook stops mail to that address, and
// the list can say why. Then people change it: a lift by hand, and a recipient's
// click on an unsubscribe link.
func TestSuppression_complaint(t *testing.T) {
	r := newRiver(t, "")
	r.configure(fmt.Sprintf("unsubscribe: { keys: [%q], base_url: %q }\n", strings.Repeat("unguessable-", 4), r.receiver))
	r.start()
	var source simulate.Source
	for _, s := range r.sources() {
		if s.Provider == "mailgun" {
			source = s
		}
	}
	body := bytes.Replace(mailgunBody(t, source.Keys[0], "Jane@example.com"), []byte(`"delivered"`), []byte(`"complained"`), 1)
	posted := time.Now()
	resp, err := http.Post(source.Endpoint, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("POST = %s, want 200", resp.Status)
	}
	eventually(t, "suppressed", func() error {
		a, err := r.lookUp("jane@example.com", "")
		if err == nil && !a.Suppressed {
			err = fmt.Errorf("%+v", a)
		}
		return err
	})
	t.Logf("suppressed %s after the post", time.Since(posted).Round(10*time.Millisecond))
	eventually(t, "in the table", func() error {
		got, err := r.listed()
		if entries := got["jane@example.com"]; err == nil && (len(entries) != 1 || entries[0].Reason != suppression.Complaint) {
			err = fmt.Errorf("%+v", entries)
		}
		return err
	})
	t.Logf("in the table %s after the post", time.Since(posted).Round(10*time.Millisecond))

	var why struct {
		Scopes []struct {
			Facts []struct {
				EventID  string `json:"event_id"`
				Provider string `json:"provider"`
				Reason   string `json:"reason"`
				Counts   bool   `json:"counts"`
			} `json:"facts"`
		} `json:"scopes"`
	}
	if _, err := r.ask(http.MethodGet, "/v1/suppressions/jane@example.com/explain", nil, &why); err != nil {
		t.Fatal(err)
	}
	if len(why.Scopes) != 1 || len(why.Scopes[0].Facts) != 1 || !why.Scopes[0].Facts[0].Counts || why.Scopes[0].Facts[0].Provider != "mailgun" {
		t.Fatalf("explain = %+v, want the one complaint of Mailgun", why)
	}
	r.awaitRows(1)
	if rows := r.rows(); rows[0].ID.String() != why.Scopes[0].Facts[0].EventID {
		t.Errorf("the fact is of event %s, the table has %s", why.Scopes[0].Facts[0].EventID, rows[0].ID)
	}

	var lifted suppressed
	if status, err := r.ask(http.MethodDelete, "/v1/suppressions/jane@example.com?note=asked+for+it", nil, &lifted); err != nil || lifted.Suppressed {
		t.Fatalf("DELETE = %d %+v, %v, want it lifted", status, lifted, err)
	}

	out, status := r.run("unsubscribe-link", "--address", "jane@example.com", "--scope-kind", "list", "--scope-id", "weekly", "--output", "json")
	if status != 0 {
		t.Fatalf("unsubscribe-link: %s", out)
	}
	var links []struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 {
		t.Fatalf("unsubscribe-link printed %s, %v", out, err)
	}
	for range 2 { // a mail program may post again
		resp, err := http.PostForm(links[0].URL, url.Values{"List-Unsubscribe": {"One-Click"}})
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("POST of the link = %s, want 200", resp.Status)
		}
	}
	eventually(t, "unsubscribed", func() error {
		a, err := r.lookUp("jane@example.com", "?scope_kind=list&scope_id=weekly")
		if err == nil && !a.Suppressed {
			err = fmt.Errorf("%+v", a)
		}
		return err
	})
	if a, err := r.lookUp("jane@example.com", ""); err != nil || a.Suppressed {
		t.Errorf("GET = %+v, %v, want other mail to go on", a, err)
	}
	// Complaint, lift and opt-out, each once: changes by people are events.
	r.awaitRows(3)
	if books := r.settled(); !books.Balanced {
		t.Errorf("audit = %+v, want the books balanced", books)
	}
}
