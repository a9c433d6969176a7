package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
)

// ID identifies an event: a UUID computed from what the event is, so that every
// delivery and every replay of it gives the same one (RFC 9562, version 8).
type ID [16]byte

// NewID computes the id of an event. The source is part of it, so that a
// genuine signature of one source can never claim an event of another.
//
// The recipient is folded to lower case, because some providers change its case
// between deliveries. The native parts are what identifies the event at this
// provider: its own event id where that is stable over redelivery, else the
// parts of a fingerprint. They are taken as received, never as interpreted: a
// better parser must not change an identity.
func NewID(provider, source, recipient string, native ...string) ID {
	h := sha256.New()
	var size [4]byte
	// Each part is preceded by its length: ("ab", "c") and ("a", "bc") differ.
	write := func(part string) {
		binary.BigEndian.PutUint32(size[:], uint32(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	write(provider)
	write(source)
	write(strings.ToLower(strings.TrimSpace(recipient)))
	for _, part := range native {
		write(part)
	}
	var id ID
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80 // version 8: custom
	id[8] = id[8]&0x3f | 0x80 // variant of RFC 9562
	return id
}

// String returns the usual form, 8-4-4-4-12 in lower-case hexadecimal.
func (id ID) String() string {
	var text [36]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// IsZero reports whether the id was never set.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText returns [ID.String].
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the form that [ID.String] writes.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// ErrBadID is returned for text that is not a UUID of 8-4-4-4-12 digits.
var ErrBadID = errors.New("event: not a UUID of the form 8-4-4-4-12")

// ParseID reads the form that [ID.String] writes, in either case.
func ParseID(text string) (ID, error) {
	var id ID
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return id, ErrBadID
	}
	digits := text[0:8] + text[9:13] + text[14:18] + text[19:23] + text[24:36]
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return ID{}, ErrBadID
	}
	return id, nil
}
