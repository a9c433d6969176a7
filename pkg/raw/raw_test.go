package raw_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"net/textproto"
	"reflect"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/fault"
	"mailriver/pkg/raw"
)

func TestRecord_roundTrip(t *testing.T) {
	in := raw.Record{
		Provider: "sendgrid", Source: "shop",
		ReceivedAt:  time.Date(2026, 11, 23, 12, 0, 0, 123e6, time.UTC),
		ContentType: "application/json", ContentEncoding: "gzip", KeyID: "0a1b2c3d",
		RemoteAddr: "192.0.2.1", UserAgent: "SendGrid Event API",
		Header: textproto.MIMEHeader{"X-Twilio-Email-Event-Webhook-Timestamp": {"1795435200"}},
		Body:   []byte("\x1f\x8b\r\n"),
	}
	k := in.Kafka("email.raw.v1", "key")
	if k.Topic != "email.raw.v1" || string(k.Key) != "key" {
		t.Errorf("topic %q, key %q", k.Topic, k.Key)
	}
	out, err := raw.Read(k)
	if err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("Read() = %+v, %v, want %+v", out, err, in)
	}
}

func TestRead_refusesWhatTheReceiverNeverWrites(t *testing.T) {
	good := raw.Record{Provider: "p", Source: "s", ReceivedAt: time.Unix(1, 0)}
	for _, missing := range []string{raw.HeaderProvider, raw.HeaderSource, raw.HeaderReceivedAt} {
		k := good.Kafka("t", "k")
		var kept []kgo.RecordHeader
		for _, h := range k.Headers {
			if h.Key != missing {
				kept = append(kept, h)
			}
		}
		k.Headers = kept
		_, err := raw.Read(k)
		if reason, _ := fault.Reason(err); reason != fault.BadRecord {
			t.Errorf("without %s: %v, want a permanent %s", missing, err, fault.BadRecord)
		}
	}
}

func TestDecode(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(bytes.Repeat([]byte("a"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, encoding string
		body           []byte
		limit          int64
		size           int
		want           error
	}{
		{name: "none", body: []byte("abc"), limit: 3, size: 3},
		{name: "none, too large", body: []byte("abcd"), limit: 3, want: raw.ErrTooLarge},
		{name: "gzip", encoding: "gzip", body: packed.Bytes(), limit: 1 << 20, size: 1 << 20},
		{name: "gzip bomb", encoding: "GZIP", body: packed.Bytes(), limit: 1<<20 - 1, want: raw.ErrTooLarge},
		{name: "gzip cut short", encoding: "gzip", body: packed.Bytes()[:packed.Len()-9], limit: 1 << 21, want: raw.ErrBadEncoding},
		{name: "not gzip", encoding: "gzip", body: []byte("abc"), limit: 10, want: raw.ErrBadEncoding},
		{name: "unsupported", encoding: "br", body: []byte("abc"), limit: 10, want: raw.ErrBadEncoding},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := raw.Decode(tt.encoding, tt.body, tt.limit)
			if !errors.Is(err, tt.want) || len(got) != tt.size {
				t.Errorf("Decode() = %d bytes, %v, want %d, %v", len(got), err, tt.size, tt.want)
			}
		})
	}
}

func TestDeliveryKey(t *testing.T) {
	if got := raw.DeliveryKey("sns-1", []byte("x")); got != "sns-1" {
		t.Errorf("DeliveryKey() = %q", got)
	}
	const sha = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // sha256sum of "x"
	if got := raw.DeliveryKey("", []byte("x")); got != sha {
		t.Errorf("DeliveryKey() = %q, want %q", got, sha)
	}
}
