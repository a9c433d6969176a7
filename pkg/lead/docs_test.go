package lead_test

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mailriver/pkg/config"
	"mailriver/pkg/lead"
)

// page is that for marketers and operators.
func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/lead-rules.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// block is the first one of a language behind a heading.
func block(t *testing.T, heading, language string) string {
	t.Helper()
	_, rest, _ := strings.Cut(page(t), "\n## "+heading+"\n")
	_, rest, _ = strings.Cut(rest, "```"+language+"\n")
	text, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatalf("the page shows no %s under %s", language, heading)
	}
	return text
}

// The page shows the profiles of this build.
func TestDefaultProfiles_areDocumented(t *testing.T) {
	profiles, err := parsed(t, block(t, "The default profile", "yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got, want := compile(t, profiles...), compile(t, lead.DefaultProfiles()...)
	if got.Fingerprint() != want.Fingerprint() {
		t.Errorf("the page shows the profiles\n%+v, want\n%+v", profiles, lead.DefaultProfiles())
	}
}

// Every condition in the table of the page is one.
func TestConditions_areDocumented(t *testing.T) {
	conditions := regexp.MustCompile("(?m)^\\| `(.*event_type.*)` \\|").FindAllStringSubmatch(page(t), -1)
	for _, m := range conditions {
		compile(t, profile("p", lead.Rule{Name: "r", When: m[1], Points: 1}))
	}
	if len(conditions) < 10 {
		t.Errorf("the page shows %d conditions, want at least 10", len(conditions))
	}
}

// The page explains every field of a segment, and shows segments that compile.
func TestSegments_areDocumented(t *testing.T) {
	_, section, _ := strings.Cut(page(t), "\n## Segments\n")
	section, _, _ = strings.Cut(section, "\n### ")
	var told []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*`) \\|").FindAllStringSubmatch(section, -1) {
		for _, m := range regexp.MustCompile("`([a-z0-9_]+)").FindAllStringSubmatch(row[1], -1) {
			told = append(told, m[1])
		}
	}
	var want []string
	for f := range reflect.TypeFor[lead.SegmentFields]().Fields() {
		want = append(want, f.Tag.Get("expr"))
	}
	slices.Sort(told)
	slices.Sort(want)
	if !slices.Equal(told, want) {
		t.Errorf("the page explains %q, want %q", told, want)
	}
	var cfg struct {
		LeadScoring struct {
			Segments []lead.Segment `yaml:"segments"`
		} `yaml:"leadscoring"`
	}
	if err := config.Parse(&cfg, "page", []byte(block(t, "Segments", "yaml")), nil); err != nil {
		t.Fatal(err)
	}
	shown := cfg.LeadScoring.Segments
	if _, err := compile(t, lead.DefaultProfiles()...).CompileSegments(shown); err != nil || len(shown) == 0 {
		t.Errorf("the %d segments of the page: %v, want them to compile", len(shown), err)
	}
}
