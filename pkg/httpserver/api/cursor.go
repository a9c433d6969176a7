package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// Cursors makes and reads the cursors of one list. A cursor says where the next
// page begins. For a client it is a text without meaning.
//
// A cursor is checked, not signed: it gives no right that its holder has not,
// and what it is made of is what the client has been shown.
type Cursors struct {
	// List is the name of the list, so that a cursor of one is none of another.
	List string
	// Version is that of the position's form. A new one makes older cursors
	// expire, and clients begin again.
	Version byte
}

const (
	cursorField = "cursor"
	checkSize   = 8
	maxCursor   = 8 << 10 // characters; a position holds an address and a name or two
)

// Encode returns the cursor of a position. The filter is all that decides what
// the list holds, in a fixed order: a cursor goes with its filter only.
func (l Cursors) Encode(position []byte, filter ...string) string {
	raw := make([]byte, 0, 1+checkSize+len(position))
	raw = append(raw, l.Version)
	raw = append(raw, l.check(position, filter)...)
	raw = append(raw, position...)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// Decode returns the position of a cursor, nil for an empty one: the first page.
// A cursor that is not whole, or of another list, filter or version is a problem
// that names the field cursor.
func (l Cursors) Decode(cursor string, filter ...string) (position []byte, err error) {
	if cursor == "" {
		return nil, nil
	}
	if len(cursor) > maxCursor {
		return nil, Field(cursorField, "is longer than any that was given out here")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) < 1+checkSize {
		return nil, Field(cursorField, "is not one that was given out here")
	}
	if raw[0] != l.Version {
		return nil, Field(cursorField, "was given out by another version; begin again without it")
	}
	position = raw[1+checkSize:]
	if string(l.check(position, filter)) != string(raw[1:1+checkSize]) {
		return nil, Field(cursorField, "does not belong to this list and these filters; begin again without it")
	}
	return position, nil
}

func (l Cursors) check(position []byte, filter []string) []byte {
	h := sha256.New()
	part := func(text []byte) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(text)))
		h.Write(size[:])
		h.Write(text)
	}
	h.Write([]byte{l.Version})
	part([]byte(l.List))
	for _, f := range filter {
		part([]byte(f))
	}
	part(position)
	return h.Sum(nil)[:checkSize]
}
