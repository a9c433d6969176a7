// Package leadapi is the lead scoring API as both of its ends see it: what it
// answers, and a client that asks.
//
// How an API is asked is the business of package apiclient, how it is served that
// of services/leadscoring, and what a score is that of package lead.
package leadapi

import (
	"time"

	"mailriver/pkg/event"
)

// Lead is where a recipient stands now.
type Lead struct {
	Address  string     `json:"address"` // as it was asked for
	Profiles []Standing `json:"profiles"`
	Segments []string   `json:"segments"` // those whose condition holds now
	AsOf     time.Time  `json:"as_of"`    // the answer is not older than this
}

// Standing is where a recipient stands in one profile.
type Standing struct {
	Profile   string     `json:"profile"`
	Score     float64    `json:"score"`      // decayed to now
	Stage     string     `json:"stage"`      // empty below the lowest
	UpdatedAt *time.Time `json:"updated_at"` // of the newest event that counts; null without one
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
