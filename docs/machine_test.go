package docs_test

import (
	"slices"
	"strings"
	"testing"

	"mailriver/pkg/machine"
)

// Both pages tell every code that can stand in machine_evidence, and none
// beside them; the codes of several events stand in one only, because they are
// not in the canonical event.
func TestMachine_codes(t *testing.T) {
	sorted := func(codes []string) []string { return slices.Sorted(slices.Values(codes)) }
	if got, want := sorted(small(t, "machine_evidence")), sorted(machine.StatelessCodes()); !slices.Equal(got, want) {
		t.Errorf("%s tells the codes %q, want %q", page, got, want)
	}
	content := read(t, "machine.md")
	for heading, want := range map[string][]string{
		"\n## Evidence of one event\n": machine.StatelessCodes(), "\n## Evidence of several events\n": machine.OverTimeCodes(),
	} {
		_, rest, _ := strings.Cut(content, heading)
		table, _, _ := strings.Cut(rest, "\n## ")
		var got []string
		for line := range strings.Lines(table) {
			if code, ok := strings.CutPrefix(line, "| `"); ok {
				code, _, _ = strings.Cut(code, "`")
				got = append(got, code)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("machine.md:%s tells the codes %q, want %q", heading, got, want)
		}
	}
}
