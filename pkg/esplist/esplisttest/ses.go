package esplisttest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// SES is the account-level suppression list of one account and region.
type SES struct {
	*Server
	AccessKeyID, SecretAccessKey, Region string
	MaxPage                              int

	entries []sesEntry
}

type sesEntry struct {
	address, reason string
	updated         float64
}

// NewSES starts one.
func NewSES(t testing.TB) *SES {
	s := &SES{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI-EXAMPLE", Region: "eu-west-1", MaxPage: 3}
	s.Server = serve(t, s.serve)
	return s
}

// Put adds an entry or changes its reason.
func (s *SES) Put(address, reason string, updated time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(address, reason, updated)
}

func (s *SES) put(address, reason string, updated time.Time) {
	e := sesEntry{address, reason, float64(updated.UnixMilli()) / 1e3}
	for i := range s.entries {
		if s.entries[i].address == address {
			s.entries[i] = e
			return
		}
	}
	s.entries = append(s.entries, e)
}

func sesError(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("X-Amzn-Errortype", kind+":http://internal.amazon.com/coral/com.amazonaws.ses.v2/")
	answer(w, status, map[string]string{"message": message})
}

func (s *SES) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if err := s.verify(r, body); err != nil {
		sesError(w, http.StatusForbidden, "InvalidSignatureException", err.Error())
		return
	}
	switch {
	case r.URL.Path != "/v2/email/suppression/addresses":
		sesError(w, http.StatusNotFound, "NotFoundException", "no such resource")
	case r.Method == http.MethodGet:
		s.list(w, r.URL.Query())
	case r.Method == http.MethodPut:
		var in struct{ EmailAddress, Reason string }
		err := json.NewDecoder(bytes.NewReader(body)).Decode(&in)
		if err != nil || in.Reason != "BOUNCE" && in.Reason != "COMPLAINT" || !strings.Contains(in.EmailAddress, "@") {
			sesError(w, http.StatusBadRequest, "BadRequestException", "The input you provided is invalid.")
			return
		}
		s.put(in.EmailAddress, in.Reason, time.Unix(1_795_500_000, 0))
		w.WriteHeader(http.StatusOK) // with an empty body
	default:
		sesError(w, http.StatusMethodNotAllowed, "UnknownOperationException", "")
	}
}

func (s *SES) list(w http.ResponseWriter, query url.Values) {
	size, err := strconv.Atoi(query.Get("PageSize"))
	if err != nil || size > s.MaxPage {
		size = s.MaxPage
	}
	from := 0
	if token := query.Get("NextToken"); token != "" {
		text, ok := strings.CutPrefix(token, "opaque/+=")
		if from, err = strconv.Atoi(text); !ok || err != nil {
			sesError(w, http.StatusBadRequest, "InvalidNextTokenException", "The specified request includes an invalid token.")
			return
		}
	}
	out := map[string]any{}
	var page []map[string]any
	for _, e := range s.entries[from:min(from+size, len(s.entries))] {
		page = append(page, map[string]any{
			"EmailAddress": e.address, "Reason": e.reason, "LastUpdateTime": e.updated,
		})
	}
	out["SuppressedDestinationSummaries"] = page
	if from+size < len(s.entries) {
		out["NextToken"] = fmt.Sprintf("opaque/+=%d", from+size)
	}
	answer(w, http.StatusOK, out)
}

// verify goes through the steps of Signature Version 4.
func (s *SES) verify(r *http.Request, body []byte) error {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return fmt.Errorf("missing authentication token")
	}
	fields := map[string]string{}
	for _, part := range strings.Split(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[name] = value
	}
	scope := strings.Split(fields["Credential"], "/") // key/date/region/service/aws4_request
	if len(scope) != 5 || scope[0] != s.AccessKeyID || scope[2] != s.Region || scope[3] != "ses" {
		return fmt.Errorf("the security token included in the request is invalid")
	}
	date := r.Header.Get("X-Amz-Date")
	if !strings.HasPrefix(date, scope[1]) {
		return fmt.Errorf("credential should be scoped to the date of the request")
	}
	names := strings.Split(fields["SignedHeaders"], ";")
	if !slices.Contains(names, "host") || !sort.StringsAreSorted(names) {
		return fmt.Errorf("signed headers must hold host and be sorted")
	}
	var headers strings.Builder
	for _, name := range names {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.TrimSpace(value))
	}
	query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
	hash := func(b []byte) string { sum := sha256.Sum256(b); return hex.EncodeToString(sum[:]) }
	canonical := strings.Join([]string{
		r.Method, r.URL.EscapedPath(), query, headers.String(), fields["SignedHeaders"], hash(body),
	}, "\n")
	toSign := strings.Join([]string{
		"AWS4-HMAC-SHA256", date, strings.Join(scope[1:], "/"), hash([]byte(canonical)),
	}, "\n")
	key := []byte("AWS4" + s.SecretAccessKey)
	for _, part := range append(scope[1:4:4], "aws4_request", toSign) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	if hex.EncodeToString(key) != fields["Signature"] {
		return fmt.Errorf("the request signature we calculated does not match the signature you provided")
	}
	return nil
}
