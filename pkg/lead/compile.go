package lead

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"

	"mailriver/pkg/config"
	"mailriver/pkg/event"
)

// Set is a compiled set of profiles. It is safe for concurrent use.
type Set struct {
	profiles []*Profile
	rules    map[int64]rule
	caps     int           // rules that have one
	keep     time.Duration // the longest horizon of a profile
	within   time.Duration // the shortest

	byType      map[event.Type][]*program // what can hold for a type, for types that a condition names
	anyType     []*program                // what can hold for every other type
	matchers    sync.Pool                 // of *matcher
	scratches   sync.Pool                 // of *scratch
	fingerprint string
}

// rule is a rule of a profile, found by its id.
type rule struct {
	*Rule
	profile int // index in Set.profiles
	index   int // among all rules
	cap     int // among the rules with a cap
}

type program struct {
	id      int64
	profile string
	rule    string
	code    *vm.Program
	types   []event.Type // sorted; it cannot hold for others
	pinned  bool         // otherwise for every type
}

// matcher is what one goroutine needs to ask conditions.
type matcher struct {
	vm     vm.VM
	fields Fields
}

// Compile checks the profiles and makes them ready. Its error has a line for
// each mistake.
func Compile(profiles []Profile) (*Set, error) {
	var problems config.Problems
	s := &Set{rules: map[int64]rule{}, byType: map[event.Type][]*program{}}
	s.matchers.New = func() any { return new(matcher) }
	problems.Must(len(profiles) <= maxProfiles, "profiles: has %d, at most %d are allowed", len(profiles), maxProfiles)
	var names []string
	var programs []*program
	for i := range profiles {
		p := profiles[i]
		p.Rules, p.Stages = slices.Clone(p.Rules), slices.Clone(p.Stages)
		at := fmt.Sprintf("profiles[%d].", i)
		problems.Add(config.Prefix(at, p.validate()))
		problems.Must(!slices.Contains(names, p.Name), "%s%s: there are two called %q", at, p.place.key("name"), p.Name)
		names = append(names, p.Name)
		for j := range p.Rules {
			r := &p.Rules[j]
			code, err := compile(r.When, Fields{}, nil)
			if err != nil {
				problems.Add(config.Prefix(fmt.Sprintf("%srules[%d].%s: ", at, j, r.place.key("when")), err))
				continue
			}
			id := RuleID(p.Name, r.Name)
			types, pinned := typesOf(code.Node())
			programs = append(programs, &program{id, p.Name, r.Name, code, types, pinned})
			s.rules[id] = rule{Rule: r, profile: i, index: len(s.rules), cap: s.caps}
			if r.Cap != nil {
				s.caps++
			}
		}
		s.profiles = append(s.profiles, &p)
		s.keep = max(s.keep, horizon*p.HalfLife)
		if i == 0 || s.within > horizon*p.HalfLife {
			s.within = horizon * p.HalfLife
		}
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	s.scratches.New = func() any { return &scratch{spent: make([][]spending, s.caps)} }
	s.index(programs)
	s.fingerprint = s.fingerprintOf(programs)
	return s, nil
}

// index sorts the programs by the types of events that they can hold for.
func (s *Set) index(programs []*program) {
	for _, p := range programs {
		for _, typ := range p.types {
			s.byType[typ] = nil
		}
	}
	for _, p := range programs {
		if !p.pinned {
			s.anyType = append(s.anyType, p)
		}
		for typ := range s.byType {
			if !p.pinned || slices.Contains(p.types, typ) {
				s.byType[typ] = append(s.byType[typ], p)
			}
		}
	}
}

// compile compiles one condition: it must be a yes or no over known fields, must
// not divide by a constant zero, and must say the same whenever and wherever it
// is asked.
func compile(text string, env any, more ast.Visitor) (*vm.Program, error) {
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("is empty")
	}
	if len(text) > maxCondition {
		return nil, fmt.Errorf("is %d bytes long, at most %d are allowed", len(text), maxCondition)
	}
	guard := &guard{}
	options := []expr.Option{
		expr.Env(env), expr.AsBool(), expr.WarnOnAny(), expr.Patch(guard), expr.Timezone("UTC"), expr.MaxNodes(1000),
		// The clock would make an answer depend on when it is asked for.
		expr.DisableBuiltin("now"),
		// The order in which Go walks a map is a new one each time.
		expr.DisableBuiltin("keys"), expr.DisableBuiltin("values"), expr.DisableBuiltin("toPairs"),
	}
	if more != nil {
		options = append(options, expr.Patch(more))
	}
	code, err := expr.Compile(text, options...)
	if guard.err != nil { // says it better
		return nil, guard.err
	}
	if wrong, ok := errors.AsType[*file.Error](err); ok {
		return nil, fmt.Errorf("%s (%d:%d)", wrong.Message, wrong.Line, wrong.Column+1)
	}
	if err != nil {
		return nil, errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	return code, nil
}

// guard looks for what compiles and is a mistake all the same.
type guard struct{ err error }

func (g *guard) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.BinaryNode:
		if (n.Operator == "/" || n.Operator == "%") && isZero(n.Right) {
			g.err = errors.Join(g.err, fmt.Errorf("divides by zero: %s", n))
		}
	case *ast.MemberNode:
		if name, ok := n.Property.(*ast.StringNode); ok && n.Method && name.Value == "Local" {
			g.err = errors.Join(g.err, errors.New("Local() is the time zone of a machine; use In(timezone(\"...\"))"))
		}
	case *ast.BuiltinNode:
		if n.Name != "timezone" || len(n.Arguments) != 1 {
			return
		}
		if zone, ok := n.Arguments[0].(*ast.StringNode); !ok || zone.Value == "Local" {
			g.err = errors.Join(g.err, errors.New(`timezone() wants the name of a zone, such as "Europe/Berlin"`))
		}
	}
}

// isZero reports whether an expression is zero whatever the event is, also one
// that must be computed first, such as (2-2).
func isZero(node ast.Node) bool {
	names := &namesIn{}
	ast.Walk(&node, names)
	if names.found {
		return false
	}
	value, err := expr.Eval(node.String(), nil)
	if err != nil {
		return false
	}
	switch n := value.(type) {
	case int:
		return n == 0
	case float64:
		return n == 0
	}
	return false
}

type namesIn struct{ found bool }

func (v *namesIn) Visit(node *ast.Node) {
	switch (*node).(type) {
	case *ast.IdentifierNode, *ast.PointerNode:
		v.found = true
	}
}

// typesOf returns the types of events that a condition can hold for, if it says
// so: most begin with event_type == "...". It need not find all there is to
// know, but must not leave out a type that the condition holds for.
func typesOf(node ast.Node) (types []event.Type, pinned bool) {
	n, ok := node.(*ast.BinaryNode)
	if !ok {
		return nil, false
	}
	switch n.Operator {
	case "==":
		if text, ok := n.Right.(*ast.StringNode); ok && isType(n.Left) {
			return []event.Type{event.Type(text.Value)}, true
		}
		if text, ok := n.Left.(*ast.StringNode); ok && isType(n.Right) {
			return []event.Type{event.Type(text.Value)}, true
		}
	case "in":
		if !isType(n.Left) {
			return nil, false
		}
		if set, ok := n.Right.(*ast.ConstantNode); ok { // the optimizer makes a map of a list
			if words, ok := set.Value.(map[string]struct{}); ok {
				for word := range words {
					types = append(types, event.Type(word))
				}
				slices.Sort(types)
				return types, true
			}
		}
	case "&&", "and":
		left, leftPinned := typesOf(n.Left)
		right, rightPinned := typesOf(n.Right)
		switch {
		case leftPinned && rightPinned:
			return slices.DeleteFunc(left, func(t event.Type) bool { return !slices.Contains(right, t) }), true
		case leftPinned:
			return left, true
		}
		return right, rightPinned
	case "||", "or":
		left, leftPinned := typesOf(n.Left)
		right, rightPinned := typesOf(n.Right)
		if leftPinned && rightPinned {
			types = append(left, right...)
			slices.Sort(types)
			return slices.Compact(types), true
		}
	}
	return nil, false
}

func isType(node ast.Node) bool {
	name, ok := node.(*ast.IdentifierNode)
	return ok && name.Value == "event_type"
}

// Failure is a rule or a segment that failed: its condition is right in form, and
// could not be answered.
type Failure struct {
	Profile string // empty for a segment
	Rule    string // or segment
	Err     error
}

// Match asks every rule about an event. A rule that fails gives nothing, and
// does not keep the others from being asked.
func (s *Set) Match(e *event.Event) (rules []int64, failures []Failure) {
	programs, named := s.byType[e.Type]
	if !named {
		programs = s.anyType
	}
	if len(programs) == 0 {
		return nil, nil
	}
	m, _ := s.matchers.Get().(*matcher)
	defer s.matchers.Put(m)
	m.fields.fill(e)
	for _, p := range programs {
		yes, err := run(&m.vm, p.code, &m.fields)
		if err != nil {
			failures = append(failures, Failure{p.profile, p.rule, err})
		} else if yes {
			rules = append(rules, p.id)
		}
	}
	slices.Sort(rules)
	return rules, failures
}

// run asks one condition. What the virtual machine kept of the last one it
// throws away itself.
func run(machine *vm.VM, code *vm.Program, env any) (bool, error) {
	out, err := machine.Run(code, env)
	if wrong, ok := errors.AsType[*file.Error](err); ok {
		return false, fmt.Errorf("%s (%d:%d)", wrong.Message, wrong.Line, wrong.Column+1)
	}
	if err != nil {
		return false, err
	}
	yes, ok := out.(bool)
	if !ok {
		return false, fmt.Errorf("is %T, must be true or false", out)
	}
	return yes, nil
}

// Profiles returns what was compiled.
func (s *Set) Profiles() []Profile {
	profiles := make([]Profile, len(s.profiles))
	for i, p := range s.profiles {
		profiles[i] = *p
	}
	return profiles
}
