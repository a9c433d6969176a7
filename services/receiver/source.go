package receiver

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"mailriver/pkg/config"
	"mailriver/pkg/esp"
)

// Surroundings are what a source's configuration refers to.
type Surroundings struct {
	Providers []esp.Provider
	LookupEnv func(string) (string, bool)
	ReadFile  func(string) ([]byte, error)
	Now       func() time.Time
}

// rereadAfter is how often the files of a source are looked at, at most.
const rereadAfter = 3 * time.Second

// source is an endpoint at work.
type source struct {
	cfg      Source
	provider esp.Provider
	around   Surroundings
	labels   labels
	headers  []string // request headers that are kept, canonical
	allow    []netip.Prefix
	limiter  *rate.Limiter // nil without a limit
	maxBody  int64

	// logged bounds the log lines about refused requests, and unlogged counts
	// those that are left out.
	logged   *rate.Limiter
	unlogged atomic.Int64

	// live is nil until every secret could be read once.
	live atomic.Pointer[live]
	// trouble is why the secrets, as they are now, cannot be used.
	trouble atomic.Pointer[error]

	rereading sync.Mutex
	readAt    time.Time // guarded by rereading
}

// live is what is made of a source's secrets.
type live struct {
	texts    []string     // what it was made of
	verifier esp.Verifier // nil when there is nothing to verify but basic
	basic    [][sha256.Size]byte
	fetch    func(ctx context.Context, url string) ([]byte, error)
}

// newSources builds every source, and reports everything that is wrong.
func newSources(cfg Config, configured []Source, around Surroundings) (map[string]*source, error) {
	var problems config.Problems
	sources := make(map[string]*source, len(configured))
	first := map[string]int{}
	for i, c := range configured {
		called := fmt.Sprintf("sources[%d] (%s): ", i, c.Name)
		if c.Name == "" {
			called = fmt.Sprintf("sources[%d]: ", i)
		}
		problems.Must(sourceName.MatchString(c.Name),
			"%sname: must be a-z, 0-9, _ and -, begin with a letter or digit, and have at most 64 characters", called)
		if earlier, twice := first[c.Name]; twice && c.Name != "" {
			problems.Must(false, "%sname: is that of sources[%d] too", called, earlier)
		} else {
			first[c.Name] = i
		}
		problems.Must(!slices.ContainsFunc(around.Providers, func(p esp.Provider) bool { return p.Own && p.Name == c.Name }),
			"%sname: is that of Mailriver's own changes, choose another", called)
		at := slices.IndexFunc(around.Providers, func(p esp.Provider) bool { return p.Name == c.Provider })
		if at < 0 {
			problems.Must(false, "%sprovider: is %q, must be one of %s", called, c.Provider, knownNames(around.Providers))
			continue
		}
		if around.Providers[at].Own {
			problems.Must(false, "%sprovider: %s is for changes that Mailriver makes itself, no endpoint accepts them; must be one of %s",
				called, c.Provider, knownNames(around.Providers))
			continue
		}
		s, err := newSource(cfg, c, around.Providers[at], around)
		if err != nil {
			problems.Add(config.Prefix(called, err))
			continue
		}
		sources[c.Name] = s
	}
	return sources, problems.Err()
}

func newSource(cfg Config, c Source, p esp.Provider, around Surroundings) (*source, error) {
	s := &source{
		cfg:      c,
		provider: p,
		around:   around,
		labels:   newLabels(c.Name, p.Name),
		maxBody:  firstSet(c.MaxBody, cfg.MaxBody, p.MaxBody),
		logged:   rate.NewLimiter(1, 10),
	}
	var problems config.Problems
	problems.Add(c.validate(p))
	problems.Must(s.maxBody <= cfg.MaxInFlightBytes,
		"max_body: is %d, more than receiver.max_in_flight_bytes (%d)", s.maxBody, cfg.MaxInFlightBytes)
	s.allow, _ = networks("allow_ips", c.AllowIPs) // its error is one of validate's
	for _, name := range p.Headers {
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "Authorization", "Proxy-Authorization", "Cookie": // never kept, whoever asks
		case "Content-Type": // kept for every provider
		default:
			s.headers = append(s.headers, name)
		}
	}
	if c.RateLimit.PerSecond > 0 {
		burst := c.RateLimit.Burst
		if burst == 0 {
			burst = int(math.Ceil(c.RateLimit.PerSecond))
		}
		s.limiter = rate.NewLimiter(rate.Limit(c.RateLimit.PerSecond), burst)
	}
	fresh, err := s.read()
	switch {
	case err == nil:
		s.live.Store(fresh)
	case errors.Is(err, config.ErrUnreadable):
		s.trouble.Store(&err)
	default:
		problems.Add(err)
	}
	s.readAt = around.Now()
	return s, problems.Err()
}

func firstSet(values ...int64) int64 {
	for _, v := range values {
		if v > 0 {
			return v
		}
	}
	return math.MaxInt32
}

// read makes a live out of the secrets as they are now. Its error is that of a
// file that cannot be read (config.ErrUnreadable) only if nothing else is wrong.
func (s *source) read() (*live, error) {
	var mistakes, unreadable config.Problems
	resolve := func(key string, secrets []config.Secret) []string {
		texts := make([]string, 0, len(secrets))
		for i, secret := range secrets {
			text, err := secret.Resolve(s.around.LookupEnv, s.around.ReadFile)
			if err != nil {
				err = fmt.Errorf("%s[%d]: %w", key, i, err)
				if errors.Is(err, config.ErrUnreadable) {
					unreadable.Add(err)
				} else {
					mistakes.Add(err)
				}
			}
			texts = append(texts, text)
		}
		return texts
	}
	keys := resolve("keys", s.cfg.Keys)
	basic := resolve("basic_auth", s.cfg.BasicAuth)
	for i, pair := range basic {
		user, password, ok := strings.Cut(pair, ":")
		mistakes.Must(pair == "" || (ok && user != "" && password != ""), "basic_auth[%d]: must be user:password", i)
	}
	var ca []byte
	if s.cfg.CAFile != "" {
		var err error
		if ca, err = s.around.ReadFile(s.cfg.CAFile); err != nil {
			unreadable.Add(fmt.Errorf("ca_file: %w: %w", config.ErrUnreadable, err))
		}
	}
	if err := mistakes.Err(); err != nil {
		return nil, err
	}
	if err := unreadable.Err(); err != nil {
		return nil, err
	}

	fresh := &live{texts: slices.Concat(keys, []string{""}, basic, []string{string(ca)})}
	if current := s.live.Load(); current != nil && slices.Equal(current.texts, fresh.texts) {
		return current, nil // a verifier may keep certificates that it fetched
	}
	for _, pair := range basic {
		fresh.basic = append(fresh.basic, sha256.Sum256([]byte(pair)))
	}
	if !s.provider.Signs || (s.cfg.Unverified && !s.cfg.RawDelivery) {
		return fresh, nil
	}
	var err error
	if fresh.fetch, err = newFetch(ca); err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	fresh.verifier, err = s.provider.NewVerifier(esp.Settings{
		Keys:        keys,
		URL:         s.cfg.URL,
		TopicARNs:   s.cfg.TopicARNs,
		CertHosts:   s.cfg.CertHosts,
		RawDelivery: s.cfg.RawDelivery,
		AllowSHA1:   s.cfg.AllowSHA1,
		Fetch:       fresh.fetch,
		Now:         s.around.Now,
	})
	if err != nil {
		return nil, err
	}
	return fresh, nil
}

// changes says whether what is read can differ from time to time.
func (s *source) changes() bool {
	return s.cfg.CAFile != "" ||
		slices.ContainsFunc(s.cfg.Keys, config.Secret.IsFile) ||
		slices.ContainsFunc(s.cfg.BasicAuth, config.Secret.IsFile)
}

// why returns why the secrets, as they are now, cannot be used; nil when they
// can.
func (s *source) why() error {
	if trouble := s.trouble.Load(); trouble != nil {
		return *trouble
	}
	return nil
}

// current returns what verifies requests now, or nil while a secret has never
// been readable. Files are read again on demand and at most every few seconds.
// While they cannot be used, what was read before stays in use.
func (s *source) current(log *slog.Logger) *live {
	if !s.changes() || !s.rereading.TryLock() {
		return s.live.Load()
	}
	defer s.rereading.Unlock()
	now := s.around.Now()
	if now.Sub(s.readAt) < rereadAfter {
		return s.live.Load()
	}
	s.readAt = now
	fresh, err := s.read()
	before := s.why()
	if err != nil {
		if before == nil || before.Error() != err.Error() {
			log.Warn("secrets cannot be used", "source", s.cfg.Name, "provider", s.provider.Name,
				"in_use", s.live.Load() != nil, "err", err)
		}
		s.trouble.Store(&err)
		return s.live.Load()
	}
	if before != nil || s.live.Load() != fresh {
		log.Info("secrets read", "source", s.cfg.Name, "provider", s.provider.Name)
	}
	s.trouble.Store(nil)
	s.live.Store(fresh)
	return fresh
}

// admits says whether the pair is one of the configured ones. It takes the same
// time for all that are not.
func (l *live) admits(user, password string) bool {
	given := sha256.Sum256([]byte(user + ":" + password))
	found := 0
	for i := range l.basic {
		found |= subtle.ConstantTimeCompare(given[:], l.basic[i][:])
	}
	return found == 1
}
