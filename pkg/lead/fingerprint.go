package lead

import (
	"fmt"
	"hash/fnv"
	"strconv"
)

// Fingerprint tells sets apart: two that give the same standings have the same.
func (s *Set) Fingerprint() string {
	h := fnv.New64a()
	for _, p := range s.profiles {
		_, _ = fmt.Fprintf(h, "1 %s %s\n", p.Name, p.HalfLife) // never fails
		for _, r := range p.Rules {
			spent := Cap{}
			if r.Cap != nil {
				spent = *r.Cap
			}
			_, _ = fmt.Fprintf(h, "%s %v %v\n", r.Name, r.Points, spent) // never fails
		}
		for _, stage := range p.Stages {
			_, _ = fmt.Fprintf(h, "%v\n", stage) // never fails
		}
	}
	return strconv.FormatUint(h.Sum64(), 36)
}
