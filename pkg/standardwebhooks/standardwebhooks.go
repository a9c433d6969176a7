// Package standardwebhooks signs and verifies HTTP requests by Standard Webhooks
// 1.0.0: HMAC-SHA256 over id, time and body with a secret that both sides know.
//
// It does both in one place, for what Mailriver sends (pkg/webhook) and for what
// it is sent (the providers in pkg/esp that sign so). Svix, where the scheme comes
// from, uses other names for the same headers; see [Family].
//
// It decides nothing about time. [Verify] returns when a request was signed, and
// how old is too old is for the caller: one that sends an old request again must
// not be refused for its age. It does not know the asymmetric signatures of the
// specification (v1a, keys whpk_ and whsk_), keeps no ids, and speaks no HTTP.
//
// Source: github.com/standard-webhooks/standard-webhooks,
// spec/standard-webhooks.md.
package standardwebhooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// Family is a set of names of the three headers.
type Family string

// Families. The specification has the first.
const (
	Webhook Family = "webhook"
	Svix    Family = "svix"
)

// ID is the name of the header with the id of the message.
func (f Family) ID() string { return string(f) + "-id" }

// Timestamp is the name of the header with the time of the attempt.
func (f Family) Timestamp() string { return string(f) + "-timestamp" }

// Signature is the name of the header with the signatures.
func (f Family) Signature() string { return string(f) + "-signature" }

// Headers are the three names.
func (f Family) Headers() []string { return []string{f.ID(), f.Timestamp(), f.Signature()} }

// Reasons for which [Verify] refuses a request. Its errors are one of them, and
// say more.
var (
	ErrMissing   = errors.New("signature is missing")
	ErrMalformed = errors.New("signature is malformed")
	ErrMismatch  = errors.New("signature does not match")
)

const (
	secretPrefix = "whsec_"
	version      = "v1"
)

// Bounds of a secret, in bytes. The specification has 192 to 512 bits. Others may
// hand out shorter ones, which are no reason to have none; below 128 bits it is
// more likely something else, pasted by mistake.
const (
	minSecret  = 24
	maxSecret  = 64
	minForeign = 16
)

// Key is a secret that signs and verifies.
type Key struct{ secret []byte }

// ParseKey reads a secret as the specification has it: whsec_ and 24 to 64 bytes
// in base64. Its errors do not show the secret.
func ParseKey(text string) (Key, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	if !ok {
		return Key{}, errors.New("secret must begin with " + secretPrefix)
	}
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return Key{}, errors.New("secret is not base64 behind " + secretPrefix) // the error would quote it
	}
	if len(secret) < minSecret || len(secret) > maxSecret {
		return Key{}, fmt.Errorf("secret has %d bytes, must have %d to %d", len(secret), minSecret, maxSecret)
	}
	return Key{secret}, nil
}

// ParseForeignKey reads a secret that somebody else made: with whsec_ or without,
// with the version of the signature before it (Supabase shows v1,whsec_) or
// without, with the padding of base64 or without, and of at least 16 bytes. Its
// errors do not show the secret.
func ParseForeignKey(text string) (Key, error) {
	text = strings.TrimPrefix(strings.TrimSpace(text), version+",")
	for _, prefix := range []string{"whpk_", "whsk_"} {
		if strings.HasPrefix(text, prefix) {
			return Key{}, errors.New("secret must begin with " + secretPrefix + "; " + prefix + " is for signatures of another kind")
		}
	}
	encoded := strings.TrimRight(strings.TrimPrefix(text, secretPrefix), "=")
	secret, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil {
		return Key{}, errors.New("secret is not base64, with or without " + secretPrefix + " before it")
	}
	if len(secret) < minForeign {
		return Key{}, fmt.Errorf("secret has %d bytes, must have at least %d", len(secret), minForeign)
	}
	return Key{secret}, nil
}

func (k Key) sign(id, timestamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, k.secret)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

// Sign puts the headers of one attempt, by the names of the specification: its
// time, and one signature for each key, so that a receiver may know any of them
// while they are exchanged.
func Sign(header textproto.MIMEHeader, keys []Key, id string, at time.Time, body []byte) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, len(keys))
	for i, key := range keys {
		signatures[i] = version + "," + base64.StdEncoding.EncodeToString(key.sign(id, timestamp, body))
	}
	header.Set(Webhook.ID(), id)
	header.Set(Webhook.Timestamp(), timestamp)
	header.Set(Webhook.Signature(), strings.Join(signatures, " "))
}

// Verified is what a genuine request says of itself.
type Verified struct {
	Key int       // index of the key that made a signature
	ID  string    // of the message, the same at each attempt
	At  time.Time // of the attempt
}

// Verify checks a request against each key, in their order, and each of its
// signatures. Signatures of unknown versions are skipped.
//
// Of several families it reads the first that the request has any header of, and
// no other: a second set of headers beside the signed one counts for nothing.
// [ID] reads the same.
func Verify(header textproto.MIMEHeader, keys []Key, body []byte, families ...Family) (Verified, error) {
	family := present(header, families)
	if family == "" {
		return Verified{}, fmt.Errorf("%w: no header of the family %s", ErrMissing, families)
	}
	values := make([]string, 3)
	for i, name := range family.Headers() {
		value, err := single(header, name)
		if err != nil {
			return Verified{}, err
		}
		values[i] = value
	}
	id, timestamp := values[0], values[1]
	if !wellFormed(id) {
		return Verified{}, fmt.Errorf("%w: %s is not of an id's characters", ErrMalformed, family.ID())
	}
	at, ok := parseTimestamp(timestamp)
	if !ok {
		return Verified{}, fmt.Errorf("%w: %s is not a number of seconds", ErrMalformed, family.Timestamp())
	}
	signatures := parseSignatures(values[2])
	if len(signatures) == 0 {
		return Verified{}, fmt.Errorf("%w: %s holds none of version %s in base64", ErrMalformed, family.Signature(), version)
	}
	for i, key := range keys {
		want := key.sign(id, timestamp, body)
		for _, signature := range signatures {
			if hmac.Equal(want, signature) {
				return Verified{Key: i, ID: id, At: at}, nil
			}
		}
	}
	return Verified{}, fmt.Errorf("%w: none of the keys made it", ErrMismatch)
}

// ID returns the id of the message that [Verify] with the same families looks at,
// and "" where it would refuse. It verifies nothing.
func ID(header textproto.MIMEHeader, families ...Family) string {
	family := present(header, families)
	if family == "" {
		return ""
	}
	id, err := single(header, family.ID())
	if err != nil || !wellFormed(id) {
		return ""
	}
	return id
}

func present(header textproto.MIMEHeader, families []Family) Family {
	for _, family := range families {
		for _, name := range family.Headers() {
			if len(header.Values(name)) > 0 {
				return family
			}
		}
	}
	return ""
}

// single refuses a repeated header: which of its values was signed, and which
// another reader of the request takes, need not be the same.
func single(header textproto.MIMEHeader, name string) (string, error) {
	values := header.Values(name)
	if len(values) > 1 {
		return "", fmt.Errorf("%w: header %s is there %d times", ErrMalformed, name, len(values))
	}
	if len(values) == 0 || values[0] == "" {
		return "", fmt.Errorf("%w: no header %s", ErrMissing, name)
	}
	return values[0], nil
}

// wellFormed refuses the ids that would let the signed text be cut at other full
// stops: the beginning of a JSON body cannot become the end of an id.
func wellFormed(id string) bool {
	for i := 0; i < len(id); i++ {
		if c := id[i]; c <= ' ' || c > '~' || c == '{' || c == '[' || c == '"' {
			return false
		}
	}
	return true
}

// parseTimestamp reads digits and nothing else: a sign or a fraction would be
// another text for the same time.
func parseTimestamp(text string) (time.Time, bool) {
	for i := 0; i < len(text); i++ {
		if text[i] < '0' || text[i] > '9' {
			return time.Time{}, false
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(seconds, 0).UTC(), true
}

func parseSignatures(text string) [][]byte {
	var signatures [][]byte
	for entry := range strings.FieldsSeq(text) {
		found, encoded, _ := strings.Cut(entry, ",")
		if found != version {
			continue
		}
		if signature, err := base64.StdEncoding.DecodeString(encoded); err == nil && len(signature) > 0 {
			signatures = append(signatures, signature)
		}
	}
	return signatures
}
