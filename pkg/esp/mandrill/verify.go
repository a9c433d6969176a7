package mandrill

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"mailriver/pkg/esp"
)

// testKey signs the post that tries a URL before the webhook, and with it a key
// of its own, exists. Everybody knows it, so it proves nothing but an empty
// array.
const testKey = "test-webhook"

type verifier struct {
	keys []string
	urls []string // as Mandrill may have signed them, most likely first
}

func newVerifier(s esp.Settings) (esp.Verifier, error) {
	var errs []error
	if len(s.Keys) == 0 {
		errs = append(errs, errors.New("keys: at least one is required"))
	}
	for i, key := range s.Keys {
		switch strings.TrimSpace(key) {
		case "":
			errs = append(errs, fmt.Errorf("keys: number %d is empty", i+1))
		case testKey:
			errs = append(errs, fmt.Errorf("keys: number %d is %q, which everybody knows", i+1, testKey))
		}
	}
	if err := checkURL(s.URL); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &verifier{keys: slices.Clone(s.Keys), urls: candidates(s.URL)}, nil
}

// checkURL never quotes the URL: it may hold a password.
func checkURL(text string) error {
	if text == "" {
		return errors.New("url: is required, because Mandrill signs the webhook's URL as entered there")
	}
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return errors.New("url: must be the absolute http or https URL that was entered at Mandrill")
	}
	return nil
}

// candidates returns the URL as entered and, where it holds credentials, the
// one without: they are not part of what a client requests, and whether they
// are part of what is signed has differed. The text is cut, never built anew: a
// slash or an escape that is spelled otherwise is another signature.
func candidates(text string) []string {
	urls := []string{text}
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		return urls
	}
	authority := rest
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority = rest[:end]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		urls = append(urls, scheme+"://"+rest[at+1:])
	}
	return urls
}

// Verify recomputes the signature over the URL and every field of the form, in
// order of their names; fields of one name keep the order in which they came.
//
// Nothing in a signature tells its age. A replay is harmless, because its
// events keep their ids, so a webhook is never refused for being old: Mandrill
// sends a failed batch again for a long time.
func (v *verifier) Verify(_ context.Context, w esp.Webhook) (esp.Verified, error) {
	text := w.Header.Get(signatureHeader)
	if text == "" {
		return esp.Verified{}, esp.Refuse(esp.ReasonMissing, "header "+signatureHeader+" is missing")
	}
	signature, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(signature) != sha1.Size {
		return esp.Verified{}, esp.Refuse(esp.ReasonMalformed, "signature is not the base64 of 20 bytes")
	}
	fields, err := decodeForm(w.Body)
	if err != nil {
		return esp.Verified{}, esp.Refuse(esp.ReasonMalformed, err.Error())
	}
	keys := v.keys
	if array, ok := events(fields); ok && len(fields) == 1 && isEmptyArray(array) {
		keys = append(slices.Clone(keys), testKey)
	}
	signed := signedForm(fields)
	for _, key := range keys {
		for _, target := range v.urls {
			if hmac.Equal(sign(key, target, signed), signature) {
				return esp.Verified{KeyID: esp.KeyID(key)}, nil
			}
		}
	}
	return esp.Verified{}, esp.Refuse(esp.ReasonMismatch, "no live key made this signature over the configured url")
}

// signedForm is what is signed behind the URL: names and values in order of the
// names, with nothing between them.
func signedForm(fields []field) []byte {
	sorted := slices.Clone(fields)
	slices.SortStableFunc(sorted, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	var text []byte
	for _, f := range sorted {
		text = append(text, f.name...)
		text = append(text, f.value...)
	}
	return text
}

func sign(key, target string, signed []byte) []byte {
	mac := hmac.New(sha1.New, []byte(key))
	mac.Write([]byte(target))
	mac.Write(signed)
	return mac.Sum(nil)
}

func isEmptyArray(text string) bool {
	inner, opened := strings.CutPrefix(strings.TrimSpace(text), "[")
	inner, closed := strings.CutSuffix(inner, "]")
	return opened && closed && strings.TrimSpace(inner) == ""
}
