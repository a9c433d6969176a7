package leadscoring

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

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
	index  *index
	scores *leadavro.Decoder
}

func newLeads(rules *lead.Set, states *replica.Copy, x *index, schemas avro.Schemas) *leads {
	return &leads{rules: rules, states: states, index: x, scores: leadavro.NewDecoder(schemas)}
}

// get returns the state of a recipient; one that is not known has no
// contributions. ok is false for what is no address.
func (l *leads) get(ctx context.Context, raw string) (state lead.State, ok bool, err error) {
	a, ok := address.Normalize(raw)
	if !ok {
		return lead.State{}, false, nil
	}
	state, err = l.state(ctx, a.Full)
	return state, true, err
}

// state returns the state of a recipient that is normalized.
func (l *leads) state(ctx context.Context, recipient string) (lead.State, error) {
	value, known, err := l.states.Get([]byte(recipient))
	if err != nil || !known {
		return lead.State{Recipient: recipient}, err
	}
	record, err := l.scores.Decode(ctx, value)
	if err != nil {
		return lead.State{}, fmt.Errorf("state of a lead: %w", err)
	}
	return record.State, nil
}

// wanted is what a list is about.
type wanted struct {
	profile lead.Profile
	stage   string // empty: any
}

// least is the score below which no lead is in the stage.
func (w wanted) least() float64 {
	for _, s := range w.profile.Stages {
		if w.stage == "" || w.stage == s.Name {
			return s.Leave
		}
	}
	return 0
}

// top calls each with the leads behind a place, best first, at most limit. It
// returns the place to go on behind, nil at the end.
func (l *leads) top(ctx context.Context, w wanted, from *place, limit int, now time.Time,
	each func(recipient string, at lead.Standing),
) (next *place, err error) {
	ranking, ok := l.index.ranking(w.profile.Name)
	if !ok {
		return nil, nil
	}
	least := w.least()
	left := maxScanned
	want := func(e *entry) (yes, more bool) {
		left--
		at := l.rules.StandingAt(ranking.standing(e), now)
		return w.stage == "" || at.Stage == w.stage, at.Score >= least
	}
	for more := true; more && limit > 0 && left > 0; {
		var found []*entry
		found, from, more = ranking.behind(from, limit, left, want)
		positions := l.states.Positions() // before the copy is asked
		for _, e := range found {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			told, err := l.truth(ctx, ranking, e, positions)
			if err != nil {
				return nil, err
			}
			if told == nil || told.rank < e.rank { // in no stage, or further down
				continue
			}
			at := l.rules.StandingAt(ranking.standing(told), now)
			if at.Stage == "" || w.stage != "" && at.Stage != w.stage {
				continue
			}
			each(e.recipient, at)
			limit--
		}
		if !more {
			return nil, nil
		}
	}
	return from, nil
}

// truth is what the local copy says of an entry; nil is no stage. The index is
// told where it is wrong.
func (l *leads) truth(ctx context.Context, r *ranking, e *entry, positions map[int32]int64) (*entry, error) {
	state, err := l.state(ctx, e.recipient)
	if err != nil {
		return nil, err
	}
	for _, s := range l.rules.Standings(&state) {
		if s.Profile != r.profile || s.Stage == "" {
			continue
		}
		told := r.entry(l.rules, e.recipient, s, copied)
		if told.rank != e.rank || told.stage != e.stage {
			r.correct(e, told, positions)
		}
		return told, nil
	}
	r.correct(e, nil, positions)
	return nil, nil
}

// position is a place as a cursor holds it.
func (p *place) position() []byte {
	return append(binary.BigEndian.AppendUint64(nil, math.Float64bits(p.rank)), p.recipient...)
}

// placeOf reads it back: it is one of ours, since the cursor was checked. No
// position is the first.
func placeOf(position []byte) *place {
	if len(position) < 8 {
		return nil
	}
	return &place{math.Float64frombits(binary.BigEndian.Uint64(position)), string(position[8:])}
}
