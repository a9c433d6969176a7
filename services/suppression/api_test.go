package suppression_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/kafka/kafkatest"
	model "mailriver/pkg/suppression"
	"mailriver/pkg/unsubscribe"
	"mailriver/services/suppression"
)

const v1 = "/v1/suppressions"

// quickly gives writes up soon where Kafka is away.
func quickly(t *testing.T, c *kafkatest.Cluster) func(*suppression.Config, *suppression.Deps) {
	t.Helper()
	producer, err := c.Clients.Producer(kgo.RecordDeliveryTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(producer.Close)
	return func(_ *suppression.Config, deps *suppression.Deps) { deps.Producer = producer }
}

func linked(t *testing.T) func(*suppression.Config, *suppression.Deps) {
	t.Helper()
	keys, err := unsubscribe.NewKeys([]string{strings.Repeat("k", 32)})
	if err != nil {
		t.Fatal(err)
	}
	cfg := unsubscribe.Config{BaseURL: "https://mail.example.com"}
	return func(_ *suppression.Config, deps *suppression.Deps) {
		deps.Links = func(l unsubscribe.Link) (unsubscribe.Headers, error) {
			token, err := keys.Token(l)
			if err != nil {
				return unsubscribe.Headers{}, err
			}
			return cfg.Headers(token)
		}
	}
}

// fields are the names of what a problem says is wrong.
func fields(t *testing.T, body string) []string {
	t.Helper()
	var p api.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	var names []string
	for _, f := range p.Errors {
		names = append(names, f.Field)
	}
	return names
}

// Every operation of the document is answered with success once, and as the
// document says.
func TestAPI_everyOperation(t *testing.T) {
	c := kafkatest.New(t)
	startNormalizer(t, c)
	r := start(t, c, "a", t.TempDir(), linked(t))
	r.call(http.MethodGet, v1, "", http.StatusOK, nil)
	r.call(http.MethodPut, v1+"/ada@example.com", `{"expires_at":null}`, http.StatusOK, nil)
	r.call(http.MethodGet, v1+"/ada@example.com?stream=news&scope_kind=list&scope_id=weekly", "", http.StatusOK, nil)
	r.call(http.MethodGet, v1+"/ada@example.com/explain", "", http.StatusOK, nil)
	r.call(http.MethodPost, v1+"/check", `{"addresses":["ada@example.com","bob@example.com"],"stream":"news"}`, http.StatusOK, nil)
	r.call(http.MethodGet, v1+"?limit=1", "", http.StatusOK, nil)
	if a := r.send(http.MethodGet, v1+"/export", ""); a.status != http.StatusOK {
		t.Errorf("export = %d %s", a.status, a.body)
	}
	if a := r.send(http.MethodPost, v1+"/import", "address\neve@example.com\n", "Content-Type", "text/csv"); a.status != http.StatusOK {
		t.Errorf("import = %d %s", a.status, a.body)
	}
	r.call(http.MethodDelete, v1+"/ada@example.com", "", http.StatusOK, nil)
	r.call(http.MethodPost, "/v1/unsubscribe-links", `{"address":"ada@example.com"}`, http.StatusOK, nil)
	r.document.Covered(t)
	if a := r.send(http.MethodGet, api.PathYAML, ""); a.status != http.StatusOK || a.body != string(suppression.OpenAPI) {
		t.Errorf("GET %s = %d, want the document", api.PathYAML, a.status)
	}
}

func TestAPI_badRequests(t *testing.T) {
	c := kafkatest.New(t)
	r := start(t, c, "a", t.TempDir(), linked(t))
	r.service.WaitForPosition(10 * time.Millisecond)
	many, err := json.Marshal(map[string][]string{"addresses": slices.Repeat([]string{"a@example.com"}, 10_001)})
	if err != nil {
		t.Fatal(err)
	}
	most := strings.Replace(string(many), `"a@example.com",`, "", 1)
	bad, err := json.Marshal(map[string][]string{"addresses": slices.Repeat([]string{"nobody"}, 150)})
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 600)
	const ada, links = v1 + "/ada@example.com", "/v1/unsubscribe-links"
	for _, tt := range []struct {
		name, method, path, body string
		want                     int
		fields                   []string
	}{
		{"no address", "GET", v1 + "/ada", "", 400, []string{"address"}},
		{"no address: without local part", "GET", v1 + "/@example.com", "", 400, []string{"address"}},
		{"no address: two", "PUT", v1 + "/a@b@example.com", "{}", 400, []string{"address"}},
		{"no address: a zero byte", "GET", v1 + "/a%00b@example.com", "", 400, []string{"address"}},
		{"no address: delete", "DELETE", v1 + "/ada", "", 400, []string{"address"}},
		{"no address: explain", "GET", v1 + "/ada/explain", "", 400, []string{"address"}},
		{"scope kind", "GET", ada + "?scope_kind=planet&scope_id=x", "", 400, []string{"scope_kind"}},
		{"scope id alone", "GET", ada + "?scope_id=x", "", 400, []string{"scope_id"}},
		{"parameter", "GET", ada + "?steram=news", "", 400, []string{"steram"}},
		{"parameter twice", "GET", ada + "?stream=a&stream=b", "", 400, []string{"stream"}},
		{"wait for nothing", "GET", ada + "?wait=soon", "", 400, []string{"wait"}},
		{"wait for a negative", "GET", ada + "?wait=0:-1", "", 400, []string{"wait"}},
		{"wait for what does not come", "GET", ada + "?wait=0:1000", "", 503, nil},
		{"wait for a partition that is not", "GET", ada + "?wait=999:1", "", 503, nil},
		{"wait, a check", "POST", v1 + "/check?wait=0:1000", `{"addresses":["a@example.com"]}`, 503, nil},
		{"wait, two of one partition", "GET", ada + "?wait=0:1000,0:0", "", 503, nil},
		{"wait for what is there", "GET", ada + "?wait=0:0", "", 200, nil},

		{"check: most", "POST", v1 + "/check", most, 200, nil},
		{"check: too many", "POST", v1 + "/check", string(many), 400, []string{"addresses"}},
		{"check: none", "POST", v1 + "/check", `{"addresses":[]}`, 400, []string{"addresses"}},
		{"check: nothing", "POST", v1 + "/check", `{}`, 400, []string{"addresses"}},
		{"check: one that is none", "POST", v1 + "/check", `{"addresses":["a@example.com","b"]}`, 400, []string{"addresses[1]"}},
		{"check: a field", "POST", v1 + "/check", `{"adresses":["a@example.com"]}`, 400, []string{"adresses"}},
		{"check: scope", "POST", v1 + "/check", `{"addresses":["a@example.com"],"scope_id":"x"}`, 400, []string{"scope_id"}},
		{"check: not JSON", "POST", v1 + "/check", `addresses`, 400, []string{"body"}},

		{"put: reason", "PUT", ada, `{"reason":"dislike"}`, 400, []string{"reason"}},
		{"put: a reason that the policy has off", "PUT", ada, `{"reason":"soft_bounce"}`, 400, []string{"reason"}},
		{"put: past", "PUT", ada, `{"expires_at":"2001-01-01T00:00:00Z"}`, 400, []string{"expires_at"}},
		{"put: no time", "PUT", ada, `{"expires_at":"tomorrow"}`, 400, []string{"expires_at"}},
		{"put: scope kind", "PUT", ada, `{"scope_kind":"planet"}`, 400, []string{"scope_kind"}},
		{"put: scope id alone", "PUT", ada, `{"scope_id":"weekly"}`, 400, []string{"scope_kind"}},
		{"put: a list without id", "PUT", ada, `{"scope_kind":"list"}`, 400, []string{"scope_id"}},
		{"put: an address with id", "PUT", ada, `{"scope_kind":"address","scope_id":"x"}`, 400, []string{"scope_id"}},
		{"put: note", "PUT", ada, `{"note":"` + long + `"}`, 400, []string{"note"}},
		{
			"put: all at once", "PUT", ada, `{"reason":"dislike","expires_at":"2001-01-01T00:00:00Z","scope_kind":"list","note":"a\nb"}`,
			400,
			[]string{"reason", "expires_at", "scope_id", "note"},
		},
		{"put: a parameter", "PUT", ada + "?reason=manual", `{}`, 400, []string{"reason"}},
		{"put: too long", "PUT", ada, `{"note":"` + strings.Repeat(long, 100) + `"}`, 413, nil},
		{"delete: a list without id", "DELETE", ada + "?scope_kind=list", "", 400, []string{"scope_id"}},
		{"delete: a parameter", "DELETE", ada + "?reason=manual", "", 400, []string{"reason"}},

		{"list: reason", "GET", v1 + "?reason=dislike", "", 400, []string{"reason"}},
		{"list: since", "GET", v1 + "?since=yesterday", "", 400, []string{"since"}},
		{"list: domain", "GET", v1 + "?domain=a@b", "", 400, []string{"domain"}},
		{"list: cursor", "GET", v1 + "?cursor=AAAA", "", 400, []string{"cursor"}},
		{"list: limit", "GET", v1 + "?limit=1001", "", 400, []string{"limit"}},
		{"list: all at once", "GET", v1 + "?limit=0&reason=x&since=y&scope_kind=z", "", 400, []string{"reason", "scope_kind", "since", "limit"}},

		{"import: layout", "POST", v1 + "/import?layout=excel", "address\n", 400, []string{"layout"}},
		{"import: format", "POST", v1 + "/import?format=xml", "address\n", 400, []string{"format"}},
		{"import: reason off", "POST", v1 + "/import?reason=soft_bounce", "address\n", 400, []string{"reason"}},
		{"import: scope", "POST", v1 + "/import?scope_kind=list", "address\n", 400, []string{"scope_id"}},
		{"import: scope id alone", "POST", v1 + "/import?scope_id=weekly", "address\n", 400, []string{"scope_id"}},
		{"import: spreadsheet", "POST", v1 + "/import?spreadsheet=yes", "address\n", 400, []string{"spreadsheet"}},
		{"import: no header", "POST", v1 + "/import", "one,two\n1,2\n", 400, []string{"body"}},
		{"export: format", "GET", v1 + "/export?format=xml", "", 400, []string{"format"}},
		{"export: list", "GET", v1 + "/export?layout=ses&list=bounces", "", 400, []string{"list"}},
		{"export: reason", "GET", v1 + "/export?reason=dislike", "", 400, []string{"reason"}},
		{"export: limit", "GET", v1 + "/export?limit=5", "", 400, []string{"limit"}},

		{"link: no address", "POST", links, `{"address":"ada"}`, 400, []string{"address"}},
		{"link: a list without id", "POST", links, `{"address":"ada@example.com","scope_kind":"list"}`, 400, []string{"scope_id"}},
		{"link: past", "POST", links, `{"address":"ada@example.com","expires_at":"2001-01-01T00:00:00Z"}`, 400, []string{"expires_at"}},

		{"nothing here", "GET", "/v1/nothing", "", 404, nil},
		{"no such method", "POST", ada, "{}", 405, nil},
		{"head", "HEAD", ada, "", 405, nil},
		{"options", "OPTIONS", ada, "", 405, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := r.send(tt.method, tt.path, tt.body)
			if a.status != tt.want {
				t.Fatalf("%s %s = %d %.300s, want %d", tt.method, tt.path, a.status, a.body, tt.want)
			}
			if tt.method != http.MethodHead && tt.want >= 400 {
				if got := fields(t, a.body); !slices.Equal(got, tt.fields) {
					t.Errorf("%s %s names %q, want %q", tt.method, tt.path, got, tt.fields)
				}
			}
			if allow := a.header.Get("Allow"); tt.want == 405 && !strings.Contains(allow, "GET") {
				t.Errorf("Allow = %q, want GET among them", allow)
			}
			if retry := a.header.Get("Retry-After"); tt.want == 503 && retry == "" {
				t.Error("no Retry-After with 503")
			}
		})
	}
	// Turns red when every one of thousands of wrong addresses is said back.
	a := r.send(http.MethodPost, v1+"/check", string(bad))
	if got := fields(t, a.body); a.status != 400 || len(got) != 101 || got[100] != "addresses" {
		t.Errorf("check of 150 that are none = %d with %d fields, want 400, 100 of them and how many more", a.status, len(got))
	}
	if a := r.send(http.MethodPost, v1+"/check", `{}`, "Content-Type", "text/plain"); a.status != http.StatusUnsupportedMediaType {
		t.Errorf("check of text = %d, want 415", a.status)
	}
}

func TestAPI_keys(t *testing.T) {
	c := kafkatest.New(t)
	reader, readHash := api.GenerateKey()
	writer, writeHash := api.GenerateKey()
	r := start(t, c, "a", t.TempDir(), linked(t), func(cfg *suppression.Config, _ *suppression.Deps) {
		cfg.API.Keys = []api.Key{
			{Name: "crm", Hash: readHash, Scopes: []api.Scope{api.Read}},
			{Name: "center", Hash: writeHash, Scopes: []api.Scope{api.Write}},
		}
		cfg.WriteWait = time.Millisecond // no normalizer runs here
	})
	const ada = v1 + "/ada@example.com"
	for _, op := range []struct {
		method, path, body string
		writes             bool
		want               int
	}{
		{"GET", ada, "", false, 200},
		{"GET", ada + "/explain", "", false, 200},
		{"GET", v1, "", false, 200},
		{"GET", v1 + "/export", "", false, 200},
		{"POST", v1 + "/check", `{"addresses":["a@example.com"]}`, false, 200},
		{"PUT", ada, "{}", true, 202},
		{"DELETE", ada, "", true, 202},
		{"POST", v1 + "/import?format=csv", "address\n", true, 200},
		{"POST", "/v1/unsubscribe-links", `{"address":"ada@example.com"}`, true, 200},
	} {
		want := map[string]int{"": 401, "mr_wrong": 401, reader: 403, writer: 403}
		if op.writes {
			want[writer] = op.want
		} else {
			want[reader] = op.want
		}
		for key, status := range want {
			header := []string{"Content-Type", "application/json"}
			if strings.HasSuffix(op.path, "format=csv") {
				header[1] = "text/csv"
			}
			if key != "" {
				header = append(header, "Authorization", "Bearer "+key)
			}
			a := r.send(op.method, op.path, op.body, header...)
			if a.status != status {
				t.Errorf("%s %s with the key %.6s = %d %s, want %d", op.method, op.path, key, a.status, a.body, status)
			}
			if challenge := a.header.Get("WWW-Authenticate"); (status == 401 || status == 403) != (challenge != "") {
				t.Errorf("%s %s = %d with the challenge %q", op.method, op.path, status, challenge)
			}
		}
	}
	if a := r.send(http.MethodGet, api.PathJSON, ""); a.status != http.StatusOK {
		t.Errorf("the document without a key = %d, want 200", a.status)
	}
}

// Turns red when addresses are taken out of the decoded path, or out of a query.
func TestAPI_addressesInThePath(t *testing.T) {
	c := kafkatest.New(t)
	r := start(t, c, "a", t.TempDir())
	for i, tt := range []struct{ recipient, path string }{
		{"a/b@example.com", "a%2Fb@example.com"},
		{"a+b@example.com", "a+b@example.com"},
		{"c+d@example.com", "c%2Bd%40example.com"},
		{"e/f+g@example.com", "e%2Ff+g@example.com"},
		{"h%41@example.com", "h%2541@example.com"},
		{`"i j"@example.com`, "%22i%20j%22@example.com"},
		{"k?l#m@example.com", "k%3Fl%23m@example.com"},
		{"n@xn--bcher-kva.example", "N@B%C3%9CCHER.example"},
		{"explain@example.com", "explain@example.com"},
	} {
		c.Produce(t, canonical(t, c, bounce(fmt.Sprint("path", i), tt.recipient)))
		path := v1 + "/" + tt.path
		var a suppression.Answer
		within(t, "suppressed: "+path, func() bool {
			r.call(http.MethodGet, path, "", http.StatusOK, &a)
			return a.Suppressed
		})
		if want, err := url.PathUnescape(tt.path); err != nil || a.Address != want {
			t.Errorf("GET %s is about %q, want %q", path, a.Address, want)
		}
		var why suppression.Explanation
		r.call(http.MethodGet, path+"/explain", "", http.StatusOK, &why)
		if len(why.Scopes) != 1 {
			t.Errorf("GET %s/explain = %+v, want one scope", path, why)
		}
	}
}

// pages walks through the list.
func (r *replica) pages(query string) (lines []suppression.Line, pages int) {
	r.t.Helper()
	for cursor := ""; ; {
		var page suppression.Page
		r.call(http.MethodGet, v1+"?"+query+"&cursor="+cursor, "", http.StatusOK, &page)
		lines = append(lines, page.Entries...)
		pages++
		if page.NextCursor == nil {
			return lines, pages
		}
		cursor = *page.NextCursor
	}
}

func TestAPI_list(t *testing.T) {
	c := kafkatest.New(t)
	r := start(t, c, "a", t.TempDir())
	a := r.send(http.MethodGet, v1, "")
	if !strings.HasPrefix(a.body, `{"entries":[],"next_cursor":null,"as_of":"2`) {
		t.Errorf("the empty list = %s, want no entries and no cursor", a.body)
	}
	// Addresses of which one is the beginning of another, and of two spellings.
	var records []*kgo.Record
	want := map[string]int{}
	for i := range 53 {
		domain := []string{"example.com", "example.co", "sub.example.com"}[i%3]
		spelling := fmt.Sprintf("U%d@%s", i/3, domain)
		records = append(records, canonical(t, c, bounce(fmt.Sprint(i), spelling)))
		want[strings.ToLower(spelling)+" hard_bounce"]++
		if i%5 == 0 {
			e := bounce(fmt.Sprint("c", i), strings.ToLower(spelling))
			e.Type, e.OccurredAt = event.Complained, noon.Add(time.Hour)
			records = append(records, canonical(t, c, e))
			want[strings.ToLower(spelling)+" complaint"]++
		}
		if i%7 == 0 {
			e := bounce(fmt.Sprint("u", i), spelling)
			e.Type, e.ScopeKind, e.ScopeID = event.Unsubscribed, event.ScopeList, "weekly"
			records = append(records, canonical(t, c, e))
			want[strings.ToLower(spelling)+" unsubscribe"]++
		}
	}
	c.Produce(t, records...)
	within(t, "whole", func() bool { got, _ := r.pages("limit=1000"); return len(got) == total(want) })

	for _, tt := range []struct {
		query string
		keep  func(key string) bool
	}{
		{"limit=1", func(string) bool { return true }},
		{"limit=7", func(string) bool { return true }},
		{"limit=53", func(string) bool { return true }},
		{"limit=3&reason=complaint", func(key string) bool { return strings.HasSuffix(key, " complaint") }},
		{"limit=3&domain=EXAMPLE.com", func(key string) bool { return strings.Contains(key, "@example.com ") }},
		{"limit=3&scope_kind=list&scope_id=weekly", func(key string) bool { return strings.HasSuffix(key, " unsubscribe") }},
		{"limit=3&scope_kind=list&scope_id=daily", func(string) bool { return false }},
		{"limit=3&since=2026-11-24T14:00:00%2B01:00", func(key string) bool { return strings.HasSuffix(key, " complaint") }},
		{"limit=3&domain=nowhere.example", func(string) bool { return false }},
	} {
		t.Run(tt.query, func(t *testing.T) {
			// Turns red when a cursor points before or behind the next address.
			lines, pages := r.pages(tt.query)
			got := map[string]int{}
			for _, l := range lines {
				got[strings.ToLower(l.Address)+" "+string(l.Reason)]++
			}
			expected := maps.Clone(want)
			maps.DeleteFunc(expected, func(key string, _ int) bool { return !tt.keep(key) })
			if !maps.Equal(got, expected) {
				t.Errorf("the list in %d pages = %v, want %v", pages, got, expected)
			}
			sorted := slices.IsSortedFunc(lines, func(a, b suppression.Line) int {
				return strings.Compare(strings.ToLower(a.Address), strings.ToLower(b.Address))
			})
			if !sorted {
				t.Error("the list is not in the order of addresses")
			}
		})
	}
	// A cursor goes with its filters.
	var page suppression.Page
	r.call(http.MethodGet, v1+"?limit=1", "", http.StatusOK, &page)
	if a := r.send(http.MethodGet, v1+"?reason=manual&cursor="+*page.NextCursor, ""); a.status != 400 {
		t.Errorf("a cursor with another filter = %d, want 400", a.status)
	}
}

func total(counts map[string]int) (n int) {
	for _, count := range counts {
		n += count
	}
	return n
}

// Reads go on and say how old they are; writes do not, and say so. It is so
// after a restart as well.
func TestAPI_kafkaAway(t *testing.T) {
	c := kafkatest.New(t)
	c.NeedFake(t)
	dir := t.TempDir()
	r := start(t, c, "a", dir, quickly(t, c))
	c.Produce(t, canonical(t, c, bounce("1", "jane@example.com")))
	within(t, "suppressed", func() bool { return r.get("jane@example.com", "").Suppressed })
	c.Fake.Close()
	before := r.get("jane@example.com", "")
	for _, tt := range []struct{ method, path, body, kind string }{
		{"PUT", v1 + "/ada@example.com", "{}", "application/json"},
		{"DELETE", v1 + "/jane@example.com", "", ""},
		{"POST", v1 + "/import", "address\neve@example.com\n", "text/csv"},
	} {
		a := r.send(tt.method, tt.path, tt.body, "Content-Type", tt.kind)
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Errorf("%s %s = %d %s, want 503 and when to try again", tt.method, tt.path, a.status, a.body)
		}
	}
	a := r.get("jane@example.com", "")
	// as_of may have moved once more for an answer that was under way.
	if !a.Suppressed || a.AsOf == nil || *a.AsOf < *before.AsOf {
		t.Errorf("GET without Kafka = %+v, want suppressed, as of %s or a little later", a, *before.AsOf)
	}
	if again := r.get("jane@example.com", ""); *again.AsOf != *a.AsOf {
		t.Errorf("as_of goes on without Kafka: from %s to %s", *a.AsOf, *again.AsOf)
	}
	if got := r.get("ada@example.com", ""); len(got.Entries) != 0 {
		t.Errorf("a change that was answered 503 is half done: %+v", got)
	}
	if err := r.service.Ready(context.Background()); err != nil {
		t.Errorf("Ready() = %v, want nil: look-ups are answered", err)
	}
	r.stop()
	restarted := start(t, c, "a", dir, quickly(t, c))
	if got := restarted.get("jane@example.com", ""); !got.Suppressed || *got.AsOf != *a.AsOf {
		t.Errorf("after a restart without Kafka = %+v, want suppressed as of %s", got, *a.AsOf)
	}
}

// Turns red when a list that was never complete says not suppressed.
func TestAPI_neverComplete(t *testing.T) {
	c := kafkatest.New(t)
	c.NeedFake(t)
	c.Fake.Close()
	r := launch(t, c, "a", t.TempDir(), quickly(t, c))
	for _, tt := range []struct{ method, path, body string }{
		{"GET", v1 + "/jane@example.com", ""},
		{"GET", v1 + "/jane@example.com/explain", ""},
		{"GET", v1, ""},
		{"GET", v1 + "/export", ""},
		{"POST", v1 + "/check", `{"addresses":["jane@example.com"]}`},
		{"PUT", v1 + "/jane@example.com", `{}`},
	} {
		a := r.send(tt.method, tt.path, tt.body)
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Errorf("%s %s = %d %s, want 503", tt.method, tt.path, a.status, a.body)
		}
	}
}

// Turns red when what cannot be read counts as not there.
func TestAPI_unreadable(t *testing.T) {
	c := kafkatest.New(t)
	r := start(t, c, "a", t.TempDir())
	c.Produce(t,
		&kgo.Record{Topic: c.Topics.Suppressions, Key: []byte("address|jane@example.com"), Value: []byte("of the future")},
		canonical(t, c, bounce("1", "adam@example.com")), canonical(t, c, bounce("2", "zoe@example.com")))
	within(t, "folded", func() bool {
		return r.get("zoe@example.com", "").Suppressed && r.get("adam@example.com", "").Suppressed
	})
	for _, tt := range []struct{ method, path, body string }{
		{"GET", v1 + "/jane@example.com", ""},
		{"GET", v1 + "/jane@example.com/explain", ""},
		{"POST", v1 + "/check", `{"addresses":["adam@example.com","jane@example.com"]}`},
		{"GET", v1, ""},
		{"GET", v1 + "/export", ""},
		{"PUT", v1 + "/jane@example.com", "{}"},
		{"DELETE", v1 + "/jane@example.com", ""},
	} {
		if a := r.send(tt.method, tt.path, tt.body); a.status != http.StatusInternalServerError {
			t.Errorf("%s %s = %d %s, want 500", tt.method, tt.path, a.status, a.body)
		}
	}
	// Turns red when a change is written that cannot be folded.
	for partition, offset := range ends(t, c, c.Topics.Raw) {
		if offset != 0 {
			t.Errorf("partition %d of the raw topic has %d records, want none", partition, offset)
		}
	}
	r.call(http.MethodGet, v1+"?domain=example.org", "", http.StatusOK, nil)
}

// A lift is of one scope; the others stay.
func TestAPI_liftInAScope(t *testing.T) {
	c := kafkatest.New(t)
	startNormalizer(t, c)
	r := start(t, c, "a", t.TempDir())
	var a suppression.Answer
	const ada = v1 + "/ada@example.com"
	r.call(http.MethodPut, ada, `{"scope_kind":"list","scope_id":"weekly | 50%","reason":"unsubscribe"}`, http.StatusOK, &a)
	if !a.Suppressed || a.Entries[0].ExpiresAt != nil || a.Entries[0].Provider != event.ProviderMailriver {
		t.Errorf("PUT of a list = %+v, want suppressed in it, for ever", a)
	}
	r.call(http.MethodPut, ada, `{"scope_kind":"account","reason":"unsubscribe","expires_at":null}`, http.StatusOK, &a)
	for _, tt := range []struct {
		query   string
		want    bool
		entries int
	}{
		{"scope_kind=list&scope_id=daily", true, 2}, // nothing to lift: the account stands against it
		{"", true, 2},
		{"scope_kind=account", false, 1},
		{"scope_kind=list&scope_id=weekly+%7C+50%25", false, 0},
	} {
		r.call(http.MethodDelete, ada+"?"+tt.query, "", http.StatusOK, &a)
		if a.Suppressed = a.Suppressed && len(a.Entries) > 0; len(a.Entries) != tt.entries {
			t.Errorf("DELETE %s = %+v, want %d entries left", tt.query, a, tt.entries)
		}
		if got := r.get("ada@example.com", ""); got.Suppressed != tt.want {
			t.Errorf("GET behind DELETE %s = %+v, want suppressed %t", tt.query, got, tt.want)
		}
	}
}

// An entry ends when it says so, by the clock of who asks.
func TestAPI_expiry(t *testing.T) {
	c := kafkatest.New(t)
	startNormalizer(t, c)
	clock := time.Now
	r := start(t, c, "a", t.TempDir())
	later := start(t, c, "b", t.TempDir(), func(_ *suppression.Config, deps *suppression.Deps) {
		deps.Now = func() time.Time { return clock().Add(48 * time.Hour) }
	})
	tomorrow := clock().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	var a suppression.Answer
	r.call(http.MethodPut, v1+"/ada@example.com", `{"expires_at":"`+tomorrow+`"}`, http.StatusOK, &a)
	if !a.Suppressed || a.Entries[0].ExpiresAt == nil || a.Entries[0].ExpiresAt.Format(time.RFC3339) != tomorrow {
		t.Fatalf("PUT until %s = %+v", tomorrow, a)
	}
	if got := later.get("ada@example.com", "?wait="+a.Position); got.Suppressed || len(got.Entries) != 0 {
		t.Errorf("two days later = %+v, want it over", got)
	}
	if lines, _ := later.pages("limit=10"); len(lines) != 0 {
		t.Errorf("the list two days later = %+v, want it empty", lines)
	}
	if exported := later.exported("?format=ndjson"); exported.body != "" {
		t.Errorf("the export two days later = %q, want it empty", exported.body)
	}
	var why suppression.Explanation
	later.call(http.MethodGet, v1+"/ada@example.com/explain", "", http.StatusOK, &why)
	if because := why.Scopes[0].Facts[0].Because; !strings.Contains(because, "until it expired") {
		t.Errorf("explain two days later: because = %q, want that it expired", because)
	}
}

func TestAPI_links(t *testing.T) {
	c := kafkatest.New(t)
	r := start(t, c, "a", t.TempDir(), linked(t))
	keys, err := unsubscribe.NewKeys([]string{strings.Repeat("k", 32)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		body string
		want unsubscribe.Link
	}{
		{`{"address":"Ada@example.com"}`, unsubscribe.Link{Address: "Ada@example.com", ScopeKind: "account"}},
		{
			`{"address":" ada@example.com ","scope_kind":"list","scope_id":"weekly"}`,
			unsubscribe.Link{Address: "ada@example.com", ScopeKind: "list", ScopeID: "weekly"},
		},
		{
			`{"address":"ada@example.com","scope_kind":"address","expires_at":"2999-01-01T00:00:00Z"}`,
			unsubscribe.Link{Address: "ada@example.com", ScopeKind: "address", ExpiresAt: time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)},
		},
	} {
		var link suppression.Link
		r.call(http.MethodPost, "/v1/unsubscribe-links", tt.body, http.StatusOK, &link)
		token, ok := strings.CutPrefix(link.URL, "https://mail.example.com/u/")
		opened, err := keys.Open(token, time.Now())
		opened.IssuedAt = time.Time{}
		if !ok || err != nil || opened.Link != tt.want {
			t.Errorf("link of %s opens to %+v, %v, want %+v", tt.body, opened.Link, err, tt.want)
		}
		if link.Headers.ListUnsubscribe != "<"+link.URL+">" || link.Headers.ListUnsubscribePost != "List-Unsubscribe=One-Click" {
			t.Errorf("headers of %s = %+v", tt.body, link.Headers)
		}
	}
	without := start(t, c, "b", t.TempDir())
	if a := without.send(http.MethodPost, "/v1/unsubscribe-links", `{"address":"ada@example.com"}`); a.status != http.StatusNotFound {
		t.Errorf("a link without keys = %d %s, want 404", a.status, a.body)
	}
}

// A policy that this instance does not share with the writer of a state is
// applied when it is read.
func TestAPI_anotherPolicy(t *testing.T) {
	c := kafkatest.New(t)
	r := start(t, c, "a", t.TempDir())
	c.Produce(t, canonical(t, c, bounce("1", "jane@example.com")))
	within(t, "suppressed", func() bool { return r.get("jane@example.com", "").Suppressed })
	r.stop()
	other := start(t, c, "b", t.TempDir(), func(cfg *suppression.Config, _ *suppression.Deps) {
		cfg.Policy.HardBounce.Messages = 2
	})
	if a := other.get("jane@example.com", ""); a.Suppressed {
		t.Errorf("GET where it takes two = %+v, want not suppressed", a)
	}
	c.Produce(t, canonical(t, c, bounce("2", "Jane@example.com")))
	within(t, "suppressed by two", func() bool {
		a := other.get("jane@example.com", "")
		return a.Suppressed && a.Entries[0].Reason == model.HardBounce
	})
}

// ends are the offsets at which a topic ends.
func ends(t *testing.T, c *kafkatest.Cluster, topic string) map[int32]int64 {
	t.Helper()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	listed, err := admin.ListEndOffsets(context.Background(), topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	offsets := map[int32]int64{}
	for partition, o := range listed[topic] {
		offsets[partition] = o.Offset
	}
	return offsets
}
