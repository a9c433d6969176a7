package ses_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailriver/pkg/esp"
)

func TestVerify_certificates(t *testing.T) {
	before, after := now.AddDate(0, -6, 0), now.AddDate(0, 6, 0)
	good := goodCertificate(t)
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("not for the public")})
	tests := []struct {
		name   string
		page   []byte
		reason string // "" with ok false: cannot tell
		ok     bool
	}{
		{"good", good, "", true},
		{"last second", certify(t, awsKey(), before, now), "", true},
		{"first second", certify(t, awsKey(), now, after), "", true},
		{"text before it", append([]byte("subject=CN sns\n"), good...), "", true},
		{"its authority after it", append(bytes.Clone(good), certify(t, curveKey(), before, after)...), "", true},
		{"another block before it", append(bytes.Clone(key), good...), "", true},
		{"expired", certify(t, awsKey(), before, now.Add(-time.Second)), esp.ReasonMismatch, false},
		{"not valid yet", certify(t, awsKey(), now.Add(time.Second), after), esp.ReasonMismatch, false},
		{"of another RSA key", certify(t, thiefKey(), before, after), esp.ReasonMismatch, false},
		{"of an elliptic curve", certify(t, curveKey(), before, after), esp.ReasonMalformed, false},
		{"of 1024 bits", certify(t, smallKey(), before, after), esp.ReasonMalformed, false},
		{"error page", []byte("<html>503 Slow Down</html>"), "", false},
		{"empty", nil, "", false},
		{"cut off", good[:len(good)/2], "", false},
		{"not DER", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "", false},
		{"only a key", key, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			n.serve(certURL, tt.page)
			_, err := newVerifier(t, n, nil).Verify(t.Context(), notification().sign().webhook())
			reason, refused := esp.RefusalReason(err)
			switch {
			case tt.ok:
				if err != nil {
					t.Errorf("Verify() = %v, want success", err)
				}
			case tt.reason != "":
				if reason != tt.reason || !errors.Is(err, esp.ErrNotGenuine) {
					t.Errorf("Verify() = %v, want reason %s", err, tt.reason)
				}
			case refused || !errors.Is(err, esp.ErrCannotVerify):
				t.Errorf("Verify() = %v, want ErrCannotVerify", err)
			}
		})
	}
}

// A small key that signs well is still refused: the key, not the signature, is
// what is wrong.
func TestVerify_smallKeySignsWell(t *testing.T) {
	n := newNetwork(t)
	n.serve(certURL, certify(t, smallKey(), now.AddDate(0, -6, 0), now.AddDate(0, 6, 0)))
	m := notification()
	m.key = smallKey()
	_, err := newVerifier(t, n, nil).Verify(t.Context(), m.sign().webhook())
	if reason, _ := esp.RefusalReason(err); reason != esp.ReasonMalformed {
		t.Errorf("Verify() = %v, want reason %s", err, esp.ReasonMalformed)
	}
}

// await returns what comes through the channel. A test that would wait for ever
// fails instead.
func await[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case value := <-ch:
		return value
	case <-time.After(30 * time.Second):
		t.Fatalf("waiting for %s: nothing came", what)
		panic("unreachable")
	}
}

// clock can be turned by hand.
type clock struct{ at atomic.Int64 }

func (c *clock) set(at time.Time) { c.at.Store(at.UnixNano()) }
func (c *clock) now() time.Time   { return time.Unix(0, c.at.Load()).UTC() }

func TestVerify_keepsACertificateUntilItExpires(t *testing.T) {
	n := newNetwork(t)
	end := now.Add(48 * time.Hour)
	n.serve(certURL, certify(t, awsKey(), now.AddDate(-1, 0, 0), end))
	var c clock
	v := newVerifier(t, n, func(s *esp.Settings) { s.Now = c.now })
	verify := func(at time.Time) error {
		c.set(at)
		_, err := v.Verify(t.Context(), notification().sign().webhook())
		return err
	}
	for i := range 5 {
		if err := verify(now.Add(time.Duration(i) * 12 * time.Hour)); err != nil {
			t.Fatalf("Verify() after %d half days = %v", i, err)
		}
	}
	if asked := n.requests(); len(asked) != 1 {
		t.Errorf("fetched %d times while it was valid, want once", len(asked))
	}
	if reason, _ := esp.RefusalReason(verify(end.Add(time.Second))); reason != esp.ReasonMismatch {
		t.Errorf("after its end: reason %q, want %q", reason, esp.ReasonMismatch)
	}
	// Renewed at the same URL.
	n.serve(certURL, goodCertificate(t))
	if err := verify(end.Add(time.Minute)); err != nil {
		t.Errorf("Verify() with the renewed certificate = %v", err)
	}
}

func TestVerify_remembersAFailureForAMoment(t *testing.T) {
	n := newNetwork(t)
	n.pages = map[string][]byte{}
	var c clock
	v := newVerifier(t, n, func(s *esp.Settings) { s.Now = c.now })
	verify := func(at time.Time) error {
		c.set(at)
		_, err := v.Verify(t.Context(), notification().sign().webhook())
		return err
	}
	for i := range 5 {
		if err := verify(now.Add(time.Duration(i) * time.Second)); !errors.Is(err, esp.ErrCannotVerify) || !errors.Is(err, errNoPage) {
			t.Errorf("Verify() %d s after the failure = %v, want ErrCannotVerify with its cause", i, err)
		}
	}
	if asked := n.requests(); len(asked) != 1 {
		t.Errorf("fetched %d times within seconds, want once", len(asked))
	}
	// SNS tries again after 20 s. By then it has to work.
	n.serve(certURL, goodCertificate(t))
	if err := verify(now.Add(20 * time.Second)); err != nil {
		t.Errorf("Verify() at the next attempt of SNS = %v", err)
	}
	if asked := n.requests(); len(asked) != 2 {
		t.Errorf("fetched %d times, want 2", len(asked))
	}
}

func TestVerify_fetchesOnceForAllWhoWait(t *testing.T) {
	n := newNetwork(t)
	started, release := make(chan struct{}), make(chan struct{})
	n.hold = func(context.Context, string) error {
		close(started) // panics when there is a second fetch
		<-release
		return nil
	}
	v := newVerifier(t, n, nil)
	w := notification().sign().webhook()
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() { _, errs[i] = v.Verify(t.Context(), w) })
	}
	await(t, "the fetch", started)
	close(release)
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("Verify() of request %d = %v", i, err)
		}
	}
	if asked := n.requests(); len(asked) != 1 {
		t.Errorf("fetched %d times, want once", len(asked))
	}
}

// The request that started a fetch may end; the fetch and the others go on.
func TestVerify_aRequestEndsAlone(t *testing.T) {
	n := newNetwork(t)
	started, release := make(chan context.Context, 1), make(chan struct{})
	n.hold = func(ctx context.Context, _ string) error {
		started <- ctx
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	v := newVerifier(t, n, nil)
	w := notification().sign().webhook()

	first, end := context.WithCancel(t.Context())
	firstDone, secondDone := make(chan error, 1), make(chan error, 1)
	go func() { _, err := v.Verify(first, w); firstDone <- err }()
	fetching := await(t, "the fetch", started)
	if _, bounded := fetching.Deadline(); !bounded {
		t.Error("the fetch has no time-out")
	}
	go func() { _, err := v.Verify(t.Context(), w); secondDone <- err }()
	end()
	if err := await(t, "the request that ended", firstDone); !errors.Is(err, esp.ErrCannotVerify) || !errors.Is(err, context.Canceled) {
		t.Errorf("Verify() of the request that ended = %v, want ErrCannotVerify", err)
	}
	close(release)
	if err := await(t, "the other request", secondDone); err != nil {
		t.Errorf("Verify() of the other = %v", err)
	}
}

// However many certificates are named, only so many are looked for at a time.
func TestVerify_boundsItsFetches(t *testing.T) {
	n := newNetwork(t)
	var entered atomic.Int64
	full, release := make(chan struct{}), make(chan struct{})
	const limit = 8
	n.hold = func(context.Context, string) error {
		if entered.Add(1) == limit {
			close(full)
		}
		<-release
		return nil
	}
	v := newVerifier(t, n, nil)
	hook := func(i int) esp.Webhook {
		url := fmt.Sprintf("https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-%04x.pem", i)
		return notification().with("SigningCertURL", url).sign().webhook()
	}
	var wg sync.WaitGroup
	for i := range limit {
		wg.Go(func() {
			if _, err := v.Verify(t.Context(), hook(i)); !errors.Is(err, esp.ErrCannotVerify) {
				t.Errorf("Verify() with a certificate that does not exist = %v, want ErrCannotVerify", err)
			}
		})
	}
	await(t, "the fetches", full)
	genuine := notification().sign().webhook()
	if _, err := v.Verify(t.Context(), genuine); !errors.Is(err, esp.ErrCannotVerify) {
		t.Errorf("Verify() beside %d fetches = %v, want ErrCannotVerify", limit, err)
	}
	if got := entered.Load(); got != limit {
		t.Errorf("%d fetches at a time, want %d", got, limit)
	}
	close(release)
	wg.Wait()
	// That there was no room is not remembered as a failure of the certificate.
	if _, err := v.Verify(t.Context(), genuine); err != nil {
		t.Errorf("Verify() afterwards = %v", err)
	}
}
