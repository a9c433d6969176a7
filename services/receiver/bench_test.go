package receiver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"mailriver/pkg/esp"
	"mailriver/pkg/httpserver"
	"mailriver/pkg/kafka/kafkatest"
)

// ecdsaProvider verifies as SendGrid does: ECDSA P-256 over the SHA-256 of the
// body.
func ecdsaProvider(public *ecdsa.PublicKey) esp.Provider {
	return esp.Provider{
		Name: "signed", MaxBody: 1 << 20, Signs: true, Headers: []string{signatureHeader},
		Answers:     esp.Answers{Refuse: 401, Retry: 503},
		NewVerifier: func(esp.Settings) (esp.Verifier, error) { return ecdsaVerifier{public}, nil },
	}
}

type ecdsaVerifier struct{ public *ecdsa.PublicKey }

func (v ecdsaVerifier) Verify(_ context.Context, w esp.Webhook) (esp.Verified, error) {
	if !genuine(v.public, w.Header.Get(signatureHeader), w.Body) {
		return esp.Verified{}, esp.Refuse(esp.ReasonMismatch, "")
	}
	return esp.Verified{KeyID: "01020304"}, nil
}

func genuine(public *ecdsa.PublicKey, signature string, body []byte) bool {
	der, err := base64.StdEncoding.DecodeString(signature)
	digest := sha256.Sum256(body)
	return err == nil && ecdsa.VerifyASN1(public, digest[:], der)
}

// bare is the least that a receiver can be: it reads into a pooled buffer,
// verifies, produces and waits. It has no limits, no headers, no metrics.
func bare(public *ecdsa.PublicKey, client *kgo.Client) http.Handler {
	pool := sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /webhooks/shop", func(w http.ResponseWriter, r *http.Request) {
		buffer := pool.Get().(*[]byte)
		body := (*buffer)[:r.ContentLength]
		if _, err := io.ReadFull(r.Body, body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if !genuine(public, r.Header.Get(signatureHeader), body) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		done := make(chan error, 1)
		client.TryProduce(context.WithoutCancel(r.Context()), &kgo.Record{Topic: "email.raw.v1", Value: body},
			func(_ *kgo.Record, err error) { done <- err })
		if err := <-done; err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		pool.Put(buffer)
	})
	return mux
}

// BenchmarkAccept compares the receiver with a bare net/http handler on the
// same broker under the same load: 10 KB, ECDSA, 64 connections. Both are
// measured in turns within one run, because the speed of a machine drifts; the
// ratio is the result and the time of one operation is not.
func BenchmarkAccept(b *testing.B) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 10<<10)
	if _, err := rand.Read(body); err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256(body)
	der, err := ecdsa.SignASN1(rand.Reader, private, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	signature := base64.StdEncoding.EncodeToString(der)

	cluster := kafkatest.New(b)
	client := producer(b, cluster, kgo.ProducerLinger(time.Millisecond))
	service, err := New(DefaultConfig(), []Source{{Name: "shop", Provider: "signed", Keys: secrets("k")}}, Deps{
		Surroundings: Surroundings{
			Providers: []esp.Provider{ecdsaProvider(&private.PublicKey)},
			LookupEnv: func(string) (string, bool) { return "", false },
			ReadFile:  func(string) ([]byte, error) { return nil, errors.New("none") },
			Now:       time.Now,
		},
		Producer: client, Topic: "email.raw.v1",
		Meter:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader())).Meter("bench"),
		Tracer: tracenoop.NewTracerProvider().Tracer("bench"), Propagator: propagation.TraceContext{},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	engine := httpserver.NewEngine(slog.New(slog.DiscardHandler))
	service.Routes(engine)

	const connections, round = 64, 1000
	transport := &http.Transport{MaxIdleConnsPerHost: connections}
	defer transport.CloseIdleConnections()
	load := func(url string) time.Duration {
		began := time.Now()
		var wg sync.WaitGroup
		for range connections {
			wg.Go(func() {
				for range round / connections {
					r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(body))
					if err != nil {
						b.Error(err)
						return
					}
					r.Header.Set(signatureHeader, signature)
					response, err := transport.RoundTrip(r)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
					if response.StatusCode != http.StatusOK {
						b.Errorf("status %d", response.StatusCode)
						return
					}
				}
			})
		}
		wg.Wait()
		return time.Since(began)
	}
	ours, theirs := httptest.NewServer(engine), httptest.NewServer(bare(&private.PublicKey, client))
	defer ours.Close()
	defer theirs.Close()
	load(ours.URL + "/webhooks/shop")
	load(theirs.URL + "/webhooks/shop")

	var ratios []float64
	for i := 0; b.Loop(); i++ {
		var a, t time.Duration
		if i%2 == 0 {
			a, t = load(ours.URL+"/webhooks/shop"), load(theirs.URL+"/webhooks/shop")
		} else {
			t, a = load(theirs.URL+"/webhooks/shop"), load(ours.URL+"/webhooks/shop")
		}
		ratios = append(ratios, t.Seconds()/a.Seconds())
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "x_bare(median)")
	b.ReportMetric(ratios[len(ratios)/10], "x_bare(p10)")
}
