package chdb

import (
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// copyBlocks copies Native blocks for a client that asked for a protocol
// version: from version 1 on a block begins with a block info, and later
// versions put a flag before each column. The library only writes version 0,
// and there is no way to find the end of a column without reading it, so the
// blocks are decoded and encoded by the driver's own code. A type that it does
// not know is one that a Go client could not read either.
func copyBlocks(dst io.Writer, src io.Reader, revision uint64) error {
	in := chproto.NewReader(src)
	var out chproto.Buffer
	for {
		block := proto.Block{ServerContext: &column.ServerContext{Revision: revision, VersionMajor: 26, Timezone: time.UTC}}
		err := block.Decode(in, 0)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = block.Encode(&out, revision)
		}
		if err != nil {
			return raise(codeNotImplemented, "NOT_IMPLEMENTED",
				"The embedded server cannot write this answer as Native for client_protocol_version: "+err.Error())
		}
		if _, err := dst.Write(out.Buf); err != nil {
			return err
		}
		out.Reset()
	}
}

// maxFrame keeps the frames of ClickHouse's own compression as small as a
// server's.
const maxFrame = 1 << 20

// framer compresses an answer as compress=1 asks for: in frames with a
// checksum, which exist only in this protocol.
type framer struct{ w *compress.Writer }

func newFramer(method string) (*framer, error) {
	switch strings.ToUpper(method) {
	case "", "LZ4":
		return &framer{compress.NewWriter(compress.LevelZero, compress.LZ4)}, nil
	case "LZ4HC":
		return &framer{compress.NewWriter(compress.LevelLZ4HCDefault, compress.LZ4HC)}, nil
	case "ZSTD":
		return &framer{compress.NewWriter(compress.LevelZero, compress.ZSTD)}, nil
	case "NONE":
		return &framer{compress.NewWriter(compress.LevelZero, compress.None)}, nil
	}
	return nil, raise(codeBadArguments, "BAD_ARGUMENTS",
		"The embedded server does not know network_compression_method "+method)
}

func (f *framer) frames(data []byte) ([]byte, error) {
	var out []byte
	for len(data) > 0 {
		n := min(len(data), maxFrame)
		if err := f.w.Compress(data[:n]); err != nil {
			return nil, fmt.Errorf("compress: %w", err)
		}
		out = append(out, f.w.Data...)
		data = data[n:]
	}
	return out, nil
}

// unframer reads what a framer wrote. The driver's reader wraps io.EOF, also
// in the middle of a frame.
type unframer struct {
	io.Closer
	frames *compress.Reader
	in     *counter
}

func newUnframer(in io.ReadCloser) *unframer {
	count := &counter{Reader: in}
	return &unframer{Closer: in, frames: compress.NewReader(count), in: count}
}

func (u *unframer) Read(p []byte) (int, error) {
	before := u.in.n
	n, err := u.frames.Read(p)
	switch {
	case !errors.Is(err, io.EOF):
		return n, err
	case u.in.n == before:
		return n, io.EOF
	}
	return n, io.ErrUnexpectedEOF
}

type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// body returns the request's body as it was before any compression.
func body(r *http.Request) (io.ReadCloser, error) {
	var in io.ReadCloser
	switch encoding := strings.ToLower(r.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		in = io.NopCloser(r.Body)
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, raise(codeCannotDecompress, "CANNOT_DECOMPRESS", "The body is not gzip: "+err.Error())
		}
		in = z
	case "deflate":
		z, err := zlib.NewReader(r.Body)
		if err != nil {
			return nil, raise(codeCannotDecompress, "CANNOT_DECOMPRESS", "The body is not deflate: "+err.Error())
		}
		in = z
	case "br":
		in = io.NopCloser(brotli.NewReader(r.Body))
	case "zstd":
		z, err := zstd.NewReader(r.Body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return nil, raise(codeCannotDecompress, "CANNOT_DECOMPRESS", "The body is not zstd: "+err.Error())
		}
		in = z.IOReadCloser()
	default:
		return nil, raise(codeNotImplemented, "NOT_IMPLEMENTED",
			"The embedded server does not know Content-Encoding "+encoding+"; it knows gzip, deflate, br and zstd")
	}
	if isOn(r.URL.Query().Get("decompress")) {
		in = newUnframer(in)
	}
	return in, nil
}

func isOn(value string) bool { return value == "1" || strings.EqualFold(value, "true") }
