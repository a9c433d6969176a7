package lead

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"mailriver/pkg/config"
)

// Profile is a named set of rules with the stages that its score can reach.
// Several profiles score the same events differently.
type Profile struct {
	Name     string        `yaml:"name"`      // unique among the profiles
	HalfLife time.Duration `yaml:"half_life"` // after this long, points count half
	Rules    []Rule        `yaml:"rules"`     // what gives points
	Stages   []Stage       `yaml:"stages"`    // lowest first

	place place
}

// Rule gives points for the events that its condition holds for.
type Rule struct {
	Name string `yaml:"name"` // unique in its profile
	// When is a condition in the expression language of expr-lang/expr over the
	// fields of the canonical event, for example
	// event_type == "clicked" && url contains "/pricing".
	When   string  `yaml:"when"`
	Points float64 `yaml:"points"` // may be negative
	Cap    *Cap    `yaml:"cap,omitempty"`

	place place
}

// Cap bounds what a rule gives within any span of time.
type Cap struct {
	Points float64       `yaml:"points"` // at most, without sign
	Window time.Duration `yaml:"window"` // any span of this length

	place place
}

// Stage is how warm a lead is. The two thresholds keep one who stands at the
// edge from going in and out.
type Stage struct {
	Name  string  `yaml:"name"`  // unique in its profile
	Enter float64 `yaml:"enter"` // reached at this score
	Leave float64 `yaml:"leave"` // left below this one

	place place
}

// UnmarshalYAML keeps the lines, for errors that name them.
func (p *Profile) UnmarshalYAML(node *yaml.Node) error {
	type plain Profile
	p.place = placeOf(node)
	return decode(node, (*plain)(p))
}

// UnmarshalYAML keeps the lines, for errors that name them.
func (r *Rule) UnmarshalYAML(node *yaml.Node) error {
	type plain Rule
	r.place = placeOf(node)
	return decode(node, (*plain)(r))
}

// UnmarshalYAML keeps the lines, for errors that name them.
func (c *Cap) UnmarshalYAML(node *yaml.Node) error {
	type plain Cap
	c.place = placeOf(node)
	return decode(node, (*plain)(c))
}

// UnmarshalYAML keeps the lines, for errors that name them.
func (s *Stage) UnmarshalYAML(node *yaml.Node) error {
	type plain Stage
	s.place = placeOf(node)
	return decode(node, (*plain)(s))
}

// place is where an object stood in a file. It is empty for one that code made.
type place struct {
	line int
	keys map[string]int // lines of the keys that are there
}

func placeOf(node *yaml.Node) place {
	p := place{line: node.Line, keys: map[string]int{}}
	for i := 0; i+1 < len(node.Content); i += 2 {
		p.keys[node.Content[i].Value] = node.Content[i].Line
	}
	return p
}

// key is the name of a key with its line, or with that of its object when it is
// not there.
func (p place) key(name string) string {
	line := p.line
	if at, ok := p.keys[name]; ok {
		line = at
	}
	if line == 0 {
		return name
	}
	return fmt.Sprintf("%s (line %d)", name, line)
}

// decode fills a struct and refuses keys that it does not have: a decoder that
// is told to does not do so behind an UnmarshalYAML.
func decode(node *yaml.Node, into any) error {
	typ := reflect.TypeOf(into).Elem()
	problems := &yaml.TypeError{}
	if node.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			if key.Tag != "!!merge" && !hasKey(typ, key.Value) {
				problems.Errors = append(problems.Errors,
					fmt.Sprintf("line %d: field %s not found in type %s", key.Line, key.Value, typ))
			}
		}
	}
	err := node.Decode(into)
	//nolint:errorlint // package yaml itself only knows the plain type, and never wraps it
	if wrong, ok := err.(*yaml.TypeError); ok {
		problems.Errors = append(problems.Errors, wrong.Errors...)
	} else if err != nil {
		return err
	}
	if len(problems.Errors) > 0 {
		return problems
	}
	return nil
}

func hasKey(typ reflect.Type, key string) bool {
	for field := range typ.Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("yaml"), ","); name == key && key != "" {
			return true
		}
	}
	return false
}

// DefaultProfiles is one profile that needs no knowledge of the sender's pages.
func DefaultProfiles() []Profile {
	return []Profile{{
		Name: "default", HalfLife: 7 * 24 * time.Hour,
		Rules: []Rule{
			{Name: "click", When: `event_type == "clicked"`, Points: 10, Cap: &Cap{Points: 40, Window: 24 * time.Hour}},
			{Name: "open", When: `event_type == "opened"`, Points: 1, Cap: &Cap{Points: 3, Window: 24 * time.Hour}},
			{Name: "unsubscribe", When: `event_type == "unsubscribed"`, Points: -50},
			{Name: "complaint", When: `event_type == "complained"`, Points: -100},
		},
		Stages: []Stage{{Name: "warm", Enter: 25, Leave: 15}, {Name: "hot", Enter: 60, Leave: 45}},
	}}
}

// Validate reports everything that is wrong with the profiles, conditions
// included, each with its line where it was read from a file.
func Validate(profiles []Profile) error {
	_, err := Compile(profiles)
	return err
}

// Limits of a configuration. They keep a mistake from becoming a load, and a
// score from becoming infinite.
const (
	maxProfiles  = 50
	maxRules     = 200
	maxStages    = 20
	maxPoints    = 1e6
	minHalfLife  = time.Minute
	maxHalfLife  = 366 * 24 * time.Hour
	maxCondition = 4096 // bytes
)

func (p *Profile) validate() error {
	var problems config.Problems
	problems.Must(word(p.Name), "%s: is %q, must be of letters, digits, - and _", p.place.key("name"), p.Name)
	problems.Must(p.HalfLife >= minHalfLife && p.HalfLife <= maxHalfLife,
		"%s: is %s, must be %s to %s", p.place.key("half_life"), p.HalfLife, minHalfLife, maxHalfLife)
	problems.Must(len(p.Rules) > 0, "%s: there is none", p.place.key("rules"))
	problems.Must(len(p.Rules) <= maxRules,
		"%s: has %d, at most %d are allowed", p.place.key("rules"), len(p.Rules), maxRules)
	var names []string
	for i := range p.Rules {
		r := &p.Rules[i]
		at := fmt.Sprintf("rules[%d].", i)
		problems.Add(config.Prefix(at, r.validate()))
		problems.Must(!slices.Contains(names, r.Name), "%s%s: there are two called %q", at, r.place.key("name"), r.Name)
		names = append(names, r.Name)
	}
	problems.Must(len(p.Stages) <= maxStages,
		"%s: has %d, at most %d are allowed", p.place.key("stages"), len(p.Stages), maxStages)
	names = nil
	for i := range p.Stages {
		s := &p.Stages[i]
		at := fmt.Sprintf("stages[%d].", i)
		problems.Add(config.Prefix(at, s.validate()))
		problems.Must(!slices.Contains(names, s.Name), "%s%s: there are two called %q", at, s.place.key("name"), s.Name)
		names = append(names, s.Name)
		if i > 0 {
			below := &p.Stages[i-1]
			problems.Must(s.Enter > below.Enter, "%s%s: is %v, must exceed that of %s before it (%v)",
				at, s.place.key("enter"), s.Enter, below.Name, below.Enter)
			problems.Must(s.Leave >= below.Leave, "%s%s: is %v, must not be below that of %s before it (%v)",
				at, s.place.key("leave"), s.Leave, below.Name, below.Leave)
		}
	}
	return problems.Err()
}

func (r *Rule) validate() error {
	var problems config.Problems
	problems.Must(word(r.Name), "%s: is %q, must be of letters, digits, - and _", r.place.key("name"), r.Name)
	problems.Must(r.Points != 0 && math.Abs(r.Points) <= maxPoints,
		"%s: is %v, must be a number other than 0, at most %d", r.place.key("points"), r.Points, int(maxPoints))
	if c := r.Cap; c != nil {
		problems.Must(c.Points > 0 && c.Points <= maxPoints,
			"cap.%s: is %v, must be positive, at most %d", c.place.key("points"), c.Points, int(maxPoints))
		problems.Must(c.Window > 0, "cap.%s: is %s, must be positive", c.place.key("window"), c.Window)
	}
	return problems.Err()
}

func (s *Stage) validate() error {
	var problems config.Problems
	problems.Must(word(s.Name), "%s: is %q, must be of letters, digits, - and _", s.place.key("name"), s.Name)
	problems.Must(s.Enter > 0 && s.Enter <= math.MaxFloat64, "%s: is %v, must be positive", s.place.key("enter"), s.Enter)
	// Points fade towards 0 and never reach it: a stage that is left at 0 is for ever.
	problems.Must(s.Leave > 0, "%s: is %v, must be positive", s.place.key("leave"), s.Leave)
	problems.Must(s.Leave <= s.Enter, "%s: is %v, must not exceed enter (%v)", s.place.key("leave"), s.Leave, s.Enter)
	return problems.Err()
}

func word(text string) bool {
	if text == "" || len(text) > 64 {
		return false
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
