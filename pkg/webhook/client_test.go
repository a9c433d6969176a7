package webhook_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"mailriver/pkg/config"
	"mailriver/pkg/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// literal resolves secrets that stand in the configuration.
func literal(s config.Secret) (string, error) {
	return s.Resolve(func(string) (string, bool) { return "", false },
		func(string) ([]byte, error) { return nil, errors.New("no such file") })
}

func client(t *testing.T, url string, edit ...func(*webhook.Endpoint, *webhook.Deps)) *webhook.Client {
	t.Helper()
	e := webhook.Endpoint{Name: "crm", URL: url, Secrets: []config.Secret{config.NewSecret(secret)}, AllowPrivate: true}
	deps := webhook.Deps{Resolve: literal, Now: time.Now}
	for _, edit := range edit {
		edit(&e, &deps)
	}
	c, err := webhook.NewClient(e, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

func TestSend(t *testing.T) {
	body := []byte(`{"type":"lead.stage.entered"}`)
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body)
		if err := verifier.Verify(got, r.Header); err != nil {
			t.Errorf("Verify() = %v, want nil", err)
		}
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" ||
			r.Header.Get("Webhook-Id") != "id-1" || r.Header.Get("Authorization") != "Bearer token" {
			t.Errorf("the request is %s %v", r.Method, r.Header)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	c := client(t, s.URL, func(e *webhook.Endpoint, _ *webhook.Deps) {
		e.Headers = map[string]config.Secret{"authorization": config.NewSecret("Bearer token")}
	})
	if got := c.Send(t.Context(), "id-1", body); got.Outcome != webhook.Delivered || got.Status != 204 || !got.Up() {
		t.Errorf("Send() = %+v, want delivered", got)
	}
}

func TestSend_answers(t *testing.T) {
	for _, tt := range []struct {
		status  int
		after   string
		outcome webhook.Outcome
		wait    time.Duration
		up      bool
	}{
		{200, "", webhook.Delivered, 0, true},
		{299, "60", webhook.Delivered, 0, true},
		{304, "", webhook.Refused, 0, true},
		{400, "", webhook.Refused, 0, true},
		{404, "", webhook.Refused, 0, true},
		{410, "", webhook.Gone, 0, true},
		{429, "7", webhook.Busy, 7 * time.Second, false},
		{500, "", webhook.Refused, 0, false},
		{502, "", webhook.Busy, 0, false},
		{503, "Tue, 24 Nov 2026 12:01:00 GMT", webhook.Busy, time.Minute, false},
		{503, "Tue, 24 Nov 2026 11:00:00 GMT", webhook.Busy, 0, false},
		{504, "", webhook.Busy, 0, false},
	} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if tt.after != "" {
				w.Header().Set("Retry-After", tt.after)
			}
			w.WriteHeader(tt.status)
		})
		c := client(t, s.URL, func(_ *webhook.Endpoint, d *webhook.Deps) {
			d.Now = func() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }
		})
		got := c.Send(t.Context(), "id", nil)
		if got.Outcome != tt.outcome || got.Wait != tt.wait || got.Status != tt.status || got.Up() != tt.up {
			t.Errorf("Send() of %d %q = %+v, up %t, want %s, wait %s, up %t",
				tt.status, tt.after, got, got.Up(), tt.outcome, tt.wait, tt.up)
		}
		if (got.Problem == "") != (tt.outcome == webhook.Delivered) {
			t.Errorf("Send() of %d has the problem %q", tt.status, got.Problem)
		}
	}
}

// HubSpot answers 207 where inputs of a batch failed. The batch has one.
func TestSend_multiStatusOfHubSpot(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMultiStatus) })
	for template, want := range map[string]webhook.Outcome{"generic": webhook.Delivered, "hubspot": webhook.Refused} {
		c := client(t, s.URL, func(e *webhook.Endpoint, _ *webhook.Deps) { e.Template = template })
		if got := c.Send(t.Context(), "id", nil); got.Outcome != want || !got.Up() {
			t.Errorf("Send() of 207 with the template %s = %+v, want %s", template, got, want)
		}
	}
}

func TestSend_redirectIsNotFollowed(t *testing.T) {
	var followed atomic.Bool
	target := serve(t, func(http.ResponseWriter, *http.Request) { followed.Store(true) })
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.URL, http.StatusTemporaryRedirect)
	})
	got := client(t, s.URL).Send(t.Context(), "id", []byte("{}"))
	if got.Outcome != webhook.Refused || !strings.Contains(got.Problem, "redirects") || followed.Load() {
		t.Errorf("Send() = %+v, followed %t, want refused and not followed", got, followed.Load())
	}
}

// A body without end is cut off: turns red without the limit (the test would
// hold all of it, and time out).
func TestSend_hugeAnswerIsCutOff(t *testing.T) {
	ended := make(chan int64, 1)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1073741824")
		chunk := make([]byte, 32<<10)
		var sent int64
		for sent < 1<<30 {
			n, err := w.Write(chunk)
			sent += int64(n)
			if err != nil {
				break
			}
		}
		ended <- sent
	})
	if got := client(t, s.URL).Send(t.Context(), "id", nil); got.Outcome != webhook.Delivered {
		t.Errorf("Send() = %+v, want delivered: the status says so", got)
	}
	// What lies in the buffers of the two sockets is beyond the limit.
	if sent := <-ended; sent >= 1<<30 {
		t.Errorf("the endpoint sent %d bytes, want it cut off", sent)
	}
}

func TestSend_hangingEndpointTimesOut(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	c := client(t, s.URL, func(e *webhook.Endpoint, _ *webhook.Deps) { e.Timeout = 20 * time.Millisecond })
	got := c.Send(t.Context(), "id", nil)
	if got.Outcome != webhook.Unreachable || got.Up() || !strings.Contains(got.Problem, "deadline") {
		t.Errorf("Send() = %+v, want unreachable by the deadline", got)
	}
}

// A name that resolves to this machine, and addresses of it in several
// spellings: turns red without the check when dialing.
func TestSend_privateAddressIsRefused(t *testing.T) {
	var asked atomic.Bool
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0"} {
		c := client(t, "https://"+host+":"+port, func(e *webhook.Endpoint, d *webhook.Deps) {
			e.AllowPrivate, d.Roots = false, roots(s)
		})
		got := c.Send(t.Context(), "id", nil)
		if got.Outcome != webhook.Unreachable || !strings.Contains(got.Problem, "is private or special") || asked.Load() {
			t.Errorf("Send(%s) = %+v, asked %t, want refused", host, got, asked.Load())
		}
	}
}

func roots(s *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}

func TestSend_certificateIsChecked(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the request came over %s, want HTTP/2", r.Proto)
		}
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	if got := client(t, s.URL).Send(t.Context(), "id", nil); got.Outcome != webhook.Unreachable ||
		!strings.Contains(got.Problem, "certificate") {
		t.Errorf("Send() = %+v, want unreachable by its certificate", got)
	}
	known := client(t, s.URL, func(_ *webhook.Endpoint, d *webhook.Deps) { d.Roots = roots(s) })
	if got := known.Send(t.Context(), "id", nil); got.Outcome != webhook.Delivered {
		t.Errorf("Send() with its root = %+v, want delivered", got)
	}
}

// An endpoint that repeats what it was sent does not put a secret into a message.
func TestSend_problemShowsNoSecret(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "bad token "+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), http.StatusUnauthorized)
	})
	c := client(t, s.URL, func(e *webhook.Endpoint, _ *webhook.Deps) {
		e.Headers = map[string]config.Secret{"Authorization": config.NewSecret("Bearer hunter2")}
	})
	if got := c.Send(t.Context(), "id", nil); got.Problem != "HTTP 401: bad token ***" {
		t.Errorf("Send() has the problem %q, want the token blanked out", got.Problem)
	}
}

func TestSend_secretThatCannotBeRead(t *testing.T) {
	c := client(t, "http://127.0.0.1:1/", func(e *webhook.Endpoint, _ *webhook.Deps) {
		e.Secrets = []config.Secret{config.NewSecret("${file:/nowhere}")}
	})
	if got := c.Send(t.Context(), "id", nil); got.Outcome != webhook.Unsent || !strings.Contains(got.Problem, "secrets[0]: ${file:/nowhere}") {
		t.Errorf("Send() = %+v, want unsent", got)
	}
	if err := c.Check(); !errors.Is(err, config.ErrUnreadable) {
		t.Errorf("Check() = %v, want config.ErrUnreadable", err)
	}
	wrong := client(t, "http://127.0.0.1:1/", func(e *webhook.Endpoint, _ *webhook.Deps) {
		e.Secrets = append(e.Secrets, config.NewSecret("${file:/nowhere}"), config.NewSecret("hunter2"))
	})
	if err := wrong.Check(); err == nil || errors.Is(err, config.ErrUnreadable) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Check() = %v, want the mistake, and no secret", err)
	}
}

func TestSend_canceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := client(t, "http://127.0.0.1:1/").Send(ctx, "id", nil); got.Outcome != webhook.Unreachable {
		t.Errorf("Send() = %+v, want unreachable", got)
	}
}
