// Package httpserver runs HTTP servers that cannot be held up: every phase of a
// request has its time-out, a panic is one failed request, and stopping
// finishes what was begun.
//
// It has no routes of its own but those for operators (metrics, liveness,
// readiness), and no access log: what a service does is in its metrics.
package httpserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/config"
)

// Config is where to listen, and for how long to be patient.
type Config struct {
	Addr              string        `yaml:"addr"`                // host:port or :port to listen on
	ReadHeaderTimeout time.Duration `yaml:"read_header_timeout"` // from the first byte to the end of the headers
	ReadTimeout       time.Duration `yaml:"read_timeout"`        // the whole request, headers included
	WriteTimeout      time.Duration `yaml:"write_timeout"`       // from the end of the headers to the end of the answer
	IdleTimeout       time.Duration `yaml:"idle_timeout"`        // between the requests of a connection
	MaxHeaderBytes    int           `yaml:"max_header_bytes"`    // size of the headers of a request
	DrainTimeout      time.Duration `yaml:"drain_timeout"`       // requests in hand, at shutdown
}

// DefaultConfig returns a configuration that is valid as it stands.
func DefaultConfig(addr string) Config {
	return Config{
		Addr:              addr,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		DrainTimeout:      20 * time.Second,
	}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	_, _, err := net.SplitHostPort(c.Addr)
	problems.Must(err == nil, "addr: is %q, must be host:port or :port", c.Addr)
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"read_header_timeout", c.ReadHeaderTimeout},
		{"read_timeout", c.ReadTimeout},
		{"write_timeout", c.WriteTimeout},
		{"idle_timeout", c.IdleTimeout},
		{"drain_timeout", c.DrainTimeout},
	} {
		problems.Must(d.value > 0, "%s: is %s, must be positive", d.key, d.value)
	}
	problems.Must(c.WriteTimeout > c.ReadTimeout,
		"write_timeout: is %s, must exceed read_timeout (%s) or a slow request gets no answer", c.WriteTimeout, c.ReadTimeout)
	problems.Must(c.MaxHeaderBytes >= 4096, "max_header_bytes: is %d, must be at least 4096", c.MaxHeaderBytes)
	return problems.Err()
}

// NewEngine returns a gin engine without gin's logger: 404 and 405 (with Allow)
// for what has no route, and 500 and a log line for a handler that panics.
func NewEngine(log *slog.Logger) *gin.Engine {
	// gin has one mode for the process; the default prints to standard output.
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.HandleMethodNotAllowed = true
	engine.RedirectTrailingSlash = false // a redirect of a POST loses its body
	engine.ForwardedByClientIP = false   // who to trust is for the service to say
	engine.Use(recovery(log))
	return engine
}

// recovery is gin.Recovery without the dump of the request: its headers hold
// credentials.
func recovery(log *slog.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(cause) // the documented way to cut the connection
			}
			log.ErrorContext(c.Request.Context(), "handler panicked",
				"method", c.Request.Method, "route", c.FullPath(), "panic", cause, "stack", string(debug.Stack()))
			c.AbortWithStatus(http.StatusInternalServerError)
		}()
		c.Next()
	}
}

// Server serves one handler on one address.
type Server struct {
	cfg  Config
	http *http.Server
	log  *slog.Logger

	mu       sync.Mutex
	listener net.Listener
}

// New returns a server that does not listen yet. The configuration is valid.
func New(cfg Config, handler http.Handler, log *slog.Logger) *Server {
	return &Server{
		cfg: cfg,
		log: log,
		http: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: cfg.ReadHeaderTimeout,
			ReadTimeout:       cfg.ReadTimeout,
			WriteTimeout:      cfg.WriteTimeout,
			IdleTimeout:       cfg.IdleTimeout,
			MaxHeaderBytes:    cfg.MaxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
	}
}

// Listen opens the address, so that one that is in use is an error before
// anything is started. Connections wait until Run.
func (s *Server) Listen(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.Addr)
	if err != nil {
		return fmt.Errorf("address %s: %w", s.cfg.Addr, err)
	}
	s.listener = listener
	return nil
}

// Addr returns the address in use: with port 0 the one that was given. Before
// Listen it is the configured address.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return s.cfg.Addr
	}
	return s.listener.Addr().String()
}

// Close frees the address of a server that never ran.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Close()
}

// Run serves until ctx ends, and then finishes the requests in hand within the
// drain time. It calls Listen if nobody did.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(ctx); err != nil {
		return err
	}
	// Requests in hand outlive ctx: they are what draining waits for.
	s.http.BaseContext = func(net.Listener) context.Context { return context.WithoutCancel(ctx) }
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(s.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	err := s.http.Shutdown(drain)
	if errors.Is(err, context.DeadlineExceeded) {
		_ = s.http.Close() // the error to report is that of the drain
		err = fmt.Errorf("serve %s: requests cut off after %s", s.Addr(), s.cfg.DrainTimeout)
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve %s: %w", s.Addr(), served))
	}
	return err
}
