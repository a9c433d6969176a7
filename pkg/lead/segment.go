package lead

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/vm"
	"go.yaml.in/yaml/v3"

	"mailriver/pkg/config"
	"mailriver/pkg/event"
)

// Segment is a named condition over what is known of a recipient.
type Segment struct {
	Name string `yaml:"name"` // unique; its members are known under it
	// When is a condition over the fields of docs/lead-rules.md, for example
	// stage("marketing") == "hot" && days_since_click < 14.
	When string `yaml:"when"`

	place place
}

// UnmarshalYAML keeps the lines, for errors that name them.
func (s *Segment) UnmarshalYAML(node *yaml.Node) error {
	type plain Segment
	s.place = placeOf(node)
	return decode(node, (*plain)(s))
}

// SegmentFields are what the condition of a segment sees. Only people count:
// what is a machine's is left out. An event that no rule holds for is not known,
// and of each rule the newest [KeptEvents] are.
type SegmentFields struct {
	Score func(profile string) float64 `expr:"score"`
	Stage func(profile string) string  `expr:"stage"`

	// Whole and broken days since the newest; infinite when there was none, so
	// that "more than 90" holds for one who never did, and "less than 7" does not.
	DaysSinceOpen       float64 `expr:"days_since_open"`
	DaysSinceClick      float64 `expr:"days_since_click"`
	DaysSinceEngagement float64 `expr:"days_since_engagement"` // either of them
	DaysSinceDelivery   float64 `expr:"days_since_delivery"`

	Opens7d   int `expr:"opens_7d"`
	Opens30d  int `expr:"opens_30d"`
	Opens90d  int `expr:"opens_90d"`
	Clicks7d  int `expr:"clicks_7d"`
	Clicks30d int `expr:"clicks_30d"`
	Clicks90d int `expr:"clicks_90d"`
}

// Membership is a segment that a recipient is in.
type Membership struct {
	Segment string
	Since   time.Time // when it was found
}

const maxSegments = 200

// Segments is a compiled list of segments. It is safe for concurrent use.
type Segments struct {
	set      *Set
	programs []segmentProgram
	matchers sync.Pool // of *segmentMatcher
}

type segmentProgram struct {
	name string
	code *vm.Program
}

type segmentMatcher struct {
	vm        vm.VM
	fields    SegmentFields
	standings []Standing
}

func newSegmentMatcher() any {
	m := &segmentMatcher{}
	m.fields.Score = func(profile string) float64 { return m.standing(profile).Score }
	m.fields.Stage = func(profile string) string { return m.standing(profile).Stage }
	return m
}

func (m *segmentMatcher) standing(profile string) Standing {
	for i := range m.standings {
		if m.standings[i].Profile == profile {
			return m.standings[i]
		}
	}
	return Standing{} // never: names were checked
}

// CompileSegments checks segments, which may name the profiles of the set and
// their stages, and makes them ready. Its error has a line for each mistake.
func (s *Set) CompileSegments(segments []Segment) (*Segments, error) {
	var problems config.Problems
	out := &Segments{set: s}
	out.matchers.New = newSegmentMatcher
	problems.Must(len(segments) <= maxSegments, "segments: has %d, at most %d are allowed", len(segments), maxSegments)
	var names []string
	for i := range segments {
		g := &segments[i]
		at := fmt.Sprintf("segments[%d].", i)
		problems.Must(word(g.Name), "%s%s: is %q, must be of letters, digits, - and _", at, g.place.key("name"), g.Name)
		problems.Must(!slices.Contains(names, g.Name), "%s%s: there are two called %q", at, g.place.key("name"), g.Name)
		names = append(names, g.Name)
		known := &knownNames{set: s}
		code, err := compile(g.When, SegmentFields{}, known)
		if err == nil {
			err = known.err
		}
		if err != nil {
			problems.Add(config.Prefix(at+g.place.key("when")+": ", err))
			continue
		}
		out.programs = append(out.programs, segmentProgram{g.Name, code})
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// knownNames refuses names of profiles and stages that do not exist: they would
// make a segment that nobody is ever in, or everybody.
type knownNames struct {
	set *Set
	err error
}

func (k *knownNames) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.CallNode:
		name, ok := n.Callee.(*ast.IdentifierNode)
		if !ok || name.Value != "score" && name.Value != "stage" || len(n.Arguments) != 1 {
			return
		}
		profile, ok := n.Arguments[0].(*ast.StringNode)
		switch {
		case !ok:
			k.fail("%s() wants the name of a profile in quotes", name.Value)
		case k.set.profile(profile.Value) == nil:
			k.fail("there is no profile %q", profile.Value)
		}
	case *ast.BinaryNode:
		if n.Operator == "==" || n.Operator == "!=" || n.Operator == "in" {
			k.stages(n.Left, n.Right)
			k.stages(n.Right, n.Left)
		}
	}
}

// stages checks the words that the stage in a profile is compared with.
func (k *knownNames) stages(call, with ast.Node) {
	n, ok := call.(*ast.CallNode)
	if !ok || len(n.Arguments) != 1 {
		return
	}
	name, ok := n.Callee.(*ast.IdentifierNode)
	if !ok || name.Value != "stage" {
		return
	}
	text, ok := n.Arguments[0].(*ast.StringNode)
	if !ok {
		return
	}
	profile := k.set.profile(text.Value)
	if profile == nil {
		return
	}
	words := []ast.Node{with}
	if list, ok := with.(*ast.ArrayNode); ok {
		words = list.Nodes
	}
	for _, word := range words {
		stage, ok := word.(*ast.StringNode)
		if ok && stage.Value != "" && !slices.ContainsFunc(profile.Stages, func(s Stage) bool { return s.Name == stage.Value }) {
			k.fail("the profile %q has no stage %q", profile.Name, stage.Value)
		}
	}
}

func (k *knownNames) fail(format string, args ...any) {
	k.err = errors.Join(k.err, fmt.Errorf(format, args...))
}

// Evaluate returns the names of the segments that a recipient is in at a time, in
// the order of the configuration. One whose condition fails has nobody in it,
// and leaves the others.
func (g *Segments) Evaluate(st *State, now time.Time) (names []string, failures []Failure) {
	if len(g.programs) == 0 {
		return nil, nil
	}
	m, _ := g.matchers.Get().(*segmentMatcher)
	defer g.matchers.Put(m)
	m.standings = g.set.StandingsAt(st, now)
	g.set.fill(&m.fields, st, now)
	for _, p := range g.programs {
		yes, err := run(&m.vm, p.code, &m.fields)
		if err != nil {
			failures = append(failures, Failure{Rule: p.name, Err: err})
		} else if yes {
			names = append(names, p.name)
		}
	}
	return names, failures
}

// fill counts what a state says about engagement.
func (s *Set) fill(f *SegmentFields, st *State, now time.Time) {
	*f = SegmentFields{Score: f.Score, Stage: f.Stage}
	var open, click, delivery time.Time
	own, _ := s.scratches.Get().(*scratch)
	defer s.scratches.Put(own)
	evidence := own.evidenceOf(st)
	for i := range st.Contributions {
		c := &st.Contributions[i]
		if !isEngagement(c) || len(c.Rules) == 0 || len(evidence[i]) > 0 {
			continue
		}
		ago := now.Sub(c.At)
		if c.Type == event.Opened {
			open = c.At // the newest comes last
			count(ago, &f.Opens7d, &f.Opens30d, &f.Opens90d)
		} else {
			click = c.At
			count(ago, &f.Clicks7d, &f.Clicks30d, &f.Clicks90d)
		}
	}
	if n := len(st.Deliveries); n > 0 {
		delivery = st.Deliveries[n-1].At
	}
	f.DaysSinceOpen, f.DaysSinceClick, f.DaysSinceDelivery = days(now, open), days(now, click), days(now, delivery)
	f.DaysSinceEngagement = min(f.DaysSinceOpen, f.DaysSinceClick)
}

const oneDay = 24 * time.Hour

func count(ago time.Duration, week, month, quarter *int) {
	if ago < 7*oneDay {
		*week++
	}
	if ago < 30*oneDay {
		*month++
	}
	if ago < 90*oneDay {
		*quarter++
	}
}

// days is infinite for what never was. A clock of a provider that is ahead makes
// no time below zero.
func days(now, at time.Time) float64 {
	if at.IsZero() {
		return math.Inf(1)
	}
	return max(0, now.Sub(at).Hours()/24)
}
