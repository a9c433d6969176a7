package clickhouse

import (
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
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

// TestStateColumns compares the INSERT, the table, the view and the schema of the
// topic, from which the names come: a field of the schema that is forgotten in one
// of them would be lost without a word.
func TestStateColumns(t *testing.T) {
	same := func(name string) string { return name }
	t.Run("suppressions", func(t *testing.T) {
		checkColumns(t, suppressionColumns(), "0013_suppression_states", "0016_suppressions")
		checkSchema(t, suppressionColumns(), schemas.SuppressionV1, "0016_suppressions", same)
	})
	t.Run("lead scores", func(t *testing.T) {
		checkColumns(t, leadScoreColumns(), "0017_lead_score_states", "0020_lead_scores")
		checkSchema(t, leadScoreColumns(), schemas.LeadScoreV1, "0020_lead_scores", func(name string) string {
			return strings.TrimPrefix(name, "profiles.")
		}, "state", "segments") // the events of a score are in a form of Mailriver's own; segments have a topic
	})
	t.Run("lead signals", func(t *testing.T) {
		checkColumns(t, leadSignalColumns(), "0021_lead_signal_rows", "0024_lead_signals")
		checkSchema(t, leadSignalColumns(), schemas.LeadSignalV1, "0024_lead_signals", same)
	})
}

func released(t *testing.T, name string) string {
	t.Helper()
	sql, err := schemas.ClickHouse.ReadFile("clickhouse/" + name + ".sql")
	if err != nil {
		t.Fatal(err)
	}
	return string(sql)
}

// checkColumns compares an INSERT with its table, and wants no column of the
// place of a record in the view.
func checkColumns[T any](t *testing.T, insert []column[T], table, view string) {
	t.Helper()
	ddl := columnLine.FindAllStringSubmatch(released(t, table), -1)
	if len(ddl) != len(insert) {
		t.Fatalf("the table has %d columns and the insert %d", len(ddl), len(insert))
	}
	for i, column := range insert {
		if ddl[i][1] != column.name || ddl[i][2] != column.kind {
			t.Errorf("column %d is %s %s in the table and %s %s in the insert", i, ddl[i][1], ddl[i][2], column.name, column.kind)
		}
		if ddl[i][3] == "" {
			t.Errorf("column %s has no comment", column.name)
		}
	}
	for _, place := range []string{"state_partition", "state_offset", "deleted"} {
		if viewHas(released(t, view), place) {
			t.Errorf("%s is a column of the view", place)
		}
	}
}

func viewHas(view, column string) bool {
	return regexp.MustCompile("(?m)^    `?" + regexp.QuoteMeta(column) + "`?,?$").MatchString(view)
}

// checkSchema wants each field of a schema as a column of the INSERT and of the
// view. What is left out is named.
func checkSchema[T any](t *testing.T, insert []column[T], avro, view string, viewName func(string) string, leftOut ...string) {
	t.Helper()
	have := map[string]bool{}
	for _, column := range insert {
		have[column.name] = true
	}
	type field struct {
		Name string
		Type any
	}
	var schema struct{ Fields []field }
	if err := json.Unmarshal([]byte(avro), &schema); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range schema.Fields {
		nested := slices.ContainsFunc(insert, func(c column[T]) bool { return strings.HasPrefix(c.name, f.Name+".") })
		if !nested {
			names = append(names, f.Name) // of facts it is their number
			continue
		}
		for _, element := range f.Type.(map[string]any)["items"].(map[string]any)["fields"].([]any) {
			names = append(names, f.Name+"."+element.(map[string]any)["name"].(string))
		}
	}
	sql := released(t, view)
	for _, name := range names {
		if slices.Contains(leftOut, name) {
			if have[name] || viewHas(sql, name) {
				t.Errorf("field %s of the schema is a column, want it left out", name)
			}
			continue
		}
		if !have[name] {
			t.Errorf("field %s of the schema is no column", name)
		}
		if !viewHas(sql, viewName(name)) {
			t.Errorf("field %s of the schema is no column of the view", name)
		}
	}
}
