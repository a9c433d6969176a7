package chdb

import "testing"

func TestParse(t *testing.T) {
	tests := []struct {
		name, sql string
		want      statement
	}{
		{"plain", "SELECT 1", statement{verb: "SELECT", query: "SELECT 1"}},
		{"format", "select 1 format JSON", statement{verb: "SELECT", query: "select 1", format: "JSON"}},
		{
			"format and settings", "SELECT 1 FORMAT CSV SETTINGS max_threads = 1; -- x",
			statement{verb: "SELECT", query: "SELECT 1", format: "CSV", rest: "SETTINGS max_threads = 1"},
		},
		{
			"settings and format", "SELECT 1 SETTINGS max_threads = 1 FORMAT CSV;\n",
			statement{verb: "SELECT", query: "SELECT 1 SETTINGS max_threads = 1", format: "CSV"},
		},
		{
			"column called format", "SELECT format FROM t",
			statement{verb: "SELECT", query: "SELECT format FROM t"},
		},
		{
			"column called format, then the clause", "SELECT format x FROM t FORMAT TSV",
			statement{verb: "SELECT", query: "SELECT format x FROM t", format: "TSV"},
		},
		{"format in a string", "SELECT 'a FORMAT JSON'", statement{verb: "SELECT", query: "SELECT 'a FORMAT JSON'"}},
		{
			"escaped quotes", `SELECT 'it''s \' FORMAT CSV' FORMAT TSV`,
			statement{verb: "SELECT", query: `SELECT 'it''s \' FORMAT CSV'`, format: "TSV"},
		},
		{"format in a comment", "SELECT 1 -- FORMAT JSON\n/* FORMAT CSV */", statement{verb: "SELECT", query: "SELECT 1"}},
		{
			"format in a subquery", "SELECT * FROM (SELECT format a)",
			statement{verb: "SELECT", query: "SELECT * FROM (SELECT format a)"},
		},
		{
			"heredoc", "SELECT $x$ FORMAT JSON; $x$ FORMAT CSV",
			statement{verb: "SELECT", query: "SELECT $x$ FORMAT JSON; $x$", format: "CSV"},
		},
		{"not closed", "SELECT 'abc", statement{verb: "SELECT", query: "SELECT 'abc"}},
		{"trailing escape", `SELECT '\`, statement{verb: "SELECT", query: `SELECT '\`}},
		{"two", "SELECT 1; SELECT 2", statement{verb: "SELECT", query: "SELECT 1; SELECT 2", several: true}},
		{"one and a comment", "SELECT 1; -- two", statement{verb: "SELECT", query: "SELECT 1"}},
		{
			"parenthesis", "(SELECT 1) UNION ALL (SELECT 2)",
			statement{verb: "SELECT", query: "(SELECT 1) UNION ALL (SELECT 2)"},
		},
		{
			"outfile", "SELECT 1 INTO OUTFILE 'x'",
			statement{verb: "SELECT", query: "SELECT 1 INTO OUTFILE 'x'", outfile: true},
		},
		{"empty", " \n-- nothing", statement{}},
		{
			"insert select", "INSERT INTO t SELECT 1 FORMAT CSV",
			statement{verb: "INSERT", query: "INSERT INTO t SELECT 1", format: "CSV"},
		},
		{
			"insert with select", "INSERT INTO t WITH 1 AS a SELECT a",
			statement{verb: "INSERT", query: "INSERT INTO t WITH 1 AS a SELECT a"},
		},
		{
			"with insert", "WITH 1 AS a INSERT INTO t SELECT a",
			statement{verb: "INSERT", query: "WITH 1 AS a INSERT INTO t SELECT a"},
		},
		{
			"insert parenthesis select", "INSERT INTO t (SELECT 1)",
			statement{verb: "INSERT", query: "INSERT INTO t (SELECT 1)"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := parse(tt.sql); got != tt.want {
				t.Errorf("parse(%q) = %+v, want %+v", tt.sql, got, tt.want)
			}
		})
	}
}

func TestParseInsert(t *testing.T) {
	tests := []struct {
		name, sql string
		want      insert
		data      string
	}{
		{
			"native", "INSERT INTO db.t (a, `b c`) FORMAT Native\n\x01\x02",
			insert{target: "INSERT INTO db.t (a, `b c`)", format: "Native"},
			"\x01\x02",
		},
		{
			"no columns", "insert into t format CSV\n1,2",
			insert{target: "insert into t", format: "CSV"},
			"1,2",
		},
		{
			"no data", "INSERT INTO t FORMAT CSV",
			insert{target: "INSERT INTO t", format: "CSV"},
			"",
		},
		{
			"no format", "INSERT INTO t",
			insert{target: "INSERT INTO t"},
			"",
		},
		{
			"semicolon", "INSERT INTO t;",
			insert{target: "INSERT INTO t"},
			"",
		},
		{
			"values", "INSERT INTO TABLE t VALUES (1, 'a'), (2, 'b')",
			insert{target: "INSERT INTO TABLE t", format: "Values"},
			" (1, 'a'), (2, 'b')",
		},
		{
			"table called values", "INSERT INTO values VALUES (1)",
			insert{target: "INSERT INTO values", format: "Values"},
			" (1)",
		},
		{
			"column called format", "INSERT INTO t (format, values) FORMAT TSV 1\t2",
			insert{target: "INSERT INTO t (format, values)", format: "TSV"},
			"1\t2",
		},
		{
			"settings", "INSERT INTO t (a) SETTINGS async_insert = 0, x = 'FORMAT' FORMAT RowBinary\r\n\n",
			insert{target: "INSERT INTO t (a)", settings: "SETTINGS async_insert = 0, x = 'FORMAT'", format: "RowBinary"},
			"\n",
		},
		{
			"function", "INSERT INTO FUNCTION null('a Int8') FORMAT CSV 1",
			insert{target: "INSERT INTO FUNCTION null('a Int8')", format: "CSV"},
			"1",
		},
		{
			"infile", "INSERT INTO t FROM INFILE 'x.csv' FORMAT CSV",
			insert{target: "INSERT INTO t", format: "CSV", infile: true},
			"",
		},
		{
			"comment", "/* who */ INSERT INTO t -- FORMAT x\n FORMAT CSV 1",
			insert{target: "/* who */ INSERT INTO t", format: "CSV"},
			"1",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := parse(tt.sql)
			if st.insert == nil {
				t.Fatalf("parse(%q).insert = nil, want %+v", tt.sql, tt.want)
			}
			got := *st.insert
			data := ""
			if got.data >= 0 {
				data = tt.sql[got.data:]
			}
			got.data = 0
			if got != tt.want || data != tt.data {
				t.Errorf("parse(%q).insert = %+v with data %q, want %+v with data %q", tt.sql, got, data, tt.want, tt.data)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("SELECT 'a' FORMAT CSV")
	f.Add("INSERT INTO t (a) SETTINGS x = 1 FORMAT CSV\n1")
	f.Add("INSERT INTO \"t")
	f.Add("$a$ /* '")
	f.Fuzz(func(t *testing.T, sql string) {
		st := parse(sql)
		if in := st.insert; in != nil && in.data > len(sql) {
			t.Errorf("parse(%q).insert.data = %d, want at most %d", sql, in.data, len(sql))
		}
	})
}
