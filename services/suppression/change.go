package suppression

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/change"
	"mailriver/pkg/esp"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/event"
	"mailriver/pkg/httpserver/api"
	model "mailriver/pkg/suppression"
)

// putRequest is the body of PUT.
type putRequest struct {
	ScopeKind string     `json:"scope_kind"` // address, when it is left out
	ScopeID   string     `json:"scope_id"`
	Reason    string     `json:"reason"` // manual, when it is left out
	Note      string     `json:"note"`
	ExpiresAt *time.Time `json:"expires_at"`
}

func putAddress(s *Service, l *list, c *gin.Context) error {
	if _, err := api.ParseQuery(c); err != nil {
		return err
	}
	given, folded, err := known(l, c)
	if err != nil {
		return err
	}
	var body putRequest
	if err := api.DecodeJSON(c, &body, maxBody); err != nil {
		return err
	}
	ch := s.change(c, mailriver.ActionAdd, given, body.ScopeKind, body.ScopeID, body.Note)
	ch.Reason = string(model.Manual)
	var fields api.Fields
	if body.Reason != "" {
		ch.Reason = body.Reason
		if p := s.refused(paramReason, ch.Reason); p != nil {
			fields.Join(p)
			ch.Reason = string(model.Manual) // said once is enough
		}
	}
	if body.ExpiresAt != nil {
		ch.ExpiresAt = body.ExpiresAt.UTC().Truncate(time.Microsecond)
		if !ch.ExpiresAt.After(ch.At) {
			fields.Add(paramExpiresAt, "is past")
			ch.ExpiresAt = time.Time{}
		}
	}
	return s.make(c, l, given, folded, ch, &fields)
}

// refused says why an entry of a reason cannot be made: it is none, or the
// policy would ignore it. It is nil for one that can.
func (s *Service) refused(field, text string) *api.Problem {
	reason, ok := model.ParseReason(text)
	if !ok {
		return api.Field(field, "is %.80q, must be one of %v", text, model.Reasons())
	}
	if !s.cfg.Policy.Rule(reason).Suppress {
		return api.Field(field, "is %s, for which the policy does not suppress (suppression.policy.%s)", reason, reason)
	}
	return nil
}

func deleteAddress(s *Service, l *list, c *gin.Context) error {
	q, err := api.ParseQuery(c, paramScopeKind, paramScopeID, "note")
	if err != nil {
		return err
	}
	given, folded, err := known(l, c)
	if err != nil {
		return err
	}
	ch := s.change(c, mailriver.ActionRemove, given, q.Get(paramScopeKind), q.Get(paramScopeID), q.Get("note"))
	return s.make(c, l, given, folded, ch, &api.Fields{})
}

func (s *Service) change(c *gin.Context, action, address, scopeKind, scopeID, note string) mailriver.Change {
	if scopeKind == "" && scopeID == "" {
		scopeKind = event.ScopeAddress
	}
	return mailriver.Change{
		ID: event.ID(uuid.New()), Action: action, Address: strings.TrimSpace(address), ScopeKind: scopeKind, ScopeID: scopeID,
		At: s.deps.Now().UTC().Truncate(time.Microsecond), Note: note, Actor: api.Actor(c), Origin: mailriver.OriginAPI,
	}
}

// make writes one change, unless something is wrong with it, and answers with
// the list as it is behind it.
func (s *Service) make(c *gin.Context, l *list, given, folded string, ch mailriver.Change, wrong *api.Fields) error {
	if err := ch.Validate(); err != nil {
		wrong.Join(fieldsOf(err))
	}
	if err := wrong.Err(); err != nil {
		return err
	}
	records, err := change.Records(s.deps.Topics.Raw, []mailriver.Change{ch}, s.deps.Now())
	if err != nil {
		return err
	}
	ctx := c.Request.Context()
	if _, err := l.lookup(ctx, []string{folded}); err != nil {
		return err // a state that cannot be read cannot be changed either
	}
	if s.produce(ctx, records) != nil {
		// The record may be there all the same, if only the acknowledgement was
		// lost. It is one record: the change is made, or it is not.
		return api.Unavailable(retryWrite, "Kafka did not acknowledge the change; nothing is half done, make it again")
	}
	s.metrics.changed(ctx, ch.Origin, ch.Action, 1)
	id, err := eventID(records[0])
	if err != nil {
		return err
	}
	status := http.StatusOK
	if !s.seen(ctx, l, folded, id) {
		// It is durable, and will be in the list as soon as the normalizer and
		// the owner of the address have worked.
		status = http.StatusAccepted
	}
	found, err := l.lookup(ctx, []string{folded})
	if err != nil {
		return err
	}
	a := l.answer(given, found[0], mail{scopeKind: ch.ScopeKind, scopeID: ch.ScopeID}, s.deps.Now())
	a.Position = l.position()
	if asOf, err := l.current(); err == nil {
		a.AsOf = &asOf
	}
	c.JSON(status, a)
	return nil
}

// errNotWritten is that Kafka has not acknowledged some of the records.
var errNotWritten = errors.New("kafka did not acknowledge the changes")

// produce writes records and returns when Kafka has all of them, or
// [errNotWritten].
func (s *Service) produce(ctx context.Context, records []*kgo.Record) error {
	// Not the request's context: canceling does not take a record back, and can
	// fail others in its partition. The client bounds the time.
	if err := s.deps.Producer.ProduceSync(context.WithoutCancel(ctx), records...).FirstErr(); err != nil {
		s.deps.Logger.WarnContext(ctx, "changes not written", "records", len(records), "err", err)
		return errNotWritten
	}
	return nil
}

// eventID is the id that the change's canonical event will have.
func eventID(r *kgo.Record) (event.ID, error) {
	result, err := mailriver.Provider.Parse(esp.Webhook{Source: mailriver.Source, Body: r.Value, ReceivedAt: r.Timestamp})
	if err != nil {
		return event.ID{}, err
	}
	if len(result.Events) != 1 {
		return event.ID{}, errors.New("a change is not one event")
	}
	return result.Events[0].ID, nil
}

// seen waits until the list has an event, and reports whether it came in time.
func (s *Service) seen(ctx context.Context, l *list, folded string, id event.ID) bool {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.WriteWait)
	defer cancel()
	for {
		moved := l.states.Moved()
		states, err := l.scopes(ctx, folded)
		if err != nil {
			s.deps.Logger.WarnContext(ctx, "change not looked for", "err", err)
			return false
		}
		for _, state := range states {
			if _, found := state.Find(id); found {
				return true
			}
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

// fieldsOf makes a problem of errors that begin with the name of a field.
func fieldsOf(err error) error {
	var fields api.Fields
	for text := range strings.SplitSeq(err.Error(), "\n") {
		if field, detail, ok := strings.Cut(text, ": "); ok {
			fields.Add(field, "%s", detail)
			continue
		}
		fields.Add("body", "%s", text)
	}
	return fields.Err()
}
