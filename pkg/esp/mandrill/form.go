package mandrill

import (
	"errors"
	"net/url"
	"strings"
)

// maxFields bounds what an unverified body can make us hold: Mandrill sends one
// field.
const maxFields = 64

var (
	errTooManyFields = errors.New("form has more fields than Mandrill sends")
	errBadEscape     = errors.New("form has a broken percent escape")
)

// field is one name and value of a form, decoded.
type field struct{ name, value string }

// decodeForm undoes application/x-www-form-urlencoded, exactly once, and keeps
// the order and every repetition. Content-Type is not asked: the endpoint says
// what is posted to it. A semicolon separates nothing (URL Standard, 5.1).
func decodeForm(body []byte) ([]field, error) {
	var fields []field
	for pair := range strings.SplitSeq(string(body), "&") {
		if pair == "" {
			continue
		}
		if len(fields) == maxFields {
			return nil, errTooManyFields
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, errBadEscape // the cause quotes the body
		}
		value, err = url.QueryUnescape(value)
		if err != nil {
			return nil, errBadEscape
		}
		fields = append(fields, field{name, value})
	}
	return fields, nil
}

// events returns the value of mandrill_events; ok is false when it is missing,
// or there more than once, which Mandrill never sends.
func events(fields []field) (value string, ok bool) {
	for _, f := range fields {
		if f.name != eventsField {
			continue
		}
		if ok {
			return "", false
		}
		value, ok = f.value, true
	}
	return value, ok
}
