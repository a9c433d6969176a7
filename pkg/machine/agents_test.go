package machine

import (
	"slices"
	"strings"
	"testing"
)

// A row that can never match, or that nobody can look up, is worse than none.
func TestAgents(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range agents {
		found := false
		lookUp(a.text, func(row *agent) { found = found || row.text == a.text })
		if !found || a.text != strings.ToLower(a.text) || a.text != strings.TrimSpace(a.text) {
			t.Errorf("%q can never be found", a.text)
		}
		if seen[a.text] {
			t.Errorf("%q stands twice", a.text)
		}
		seen[a.text] = true
		if a.source == "" || !slices.Contains(StatelessCodes(), a.code) {
			t.Errorf("%q has the source %q and the code %q", a.text, a.source, a.code)
		}
		if a.opened == silent && a.clicked == silent {
			t.Errorf("%q says nothing", a.text)
		}
	}
}

func TestNetworks(t *testing.T) {
	for i, n := range networks {
		if n.prefix != n.prefix.Masked() {
			t.Errorf("%s is not how the network is written: %s", n.prefix, n.prefix.Masked())
		}
		for _, other := range networks[:i] {
			if n.prefix.Overlaps(other.prefix) {
				t.Errorf("%s and %s overlap", n.prefix, other.prefix)
			}
		}
		if !strings.HasPrefix(n.source, "https://") || !slices.Contains(StatelessCodes(), n.code) {
			t.Errorf("%s has the source %q and the code %q", n.prefix, n.source, n.code)
		}
	}
}
