package esp_test

import (
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"mailriver/pkg/esp"
	"mailriver/pkg/event"
)

func TestText(t *testing.T) {
	tests := []struct{ json, want string }{
		{`"plain"`, "plain"},
		{`"\u00e9\n\"x\""`, "\u00e9\n\"x\""},
		{`"\ud83d\ude00"`, "\U0001F600"},
		{`"\ud800"`, "\uFFFD"}, // half of a surrogate pair
		{"\"\xff\"", "\uFFFD"}, // JSON by its grammar, but not UTF-8
		{`1795436400.413277`, "1795436400.413277"},
		{`19421777835146490`, "19421777835146490"}, // above 2^53
		{`-0.10`, "-0.10"},
		{`true`, "true"},
		{`false`, "false"},
		{`null`, ""},
		{``, ""},
		{`[ 1, "a b" ]`, `[1,"a b"]`},
		{"{ \"a\" :\n{\"b\": null} }", `{"a":{"b":null}}`},
		{"[\"\xff\"]", "[\"\uFFFD\"]"},
	}
	for _, tt := range tests {
		if got := esp.Text(gjson.Parse(tt.json)); got != tt.want {
			t.Errorf("Text(%s) = %q, want %q", tt.json, got, tt.want)
		}
	}
	if got := esp.Text(gjson.Get(`{}`, "absent")); got != "" {
		t.Errorf("Text(absent) = %q, want empty", got)
	}
}

func TestInt(t *testing.T) {
	tests := []struct {
		json string
		want int32
		ok   bool
	}{
		{`3`, 3, true},
		{`"3"`, 3, true},
		{`" 3 "`, 3, true},
		{`-7`, -7, true},
		{`250.0`, 250, true},
		{`2.5e2`, 250, true},
		{`2147483647`, 2147483647, true},
		{`-2147483648`, -2147483648, true},
		{`2147483648`, 0, false},
		{`4294967296`, 0, false},
		{`4294967299.0`, 0, false},
		{`1e300`, 0, false},
		{`250.5`, 0, false},
		{`"5.1.1"`, 0, false},
		{`"NaN"`, 0, false},
		{`"Inf"`, 0, false},
		{`"0x10p0"`, 0, false}, // a Go spelling, not a number of JSON
		{`""`, 0, false},
		{`null`, 0, false},
		{`true`, 0, false},
		{`[3]`, 0, false},
		{`{}`, 0, false},
	}
	for _, tt := range tests {
		if got, ok := esp.Int(gjson.Parse(tt.json)); got != tt.want || ok != tt.ok {
			t.Errorf("Int(%s) = %d, %t, want %d, %t", tt.json, got, ok, tt.want, tt.ok)
		}
	}
}

func TestBool(t *testing.T) {
	tests := []struct {
		json      string
		value, ok bool
	}{
		{`true`, true, true},
		{`"True"`, true, true},
		{`1`, true, true},
		{`"1"`, true, true},
		{`"yes"`, true, true},
		{`false`, false, true},
		{`"FALSE"`, false, true},
		{`0`, false, true},
		{`"no"`, false, true},
		{`null`, false, false},
		{`""`, false, false},
		{`2`, false, false},
		{`"maybe"`, false, false},
		{`[true]`, false, false},
	}
	for _, tt := range tests {
		if value, ok := esp.Bool(gjson.Parse(tt.json)); value != tt.value || ok != tt.ok {
			t.Errorf("Bool(%s) = %t, %t, want %t, %t", tt.json, value, ok, tt.value, tt.ok)
		}
	}
}

func TestStrings(t *testing.T) {
	tests := []struct {
		json string
		want []string
	}{
		{`"receipt"`, []string{"receipt"}},
		{`7`, []string{"7"}},
		{`["b","a","b","",null,7,true]`, []string{"b", "a", "7", "true"}},
		{`[["x"],{"k":1}]`, []string{`["x"]`, `{"k":1}`}},
		{`[]`, nil},
		{`""`, nil},
		{`null`, nil},
		{``, nil},
	}
	for _, tt := range tests {
		if got := esp.Strings(gjson.Parse(tt.json)); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("Strings(%s) = %q, want %q", tt.json, got, tt.want)
		}
	}
}

func TestMetadata(t *testing.T) {
	tests := []struct {
		json string
		want map[string]string
	}{
		{
			`{"order_id":"A-17","n":19421777835146490,"ok":true,"none":null,"deep":{"a":[1, 2]}}`,
			map[string]string{"order_id": "A-17", "n": "19421777835146490", "ok": "true", "none": "", "deep": `{"a":[1,2]}`},
		},
		{"{\"\xff\":\"\xff\"}", map[string]string{"\uFFFD": "\uFFFD"}},
		{`{"a":1,"a":2}`, map[string]string{"a": "2"}}, // the last one, as in the parsers
		{`{}`, nil},
		{`[]`, nil},
		{`null`, nil},
		{`"text"`, nil},
		{``, nil},
	}
	for _, tt := range tests {
		if got := esp.Metadata(gjson.Parse(tt.json)); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("Metadata(%s) = %q, want %q", tt.json, got, tt.want)
		}
	}
}

func TestAddress(t *testing.T) {
	tests := []struct{ text, want string }{
		{"ann@example.com", "ann@example.com"},
		{" Ann@Example.COM ", "Ann@Example.COM"},
		{"Ann <ann@example.com>", "ann@example.com"},
		{`"Lee, Ann" <ann@example.com>`, "ann@example.com"},
		{"<ann@example.com>", "ann@example.com"},
		{"ann@example.com (Ann)", "ann@example.com"},
		{"=?utf-8?q?Ann?= <ann@example.com>", "ann@example.com"},
		{"=?x-unknown?q?Ann?= <ann@example.com>", "ann@example.com"},
		{"Ann @ Shop <ann@example.com>", "ann@example.com"},
		{"ann@example.com <ann@example.com>", "ann@example.com"},
		{"Ann <Shop> <ann@example.com>", "ann@example.com"},
		{`"ann lee"@example.com`, `"ann lee"@example.com`}, // quotes belong to the local part
		{`Ann <"a@b"@example.com>`, `"a@b"@example.com`},   // as above, in brackets
		{"Ann <ann@example.com>, Bob <bob@example.com>", "Ann <ann@example.com>, Bob <bob@example.com>"},
		{"not an address", "not an address"},
		{"broken <", "broken <"},
		{"<>", "<>"},
		{"", ""},
	}
	for _, tt := range tests {
		if got := esp.Address(tt.text); got != tt.want {
			t.Errorf("Address(%q) = %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestMessageID(t *testing.T) {
	tests := []struct{ text, want string }{
		{"<a.b@example.com>", "a.b@example.com"},
		{" <a.b@example.com>\r\n", "a.b@example.com"},
		{"< a.b@example.com >", "a.b@example.com"},
		{"a.b@example.com", "a.b@example.com"},
		{"<a.b@example.com", "<a.b@example.com"},
		{"<>", ""},
		{"<", "<"},
		{"", ""},
	}
	for _, tt := range tests {
		if got := esp.MessageID(tt.text); got != tt.want {
			t.Errorf("MessageID(%q) = %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestSetSMTPResponse(t *testing.T) {
	tests := []struct {
		name, text, want string
		truncated        bool
	}{
		{"short", " 550 5.1.1 no such user\r\n", "550 5.1.1 no such user", false},
		{"at the limit", strings.Repeat("x", esp.MaxSMTPResponse), strings.Repeat("x", esp.MaxSMTPResponse), false},
		{"over the limit", strings.Repeat("x", esp.MaxSMTPResponse+1), strings.Repeat("x", esp.MaxSMTPResponse), true},
		{
			"a character across the limit", strings.Repeat("x", esp.MaxSMTPResponse-1) + "\u00e9",
			strings.Repeat("x", esp.MaxSMTPResponse-1), true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e event.Event
			esp.SetSMTPResponse(&e, tt.text)
			truncated := len(e.Warnings) == 1 && e.Warnings[0] == event.WarnTruncated
			if e.SMTPResponse != tt.want || truncated != tt.truncated || !utf8.ValidString(e.SMTPResponse) {
				t.Errorf("SetSMTPResponse(%d bytes) = %d bytes, truncated %t, want %d bytes, %t",
					len(tt.text), len(e.SMTPResponse), truncated, len(tt.want), tt.truncated)
			}
		})
	}
}

func TestParseTime(t *testing.T) {
	const s, ms, us = event.PrecisionSecond, event.PrecisionMillisecond, event.PrecisionMicrosecond
	utc := func(nanos int) time.Time { return time.Date(2018, time.October, 8, 14, 5, 45, nanos, time.UTC) }
	tests := []struct {
		text      string
		want      time.Time
		precision string
	}{
		{"1539007545", utc(0), s},
		{" 1539007545 ", utc(0), s},
		{"1539007545.", utc(0), s},
		{"1539007545.4", utc(400_000_000), ms},
		{"1539007545.413", utc(413_000_000), ms},
		{"1539007545.413277", utc(413_277_000), us}, // a float64 would still hold it
		{"1539007545.4132779", utc(413_277_000), us},
		{"1539007545413", utc(413_000_000), ms},
		{"1539007545413.277", utc(413_277_000), us},
		{"1539007545413277", utc(413_277_000), us},
		{"1539007545413277999", utc(413_277_000), us},
		{"2018-10-08T14:05:45Z", utc(0), s},
		{"2018-10-08T14:05:45.413Z", utc(413_000_000), ms},
		{"2018-10-08T14:05:45,413Z", utc(413_000_000), ms}, // ISO 8601 prefers the comma
		{"2018-10-08T14:05:45.4132779Z", utc(413_277_000), us},
		{"2018-10-08T14:05:45.413277999999Z", utc(413_277_000), us},
		{"2018-10-08T16:05:45.4132779+02:00", utc(413_277_000), us},
		{"2018-10-08T16:05:45+0200", utc(0), s},
		{"2018-10-08T16:05:45+02", utc(0), s},
		{"2018-10-08T09:05:45.5-05", utc(500_000_000), ms},
		{"2018-10-08T14:05:45 +0000", utc(0), s},
		{"2018-10-08 14:05:45 +0000", utc(0), s},
		{"2018-10-08 16:05:45 +02:00", utc(0), s},
		{"2018-10-08T16:05:45 +02:00", utc(0), s},
		{"2018-10-08 14:05:45+00:00", utc(0), s},
		{"2018-10-08 14:05:45.413277+00", utc(413_277_000), us},
		{"2018-10-08 14:05:45 UTC", utc(0), s},
		{"2018-10-08 14:05:45.25 UTC", utc(250_000_000), ms},
		{"2018-10-08T14:05:45 GMT", utc(0), s},
		{"2018-10-08T14:05:45", utc(0), s},
		{"2018-10-08 14:05:45", utc(0), s},
		{"2018-10-08 14:05:45.413277", utc(413_277_000), us},
		// The scales meet without a gap: one below, one at each boundary.
		{"0", time.Unix(0, 0).UTC(), s},
		{"99999999999", time.Unix(99_999_999_999, 0).UTC(), s},
		{"100000000000", time.UnixMilli(100_000_000_000).UTC(), ms},
		{"99999999999999", time.UnixMilli(99_999_999_999_999).UTC(), ms},
		{"100000000000000", time.UnixMicro(100_000_000_000_000).UTC(), us},
		{"99999999999999999", time.UnixMicro(99_999_999_999_999_999).UTC(), us},
		{"100000000000000000", time.Unix(0, 100_000_000_000_000_000).UTC(), us},
		{"9223372036854775807", time.Unix(0, 9_223_372_036_854_775_000).UTC(), us},
	}
	for _, tt := range tests {
		got, precision, ok := esp.ParseTime(tt.text)
		if !ok || !got.Equal(tt.want) || precision != tt.precision || got.Location() != time.UTC {
			t.Errorf("ParseTime(%q) = %v, %q, %t, want %v, %q", tt.text, got, precision, ok, tt.want, tt.precision)
		}
	}
	for _, text := range []string{
		"", " ", "soon", ".5", "-1539007545", "+1539007545", "1539007545.x", "1539007545.4.1", "1,539,007,545",
		"9223372036854775808", "99999999999999999999", "2018-10-08", "2018-13-08T14:05:45Z", "2018-10-08T14:05:45 X",
		// An abbreviation is no offset: package time would take it for UTC, or
		// for whatever it means where the program runs.
		"2018-10-08 14:05:45 PST", "2018-10-08 14:05:45 CEST", "2018-10-08 14:05:45 GMT+3",
	} {
		if got, _, ok := esp.ParseTime(text); ok {
			t.Errorf("ParseTime(%q) = %v, want not ok", text, got)
		}
	}
}

func TestSetTime(t *testing.T) {
	received := time.Date(2026, time.November, 23, 12, 0, 0, 123_456_789, time.UTC)
	tests := []struct {
		name, text string
		want       time.Time // zero: received
	}{
		{"in range", "1795434000", time.Unix(1795434000, 0)},
		{"first of the range", "2000-01-01T00:00:00Z", time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)},
		{"before the range", "1999-12-31T23:59:59Z", time.Time{}},
		{"a day ahead", "2026-11-24T12:00:00.123456Z", received.Add(24 * time.Hour).Truncate(time.Microsecond)},
		{"more than a day ahead", "2026-11-24T12:00:01Z", time.Time{}},
		{"before 2000 in another zone", "2000-01-01T00:30:00+01:00", time.Time{}},
		{"zero", "0", time.Time{}},
		{"absent", "", time.Time{}},
		{"unreadable", "yesterday", time.Time{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e event.Event
			esp.SetTime(&e, tt.text, received)
			if tt.want.IsZero() {
				if !e.OccurredAt.Equal(received.Truncate(time.Microsecond)) || e.OccurredAtSource != event.TimeFromReceiver ||
					!reflect.DeepEqual(e.Warnings, []string{event.WarnBadTimestamp}) {
					t.Errorf("SetTime(%q) = %v from %s, %v, want the time of receipt and a warning",
						tt.text, e.OccurredAt, e.OccurredAtSource, e.Warnings)
				}
				return
			}
			if !e.OccurredAt.Equal(tt.want) || e.OccurredAtSource != event.TimeFromProvider || e.Warnings != nil {
				t.Errorf("SetTime(%q) = %v from %s, %v, want %v", tt.text, e.OccurredAt, e.OccurredAtSource, e.Warnings, tt.want)
			}
		})
	}
}

func FuzzParseTime(f *testing.F) {
	for _, text := range []string{"1539007545.413277", "1539007545413", "2018-10-08T14:05:45.4132779Z", "2018-10-08 14:05:45 UTC"} {
		f.Add(text)
	}
	received := time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		var e event.Event
		esp.SetTime(&e, text, received)
		if e.OccurredAt.Year() < 2000 || e.OccurredAt.After(received.Add(24*time.Hour)) ||
			!e.OccurredAt.Equal(e.OccurredAt.Truncate(time.Microsecond)) {
			t.Errorf("SetTime(%q) = %v", text, e.OccurredAt)
		}
	})
}
