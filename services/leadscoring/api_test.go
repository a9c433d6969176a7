package leadscoring_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadapi"
	"mailriver/services/leadscoring"
)

// sent is a Deliveries with one delivery in it.
type sent struct {
	asked chan leadscoring.DeliveryQuery
}

func (s sent) List(_ context.Context, q leadscoring.DeliveryQuery) (leadapi.DeliveryPage, error) {
	s.asked <- q
	if q.Cursor != "" {
		return leadapi.DeliveryPage{}, api.Field("cursor", "is not one that was given out here")
	}
	if q.Webhook == "none" {
		return leadapi.DeliveryPage{}, nil
	}
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	return leadapi.DeliveryPage{Deliveries: []leadapi.Delivery{{
		ID: "5e8f4d2c-9a1b-8c3d-a4e5-f60718293a4b:crm", Webhook: "crm", Recipient: "ada@example.com", Profile: "default",
		Stage: "hot", Direction: "up", State: "pending", Attempts: 1, Since: at, UpdatedAt: at, NextAt: &at,
		Status: 503, Problem: "answered 503",
	}}}, nil
}

// clicks are n human clicks on different pages, the newest so many minutes ago.
func clicks(recipient string, n, minutesAgo int) []event.Event {
	var events []event.Event
	for i := range n {
		events = append(events, click(fmt.Sprint(i), recipient, minutesAgo+10*(n-1-i)))
	}
	return events
}

func produce(t *testing.T, c *kafkatest.Cluster, events ...event.Event) {
	t.Helper()
	for _, e := range events {
		c.Produce(t, canonical(t, c, e))
	}
}

const address = "/v1/leads/ada@example.com"

// Every operation of the document is answered with success, and as the document
// says; it is what is embedded.
func TestAPI_everyOperation(t *testing.T) {
	c := kafkatest.New(t)
	asked := make(chan leadscoring.DeliveryQuery, 9)
	i := start(t, c, "a", t.TempDir(), func(_ *leadscoring.Config, d *leadscoring.Deps) { d.Deliveries = sent{asked} })
	produce(t, c, clicks("ada@example.com", 3, 30)...)
	within(t, "warm", func() bool { return i.get("ada@Example.com").Profiles[0].Stage == "warm" })
	if l := i.get("ada@Example.com"); l.Address != "ada@Example.com" || l.AsOf.IsZero() || l.Profiles[0].UpdatedAt == nil {
		t.Errorf("GET = %+v, want the address as it was asked for, the time of the copy and that of the event", l)
	}
	if l := i.get("nobody@example.com"); len(l.Profiles) != 1 || l.Profiles[0].Score != 0 || l.Profiles[0].UpdatedAt != nil {
		t.Errorf("GET of one never seen = %+v, want 0 without a time", l)
	}
	within(t, "in the list", func() bool {
		page := answer[leadapi.Page](i, "/v1/leads?profile=default&stage=warm&sort=score&limit=1")
		return len(page.Leads) == 1 && page.Leads[0].Address == "ada@example.com"
	})
	rules := answer[leadapi.Rules](i, "/v1/rules")
	if len(rules.Profiles) != 1 || rules.Fingerprint == "" || len(rules.Profiles[0].Rules) != 4 ||
		rules.Profiles[0].Rules[0].Cap == nil || rules.Profiles[0].Rules[2].Cap != nil {
		t.Errorf("GET rules = %+v, want the default profile", rules)
	}
	page := answer[leadapi.DeliveryPage](i, "/v1/deliveries?webhook=crm&state=pending&address=ada@EXAMPLE.com&limit=7")
	want := leadscoring.DeliveryQuery{Webhook: "crm", State: "pending", Recipient: "ada@example.com", Limit: 7}
	if got := <-asked; len(page.Deliveries) != 1 || got != want {
		t.Errorf("GET deliveries asked %+v, want %+v", got, want)
	}
	if page := answer[leadapi.DeliveryPage](i, "/v1/deliveries?webhook=none"); page.Deliveries == nil {
		t.Error("no deliveries are null, want []")
	}
	answer[leadapi.Explanation](i, address+"/explain")
	answer[leadapi.History](i, address+"/history")
	i.document.Covered(t)
	resp, err := http.Get(i.url + api.PathJSON)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("GET %s = %s, want the document", api.PathJSON, resp.Status)
	}
}

func TestAPI_badRequests(t *testing.T) {
	c := kafkatest.New(t)
	asked := make(chan leadscoring.DeliveryQuery, 9)
	two := func(cfg *leadscoring.Config, d *leadscoring.Deps) {
		second := lead.DefaultProfiles()[0]
		second.Name = "success"
		cfg.Profiles = append(cfg.Profiles, second)
		d.Deliveries = sent{asked}
	}
	i := start(t, c, "a", t.TempDir(), two)
	within(t, "in order", func() bool {
		status, _ := i.ask("/v1/leads?profile=default", &leadapi.Page{})
		return status == http.StatusOK
	})
	for _, tt := range []struct {
		path   string
		want   int
		fields []string
	}{
		{"/v1/leads/ada", 400, []string{"address"}},
		{"/v1/leads/a@b@example.com", 400, []string{"address"}},
		{"/v1/leads/ada/explain", 400, []string{"address"}},
		{"/v1/leads/ada/history", 400, []string{"address"}},
		{address + "?profile=default", 400, []string{"profile"}},
		{address + "/explain?profile=sales", 400, []string{"profile"}},
		{address + "/explain?profile=", 400, []string{"profile"}},
		{address + "/history?profile=sales", 400, []string{"profile"}},
		{address + "/history?stage=hot", 400, []string{"stage"}},
		{"/v1/leads", 400, []string{"profile"}},
		{"/v1/leads?profile=sales", 400, []string{"profile"}},
		{"/v1/leads?profile=default&stage=boiling", 400, []string{"stage"}},
		{"/v1/leads?profile=default&stage=", 400, []string{"stage"}},
		{"/v1/leads?profile=default&sort=name", 400, []string{"sort"}},
		{"/v1/leads?profile=default&cursor=AAAA", 400, []string{"cursor"}},
		{"/v1/leads?profile=default&limit=1001", 400, []string{"limit"}},
		{"/v1/leads?profile=sales&limit=0&sort=x", 400, []string{"profile", "sort", "limit"}},
		{"/v1/leads?profle=default", 400, []string{"profle"}},
		{"/v1/rules?profile=default", 400, []string{"profile"}},
		{"/v1/deliveries?state=lost&address=ada&limit=x", 400, []string{"state", "address", "limit"}},
		{"/v1/deliveries?cursor=AAAA", 400, []string{"cursor"}},
		{"/v1/nothing", 404, nil},
	} {
		status, problem := i.ask(tt.path, nil)
		var fields []string
		for _, f := range problem.Errors {
			fields = append(fields, f.Field)
		}
		if status != tt.want || !slices.Equal(fields, tt.fields) {
			t.Errorf("GET %s = %d %q, want %d %q", tt.path, status, fields, tt.want, tt.fields)
		}
	}
}

// Before the leads are read, nothing is said about them: 0 would be a lie. Nor is
// an empty list of deliveries told where nobody keeps one.
func TestAPI_notNow(t *testing.T) {
	c := kafkatest.New(t)
	service := build(t, c, "a", t.TempDir())
	i := serve(t, service)
	for _, path := range []string{address, address + "/explain", address + "/history", "/v1/leads", "/v1/deliveries"} {
		if status, _ := i.ask(path, nil); status != http.StatusServiceUnavailable {
			t.Errorf("GET %s before the leads are open = %d, want 503", path, status)
		}
	}
	if status, _ := i.ask("/v1/rules", &leadapi.Rules{}); status != http.StatusOK {
		t.Errorf("GET rules = %d, want 200: they need no leads", status)
	}
}

func TestAPI_needsAKey(t *testing.T) {
	c := kafkatest.New(t)
	key, hash := api.GenerateKey()
	i := serve(t, build(t, c, "a", t.TempDir(), func(cfg *leadscoring.Config, _ *leadscoring.Deps) {
		cfg.API.Keys = []api.Key{{Name: "crm", Hash: hash, Scopes: []api.Scope{api.Read}}}
	}))
	for _, path := range []string{address, address + "/explain", address + "/history", "/v1/leads", "/v1/rules", "/v1/deliveries"} {
		if status, _ := i.ask(path, nil); status != http.StatusUnauthorized {
			t.Errorf("GET %s without a key = %d, want 401", path, status)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, i.url+"/v1/rules", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("GET with a key = %s, want 200", resp.Status)
	}
}

// An explanation has what counted, what a cap took, what a machine did, and what
// is left; the rest adds up to the score.
func TestAPI_explain(t *testing.T) {
	c := kafkatest.New(t)
	i := start(t, c, "a", t.TempDir())
	recipient := "eve@example.com"
	produce(t, c, clicks(recipient, 6, 60*24)...) // 60 points, of which 40 count
	// Three links of one message at one moment: a scanner.
	for n := range 3 {
		robot := click(fmt.Sprint("scan", n), recipient, 5)
		robot.ProviderMessageID, robot.OccurredAt = "m-scan", robot.OccurredAt.Truncate(time.Minute)
		produce(t, c, robot)
	}
	var explained leadapi.ExplainedStanding
	within(t, "scored", func() bool {
		explained = answer[leadapi.Explanation](i, "/v1/leads/"+recipient+"/explain?profile=default").Profiles[0]
		return len(explained.Contributions) == 9
	})
	sum, counted, capped, machines := 0.0, 0.0, 0, 0
	for _, one := range explained.Contributions {
		sum += one.Now
		counted += one.Counted
		switch {
		case len(one.Evidence) > 0:
			machines++
			if one.Counted != 0 {
				t.Errorf("%+v counts, want a machine's click to count nothing", one)
			}
		case one.Counted == 0:
			capped++
		case one.Now <= 0 || one.Now >= one.Counted:
			t.Errorf("%+v: want some of it left a day later", one)
		}
	}
	if counted != 40 || capped != 2 || machines != 3 || math.Abs(sum-explained.Score) > 0.01 {
		t.Errorf("counted = %v, capped = %d, machines = %d, left = %v of a score of %v, want 40, 2, 3 and the same",
			counted, capped, machines, sum, explained.Score)
	}
	if explained.HalfLife != "168h0m0s" || explained.Contributions[0].Rule != "click" {
		t.Errorf("explanation = %+v", explained)
	}
}

// A history tells who became warm by which click, and when it faded.
func TestAPI_history(t *testing.T) {
	c := kafkatest.New(t)
	i := start(t, c, "a", t.TempDir())
	events := clicks("joe@example.com", 3, 60*24*10) // ten days ago
	produce(t, c, events...)
	var changes []leadapi.Change
	within(t, "warm and cold again", func() bool {
		changes = answer[leadapi.History](i, "/v1/leads/joe@example.com/history?profile=default").Changes
		return len(changes) == 2
	})
	up, down := changes[0], changes[1]
	if up.Stage != "warm" || up.Direction != "up" || up.EventID == nil || *up.EventID != events[2].ID ||
		up.EventType != "clicked" || !up.At.Equal(events[2].OccurredAt) {
		t.Errorf("first change = %+v, want that the third click made joe warm", up)
	}
	// 30 points halve in a week: below 15 after seven days.
	if faded := down.At.Sub(up.At); down.Stage != "warm" || down.Direction != "down" || down.EventID != nil ||
		faded < 167*time.Hour || faded > 168*time.Hour || down.Score != 15 {
		t.Errorf("second change = %+v, want that joe was left to cool, a week after %s", down, up.At)
	}
	if l := i.get("joe@example.com"); l.Profiles[0].Stage != "" {
		t.Errorf("stage = %q, want what the history says", l.Profiles[0].Stage)
	}
}

// Pages of the list hold each lead once, best first, and those of a stage.
func TestAPI_top(t *testing.T) {
	c := kafkatest.New(t)
	dir := t.TempDir()
	i := start(t, c, "a", dir, uncapped)
	var want []string // best first
	for n := 9; n >= 3; n-- {
		recipient := fmt.Sprintf("user%d@example.com", n)
		want = append(want, recipient)
		produce(t, c, clicks(recipient, n, 10)...)
	}
	produce(t, c, clicks("cold@example.com", 2, 10)...)
	produce(t, c, clicks("faded@example.com", 3, 60*24*30)...)
	pages := func(i *instance, filter string, limit int) (all []string) {
		t.Helper()
		cursor := ""
		for {
			page := answer[leadapi.Page](i, fmt.Sprintf("/v1/leads?limit=%d%s%s", limit, filter, cursor))
			for _, l := range page.Leads {
				all = append(all, l.Address)
			}
			if len(page.Leads) > limit {
				t.Errorf("page of %d leads, want at most %d", len(page.Leads), limit)
			}
			if page.NextCursor == nil {
				return all
			}
			cursor = "&cursor=" + url.QueryEscape(*page.NextCursor)
		}
	}
	within(t, "scored", func() bool {
		return i.get("faded@example.com").Profiles[0].Score > 0 && slices.Equal(pages(i, "", 3), want)
	})
	hot, warm := want[:4], want[4:] // 90 to 60 points, with a little gone; see below
	check := func(i *instance) {
		t.Helper()
		for _, limit := range []int{1, 2, 7, 100} {
			if got := pages(i, "", limit); !slices.Equal(got, want) {
				t.Errorf("leads by %d = %q, want %q", limit, got, want)
			}
			if got := pages(i, "&stage=hot", limit); !slices.Equal(got, hot[:len(hot)-1]) && !slices.Equal(got, hot) {
				t.Errorf("hot leads by %d = %q, want %q", limit, got, hot)
			}
			if got := pages(i, "&stage=warm", limit); len(got) < len(warm) || !slices.Equal(got[len(got)-len(warm):], warm) {
				t.Errorf("warm leads by %d = %q, want %q", limit, got, warm)
			}
		}
	}
	check(i)
	page := answer[leadapi.Page](i, "/v1/leads?limit=1")
	if status, problem := i.ask("/v1/leads?stage=hot&cursor="+url.QueryEscape(*page.NextCursor), nil); status != http.StatusBadRequest {
		t.Errorf("a cursor with another stage = %d %+v, want 400", status, problem)
	}

	// A complaint takes the best one out.
	complaint := click("complaint", want[0], 1)
	complaint.Type, complaint.URL = event.Complained, ""
	produce(t, c, complaint)
	want, hot = want[1:], hot[1:]
	within(t, "without who complained", func() bool { return slices.Equal(pages(i, "", 100), want) })
	i.stop()

	// A restart: the local copy fills the index, and what the copy had not stored
	// yet comes again from the topic.
	again := start(t, c, "a", dir, uncapped)
	within(t, "in order", func() bool {
		status, _ := again.ask("/v1/leads", &leadapi.Page{})
		return status == http.StatusOK && slices.Equal(pages(again, "", 100), want)
	})
	check(again)
	again.stop()

	// Other rules put other leads in the stages, from the same copy.
	other := start(t, c, "a", dir, uncapped, func(cfg *leadscoring.Config, _ *leadscoring.Deps) {
		cfg.Profiles[0].Stages = []lead.Stage{{Name: "lukewarm", Enter: 15, Leave: 5}}
	})
	within(t, "in order", func() bool {
		status, _ := other.ask("/v1/leads", &leadapi.Page{})
		return status == http.StatusOK
	})
	if got := pages(other, "&stage=lukewarm", 100); !slices.Contains(got, "cold@example.com") || len(got) != len(want)+1 {
		t.Errorf("leads by other rules = %q, want cold@example.com, too", got)
	}
}

// uncapped lets every click count.
func uncapped(cfg *leadscoring.Config, _ *leadscoring.Deps) {
	cfg.Profiles = []lead.Profile{{
		Name: "default", HalfLife: 7 * 24 * time.Hour,
		Rules: []lead.Rule{
			{Name: "click", When: `event_type == "clicked"`, Points: 10},
			{Name: "complaint", When: `event_type == "complained"`, Points: -100},
		},
		Stages: lead.DefaultProfiles()[0].Stages,
	}}
}
