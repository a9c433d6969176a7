package mailgun

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strings"

	"github.com/tidwall/gjson"

	"mailriver/pkg/esp"
	"mailriver/pkg/event"
)

// payload is a body taken apart. The verifier and the parser both get it from
// [readPayload]: a body that repeats a field cannot show one value to the one
// and another to the other.
type payload struct {
	signature signature
	data      gjson.Result // event-data of the JSON form
	form      form         // nil for the JSON form
}

type signature struct {
	timestamp, token string
	own, parent      string // hexadecimal; parent is by the key of the primary account
}

// readPayload tells the forms apart by their bytes. Content-Type is needed for
// the boundary of a multipart body only.
func readPayload(w esp.Webhook) (payload, error) {
	if start := bytes.TrimLeft(w.Body, " \t\r\n"); len(start) > 0 && (start[0] == '{' || start[0] == '[') {
		return readJSON(w.Body)
	}
	media, params, _ := mime.ParseMediaType(w.Header.Get("Content-Type")) // an unreadable type is no multipart
	var (
		f   form
		err error
	)
	if media == "multipart/form-data" {
		f, err = readMultipart(w.Body, params["boundary"])
	} else {
		f, err = readURLEncoded(w.Body)
	}
	if err != nil {
		return payload{}, err
	}
	// Nearly any bytes are a urlencoded form of something.
	if !f.has("event") && !f.has("sender") && !f.has("signature") {
		return payload{}, errors.New("body is neither a JSON object nor a form of Mailgun")
	}
	return payload{form: f, signature: signature{
		// These three come last: a user variable of the same name precedes them.
		timestamp: f.last("timestamp"), token: f.last("token"), own: f.last("signature"),
	}}, nil
}

func readJSON(body []byte) (payload, error) {
	if !esp.ValidJSON(body) {
		return payload{}, errors.New("body is not JSON")
	}
	root := gjson.ParseBytes(body)
	if !root.IsObject() {
		return payload{}, errors.New("body is not a JSON object")
	}
	var (
		p    payload
		sign gjson.Result
	)
	root.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "signature":
			sign = value
		case "event-data":
			p.data = value
		}
		return true
	})
	if !sign.IsObject() {
		return p, nil
	}
	sign.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "timestamp":
			p.signature.timestamp = esp.Text(value)
		case "token":
			p.signature.token = esp.Text(value)
		case "signature":
			p.signature.own = esp.Text(value)
		case "parent-signature":
			p.signature.parent = esp.Text(value)
		}
		return true
	})
	return p, nil
}

// eventID is the id of the JSON form. The verifier makes the delivery key of it
// and the parser the identity.
func eventID(data gjson.Result) string {
	id := ""
	if data.IsObject() {
		data.ForEach(func(key, value gjson.Result) bool {
			if key.Str == "id" {
				id = esp.Text(value)
			}
			return true
		})
	}
	return id
}

// form is the legacy form. Mailgun merges the sender's variables into it, so a
// field may be there twice.
type form url.Values

func (f form) has(field string) bool { return len(f[field]) > 0 }

// first is Mailgun's own value of every field but timestamp, token and signature.
func (f form) first(field string) string {
	if values := f[field]; len(values) > 0 {
		return strings.ToValidUTF8(values[0], "\uFFFD")
	}
	return ""
}

func (f form) last(field string) string {
	if values := f[field]; len(values) > 0 {
		return strings.ToValidUTF8(values[len(values)-1], "\uFFFD")
	}
	return ""
}

// messageID is in one of two fields.
func (f form) messageID() string {
	if id := f.first("Message-Id"); id != "" {
		return id
	}
	return f.first("message-id")
}

// id is the identity of a legacy event: see the package comment.
func (f form) id(source string) event.ID {
	return event.NewID(name, source, f.first("recipient"), variantLegacy, f.first("event"), f.last("timestamp"),
		f.messageID(), f.first("url"), f.first("code"), f.first("ip"))
}

func readURLEncoded(body []byte) (form, error) {
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, fmt.Errorf("form: %w", err)
	}
	return form(values), nil
}

// readMultipart reads the fields and passes over the attachments.
func readMultipart(body []byte, boundary string) (form, error) {
	if boundary == "" {
		return nil, errors.New("form: multipart without a boundary")
	}
	reader := multipart.NewReader(bytes.NewReader(body), boundary)
	f := form{}
	for {
		part, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return nil, fmt.Errorf("form: %w", err)
		}
		if part.FormName() == "" || part.FileName() != "" {
			continue
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return nil, fmt.Errorf("form: %w", err)
		}
		f[part.FormName()] = append(f[part.FormName()], string(value))
	}
}
