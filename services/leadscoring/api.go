package leadscoring

import (
	"context"
	_ "embed" // openapi.yaml
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/address"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadapi"
	"mailriver/pkg/lead/leadavro"
)

const (
	usualLimit = 100
	maxLimit   = 1000
	// maxScanned bounds the work of one page: a stage that few of the best are in
	// gives short pages, not slow ones.
	maxScanned = 50_000
	// retryRead is when to ask again for what cannot be told now.
	retryRead = time.Second
)

//go:embed openapi.yaml
var openapi []byte

// Routes adds the API, on an engine of package api.
func (s *Service) Routes(r gin.IRouter) {
	s.document.Routes(r)
	read := s.guard.Need(api.Read)
	r.GET("/v1/leads", read, s.with(getTop))
	r.GET("/v1/leads/:address", read, s.with(getLead))
	r.GET("/v1/leads/:address/explain", read, s.with(getExplain))
	r.GET("/v1/leads/:address/history", read, s.with(getHistory))
	r.GET("/v1/rules", read, failing(s.getRules))
	r.GET("/v1/deliveries", read, failing(s.getDeliveries))
}

// failing gives the error of a handler to the client.
func failing(handle func(*gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := handle(c); err != nil {
			api.Fail(c, err)
		}
	}
}

// with gives a handler the leads. Leads that were never complete answer nothing.
func (s *Service) with(handle func(*Service, *leads, *gin.Context) error) gin.HandlerFunc {
	return failing(func(c *gin.Context) error {
		l := s.leads.Load()
		if l == nil {
			return api.Unavailable(retryRead, "the leads are being opened")
		}
		if _, err := l.current(); err != nil {
			return err
		}
		return handle(s, l, c)
	})
}

// current is as_of, or that there is none. It is asked for after the answer is
// known: see replica.Copy.AsOf.
func (l *leads) current() (asOf time.Time, err error) {
	at := l.states.AsOf()
	if at.IsZero() {
		return at, api.Unavailable(retryRead, "the leads are being read and not complete yet")
	}
	return at.UTC().Truncate(time.Microsecond), nil // as the copy stores it
}

func standing(s lead.Standing) leadapi.Standing {
	out := leadapi.Standing{Profile: s.Profile, Score: s.Score, Stage: s.Stage}
	if !s.At.IsZero() {
		out.UpdatedAt = &s.At
	}
	return out
}

// known returns the address of the path and what is known about it.
func (l *leads) known(c *gin.Context) (given string, state lead.State, err error) {
	if given, err = api.Param(c, "address"); err != nil {
		return "", state, err
	}
	state, ok, err := l.get(c.Request.Context(), given)
	if err != nil {
		return "", state, err
	}
	if !ok {
		return "", state, notAnAddress(given)
	}
	return given, state, nil
}

func notAnAddress(given string) error {
	return api.Field("address", "is %.80q, must be local-part@domain", given)
}

func getLead(s *Service, l *leads, c *gin.Context) error {
	if _, err := api.ParseQuery(c); err != nil {
		return err
	}
	given, state, err := l.known(c)
	if err != nil {
		return err
	}
	answer := leadapi.Lead{Address: given, Profiles: []leadapi.Standing{}}
	now := s.deps.Now()
	for _, at := range l.rules.StandingsAt(&state, now) {
		answer.Profiles = append(answer.Profiles, standing(at))
	}
	var segments []string // of one who was never heard of: none
	if len(state.Contributions) > 0 || len(state.Deliveries) > 0 {
		// As of now, and not of the last change that was told.
		segments, _ = s.segments.Evaluate(&state, now) // a condition that fails has nobody in it
	}
	answer.Segments = listed(segments)
	if answer.AsOf, err = l.current(); err != nil {
		return err
	}
	c.JSON(http.StatusOK, answer)
	return nil
}

const (
	paramProfile = "profile"
	paramStage   = "stage"
)

var topCursor = api.Cursors{List: "leads", Version: 1} //nolint:gochecknoglobals // a constant, if structs could be

// profile is the one that a query names, or the only one there is.
func (l *leads) profile(q api.Query) (p lead.Profile, err error) {
	profiles := l.rules.Profiles()
	if !q.Has(paramProfile) && len(profiles) == 1 {
		return profiles[0], nil
	}
	return l.named(q.Get(paramProfile))
}

func (l *leads) named(name string) (lead.Profile, error) {
	var names []string
	for _, p := range l.rules.Profiles() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	if name == "" {
		return lead.Profile{}, api.Field(paramProfile, "is required, since there are several: %q", names)
	}
	return lead.Profile{}, api.Field(paramProfile, "is %.80q, must be one of %q", name, names)
}

func getTop(s *Service, l *leads, c *gin.Context) error {
	q, err := api.ParseQuery(c, paramProfile, paramStage, "sort", "cursor", "limit")
	if err != nil {
		return err
	}
	var fields api.Fields
	p, err := l.profile(q)
	if !fields.Join(err) {
		return err
	}
	want := wanted{profile: p, stage: q.Get(paramStage)}
	if err == nil && q.Has(paramStage) && !slices.ContainsFunc(p.Stages, func(s lead.Stage) bool { return s.Name == want.stage }) {
		fields.Add(paramStage, "is %.80q, which the profile %s has not", want.stage, p.Name)
	}
	fields.Must(!q.Has("sort") || q.Get("sort") == "score", "sort", "is %.80q, must be score", q.Get("sort"))
	limit, err := q.Limit(usualLimit, maxLimit)
	if !fields.Join(err) {
		return err
	}
	if err := fields.Err(); err != nil {
		return err
	}
	position, err := topCursor.Decode(q.Get("cursor"), p.Name, want.stage)
	if err != nil {
		return err
	}
	if !l.index.complete.Load() {
		return api.Unavailable(retryRead, "the leads are being put in order")
	}
	page := leadapi.Page{Leads: []leadapi.Ranked{}}
	next, err := l.top(c.Request.Context(), want, placeOf(position), limit, s.deps.Now(), func(recipient string, at lead.Standing) {
		page.Leads = append(page.Leads, leadapi.Ranked{Address: recipient, Standing: standing(at)})
	})
	if err != nil {
		return err
	}
	if next != nil {
		cursor := topCursor.Encode(next.position(), p.Name, want.stage)
		page.NextCursor = &cursor
	}
	if page.AsOf, err = l.current(); err != nil {
		return err
	}
	c.JSON(http.StatusOK, page)
	return nil
}

func getExplain(s *Service, l *leads, c *gin.Context) error {
	asked, err := l.asked(c)
	if err != nil {
		return err
	}
	given, state, err := l.known(c)
	if err != nil {
		return err
	}
	now := s.deps.Now()
	answer := leadapi.Explanation{Address: given, Profiles: []leadapi.ExplainedStanding{}}
	standings := l.rules.StandingsAt(&state, now)
	for i, p := range l.rules.Profiles() {
		if asked != "" && asked != p.Name {
			continue
		}
		explained := leadapi.ExplainedStanding{Standing: standing(standings[i]), HalfLife: p.HalfLife.String(), Contributions: []leadapi.Contribution{}}
		steps, _ := l.rules.Explain(&state, p.Name, now)
		for _, step := range steps {
			explained.Contributions = append(explained.Contributions, leadapi.Contribution{
				EventID: step.Contribution.EventID, EventType: step.Contribution.Type, OccurredAt: step.Contribution.At,
				Rule: step.Rule, Points: step.Points, Counted: step.Counted, Evidence: listed(step.Evidence), Now: step.Now,
			})
		}
		answer.Profiles = append(answer.Profiles, explained)
	}
	if answer.AsOf, err = l.current(); err != nil {
		return err
	}
	c.JSON(http.StatusOK, answer)
	return nil
}

// asked is the profile that a query is about; empty is all.
func (l *leads) asked(c *gin.Context) (string, error) {
	q, err := api.ParseQuery(c, paramProfile)
	if err != nil || !q.Has(paramProfile) {
		return "", err
	}
	p, err := l.named(q.Get(paramProfile))
	return p.Name, err
}

// listed is never null in JSON.
func listed(texts []string) []string {
	if texts == nil {
		return []string{}
	}
	return texts
}

func getHistory(s *Service, l *leads, c *gin.Context) error {
	asked, err := l.asked(c)
	if err != nil {
		return err
	}
	given, state, err := l.known(c)
	if err != nil {
		return err
	}
	answer := leadapi.History{Address: given, Changes: []leadapi.Change{}}
	for _, change := range l.rules.History(&state, s.deps.Now()) {
		if asked != "" && asked != change.Profile {
			continue
		}
		told := leadapi.Change{
			Profile: change.Profile, Stage: change.Stage, Direction: leadavro.Direction(change.Up), At: change.At,
			Score: change.Score, EventType: string(change.Type),
		}
		if !change.EventID.IsZero() {
			told.EventID = &change.EventID
		}
		answer.Changes = append(answer.Changes, told)
	}
	if answer.AsOf, err = l.current(); err != nil {
		return err
	}
	c.JSON(http.StatusOK, answer)
	return nil
}

func (s *Service) getRules(c *gin.Context) error {
	if _, err := api.ParseQuery(c); err != nil {
		return err
	}
	answer := leadapi.Rules{Fingerprint: s.rules.Fingerprint(), Profiles: []leadapi.Profile{}}
	for _, p := range s.rules.Profiles() {
		profile := leadapi.Profile{Name: p.Name, HalfLife: p.HalfLife.String(), Rules: []leadapi.Rule{}, Stages: []leadapi.Stage{}}
		for _, r := range p.Rules {
			rule := leadapi.Rule{Name: r.Name, When: r.When, Points: r.Points}
			if r.Cap != nil {
				rule.Cap = &leadapi.Cap{Points: r.Cap.Points, Window: r.Cap.Window.String()}
			}
			profile.Rules = append(profile.Rules, rule)
		}
		for _, stage := range p.Stages {
			profile.Stages = append(profile.Stages, leadapi.Stage{Name: stage.Name, Enter: stage.Enter, Leave: stage.Leave})
		}
		answer.Profiles = append(answer.Profiles, profile)
	}
	c.JSON(http.StatusOK, answer)
	return nil
}

// Deliveries tells what became of signals on their way out.
type Deliveries interface {
	// List returns deliveries, newest first. What it refuses in a query is a
	// problem of package api.
	List(ctx context.Context, q DeliveryQuery) (leadapi.DeliveryPage, error)
}

// DeliveryQuery is a part of the deliveries. Its zero value is all of them.
type DeliveryQuery struct {
	Webhook   string // name of one
	State     string
	Recipient string // normalized address
	Cursor    string // the NextCursor of the page before
	Limit     int
}

func (s *Service) getDeliveries(c *gin.Context) error {
	q, err := api.ParseQuery(c, "webhook", "state", "address", "cursor", "limit")
	if err != nil {
		return err
	}
	var fields api.Fields
	want := DeliveryQuery{Webhook: q.Get("webhook"), State: q.Get("state"), Cursor: q.Get("cursor")}
	states := []string{"pending", "delivered", "dead", "skipped"}
	fields.Must(want.State == "" || slices.Contains(states, want.State), "state", "is %.80q, must be one of %q", want.State, states)
	if given := q.Get("address"); given != "" {
		a, ok := address.Normalize(given)
		if !ok {
			fields.Join(notAnAddress(given))
		}
		want.Recipient = a.Full
	}
	if want.Limit, err = q.Limit(usualLimit, maxLimit); !fields.Join(err) {
		return err
	}
	if err := fields.Err(); err != nil {
		return err
	}
	if s.deps.Deliveries == nil {
		return api.NewProblem(http.StatusServiceUnavailable, "nothing is delivered from here: there are no webhooks")
	}
	page, err := s.deps.Deliveries.List(c.Request.Context(), want)
	if err != nil {
		return err
	}
	if page.Deliveries == nil {
		page.Deliveries = []leadapi.Delivery{}
	}
	c.JSON(http.StatusOK, page)
	return nil
}
