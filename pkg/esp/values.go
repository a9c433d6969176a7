package esp

import (
	"net/mail"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"mailriver/pkg/event"
)

// MaxSMTPResponse is the length, in bytes, to which smtp_response is cut.
const MaxSMTPResponse = 2048

// Text reads a JSON value as text, whatever its type: a string is unquoted, a
// number keeps its digits as sent (no float in between), null and absent are
// empty, an object or array is its compact JSON.
func Text(v gjson.Result) string {
	switch v.Type {
	case gjson.String:
		return strings.ToValidUTF8(v.Str, "\uFFFD")
	case gjson.Null:
		return ""
	case gjson.JSON:
		return strings.ToValidUTF8(v.Get("@ugly").Raw, "\uFFFD")
	default:
		return v.Raw
	}
}

// Int reads a JSON number or numeric string; ok is false for everything else
// and for what does not fit.
func Int(v gjson.Result) (n int32, ok bool) {
	text := strings.TrimSpace(Text(v))
	wide, err := strconv.ParseInt(text, 10, 32)
	if err == nil {
		return int32(wide), true
	}
	// ParseFloat also reads "NaN", "0x10p0" and the like, which are no JSON numbers.
	if strings.Trim(text, "+-.eE0123456789") != "" {
		return 0, false
	}
	if float, err := strconv.ParseFloat(text, 64); err == nil && float == float64(int32(float)) {
		return int32(float), true
	}
	return 0, false
}

// Bool reads true and false, also as text or as 1 and 0; ok is false for
// everything else.
func Bool(v gjson.Result) (value, ok bool) {
	switch strings.ToLower(Text(v)) {
	case "true", "1", "yes":
		return true, true
	case "false", "0", "no":
		return false, true
	}
	return false, false
}

// Strings reads an array of scalars, or one scalar, as a list without empty
// and without repeated entries, in order.
func Strings(v gjson.Result) []string {
	if !v.IsArray() {
		if text := Text(v); text != "" {
			return []string{text}
		}
		return nil
	}
	var list []string
	seen := map[string]bool{}
	v.ForEach(func(_, element gjson.Result) bool {
		if text := Text(element); text != "" && !seen[text] {
			seen[text] = true
			list = append(list, text)
		}
		return true
	})
	return list
}

// Metadata reads an object as a map of texts; nested values become compact
// JSON. Anything that is not an object, as the empty array that some providers
// send for "none", is nil.
func Metadata(v gjson.Result) map[string]string {
	if !v.IsObject() {
		return nil
	}
	var m map[string]string
	v.ForEach(func(key, value gjson.Result) bool {
		if m == nil {
			m = make(map[string]string)
		}
		m[strings.ToValidUTF8(key.Str, "\uFFFD")] = Text(value)
		return true
	})
	return m
}

// Address takes the bare address out of a header-style value
// ("Ann <ann@example.com>"). What is no address, or is several, is returned as
// it came, trimmed: unknown is kept, and none of several is picked.
func Address(text string) string {
	text = strings.TrimSpace(text)
	if !strings.ContainsAny(text, "<>\"(") {
		return text
	}
	if parsed, err := mail.ParseAddress(text); err == nil {
		// The parsed form has lost the quotes that a local part like "ann lee"
		// needs. String puts them back where they are needed.
		bare := mail.Address{Address: parsed.Address}
		return strings.TrimSuffix(strings.TrimPrefix(bare.String(), "<"), ">")
	}
	// Display names that RFC 5322 forbids unquoted are common in payloads.
	found := ""
	for rest := text; ; {
		_, after, open := strings.Cut(rest, "<")
		inner, after, closed := strings.Cut(after, ">")
		if !open || !closed {
			break
		}
		if strings.Contains(inner, "@") {
			if found != "" {
				return text
			}
			found = strings.TrimSpace(inner)
		}
		rest = after
	}
	if found == "" {
		return text
	}
	return found
}

// MessageID takes the angle brackets and white space off an RFC 5322
// Message-ID.
func MessageID(text string) string {
	text = strings.TrimSpace(text)
	if len(text) > 1 && text[0] == '<' && text[len(text)-1] == '>' {
		return strings.TrimSpace(text[1 : len(text)-1])
	}
	return text
}

// SetSMTPResponse stores text, cut to [MaxSMTPResponse] at a character.
func SetSMTPResponse(e *event.Event, text string) {
	text = strings.TrimSpace(text)
	if len(text) > MaxSMTPResponse {
		cut := MaxSMTPResponse
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut]
		e.Warn(event.WarnTruncated)
	}
	e.SMTPResponse = text
}

// SetTime stores when the event happened. The text is a number (or numeric
// string) of seconds, or of milliseconds, microseconds or nanoseconds when it
// is too large for seconds, or RFC 3339 with any number of fraction digits, a
// space for the T and a short offset accepted. An unreadable time, one before
// 2000 and one more than a day after received become received, with
// [event.WarnBadTimestamp].
func SetTime(e *event.Event, text string, received time.Time) {
	at, precision, ok := ParseTime(text)
	if !ok || at.Year() < 2000 || at.After(received.Add(24*time.Hour)) {
		e.OccurredAt = received.UTC().Truncate(time.Microsecond)
		e.OccurredAtPrecision = event.PrecisionMicrosecond
		e.OccurredAtSource = event.TimeFromReceiver
		e.Warn(event.WarnBadTimestamp)
		return
	}
	e.OccurredAt, e.OccurredAtPrecision, e.OccurredAtSource = at, precision, event.TimeFromProvider
}

// ParseTime reads a provider's time as [SetTime] describes, to the microsecond
// (what is finer is cut off), and says how precise the text was.
func ParseTime(text string) (at time.Time, precision string, ok bool) {
	text = strings.TrimSpace(text)
	if text == "" {
		return time.Time{}, "", false
	}
	if at, precision, ok := parseEpoch(text); ok {
		return at, precision, true
	}
	return parseCalendar(text)
}

// parseEpoch reads decimal digits with an optional fraction. No float64 is
// involved: it would blur the microseconds.
func parseEpoch(text string) (time.Time, string, bool) {
	whole, fraction, _ := strings.Cut(text, ".")
	if len(whole) == 0 || len(whole) > 19 || !digits(whole) || !digits(fraction) {
		return time.Time{}, "", false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, "", false
	}
	switch {
	case n >= 1e17:
		return time.Unix(0, n).UTC().Truncate(time.Microsecond), event.PrecisionMicrosecond, true
	case n >= 1e14:
		return time.UnixMicro(n).UTC(), event.PrecisionMicrosecond, true
	case n >= 1e11:
		at := time.UnixMilli(n).UTC()
		if fraction == "" {
			return at, event.PrecisionMillisecond, true
		}
		micros, _ := strconv.ParseInt((fraction + "000")[:3], 10, 64) // three digits
		return at.Add(time.Duration(micros) * time.Microsecond), event.PrecisionMicrosecond, true
	}
	micros, precision := fractionMicros(fraction)
	return time.Unix(n, micros*1000).UTC(), precision, true
}

// parseCalendar reads RFC 3339 and its common relatives: a space for the T, a
// space before the zone, a zone of +0000, +00, UTC or GMT, or none, which is
// UTC. No other abbreviation is read: package time would take it for an offset
// of zero, or for what it means where the program runs.
func parseCalendar(text string) (time.Time, string, bool) {
	const dateLen = len("2006-01-02")
	if len(text) <= dateLen || text[dateLen] != 'T' && text[dateLen] != ' ' {
		return time.Time{}, "", false
	}
	clock, zone, spaced := strings.Cut(text[dateLen+1:], " ")
	if spaced {
		switch {
		case zone == "UTC" || zone == "GMT":
			zone = "Z"
		case zone == "" || !strings.ContainsAny(zone[:1], "Z+-"):
			return time.Time{}, "", false
		}
	}
	text = text[:dateLen] + "T" + clock + zone
	for _, layout := range []string{
		"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05Z07", "2006-01-02T15:04:05",
	} {
		// A fraction after the seconds is accepted by every layout (package time).
		at, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		start := strings.IndexAny(clock, ".,") + 1
		end := start
		for start > 0 && end < len(clock) && clock[end] >= '0' && clock[end] <= '9' {
			end++
		}
		_, precision := fractionMicros(clock[start:end])
		return at.UTC().Truncate(time.Microsecond), precision, true
	}
	return time.Time{}, "", false
}

func fractionMicros(fraction string) (micros int64, precision string) {
	switch {
	case fraction == "":
		return 0, event.PrecisionSecond
	case len(fraction) <= 3:
		precision = event.PrecisionMillisecond
	default:
		precision = event.PrecisionMicrosecond
	}
	padded := (fraction + "000000")[:6]
	micros, _ = strconv.ParseInt(padded, 10, 64) // six digits
	return micros, precision
}

func digits(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return true
}
