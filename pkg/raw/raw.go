// Package raw is the record of the raw topic: one webhook request, byte for
// byte, and what is needed to verify or parse it again later.
//
// The receiver writes it and the normalizer reads it; this package is the one
// place that knows its header names. It does not verify, parse or produce.
package raw

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/esp"
	"mailriver/pkg/fault"
)

// Names of the Kafka headers. A kept request header is stored as
// HeaderPrefix + its lower-case name.
const (
	HeaderProvider        = "provider"
	HeaderSource          = "source"
	HeaderReceivedAt      = "received_at" // RFC 3339, UTC, milliseconds
	HeaderContentType     = "content_type"
	HeaderContentEncoding = "content_encoding" // only when the body is encoded
	HeaderKeyID           = "key_id"
	HeaderRemoteAddr      = "remote_addr"
	HeaderUserAgent       = "user_agent"
	HeaderPrefix          = "header."
)

const timeLayout = "2006-01-02T15:04:05.000Z"

// Record is one accepted request.
type Record struct {
	Provider        string
	Source          string
	ReceivedAt      time.Time // kept to the millisecond
	ContentType     string
	ContentEncoding string // "" or "gzip"
	KeyID           string // which live key verified it; empty when none signs
	RemoteAddr      string // IP address of the sender, after trusted proxies
	UserAgent       string
	Header          textproto.MIMEHeader // the provider's own headers only, canonical form
	Body            []byte               // as sent, still encoded
}

// DeliveryKey returns the key of a record: what the verifier found to identify
// the delivery over the provider's retries, else the SHA-256 of the decoded
// body in hexadecimal.
func DeliveryKey(found string, body []byte) string {
	if found != "" {
		return found
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// Kafka returns the record for the raw topic. Trace headers are the caller's.
func (r Record) Kafka(topic, key string) *kgo.Record {
	headers := make([]kgo.RecordHeader, 0, 8+len(r.Header))
	add := func(name, value string) {
		if value != "" {
			headers = append(headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
		}
	}
	add(HeaderProvider, r.Provider)
	add(HeaderSource, r.Source)
	add(HeaderReceivedAt, r.ReceivedAt.UTC().Format(timeLayout))
	add(HeaderContentType, r.ContentType)
	add(HeaderContentEncoding, r.ContentEncoding)
	add(HeaderKeyID, r.KeyID)
	add(HeaderRemoteAddr, r.RemoteAddr)
	add(HeaderUserAgent, r.UserAgent)
	for name, values := range r.Header {
		for _, value := range values {
			add(HeaderPrefix+strings.ToLower(name), value)
		}
	}
	return &kgo.Record{Topic: topic, Key: []byte(key), Value: r.Body, Timestamp: r.ReceivedAt, Headers: headers}
}

// Read is the inverse of [Record.Kafka]. An error is permanent: the receiver
// never writes such a record.
func Read(k *kgo.Record) (Record, error) {
	r := Record{Header: textproto.MIMEHeader{}, Body: k.Value}
	for _, h := range k.Headers {
		value := string(h.Value)
		switch h.Key {
		case HeaderProvider:
			r.Provider = value
		case HeaderSource:
			r.Source = value
		case HeaderReceivedAt:
			at, err := time.Parse(time.RFC3339, value)
			if err != nil {
				return Record{}, fault.Permanentf(fault.BadRecord, "header %s: %w", HeaderReceivedAt, err)
			}
			r.ReceivedAt = at.UTC()
		case HeaderContentType:
			r.ContentType = value
		case HeaderContentEncoding:
			r.ContentEncoding = value
		case HeaderKeyID:
			r.KeyID = value
		case HeaderRemoteAddr:
			r.RemoteAddr = value
		case HeaderUserAgent:
			r.UserAgent = value
		default:
			if name, ok := strings.CutPrefix(h.Key, HeaderPrefix); ok {
				r.Header.Add(name, value)
			}
		}
	}
	switch {
	case r.Provider == "":
		return Record{}, fault.Permanentf(fault.BadRecord, "header %s is missing", HeaderProvider)
	case r.Source == "":
		return Record{}, fault.Permanentf(fault.BadRecord, "header %s is missing", HeaderSource)
	case r.ReceivedAt.IsZero():
		return Record{}, fault.Permanentf(fault.BadRecord, "header %s is missing", HeaderReceivedAt)
	}
	return r, nil
}

// Webhook returns what a provider parses. The body is decoded within limit
// bytes; an error is permanent.
func (r Record) Webhook(limit int64) (esp.Webhook, error) {
	body, err := Decode(r.ContentEncoding, r.Body, limit)
	if err != nil {
		return esp.Webhook{}, fault.Permanent(fault.BadBody, err)
	}
	header := make(textproto.MIMEHeader, len(r.Header)+1)
	for name, values := range r.Header {
		header[name] = values
	}
	if r.ContentType != "" {
		header.Set("Content-Type", r.ContentType)
	}
	return esp.Webhook{Source: r.Source, Header: header, Body: body, ReceivedAt: r.ReceivedAt}, nil
}

// Errors of [Decode].
var (
	ErrTooLarge    = errors.New("decoded body is larger than allowed")
	ErrBadEncoding = errors.New("content encoding cannot be undone")
)

// Decode undoes a Content-Encoding: none, identity or gzip (RFC 9110 8.4). It
// never holds more than limit bytes of output, however well they compress.
func Decode(encoding string, body []byte, limit int64) ([]byte, error) {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		if int64(len(body)) > limit {
			return nil, ErrTooLarge
		}
		return body, nil
	case "gzip", "x-gzip":
	default:
		return nil, fmt.Errorf("%w: %q is not supported", ErrBadEncoding, encoding)
	}
	reader, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadEncoding, err)
	}
	decoded, err := io.ReadAll(io.LimitReader(reader, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadEncoding, err)
	}
	if int64(len(decoded)) > limit {
		return nil, ErrTooLarge
	}
	return decoded, nil
}
