package sendgrid

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"mailriver/pkg/esp"
)

// How far the signed timestamp may be from now. SendGrid retries for 24 hours
// after the event, and does not document whether a retry is signed anew, so a
// genuine request may carry a signature that is that old. A request that is
// replayed within the window does no harm: its events keep their ids.
const (
	maxPast   = 25 * time.Hour
	maxFuture = 10 * time.Minute
)

type verifier struct {
	keys []key // newest first
	now  func() time.Time
}

type key struct {
	id     string
	public *ecdsa.PublicKey
}

func newVerifier(s esp.Settings) (esp.Verifier, error) {
	if len(s.Keys) == 0 {
		return nil, errors.New("keys: at least one verification key is needed")
	}
	if s.Now == nil {
		return nil, errors.New("now: a clock is needed")
	}
	v := &verifier{now: s.Now}
	for i, text := range s.Keys {
		public, err := parseKey(text)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		v.keys = append(v.keys, key{esp.KeyID(text), public})
	}
	return v, nil
}

// parseKey reads a key as SendGrid shows it, the base64 of a DER
// SubjectPublicKeyInfo, and the same in PEM armor. Its errors do not repeat the
// text: a private key pasted by mistake must not reach a log.
func parseKey(text string) (*ecdsa.PublicKey, error) {
	var der []byte
	if block, _ := pem.Decode([]byte(strings.TrimSpace(text))); block != nil {
		der = block.Bytes
	} else {
		var err error
		if der, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err != nil {
			return nil, fmt.Errorf("not base64: %w", err)
		}
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("not a public key (base64 of a DER SubjectPublicKeyInfo)")
	}
	public, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("is a key of type %T, want ECDSA on P-256", parsed)
	}
	if public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("is on curve %s, want P-256", public.Curve.Params().Name)
	}
	return public, nil
}

// Verify checks the signature before the time, so that "stale" always speaks of
// a request that SendGrid did sign. There is no secret in a public key: what is
// compared here needs no constant time.
func (v *verifier) Verify(_ context.Context, w esp.Webhook) (esp.Verified, error) {
	encoded, timestamp := w.Header.Get(signatureHeader), w.Header.Get(timestampHeader)
	if encoded == "" {
		return esp.Verified{}, esp.Refuse(esp.ReasonMissing, "no header "+signatureHeader)
	}
	if timestamp == "" {
		return esp.Verified{}, esp.Refuse(esp.ReasonMissing, "no header "+timestampHeader)
	}
	signature, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return esp.Verified{}, esp.Refuse(esp.ReasonMalformed, "signature is not base64")
	}
	hash := sha256.New()
	hash.Write([]byte(timestamp)) // opaque text here: the signature covers what was sent
	hash.Write(w.Body)
	digest := hash.Sum(nil)
	for _, k := range v.keys {
		if ecdsa.VerifyASN1(k.public, digest, signature) {
			if err := v.checkTime(timestamp); err != nil {
				return esp.Verified{}, err
			}
			// No delivery key: a retry repeats the body, whose SHA-256 is the
			// default.
			return esp.Verified{KeyID: k.id}, nil
		}
	}
	if !wellFormed(signature) {
		return esp.Verified{}, esp.Refuse(esp.ReasonMalformed, "signature is not the DER of an ECDSA signature")
	}
	return esp.Verified{}, esp.Refuse(esp.ReasonMismatch, "no live key made this signature")
}

func (v *verifier) checkTime(timestamp string) error {
	signed, _, ok := esp.ParseTime(timestamp)
	if !ok {
		return esp.Refuse(esp.ReasonMalformed, "signed timestamp is not a time")
	}
	if age := v.now().Sub(signed); age > maxPast || age < -maxFuture {
		return esp.Refuse(esp.ReasonStale, fmt.Sprintf("signed at %s, more than %s ago or %s ahead",
			signed.Format(time.RFC3339), maxPast, maxFuture))
	}
	return nil
}

func wellFormed(signature []byte) bool {
	var parts struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(signature, &parts)
	return err == nil && len(rest) == 0
}
