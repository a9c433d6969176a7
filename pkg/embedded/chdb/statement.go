package chdb

import "strings"

// statement is what the HTTP layer must know about a query before it hands it
// to the engine: the library reads data from files and writes answers to
// files, and accepts things on its command line that a server refuses. The
// grammar itself stays the engine's business.
type statement struct {
	verb    string // first word, upper case: SELECT, WITH, INSERT, ...
	query   string // without FORMAT and what follows it, comments at the end, and semicolon
	format  string // of the FORMAT clause, as written; empty if there is none
	rest    string // what follows the FORMAT clause: SETTINGS
	several bool   // something follows a semicolon
	outfile bool   // INTO OUTFILE
	insert  *insert
}

// answers says whether the statement has an answer that can be directed to a
// file. Everything else answers little or nothing.
func (st *statement) answers() bool {
	switch st.verb {
	case "SELECT", "WITH", "EXPLAIN", "SHOW", "DESCRIBE", "DESC", "EXISTS", "CHECK":
		return true
	}
	return false
}

// insert is an INSERT whose data is not a SELECT.
type insert struct {
	target   string // "INSERT INTO t (a, b)"
	settings string // "SETTINGS x = 1", or empty
	format   string // as written, "Values" for VALUES, empty if neither was
	data     int    // where inline data begins, -1 if the statement ends before any
	infile   bool   // reads a file of the client, which is none of ours
}

// parse reads a statement, or the beginning of one that carries data.
func parse(sql string) statement {
	s := scanner{src: sql}
	first := s.next()
	for first.is("(") {
		first = s.next()
	}
	st := statement{verb: strings.ToUpper(first.word())}
	if st.verb == "INSERT" {
		if st.insert = s.insert(); st.insert != nil {
			st.format = st.insert.format
			return st
		}
	}
	// A FORMAT clause counts only if nothing but SETTINGS follows it: "format"
	// may also be a column.
	var last, clause, format token
	s = scanner{src: sql}
	for {
		t := s.next()
		if t.kind == end {
			break
		}
		if last.is(";") {
			st.several = true
		}
		if t.is(";") {
			last = t
			continue
		}
		switch {
		case t.keyword("OUTFILE") && last.keyword("INTO"):
			st.outfile = true
		case t.keyword("INSERT") && s.depth == 0 && st.verb == "WITH":
			st.verb = "INSERT"
		}
		switch {
		case s.depth == 0 && t.kind == name && last.keyword("FORMAT"):
			clause, format = last, t
		case format.kind == name && last == format && !t.keyword("SETTINGS"):
			format = token{}
		}
		last = t
		st.query, st.rest = sql[:t.end], ""
		if format.kind == name {
			st.query, st.rest = sql[:clause.start], strings.TrimSpace(sql[format.end:t.end])
		}
	}
	st.query, st.format = strings.TrimSpace(st.query), format.text
	return st
}

// insert parses what follows INSERT. It returns nil for an INSERT ... SELECT.
func (s *scanner) insert() *insert {
	in := &insert{data: -1}
	t := s.next()
	if t.keyword("INTO") {
		t = s.next()
	}
	if t.keyword("TABLE") {
		t = s.next()
	}
	if t.keyword("FUNCTION") {
		t = s.next()
	}
	// The name comes first, so that a table may be called "format" or "values".
	target, settings := t.end, -1
	for {
		at := *s
		if !s.next().is(".") {
			*s = at
			break
		}
		target = s.next().end
	}
	for last := (token{}); ; last = t {
		t = s.next()
		switch {
		case t.kind == end, t.is(";"):
			in.finish(s.src, target, settings, t.start)
			return in
		case last.is("(") && (t.keyword("SELECT") || t.keyword("WITH")):
			return nil
		case s.depth > 0 || t.is(")"):
			if settings < 0 {
				target = t.end
			}
		case t.keyword("PARTITION"), last.keyword("PARTITION"), last.keyword("BY"):
			target = t.end
		case t.keyword("FROM"):
			in.infile = true
		case t.keyword("SELECT"), t.keyword("WITH"), t.keyword("WATCH"):
			return nil
		case t.keyword("SETTINGS"):
			settings = t.start
		case t.keyword("VALUES"):
			in.format, in.data = "Values", t.end
			in.finish(s.src, target, settings, t.start)
			return in
		case t.keyword("FORMAT"):
			f := s.next()
			in.format, in.data = f.text, dataStart(s.src, f.end)
			in.finish(s.src, target, settings, t.start)
			return in
		}
	}
}

func (in *insert) finish(src string, targetEnd, settings, clause int) {
	in.target = strings.TrimSpace(src[:targetEnd])
	if settings >= 0 {
		in.settings = strings.TrimSpace(src[settings:clause])
	}
}

// dataStart is where data begins after "FORMAT x": after blanks and one line
// end, so that a row may itself begin with an empty line.
func dataStart(src string, at int) int {
	for at < len(src) && strings.IndexByte(" \t\f", src[at]) >= 0 {
		at++
	}
	if at < len(src) && src[at] == ';' {
		at++
	}
	if at < len(src) && src[at] == '\r' {
		at++
	}
	if at < len(src) && src[at] == '\n' {
		at++
	}
	return at
}

type kind int

const (
	end kind = iota
	name
	quoted
	symbol
)

type token struct {
	kind       kind
	text       string
	start, end int
}

func (t token) word() string {
	if t.kind == name && !strings.ContainsAny(t.text, "`\"") {
		return t.text
	}
	return ""
}
func (t token) keyword(w string) bool { return strings.EqualFold(t.word(), w) }
func (t token) is(s string) bool      { return t.kind == symbol && t.text == s }

// scanner splits SQL into words, quoted things and symbols, and leaves out
// blanks and comments. Everything that is not closed runs to the end.
type scanner struct {
	src   string
	at    int
	depth int // of open parentheses and brackets
}

func (s *scanner) next() token {
	s.skip()
	if s.at >= len(s.src) {
		return token{start: len(s.src), end: len(s.src)}
	}
	from := s.at
	c := s.src[from]
	switch {
	case isWord(c):
		for s.at < len(s.src) && isWord(s.src[s.at]) {
			s.at++
		}
		return s.token(name, from)
	case c == '`' || c == '"':
		s.quote(c)
		return s.token(name, from)
	case c == '\'':
		s.quote(c)
		return s.token(quoted, from)
	case c == '$':
		if s.heredoc() {
			return s.token(quoted, from)
		}
	case c == '(' || c == '[' || c == '{':
		s.depth++
	case c == ')' || c == ']' || c == '}':
		s.depth--
	}
	s.at = from + 1
	return s.token(symbol, from)
}

func (s *scanner) token(k kind, from int) token {
	return token{kind: k, text: s.src[from:s.at], start: from, end: s.at}
}

func (s *scanner) skip() {
	for s.at < len(s.src) {
		rest := s.src[s.at:]
		switch {
		case strings.IndexByte(" \t\r\n\f\v", rest[0]) >= 0:
			s.at++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "#!"), strings.HasPrefix(rest, "# "):
			s.to("\n")
		case strings.HasPrefix(rest, "/*"):
			s.to("*/")
		default:
			return
		}
	}
}

// to moves behind the next mark, or to the end.
func (s *scanner) to(mark string) {
	if i := strings.Index(s.src[s.at:], mark); i >= 0 {
		s.at += i + len(mark)
		return
	}
	s.at = len(s.src)
}

// quote moves behind a string, in which a backslash escapes and the quote
// itself may be doubled.
func (s *scanner) quote(q byte) {
	for s.at++; s.at < len(s.src); s.at++ {
		switch s.src[s.at] {
		case '\\':
			s.at++
		case q:
			if s.at+1 < len(s.src) && s.src[s.at+1] == q {
				s.at++
				continue
			}
			s.at++
			return
		}
	}
	s.at = len(s.src)
}

// heredoc moves behind $tag$...$tag$, and reports whether it was one.
func (s *scanner) heredoc() bool {
	i := s.at + 1
	for i < len(s.src) && isWord(s.src[i]) && s.src[i] != '$' {
		i++
	}
	if i >= len(s.src) || s.src[i] != '$' {
		return false
	}
	tag := s.src[s.at : i+1]
	s.at = i + 1
	s.to(tag)
	return true
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
