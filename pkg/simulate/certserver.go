package simulate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// CertServer stands in for the SNS endpoint of AWS: it serves the signing
// certificate over TLS and takes the confirmations of subscriptions.
type CertServer struct {
	keys          Keys
	listener      net.Listener
	confirmations atomic.Int64
}

// OpenCertServer listens on a loopback address, as "127.0.0.1:0". It answers
// once [CertServer.Run] runs.
func OpenCertServer(ctx context.Context, keys Keys, address string) (*CertServer, error) {
	pair, err := tls.X509KeyPair(keys.File(serverCertFile), keys.File(serverKeyFile))
	if err != nil {
		return nil, fmt.Errorf("certificate server: %w", err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("certificate server: %w", err)
	}
	listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	return &CertServer{keys: keys, listener: listener}, nil
}

// Host is the host:port that it listens on: the value of cert_hosts.
func (c *CertServer) Host() string { return c.listener.Addr().String() }

// SubscribeURL is where a subscription with this token is confirmed.
func (c *CertServer) SubscribeURL(token string) string {
	query := url.Values{"Action": {"ConfirmSubscription"}, "TopicArn": {c.keys.Text(topicFile)}, "Token": {token}}
	return "https://" + c.Host() + "/?" + query.Encode()
}

// Confirmations is how many subscriptions were confirmed so far.
func (c *CertServer) Confirmations() int64 { return c.confirmations.Load() }

// Run serves until ctx ends.
func (c *CertServer) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+c.keys.CertPath(), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(c.keys.File(snsCertFile)) // the client went away; it will ask again
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		if query.Get("Action") != "ConfirmSubscription" || query.Get("TopicArn") != c.keys.Text(topicFile) || query.Get("Token") == "" {
			http.Error(w, "not a confirmation", http.StatusBadRequest)
			return
		}
		c.confirmations.Add(1)
		w.Header().Set("Content-Type", "text/xml")
		_, _ = io.WriteString(w, "<ConfirmSubscriptionResponse><ConfirmSubscriptionResult><SubscriptionArn>"+
			c.keys.Text(topicFile)+":1a2b</SubscriptionArn></ConfirmSubscriptionResult></ConfirmSubscriptionResponse>")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // its answers are small: nothing to drain
	defer stop()
	if err := server.Serve(c.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("certificate server: %w", err)
	}
	return nil
}

// Close stops listening, for a server that will not run.
func (c *CertServer) Close() error { return c.listener.Close() }
