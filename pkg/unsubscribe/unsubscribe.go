// Package unsubscribe makes and opens the links by which a recipient opts out
// with one click (RFC 8058): https://mail.example.com/u/{token}.
//
// # The token
//
// Whoever holds a link may unsubscribe what it names, and nothing else; no
// account, no cookie and no database is involved. So a token holds everything:
// address, scope, when it was made and, optionally, until when it is good.
//
// It is encrypted, not only signed. A signed token would prove as much, but it
// would show an address to every proxy, browser history and access log that sees
// the URL. Authenticated encryption gives both with one key: a token that was
// changed by one bit, or made by anybody else, does not open.
//
// The cipher is XChaCha20-Poly1305, because its nonce of 192 bits can be drawn
// at random for any number of messages. With AES-GCM and its 96 bits a sender
// would have to count, and change keys in time. The key of the cipher is derived
// (HKDF-SHA-256) from the configured text, which is any text of 32 characters or
// more. The length of a token tells that of the address, roughly.
//
// In the token, before it is written in base64url without padding: 1 byte of
// version, 4 that say which key, 24 of nonce, and the sealed rest. Version and
// key are authenticated too. There is one way to write a token: what decodes to
// the same bytes and is spelled otherwise is refused.
//
// # What it does not do
//
// It does not answer requests (services/receiver does), does not remember which
// tokens were used, and cannot take one back: for that, the key has to go, with
// all links that it made. It does not decide what an opt-out means for an
// address: that is the suppression policy's.
package unsubscribe

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"mailriver/pkg/address"
	"mailriver/pkg/config"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/event"
)

// Link is what a token says.
type Link struct {
	// Address is who opts out.
	Address string
	// ScopeKind and ScopeID say of what (package event, Scope...): all mail to
	// the address, one list, one stream, ... [event.ScopeAccount] with an empty
	// ScopeID is what a link at the foot of a message usually means: all
	// marketing mail, while mail that is not marketing goes on.
	ScopeKind string
	ScopeID   string
	// IssuedAt is when the link was made, to the second.
	IssuedAt time.Time
	// ExpiresAt is until when the link opens, to the second. Zero is for ever,
	// as it should be: people unsubscribe with old messages, too.
	ExpiresAt time.Time
}

// Validate reports everything that is wrong, each problem with its field.
func (l Link) Validate() error {
	var problems config.Problems
	_, ok := address.Normalize(l.Address)
	problems.Must(ok, "address: is not an email address")
	problems.Must(l.IssuedAt.Year() >= 2000 && l.IssuedAt.Year() <= 9999, "issued_at: is required, from the year 2000 on")
	problems.Must(l.ExpiresAt.IsZero() || l.ExpiresAt.After(l.IssuedAt) && l.ExpiresAt.Year() <= 9999,
		"expires_at: must be after issued_at")
	if err := problems.Err(); err != nil {
		return err
	}
	// What is sealed today must be writable when it is opened.
	return Opened{Link: l}.Change(l.IssuedAt).Validate()
}

// Opened is what was found in a token.
type Opened struct {
	Link
	// KeyID says which key the token was made with, in hexadecimal.
	KeyID string
	nonce string // tells tokens of the same link apart
}

// RepeatWindow is how long the posts of one link are one opt-out, counted in
// steps from when the link was made.
const RepeatWindow = 10 * time.Minute

// Change returns the opt-out that a post at this time makes.
//
// Posts of one link within one step of [RepeatWindow] have the same id, and
// become one event: mail programs repeat themselves, and people click twice. The
// id is not the token's alone. Someone may opt in again and then out with the
// same old link, and must not be told that it is done while the event is dropped
// as a copy of the first. For the state of an address repeated opt-outs are one.
func (o Opened) Change(at time.Time) mailriver.Change {
	step := max(0, at.Sub(o.IssuedAt)/RepeatWindow)
	return mailriver.Change{
		ID: event.NewID(event.ProviderMailriver, mailriver.OriginOneClick, o.Address,
			o.KeyID, o.nonce, strconv.FormatInt(int64(step), 10)),
		Action:    mailriver.ActionUnsubscribe,
		Address:   o.Address,
		ScopeKind: o.ScopeKind,
		ScopeID:   o.ScopeID,
		Reason:    "unsubscribe",
		At:        at,
		Actor:     "recipient",
		Origin:    mailriver.OriginOneClick,
	}
}

// Why a token does not open. Whoever sent it is told none of this.
var (
	ErrMalformed = errors.New("token cannot be read")
	ErrForged    = errors.New("token was made by no live key, or was changed")
	ErrExpired   = errors.New("token has expired")
)

const (
	version   = 1
	keyIDLen  = 4
	headerLen = 1 + keyIDLen
	overhead  = headerLen + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

	// MaxToken bounds a token. The longest address and scope fit.
	MaxToken = 1024

	// minKey is the least length of a configured key: its token is public, so
	// what can be guessed can be tried out.
	minKey = 32
)

// Keys are the live keys. They are safe for concurrent use.
type Keys struct{ list []key }

type key struct {
	id   [keyIDLen]byte
	aead cipher.AEAD
}

// NewKeys makes keys out of the configured texts, newest first: the first one
// makes tokens, any of them opens them. Its errors name the place of a key and
// do not tell it.
func NewKeys(texts []string) (*Keys, error) {
	var problems config.Problems
	problems.Must(len(texts) > 0, "keys: at least one is required")
	var keys Keys
	places := map[[keyIDLen]byte]int{}
	for i, text := range texts {
		if len(text) < minKey {
			problems.Must(false, "keys[%d]: has %d characters, must have at least %d: make one with `openssl rand -base64 32`",
				i, len(text), minKey)
			continue
		}
		derived, err := hkdf.Key(sha256.New, []byte(text), nil, "mailriver unsubscribe v1", chacha20poly1305.KeySize+keyIDLen)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		aead, err := chacha20poly1305.NewX(derived[:chacha20poly1305.KeySize])
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		k := key{[keyIDLen]byte(derived[chacha20poly1305.KeySize:]), aead}
		if earlier, twice := places[k.id]; twice {
			problems.Must(false, "keys[%d]: is keys[%d] again", i, earlier)
			continue
		}
		places[k.id] = i
		keys.list = append(keys.list, k)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return &keys, nil
}

// Token returns a new token for the link. Two tokens of one link differ.
func (k *Keys) Token(l Link) (string, error) {
	if err := l.Validate(); err != nil {
		return "", err
	}
	newest := k.list[0]
	text := encodeLink(l)
	token := make([]byte, headerLen+chacha20poly1305.NonceSizeX, overhead+len(text))
	token[0] = version
	copy(token[1:], newest.id[:])
	nonce := token[headerLen:]
	if _, err := rand.Read(nonce); err != nil { // the documentation says that this does not happen
		return "", fmt.Errorf("nonce: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(newest.aead.Seal(token, nonce, text, token[:headerLen])), nil
}

// Open returns what a token says. Its errors are [ErrMalformed], [ErrForged] and
// [ErrExpired]; none repeats any of the token.
func (k *Keys) Open(token string, now time.Time) (Opened, error) {
	if len(token) > MaxToken {
		return Opened{}, ErrMalformed
	}
	sealed, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(sealed) < overhead || sealed[0] != version {
		return Opened{}, ErrMalformed
	}
	// Decoding skips line breaks, and bits of the last character that no byte
	// needs.
	if base64.RawURLEncoding.EncodeToString(sealed) != token {
		return Opened{}, ErrMalformed
	}
	header, nonce, rest := sealed[:headerLen], sealed[headerLen:headerLen+chacha20poly1305.NonceSizeX],
		sealed[headerLen+chacha20poly1305.NonceSizeX:]
	for _, live := range k.list {
		// Which key is no secret; the tag is compared in constant time.
		if live.id != [keyIDLen]byte(header[1:]) {
			continue
		}
		text, err := live.aead.Open(nil, nonce, rest, header)
		if err != nil {
			return Opened{}, ErrForged
		}
		l, ok := decodeLink(text)
		if !ok {
			return Opened{}, ErrMalformed // by a live key and yet not by this package
		}
		if !l.ExpiresAt.IsZero() && !now.Before(l.ExpiresAt) {
			return Opened{}, ErrExpired
		}
		return Opened{Link: l, KeyID: hex.EncodeToString(live.id[:]), nonce: string(nonce)}, nil
	}
	return Opened{}, ErrForged
}

// encodeLink writes times as seconds and texts behind their lengths.
func encodeLink(l Link) []byte {
	b := binary.AppendUvarint(nil, uint64(l.IssuedAt.Unix()))
	expires := uint64(0)
	if !l.ExpiresAt.IsZero() {
		expires = uint64(l.ExpiresAt.Unix())
	}
	b = binary.AppendUvarint(b, expires)
	for _, text := range []string{l.ScopeKind, l.ScopeID, l.Address} {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	return b
}

func decodeLink(b []byte) (l Link, ok bool) {
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			ok, b = false, nil
			return 0
		}
		b = b[size:]
		return n
	}
	text := func() string {
		n := number()
		if n > uint64(len(b)) {
			ok, b = false, nil
			return ""
		}
		taken := string(b[:n])
		b = b[n:]
		return taken
	}
	at := func() time.Time {
		n := number()
		if n == 0 || n > math.MaxInt64 {
			return time.Time{}
		}
		return time.Unix(int64(n), 0).UTC()
	}
	ok = true
	l.IssuedAt, l.ExpiresAt = at(), at()
	l.ScopeKind, l.ScopeID, l.Address = text(), text(), text()
	// Validate: what was sealed by another build may be more than this one takes.
	return l, ok && len(b) == 0 && l.Validate() == nil
}
