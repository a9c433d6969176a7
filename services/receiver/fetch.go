package receiver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"mailriver/pkg/httpcall"
)

const (
	fetchTimeout = 5 * time.Second
	fetchLimit   = 64 << 10
)

// newFetch returns a function that gets a small document: HTTPS only, no
// redirects, bounded in size and time. Roots in extra, PEM, are trusted beside
// those of the system. Environment variables that name a proxy do not count:
// who is asked is a security decision, and the configuration's. Errors do not
// repeat the URL, which can hold a token.
func newFetch(extra []byte) (func(ctx context.Context, url string) ([]byte, error), error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a machine without roots; extra may be all that is needed
	}
	if len(extra) > 0 && !roots.AppendCertsFromPEM(extra) {
		return nil, errors.New("holds no PEM certificate")
	}
	client := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			// Certificates are fetched once in months: no connection is worth keeping.
			DisableKeepAlives: true,
		},
		CheckRedirect: httpcall.NoRedirects,
	}
	return func(ctx context.Context, address string) ([]byte, error) {
		return fetch(ctx, client, address)
	}, nil
}

func fetch(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	target, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("fetch: not a URL")
	}
	if target.Scheme != "https" {
		return nil, fmt.Errorf("fetch from %s: scheme is %q, must be https", target.Host, target.Scheme)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: not a URL", target.Host)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", target.Host, httpcall.Cause(err))
	}
	defer func() { _ = response.Body.Close() }() // read to its end, or given up
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch from %s: status %d", target.Host, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, fetchLimit+1))
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", target.Host, err)
	}
	if len(body) > fetchLimit {
		return nil, fmt.Errorf("fetch from %s: more than %d bytes", target.Host, fetchLimit)
	}
	return body, nil
}
