package mailgun

import (
	"strings"

	"github.com/tidwall/gjson"

	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

func readLegacy(f form, w esp.Webhook) (event.Event, error) {
	native := f.first("event")
	if native == "" && !f.has("sender") && f.first("recipient") == "" {
		return event.Event{}, fault.Permanentf(fault.BadElement, "form has neither event, sender nor recipient")
	}
	e := event.Event{
		ID: f.id(w.Source), Provider: name, ProviderVariant: variantLegacy, Source: w.Source, NativeEventType: native,
	}
	esp.SetTime(&e, f.last("timestamp"), w.ReceivedAt)
	if e.Recipient = esp.Address(f.first("recipient")); !strings.Contains(e.Recipient, "@") {
		e.Warn(event.WarnBadRecipient)
	}
	h, variables := f.headers()
	if id := f.messageID(); id != "" {
		h.messageID = id
	}
	e.SMTPMessageID = esp.MessageID(h.messageID)
	if native == "" && f.has("sender") {
		e.Type, e.ProviderVariant = event.Inbound, variantRoute
		if e.Sender = esp.Address(f.first("from")); e.Sender == "" {
			e.Sender = esp.Address(f.first("sender"))
		}
		e.Subject = f.first("subject")
		return e, nil
	}
	e.Sender, e.Subject = esp.Address(h.from), h.subject
	e.Tags = f.tags()
	e.CampaignID, e.CampaignName = f.first("campaign-id"), f.first("campaign-name")
	e.ListID = f.first("mailing-list")
	if e.Metadata = variables; e.Metadata == nil {
		e.Metadata = f.variables()
	}
	f.setReader(&e)
	f.setType(&e)
	return e, nil
}

func (f form) setReader(e *event.Event) {
	e.ClientIP, e.UserAgent = f.first("ip"), f.first("user-agent")
	e.ClientName, e.OSName, e.DeviceType = f.first("client-name"), f.first("client-os"), f.first("device-type")
	e.GeoCountry, e.GeoRegion, e.GeoCity = f.first("country"), f.first("region"), f.first("city")
}

func (f form) setType(e *event.Event) {
	switch e.NativeEventType {
	case "delivered":
		e.Type = event.Delivered
	case "bounced":
		message := f.first("error")
		if message == "" {
			message = f.first("notification")
		}
		f.setFailure(e, "bounce", message)
	case "dropped":
		f.setFailure(e, f.first("reason"), f.first("description"))
	case "opened":
		e.Type = event.Opened
		setMachine(e, "", f.first("client-type"))
	case "clicked":
		e.Type, e.URL = event.Clicked, f.first("url")
		setMachine(e, "", f.first("client-type"))
	case "complained":
		e.Type = event.Complained
	case "unsubscribed":
		e.Type = event.Unsubscribed
		setScope(e, f.first("domain"))
	default:
		e.Type, e.URL = event.Unknown, f.first("url")
		e.Warn(event.WarnUnknownType)
	}
}

func (f form) setFailure(e *event.Event, reason, message string) {
	setReply(e, f.first("code"), "", message)
	code, _ := ownCode(f.first("code"))
	failure{label: e.NativeEventType, reason: reason, code: code}.apply(e)
}

// tags are in one of two fields, each as often as there are tags.
func (f form) tags() []string {
	values := f["tag"]
	if len(values) == 0 {
		values = f["X-Mailgun-Tag"]
	}
	var list []string
	seen := map[string]bool{}
	for _, value := range values {
		value = strings.ToValidUTF8(value, "\uFFFD")
		if value != "" && !seen[value] {
			seen[value] = true
			list = append(list, value)
		}
	}
	return list
}

// headers reads message-headers, JSON text of name and value pairs. The
// sender's variables stand there as they were given, apart from Mailgun's own
// fields.
func (f form) headers() (h headers, variables map[string]string) {
	value := f.first("message-headers")
	if !esp.ValidJSON([]byte(value)) {
		return headers{}, nil
	}
	pairs := gjson.Parse(value)
	if !pairs.IsArray() {
		return headers{}, nil
	}
	pairs.ForEach(func(_, pair gjson.Result) bool {
		name, text := esp.Text(pair.Get("0")), esp.Text(pair.Get("1"))
		h.take(name, text)
		if strings.EqualFold(name, "X-Mailgun-Variables") && esp.ValidJSON([]byte(text)) {
			for key, value := range esp.Metadata(gjson.Parse(text)) {
				if variables == nil {
					variables = make(map[string]string)
				}
				variables[key] = value
			}
		}
		return true
	})
	return h, variables
}

// variables are the fields that are not Mailgun's, and the other value of a
// field that is Mailgun's and is there twice.
func (f form) variables() map[string]string {
	var m map[string]string
	for field, values := range f {
		mine := strings.ToValidUTF8(values[len(values)-1], "\uFFFD")
		if isMailguns(field) {
			if len(values) < 2 || field == "tag" || field == "X-Mailgun-Tag" {
				continue // whether a repeated tag is a variable cannot be told
			}
			if field == "timestamp" || field == "token" || field == "signature" {
				mine = f.first(field)
			}
		}
		if m == nil {
			m = make(map[string]string)
		}
		m[strings.ToValidUTF8(field, "\uFFFD")] = mine
	}
	return m
}

func isMailguns(field string) bool {
	switch field {
	case "event", "recipient", "domain", "timestamp", "token", "signature", "Message-Id", "message-id",
		"message-headers", "X-Mailgun-Sid", "X-Mailgun-Tag", "tag", "campaign-id", "campaign-name", "mailing-list",
		"code", "error", "notification", "reason", "description", "url", "ip", "country", "region", "city",
		"user-agent", "device-type", "client-type", "client-name", "client-os", "body-plain", "h", "attachment-count":
		return true
	}
	return strings.HasPrefix(field, "attachment-")
}
