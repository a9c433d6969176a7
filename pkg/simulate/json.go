package simulate

import (
	"strconv"
	"unicode/utf8"
)

// object builds one JSON object with its members in the order given: each
// provider has its own order and spelling, and a receiver must not depend on
// the ones that encoding/json would choose.
type object struct {
	buf []byte
	// php writes strings as PHP's json_encode does, which Mandrill uses:
	// slashes escaped, everything beyond ASCII as \uXXXX.
	php bool
}

func newObject(php bool) *object {
	return &object{buf: append(make([]byte, 0, 512), '{'), php: php}
}

// done closes the object and returns its text.
func (o *object) done() []byte { return append(o.buf, '}') }

func (o *object) key(name string) {
	if len(o.buf) > 1 {
		o.buf = append(o.buf, ',')
	}
	o.buf = appendString(o.buf, name, o.php)
	o.buf = append(o.buf, ':')
}

func (o *object) str(name, value string) {
	o.key(name)
	o.buf = appendString(o.buf, value, o.php)
}

// text is str for a member that is left out when empty.
func (o *object) text(name, value string) {
	if value != "" {
		o.str(name, value)
	}
}

func (o *object) num(name string, value int64) {
	o.key(name)
	o.buf = strconv.AppendInt(o.buf, value, 10)
}

func (o *object) bool(name string, value bool) {
	o.key(name)
	o.buf = strconv.AppendBool(o.buf, value)
}

// raw writes a value that is JSON already.
func (o *object) raw(name, value string) {
	o.key(name)
	o.buf = append(o.buf, value...)
}

func (o *object) null(name string) { o.raw(name, "null") }

func (o *object) strs(name string, values []string) {
	o.key(name)
	o.buf = append(o.buf, '[')
	for i, value := range values {
		if i > 0 {
			o.buf = append(o.buf, ',')
		}
		o.buf = appendString(o.buf, value, o.php)
	}
	o.buf = append(o.buf, ']')
}

// obj writes a nested object.
func (o *object) obj(name string, fill func(*object)) {
	inner := newObject(o.php)
	fill(inner)
	o.raw(name, string(inner.done()))
}

// objs writes an array of n objects.
func (o *object) objs(name string, n int, fill func(i int, o *object)) {
	o.key(name)
	o.buf = append(o.buf, '[')
	for i := range n {
		if i > 0 {
			o.buf = append(o.buf, ',')
		}
		inner := newObject(o.php)
		fill(i, inner)
		o.buf = append(o.buf, inner.done()...)
	}
	o.buf = append(o.buf, ']')
}

func appendString(buf []byte, value string, php bool) []byte {
	const digits = "0123456789abcdef"
	unit := func(buf []byte, r rune) []byte {
		return append(buf, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
	}
	buf = append(buf, '"')
	for _, r := range value {
		switch {
		case r == '"' || r == '\\' || r == '/' && php:
			buf = append(buf, '\\', byte(r))
		case r == '\n':
			buf = append(buf, '\\', 'n')
		case r == '\r':
			buf = append(buf, '\\', 'r')
		case r == '\t':
			buf = append(buf, '\\', 't')
		case r < 0x20:
			buf = unit(buf, r)
		case r < utf8.RuneSelf || !php:
			buf = utf8.AppendRune(buf, r)
		case r > 0xffff: // a surrogate pair
			r -= 0x10000
			buf = unit(unit(buf, 0xd800+r>>10), 0xdc00+r&0x3ff)
		default:
			buf = unit(buf, r)
		}
	}
	return append(buf, '"')
}

// quoted is the JSON text of a string.
func quoted(value string) string { return string(appendString(nil, value, false)) }
