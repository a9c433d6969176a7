package suppression

import (
	"encoding/json"
	"strconv"
	"time"
)

// Answers are written by hand, byte for byte as package json would: a look-up
// takes a few microseconds, and reflection would take as long again. A test
// holds the two against each other.

func (a *Answer) appendJSON(b []byte) ([]byte, error) {
	var err error
	b = append(b, `{"address":`...)
	if b, err = appendText(b, a.Address); err != nil {
		return nil, err
	}
	b = append(b, `,"suppressed":`...)
	b = strconv.AppendBool(b, a.Suppressed)
	b = append(b, `,"entries":[`...)
	for i := range a.Entries {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = a.Entries[i].appendJSON(b); err != nil {
			return nil, err
		}
	}
	b = append(b, `],"as_of":`...)
	if a.AsOf == nil {
		b = append(b, `null`...)
	} else if b, err = appendText(b, *a.AsOf); err != nil {
		return nil, err
	}
	if a.Position != "" {
		b = append(b, `,"position":`...)
		if b, err = appendText(b, a.Position); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func (l *Line) appendJSON(b []byte) ([]byte, error) {
	var err error
	b = append(b, '{')
	text := func(name, value string) {
		if err != nil {
			return
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), name...), `":`...)
		b, err = appendText(b, value)
	}
	if l.Address != "" {
		text("address", l.Address)
	}
	text("scope_kind", l.ScopeKind)
	text("scope_id", l.ScopeID)
	text("reason", string(l.Reason))
	text("since", l.Since.Format(time.RFC3339Nano))
	if l.ExpiresAt != nil {
		text("expires_at", l.ExpiresAt.Format(time.RFC3339Nano))
	} else {
		b = append(b, `,"expires_at":null`...)
	}
	text("provider", l.Provider)
	text("source", l.Source)
	text("event_id", l.EventID)
	if l.Note != "" {
		text("note", l.Note)
	}
	return append(b, '}'), err
}

// appendText appends a string. What needs no escape is most.
func appendText(b []byte, text string) ([]byte, error) {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c < ' ', c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			quoted, err := json.Marshal(text)
			return append(b, quoted...), err
		}
	}
	return append(append(append(b, '"'), text...), '"'), nil
}
