package suppression

import (
	"context"
	_ "embed" // openapi.yaml
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/address"
	"mailriver/pkg/event"
	"mailriver/pkg/httpserver/api"
	model "mailriver/pkg/suppression"
)

const (
	maxCheck     = 10_000  // addresses in one check
	maxCheckBody = 4 << 20 // bytes of it
	maxBody      = 16 << 10
	usualLimit   = 100
	maxLimit     = 1000
	// maxScanned bounds the work of one page: a filter that few addresses pass
	// gives short pages, not slow ones.
	maxScanned = 50_000
	// maxToldAddresses is how many of the addresses that are none a check names.
	maxToldAddresses = 100
	// maxReadWait bounds ?wait=.
	maxReadWait = 10 * time.Second
	// retryRead and retryWrite are when to try again what cannot be done now.
	retryRead, retryWrite = time.Second, 5 * time.Second
)

//go:embed openapi.yaml
var openapi []byte

// Routes adds the API, on an engine of package api.
func (s *Service) Routes(r gin.IRouter) {
	s.document.Routes(r)
	read, write := s.guard.Need(api.Read), s.guard.Need(api.Write)
	r.POST("/v1/unsubscribe-links", write, func(c *gin.Context) {
		if err := s.postLink(c); err != nil {
			api.Fail(c, err)
		}
	})
	v1 := r.Group("/v1/suppressions")
	v1.GET("", read, s.with(getList))
	v1.POST("/check", read, s.with(postCheck))
	v1.GET("/export", read, s.with(getExport))
	v1.POST("/import", write, s.with(postImport))
	v1.GET("/:address", read, s.with(getAddress))
	v1.GET("/:address/explain", read, s.with(getExplain))
	v1.PUT("/:address", write, s.with(putAddress))
	v1.DELETE("/:address", write, s.with(deleteAddress))
}

// with gives a handler the list, and its error to the client. A list that was
// never complete answers nothing: what it does not have yet would read as not
// suppressed.
func (s *Service) with(handle func(*Service, *list, *gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		l := s.list.Load()
		if l == nil {
			api.Fail(c, api.Unavailable(retryRead, "the list is being opened"))
			return
		}
		if _, err := l.current(); err != nil {
			api.Fail(c, err)
			return
		}
		if err := handle(s, l, c); err != nil {
			api.Fail(c, err)
		}
	}
}

// Answer is what the list says about one address.
type Answer struct {
	Address    string `json:"address"`
	Suppressed bool   `json:"suppressed"` // for the mail that the question names
	Entries    []Line `json:"entries"`    // every entry in force, strongest first
	// AsOf is the moment that the answer is not older than. It is null only in an
	// answer to a change, while the list is read anew.
	AsOf *string `json:"as_of"`
	// Position is where the list is, for ?wait= on any replica.
	Position string `json:"position,omitempty"`
}

// Line is an entry as the API tells it.
type Line struct {
	Address   string       `json:"address,omitempty"` // in a list
	ScopeKind string       `json:"scope_kind"`
	ScopeID   string       `json:"scope_id"`
	Reason    model.Reason `json:"reason"`
	Since     time.Time    `json:"since"`
	ExpiresAt *time.Time   `json:"expires_at"` // null: never
	Provider  string       `json:"provider"`
	Source    string       `json:"source"`
	EventID   string       `json:"event_id"`
	Note      string       `json:"note,omitempty"`
}

func line(e model.Entry) Line {
	l := Line{
		ScopeKind: e.ScopeKind, ScopeID: e.ScopeID, Reason: e.Reason, Since: e.Since, Provider: e.Provider,
		Source: e.Source, EventID: e.EventID, Note: e.Note,
	}
	if !e.ExpiresAt.IsZero() {
		l.ExpiresAt = &e.ExpiresAt
	}
	return l
}

// mail is the mail that a question is about: what it says beside the address.
type mail struct{ stream, scopeKind, scopeID string }

// concerns reports whether an entry stands against the mail. What is for the
// whole address or account always does; what is narrower does only where the
// question names it, so that an opt-out of the newsletter does not stop the
// receipt.
func (m mail) concerns(e model.Entry) bool {
	switch e.ScopeKind {
	case event.ScopeAddress, event.ScopeAccount:
		return true
	case event.ScopeStream:
		if m.stream != "" && m.stream == e.ScopeID {
			return true
		}
	}
	return m.scopeKind == e.ScopeKind && m.scopeID == e.ScopeID
}

// names of the parameters that make a mail.
const (
	paramStream    = "stream"
	paramScopeKind = "scope_kind"
	paramScopeID   = "scope_id"
	paramExpiresAt = "expires_at"
	paramWait      = "wait"
	paramList      = "list"
)

func checkMail(fields *api.Fields, m mail) {
	if m.scopeKind == "" {
		fields.Must(m.scopeID == "", paramScopeID, "needs scope_kind")
		return // without making a text of all kinds, as nearly always
	}
	if kinds, _ := event.Vocabulary("scope_kind"); !slices.Contains(kinds, m.scopeKind) {
		fields.Add(paramScopeKind, "is %.80q, must be one of %s", m.scopeKind, strings.Join(kinds, ", "))
	}
}

func (l *list) answer(given string, entries []model.Entry, m mail, now time.Time) Answer {
	a := Answer{Address: given, Entries: []Line{}}
	if len(entries) == 0 {
		return a // as nearly always
	}
	for _, e := range model.Active(entries, now) {
		a.Suppressed = a.Suppressed || m.concerns(e)
		a.Entries = append(a.Entries, line(e))
	}
	return a
}

// current is as_of, or that there is none. It is asked for after the answer is
// known: see replica.Copy.AsOf.
func (l *list) current() (asOf string, err error) {
	at := l.asOf()
	if at.IsZero() {
		return "", api.Unavailable(retryRead, "the list is being read and not complete yet")
	}
	return at.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano), nil // as the copy stores it
}

// known returns the folded form of the address in the path.
func known(l *list, c *gin.Context) (given, folded string, err error) {
	if given, err = api.Param(c, "address"); err != nil {
		return "", "", err
	}
	folded, ok := l.fold(given)
	if !ok {
		return "", "", notAnAddress("address", given)
	}
	return given, folded, nil
}

func notAnAddress(field, given string) *api.Problem {
	return api.Field(field, "is %.80q, must be local-part@domain", given)
}

// question reads the parameters of the mail that a question is about, and
// waits where it is to.
func (s *Service) question(l *list, c *gin.Context) (m mail, err error) {
	q, err := api.ParseQuery(c, paramStream, paramScopeKind, paramScopeID, paramWait)
	if err != nil {
		return m, err
	}
	m = mail{q.Get(paramStream), q.Get(paramScopeKind), q.Get(paramScopeID)}
	var fields api.Fields
	checkMail(&fields, m)
	if err := fields.Err(); err != nil {
		return m, err
	}
	return m, s.wait(c.Request.Context(), l, q.Get(paramWait))
}

func getAddress(s *Service, l *list, c *gin.Context) error {
	given, folded, err := known(l, c)
	if err != nil {
		return err
	}
	m, err := s.question(l, c)
	if err != nil {
		return err
	}
	ctx := c.Request.Context()
	found, err := l.lookup(ctx, []string{folded})
	if err != nil {
		return err
	}
	a := l.answer(given, found[0], m, s.deps.Now())
	asOf, err := l.current()
	if err != nil {
		return err
	}
	a.AsOf = &asOf
	text, err := a.appendJSON(make([]byte, 0, 320))
	if err != nil {
		return err
	}
	s.metrics.lookedUp(ctx, a)
	c.Data(http.StatusOK, contentJSON, text)
	return nil
}

// contentJSON is what gin calls it, too.
const contentJSON = "application/json; charset=utf-8"

// checkRequest is the body of POST check.
type checkRequest struct {
	Addresses []string `json:"addresses"`
	Stream    string   `json:"stream"`
	ScopeKind string   `json:"scope_kind"`
	ScopeID   string   `json:"scope_id"`
}

func postCheck(s *Service, l *list, c *gin.Context) error {
	q, err := api.ParseQuery(c, paramWait)
	if err != nil {
		return err
	}
	var body checkRequest
	if err := api.DecodeJSON(c, &body, maxCheckBody); err != nil {
		return err
	}
	m := mail{body.Stream, body.ScopeKind, body.ScopeID}
	var fields api.Fields
	checkMail(&fields, m)
	fields.Must(len(body.Addresses) > 0, "addresses", "is empty")
	fields.Must(len(body.Addresses) <= maxCheck, "addresses", "has %d, at most %d are checked at once", len(body.Addresses), maxCheck)
	if err := fields.Err(); err != nil {
		return err
	}
	folded := make([]string, len(body.Addresses))
	wrong := 0
	for i, given := range body.Addresses {
		var ok bool
		if folded[i], ok = l.fold(given); ok {
			continue
		}
		if wrong++; wrong <= maxToldAddresses {
			fields.Join(notAnAddress("addresses["+strconv.Itoa(i)+"]", given))
		}
	}
	fields.Must(wrong <= maxToldAddresses, "addresses", "holds %d more that are none", wrong-maxToldAddresses)
	if err := fields.Err(); err != nil {
		return err
	}
	if err := s.wait(c.Request.Context(), l, q.Get(paramWait)); err != nil {
		return err
	}
	found, err := l.lookup(c.Request.Context(), folded)
	if err != nil {
		return err
	}
	asOf, err := l.current()
	if err != nil {
		return err
	}
	answers := make([]Answer, len(found))
	now := s.deps.Now()
	for i, entries := range found {
		answers[i] = l.answer(body.Addresses[i], entries, m, now)
		answers[i].AsOf = &asOf
	}
	text, err := checkBody(answers)
	if err != nil {
		return err
	}
	s.metrics.lookedUp(c.Request.Context(), answers...)
	c.Data(http.StatusOK, contentJSON, text)
	return nil
}

// checkBody is the answers by address.
func checkBody(answers []Answer) ([]byte, error) {
	size := 0
	for i := range answers {
		size += 2*len(answers[i].Address) + 90 + 240*len(answers[i].Entries)
	}
	body := append(make([]byte, 0, size), '{')
	seen := make(map[string]bool, len(answers))
	for i := range answers {
		a := &answers[i]
		if seen[a.Address] {
			continue // an object has a name once
		}
		seen[a.Address] = true
		if len(body) > 1 {
			body = append(body, ',')
		}
		var err error
		if body, err = appendText(body, a.Address); err != nil {
			return nil, err
		}
		if body, err = a.appendJSON(append(body, ':')); err != nil {
			return nil, err
		}
	}
	return append(body, '}'), nil
}

// Page is a part of the list.
type Page struct {
	Entries    []Line  `json:"entries"`
	NextCursor *string `json:"next_cursor"` // null at the end
	AsOf       string  `json:"as_of"`
}

var listCursor = api.Cursors{List: "suppressions", Version: 1} //nolint:gochecknoglobals // a constant, if structs could be

// filter is what a part of the list is about.
type filter struct {
	reason                     model.Reason
	scopeKind, scopeID, domain string
	since                      time.Time
	given                      []string // as it came, for the cursor
}

func filterParams() []string {
	return []string{paramReason, paramScopeKind, paramScopeID, "domain", "since"}
}

func readFilter(q api.Query) (filter, error) {
	var fields api.Fields
	f := filter{reason: model.Reason(q.Get(paramReason)), scopeKind: q.Get(paramScopeKind), scopeID: q.Get(paramScopeID)}
	if f.reason != "" {
		_, ok := model.ParseReason(string(f.reason))
		fields.Must(ok, paramReason, "is %.80q, must be one of %v", f.reason, model.Reasons())
	}
	checkMail(&fields, mail{scopeKind: f.scopeKind, scopeID: f.scopeID})
	if domain := q.Get("domain"); domain != "" {
		parsed, ok := address.Normalize("x@" + domain)
		fields.Must(ok && parsed.Local == "x", "domain", "is %.80q, must be a domain", domain)
		f.domain = "@" + parsed.Domain
	}
	var err error
	if f.since, err = q.Time("since"); !fields.Join(err) {
		return f, err
	}
	for _, name := range filterParams() {
		f.given = append(f.given, q.Get(name))
	}
	return f, fields.Err()
}

// address reports whether any entry of an address can pass.
func (f filter) address(folded string) bool { return strings.HasSuffix(folded, f.domain) }

func (f filter) entry(e model.Entry) bool {
	return (f.reason == "" || e.Reason == f.reason) && (f.scopeKind == "" || e.ScopeKind == f.scopeKind) &&
		(f.scopeID == "" || e.ScopeID == f.scopeID) && !e.Since.Before(f.since)
}

func getList(s *Service, l *list, c *gin.Context) error {
	q, err := api.ParseQuery(c, append(filterParams(), "cursor", "limit")...)
	if err != nil {
		return err
	}
	var fields api.Fields
	want, err := readFilter(q)
	if !fields.Join(err) {
		return err
	}
	limit, err := q.Limit(usualLimit, maxLimit)
	if !fields.Join(err) {
		return err
	}
	from, err := listCursor.Decode(q.Get("cursor"), want.given...)
	if !fields.Join(err) {
		return err
	}
	if err := fields.Err(); err != nil {
		return err
	}
	page := Page{Entries: []Line{}}
	now := s.deps.Now()
	next, err := l.scan(c.Request.Context(), string(from), maxScanned, want.address, func(entries []model.Entry) (bool, error) {
		for _, e := range model.Active(entries, now) {
			if !want.entry(e) {
				continue
			}
			entry := line(e)
			entry.Address = e.Address
			page.Entries = append(page.Entries, entry)
		}
		return len(page.Entries) < limit, nil
	})
	if err != nil {
		return err
	}
	if next != "" {
		cursor := listCursor.Encode([]byte(next), want.given...)
		page.NextCursor = &cursor
	}
	if page.AsOf, err = l.current(); err != nil {
		return err
	}
	c.JSON(http.StatusOK, page)
	return nil
}

// Explanation is everything that is known about an address.
type Explanation struct {
	Answer
	Scopes []ExplainedScope `json:"scopes"`
}

// ExplainedScope is what is known in one scope.
type ExplainedScope struct {
	ScopeKind string          `json:"scope_kind"`
	ScopeID   string          `json:"scope_id"`
	Facts     []ExplainedFact `json:"facts"` // oldest first
}

// ExplainedFact is one event and what the policy made of it.
type ExplainedFact struct {
	EventID    event.ID     `json:"event_id"`
	Revision   int32        `json:"revision"`
	EventType  event.Type   `json:"event_type"`
	OccurredAt time.Time    `json:"occurred_at"`
	ExpiresAt  *time.Time   `json:"expires_at"`
	Provider   string       `json:"provider"`
	Source     string       `json:"source"`
	Effect     model.Effect `json:"effect"`
	Reason     model.Reason `json:"reason"`
	Counts     bool         `json:"counts"`  // it is part of an entry
	Because    string       `json:"because"` // what the policy made of it
	Detail     string       `json:"detail,omitempty"`
	Actor      string       `json:"actor,omitempty"`
}

func getExplain(s *Service, l *list, c *gin.Context) error {
	given, folded, err := known(l, c)
	if err != nil {
		return err
	}
	m, err := s.question(l, c)
	if err != nil {
		return err
	}
	states, err := l.scopes(c.Request.Context(), folded)
	if err != nil {
		return err
	}
	now := s.deps.Now()
	var entries []model.Entry
	explained := Explanation{Scopes: []ExplainedScope{}}
	for _, state := range states {
		verdict := model.Evaluate(state, l.policy)
		entries = append(entries, verdict.Entries...)
		scope := ExplainedScope{ScopeKind: state.ScopeKind, ScopeID: state.ScopeID, Facts: []ExplainedFact{}}
		for _, j := range verdict.Judgements {
			scope.Facts = append(scope.Facts, explain(j, verdict.Entries, now))
		}
		explained.Scopes = append(explained.Scopes, scope)
	}
	l.sort(entries)
	explained.Answer = l.answer(given, entries, m, now)
	asOf, err := l.current()
	if err != nil {
		return err
	}
	explained.AsOf = &asOf
	c.JSON(http.StatusOK, explained)
	return nil
}

func explain(j model.Judgement, entries []model.Entry, now time.Time) ExplainedFact {
	f := ExplainedFact{
		EventID: j.Fact.EventID, Revision: j.Fact.Revision, EventType: j.Fact.EventType, OccurredAt: j.Fact.At,
		Provider: j.Fact.Provider, Source: j.Fact.Source, Effect: j.Fact.Effect, Reason: j.Fact.Reason,
		Counts: j.Counts, Because: j.Because, Detail: j.Fact.Detail, Actor: j.Fact.Actor,
	}
	if !j.Fact.ExpiresAt.IsZero() {
		f.ExpiresAt = &j.Fact.ExpiresAt
	}
	if !j.Counts {
		return f
	}
	for _, e := range entries {
		if e.Reason == j.Fact.Reason && !e.ExpiresAt.IsZero() && !now.Before(e.ExpiresAt) {
			f.Because += fmt.Sprintf(", until it expired on %s", e.ExpiresAt.Format(time.RFC3339))
		}
	}
	return f
}

// position says where the list is. It holds an offset for each partition of the
// suppressions topic, and means the same on every replica.
func (l *list) position() string {
	offsets := l.states.Positions()
	parts := make([]string, 0, len(offsets))
	for partition, offset := range offsets {
		parts = append(parts, fmt.Sprintf("%d:%d", partition, offset))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// wait returns when the list is where the position says.
func (s *Service) wait(ctx context.Context, l *list, position string) error {
	if position == "" {
		return nil
	}
	targets := map[int32]int64{}
	for part := range strings.SplitSeq(position, ",") {
		p, o, _ := strings.Cut(part, ":")
		partition, err := strconv.ParseInt(p, 10, 32)
		offset, offsetErr := strconv.ParseInt(o, 10, 64)
		if err != nil || offsetErr != nil || partition < 0 || offset < 0 {
			return api.Field(paramWait, "is %.80q, must be the position of an earlier answer", position)
		}
		targets[int32(partition)] = max(offset, targets[int32(partition)])
	}
	ctx, cancel := context.WithTimeout(ctx, s.readWait)
	defer cancel()
	if err := l.states.Reach(ctx, targets); err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		return api.Unavailable(retryRead, "the list has not reached position %.200s yet; it is at %s", position, l.position())
	}
	return nil
}
