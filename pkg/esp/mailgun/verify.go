package mailgun

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/esp"
)

// How far the signed timestamp may be from now. Mailgun retries for seven and a
// half hours, and a retry seems to keep the signature of the first attempt,
// whose timestamp is that of the event. A refusal is final at Mailgun, so the
// window leaves as long again, and more, for a backlog on its side.
const (
	maxPast   = 24 * time.Hour
	maxFuture = 10 * time.Minute
)

// maxDeliveryKey bounds what an id may be to become the key of a record. Ids
// are of 22 characters.
const maxDeliveryKey = 128

type verifier struct {
	keys []key // newest first
	now  func() time.Time
}

type key struct {
	id     string
	secret []byte
}

func newVerifier(s esp.Settings) (esp.Verifier, error) {
	if len(s.Keys) == 0 {
		return nil, errors.New("keys: at least one HTTP webhook signing key is needed")
	}
	if s.Now == nil {
		return nil, errors.New("now: a clock is needed")
	}
	v := &verifier{now: s.Now}
	for i, text := range s.Keys {
		secret := strings.TrimSpace(text) // a file of a secret often ends in a line feed
		if secret == "" {
			return nil, fmt.Errorf("keys[%d]: is empty", i) // anybody could sign with that
		}
		v.keys = append(v.keys, key{esp.KeyID(text), []byte(secret)})
	}
	return v, nil
}

// Verify accepts a request when a live key made its signature or, for an event
// of a subaccount, its parent-signature. The signature comes before the time,
// so that "stale" always speaks of a request that Mailgun did sign.
func (v *verifier) Verify(_ context.Context, w esp.Webhook) (esp.Verified, error) {
	p, err := readPayload(w)
	if err != nil {
		return esp.Verified{}, esp.Refuse(esp.ReasonMalformed, err.Error())
	}
	s := p.signature
	if s.timestamp == "" || s.token == "" || s.own == "" && s.parent == "" {
		return esp.Verified{}, esp.Refuse(esp.ReasonMissing, "no signature, or a part of it is missing")
	}
	macs := decode(s.own, s.parent)
	if len(macs) == 0 {
		return esp.Verified{}, esp.Refuse(esp.ReasonMalformed, "signature is not the hexadecimal of a SHA-256")
	}
	for _, k := range v.keys {
		if !k.made(macs, s.timestamp, s.token) {
			continue
		}
		if err := v.checkTime(s.timestamp); err != nil {
			return esp.Verified{}, err
		}
		return esp.Verified{KeyID: k.id, DeliveryKey: p.deliveryKey(w.Source)}, nil
	}
	return esp.Verified{}, esp.Refuse(esp.ReasonMismatch, "no live key made this signature")
}

func (k key) made(macs [][]byte, timestamp, token string) bool {
	hash := hmac.New(sha256.New, k.secret)
	hash.Write([]byte(timestamp))
	hash.Write([]byte(token))
	want := hash.Sum(nil)
	for _, mac := range macs {
		if hmac.Equal(want, mac) {
			return true
		}
	}
	return false
}

// decode returns the texts that are the hexadecimal of a SHA-256, decoded.
func decode(texts ...string) [][]byte {
	var macs [][]byte
	for _, text := range texts {
		if mac, err := hex.DecodeString(text); err == nil && len(mac) == sha256.Size {
			macs = append(macs, mac)
		}
	}
	return macs
}

// checkTime reads whole seconds and nothing else. Timestamp and token are
// signed without anything between them, so a digit can be moved from one to the
// other: read as milliseconds or as a fraction, the moved one would still be
// now, and the token would look unused.
func (v *verifier) checkTime(timestamp string) error {
	seconds, err := strconv.ParseUint(timestamp, 10, 63)
	if err != nil {
		return esp.Refuse(esp.ReasonMalformed, "signed timestamp is not a number of seconds")
	}
	signed := time.Unix(int64(seconds), 0)
	if now := v.now(); signed.Before(now.Add(-maxPast)) || signed.After(now.Add(maxFuture)) {
		return esp.Refuse(esp.ReasonStale, fmt.Sprintf("signed at %s, more than %s ago or %s ahead",
			signed.UTC().Format(time.RFC3339), maxPast, maxFuture))
	}
	return nil
}

// deliveryKey is the same for every attempt to deliver an event, and for the
// webhooks of its account and of its domain: the records of all of them land on
// one partition, where the normalizer sees that they are one event. The key is
// not signed, which costs nothing but the choice of a partition.
func (p payload) deliveryKey(source string) string {
	if p.form != nil {
		return p.form.id(source).String()
	}
	if id := eventID(p.data); len(id) <= maxDeliveryKey {
		return id
	}
	return ""
}
