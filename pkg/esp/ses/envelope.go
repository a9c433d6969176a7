package ses

import (
	"errors"
	"fmt"
	"net/textproto"
	"strings"

	"github.com/tidwall/gjson"

	"mailriver/pkg/esp"
)

// Values of the envelope's Type.
const (
	kindNotification = "Notification"
	kindSubscribe    = "SubscriptionConfirmation"
	kindUnsubscribe  = "UnsubscribeConfirmation"
)

// envelope is what SNS wraps around a message: the members that are JSON
// strings. What is signed and what is used are all strings, so a member of
// another type, null too, is as good as absent.
//
// The verifier and the parser read the body through readEnvelope alone. A value
// that is used is therefore the value that was verified.
type envelope map[string]string

// readEnvelope reads an SNS envelope. A member that is there twice makes it
// unreadable: which of the two counts is a choice that must not exist.
func readEnvelope(body []byte) (envelope, error) {
	if !esp.ValidJSON(body) {
		return nil, errors.New("body is not JSON")
	}
	root := gjson.ParseBytes(body)
	if !root.IsObject() {
		return nil, errors.New("body is not a JSON object")
	}
	e := make(envelope, 10)
	seen := make(map[string]bool, 10)
	var err error
	root.ForEach(func(key, value gjson.Result) bool {
		if seen[key.Str] {
			err = fmt.Errorf("member %.60q is there twice", key.Str)
			return false
		}
		seen[key.Str] = true
		if value.Type == gjson.String {
			e[key.Str] = value.Str
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// What SNS signs, in its order. Subject is signed only when it is there.
var (
	notificationFields = []string{"Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"}
	subscriptionFields = []string{"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"}
)

// signedFields returns the members that are signed in an envelope of this type,
// or nil for a type that SNS does not have.
func signedFields(kind string) []string {
	switch kind {
	case kindNotification:
		return notificationFields
	case kindSubscribe, kindUnsubscribe:
		return subscriptionFields
	}
	return nil
}

// missing returns the first of the fields that has no value, or "".
func (e envelope) missing(fields ...string) string {
	for _, field := range fields {
		if e[field] == "" && field != "Subject" {
			return field
		}
	}
	return ""
}

// ambiguous returns the first member with a line break in it that may not have
// one, or "". The string to sign has line breaks between its parts and escapes
// none, so a value with line breaks could pass for several members: a Subject
// taken off and appended to the MessageId gives the same string. Only the
// message may have them; SNS itself puts none into the others.
func (e envelope) ambiguous() string {
	for _, field := range []string{"MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"} {
		if strings.Contains(e[field], "\n") {
			return field
		}
	}
	return ""
}

// stringToSign returns what the signature covers.
func (e envelope) stringToSign(fields []string) []byte {
	size := 0
	for _, field := range fields {
		size += len(field) + len(e[field]) + 2
	}
	text := make([]byte, 0, size)
	for _, field := range fields {
		value, there := e[field]
		if !there {
			continue
		}
		text = append(text, field...)
		text = append(text, '\n')
		text = append(text, value...)
		text = append(text, '\n')
	}
	return text
}

// isRaw says whether the body is the bare message (SNS raw message delivery).
// Only a notification can be: everything else is an envelope, whatever the
// header says, and has to pass as one.
func isRaw(header textproto.MIMEHeader) bool {
	return strings.EqualFold(header.Get(headerRaw), "true") && header.Get(headerType) == kindNotification
}
