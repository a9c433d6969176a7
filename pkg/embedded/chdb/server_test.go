package chdb

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestInterface(t *testing.T) {
	p := startIn(t, t.TempDir())
	must(t, p, "CREATE DATABASE fresh")
	must(t, p, "CREATE TABLE fresh.t (a Int32, b String DEFAULT 'd') ENGINE = MergeTree ORDER BY a")

	t.Run("answers", func(t *testing.T) {
		tests := []struct {
			name, sql string
			params    []string
			status    int
			want      string
			prefix    bool
		}{
			{name: "tab separated by default", sql: "SELECT 1, 'a\tb'", status: 200, want: "1\ta\\tb\n"},
			{name: "format clause", sql: "SELECT 1 AS x FORMAT JSONEachRow", status: 200, want: "{\"x\":1}\n"},
			{name: "default_format", sql: "SELECT 1 AS x", params: []string{"default_format", "JSONEachRow"}, status: 200, want: "{\"x\":1}\n"},
			{name: "format clause wins", sql: "SELECT 1 FORMAT CSV", params: []string{"default_format", "JSON"}, status: 200, want: "1\n"},
			{name: "header once", sql: "SELECT number FROM numbers(3) SETTINGS max_block_size = 1 FORMAT TSVWithNames", status: 200, want: "number\n0\n1\n2\n"},
			{name: "totals", sql: "SELECT number % 2 AS k, count() FROM numbers(4) GROUP BY k WITH TOTALS ORDER BY k", status: 200, want: "0\t2\n1\t2\n\n0\t4\n"},
			{name: "no rows", sql: "SELECT 1 WHERE 0", status: 200, want: ""},
			{name: "show", sql: "SHOW DATABASES LIKE 'fre%'", status: 200, want: "fresh\n"},
			{name: "query and body", sql: "+ 1", params: []string{"query", "SELECT 1 "}, status: 200, want: "2\n"},
			{name: "setting", sql: "SELECT getSetting('max_block_size')", params: []string{"max_block_size", "77"}, status: 200, want: "77\n"},
			{name: "setting of the request before", sql: "SELECT getSetting('max_block_size') = 77", status: 200, want: "0\n"},
			{name: "parameter", sql: "SELECT {x:UInt8} + 1, {s:String}", params: []string{"param_x", "41", "param_s", `it's`}, status: 200, want: "42\tit\\'s\n"},
			{name: "parameter of the request before", sql: "SELECT {x:UInt8}", status: 400, want: "Code: 456. DB::Exception: ", prefix: true},
			{name: "database", sql: "SELECT currentDatabase(), count() FROM t", params: []string{"database", "fresh"}, status: 200, want: "fresh\t0\n"},
			{name: "default database", sql: "SELECT currentDatabase()", status: 200, want: "default\n"},
			{name: "unknown database", sql: "SELECT 1", params: []string{"database", "no`pe"}, status: 404, want: "Code: 81. DB::Exception: ", prefix: true},
			{name: "unknown table", sql: "SELECT * FROM nope", status: 404, want: "Code: 60. DB::Exception: ", prefix: true},
			{name: "unknown setting", sql: "SELECT 1", params: []string{"nope", "1"}, status: 404, want: "Code: 115. DB::Exception: ", prefix: true},
			{name: "setting that is no name", sql: "SELECT 1", params: []string{"a=1,b", "1"}, status: 404, want: "Code: 115. DB::Exception: ", prefix: true},
			{name: "syntax error", sql: "SELEC 1", status: 400, want: "Code: 62. DB::Exception: ", prefix: true},
			{name: "empty", sql: "", status: 400, want: "Code: 62. DB::Exception: ", prefix: true},
			{name: "two statements", sql: "SELECT 1; SELECT 2", status: 400, want: "Code: 62. DB::Exception: ", prefix: true},
			{name: "a server needs SELECT", sql: "1 + 1", status: 400, want: "Code: 62. DB::Exception: ", prefix: true},
			{name: "outfile", sql: "SELECT 1 INTO OUTFILE '/tmp/x'", status: 501, want: "Code: 48. DB::Exception: ", prefix: true},
			{name: "infile", sql: "INSERT INTO fresh.t FROM INFILE '/etc/passwd' FORMAT CSV", status: 501, want: "Code: 48. DB::Exception: ", prefix: true},
			{name: "session", sql: "SELECT 1", params: []string{"session_id", "x"}, status: 501, want: "Code: 48. DB::Exception: ", prefix: true},
			{name: "out of memory", sql: "SELECT groupArray(number) FROM numbers(1000000000)", params: []string{"max_memory_usage", "100000000"}, status: 500, want: "Code: 241. DB::Exception: ", prefix: true},
			{name: "limit", sql: "SELECT number FROM numbers(100) FORMAT JSON", params: []string{"max_result_rows", "10"}, status: 500, want: "Code: 396. DB::Exception: ", prefix: true},
			{name: "explain", sql: "EXPLAIN SYNTAX SELECT 1", status: 200, want: "SELECT 1\nFROM system.one\n"},
			{name: "explain with settings", sql: "EXPLAIN SYNTAX SELECT 1 FORMAT CSV SETTINGS max_threads = 1;", status: 200, want: "\"SELECT 1\"\n\"FROM system.one\"\n"},
			{name: "describe", sql: "DESCRIBE TABLE fresh.t FORMAT TSVRaw", status: 200, want: "a\tInt32\t\t\t\t\t\nb\tString\tDEFAULT\t'd'\t\t\t\n"},
			{name: "exists", sql: "EXISTS TABLE fresh.t", status: 200, want: "1\n"},
			{name: "show create", sql: "SHOW CREATE TABLE fresh.t FORMAT Null", status: 200, want: ""},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				r := ask(t, p, tt.sql, tt.params...)
				if r.status != tt.status {
					t.Errorf("status = %d, want %d", r.status, tt.status)
				}
				if r.body != tt.want && !(tt.prefix && strings.HasPrefix(r.body, tt.want)) {
					t.Errorf("body = %q, want %q", r.body, tt.want)
				}
				if code := r.header.Get("X-ClickHouse-Exception-Code"); (code != "") != (tt.status != 200) ||
					!strings.HasPrefix(r.body, "Code: "+code+".") && code != "" {
					t.Errorf("X-ClickHouse-Exception-Code = %q, want that of %q", code, r.body)
				}
			})
		}
	})

	t.Run("inserts", func(t *testing.T) {
		gz := func(s string) string {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			_, _ = io.WriteString(w, s)
			_ = w.Close()
			return b.String()
		}
		frames := func(s string) string {
			f, err := newFramer("LZ4")
			if err != nil {
				t.Fatal(err)
			}
			b, err := f.frames([]byte(s))
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		tests := []struct {
			name, body string
			params     []string
			encoding   string
			want       string
		}{
			{name: "values", body: "INSERT INTO fresh.t VALUES (1, 'x'), (2, 'y; z')", want: "1\tx\n2\ty; z"},
			{name: "columns and a default", body: "INSERT INTO fresh.t (a) FORMAT CSV\n7\n8\n", want: "7\td\n8\td"},
			{name: "query and body", params: []string{"query", "INSERT INTO t (a, b) FORMAT JSONEachRow", "database", "fresh"}, body: `{"a":3,"b":"z"}`, want: "3\tz"},
			{name: "default_format", params: []string{"query", "INSERT INTO fresh.t", "default_format", "TSV"}, body: "4\tq\n", want: "4\tq"},
			{name: "settings clause", body: "INSERT INTO fresh.t SETTINGS insert_null_as_default = 1 FORMAT TSV\n5\t\\N\n", want: "5\td"},
			{name: "select", body: "INSERT INTO fresh.t SELECT number, 'n' FROM numbers(2)", want: "0\tn\n1\tn"},
			{name: "gzip", params: []string{"query", "INSERT INTO fresh.t FORMAT CSV"}, encoding: "gzip", body: gz("6,g\n"), want: "6\tg"},
			{name: "gzip with the query inside", encoding: "gzip", body: gz("INSERT INTO fresh.t FORMAT CSV\n6,h\n"), want: "6\th"},
			{name: "frames", params: []string{"query", "INSERT INTO fresh.t FORMAT CSV", "decompress", "1"}, body: frames("6,l\n"), want: "6\tl"},
			{name: "nothing", params: []string{"query", "INSERT INTO fresh.t FORMAT CSV"}, body: "", want: ""},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				must(t, p, "TRUNCATE TABLE fresh.t")
				req := newPost(t, p, tt.body, tt.params...)
				req.Header.Set("Content-Encoding", tt.encoding)
				if r := roundTrip(t, req); r.status != 200 || r.body != "" {
					t.Fatalf("status = %d, body %q, want 200 and no body", r.status, r.body)
				}
				if got := must(t, p, "SELECT * FROM fresh.t ORDER BY ALL"); got != tt.want {
					t.Errorf("rows = %q, want %q", got, tt.want)
				}
			})
		}
	})

	t.Run("an insert that fails leaves nothing", func(t *testing.T) {
		must(t, p, "TRUNCATE TABLE fresh.t")
		for _, body := range []string{"1,a\nnot a number,b\n", "1,a,c\n"} {
			r := ask(t, p, body, "query", "INSERT INTO fresh.t FORMAT CSV")
			if r.status/100 != 4 || strings.Contains(r.body, "bodies") {
				t.Errorf("INSERT %q = %d %q, want 4xx without the name of a file", body, r.status, r.body)
			}
		}
		req := newPost(t, p, "not gzip", "query", "INSERT INTO fresh.t FORMAT CSV")
		req.Header.Set("Content-Encoding", "gzip")
		if r := roundTrip(t, req); !strings.HasPrefix(r.body, "Code: 271.") {
			t.Errorf("INSERT of broken gzip = %d %q, want code 271", r.status, r.body)
		}
		if got := must(t, p, "SELECT count() FROM fresh.t"); got != "0" {
			t.Errorf("rows = %s, want 0", got)
		}
	})

	t.Run("a body that ends early is not inserted", func(t *testing.T) {
		must(t, p, "TRUNCATE TABLE fresh.t")
		in, out := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
			"http://"+p.Addr()+"/?query=INSERT+INTO+fresh.t+FORMAT+CSV", in)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = io.WriteString(out, "1,a\n")
			_ = out.CloseWithError(errors.New("cable pulled"))
		}()
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
			t.Fatalf("the request = %d, want an error", resp.StatusCode)
		}
		if got := must(t, p, "SELECT count() FROM fresh.t"); got != "0" {
			t.Errorf("rows = %s, want 0", got)
		}
	})

	t.Run("methods and paths", func(t *testing.T) {
		tests := []struct {
			method, path string
			status       int
			body         string
		}{
			{"GET", "/ping", 200, "Ok.\n"},
			{"GET", "/", 200, "Ok.\n"},
			{"GET", "/?query=SELECT+1", 200, "1\n"},
			{"HEAD", "/?query=DROP+TABLE+fresh.t", 204, ""},
			{"OPTIONS", "/", 204, ""},
			{"DELETE", "/", 405, "Use GET or POST.\n"},
			{"GET", "/nope", 404, "There is no handle /nope. The embedded server has / and /ping.\n"},
			{"GET", "/?query=SELECT+getSetting('readonly')", 200, "2\n"},
			{"GET", "/?query=DROP+TABLE+fresh.t", 500, ""},
			{"GET", "/?readonly=0&query=DROP+TABLE+fresh.t", 500, ""},
		}
		for _, tt := range tests {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+p.Addr()+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r := roundTrip(t, req)
			if r.status != tt.status || r.body != tt.body && tt.body != "" {
				t.Errorf("%s %s = %d %q, want %d %q", tt.method, tt.path, r.status, r.body, tt.status, tt.body)
			}
		}
		if got := must(t, p, "EXISTS TABLE fresh.t"); got != "1" {
			t.Errorf("EXISTS TABLE = %s, want 1", got)
		}
	})

	t.Run("a page of another site", func(t *testing.T) {
		req := newPost(t, p, "SELECT 1")
		req.Header.Set("Origin", "https://evil.example")
		if r := roundTrip(t, req); r.status != http.StatusForbidden {
			t.Errorf("status = %d, want 403", r.status)
		}
	})

	t.Run("compressed answers", func(t *testing.T) {
		const sql = "SELECT toString(number) FROM numbers(500000)"
		want := must(t, p, sql)

		req := newPost(t, p, sql)
		req.Header.Set("Accept-Encoding", "gzip")
		r := roundTrip(t, req)
		z, err := gzip.NewReader(strings.NewReader(r.body))
		if err != nil {
			t.Fatalf("gzip answer %q: %v", r.header, err)
		}
		got, err := io.ReadAll(z)
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("gzip answer has %d bytes, err %v, want %d", len(got), err, len(want))
		}
		for _, method := range []string{"LZ4", "ZSTD"} {
			r := ask(t, p, sql, "compress", "1", "network_compression_method", method)
			got, err := io.ReadAll(newUnframer(io.NopCloser(strings.NewReader(r.body))))
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s answer has %d bytes, err %v, want %d", method, len(got), err, len(want))
			}
		}
	})

	t.Run("an error after a part of the answer", func(t *testing.T) {
		req := newPost(t, p, "SELECT repeat('x', 1000), throwIf(number = 50000) FROM numbers(100000) SETTINGS max_block_size = 1000")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || err == nil {
			t.Errorf("status %d, read error %v, want 200 and a broken body", resp.StatusCode, err)
		}
		tag := resp.Header.Get("X-ClickHouse-Exception-Tag")
		if !bytes.Contains(b, []byte("\r\n__exception__\r\n"+tag+"\r\nCode: 395. DB::Exception: ")) {
			t.Errorf("the body ends with %q, want an exception with tag %s", b[max(0, len(b)-400):], tag)
		}
	})

	t.Run("queries run side by side", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		slow := newPost(t, p, "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))", "max_threads", "1")
		ended := make(chan error, 1)
		go func() {
			resp, err := client.Do(slow.WithContext(ctx))
			if err == nil {
				err = errors.New(resp.Status)
				_ = resp.Body.Close()
			}
			ended <- err
		}()
		const running = "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64(number)%' AND query NOT LIKE '%processes%'"
		eventually(t, "the slow query runs", func() bool { return must(t, p, running) == "1" })
		if got := must(t, p, "SELECT 1"); got != "1" {
			t.Errorf("SELECT 1 beside a slow query = %q, want 1", got)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the slow query = %v, want canceled", err)
		}
		eventually(t, "the slow query ends with its client", func() bool { return must(t, p, running) == "0" })
	})
}
