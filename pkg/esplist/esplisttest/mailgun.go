package esplisttest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Mailgun is the suppressions of one domain.
type Mailgun struct {
	*Server
	Key, Domain string
	MaxPage     int
	// Elsewhere is put in place of this server in the addresses of pages.
	Elsewhere string

	lists map[string]map[string]mailgunRecord // by list and address
}

type mailgunRecord struct {
	Address   string   `json:"address"`
	Code      string   `json:"code,omitempty"`
	Error     string   `json:"error,omitempty"`
	Tags      []string `json:"tags,omitempty"`
	CreatedAt string   `json:"created_at"`
}

// NewMailgun starts one.
func NewMailgun(t testing.TB) *Mailgun {
	s := &Mailgun{
		Key: "key-example", Domain: "mg.example.org", MaxPage: 3,
		lists: map[string]map[string]mailgunRecord{"bounces": {}, "unsubscribes": {}, "complaints": {}},
	}
	s.Server = serve(t, s.serve)
	return s
}

// Put adds a record to bounces, unsubscribes or complaints.
func (s *Mailgun) Put(list, address, problem string, created time.Time, tags ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	code := ""
	if list == "bounces" {
		code = "550"
	}
	s.lists[list][address] = mailgunRecord{
		Address: address, Code: code, Error: problem, Tags: tags, CreatedAt: created.UTC().Format(time.RFC1123),
	}
}

func (s *Mailgun) serve(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if user != "api" || password != s.Key {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, "Forbidden")
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/v3/"+s.Domain+"/")
	list, known := s.lists[name]
	if !ok || !known {
		answer(w, http.StatusNotFound, map[string]string{"message": "Domain not found: " + r.URL.Path})
		return
	}
	if r.Method == http.MethodPost {
		s.add(w, r, name, list)
		return
	}
	query := r.URL.Query()
	limit := 100
	if text := query.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit > 1000 {
			answer(w, http.StatusBadRequest, map[string]string{"message": "limit must be at most 1000"})
			return
		}
	}
	limit = min(limit, s.MaxPage)
	addresses := []string{} // in alphabetical order
	for address := range list {
		if query.Get("page") != "next" || address > query.Get("address") {
			addresses = append(addresses, address)
		}
	}
	slices.Sort(addresses)
	items := []mailgunRecord{}
	for _, address := range addresses[:min(limit, len(addresses))] {
		items = append(items, list[address])
	}
	last := query.Get("address")
	if len(items) > 0 {
		last = items[len(items)-1].Address
	}
	base := s.URL
	if s.Elsewhere != "" {
		base = s.Elsewhere
	}
	at := func(page, address string) string {
		q := url.Values{"page": {page}, "address": {address}, "limit": {strconv.Itoa(limit)}}
		return base + r.URL.Path + "?" + q.Encode()
	}
	answer(w, http.StatusOK, map[string]any{"items": items, "paging": map[string]string{
		"first": at("first", ""), "next": at("next", last), "previous": at("previous", last), "last": at("last", ""),
	}})
}

func (s *Mailgun) add(w http.ResponseWriter, r *http.Request, name string, list map[string]mailgunRecord) {
	var in []mailgunRecord
	if !decode(r, &in) || len(in) > 1000 {
		answer(w, http.StatusBadRequest, map[string]string{"message": "Invalid JSON, or more than 1000 records"})
		return
	}
	for _, record := range in {
		problem := ""
		switch _, err := time.Parse(time.RFC1123, record.CreatedAt); {
		case !strings.Contains(record.Address, "@"):
			problem = "Invalid address"
		case err != nil:
			problem = "Invalid created_at"
		case name == "bounces" && (record.Code == "" || record.Error == ""):
			problem = "Missing code or error"
		case name == "unsubscribes" && len(record.Tags) == 0:
			problem = "Missing tags"
		}
		if problem != "" {
			answer(w, http.StatusBadRequest, map[string]string{"message": problem})
			return
		}
	}
	for _, record := range in {
		list[record.Address] = record
	}
	message := fmt.Sprintf("%d addresses have been added to the %s table", len(in), name)
	answer(w, http.StatusOK, map[string]string{"message": message})
}
