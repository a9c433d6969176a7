package address_test

import (
	"strings"
	"testing"

	"mailriver/pkg/address"
)

func TestNormalize(t *testing.T) {
	tests := []struct {
		name, raw     string
		local, domain string
		ok            bool
	}{
		{"plain", "ann@example.com", "ann", "example.com", true},
		{"upper case", "Ann@EXAMPLE.Com", "Ann", "example.com", true},
		{"trimmed", " \tann@example.com\r\n", "ann", "example.com", true},
		{"no-break space around", "\u00a0ann@example.com\u00a0", "ann", "example.com", true},
		{"plus and dots", "a.n.n+news@example.com", "a.n.n+news", "example.com", true},
		{"dots that no standard allows", ".ann..x.@example.com", ".ann..x.", "example.com", true},
		{"everything an atom may hold", "!#$%&'*+-/=?^_`{|}~@example.com", "!#$%&'*+-/=?^_`{|}~", "example.com", true},

		{"IDN", "ann@bücher.example", "ann", "xn--bcher-kva.example", true},
		{"IDN, upper case", "ann@BÜCHER.example", "ann", "xn--bcher-kva.example", true},
		{"IDN, decomposed", "ann@bu\u0308cher.example", "ann", "xn--bcher-kva.example", true},
		{"IDN, already in A-labels", "ann@XN--Bcher-KVA.example", "ann", "xn--bcher-kva.example", true},
		{"IDN, sharp s is not ss", "ann@straße.example", "ann", "xn--strae-oqa.example", true},
		{"IDN, right to left", "ann@דוגמה.example", "ann", "xn--6dbbec0c.example", true},
		{"full-width dots", "ann@mail．例え。example", "ann", "mail.xn--r8jz45g.example", true},
		{"full-width letters", "ann@ＥＸＡＭＰＬＥ.com", "ann", "example.com", true},
		{"full-width dot at the end", "ann@bücher.example。", "ann", "xn--bcher-kva.example", true},
		{"underscore beside an IDN", "ann@_dmarc.bücher.example", "ann", "_dmarc.xn--bcher-kva.example", true},
		{"two hyphens beside an IDN", "ann@r3---sn.bücher.example", "ann", "r3---sn.xn--bcher-kva.example", true},
		{"what IDNA forbids is kept", "ann@\u2260\u200d.Example", "ann", "\u2260\u200d.example", true},
		{"full-width at sign is none", "ann@b＠C.example", "ann", "b＠c.example", true},

		{"underscore", "ann@my_host.example", "ann", "my_host.example", true},
		{"hyphens at odd places", "ann@-a--b-.example", "ann", "-a--b-.example", true},
		{"A-label that is none", "ann@xn--a.example", "ann", "xn--a.example", true},
		{"no top level", "ann@localhost", "ann", "localhost", true},
		{"empty label", "ann@a..example", "ann", "a..example", true},
		{"root's dot", "ann@example.com.", "ann", "example.com", true},
		{"dots and spaces at the end", "ann@example.com. .", "ann", "example.com", true},
		{"label longer than the DNS allows", "ann@" + strings.Repeat("A", 70) + ".example", "ann", strings.Repeat("a", 70) + ".example", true},

		{"IPv4 literal", "ann@[192.0.2.1]", "ann", "[192.0.2.1]", true},
		{"IPv6 literal", "ann@[IPv6:2001:DB8::1]", "ann", "[ipv6:2001:db8::1]", true},
		{"open literal", "ann@[192.0.2.1", "ann", "[192.0.2.1", false},
		{"empty literal", "ann@[]", "ann", "[]", false},

		{"quoted", `"ann b"@Example.com`, `"ann b"`, "example.com", true},
		{"quoted at sign", `"a@b"@Example.com`, `"a@b"`, "example.com", true},
		{"quoted quote", `"a\"@\\"@example.com`, `"a\"@\\"`, "example.com", true},
		{"quote that ends early", `"a"b"@example.com`, `"a"b"`, "example.com", false},
		{"quote that does not end", `"a\"@example.com`, `"a\"`, "example.com", false},
		{"empty quote", `""@example.com`, `""`, "example.com", false},
		{"only a quoted at sign", `"a@B"`, `"a`, `b"`, false},
		{"control character in quotes", "\"a\x00\"@example.com", "\"a\x00\"", "example.com", false},

		{"local part outside ASCII", "Änn@example.com", "Änn", "example.com", true},
		{"local part decomposed stays so", "A\u0308nn@example.com", "A\u0308nn", "example.com", true},
		{"not UTF-8", "a\xff@Example.com", "a\xff", "example.com", false},

		{"empty", "", "", "", false},
		{"spaces only", "  ", "", "", false},
		{"no at sign", "Undisclosed", "Undisclosed", "", false},
		{"no local part", "@Example.com", "", "example.com", false},
		{"no domain", "Ann@", "Ann", "", false},
		{"only the root as domain", "Ann@.", "Ann", "", false},
		{"several at signs", "a@b@Example.com", "a@b", "example.com", false},
		{"at signs only", "@@", "@", "", false},
		{"space in the local part", "ann b@Example.com", "ann b", "example.com", false},
		{"space before the domain", "ann@ Example.com", "ann", " example.com", false},
		{"line break", "ann@exam\nple.com", "ann", "exam\nple.com", false},
		{"control character", "an\x07n@example.com", "an\x07n", "example.com", false},
		{"display name", "Ann <ann@Example.com>", "Ann <ann", "example.com>", false},
		{"list", "ann@example.com, bob@Example.com", "ann@example.com, bob", "example.com", false},
		{"port", "ann@Example.com:25", "ann", "example.com:25", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := address.Normalize(tt.raw)
			want := address.Address{Full: tt.local + "@" + tt.domain, Local: tt.local, Domain: tt.domain}
			if !strings.Contains(tt.raw, "@") {
				want.Full = tt.local
			}
			if got != want || ok != tt.ok {
				t.Errorf("Normalize(%q) = %q, %t, want %q, %t", tt.raw, got, ok, want, tt.ok)
			}
		})
	}
}

// The usual address costs no IDNA.
func TestNormalize_allocations(t *testing.T) {
	const most = 1 // Full is built anew
	got := testing.AllocsPerRun(100, func() { address.Normalize("ann@example.com") })
	if got > most {
		t.Errorf("Normalize() allocates %v times, want at most %d", got, most)
	}
}

func FuzzNormalize(f *testing.F) {
	for _, raw := range []string{
		"ann@example.com", "ann@bücher.example", "ann@b＠c.example", "ann@例え。example。", `"a@b"@[IPv6:2001:DB8::1]`,
		"ann@İ.example", "ann@ẞ.example", "ann@\u00ad", "ann@xn--a.ü", "@", "ann@. .", "a\xff@\xff", "ann@ſ.example",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		once, ok := address.Normalize(raw)
		again, okAgain := address.Normalize(once.Full)
		if again != once || okAgain != ok {
			t.Errorf("Normalize(%q) = %q, %t, but of that %q, %t", raw, once, ok, again, okAgain)
		}
		if !strings.HasPrefix(strings.TrimSpace(raw), once.Local) {
			t.Errorf("Normalize(%q) changed the local part to %q", raw, once.Local)
		}
		if !ok {
			return
		}
		if once.Local == "" || once.Domain == "" || once.Full != once.Local+"@"+once.Domain {
			t.Errorf("Normalize(%q) = %q, true", raw, once)
		}
		if strings.ContainsAny(once.Domain, " @\x00\n") || once.Domain != strings.ToLower(once.Domain) {
			t.Errorf("Normalize(%q).Domain = %q", raw, once.Domain)
		}
	})
}
