package leadscoring

import (
	"context"
	_ "embed" // openapi.yaml
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/address"
	"mailriver/pkg/event"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/lead"
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

// Lead is where a recipient stands now.
type Lead struct {
	Address  string     `json:"address"` // as it was asked for
	Profiles []Standing `json:"profiles"`
	AsOf     time.Time  `json:"as_of"` // the answer is not older than this
}

// Standing is where a recipient stands in one profile.
type Standing struct {
	Profile   string     `json:"profile"`
	Score     float64    `json:"score"`      // decayed to now
	Stage     string     `json:"stage"`      // empty below the lowest
	UpdatedAt *time.Time `json:"updated_at"` // of the newest event that counts; null without one
}

func standing(s lead.Standing) Standing {
	out := Standing{Profile: s.Profile, Score: s.Score, Stage: s.Stage}
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
	answer := Lead{Address: given, Profiles: []Standing{}}
	for _, at := range l.rules.StandingsAt(&state, s.deps.Now()) {
		answer.Profiles = append(answer.Profiles, standing(at))
	}
	if answer.AsOf, err = l.current(); err != nil {
		return err
	}
	c.JSON(http.StatusOK, answer)
	return nil
}

// Page is a part of the leads of a profile, best first.
type Page struct {
	Leads      []Ranked  `json:"leads"`
	NextCursor *string   `json:"next_cursor"` // null at the end
	AsOf       time.Time `json:"as_of"`
}

// Ranked is a lead in a list.
type Ranked struct {
	Address string `json:"address"`
	Standing
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
	page := Page{Leads: []Ranked{}}
	next, err := l.top(c.Request.Context(), want, placeOf(position), limit, s.deps.Now(), func(recipient string, at lead.Standing) {
		page.Leads = append(page.Leads, Ranked{recipient, standing(at)})
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

// Explanation is what the scores of a lead are made of.
type Explanation struct {
	Address  string              `json:"address"`
	Profiles []ExplainedStanding `json:"profiles"`
	AsOf     time.Time           `json:"as_of"`
}

// ExplainedStanding is what the score in one profile is made of.
type ExplainedStanding struct {
	Standing
	HalfLife      string         `json:"half_life"`
	Contributions []Contribution `json:"contributions"` // oldest first
}

// Contribution is what one rule gave for one event.
type Contribution struct {
	EventID    event.ID   `json:"event_id"`
	EventType  event.Type `json:"event_type"`
	OccurredAt time.Time  `json:"occurred_at"`
	Rule       string     `json:"rule"`
	Points     float64    `json:"points"`   // what the rule gives
	Counted    float64    `json:"counted"`  // of them, after caps and machines
	Evidence   []string   `json:"evidence"` // codes that tell that a machine did it
	Now        float64    `json:"now"`      // what is left of it
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
	answer := Explanation{Address: given, Profiles: []ExplainedStanding{}}
	standings := l.rules.StandingsAt(&state, now)
	for i, p := range l.rules.Profiles() {
		if asked != "" && asked != p.Name {
			continue
		}
		explained := ExplainedStanding{Standing: standing(standings[i]), HalfLife: p.HalfLife.String(), Contributions: []Contribution{}}
		steps, _ := l.rules.Explain(&state, p.Name, now)
		for _, step := range steps {
			explained.Contributions = append(explained.Contributions, Contribution{
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

// History is how a lead went through the stages.
type History struct {
	Address string    `json:"address"`
	Changes []Change  `json:"changes"` // oldest first
	AsOf    time.Time `json:"as_of"`
}

// Change is a stage that a lead entered (up) or left (down).
type Change struct {
	Profile   string    `json:"profile"`
	Stage     string    `json:"stage"`
	Direction string    `json:"direction"`
	At        time.Time `json:"at"`
	Score     float64   `json:"score"`    // then
	EventID   *event.ID `json:"event_id"` // null: points faded
	EventType string    `json:"event_type"`
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
	answer := History{Address: given, Changes: []Change{}}
	for _, change := range l.rules.History(&state, s.deps.Now()) {
		if asked != "" && asked != change.Profile {
			continue
		}
		told := Change{
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

// Rules are the rules in force.
type Rules struct {
	Fingerprint string    `json:"fingerprint"` // the same for all that score alike
	Profiles    []Profile `json:"profiles"`
}

// Profile is one of them, as it is configured.
type Profile struct {
	Name     string  `json:"name"`
	HalfLife string  `json:"half_life"`
	Rules    []Rule  `json:"rules"`
	Stages   []Stage `json:"stages"` // lowest first
}

// Rule gives points for the events that its condition holds for.
type Rule struct {
	Name   string  `json:"name"`
	When   string  `json:"when"`
	Points float64 `json:"points"`
	Cap    *Cap    `json:"cap"` // null: none
}

// Cap bounds what a rule gives within any span of time.
type Cap struct {
	Points float64 `json:"points"`
	Window string  `json:"window"`
}

// Stage is how warm a lead is.
type Stage struct {
	Name  string  `json:"name"`
	Enter float64 `json:"enter"`
	Leave float64 `json:"leave"`
}

func (s *Service) getRules(c *gin.Context) error {
	if _, err := api.ParseQuery(c); err != nil {
		return err
	}
	answer := Rules{Fingerprint: s.rules.Fingerprint(), Profiles: []Profile{}}
	for _, p := range s.rules.Profiles() {
		profile := Profile{Name: p.Name, HalfLife: p.HalfLife.String(), Rules: []Rule{}, Stages: []Stage{}}
		for _, r := range p.Rules {
			rule := Rule{Name: r.Name, When: r.When, Points: r.Points}
			if r.Cap != nil {
				rule.Cap = &Cap{r.Cap.Points, r.Cap.Window.String()}
			}
			profile.Rules = append(profile.Rules, rule)
		}
		for _, stage := range p.Stages {
			profile.Stages = append(profile.Stages, Stage{stage.Name, stage.Enter, stage.Leave})
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
	List(ctx context.Context, q DeliveryQuery) (DeliveryPage, error)
}

// DeliveryQuery is a part of the deliveries. Its zero value is all of them.
type DeliveryQuery struct {
	Webhook   string // name of one
	State     string
	Recipient string // normalized address
	Cursor    string // the NextCursor of the page before
	Limit     int
}

// DeliveryPage is a page of deliveries.
type DeliveryPage struct {
	Deliveries []Delivery `json:"deliveries"`
	NextCursor *string    `json:"next_cursor"` // null at the end
}

// Delivery is a signal on its way to one webhook.
type Delivery struct {
	ID        string     `json:"id"`
	Webhook   string     `json:"webhook"`
	Recipient string     `json:"recipient"`
	Profile   string     `json:"profile"`
	Stage     string     `json:"stage"`
	Direction string     `json:"direction"`
	State     string     `json:"state"` // pending, delivered, dead, skipped
	Attempts  int        `json:"attempts"`
	Since     time.Time  `json:"since"` // planned, or retried by a person
	UpdatedAt time.Time  `json:"updated_at"`
	NextAt    *time.Time `json:"next_at"` // not before; null: no attempt is due
	Status    int        `json:"status"`  // of HTTP, of the last answer; 0 before one
	Problem   string     `json:"problem"` // of the last attempt, for people
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
		page.Deliveries = []Delivery{}
	}
	c.JSON(http.StatusOK, page)
	return nil
}
