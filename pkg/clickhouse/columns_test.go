package clickhouse

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/schemas"
)

// kindOf is the ClickHouse type of a field of the event. Texts may be
// LowCardinality where the table says so.
func kindOf(t *testing.T, field reflect.StructField) string {
	t.Helper()
	switch field.Type {
	case reflect.TypeFor[event.ID]():
		return "UUID"
	case reflect.TypeFor[time.Time]():
		if field.Name == "SuppressionExpiresAt" {
			return "Nullable(DateTime64(6, 'UTC'))"
		}
		return "DateTime64(6, 'UTC')"
	case reflect.TypeFor[*bool]():
		return "Nullable(Bool)"
	case reflect.TypeFor[*int32]():
		return "Nullable(Int32)"
	case reflect.TypeFor[[]string]():
		return "Array(String)"
	case reflect.TypeFor[map[string]string]():
		return "Map(String, String)"
	}
	switch field.Type.Kind() {
	case reflect.String:
		return "String"
	case reflect.Int32:
		return "Int32"
	case reflect.Int64:
		return "Int64"
	case reflect.Bool:
		return "Bool"
	}
	t.Fatalf("field %s is %s, which has no column type", field.Name, field.Type)
	return ""
}

func plainKind(kind string) string {
	if inner, ok := strings.CutPrefix(kind, "LowCardinality("); ok {
		return strings.TrimSuffix(inner, ")")
	}
	return kind
}

var columnLine = regexp.MustCompile("(?m)^    `([a-z0-9_.]+)` +(.*?) +COMMENT '(.*?)'(?: CODEC.*)?,$")

// TestColumns compares the struct, the INSERT and the table: a field that is
// added to one and forgotten in another would be lost without a word.
func TestColumns(t *testing.T) {
	ddl, err := schemas.ClickHouse.ReadFile("clickhouse/0001_events.sql")
	if err != nil {
		t.Fatal(err)
	}
	table := columnLine.FindAllStringSubmatch(string(ddl), -1)
	insert := eventColumns()
	fields := reflect.TypeFor[event.Event]()
	if len(table) != fields.NumField() || len(insert) != fields.NumField() {
		t.Fatalf("the table has %d columns and the insert %d, want %d", len(table), len(insert), fields.NumField())
	}
	for i := range fields.NumField() {
		field := fields.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if table[i][1] != name || insert[i].name != name {
			t.Errorf("column %d is %s in the table and %s in the insert, want %s", i, table[i][1], insert[i].name, name)
		}
		if table[i][2] != insert[i].kind {
			t.Errorf("column %s is %s in the table and %s in the insert", name, table[i][2], insert[i].kind)
		}
		if got, want := plainKind(insert[i].kind), kindOf(t, field); got != want {
			t.Errorf("column %s is %s, want %s", name, got, want)
		}
		if table[i][3] == "" {
			t.Errorf("column %s has no comment", name)
		}
	}
}

// TestSuppressionColumns compares the INSERT, the table and the schema of the
// topic, from which the names come.
func TestSuppressionColumns(t *testing.T) {
	ddl, err := schemas.ClickHouse.ReadFile("clickhouse/0013_suppression_states.sql")
	if err != nil {
		t.Fatal(err)
	}
	table := columnLine.FindAllStringSubmatch(string(ddl), -1)
	insert := suppressionColumns()
	if len(table) != len(insert) {
		t.Fatalf("the table has %d columns and the insert %d", len(table), len(insert))
	}
	have := map[string]bool{}
	for i, column := range insert {
		if table[i][1] != column.name || table[i][2] != column.kind {
			t.Errorf("column %d is %s %s in the table and %s %s in the insert", i, table[i][1], table[i][2], column.name, column.kind)
		}
		if table[i][3] == "" {
			t.Errorf("column %s has no comment", column.name)
		}
		have[column.name] = true
	}
	view, err := schemas.ClickHouse.ReadFile("clickhouse/0016_suppressions.sql")
	if err != nil {
		t.Fatal(err)
	}
	type field struct {
		Name string
		Type any
	}
	var schema struct{ Fields []field }
	if err := json.Unmarshal([]byte(schemas.SuppressionV1), &schema); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range schema.Fields {
		if f.Name != "weaker" {
			names = append(names, f.Name)
			continue
		}
		entry := f.Type.(map[string]any)["items"].(map[string]any)["fields"].([]any)
		for _, e := range entry {
			names = append(names, "weaker."+e.(map[string]any)["name"].(string))
		}
	}
	for _, name := range names {
		if !have[name] {
			t.Errorf("field %s of the schema is no column", name)
		}
		if !regexp.MustCompile("(?m)^    `?" + regexp.QuoteMeta(name) + "`?,?$").Match(view) {
			t.Errorf("field %s of the schema is no column of the view", name)
		}
	}
}
