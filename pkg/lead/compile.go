package lead

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/vm"

	"mailriver/pkg/config"
	"mailriver/pkg/event"
)

// Set is a compiled set of profiles. It is safe for concurrent use.
type Set struct {
	profiles []*compiled
	keep     time.Duration // the longest horizon of a profile
}

type compiled struct {
	Profile
	rules    map[int64]*Rule
	programs []program
}

type program struct {
	id   int64
	rule *Rule
	code *vm.Program
}

// Compile checks the profiles and makes them ready. Its error has a line for
// each mistake.
func Compile(profiles []Profile) (*Set, error) {
	var problems config.Problems
	s := &Set{}
	var names []string
	for i := range profiles {
		p := &profiles[i]
		at := fmt.Sprintf("profiles[%d]%s.", i, onLine(p.line))
		problems.Add(config.Prefix(at, p.validate()))
		problems.Must(!slices.Contains(names, p.Name), "%sname: there are two called %q", at, p.Name)
		names = append(names, p.Name)
		c := &compiled{Profile: *p, rules: map[int64]*Rule{}}
		for j := range c.Rules {
			r := &c.Rules[j]
			code, err := compile(r.When)
			if err != nil {
				problems.Add(fmt.Errorf("%srules[%d]%s.when: %w", at, j, onLine(r.line), err))
				continue
			}
			id := RuleID(p.Name, r.Name)
			c.rules[id] = r
			c.programs = append(c.programs, program{id, r, code})
		}
		s.profiles = append(s.profiles, c)
		s.keep = max(s.keep, horizon*p.HalfLife)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

// compile compiles one condition: it must be a yes or no over known fields, and
// must not divide by a constant zero.
func compile(text string) (*vm.Program, error) {
	if strings.TrimSpace(text) == "" {
		return nil, fmt.Errorf("is empty")
	}
	guard := &guard{}
	code, err := expr.Compile(text, expr.Env(Fields{}), expr.AsBool(), expr.WarnOnAny(), expr.Patch(guard),
		// A clock would make the score depend on when it is computed.
		expr.DisableBuiltin("now"), expr.Timezone("UTC"), expr.MaxNodes(1000))
	if err != nil {
		return nil, fmt.Errorf("%s", strings.TrimSpace(err.Error()))
	}
	if guard.zero {
		return nil, fmt.Errorf("divides by zero: %s", text)
	}
	return code, nil
}

// guard looks for a division by a constant zero.
type guard struct{ zero bool }

func (g *guard) Visit(node *ast.Node) {
	binary, ok := (*node).(*ast.BinaryNode)
	if !ok || binary.Operator != "/" && binary.Operator != "%" {
		return
	}
	switch right := binary.Right.(type) {
	case *ast.IntegerNode:
		g.zero = g.zero || right.Value == 0
	case *ast.FloatNode:
		g.zero = g.zero || right.Value == 0
	}
}

// Failure is a rule that failed on an event.
type Failure struct {
	Profile, Rule string
	Err           error
}

// Match asks every rule about an event. A rule that fails gives nothing, and
// does not keep the others from being asked.
func (s *Set) Match(e *event.Event) (rules []int64, failures []Failure) {
	fields := fieldsOf(e)
	for _, p := range s.profiles {
		for _, pr := range p.programs {
			yes, err := run(pr.code, &fields)
			if err != nil {
				failures = append(failures, Failure{p.Name, pr.rule.Name, err})
				continue
			}
			if yes {
				rules = append(rules, pr.id)
			}
		}
	}
	slices.Sort(rules)
	return rules, failures
}

func run(code *vm.Program, fields *Fields) (bool, error) {
	out, err := expr.Run(code, fields)
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
		profiles[i] = p.Profile
	}
	return profiles
}
