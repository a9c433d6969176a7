package terminal

import (
	"fmt"
	"strings"
	"testing"
)

// The columns that may be wrapped share what the others leave, the widest gives
// first, and none is made narrower than its words.
func TestWrapped(t *testing.T) {
	list := List{
		Columns: []string{"id", "short", "says", "long_word"},
		Rows:    [][]any{{"0123456789", "a b", strings.Repeat("word ", 20), strings.Repeat("x", 15) + " y"}},
		Wrap:    []string{"short", "says", "long_word"},
	}
	// Beside the text, a column has two spaces: 8 in all.
	tests := []struct{ width, short, says, long int }{
		{200, 5, 100, 17}, // all of it: 132 and 8
		{80, 5, 40, 17},
		{50, 5, 12, 15}, // long_word gave what it could
		{20, 5, 4, 15},  // too narrow: words stay whole, and the row is cut
	}
	for _, tt := range tests {
		got := map[int]int{}
		for _, c := range wrapped(list, tt.width) {
			got[c.Number] = c.WidthMax
		}
		if got[1] != 0 || got[2] != tt.short || got[3] != tt.says || got[4] != tt.long {
			t.Errorf("wrapped(%d) = %v, want 2:%d 3:%d 4:%d", tt.width, got, tt.short, tt.says, tt.long)
		}
	}
	if got := wrapped(List{Columns: []string{"a"}, Rows: [][]any{{strings.Repeat("x", 90)}}}, 20); len(got) != 0 {
		t.Errorf("wrapped() without such columns = %v, want none", got)
	}
}

// Columns are left out in the order in which they can be spared, and no more of
// them than it takes. Red when a cell is left out with another column's name.
func TestSpared(t *testing.T) {
	list := List{
		Columns: []string{"id", "state", "at", "says"},
		Rows:    [][]any{{"0123456789", "dead", "noon", "a long word"}},
		Wrap:    []string{"says"},
		Spare:   []string{"at", "none", "state", "says"},
	}
	// Beside the text, a column has two spaces: 12+7+6+6 with says wrapped.
	tests := []struct {
		width          int
		columns, cells string
		left           string
	}{
		{31, "[id state at says]", "[0123456789 dead noon a long word]", "[]"},
		{30, "[id state says]", "[0123456789 dead a long word]", "[at]"},
		{24, "[id says]", "[0123456789 a long word]", "[at state]"},
		{5, "[id]", "[0123456789]", "[at state says]"},
	}
	for _, tt := range tests {
		got, left := spared(list, tt.width)
		if fmt.Sprint(got.Columns) != tt.columns || fmt.Sprint(got.Rows[0]) != tt.cells || fmt.Sprint(left) != tt.left {
			t.Errorf("spared(%d) = %v %v without %v, want %s %s without %s", tt.width, got.Columns, got.Rows[0], left, tt.columns, tt.cells, tt.left)
		}
	}
	if len(list.Columns) != 4 || len(list.Rows[0]) != 4 {
		t.Errorf("the list itself became %v", list)
	}
}

// A column of numbers is one also where the first cell is empty.
func TestNumeric(t *testing.T) {
	list := List{Columns: []string{"a", "b", "c", "d"}, Rows: [][]any{{nil, "1", nil, Number("1.50")}, {2, 2, nil, Number("")}}}
	for i, want := range []bool{true, false, false, true} {
		if got := numeric(list, i); got != want {
			t.Errorf("numeric(%s) = %t, want %t", list.Columns[i], got, want)
		}
	}
}
