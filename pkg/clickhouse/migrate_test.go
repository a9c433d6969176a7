package clickhouse

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"mailriver/schemas"
)

func read(t *testing.T, files map[string]string) Migrations {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	m, err := ReadMigrations(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMigrations_pending(t *testing.T) {
	before := read(t, map[string]string{"0001_a.sql": "A", "0003_c.sql": "C"})
	applied := map[string]string{}
	for _, file := range before.files {
		applied[file.name] = file.checksum
	}
	tests := []struct {
		name  string
		files map[string]string
		want  string
		err   error
	}{
		{name: "nothing new", files: map[string]string{"0001_a.sql": "A", "0003_c.sql": "C"}},
		{name: "one new", files: map[string]string{"0001_a.sql": "A", "0003_c.sql": "C", "0004_d.sql": "D"}, want: "0004_d.sql"},
		{
			name:  "in the order of names",
			files: map[string]string{"0001_a.sql": "A", "0003_c.sql": "C", "0005_e.sql": "E", "0004_d.sql": "D"},
			want:  "0004_d.sql 0005_e.sql",
		},
		{name: "edited", files: map[string]string{"0001_a.sql": "A2", "0003_c.sql": "C"}, err: ErrEdited},
		{name: "a comment is an edit too", files: map[string]string{"0001_a.sql": "A -- x", "0003_c.sql": "C"}, err: ErrEdited},
		{
			name:  "between applied ones",
			files: map[string]string{"0001_a.sql": "A", "0002_b.sql": "B", "0003_c.sql": "C"}, err: ErrOutOfOrder,
		},
		{name: "the database is ahead", files: map[string]string{"0001_a.sql": "A"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			todo, err := read(t, tt.files).pending(applied)
			var names []string
			for _, file := range todo {
				names = append(names, file.name)
			}
			if got := strings.Join(names, " "); got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("pending() = %q, %v, want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestReadMigrations_refuses(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no file":         {"readme.txt": "x"},
		"twice one name":  {"a/0001.sql": "A", "b/0001.sql": "B"},
		"broken template": {"0001.sql": "{{ if"},
	} {
		fsys := fstest.MapFS{}
		for path, text := range files {
			fsys[path] = &fstest.MapFile{Data: []byte(text)}
		}
		if _, err := ReadMigrations(fsys); err == nil {
			t.Errorf("%s: ReadMigrations() = nil, want an error", name)
		}
	}
}

var literal = regexp.MustCompile(`'[^']*'`)

// TestMigrations_place renders the released files for both placements.
func TestMigrations_place(t *testing.T) {
	m, err := ReadMigrations(schemas.ClickHouse)
	if err != nil {
		t.Fatal(err)
	}
	render := func(p placement) string {
		var all []string
		for _, file := range m.files {
			sql, err := file.statement(p)
			if err != nil {
				t.Fatal(err)
			}
			if bare := literal.ReplaceAllString(sql, "''"); strings.ContainsAny(bare, ";{") {
				t.Errorf("%s is not one statement: %s", file.name, sql)
			}
			all = append(all, sql)
		}
		return strings.Join(all, "\n")
	}
	single := render(placement{database: "mailriver"})
	for _, foreign := range []string{"Replicated", "ON CLUSTER", "Distributed", "_local"} {
		if strings.Contains(single, foreign) {
			t.Errorf("on one server the migrations hold %q", foreign)
		}
	}
	cluster := render(placement{database: "mailriver", Cluster: "blue"})
	for _, part := range []string{
		"ENGINE = ReplicatedMergeTree\n", "ENGINE = ReplicatedSummingMergeTree(events)",
		"`mailriver`.`events_local` ON CLUSTER 'blue'", "Distributed('blue', 'mailriver', 'events_local'",
		"replicated_deduplication_window = 10000", "ENGINE = ReplicatedReplacingMergeTree(state_offset, deleted)",
		"Distributed('blue', 'mailriver', 'suppression_states_local', cityHash64(address))",
		"Distributed('blue', 'mailriver', 'lead_score_states_local', cityHash64(recipient))",
		"Distributed('blue', 'mailriver', 'lead_signal_rows_local', cityHash64(recipient))",
		"ENGINE = ReplicatedReplacingMergeTree(state_offset)\n",
	} {
		if !strings.Contains(cluster, part) {
			t.Errorf("on a cluster the migrations lack %q", part)
		}
	}
	for statement := range strings.SplitSeq(cluster, "CREATE ") {
		if statement != "" && !strings.Contains(statement, "ON CLUSTER 'blue'") {
			t.Errorf("this statement would run on one server only: CREATE %s", statement)
		}
	}
}
