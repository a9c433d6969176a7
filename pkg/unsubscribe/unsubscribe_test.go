package unsubscribe

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"mailriver/pkg/config"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/event"
)

const (
	newer = "newer-key-0123456789abcdefghijklmnopq"
	older = "older-key-0123456789abcdefghijklmnopq"
)

var issued = time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC)

func keys(t testing.TB, texts ...string) *Keys {
	t.Helper()
	k, err := NewKeys(texts)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func link() Link {
	return Link{Address: "ann@example.com", ScopeKind: event.ScopeList, ScopeID: "weekly", IssuedAt: issued}
}

func token(t testing.TB, k *Keys, l Link) string {
	t.Helper()
	text, err := k.Token(l)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A token says what was put in, whichever live key made it, and nothing of it
// can be read without the key.
func TestToken(t *testing.T) {
	both, rotated := keys(t, older), keys(t, newer, older)
	longest := Link{
		Address:   strings.Repeat("a", mailriver.MaxAddress-len("@example.com")) + "@example.com",
		ScopeKind: event.ScopeSubaccount, ScopeID: strings.Repeat("s", mailriver.MaxScopeID),
		IssuedAt: issued, ExpiresAt: time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC),
	}
	for _, want := range []Link{
		link(),
		{Address: "ann@example.com", ScopeKind: event.ScopeAccount, IssuedAt: issued, ExpiresAt: issued.Add(time.Second)},
		{Address: "почта@пример.example", ScopeKind: event.ScopeAddress, IssuedAt: issued},
		longest,
	} {
		text := token(t, both, want)
		got, err := rotated.Open(text, issued)
		if err != nil || got.Link != want || got.KeyID == "" {
			t.Errorf("Open(%s) = %+v, %v, want %+v", text, got, err, want)
		}
		if len(text) > MaxToken || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			t.Errorf("Token() = %q (%d), want at most %d characters that need no escape in a URL", text, len(text), MaxToken)
		}
		sealed, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || strings.Contains(string(sealed), want.Address) || strings.Contains(text, "ann") {
			t.Errorf("the address can be read in %q (%v)", sealed, err)
		}
		if again := token(t, both, want); again == text {
			t.Errorf("Token() = %q twice, want a nonce of its own for each", text)
		}
	}
	if got, err := keys(t, newer, older).Open(token(t, rotated, link()), issued); err != nil || got.Link != link() {
		t.Errorf("Open() of a token of the newest key = %+v, %v", got, err)
	}
	if _, err := keys(t, older).Open(token(t, rotated, link()), issued); !errors.Is(err, ErrForged) {
		t.Errorf("Open() without the newest key = %v, want %v: the first key makes tokens", err, ErrForged)
	}
}

// Any token that differs in one character, one bit or its length is refused.
// Red when a part is not authenticated, and without the comparison with what a
// token encodes to: base64 skips line breaks and unused bits.
func TestOpen_anyChangeIsRefused(t *testing.T) {
	k := keys(t, newer, older)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	// Three lengths, since the last character has other unused bits in each.
	for _, address := range []string{"a@example.com", "an@example.com", "ann@example.com"} {
		l := link()
		l.Address = address
		good := token(t, k, l)
		refused := func(changed string) {
			t.Helper()
			if got, err := k.Open(changed, issued); err == nil {
				t.Errorf("Open(%q) = %+v, want it refused: the token was %q", changed, got, good)
			}
		}
		for i := range good {
			for _, c := range alphabet {
				if byte(c) != good[i] {
					refused(good[:i] + string(c) + good[i+1:])
				}
			}
			refused(good[:i])
			refused(good[:i] + good[i+1:])
			refused(good[:i] + "\n" + good[i:])
		}
		for _, more := range []string{"A", "=", "==", "AAAA", "\n", "\r\n", "%", "/", "\x00"} {
			refused(good + more)
			refused(more + good)
		}
		if _, err := k.Open(good, issued); err != nil {
			t.Errorf("Open(the token itself) = %v, want nil", err)
		}
	}
}

func TestOpen_errors(t *testing.T) {
	k := keys(t, newer)
	expiring := link()
	expiring.ExpiresAt = issued.Add(time.Hour)
	expires := token(t, k, expiring)
	// Sealed by a live key, and no link: what a newer build might seal.
	sealed := func(text string) string {
		nonce := make([]byte, chacha20poly1305.NonceSizeX)
		head := append([]byte{version}, k.list[0].id[:]...)
		return base64.RawURLEncoding.EncodeToString(k.list[0].aead.Seal(append(head, nonce...), nonce, []byte(text), head))
	}
	whole := string(encodeLink(link()))
	galaxy := link()
	galaxy.ScopeKind = "galaxy"
	tests := []struct {
		name, token string
		now         time.Time
		want        error
	}{
		{"the last moment", expires, expiring.ExpiresAt.Add(-time.Nanosecond), nil},
		{"expired", expires, expiring.ExpiresAt, ErrExpired},
		{"another key", token(t, keys(t, older), link()), issued, ErrForged},
		{"empty", "", issued, ErrMalformed},
		{"a word", "unsubscribe", issued, ErrMalformed},
		{"another version", "AA" + expires[2:], issued, ErrMalformed},
		{"too long", strings.Repeat("AQ", MaxToken), issued, ErrMalformed},
		{"header only", expires[:8], issued, ErrMalformed},
		{"the link as it should be", sealed(whole), issued, nil},
		{"nothing sealed", sealed(""), issued, ErrMalformed},
		{"cut", sealed(whole[:len(whole)-1]), issued, ErrMalformed},
		{"more than a link", sealed(whole + "x"), issued, ErrMalformed},
		{"a length beyond the end", sealed("\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), issued, ErrMalformed},
		{"an endless number", sealed(strings.Repeat("\xff", 20)), issued, ErrMalformed},
		{"a scope of a newer build", sealed(string(encodeLink(galaxy))), issued, ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := k.Open(tt.token, tt.now)
			if !errors.Is(err, tt.want) {
				t.Errorf("Open() = %+v, %v, want %v", got, err, tt.want)
			}
			if err != nil && got != (Opened{}) {
				t.Errorf("Open() = %+v beside an error, want nothing", got)
			}
		})
	}
}

func TestToken_errors(t *testing.T) {
	k := keys(t, newer)
	tests := []struct {
		name   string
		change func(*Link)
		want   string
	}{
		{"no address", func(l *Link) { l.Address = "" }, "address: is not an email address"},
		{"a name", func(l *Link) { l.Address = "Ann <ann@example.com>" }, "address: is not an email address"},
		{"an endless address", func(l *Link) { l.Address = strings.Repeat("a", 320) + "@example.com" }, "of at most 320 bytes"},
		{"no scope", func(l *Link) { l.ScopeKind = "" }, `scope_kind: is "", must be one of`},
		{"a list without id", func(l *Link) { l.ScopeID = "" }, `scope_id: is required with the scope_kind "list"`},
		{"no time", func(l *Link) { l.IssuedAt = time.Time{} }, "issued_at: is required"},
		{"expired from the start", func(l *Link) { l.ExpiresAt = l.IssuedAt }, "expires_at: must be after issued_at"},
	}
	for _, tt := range tests {
		l := link()
		tt.change(&l)
		if text, err := k.Token(l); text != "" || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Token() = %q, %v, want %s", tt.name, text, err, tt.want)
		}
	}
}

func TestNewKeys_errors(t *testing.T) {
	_, err := NewKeys([]string{newer, "hunter2", older, newer, ""})
	const want = "keys[1]: has 7 characters, must have at least 32: make one with `openssl rand -base64 32`\n" +
		"keys[3]: is keys[0] again\n" +
		"keys[4]: has 0 characters, must have at least 32: make one with `openssl rand -base64 32`"
	if err == nil || err.Error() != want {
		t.Errorf("NewKeys() = %v, want\n%s", err, want)
	}
	if _, err := NewKeys(nil); err == nil || err.Error() != "keys: at least one is required" {
		t.Errorf("NewKeys() without any = %v", err)
	}
}

// Ten posts are one opt-out; the next one, long after, is another. Another
// token's is always another, also of the same link.
func TestChange(t *testing.T) {
	k := keys(t, newer)
	open := func() Opened {
		o, err := k.Open(token(t, k, link()), issued)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := open()
	first := o.Change(issued.Add(time.Second))
	if err := first.Validate(); err != nil {
		t.Errorf("Validate() = %v, want nil", err)
	}
	want := mailriver.Change{
		ID: first.ID, Action: mailriver.ActionUnsubscribe, Address: "ann@example.com", ScopeKind: event.ScopeList,
		ScopeID: "weekly", Reason: "unsubscribe", At: issued.Add(time.Second), Actor: "recipient", Origin: mailriver.OriginOneClick,
	}
	if first != want || first.ID.IsZero() {
		t.Errorf("Change() = %+v, want %+v", first, want)
	}
	for _, tt := range []struct {
		name  string
		after time.Duration
		same  bool
	}{
		{"at once again", 2 * time.Second, true},
		{"the last moment of the step", RepeatWindow - time.Nanosecond, true},
		{"the next step", RepeatWindow, false},
		{"a year later", 365 * 24 * time.Hour, false},
		{"by a clock behind the one that issued it", -time.Hour, true},
	} {
		if got := o.Change(issued.Add(tt.after)).ID == first.ID; got != tt.same {
			t.Errorf("%s: same id = %t, want %t", tt.name, got, tt.same)
		}
	}
	if other := open().Change(issued.Add(time.Second)); other.ID == first.ID {
		t.Error("two tokens of one link have one id")
	}
}

// Whatever can be sealed opens as it was.
func TestToken_property(t *testing.T) {
	k := keys(t, newer)
	sealed := 0
	kinds, _ := event.Vocabulary("scope_kind")
	if err := quick.Check(func(local, scope string, kind uint8, seconds uint32, good uint16) bool {
		want := Link{
			Address: local + "@example.com", ScopeKind: kinds[int(kind)%len(kinds)], ScopeID: scope,
			IssuedAt: issued.Add(time.Duration(seconds) * time.Second),
		}
		if good > 0 {
			want.ExpiresAt = want.IssuedAt.Add(time.Duration(good) * time.Second)
		}
		text, err := k.Token(want)
		if err != nil {
			return want.Validate() != nil
		}
		sealed++
		got, err := k.Open(text, want.IssuedAt)
		return err == nil && got.Link == want
	}, nil); err != nil {
		t.Error(err)
	}
	if sealed < 10 {
		t.Errorf("%d of 100 links could be sealed, want most: the others prove nothing", sealed)
	}
}

// No text opens but what was made. The seeds are near misses.
func FuzzOpen(f *testing.F) {
	k := keys(f, newer, older)
	good := token(f, k, link())
	f.Add(good[:len(good)-1])
	f.Add(good + "\n")
	f.Add(token(f, keys(f, "another-key-0123456789abcdefghijklmnop"), link()))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := k.Open(text, issued); err == nil {
			t.Errorf("Open(%q) = %+v", text, got)
		} else if got != (Opened{}) || !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrForged) && !errors.Is(err, ErrExpired) {
			t.Errorf("Open(%q) = %+v, %v", text, got, err)
		}
	})
}

// A sealed text is trusted as far as its key goes: it may still be of another
// build.
func FuzzDecodeLink(f *testing.F) {
	f.Add(encodeLink(link()))
	f.Add([]byte{1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, text []byte) {
		l, ok := decodeLink(text)
		if !ok {
			return
		}
		if again, ok := decodeLink(encodeLink(l)); !ok || again != l {
			t.Errorf("decodeLink(%x) = %+v, and encoded again it is %+v, %t", text, l, again, ok)
		}
	})
}

func TestConfig(t *testing.T) {
	tests := []struct{ url, want string }{
		{"", ""},
		{"https://mail.example.com", ""},
		{"https://mail.example.com:8443/hooks/", ""},
		{"http://localhost:8080", ""},
		{"http://127.0.0.1:8080", ""},
		{"http://[::1]:8080", ""},
		{"http://mail.example.com", `base_url: is "http://mail.example.com", must begin with https:// (RFC 8058); http:// is for trying on localhost`},
		{"mail.example.com", `base_url: is "mail.example.com", must be a URL as https://mail.example.com`},
		{"https://user:pw@mail.example.com", "base_url: must have no query, fragment or credentials"},
		{"https://mail.example.com/?a=b#c", "base_url: must have no query, fragment or credentials"},
		{"https://mail.example.com/a b>", "base_url: must have no spaces or angle brackets"},
	}
	for _, tt := range tests {
		err := Config{BaseURL: tt.url}.Validate()
		if got := fmt.Sprint(err); tt.want == "" && err != nil || tt.want != "" && got != tt.want {
			t.Errorf("Validate(%q) = %v, want %q", tt.url, err, tt.want)
		}
	}
}

func TestConfig_Open(t *testing.T) {
	resolve := func(s config.Secret) (string, error) {
		return s.Resolve(func(string) (string, bool) { return newer, true },
			func(string) ([]byte, error) { return nil, fs.ErrNotExist })
	}
	if k, err := (Config{}).Open(resolve); k != nil || err != nil {
		t.Errorf("Open() without keys = %v, %v, want nothing", k, err)
	}
	k, err := Config{Keys: []config.Secret{config.NewSecret("${env:KEY}"), config.NewSecret(older)}}.Open(resolve)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Open(token(t, keys(t, older), link()), issued); err != nil {
		t.Errorf("Open() by the second key = %v, want nil", err)
	}
	unreadable := config.NewSecret("${file:/absent}")
	if _, err := (Config{Keys: []config.Secret{unreadable}}).Open(resolve); !errors.Is(err, config.ErrUnreadable) {
		t.Errorf("Open() of a file that is not there = %v, want %v", err, config.ErrUnreadable)
	}
	_, err = Config{Keys: []config.Secret{{}, config.NewSecret("${vault:x}"), unreadable}}.Open(resolve)
	const want = "keys[0]: is empty\nkeys[1]: starts with ${ and is neither ${env:NAME} nor ${file:PATH}"
	if fmt.Sprint(err) != want {
		t.Errorf("Open() = %v, want\n%s", err, want)
	}
}

func TestConfig_Headers(t *testing.T) {
	got, err := Config{BaseURL: "https://mail.example.com/hooks/"}.Headers("TOKEN")
	want := Headers{
		URL: "https://mail.example.com/hooks/u/TOKEN", List: "<https://mail.example.com/hooks/u/TOKEN>",
		Post: "List-Unsubscribe=One-Click",
	}
	if err != nil || got != want {
		t.Errorf("Headers() = %+v, %v, want %+v", got, err, want)
	}
	if _, err := (Config{}).Headers("TOKEN"); err == nil || err.Error() != "unsubscribe.base_url: is required to make links" {
		t.Errorf("Headers() without a base_url = %v", err)
	}
	// 998 with "List-Unsubscribe: <https://a/u/" and ">".
	fits := strings.Repeat("t", 998-len("List-Unsubscribe: <https://a/u/>"))
	if _, err := (Config{BaseURL: "https://a"}).Headers(fits); err != nil {
		t.Errorf("Headers() of a line of 998 = %v, want nil", err)
	}
	if _, err := (Config{BaseURL: "https://a"}).Headers(fits + "t"); err == nil {
		t.Error("Headers() of a line of 999 = nil, want an error")
	}
}
