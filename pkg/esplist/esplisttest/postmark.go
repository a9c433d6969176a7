package esplisttest

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Postmark is one server with one message stream.
type Postmark struct {
	*Server
	Token, Stream string

	entries []map[string]string
}

// NewPostmark starts one.
func NewPostmark(t testing.TB) *Postmark {
	s := &Postmark{Token: "11111111-2222-3333-4444-555555555555", Stream: "broadcast"}
	s.Server = serve(t, s.serve)
	return s
}

// Put adds a suppression.
func (s *Postmark) Put(address, reason, origin string, created time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(address, reason, origin, created)
}

func (s *Postmark) put(address, reason, origin string, created time.Time) {
	for _, e := range s.entries {
		if e["EmailAddress"] == address {
			return
		}
	}
	s.entries = append(s.entries, map[string]string{
		"EmailAddress": address, "SuppressionReason": reason, "Origin": origin,
		"CreatedAt": created.In(time.FixedZone("", -5*3600)).Format(time.RFC3339),
	})
}

func postmarkError(w http.ResponseWriter, status, code int, message string) {
	answer(w, status, map[string]any{"ErrorCode": code, "Message": message})
}

func (s *Postmark) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Postmark-Server-Token") != s.Token {
		postmarkError(w, http.StatusUnauthorized, 10, "Request does not contain a valid Server token.")
		return
	}
	path := "/message-streams/" + s.Stream + "/suppressions"
	switch {
	case r.Method == http.MethodGet && r.URL.Path == path+"/dump":
		answer(w, http.StatusOK, map[string]any{"Suppressions": append([]map[string]string{}, s.entries...)})
	case r.Method == http.MethodPost && r.URL.Path == path:
		var in struct {
			Suppressions []struct{ EmailAddress string }
		}
		if !decode(r, &in) || len(in.Suppressions) > 50 {
			postmarkError(w, http.StatusUnprocessableEntity, 402, "Invalid JSON, or more than 50 suppressions")
			return
		}
		out := []map[string]any{}
		for _, e := range in.Suppressions {
			line := map[string]any{"EmailAddress": e.EmailAddress, "Status": "Suppressed", "Message": nil}
			if !strings.Contains(e.EmailAddress, "@") {
				line["Status"], line["Message"] = "Failed", "An invalid email address was provided."
			} else {
				s.put(e.EmailAddress, "ManualSuppression", "Customer", time.Unix(1_795_500_000, 0))
			}
			out = append(out, line)
		}
		answer(w, http.StatusOK, map[string]any{"Suppressions": out})
	default:
		postmarkError(w, http.StatusNotFound, 1226, "The message stream for the provided 'ID' was not found.")
	}
}
