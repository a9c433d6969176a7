package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
)

func TestGenerateKey(t *testing.T) {
	key, hash := GenerateKey()
	other, _ := GenerateKey()
	if !strings.HasPrefix(key, "mr_") || len(key) != 46 || key == other {
		t.Errorf("GenerateKey() = %q and %q, want two keys of mr_ and 43 characters", key, other)
	}
	if hash != HashKey(key) || len(hash) != 64 {
		t.Errorf("GenerateKey() = %q, %q, want its SHA-256", key, hash)
	}
}

// The form in configurations that exist.
func TestHashKey_isPinned(t *testing.T) {
	const want = "f9f66377d04f5e9a44d81191ea80a9988f61231a6e2a1c8e0cbae6317af4875e"
	if got := HashKey("mr_example"); got != want {
		t.Errorf("HashKey(mr_example) = %s, want %s", got, want)
	}
}

func TestConfig_Validate(t *testing.T) {
	_, hash := GenerateKey()
	_, hash2 := GenerateKey()
	key := Key{Name: "crm", Hash: hash, Scopes: []Scope{Read}}
	const none = "keys: there are none, and addr %q can be reached from other machines: make a key with " +
		"`mailriver api-key new --name NAME`, or listen on loopback only, as in addr: \"127.0.0.1:PORT\""
	tests := []struct {
		name string
		addr string
		keys []Key
		want string
	}{
		{"loopback without keys", "127.0.0.1:8082", nil, ""},
		{"loopback by name", "localhost:8082", nil, ""},
		{"loopback of IPv6", "[::1]:8082", nil, ""},
		{"all addresses without keys", ":8082", nil, strings.ReplaceAll(none, "%q", `":8082"`)},
		{"another address without keys", "192.0.2.1:8082", nil, strings.ReplaceAll(none, "%q", `"192.0.2.1:8082"`)},
		{"a name that only begins like loopback", "localhost.example.com:8082", nil, strings.ReplaceAll(none, "%q", `"localhost.example.com:8082"`)},
		{"all addresses with a key", ":8082", []Key{key}, ""},
		{"several live", ":8082", []Key{key, {Name: "crm-2", Hash: hash2, Scopes: []Scope{Read, Write}}}, ""},
		{
			"everything wrong", ":8082",
			[]Key{key, {Name: "crm", Hash: strings.ToUpper(hash), Scopes: []Scope{"admin"}}, {Name: "a b", Hash: "mr_secret"}, {Name: "cli", Hash: hash2, Scopes: []Scope{Read}}},
			"keys[1].name: \"crm\" is that of another key\n" +
				"keys[1].hash: is that of another key\n" +
				"keys[1].scopes: holds \"admin\", must hold read, write or both\n" +
				"keys[2].name: is \"a b\", must be 1 to 64 letters, digits, dots, underscores and hyphens\n" +
				"keys[2].hash: must be the SHA-256 of the key as 64 hexadecimal digits; this looks like the key itself, which does not belong in the configuration\n" +
				"keys[2].scopes: is empty, must name read, write or both\n" +
				"keys[3].name: is \"cli\", which is recorded for changes that were made without a key",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := DefaultConfig(tt.addr)
			cfg.Keys = tt.keys
			got := ""
			if err := cfg.Validate(); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("Validate() =\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func guarded(t *testing.T, keys ...Key) *gin.Engine {
	t.Helper()
	guard, err := NewGuard(keys)
	if err != nil {
		t.Fatal(err)
	}
	engine := quiet()
	who := func(c *gin.Context) { c.String(http.StatusOK, Actor(c)) }
	engine.GET("/", guard.Need(Read), who)
	engine.POST("/", guard.Need(Write), who)
	return engine
}

func TestGuard_keys(t *testing.T) {
	reader, readerHash := GenerateKey()
	writer, writerHash := GenerateKey()
	both, bothHash := GenerateKey()
	stranger, _ := GenerateKey()
	engine := guarded(
		t,
		Key{"reader", readerHash, []Scope{Read}},
		Key{"writer", strings.ToUpper(writerHash), []Scope{Write}},
		Key{"both", bothHash, []Scope{Read, Write}},
	)
	const realm = `Bearer realm="mailriver"`
	tests := []struct {
		name      string
		method    string
		headers   []string
		status    int
		want      string // the actor, or the problem's detail
		challenge string
	}{
		{"read", "GET", []string{"Bearer " + reader}, 200, "reader", ""},
		{"scheme in other case", "GET", []string{"bearer " + reader}, 200, "reader", ""},
		{"write", "POST", []string{"Bearer " + writer}, 200, "writer", ""},
		{"a key of both reads", "GET", []string{"Bearer " + both}, 200, "both", ""},
		{"a key of both writes", "POST", []string{"Bearer " + both}, 200, "both", ""},
		{"read key writes", "POST", []string{"Bearer " + reader}, 403, "the API key reader has not the scope write", realm + `, error="insufficient_scope", scope="write"`},
		{"write key reads", "GET", []string{"Bearer " + writer}, 403, "the API key writer has not the scope read", realm + `, error="insufficient_scope", scope="read"`},
		{"missing", "GET", nil, 401, "an API key is needed: send it as `Authorization: Bearer mr_...`", realm},
		{"wrong", "GET", []string{"Bearer " + stranger}, 401, "this API key is not valid", realm + `, error="invalid_token"`},
		{"the hash in place of the key", "GET", []string{"Bearer " + readerHash}, 401, "this API key is not valid", realm + `, error="invalid_token"`},
		{"empty token", "GET", []string{"Bearer "}, 401, "an API key is needed: send it as `Authorization: Bearer mr_...`", realm},
		{"another scheme", "GET", []string{"Basic " + reader}, 401, "an API key is needed: send it as `Authorization: Bearer mr_...`", realm},
		{"two headers", "GET", []string{"Bearer " + reader, "Bearer " + both}, 401, "an API key is needed: send it as `Authorization: Bearer mr_...`", realm},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, tt.method, "/", "")
			r.Header["Authorization"] = tt.headers
			w := serve(engine, r)
			got := w.Body.String()
			if tt.status >= 400 {
				got = problem(t, w).Detail
			}
			if w.Code != tt.status || got != tt.want || w.Header().Get("WWW-Authenticate") != tt.challenge {
				t.Errorf("%s = %d %q %q, want %d %q %q", tt.method,
					w.Code, got, w.Header().Get("WWW-Authenticate"), tt.status, tt.want, tt.challenge)
			}
		})
	}
}

// Without keys, each of these ways to reach loopback from elsewhere is closed.
func TestGuard_withoutKeys(t *testing.T) {
	engine := guarded(t)
	const forbidden = "no API key is configured, so only this machine may use the API: "
	tests := []struct {
		name   string
		method string
		change func(*http.Request)
		status int
		want   string
	}{
		{"this machine", "POST", func(*http.Request) {}, 200, Loopback},
		{"this machine by name", "GET", func(r *http.Request) { r.Host = "localhost" }, 200, Loopback},
		{"this machine by IPv6", "GET", func(r *http.Request) { r.Host, r.RemoteAddr = "[::1]", "[::1]:4000" }, 200, Loopback},
		{"an IPv4 address in IPv6", "GET", func(r *http.Request) { r.RemoteAddr = "[::ffff:127.0.0.1]:4000" }, 200, Loopback},
		{"a key that nobody asked for", "GET", func(r *http.Request) { r.Header.Set("Authorization", "Bearer mr_x") }, 200, Loopback},
		{"another machine", "GET", func(r *http.Request) { r.RemoteAddr = "192.0.2.1:4000" }, 403, forbidden + "the request comes from another one"},
		{"a peer without address", "GET", func(r *http.Request) { r.RemoteAddr = "@" }, 403, forbidden + "the request comes from another one"},
		{"a proxy", "GET", func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.1") }, 403, forbidden + "the request comes through a proxy (X-Forwarded-For)"},
		{"a name of somebody else that leads here", "GET", func(r *http.Request) { r.Host = "evil.example:8082" }, 403, forbidden + "the header Host must be localhost or an address of loopback"},
		{"a page of another site", "POST", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403, forbidden + "the request comes from a page of another site"},
		{"a page of another site, older browser", "POST", func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403, forbidden + "the request comes from a page of another site"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, tt.method, "/", "")
			tt.change(r)
			w := serve(engine, r)
			got := w.Body.String()
			if tt.status >= 400 {
				got = problem(t, w).Detail
			}
			if w.Code != tt.status || got != tt.want {
				t.Errorf("%s = %d %q, want %d %q", tt.method, w.Code, got, tt.status, tt.want)
			}
		})
	}
}

func TestNewGuard_refusesWhatIsNotValid(t *testing.T) {
	if _, err := NewGuard([]Key{{Name: "crm", Hash: "x", Scopes: []Scope{Read}}}); err == nil {
		t.Error("NewGuard(no hash) = nil, want an error")
	}
}
