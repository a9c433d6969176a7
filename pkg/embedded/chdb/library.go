package chdb

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// library is the part of libchdb's C interface that is used here. Everything
// it returns belongs to the library until destroy is called.
type library struct {
	signalHandlers func(on bool)
	connect        func(argc int32, argv **byte) *unsafe.Pointer
	closeConn      func(conn *unsafe.Pointer)
	query          func(conn unsafe.Pointer, sql *byte, n uintptr, format *byte, fn uintptr) unsafe.Pointer
	destroy        func(result unsafe.Pointer)
	buffer         func(result unsafe.Pointer) *byte
	length         func(result unsafe.Pointer) uintptr
	errorText      func(result unsafe.Pointer) *byte
	readRows       func(result unsafe.Pointer) uint64
	readBytes      func(result unsafe.Pointer) uint64
	writtenRows    func(result unsafe.Pointer) uint64
	writtenBytes   func(result unsafe.Pointer) uint64
}

// symbols names the C function behind each field.
func (l *library) symbols() map[string]any {
	return map[string]any{
		"chdb_set_signal_handlers_enabled": &l.signalHandlers,
		"chdb_connect":                     &l.connect,
		"chdb_close_conn":                  &l.closeConn,
		"chdb_query_n":                     &l.query,
		"chdb_destroy_query_result":        &l.destroy,
		"chdb_result_buffer":               &l.buffer,
		"chdb_result_length":               &l.length,
		"chdb_result_error":                &l.errorText,
		"chdb_result_storage_rows_read":    &l.readRows,
		"chdb_result_storage_bytes_read":   &l.readBytes,
		"chdb_result_rows_written":         &l.writtenRows,
		"chdb_result_bytes_written":        &l.writtenBytes,
	}
}

// engine makes connections to one data directory: the library allows one per
// process.
type engine struct {
	lib  *library
	args []string
}

// conn is a session: settings, parameters and the current database belong to
// it, and it runs one query at a time. Opening one takes about a millisecond,
// so every request has its own and none inherits what another one set.
type conn struct {
	lib    *library
	handle *unsafe.Pointer
}

var errConnect = errors.New("libchdb does not connect; what it wrote to stderr says why")

func (e *engine) open() (*conn, error) {
	argv := make([]*byte, 0, len(e.args)+2)
	for _, arg := range append([]string{"clickhouse"}, e.args...) {
		argv = append(argv, &append([]byte(arg), 0)[0])
	}
	argc := int32(len(argv))
	argv = append(argv, nil)
	handle := e.lib.connect(argc, &argv[0])
	runtime.KeepAlive(argv)
	if handle == nil || *handle == nil {
		return nil, errConnect
	}
	return &conn{lib: e.lib, handle: handle}, nil
}

func (c *conn) close() { c.lib.closeConn(c.handle) }

// query runs sql to its end and keeps the whole answer.
func (c *conn) query(sql, format string) (*result, error) {
	q, f := zeroEnded(sql), zeroEnded(format)
	r := c.lib.query(*c.handle, &q[0], uintptr(len(sql)), &f[0], uintptr(len(format)))
	return c.check(r)
}

// run is query for a statement without an answer.
func (c *conn) run(sql string) error {
	r, err := c.query(sql, "TabSeparated")
	if err != nil {
		return err
	}
	r.close()
	return nil
}

func (c *conn) check(handle unsafe.Pointer) (*result, error) {
	if handle == nil {
		return nil, errors.New("libchdb returns no result")
	}
	r := &result{lib: c.lib, handle: handle}
	if message := text(c.lib.errorText(handle)); message != "" {
		r.close()
		return nil, newException(message)
	}
	return r, nil
}

// result is an answer in the library's memory.
type result struct {
	lib    *library
	handle unsafe.Pointer
}

// bytes is valid until close.
func (r *result) bytes() []byte {
	n := r.lib.length(r.handle)
	if n == 0 {
		return nil
	}
	return unsafe.Slice(r.lib.buffer(r.handle), n)
}

func (r *result) summary() summary {
	return summary{
		readRows:     r.lib.readRows(r.handle),
		readBytes:    r.lib.readBytes(r.handle),
		writtenRows:  r.lib.writtenRows(r.handle),
		writtenBytes: r.lib.writtenBytes(r.handle),
	}
}

func (r *result) close() { r.lib.destroy(r.handle) }

type summary struct{ readRows, readBytes, writtenRows, writtenBytes uint64 }

func (s summary) String() string {
	return fmt.Sprintf(`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d","written_bytes":"%d"}`,
		s.readRows, s.readBytes, s.writtenRows, s.writtenBytes)
}

// zeroEnded returns s with a zero byte, so that there is always a first byte
// to point at.
func zeroEnded(s string) []byte { return append([]byte(s), 0) }

func text(p *byte) string {
	if p == nil {
		return ""
	}
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}
