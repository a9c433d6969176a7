package esplisttest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// SendGrid is the suppressions of one account.
type SendGrid struct {
	*Server
	Key     string
	MaxPage int

	lists  map[string][]sendGridLine
	groups map[int64][]string
}

type sendGridLine struct {
	Created int64  `json:"created"`
	Email   string `json:"email"`
	Reason  string `json:"reason,omitempty"`
	Status  string `json:"status,omitempty"`
	IP      string `json:"ip,omitempty"`
}

// NewSendGrid starts one.
func NewSendGrid(t testing.TB) *SendGrid {
	s := &SendGrid{
		Key: "SG.example.key", MaxPage: 3,
		lists:  map[string][]sendGridLine{"bounces": nil, "blocks": nil, "spam_reports": nil, "invalid_emails": nil, "unsubscribes": nil},
		groups: map[int64][]string{},
	}
	s.Server = serve(t, s.serve)
	return s
}

// Put adds an address to bounces, blocks, spam_reports, invalid_emails or
// unsubscribes.
func (s *SendGrid) Put(list, address, reason string, created time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := sendGridLine{Created: created.Unix(), Email: address, Reason: reason}
	s.lists[list] = append([]sendGridLine{line}, s.lists[list]...) // the newest first
}

// Group makes an unsubscribe group, with addresses that have left it.
func (s *SendGrid) Group(id int64, addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[id] = append(s.groups[id], addresses...)
}

func sendGridError(w http.ResponseWriter, status int, message string) {
	answer(w, status, map[string]any{"errors": []any{map[string]any{"field": nil, "message": message}}})
}

func (s *SendGrid) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-RateLimit-Limit", "500")
	w.Header().Set("X-RateLimit-Remaining", "499")
	w.Header().Set("X-RateLimit-Reset", "1392815263")
	if r.Header.Get("Authorization") != "Bearer "+s.Key {
		sendGridError(w, http.StatusUnauthorized, "authorization required")
		return
	}
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/v3/"), "/")
	switch {
	case r.Method == http.MethodGet && len(path) == 2 && path[0] == "suppression":
		s.list(w, r, path[1])
	case r.Method == http.MethodGet && r.URL.Path == "/v3/asm/groups":
		groups := []map[string]any{}
		for id, addresses := range s.groups {
			groups = append(groups, map[string]any{
				"id": id, "name": "group", "description": "", "is_default": false, "unsubscribes": len(addresses),
			})
		}
		slices.SortFunc(groups, func(a, b map[string]any) int { return int(a["id"].(int64) - b["id"].(int64)) })
		answer(w, http.StatusOK, groups)
	case len(path) == 4 && path[0] == "asm" && path[1] == "groups" && path[3] == "suppressions":
		id, err := strconv.ParseInt(path[2], 10, 64)
		addresses, ok := s.groups[id]
		if err != nil || !ok {
			sendGridError(w, http.StatusNotFound, "group not found")
			return
		}
		if r.Method == http.MethodGet {
			answer(w, http.StatusOK, append([]string{}, addresses...))
			return
		}
		if added, ok := recipients(w, r); ok {
			for _, address := range added {
				if !slices.Contains(s.groups[id], address) {
					s.groups[id] = append(s.groups[id], address)
				}
			}
			answer(w, http.StatusCreated, map[string]any{"recipient_emails": added})
		}
	case r.Method == http.MethodPost && r.URL.Path == "/v3/asm/suppressions/global":
		if added, ok := recipients(w, r); ok {
			for _, address := range added {
				known := slices.ContainsFunc(s.lists["unsubscribes"], func(l sendGridLine) bool { return l.Email == address })
				if !known {
					s.lists["unsubscribes"] = append(s.lists["unsubscribes"], sendGridLine{Created: 1, Email: address})
				}
			}
			answer(w, http.StatusCreated, map[string]any{"recipient_emails": added})
		}
	default:
		sendGridError(w, http.StatusNotFound, "not found")
	}
}

func (s *SendGrid) list(w http.ResponseWriter, r *http.Request, name string) {
	lines, ok := s.lists[name]
	if !ok {
		sendGridError(w, http.StatusNotFound, "not found")
		return
	}
	limit, offset, until := s.MaxPage, 0, int64(1<<62)
	query := r.URL.Query()
	for key, into := range map[string]*int{"limit": &limit, "offset": &offset} {
		if text := query.Get(key); text != "" {
			number, err := strconv.Atoi(text)
			if err != nil || number < 0 {
				sendGridError(w, http.StatusBadRequest, key+" should be a number")
				return
			}
			*into = number
		}
	}
	if text := query.Get("end_time"); text != "" {
		until, _ = strconv.ParseInt(text, 10, 64)
	}
	page := []sendGridLine{}
	for _, line := range lines {
		if line.Created <= until {
			page = append(page, line)
		}
	}
	offset = min(offset, len(page))
	answer(w, http.StatusOK, page[offset:min(offset+min(limit, s.MaxPage), len(page))])
}

func recipients(w http.ResponseWriter, r *http.Request) ([]string, bool) {
	var in struct {
		Emails []string `json:"recipient_emails"`
	}
	if !decode(r, &in) || len(in.Emails) == 0 {
		sendGridError(w, http.StatusBadRequest, "recipient_emails: required")
		return nil, false
	}
	for _, address := range in.Emails {
		if !strings.Contains(address, "@") {
			sendGridError(w, http.StatusBadRequest, "invalid email address")
			return nil, false
		}
	}
	return in.Emails, true
}
