package leadscoring

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/httpserver/api"
)

// retryRead is when to ask again for what cannot be told now.
const retryRead = time.Second

// Routes adds the API, on an engine of package api.
func (s *Service) Routes(r gin.IRouter) {
	read := s.guard.Need(api.Read)
	r.GET("/v1/leads/:address", read, s.with(getLead))
}

// with gives a handler the leads, and its error to the client. Leads that were
// never complete answer nothing.
func (s *Service) with(handle func(*Service, *leads, *gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		l := s.leads.Load()
		if l == nil || l.states.AsOf().IsZero() {
			api.Fail(c, api.Unavailable(retryRead, "the leads are being read"))
			return
		}
		if err := handle(s, l, c); err != nil {
			api.Fail(c, err)
		}
	}
}

// Lead is where a recipient stands now.
type Lead struct {
	Address  string     `json:"address"`
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

func getLead(s *Service, l *leads, c *gin.Context) error {
	if _, err := api.ParseQuery(c); err != nil {
		return err
	}
	given := c.Param("address")
	state, ok, err := l.get(c.Request.Context(), given)
	if err != nil {
		return err
	}
	if !ok {
		return api.Field("address", "is %q, must be local-part@domain", given)
	}
	answer := Lead{Address: given, Profiles: []Standing{}}
	for _, standing := range l.rules.StandingsAt(&state, s.deps.Now()) {
		one := Standing{Profile: standing.Profile, Score: standing.Score, Stage: standing.Stage}
		if !standing.At.IsZero() {
			one.UpdatedAt = &standing.At
		}
		answer.Profiles = append(answer.Profiles, one)
	}
	answer.AsOf = l.states.AsOf().UTC()
	c.JSON(http.StatusOK, answer)
	return nil
}
