// Package docs_test keeps the pages of this folder true: a page that no longer
// agrees with the code, or a link that leads nowhere, fails here. The folder
// holds no Go code beside it.
package docs_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mailriver/pkg/event"
	"mailriver/schemas"
)

const page = "canonical-event.md"

// The page has a row for each field of the Avro schema, of the same type, and
// none beside them.
func TestCanonicalEvent_fields(t *testing.T) {
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (.+?) \\| .+ \\|$").FindAllStringSubmatch(section(t, "Fields"), -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("%s: %s stands twice", page, m[1])
		}
		rows[m[1]] = m[2]
	}
	fields := avroFields(t)
	for name, typ := range fields {
		if got, ok := rows[name]; !ok {
			t.Errorf("%s: %s (%s) is missing", page, name, typ)
		} else if got != typ {
			t.Errorf("%s: %s has the type %q, want %q as in the schema", page, name, got, typ)
		}
	}
	for name := range rows {
		if _, ok := fields[name]; !ok {
			t.Errorf("%s: %s is no field of the schema", page, name)
		}
	}
}

// The page explains every word of every vocabulary: in a table of its own under
// the field's name, or in the field's row of the small ones.
func TestCanonicalEvent_vocabularies(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `(\\w+)` \\|")
	for field := range reflect.TypeFor[event.Event]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		words, ok := event.Vocabulary(name)
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			var told []string
			switch name {
			case "event_type":
				told = firsts(row, section(t, "Types"))
			case "bounce_kind", "bounce_cause", "reject_reason", "scope_kind":
				told = firsts(row, section(t, name))
			default:
				told = small(t, name)
			}
			if !slices.Equal(slices.Sorted(slices.Values(told)), slices.Sorted(slices.Values(words))) {
				t.Errorf("%s tells the words %q, want %q", page, told, words)
			}
		})
	}
}

func TestCanonicalEvent_warnings(t *testing.T) {
	told := small(t, "warnings")
	for _, word := range []string{
		event.WarnBadTimestamp, event.WarnBadRecipient, event.WarnUnknownType, event.WarnTruncated,
		event.WarnUnknownClass, event.WarnNoNativeID, event.WarnBadVocabulary,
	} {
		if !slices.Contains(told, word) {
			t.Errorf("%s does not explain the warning %s", page, word)
		}
	}
}

// Every link of every page to a file of this repository leads somewhere.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob("../*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"*.md", "adr/*.md", "operations/*.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, more...)
	}
	link := regexp.MustCompile(`\]\(([^)#]+)(?:#[^)]*)?\)`)
	found := 0
	for _, path := range pages {
		for _, target := range firsts(link, read(t, path)) {
			if strings.Contains(target, "://") {
				continue
			}
			found++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), target)); err != nil {
				t.Errorf("%s links to %s: %v", path, target, err)
			}
		}
	}
	if found == 0 {
		t.Errorf("no links in %d pages", len(pages))
	}
}

// Every decision stands in the index, in order, with the parts that a decision
// has.
func TestDecisions(t *testing.T) {
	files, err := filepath.Glob("adr/[0-9]*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no decisions in adr (%v)", err)
	}
	listed := firsts(regexp.MustCompile(`\]\(([0-9]{4}-[a-z0-9-]+\.md)\)`), read(t, "adr/README.md"))
	for i, path := range files {
		name := filepath.Base(path)
		if number := fmt.Sprintf("%04d-", i+1); !strings.HasPrefix(name, number) {
			t.Errorf("%s: its number is not %s", path, number)
		}
		if i >= len(listed) || listed[i] != name {
			t.Errorf("adr/README.md does not list %s in its place", name)
		}
		text := read(t, path)
		for _, part := range []string{"\n## Context\n", "\n## Decision\n", "\n## Consequences\n"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s has no part %q", path, strings.TrimSpace(part))
			}
		}
	}
	if len(listed) != len(files) {
		t.Errorf("adr/README.md lists %d decisions, want %d", len(listed), len(files))
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section returns what stands under a heading of the page, up to the next of
// its level or above.
func section(t *testing.T, title string) string {
	t.Helper()
	heading := regexp.MustCompile(`(?m)^(#+) ` + regexp.QuoteMeta(title) + `\n`)
	text := read(t, page)
	at := heading.FindStringSubmatchIndex(text)
	if at == nil {
		t.Fatalf("%s has no heading %q", page, title)
	}
	level := at[3] - at[2]
	rest := text[at[1]:]
	if end := regexp.MustCompile(fmt.Sprintf(`(?m)^#{1,%d} `, level)).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

// small returns the words in the row of a field among the small vocabularies:
// each stands in backquotes at the start of its part.
func small(t *testing.T, field string) []string {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `" + field + "` \\| (.+) \\|$").FindStringSubmatch(section(t, "Small ones"))
	if row == nil {
		t.Fatalf("%s has no row for %s among the small vocabularies", page, field)
	}
	return firsts(regexp.MustCompile("(?:^|[,;] )`(\\w+)`"), row[1])
}

func firsts(pattern *regexp.Regexp, text string) []string {
	var found []string
	for _, m := range pattern.FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

// avroFields returns the fields of the schema with their types as the page
// writes them.
func avroFields(t *testing.T) map[string]string {
	t.Helper()
	var schema struct {
		Fields []struct {
			Name string `json:"name"`
			Type any    `json:"type"`
		} `json:"fields"`
	}
	if err := json.Unmarshal([]byte(schemas.EmailEventV1), &schema); err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for _, f := range schema.Fields {
		fields[f.Name] = typeName(f.Type)
	}
	return fields
}

func typeName(typ any) string {
	switch typ := typ.(type) {
	case string:
		return typ
	case []any: // a union with null
		for _, branch := range typ {
			if branch != "null" {
				return typeName(branch) + "?"
			}
		}
	case map[string]any:
		switch {
		case typ["logicalType"] == "uuid":
			return "uuid"
		case typ["logicalType"] == "timestamp-micros":
			return "timestamp"
		case typ["type"] == "array":
			return "array of " + typeName(typ["items"])
		case typ["type"] == "map":
			return "map of " + typeName(typ["values"])
		}
	}
	return fmt.Sprintf("%v, which this test does not know", typ)
}
