package lead

import (
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"mailriver/pkg/config"
)

// Profile is a named set of rules with the stages that its score can reach.
// Several profiles score the same events differently.
type Profile struct {
	Name     string        `yaml:"name"`
	HalfLife time.Duration `yaml:"half_life"` // after this long, points count half
	Rules    []Rule        `yaml:"rules"`
	Stages   []Stage       `yaml:"stages"` // lowest first

	line int
}

// Rule gives points for the events that its condition holds for.
type Rule struct {
	Name string `yaml:"name"`
	// When is a condition in the expression language of expr-lang/expr over the
	// fields of the canonical event, for example
	// event_type == "clicked" && url contains "/pricing".
	When   string  `yaml:"when"`
	Points float64 `yaml:"points"` // may be negative
	Cap    *Cap    `yaml:"cap,omitempty"`

	line int
}

// Cap bounds what a rule gives within any span of time.
type Cap struct {
	Points float64       `yaml:"points"` // at most, without sign
	Window time.Duration `yaml:"window"`
}

// Stage is how warm a lead is. The two thresholds keep one who stands at the
// edge from going in and out.
type Stage struct {
	Name  string  `yaml:"name"`
	Enter float64 `yaml:"enter"` // reached at this score
	Leave float64 `yaml:"leave"` // left below this one
}

// UnmarshalYAML keeps the line, for the error that names it.
func (p *Profile) UnmarshalYAML(node *yaml.Node) error {
	type plain Profile
	if err := node.Decode((*plain)(p)); err != nil {
		return err
	}
	p.line = node.Line
	return nil
}

// UnmarshalYAML keeps the line, for the error that names it.
func (r *Rule) UnmarshalYAML(node *yaml.Node) error {
	type plain Rule
	if err := node.Decode((*plain)(r)); err != nil {
		return err
	}
	r.line = node.Line
	return nil
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

func (p *Profile) validate() error {
	var problems config.Problems
	problems.Must(word(p.Name), "name: is %q, must be of letters, digits, - and _", p.Name)
	problems.Must(p.HalfLife >= time.Minute && p.HalfLife <= maxHalfLife, "half_life: is %s, must be 1m to %s", p.HalfLife, maxHalfLife)
	problems.Must(len(p.Rules) > 0, "rules: there is none")
	problems.Must(len(p.Rules) <= maxRules, "rules: has %d, at most %d are allowed", len(p.Rules), maxRules)
	var names []string
	for i, r := range p.Rules {
		at := fmt.Sprintf("rules[%d]%s.", i, onLine(r.line))
		problems.Must(word(r.Name), "%sname: is %q, must be of letters, digits, - and _", at, r.Name)
		problems.Must(!slices.Contains(names, r.Name), "%sname: there are two called %q", at, r.Name)
		names = append(names, r.Name)
		problems.Must(r.Points != 0 && finite(r.Points), "%spoints: is %v, must be a number other than 0", at, r.Points)
		if r.Cap != nil {
			problems.Must(r.Cap.Points > 0 && finite(r.Cap.Points), "%scap.points: is %v, must be positive", at, r.Cap.Points)
			problems.Must(r.Cap.Window > 0, "%scap.window: is %s, must be positive", at, r.Cap.Window)
		}
	}
	names = nil
	for i, s := range p.Stages {
		at := fmt.Sprintf("stages[%d].", i)
		problems.Must(word(s.Name), "%sname: is %q, must be of letters, digits, - and _", at, s.Name)
		problems.Must(!slices.Contains(names, s.Name), "%sname: there are two called %q", at, s.Name)
		names = append(names, s.Name)
		problems.Must(finite(s.Enter) && s.Enter > 0, "%senter: is %v, must be positive", at, s.Enter)
		problems.Must(finite(s.Leave) && s.Leave <= s.Enter, "%sleave: is %v, must not exceed enter (%v)", at, s.Leave, s.Enter)
		if i > 0 {
			problems.Must(s.Enter > p.Stages[i-1].Enter, "%senter: is %v, must exceed that of %s before it", at, s.Enter, p.Stages[i-1].Name)
			problems.Must(s.Leave >= p.Stages[i-1].Leave, "%sleave: is %v, must not be below that of %s before it", at, s.Leave, p.Stages[i-1].Name)
		}
	}
	return problems.Err()
}

const (
	maxRules    = 200
	maxHalfLife = 366 * 24 * time.Hour
)

func onLine(line int) string {
	if line == 0 {
		return ""
	}
	return fmt.Sprintf(" (line %d)", line)
}

func finite(x float64) bool { return x-x == 0 }

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
