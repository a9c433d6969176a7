package terminal

import (
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
