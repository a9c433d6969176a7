package suppression

import "time"

// Reason is why an address must not be mailed.
type Reason string

// The reasons, strongest first. A weaker one never hides a stronger one.
const (
	Complaint      Reason = "complaint"       // the recipient reported spam
	Manual         Reason = "manual"          // a person put it on the list
	Unsubscribe    Reason = "unsubscribe"     // the recipient opted out
	HardBounce     Reason = "hard_bounce"     // the mailbox does not exist or refuses for good
	InvalidAddress Reason = "invalid_address" // the provider refused the address itself
	ProviderList   Reason = "provider_list"   // on a provider's own list, for a reason it does not tell
	SoftBounce     Reason = "soft_bounce"     // too many messages bounced softly
)

// Reasons lists every reason, strongest first.
func Reasons() []Reason {
	return []Reason{Complaint, Manual, Unsubscribe, HardBounce, InvalidAddress, ProviderList, SoftBounce}
}

// ParseReason reports whether the text is a reason.
func ParseReason(text string) (Reason, bool) {
	for _, r := range Reasons() {
		if string(r) == text {
			return r, true
		}
	}
	return "", false
}

// Strength orders reasons: the higher, the stronger. 0 is no reason.
func (r Reason) Strength() int {
	list := Reasons()
	for i, known := range list {
		if known == r {
			return len(list) - i
		}
	}
	return 0
}

// Entry is one line of a suppression list: an address, what it must not get,
// and why.
type Entry struct {
	Address   string    `json:"address"`
	ScopeKind string    `json:"scope_kind"` // package event, Scope...
	ScopeID   string    `json:"scope_id"`   // empty for the whole address
	Reason    Reason    `json:"reason"`
	Since     time.Time `json:"since"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // zero: never
	Provider  string    `json:"provider"`
	Source    string    `json:"source"`
	EventID   string    `json:"event_id"` // the canonical event behind it
	Note      string    `json:"note,omitempty"`
}
