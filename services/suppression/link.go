package suppression

import (
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/event"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/unsubscribe"
)

// linkRequest is the body of POST /v1/unsubscribe-links.
type linkRequest struct {
	Address   string     `json:"address"`
	ScopeKind string     `json:"scope_kind"` // account, when it is left out
	ScopeID   string     `json:"scope_id"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// Link is a link by which a recipient opts out, and the headers with which a
// message offers it (RFC 8058).
type Link struct {
	Address   string      `json:"address"`
	ScopeKind string      `json:"scope_kind"`
	ScopeID   string      `json:"scope_id"`
	ExpiresAt *time.Time  `json:"expires_at"` // null: never
	URL       string      `json:"url"`
	Headers   LinkHeaders `json:"headers"`
}

// LinkHeaders are the headers of a message. DKIM must cover both.
type LinkHeaders struct {
	ListUnsubscribe     string `json:"List-Unsubscribe"`
	ListUnsubscribePost string `json:"List-Unsubscribe-Post"`
}

// postLink makes a link. It changes nothing, and needs the scope write all the
// same: whoever has a link can take its address off.
func (s *Service) postLink(c *gin.Context) error {
	if s.deps.Links == nil {
		return api.NewProblem(http.StatusNotFound, "there are no links here: unsubscribe.keys and unsubscribe.base_url are not configured")
	}
	if _, err := api.ParseQuery(c); err != nil {
		return err
	}
	var body linkRequest
	if err := api.DecodeJSON(c, &body, maxBody); err != nil {
		return err
	}
	now := s.deps.Now().UTC().Truncate(time.Second)
	link := unsubscribe.Link{
		Address: strings.TrimSpace(body.Address), ScopeKind: body.ScopeKind, ScopeID: body.ScopeID, IssuedAt: now,
	}
	if link.ScopeKind == "" && link.ScopeID == "" {
		link.ScopeKind = event.ScopeAccount
	}
	if body.ExpiresAt != nil {
		link.ExpiresAt = body.ExpiresAt.UTC().Truncate(time.Second)
		if !link.ExpiresAt.After(now) {
			return api.Field(paramExpiresAt, "is past")
		}
	}
	if err := link.Validate(); err != nil {
		return fieldsOf(err)
	}
	headers, err := s.deps.Links(link)
	if err != nil {
		return api.Field(paramScopeID, "%s", err) // all that is left: the link is too long
	}
	answer := Link{
		Address: link.Address, ScopeKind: link.ScopeKind, ScopeID: link.ScopeID, URL: headers.URL,
		Headers: LinkHeaders{headers.List, headers.Post},
	}
	if !link.ExpiresAt.IsZero() {
		answer.ExpiresAt = &link.ExpiresAt
	}
	c.JSON(http.StatusOK, answer)
	return nil
}
