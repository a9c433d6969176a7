package chdb

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxQuery bounds a statement without its data. The engine's own
	// max_query_size is a quarter of it.
	maxQuery = 1 << 20
	// maxInsert bounds the decoded body of one INSERT. It is written to a file
	// before the engine reads it, so this is disk and not memory.
	maxInsert = 4 << 30
	// maxHeld is how much of an answer is held back before the status is sent,
	// so that an error of a short query is a status and not a broken body.
	maxHeld = 1 << 20
	// maxQueries run at a time; others wait for waitForSlot.
	maxQueries  = 32
	waitForSlot = 30 * time.Second
)

// server speaks ClickHouse's HTTP interface for an engine.
type server struct {
	engine    *engine
	dir       string // for the bodies of inserts and the pipes of answers
	maxMemory int64  // of one query, unless it says otherwise
	slots     chan struct{}
}

func newServer(e *engine, dir string, maxMemory int64) *server {
	return &server{engine: e, dir: dir, maxMemory: maxMemory, slots: make(chan struct{}, maxQueries)}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-ClickHouse-Server-Display-Name", "mailriver-embedded")
	h.Set("X-ClickHouse-Timezone", "UTC")
	switch {
	case !sameOrigin(r):
		// There is no password, so a web page must not be able to ask.
		fail(w, raise(codeAccessDenied, "ACCESS_DENIED", "Requests of other origins are refused"))
	case r.Method == http.MethodOptions, r.Method == http.MethodHead:
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/ping", r.URL.Path == "/replicas_status",
		r.URL.Path == "/" && r.Method == http.MethodGet && r.URL.Query().Get("query") == "":
		h.Set("Content-Type", "text/plain; charset=UTF-8")
		_, _ = io.WriteString(w, "Ok.\n")
	case r.URL.Path != "/":
		http.Error(w, "There is no handle "+r.URL.Path+". The embedded server has / and /ping.", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		h.Set("Allow", "GET, POST")
		http.Error(w, "Use GET or POST.", http.StatusMethodNotAllowed)
	default:
		s.serve(w, r)
	}
}

// sameOrigin is false for a request that a page of another site makes.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host == r.Host
}

// request is one query with everything that its URL says about it.
type request struct {
	statement
	sql      string
	data     io.Reader // of an INSERT
	id       string
	format   string
	settings map[string]string
	params   map[string]string
	database string
	readonly bool
	revision uint64  // of the Native format, 0 is none
	frames   *framer // compress=1
	gzip     bool
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	req, err := newRequest(r)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("X-ClickHouse-Query-Id", req.id)

	waiting, cancel := context.WithTimeout(r.Context(), waitForSlot)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-waiting.Done():
		fail(w, raise(codeTooManyQueries, "TOO_MANY_SIMULTANEOUS_QUERIES",
			fmt.Sprintf("Too many simultaneous queries. Maximum: %d", maxQueries)))
		return
	}

	out := &answer{w: w, req: req}
	if err := s.run(r.Context(), req, out); err != nil {
		out.fail(err)
		return
	}
	out.finish()
}

// run executes req on a session of its own.
func (s *server) run(ctx context.Context, req *request, out *answer) error {
	c, err := s.engine.open()
	if err != nil {
		return err
	}
	defer c.close()
	tag := req.settings["log_comment"]
	if tag == "" {
		tag = "mailriver-" + newID()
	}
	if err := s.prepare(c, req, tag); err != nil {
		return err
	}

	if req.insert != nil {
		return s.insert(c, req, out)
	}
	if req.settings["log_comment"] == "" {
		// A client that has gone away wants no answer. A write is left to end:
		// whoever sends it again does so with the same deduplication token.
		stop := context.AfterFunc(ctx, func() { s.kill(tag) })
		defer stop()
	}
	if req.answers() {
		return s.answer(c, req, out)
	}
	r, err := c.query(req.sql, req.format)
	if err != nil {
		return err
	}
	defer r.close()
	out.summary = r.summary()
	_, err = out.Write(r.bytes())
	return err
}

// prepare makes a new session what a server's would be, and then what the
// request asks for.
func (s *server) prepare(c *conn, req *request, tag string) error {
	sets := []string{
		"max_memory_usage=" + strconv.FormatInt(s.maxMemory, 10),
		"log_comment=" + literal(tag),
		// What the library, being a command line tool, has otherwise.
		"implicit_select=0", "allow_introspection_functions=0",
		// Inserts are acknowledged when they are on disk.
		"async_insert=0",
		// The profilers interrupt threads by signals, some of which are Go's.
		"query_profiler_real_time_period_ns=0", "query_profiler_cpu_time_period_ns=0",
	}
	if err := c.run("SET " + strings.Join(sets, ", ")); err != nil {
		return err
	}
	if req.database != "" {
		if err := c.run("USE " + identifier(req.database)); err != nil {
			return err
		}
	}
	sets = sets[:0]
	for _, name := range slices.Sorted(maps.Keys(req.settings)) {
		sets = append(sets, name+"="+literal(req.settings[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(req.params)) {
		sets = append(sets, "param_"+name+"="+literal(req.params[name]))
	}
	if req.readonly {
		sets = append(sets, "readonly=2")
	}
	if len(sets) == 0 {
		return nil
	}
	return c.run("SET " + strings.Join(sets, ", "))
}

// insert writes the data to a file, because the library reads none from
// memory, and has it read from there. Only a complete body gets that far.
func (s *server) insert(c *conn, req *request, out *answer) error {
	f, err := os.CreateTemp(s.dir, "insert-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	defer func() { _ = f.Close() }()
	n, err := io.Copy(f, io.LimitReader(req.data, maxInsert+1))
	switch {
	case err != nil:
		if _, ok := errors.AsType[*exception](err); ok {
			return err
		}
		return raise(codeCannotReadAllData, "CANNOT_READ_ALL_DATA", "The body ended early or does not decompress: "+err.Error())
	case n > maxInsert:
		return raise(codeQueryIsTooLarge, "QUERY_IS_TOO_LARGE", fmt.Sprintf("The data is larger than %d bytes", int64(maxInsert)))
	}
	sql := fmt.Sprintf("%s FROM INFILE %s COMPRESSION 'none' %s FORMAT %s",
		req.insert.target, literal(f.Name()), req.insert.settings, req.format)
	r, err := c.query(sql, "Null")
	if err != nil {
		if ex, ok := errors.AsType[*exception](err); ok {
			// The file is ours and means nothing to the client.
			ex.text = strings.ReplaceAll(ex.text, f.Name(), "the request body")
		}
		return err
	}
	defer r.close()
	out.summary = r.summary()
	return nil
}

// answer runs a query whose answer the engine writes to a named pipe: so it is
// sent while the query runs, in every format, and nobody holds it in memory.
// What the library's own interface streams is whole documents, one for each
// block, which are one answer only in some formats.
func (s *server) answer(c *conn, req *request, out *answer) error {
	path := filepath.Join(s.dir, "answer-"+newID())
	r, w, err := openPipe(path)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	defer func() { _ = r.Close() }() // an engine that still writes then fails, and ends

	type outcome struct {
		summary summary
		err     error
	}
	ended := make(chan outcome, 1)
	go func() {
		defer func() { _ = w.Close() }() // the last writer: what is in the pipe is all
		sql := fmt.Sprintf("%s\nINTO OUTFILE %s APPEND COMPRESSION 'none' FORMAT %s %s",
			req.query, literal(path), req.format, req.rest)
		result, err := c.query(sql, req.format)
		if err != nil {
			ended <- outcome{err: err}
			return
		}
		defer result.close()
		ended <- outcome{summary: result.summary()}
	}()

	if req.revision > 0 {
		err = copyBlocks(out, r, req.revision)
	} else {
		_, err = io.Copy(struct{ io.Writer }{out}, r)
	}
	if err != nil {
		_ = r.Close()
	}
	end := <-ended
	if end.err != nil {
		return end.err
	}
	out.summary = end.summary
	return err
}

// kill ends the query that runs with the tag. SYNC would wait for the session
// to run its next statement, which it never does.
func (s *server) kill(tag string) {
	c, err := s.engine.open()
	if err != nil {
		return
	}
	defer c.close()
	_ = c.run("KILL QUERY WHERE Settings['log_comment'] = " + literal(tag) + " ASYNC FORMAT Null")
}

// newRequest reads a request as far as the end of its statement.
func newRequest(r *http.Request) (*request, error) {
	in, err := body(r)
	if err != nil {
		return nil, err
	}
	values := r.URL.Query()
	req := &request{
		id:       values.Get("query_id"),
		readonly: r.Method == http.MethodGet,
		settings: make(map[string]string),
		params:   make(map[string]string),
		database: cmp.Or(values.Get("database"), r.Header.Get("X-ClickHouse-Database")),
	}
	if req.id == "" {
		req.id = newID()
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		return nil, raise(codeNotImplemented, "NOT_IMPLEMENTED",
			"The embedded server has no external tables and reads no multipart body")
	}
	if err := req.read(values.Get("query"), in); err != nil {
		return nil, err
	}
	if err := req.check(); err != nil {
		return nil, err
	}
	req.format = cmp.Or(req.statement.format, values.Get("default_format"), r.Header.Get("X-ClickHouse-Format"))
	if req.format == "" && req.insert != nil {
		req.format = "Values"
	}
	req.format = cmp.Or(req.format, "TabSeparated")
	if !settingName.MatchString(req.format) {
		return nil, raise(codeUnknownFormat, "UNKNOWN_FORMAT", "Unknown format "+req.format)
	}
	if err := req.options(values); err != nil {
		return nil, err
	}
	if strings.EqualFold(req.format, "Native") {
		req.revision, _ = strconv.ParseUint(values.Get("client_protocol_version"), 10, 64)
	}
	if isOn(values.Get("compress")) {
		if req.frames, err = newFramer(values.Get("network_compression_method")); err != nil {
			return nil, err
		}
	}
	req.gzip = acceptsGzip(r.Header.Get("Accept-Encoding"))
	return req, nil
}

// read takes the statement from the URL, the body, or both, one after the
// other, and leaves the data of an INSERT to be read.
func (req *request) read(query string, in io.Reader) error {
	sql, rest := query, in
	if query == "" {
		head, err := io.ReadAll(io.LimitReader(in, maxQuery))
		if err != nil {
			return raise(codeCannotReadAllData, "CANNOT_READ_ALL_DATA", "The body ended early or does not decompress: "+err.Error())
		}
		sql = string(head)
	}
	req.statement = parse(sql)
	if req.insert != nil {
		if at := req.insert.data; at >= 0 {
			rest = io.MultiReader(strings.NewReader(sql[at:]), in)
		}
		req.data = rest
		return nil
	}
	more, err := io.ReadAll(io.LimitReader(in, maxQuery+1))
	switch {
	case err != nil:
		return raise(codeCannotReadAllData, "CANNOT_READ_ALL_DATA", "The body ended early or does not decompress: "+err.Error())
	case len(sql)+len(more) > maxQuery:
		return raise(codeQueryIsTooLarge, "QUERY_IS_TOO_LARGE", fmt.Sprintf("The query is larger than %d bytes", maxQuery))
	case len(more) > 0 && query != "":
		sql += string(more)
		req.statement = parse(sql)
	}
	req.sql = sql
	return nil
}

// check refuses what the library would do and a server would not.
func (req *request) check() error {
	switch {
	case req.verb == "" && req.insert == nil && strings.TrimSpace(req.sql) == "":
		return raise(codeSyntaxError, "SYNTAX_ERROR", "Empty query")
	case req.several:
		return raise(codeSyntaxError, "SYNTAX_ERROR", "Multi-statements are not allowed")
	case req.outfile, req.insert != nil && req.insert.infile:
		return raise(codeNotImplemented, "NOT_IMPLEMENTED", "INTO OUTFILE and FROM INFILE are for the command line client")
	}
	return nil
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// options sorts the parameters of the URL: what is not one of the interface's
// own is a setting of the query.
func (req *request) options(values url.Values) error {
	for key := range values {
		value := values.Get(key)
		switch key {
		case "query", "query_id", "database", "default_format", "compress", "decompress",
			"client_protocol_version", "wait_end_of_query", "buffer_size", "stacktrace",
			"user", "password", "quota_key", "role":
			continue
		case "session_id", "session_timeout", "session_check", "close_session":
			return raise(codeNotImplemented, "NOT_IMPLEMENTED", "The embedded server has no sessions")
		}
		if name, ok := strings.CutPrefix(key, "param_"); ok {
			if !settingName.MatchString(name) {
				return raise(codeBadArguments, "BAD_ARGUMENTS", "Query parameter name "+name+" is not an identifier")
			}
			req.params[name] = value
			continue
		}
		if !settingName.MatchString(key) {
			return raise(codeUnknownSetting, "UNKNOWN_SETTING", "Unknown setting "+key)
		}
		req.settings[key] = value
	}
	return nil
}

// answer is the response: status and headers are settled as late as possible.
type answer struct {
	w       http.ResponseWriter
	req     *request
	summary summary
	held    bytes.Buffer
	begun   bool
	out     io.Writer
	zip     *gzip.Writer
	tag     string
}

func (a *answer) Write(data []byte) (int, error) {
	n := len(data)
	if a.req.frames != nil {
		var err error
		if data, err = a.req.frames.frames(data); err != nil {
			return 0, err
		}
	}
	if !a.begun && a.held.Len()+len(data) <= maxHeld {
		a.held.Write(data)
		return n, nil
	}
	if err := a.begin(); err != nil {
		return 0, err
	}
	if _, err := a.out.Write(data); err != nil {
		return 0, err
	}
	return n, nil
}

// begin sends the headers and what was held.
func (a *answer) begin() error {
	if a.begun {
		return nil
	}
	a.begun = true
	h := a.w.Header()
	h.Set("Content-Type", contentType(a.req.format))
	h.Set("X-ClickHouse-Format", a.req.format)
	h.Set("X-ClickHouse-Summary", a.summary.String())
	a.tag = newID()[:16]
	h.Set("X-ClickHouse-Exception-Tag", a.tag)
	a.out = a.w
	if a.req.gzip && a.held.Len() > 0 {
		h.Set("Content-Encoding", "gzip")
		a.zip = gzip.NewWriter(a.w)
		a.out = a.zip
	}
	_, err := a.out.Write(a.held.Bytes())
	a.held.Reset()
	return err
}

func (a *answer) finish() {
	if !a.begun && !a.req.gzip {
		a.w.Header().Set("Content-Length", strconv.Itoa(a.held.Len()))
	}
	if err := a.begin(); err != nil {
		return // the client has gone
	}
	if a.zip != nil {
		_ = a.zip.Close()
	}
}

// fail answers with the error. When a part of the answer is already out, the
// error follows it in the frame that clients look for, and the connection is
// broken off, so that nobody takes the part for the whole.
func (a *answer) fail(err error) {
	if !a.begun {
		fail(a.w, err)
		return
	}
	text := asException(err).text
	fmt.Fprintf(a.out, "\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n", a.tag, text, len(text)+1, a.tag)
	if a.zip != nil {
		_ = a.zip.Flush()
	}
	_ = http.NewResponseController(a.w).Flush()
	panic(http.ErrAbortHandler)
}

func fail(w http.ResponseWriter, err error) {
	ex := asException(err)
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("X-ClickHouse-Exception-Code", strconv.Itoa(ex.code))
	w.WriteHeader(ex.status())
	_, _ = io.WriteString(w, ex.text+"\n")
}

func asException(err error) *exception {
	if ex, ok := errors.AsType[*exception](err); ok {
		return ex
	}
	return raise(codeUnknown, "UNKNOWN_EXCEPTION", err.Error())
}

func contentType(format string) string {
	switch f := strings.ToLower(format); {
	case strings.HasPrefix(f, "json") && !strings.HasSuffix(f, "eachrow"):
		return "application/json; charset=UTF-8"
	case strings.HasPrefix(f, "json"), f == "ndjson":
		return "application/x-ndjson; charset=UTF-8"
	case strings.HasPrefix(f, "csv"):
		return "text/csv; charset=UTF-8; header=" + map[bool]string{true: "present", false: "absent"}[strings.Contains(f, "names")]
	case strings.HasPrefix(f, "tabseparated"), strings.HasPrefix(f, "tsv"):
		return "text/tab-separated-values; charset=UTF-8"
	case f == "native", f == "parquet", f == "orc", strings.HasPrefix(f, "rowbinary"), strings.HasPrefix(f, "arrow"):
		return "application/octet-stream"
	}
	return "text/plain; charset=UTF-8"
}

func acceptsGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") && strings.ReplaceAll(q, " ", "") != "q=0" {
			return true
		}
	}
	return false
}

// literal quotes a string for SQL.
func literal(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// identifier quotes a name for SQL.
func identifier(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(s) + "`"
}

func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// removeStale deletes the files and pipes that a killed process left behind.
func removeStale(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, os.Remove(filepath.Join(dir, f.Name())))
	}
	return errors.Join(errs...)
}
