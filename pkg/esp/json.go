package esp

import "github.com/tidwall/gjson"

// MaxJSONDepth is how deep a payload may nest. Real ones stay below ten.
const MaxJSONDepth = 512

// ValidJSON reports whether data is one JSON value that nests at most
// [MaxJSONDepth] deep. A parser asks it before anything else reads the body:
// gjson validates by recursion, and a body of some ten million brackets would
// end the process with a stack overflow that nothing can recover from.
func ValidJSON(data []byte) bool {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{', '[':
			if depth++; depth > MaxJSONDepth {
				return false
			}
		case '}', ']':
			depth--
		case '"':
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		}
	}
	return gjson.ValidBytes(data)
}
