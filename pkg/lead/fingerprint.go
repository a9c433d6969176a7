package lead

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
)

// Fingerprint tells sets apart: two that give the same events the same standings
// have the same. It is kept with the standings, so that a reader knows whether
// they are those of its own profiles.
func (s *Set) Fingerprint() string { return s.fingerprint }

func (s *Set) fingerprintOf(programs []*program) string {
	h := fnv.New64a()
	// The number is that of the way to a score. Writing to h never fails.
	_, _ = fmt.Fprintln(h, 1)
	for _, p := range s.profiles {
		_, _ = fmt.Fprintf(h, "%s %d %d\n", p.Name, p.HalfLife, len(p.Stages))
		for _, stage := range p.Stages {
			_, _ = fmt.Fprintf(h, "%s %v %v\n", stage.Name, stage.Enter, stage.Leave)
		}
		var lines []string // their order changes nothing
		for _, pr := range programs {
			if pr.profile != p.Name {
				continue
			}
			r := s.rules[pr.id]
			line := fmt.Sprintf("%s %v %q", r.Name, r.Points, pr.code.Node().String())
			if r.Cap != nil {
				line += fmt.Sprintf(" %v %d", r.Cap.Points, r.Cap.Window)
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		_, _ = fmt.Fprintln(h, strings.Join(lines, "\n"))
	}
	return strconv.FormatUint(h.Sum64(), 36)
}
