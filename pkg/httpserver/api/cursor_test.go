package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestCursors(t *testing.T) {
	list := Cursors{List: "suppressions", Version: 1}
	for _, position := range []string{"", "a@example.com", "\x00\xff", strings.Repeat("x", 1000)} {
		cursor := list.Encode([]byte(position), "reason=complaint", "")
		got, err := list.Decode(cursor, "reason=complaint", "")
		if err != nil || string(got) != position {
			t.Errorf("Decode(Encode(%q)) = %q, %v", position, got, err)
		}
		if strings.ContainsAny(cursor, "+/=&?% ") {
			t.Errorf("Encode(%q) = %q, which a query must escape", position, cursor)
		}
	}
	if got, err := list.Decode(""); got != nil || err != nil {
		t.Errorf("Decode() = %q, %v, want the first page", got, err)
	}
}

func TestCursors_bad(t *testing.T) {
	list := Cursors{List: "suppressions", Version: 1}
	good := list.Encode([]byte("a@example.com"), "a", "b")
	const foreign = "does not belong to this list and these filters; begin again without it"
	tests := []struct {
		name, cursor string
		filter       []string
		want         string
	}{
		{"another filter", good, []string{"a", "c"}, foreign},
		{"the same letters, cut elsewhere", good, []string{"ab", ""}, foreign},
		{"another list", Cursors{List: "leads", Version: 1}.Encode([]byte("a@example.com"), "a", "b"), []string{"a", "b"}, foreign},
		{"another version", Cursors{List: "suppressions", Version: 2}.Encode(nil), nil, "was given out by another version; begin again without it"},
		{"no cursor", "nonsense!", nil, "is not one that was given out here"},
		{"too short", "AQ", nil, "is not one that was given out here"},
		{"too long", strings.Repeat("A", maxCursor+1), nil, "is longer than any that was given out here"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := list.Decode(tt.cursor, tt.filter...)
			p, ok := errors.AsType[*Problem](err)
			if !ok || p.Status != http.StatusBadRequest || len(p.Errors) != 1 || p.Errors[0] != (FieldError{"cursor", tt.want}) {
				t.Errorf("Decode(%.20s) = %v, want 400 of cursor: %s", tt.cursor, err, tt.want)
			}
		})
	}
}

// Whatever is changed in a cursor, or cut off it, is seen.
func TestCursors_tamperedWith(t *testing.T) {
	list := Cursors{List: "suppressions", Version: 1}
	good := list.Encode([]byte("a@example.com"))
	for i := range good {
		changed := []byte(good)
		if changed[i] = 'A'; good[i] == 'A' {
			changed[i] = 'B'
		}
		for _, cursor := range []string{string(changed), good[:i], good[i+1:]} {
			if position, err := list.Decode(cursor); err == nil && cursor != "" {
				t.Errorf("Decode(%s) = %q, want an error: it was made of %s", cursor, position, good)
			}
		}
	}
}

// A cursor has one spelling: bits of its last character that mean nothing must
// be as they were given out.
func TestCursors_lastCharacter(t *testing.T) {
	list := Cursors{List: "suppressions", Version: 1}
	good := list.Encode([]byte("a@example.com")) // 22 bytes: four bits are left over
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		cursor := good[:len(good)-1] + string(c)
		if _, err := list.Decode(cursor); (err == nil) != (cursor == good) {
			t.Errorf("Decode(%s) = %v, and %s was given out", cursor, err, good)
		}
	}
}

func FuzzCursors(f *testing.F) {
	list := Cursors{List: "suppressions", Version: 1}
	f.Add(list.Encode([]byte("a@example.com")))
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, cursor string) {
		position, err := list.Decode(cursor)
		if err == nil && cursor != "" && list.Encode(position) != cursor {
			t.Errorf("Decode(%q) = %q, whose cursor is %q", cursor, position, list.Encode(position))
		}
	})
}
