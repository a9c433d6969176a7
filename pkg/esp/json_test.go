package esp_test

import (
	"strings"
	"testing"

	"mailriver/pkg/esp"
)

func TestValidJSON(t *testing.T) {
	nest := func(levels int) string {
		return strings.Repeat("[", levels) + strings.Repeat("]", levels)
	}
	tests := []struct {
		name string
		text string
		want bool
	}{
		{"object", `{"a":[1,"b",null,true]}`, true},
		{"scalar", `7`, true},
		{"as deep as allowed", nest(esp.MaxJSONDepth), true},
		{"one deeper", nest(esp.MaxJSONDepth + 1), false},
		{"objects one deeper", strings.Repeat(`{"a":`, esp.MaxJSONDepth+1) + "1" + strings.Repeat("}", esp.MaxJSONDepth+1), false},
		{"brackets in a string", `"` + strings.Repeat("[", 2*esp.MaxJSONDepth) + `"`, true},
		{"brackets after an escaped quote", `"\"` + strings.Repeat("[", 2*esp.MaxJSONDepth) + `"`, true},
		{"brackets after an escaped backslash", `["\\",` + nest(esp.MaxJSONDepth) + `]`, false},
		{"wide, not deep", "[" + strings.Repeat("[],", 2*esp.MaxJSONDepth) + "[]]", true},
		{"a stack of the machine's size", strings.Repeat("[", 16<<20), false},
		{"cut in an escape", `"\`, false},
		{"two values", `{}{}`, false},
		{"empty", ``, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := esp.ValidJSON([]byte(tt.text)); got != tt.want {
				t.Errorf("ValidJSON(%.40q) = %t, want %t", tt.text, got, tt.want)
			}
		})
	}
}
