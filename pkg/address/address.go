// Package address brings a bare email address into the form in which two
// spellings of one mailbox are equal: domain in lower case and A-label form,
// local part as it is.
//
// It does not take display names off (a provider does, which knows where they
// occur), does not ask whether a domain or mailbox exists, and does not fold
// the local part: only the receiving server knows whether its case, its dots or
// what follows a plus sign mean anything (RFC 5321, 2.4). For the same reason a
// local part outside ASCII is not brought into a Unicode normal form.
package address

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Address is an address and its parts.
type Address struct {
	Full   string // Local@Domain
	Local  string // as received
	Domain string // lower case, A-labels, without the root's dot
}

// Normalize returns the normal form of raw. It is the identity on its own
// results.
//
// ok is false when raw has no usable local part and domain: a part is missing,
// or holds white space, control characters or delimiters that nothing quotes.
// The parts are then as good as they can be read, and Full is still the text as
// received, trimmed and with its domain in lower case, because unknown is kept.
//
// A domain need not be one of the DNS: an underscore, an empty label or a label
// that IDNA forbids is kept, in lower case, and usable.
func Normalize(raw string) (Address, bool) {
	text := strings.TrimSpace(raw)
	at := strings.LastIndexByte(text, '@')
	if at < 0 {
		return Address{Full: text, Local: text}, false
	}
	local, domain := text[:at], normalDomain(text[at+1:])
	return Address{Full: local + "@" + domain, Local: local, Domain: domain},
		usableLocal(local) && usableDomain(domain)
}

// normalDomain never fails: what has no A-label form stays, in lower case.
func normalDomain(text string) string {
	text = trimEnd(text)
	if isASCII(text) {
		return strings.ToLower(text)
	}
	if mapped, ok := toASCII(text); ok {
		return mapped
	}
	// Lower case may be all that it lacked. Asking again makes a second
	// Normalize of the result end where this one does.
	lower := trimEnd(strings.ToLower(text))
	if mapped, ok := toASCII(lower); ok {
		return mapped
	}
	return lower
}

// lookup maps as a resolver would (UTS #46, nontransitional), except that it
// minds neither underscores nor hyphens: such hosts receive mail.
var lookup = idna.New(
	idna.MapForLookup(),
	idna.Transitional(false),
	idna.StrictDomainName(false),
	idna.CheckHyphens(false),
)

// toASCII returns the A-label form, if there is one.
func toASCII(domain string) (string, bool) {
	mapped, err := lookup.ToASCII(domain)
	if err != nil {
		return "", false
	}
	mapped = trimEnd(strings.ToLower(mapped))
	// Full-width forms of delimiters map to the delimiters themselves, and
	// would make of one address another.
	for i := 0; i < len(mapped); i++ {
		switch c := mapped[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return "", false
		}
	}
	return mapped, mapped != ""
}

// trimEnd takes off the dot of the root, and space, wherever they alternate.
func trimEnd(domain string) string {
	return strings.TrimRightFunc(domain, func(r rune) bool { return r == '.' || unicode.IsSpace(r) })
}

// usableDomain reports whether the text can stand for a domain or an address
// literal (RFC 5321, 4.1.3).
func usableDomain(domain string) bool {
	if inner, ok := strings.CutPrefix(domain, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && plain(inner, "[]\\\"()<>,;@")
	}
	return domain != "" && plain(domain, "[]\\\"()<>,;:@")
}

// usableLocal reports whether the text can stand for a local part: a dot-string
// of any spelling, or a quoted string (RFC 5321, 4.1.2).
func usableLocal(local string) bool {
	quoted, ok := strings.CutPrefix(local, `"`)
	if !ok {
		return local != "" && plain(local, "[]\\\"()<>,;:@")
	}
	for i := 0; i < len(quoted); i++ {
		switch quoted[i] {
		case '"':
			return i > 0 && i == len(quoted)-1 && plain(strings.ReplaceAll(quoted[:i], " ", ""), "")
		case '\\':
			i++
		}
	}
	return false
}

// plain reports whether the text is UTF-8 without white space, control
// characters and those of without.
func plain(text, without string) bool {
	if !utf8.ValidString(text) || strings.ContainsAny(text, without) {
		return false
	}
	return strings.IndexFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) < 0
}

func isASCII(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
