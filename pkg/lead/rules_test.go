package lead_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/event"
	"mailriver/pkg/lead"
)

// holds asks one condition about one event.
func holds(t *testing.T, when string, e event.Event) (bool, []lead.Failure) {
	t.Helper()
	set := compile(t, profile("p", lead.Rule{Name: "r", When: when, Points: 1}))
	rules, failures := set.Match(&e)
	return len(rules) == 1, failures
}

// A condition sees every field of the canonical event under its name there, with
// its value. It is red when a field is added to the event and not here.
func TestFields_areThoseOfTheEvent(t *testing.T) {
	have := map[string]reflect.Type{}
	for f := range reflect.TypeFor[lead.Fields]().Fields() {
		have[f.Tag.Get("expr")] = f.Type
	}
	for f := range reflect.TypeFor[event.Event]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if _, ok := have[name]; !ok {
			t.Errorf("Fields has no %s", name)
			continue
		}
		delete(have, name)
		// A value that no other field has, and how a condition writes it.
		e, when := event.Event{}, ""
		value := reflect.ValueOf(&e).Elem().FieldByIndex(f.Index)
		switch v := value.Addr().Interface().(type) {
		case *string, *event.Type:
			value.SetString(name)
			when = fmt.Sprintf("%s == %q", name, name)
		case *int32, *int64:
			value.SetInt(4711)
			when = name + " == 4711"
		case *bool:
			*v = true
			when = name
		case **bool:
			*v = new(true)
			when = name
		case **int32:
			*v = new(int32(0))
			when = name + " == 0"
		case *time.Time:
			*v = start
			when = fmt.Sprintf("%s == date(%q)", name, start.Format(time.RFC3339))
		case *[]string:
			*v = []string{name}
			when = fmt.Sprintf("%q in %s", name, name)
		case *map[string]string:
			*v = map[string]string{"key": name}
			when = fmt.Sprintf("%s[\"key\"] == %q && %s.key == %q", name, name, name, name)
		case *event.ID:
			*v = event.NewID("p", "s", "r")
			when = fmt.Sprintf("%s == %q", name, v)
		default:
			t.Errorf("%s: this test does not know the type %s", name, f.Type)
			continue
		}
		if yes, failures := holds(t, when, e); !yes || failures != nil {
			t.Errorf("%s of an event that has it = %t (%v), want true", when, yes, failures)
		}
		if yes, failures := holds(t, when, event.Event{}); yes || failures != nil {
			t.Errorf("%s of an event without it = %t (%v), want false", when, yes, failures)
		}
	}
	for name := range have {
		t.Errorf("Fields has %q, which is no field of the event", name)
	}
}

func TestCompile_conditions(t *testing.T) {
	click := at(0, event.Clicked, url("https://example.com/pricing?x=1"), func(e *event.Event) {
		e.Tags, e.Metadata = []string{"spring", "b2b"}, map[string]string{"plan": "trial"}
		e.RecipientCount = 3
	})
	for _, tt := range []struct {
		when string
		want bool
	}{
		{`event_type == "clicked" && url contains "/pricing"`, true},
		{`event_type == "clicked" && !(url contains "/pricing")`, false},
		{`event_type in ["opened", "clicked"]`, true},
		{`event_type not in ["opened", "clicked"]`, false},
		{`"clicked" == event_type`, true},
		{`url matches "^https://[a-z.]+/pricing"`, true},
		{`"spring" in tags and metadata.plan == "trial"`, true},
		{`any(tags, # startsWith "b2")`, true},
		{`metadata["nothing"] == ""`, true},
		{`occurred_at.Hour() >= 9 && occurred_at.Hour() < 18`, true},
		{`occurred_at.In(timezone("Asia/Tokyo")).Hour() == 21`, true},
		{`occurred_at > date("2026-01-01")`, true},
		{`received_at - occurred_at < duration("1h")`, true},
		{`recipient_count % 2 == 1 && recipient_count / 2 > 1`, true},
		{`let path = split(url, "?")[0]; path endsWith "/pricing"`, true},
	} {
		if got, failures := holds(t, tt.when, click); got != tt.want || failures != nil {
			t.Errorf("%s = %t (%v), want %t", tt.when, got, failures, tt.want)
		}
	}
}

func TestCompile_refusesConditions(t *testing.T) {
	for _, tt := range []struct{ when, want string }{
		{``, "is empty"},
		{" \n\t", "is empty"},
		{`event_typ == "clicked"`, "unknown name event_typ (1:1)"},
		{`event_type == "clicked" && urll contains "x"`, "unknown name urll (1:28)"},
		{`metadata.plan.size == 1`, "type string has no field size"},
		{`event_type == 1`, "invalid operation: == (mismatched types string and int) (1:12)"},
		{`url + 1 == "x"`, "mismatched types"},
		{`is_test + 1`, "mismatched types"},
		{`"clicked"`, "expected bool, but got string"},
		{`recipient_count`, "expected bool, but got int"},
		{`nil`, "expected bool, but got unknown"},
		{`event_type == "clicked`, "literal not terminated"},
		{`event_type ==`, "unexpected token EOF"},
		{`url matches "["`, "missing closing ]"},
		{`recipient_count / 0 > 1`, "divides by zero: recipient_count / 0"},
		{`recipient_count / 0.0 > 1`, "divides by zero"},
		{`recipient_count % 0 == 1`, "divides by zero"},
		{`recipient_count % (2 - 2) == 1`, "divides by zero"},
		{`recipient_count / -0 > 1`, "divides by zero"},
		{`recipient_count / (3 * 0.0) > 1`, "divides by zero"},
		{`recipient_count % len("") == 1`, "divides by zero"},
		{`recipient_count / (true ? 0 : 1) > 1`, "divides by zero"},
		{`5 % 0 == 1`, "divides by zero"},
		{`any(tags, len(#) % 0 == 1)`, "divides by zero"},
		{`now() > occurred_at`, "unknown name now"},
		{`keys(metadata)[0] == "plan"`, "unknown name keys"},
		{`values(metadata)[0] == "plan"`, "unknown name values"},
		{`toPairs(metadata)[0][0] == "plan"`, "unknown name toPairs"},
		{`occurred_at.Local().Hour() > 9`, "Local() is the time zone of a machine"},
		{`occurred_at.In(timezone("Local")).Hour() > 9`, "timezone() wants the name of a zone"},
		{`occurred_at.In(timezone(stream)).Hour() > 9`, "timezone() wants the name of a zone"},
		{`url == "` + strings.Repeat("x", 5000) + `"`, "bytes long, at most 4096 are allowed"},
		{strings.Repeat("!", 2000) + "is_test", "exceeds maximum allowed nodes"},
	} {
		_, err := lead.Compile([]lead.Profile{profile("p", lead.Rule{Name: "r", When: tt.when, Points: 1})})
		if err == nil || !strings.HasPrefix(err.Error(), "profiles[0].rules[0].when: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Compile(%.60q) = %v, want an error with %q", tt.when, err, tt.want)
		}
		if err != nil && strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("Compile(%.60q) = %v, want one line", tt.when, err)
		}
	}
}

// A rule that fails on an event gives nothing, is told, and leaves the others.
func TestMatch_failures(t *testing.T) {
	set := compile(t,
		profile("a", lead.Rule{Name: "index", When: `tags[3] == "x"`, Points: 1}, gives("click", event.Clicked, 1),
			lead.Rule{Name: "modulo", When: `10 % recipient_count == 0`, Points: 1},
			lead.Rule{Name: "memory", When: `len(1..(smtp_code + 2000000)) > 0`, Points: 1},
			lead.Rule{Name: "pattern", When: `url matches subject`, Points: 1}),
		profile("b", gives("click", event.Clicked, 1)))
	e := at(0, event.Clicked, func(e *event.Event) { e.Subject = "[" })
	rules, failures := set.Match(&e)
	want := []int64{lead.RuleID("a", "click"), lead.RuleID("b", "click")}
	slices.Sort(want)
	if !slices.Equal(rules, want) {
		t.Errorf("Match() = %v, want %v", rules, want)
	}
	var failed []string
	for _, f := range failures {
		failed = append(failed, f.Profile+"/"+f.Rule)
		if f.Err == nil || strings.Contains(f.Err.Error(), "\n") {
			t.Errorf("%s failed with %v, want one line", f.Rule, f.Err)
		}
	}
	if got := strings.Join(failed, " "); got != "a/index a/modulo a/memory a/pattern" {
		t.Errorf("failed are %s, want index, modulo, memory and pattern", got)
	}
	// The next event is not harmed.
	e = at(0, event.Clicked, func(e *event.Event) { e.Tags, e.RecipientCount = []string{"", "", "", "x"}, 5 })
	if rules, _ := set.Match(&e); len(rules) != 5 {
		t.Errorf("Match() of the next event = %d rules, want 5: all but memory", len(rules))
	}
}

// What a condition says of the type only spares asking it: the answer is that of
// the condition. It is red when a type is left out.
func TestMatch_asksWhoCanHold(t *testing.T) {
	whens := []string{
		`event_type == "clicked"`, `"clicked" == event_type && url != ""`, `url != "" && event_type == "clicked"`,
		`event_type == "opened" || event_type == "clicked"`, `event_type == "opened" || url != ""`,
		`event_type in ["opened", "bounced"]`, `event_type in ["opened"] && event_type in ["opened", "clicked"]`,
		`event_type == "opened" && event_type == "clicked"`, `not (event_type == "opened")`, `event_type != "opened"`,
		`event_type == "opened" ? url == "" : url != ""`, `(event_type == "opened" or is_test) and url == ""`,
		`event_type == "open" + "ed"`, `event_type == url`, `event_type in tags`, `event_type in split("opened,clicked", ",")`,
		`(event_type == "clicked") == false`, `event_type + "x" == "openedx"`, `true`, `any(tags, # == "opened") && event_type == #0`,
		`let x = event_type; x == "opened"`, `event_type == "unheard of"`, `event_type in []`, `lower(event_type) == "opened"`,
		`event_type == "clicked" && (event_type == "opened" || url != "")`, `(event_type == "clicked" && is_test) || event_type == "opened"`,
	}
	for _, when := range whens {
		// As a rule it may be spared, behind "true ?" it is not.
		plain, err := lead.Compile([]lead.Profile{profile("p", lead.Rule{Name: "r", When: when, Points: 1})})
		if err != nil {
			if !strings.Contains(when, "#0") {
				t.Errorf("%s: %v", when, err)
			}
			continue
		}
		asked := compile(t, profile("p", lead.Rule{Name: "r", When: "[" + when + "][0]", Points: 1}))
		for _, typ := range append(types, "unheard of", event.Bounced, "") {
			for _, u := range []string{"", "opened"} {
				for _, tags := range [][]string{nil, {"opened"}} {
					e := event.Event{Type: typ, URL: u, Tags: tags, IsTest: len(tags) > 0}
					got, _ := plain.Match(&e)
					want, failures := asked.Match(&e)
					if !slices.Equal(got, want) || failures != nil {
						t.Errorf("%s of a %q with url %q, tags %q holds: %t, want %t (%v)",
							when, typ, u, tags, len(got) == 1, len(want) == 1, failures)
					}
				}
			}
		}
	}
}

// A set answers several goroutines at once. It is red under -race when they share
// a virtual machine.
func TestMatch_concurrently(t *testing.T) {
	set := models(t)
	log := randomLog(3, 400, 10*day)
	want := bytesOf(t, set, fold(set, log...))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got := bytesOf(t, set, fold(set, log...)); got != want {
				t.Error("beside others, a fold gives other bytes")
			}
		})
	}
	wg.Wait()
}

// FuzzCompile: no text panics, neither when it is compiled nor when it is asked.
func FuzzCompile(f *testing.F) {
	for _, when := range []string{
		`event_type == "clicked"`, `tags[0] in metadata`, `recipient_count % (1-1)`, `reduce(tags, #acc + #, "")`, `let x = 1; x == 1`,
		`url matches "[" + subject`, `occurred_at.Local().Hour() > 1`, `timezone()`, `1..2 == 3`, `{"a": 1}.a / 0`, `#`, `$env`,
		`$env["now"]`, `get(metadata, "x")`, `if is_test { true } else { false }`, `[][:0] == nil`, `event_id?.x`, `-5 % -0 > 0`,
	} {
		f.Add(when, "https://example.com", uint8(3))
	}
	f.Fuzz(func(t *testing.T, when, text string, n uint8) {
		set, err := lead.Compile([]lead.Profile{profile("p", lead.Rule{Name: "r", When: when, Points: 1})})
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("Compile(%q) = %q, want one line", when, err)
			}
			return
		}
		e := event.Event{Type: event.Clicked, URL: text, Tags: []string{text}, RecipientCount: int32(n), Subject: text}
		first, _ := set.Match(&e)
		if again, _ := set.Match(&e); !slices.Equal(first, again) {
			t.Errorf("%q says %v, and then %v", when, first, again)
		}
	})
}

// parsed reads profiles as the services do.
func parsed(t *testing.T, text string) ([]lead.Profile, error) {
	t.Helper()
	var cfg struct {
		LeadScoring struct {
			Profiles []lead.Profile `yaml:"profiles"`
		} `yaml:"leadscoring"`
	}
	cfg.LeadScoring.Profiles = lead.DefaultProfiles()
	path := filepath.Join(t.TempDir(), "mailriver.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := config.Load(&cfg, path, nil); err != nil {
		return nil, fmt.Errorf("%s", strings.ReplaceAll(err.Error(), path+": ", ""))
	}
	return cfg.LeadScoring.Profiles, lead.Validate(cfg.LeadScoring.Profiles)
}

func TestValidate_lines(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string
	}{
		{"keys that do not exist", `
leadscoring:
  profiles:
    - name: a
      halflife: 1h
      rules:
        - { name: r, when: 'is_test', points: 1, point: 2 }
        - name: s
          when: is_test
          points: 1
          cap:
            point: 3
            window: 7d
      stages:
        - { name: warm, entre: 1 }
    - name: b
      half_life: [1]
`, `line 5: unknown key halflife
line 7: unknown key point
line 12: unknown key point
line 13: ` + "`7d`" + ` is not a duration with a unit, such as 500ms, 10s, 5m or 168h
line 15: unknown key entre
line 17: seq is not a duration with a unit, such as 500ms, 10s, 5m or 168h`},
		{"values that cannot be", `
leadscoring:
  profiles:
    - name: a b
      half_life: 1s
      rules:
        - name: r
          when: 'event_typ == "clicked"'
          points: 0
          cap: { points: -1, window: 0s }
        - name: r
          when: >
            is_test &&
            recipient_count / (2-2) > 1
          points: .nan
      stages:
        - { name: warm, enter: 25 }
        - name: warm
          enter: 20
          leave: 30
    - name: "a b"
      half_life: 1h
`, `profiles[0].name (line 4): is "a b", must be of letters, digits, - and _
profiles[0].half_life (line 5): is 1s, must be 1m0s to 8784h0m0s
profiles[0].rules[0].points (line 9): is 0, must be a number other than 0, at most 1000000
profiles[0].rules[0].cap.points (line 10): is -1, must be positive, at most 1000000
profiles[0].rules[0].cap.window (line 10): is 0s, must be positive
profiles[0].rules[1].points (line 15): is NaN, must be a number other than 0, at most 1000000
profiles[0].rules[1].name (line 11): there are two called "r"
profiles[0].stages[0].leave (line 17): is 0, must be positive
profiles[0].stages[1].leave (line 20): is 30, must not exceed enter (20)
profiles[0].stages[1].name (line 18): there are two called "warm"
profiles[0].stages[1].enter (line 19): is 20, must exceed that of warm before it (25)
profiles[0].rules[0].when (line 8): unknown name event_typ (1:1)
profiles[0].rules[1].when (line 12): divides by zero: recipient_count / (2 - 2)
profiles[1].name (line 21): is "a b", must be of letters, digits, - and _
profiles[1].rules (line 21): there is none
profiles[1].name (line 21): there are two called "a b"`},
	} {
		if _, err := parsed(t, tt.text); err == nil || err.Error() != tt.want {
			t.Errorf("%s:\n%v\nwant\n%s", tt.name, err, tt.want)
		}
	}
}

func TestValidate_bounds(t *testing.T) {
	many := profile("many")
	for i := range 201 {
		many.Rules = append(many.Rules, gives(fmt.Sprint("r", i), event.Clicked, 1))
	}
	tall := profile("tall", gives("r", event.Clicked, 1))
	for i := range 21 {
		tall.Stages = append(tall.Stages, lead.Stage{Name: fmt.Sprint("s", i), Enter: float64(100 + i), Leave: 50})
	}
	for _, tt := range []struct {
		profiles []lead.Profile
		want     string
	}{
		{[]lead.Profile{many}, "profiles[0].rules: has 201, at most 200 are allowed"},
		{[]lead.Profile{tall}, "profiles[0].stages: has 23, at most 20 are allowed"},
		{[]lead.Profile{profile("p", gives("r", event.Clicked, 1e7))}, "at most 1000000"},
		{slices.Repeat([]lead.Profile{profile("p", gives("r", event.Clicked, 1))}, 51), "profiles: has 51, at most 50 are allowed"},
	} {
		if err := lead.Validate(tt.profiles); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Validate() = %v, want %q", err, tt.want)
		}
	}
	if err := lead.Validate(nil); err != nil {
		t.Errorf("Validate(no profiles) = %v, want nil: nothing is scored", err)
	}
	if err := lead.Validate(lead.DefaultProfiles()); err != nil {
		t.Errorf("Validate(DefaultProfiles()) = %v, want nil", err)
	}
}

// What a file says is what is compiled, anchors and merge keys included.
func TestProfiles_fromFile(t *testing.T) {
	profiles, err := parsed(t, `
leadscoring:
  profiles:
    - &base
      name: marketing
      half_life: 168h
      rules:
        - { name: click, when: 'event_type == "clicked"', points: 10, cap: { points: 40, window: 24h } }
      stages: [{ name: warm, enter: 25, leave: 15 }]
    - <<: *base
      name: success
`)
	if err != nil {
		t.Fatal(err)
	}
	want := profile("marketing", capped(gives("click", event.Clicked, 10), 40, day))
	want.Stages = want.Stages[:1]
	second := want
	second.Name = "success"
	if got, want := compile(t, profiles...).Fingerprint(), compile(t, want, second).Fingerprint(); got != want {
		t.Errorf("the fingerprint of the file is %s, want %s as of the same in code", got, want)
	}
}

// A fingerprint changes with whatever can change a standing, and with nothing
// else: a change makes every reader compute standings itself.
func TestSet_Fingerprint(t *testing.T) {
	base := func() []lead.Profile {
		return []lead.Profile{
			profile("a", capped(gives("click", event.Clicked, 10), 40, day), gives("open", event.Opened, 1)),
			profile("b", gives("click", event.Clicked, 10)),
		}
	}
	want := compile(t, base()...).Fingerprint()
	for _, tt := range []struct {
		name string
		same bool
		set  func([]lead.Profile) []lead.Profile
	}{
		{"nothing", true, func(p []lead.Profile) []lead.Profile { return p }},
		{"rules in another order", true, func(p []lead.Profile) []lead.Profile { slices.Reverse(p[0].Rules); return p }},
		{"spaces in a condition", true, func(p []lead.Profile) []lead.Profile {
			p[1].Rules[0].When = ` (event_type=="clicked") `
			return p
		}},
		{"profiles in another order", false, func(p []lead.Profile) []lead.Profile { slices.Reverse(p); return p }},
		{"a profile less", false, func(p []lead.Profile) []lead.Profile { return p[:1] }},
		{"name", false, func(p []lead.Profile) []lead.Profile { p[0].Name = "c"; return p }},
		{"half_life", false, func(p []lead.Profile) []lead.Profile { p[0].HalfLife++; return p }},
		{"a rule less", false, func(p []lead.Profile) []lead.Profile { p[0].Rules = p[0].Rules[:1]; return p }},
		{"name of a rule", false, func(p []lead.Profile) []lead.Profile { p[0].Rules[0].Name = "c"; return p }},
		{"condition", false, func(p []lead.Profile) []lead.Profile { p[0].Rules[0].When = "is_test"; return p }},
		{"points", false, func(p []lead.Profile) []lead.Profile { p[0].Rules[0].Points = 10.5; return p }},
		{"no cap", false, func(p []lead.Profile) []lead.Profile { p[0].Rules[0].Cap = nil; return p }},
		{"points of a cap", false, func(p []lead.Profile) []lead.Profile { p[0].Rules[0].Cap.Points++; return p }},
		{"window of a cap", false, func(p []lead.Profile) []lead.Profile { p[0].Rules[0].Cap.Window++; return p }},
		{"a stage less", false, func(p []lead.Profile) []lead.Profile { p[0].Stages = p[0].Stages[:1]; return p }},
		{"name of a stage", false, func(p []lead.Profile) []lead.Profile { p[0].Stages[0].Name = "c"; return p }},
		{"enter", false, func(p []lead.Profile) []lead.Profile { p[0].Stages[0].Enter++; return p }},
		{"leave", false, func(p []lead.Profile) []lead.Profile { p[0].Stages[0].Leave++; return p }},
	} {
		if same := compile(t, tt.set(base())...).Fingerprint() == want; same != tt.same {
			t.Errorf("%s: Fingerprint() is the same: %t, want %t", tt.name, same, tt.same)
		}
	}
}

// Two profiles may call a rule by one name: it is a rule of each.
func TestCompile_oneNameInTwoProfiles(t *testing.T) {
	set := compile(t, profile("a", gives("x", event.Clicked, 1)), profile("b", gives("x", event.Opened, 2)))
	st := fold(set, at(0, event.Clicked), at(week, event.Opened))
	got := set.Standings(&st)
	if got[0].Score != 1 || got[1].Score != 2 {
		t.Errorf("Standings() = %+v, want 1 and 2", got)
	}
}

// Times are kept as they are written, or a state would be another one once it
// was read.
func TestObserve_microseconds(t *testing.T) {
	set := compile(t, profile("p", lead.Rule{Name: "all", When: "true", Points: 1}))
	e := at(0, event.Delivered)
	e.OccurredAt = start.Add(1999).In(time.FixedZone("", 3600))
	o, want := set.Observe(&e), start.Add(1000)
	if o.Contribution.At != want || o.Delivery.At != want {
		t.Errorf("Observe() = %s and %s, want %s", o.Contribution.At, o.Delivery.At, want)
	}
}

func TestObserve_skips(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 1), lead.Rule{Name: "all", When: "true", Points: 1}))
	none := compile(t, profile("p", gives("click", event.Clicked, 1)))
	for _, tt := range []struct {
		set  *lead.Set
		e    event.Event
		want string
	}{
		{set, at(0, event.Clicked), ""},
		{set, at(0, event.Test), lead.SkipTest},
		{set, at(0, event.Clicked, func(e *event.Event) { e.IsTest = true }), lead.SkipTest},
		{set, at(0, event.Clicked, func(e *event.Event) { e.RecipientNormalized = "" }), lead.SkipNoRecipient},
		{set, at(0, event.Clicked, func(e *event.Event) { e.RecipientNormalized = "nobody" }), lead.SkipNoRecipient},
		{set, at(0, event.Clicked, func(e *event.Event) { e.RecipientAmbiguous = true }), lead.SkipAmbiguous},
		{set, at(0, event.Clicked, func(e *event.Event) { e.IsDuplicateHint = true }), lead.SkipHint},
		{set, at(0, event.Clicked, func(e *event.Event) { e.Machine = event.MachineYes }), lead.SkipMachine},
		{set, at(0, event.Opened, func(e *event.Event) { e.Machine = event.MachineYes }), lead.SkipMachine},
		{set, at(0, event.Clicked, func(e *event.Event) { e.Machine = event.MachineUnknown }), ""},
		{none, at(0, event.Opened), lead.SkipNoRule},
		{none, at(0, event.Delivered), ""},
	} {
		o := tt.set.Observe(&tt.e)
		if said := !o.Contribution.EventID.IsZero() || !o.Delivery.At.IsZero(); o.Skipped != tt.want || said == (tt.want != "") {
			t.Errorf("Observe(%s %+v) = %+v, want skipped %q", tt.e.Type, tt.e.Machine, o, tt.want)
		}
	}
}
