// Package webhook sends signals about leads to the endpoints of other people:
// what an endpoint wants, what the body looks like, how it is sent without becoming
// a way into a private network, and what the answer means. How it is signed is in
// pkg/standardwebhooks.
//
// It makes one attempt at a time. When to try again, what is kept over a restart
// and in which order signals go out is for the caller (services/leadscoring/deliver).
// It knows no Kafka.
package webhook

import "time"

// Types of messages, as receivers see them.
const (
	TypeEntered = "lead.stage.entered"
	TypeLeft    = "lead.stage.left"
)

// Signal says that a recipient entered or left a stage. It is the "data" of the
// generic template, so its JSON names are a contract with receivers.
type Signal struct {
	ID         string    `json:"signal_id"`
	Recipient  string    `json:"recipient"`
	Profile    string    `json:"profile"`
	Stage      string    `json:"stage"`
	Direction  string    `json:"direction"` // up or down
	Score      float64   `json:"score"`
	OccurredAt time.Time `json:"occurred_at"`
	Event      Event     `json:"event"`
}

// Event is the event that made the score cross the threshold.
type Event struct {
	ID         string `json:"event_id"`
	Type       string `json:"event_type"`
	Provider   string `json:"provider"`
	Source     string `json:"source"`
	CampaignID string `json:"campaign_id,omitempty"`
	URL        string `json:"url,omitempty"`
}

// Directions of a signal.
const (
	Up   = "up"
	Down = "down"
)

// Type returns the type of the message about the signal.
func (s *Signal) Type() string {
	if s.Direction == Up {
		return TypeEntered
	}
	return TypeLeft
}
