package leadscoring

import (
	"context"
	"fmt"

	"mailriver/pkg/address"
	"mailriver/pkg/avro"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/replica"
)

// leads answers questions from the local copy.
type leads struct {
	rules  *lead.Set
	states *replica.Copy
	scores *leadavro.Decoder
}

func newLeads(rules *lead.Set, states *replica.Copy, schemas avro.Schemas) *leads {
	return &leads{rules: rules, states: states, scores: leadavro.NewDecoder(schemas)}
}

// get returns the state of a recipient; one that is not known has no
// contributions. ok is false for what is no address.
func (l *leads) get(ctx context.Context, raw string) (state lead.State, ok bool, err error) {
	a, ok := address.Normalize(raw)
	if !ok {
		return lead.State{}, false, nil
	}
	value, known, err := l.states.Get([]byte(a.Full))
	if err != nil || !known {
		return lead.State{Recipient: a.Full}, true, err
	}
	record, err := l.scores.Decode(ctx, value)
	if err != nil {
		return lead.State{}, true, fmt.Errorf("state of a lead: %w", err)
	}
	return record.State, true, nil
}
