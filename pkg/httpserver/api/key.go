package api

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/config"
)

// Scope is what a key may do. None includes another.
type Scope string

// The scopes.
const (
	Read  Scope = "read"  // ask
	Write Scope = "write" // change
)

// Key is an API key as the configuration knows it. The key itself is nowhere
// but with whoever uses it.
type Key struct {
	Name string `yaml:"name"` // who uses it; changes are recorded under this name
	// Hash is the SHA-256 of the key, as 64 hexadecimal digits. A slow hash
	// would protect a secret that can be guessed; a key is 32 random bytes, and
	// a slow hash would only make every request slow.
	Hash   string  `yaml:"hash"`
	Scopes []Scope `yaml:"scopes,flow"` // read, write or both
}

// KeyPrefix begins every key, so that one that leaked is recognized by people
// and by scanners for secrets.
const KeyPrefix = "mr_"

// GenerateKey returns a new key and what the configuration keeps of it.
func GenerateKey() (key, hash string) {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails: it ends the process instead
	key = KeyPrefix + base64.RawURLEncoding.EncodeToString(random)
	return key, HashKey(key)
}

// HashKey returns what the configuration keeps of a key.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// The names of who acts without a key. Keys must not have them.
const (
	// Loopback is the actor of a request from this machine where no key is
	// configured.
	Loopback = "loopback"
	// CommandLine is the actor of a command that goes round the API.
	CommandLine = "cli"
	// Recipient is the actor of an unsubscribe link.
	Recipient = "recipient"
)

// CheckKeyName says what is wrong with the name of a key.
func CheckKeyName(name string) error {
	switch {
	case !keyName.MatchString(name):
		return fmt.Errorf("name: is %q, must be 1 to 64 letters, digits, dots, underscores and hyphens", name)
	case slices.Contains([]string{Loopback, CommandLine, Recipient}, name):
		return fmt.Errorf("name: is %q, which is recorded for changes that were made without a key", name)
	}
	return nil
}

// validateKeys reports everything that is wrong.
func validateKeys(keys []Key) error {
	var problems config.Problems
	names, hashes := map[string]bool{}, map[string]bool{}
	for i, k := range keys {
		var wrong config.Problems
		wrong.Add(CheckKeyName(k.Name))
		wrong.Must(!names[k.Name], "name: %q is that of another key", k.Name)
		names[k.Name] = true
		_, err := hashOf(k)
		wrong.Add(err)
		hash := strings.ToLower(k.Hash)
		wrong.Must(err != nil || !hashes[hash], "hash: is that of another key")
		hashes[hash] = true
		wrong.Must(len(k.Scopes) > 0, "scopes: is empty, must name read, write or both")
		for _, s := range k.Scopes {
			wrong.Must(s == Read || s == Write, "scopes: holds %q, must hold read, write or both", s)
		}
		problems.Add(config.Prefix(fmt.Sprintf("keys[%d].", i), wrong.Err()))
	}
	return problems.Err()
}

func hashOf(k Key) (hash [sha256.Size]byte, err error) {
	raw, err := hex.DecodeString(k.Hash)
	if err != nil || len(raw) != len(hash) {
		// Whoever put the key itself here must not find it in a log.
		hint := ""
		if strings.HasPrefix(k.Hash, KeyPrefix) {
			hint = "; this looks like the key itself, which does not belong in the configuration"
		}
		return hash, fmt.Errorf("hash: must be the SHA-256 of the key as 64 hexadecimal digits%s", hint)
	}
	return [sha256.Size]byte(raw), nil
}

// Guard lets requests through that may do what they ask for.
type Guard struct {
	keys []knownKey
	// browser refuses what a page of another site makes a browser send.
	browser *http.CrossOriginProtection
}

type knownKey struct {
	hash        [sha256.Size]byte
	name        string
	read, write bool
}

// NewGuard returns the guard of a valid configuration.
func NewGuard(keys []Key) (*Guard, error) {
	if err := validateKeys(keys); err != nil {
		return nil, err
	}
	g := &Guard{browser: http.NewCrossOriginProtection()}
	for _, k := range keys {
		hash, err := hashOf(k)
		if err != nil {
			return nil, err
		}
		g.keys = append(g.keys, knownKey{
			hash: hash, name: k.Name,
			read: slices.Contains(k.Scopes, Read), write: slices.Contains(k.Scopes, Write),
		})
	}
	return g, nil
}

const actorKey = "mailriver.actor"

// Actor returns who makes the request: the name of its key, or [Loopback]. It is
// empty where no [Guard] was asked.
func Actor(c *gin.Context) string { return c.GetString(actorKey) }

// Need returns the handler that stands before a route: 401 for a request without
// a valid key, 403 for one whose key has not this scope.
func (g *Guard) Need(scope Scope) gin.HandlerFunc {
	return func(c *gin.Context) {
		actor, err := g.admit(c.Request, scope)
		if err != nil {
			Fail(c, err)
			return
		}
		c.Set(actorKey, actor)
	}
}

func (g *Guard) admit(r *http.Request, scope Scope) (actor string, err error) {
	if len(g.keys) == 0 {
		return Loopback, g.admitLocal(r)
	}
	const realm = `Bearer realm="mailriver"`
	token, given := bearer(r.Header["Authorization"])
	if !given {
		p := NewProblem(http.StatusUnauthorized, "an API key is needed: send it as `Authorization: Bearer %s...`", KeyPrefix)
		p.challenge = realm
		return "", p
	}
	found := g.find(token)
	if found == nil {
		p := NewProblem(http.StatusUnauthorized, "this API key is not valid")
		p.challenge = realm + `, error="invalid_token"`
		return "", p
	}
	if scope == Read && !found.read || scope == Write && !found.write {
		p := NewProblem(http.StatusForbidden, "the API key %s has not the scope %s", found.name, scope)
		p.challenge = fmt.Sprintf(`%s, error="insufficient_scope", scope=%q`, realm, scope)
		return "", p
	}
	return found.name, nil
}

// bearer returns the token of RFC 6750. Two headers are none: which of them
// counts would be for the last proxy to say.
func bearer(headers []string) (token string, ok bool) {
	if len(headers) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	token = strings.TrimSpace(token)
	return token, token != "" && strings.EqualFold(scheme, "Bearer")
}

// find compares with every key, in constant time each, so that how long it takes
// says nothing about any of them.
func (g *Guard) find(token string) *knownKey {
	hash := sha256.Sum256([]byte(token))
	var found *knownKey
	for i := range g.keys {
		if subtle.ConstantTimeCompare(hash[:], g.keys[i].hash[:]) == 1 {
			found = &g.keys[i]
		}
	}
	return found
}

// admitLocal is for an API without keys. It must come from this machine, not
// through a proxy on it, and not from a page that a browser on it shows: neither
// by a request across origins nor by a name that somebody else's DNS points to
// loopback.
func (g *Guard) admitLocal(r *http.Request) error {
	const forbidden = "no API key is configured, so only this machine may use the API: "
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return NewProblem(http.StatusForbidden, forbidden+"the request comes from another one")
	}
	for _, header := range []string{"Forwarded", "X-Forwarded-For", "Via"} {
		if len(r.Header[header]) > 0 {
			return NewProblem(http.StatusForbidden, forbidden+"the request comes through a proxy (%s)", header)
		}
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = strings.Trim(r.Host, "[]")
	}
	if !isLoopback(host) {
		return NewProblem(http.StatusForbidden, forbidden+"the header Host must be localhost or an address of loopback")
	}
	if err := g.browser.Check(r); err != nil {
		return NewProblem(http.StatusForbidden, forbidden+"the request comes from a page of another site")
	}
	return nil
}
