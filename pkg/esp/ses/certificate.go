package ses

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"mailriver/pkg/esp"
)

const (
	// A certificate's URL changes when AWS rotates, about once a year, so even
	// many regions need few of them.
	maxCertificates = 64
	maxFailures     = 256
	// SNS tries again after 20 s, and three times only: a failure must be
	// forgotten by then.
	failureLife = 10 * time.Second
	// SNS waits 15 s for the answer.
	fetchTimeout = 10 * time.Second
	// Requests can name any number of certificates that do not exist. This many
	// are looked for at a time; more must be sent again.
	maxFetches = 8
	// The size of the keys of AWS. A smaller modulus is within reach of
	// factoring, and whoever factors it signs what they like.
	minKeyBits = 2048
)

// certificates are the signing keys by the URL of their certificate. A good one
// is kept until it expires, a failure for a moment. Safe for concurrent use.
type certificates struct {
	fetch   func(ctx context.Context, url string) ([]byte, error)
	flights singleflight.Group // one fetch of a URL, however many requests wait for it
	slots   chan struct{}      // one for each fetch under way

	mu     sync.Mutex
	good   map[string]certificate
	failed map[string]failure
}

type certificate struct {
	key                 *rsa.PublicKey
	notBefore, notAfter time.Time
}

type failure struct {
	err   error
	until time.Time
}

// answer is a key, or why there is none.
type answer struct {
	key *rsa.PublicKey
	err error
}

func newCertificates(fetch func(context.Context, string) ([]byte, error)) *certificates {
	return &certificates{
		fetch:  fetch,
		slots:  make(chan struct{}, maxFetches),
		good:   make(map[string]certificate),
		failed: make(map[string]failure),
	}
}

// key returns the key of the certificate at url, which the caller has found to
// be on an allowed host. Its errors are of esp.Refuse for a certificate that
// may not sign and of esp.CannotVerify for one that cannot be had.
func (c *certificates) key(ctx context.Context, url string, clock func() time.Time) (*rsa.PublicKey, error) {
	if have, ok := c.known(url, clock()); ok {
		return have.key, have.err
	}
	landing := c.flights.DoChan(url, func() (any, error) {
		// The flight before this one may have landed since.
		if have, ok := c.known(url, clock()); ok {
			return have, nil
		}
		key, err := c.get(ctx, url, clock)
		return answer{key, err}, nil
	})
	select {
	case landed := <-landing:
		have := landed.Val.(answer)
		return have.key, have.err
	case <-ctx.Done():
		return nil, esp.CannotVerify(fmt.Errorf("certificate %.200q: %w", url, context.Cause(ctx)))
	}
}

// known looks into the cache.
func (c *certificates) known(url string, now time.Time) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert, found := c.good[url]; found {
		if err := cert.check(now); err == nil {
			return answer{key: cert.key}, true
		}
		delete(c.good, url)
	}
	if fail, found := c.failed[url]; found {
		if now.Before(fail.until) {
			return answer{err: fail.err}, true
		}
		delete(c.failed, url)
	}
	return answer{}, false
}

// get fetches a certificate and remembers how that went. Others may wait for
// it too, so the request that came first does not take it along when it ends.
func (c *certificates) get(ctx context.Context, url string, clock func() time.Time) (*rsa.PublicKey, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	default:
		return nil, esp.CannotVerify(errors.New("too many certificates are being fetched"))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	cert, err := c.load(ctx, url, clock)

	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("certificate %.200q: %w", url, err)
		makeRoom(c.failed, maxFailures, func(f failure) time.Time { return f.until })
		c.failed[url] = failure{err: err, until: clock().Add(failureLife)}
		return nil, err
	}
	makeRoom(c.good, maxCertificates, func(c certificate) time.Time { return c.notAfter })
	c.good[url] = cert
	return cert.key, nil
}

func (c *certificates) load(ctx context.Context, url string, clock func() time.Time) (certificate, error) {
	text, err := c.fetch(ctx, url)
	if err != nil {
		return certificate{}, esp.CannotVerify(err)
	}
	cert, err := readCertificate(text)
	if err != nil {
		return certificate{}, err
	}
	return cert, cert.check(clock())
}

// readCertificate reads the first certificate of a PEM text. The chain is not
// checked: the file may hold the leaf only, and what proves it is the TLS
// connection to the allowed host that it came over. What cannot be read may be
// an error page, and be better in a moment.
func readCertificate(text []byte) (certificate, error) {
	var block *pem.Block
	for rest := text; ; {
		block, rest = pem.Decode(rest)
		if block == nil {
			return certificate{}, esp.CannotVerify(errors.New("no certificate in the fetched document"))
		}
		if block.Type == "CERTIFICATE" {
			break
		}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return certificate{}, esp.CannotVerify(err)
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return certificate{}, esp.Refuse(esp.ReasonMalformed, fmt.Sprintf("the key is %T, want RSA", cert.PublicKey))
	}
	if bits := key.N.BitLen(); bits < minKeyBits {
		return certificate{}, esp.Refuse(esp.ReasonMalformed, fmt.Sprintf("the key has %d bits, want %d", bits, minKeyBits))
	}
	return certificate{key: key, notBefore: cert.NotBefore, notAfter: cert.NotAfter}, nil
}

// check refuses a certificate outside its validity: its key is not a live one.
func (c certificate) check(now time.Time) error {
	if now.Before(c.notBefore) || now.After(c.notAfter) {
		return esp.Refuse(esp.ReasonMismatch, fmt.Sprintf("the certificate is valid from %s to %s, and it is %s",
			c.notBefore.Format(time.RFC3339), c.notAfter.Format(time.RFC3339), now.Format(time.RFC3339)))
	}
	return nil
}

// makeRoom removes what ends first until another entry fits.
func makeRoom[V any](entries map[string]V, limit int, end func(V) time.Time) {
	for len(entries) >= limit {
		var first string
		var at time.Time
		for url, entry := range entries {
			if t := end(entry); first == "" || t.Before(at) {
				first, at = url, t
			}
		}
		delete(entries, first)
	}
}
