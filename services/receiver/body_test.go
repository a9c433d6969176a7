package receiver

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestReadBody(t *testing.T) {
	text := func(n int) []byte { return bytes.Repeat([]byte("0123456789"), n/10+1)[:n] }
	broken := errors.New("connection reset")
	tests := []struct {
		name   string
		sent   int
		length int64
		limit  int64
		budget int64
		fail   error // instead of the end of the body
		want   error
	}{
		{name: "empty", length: 0, limit: 10, budget: 10},
		{name: "empty in chunks", length: -1, limit: 10, budget: 100},
		{name: "length known", sent: 10, length: 10, limit: 10, budget: 10},
		{name: "length known, larger than the first read", sent: 300_000, length: 300_000, limit: 1 << 20, budget: 300_000},
		{name: "chunks", sent: 10, length: -1, limit: 10, budget: 100},
		{name: "chunks, larger than the first read", sent: 300_000, length: -1, limit: 1 << 20, budget: 1 << 20},
		{name: "chunks up to the limit", sent: 1 << 17, length: -1, limit: 1 << 17, budget: 1 << 20},
		{name: "length over the limit", sent: 11, length: 11, limit: 10, budget: 100, want: errBodyTooLarge},
		{name: "chunks over the limit", sent: 11, length: -1, limit: 10, budget: 100, want: errBodyTooLarge},
		{name: "chunks far over the limit", sent: 300_000, length: -1, limit: 1 << 17, budget: 1 << 20, want: errBodyTooLarge},
		{name: "no memory at all", sent: 10, length: 10, limit: 10, budget: 9, want: errNoMemory},
		{name: "no memory for the rest", sent: 300_000, length: 300_000, limit: 1 << 20, budget: 200_000, want: errNoMemory},
		{name: "cut", sent: 9, length: 10, limit: 10, budget: 10, want: io.ErrUnexpectedEOF},
		{name: "fails", sent: 9, length: 10, limit: 10, budget: 10, fail: broken, want: broken},
	}
	readers := map[string]func(io.Reader) io.Reader{
		"at once":       func(r io.Reader) io.Reader { return r },
		"end with data": iotest.DataErrReader,
		"by halves":     iotest.HalfReader,
	}
	for _, tt := range tests {
		for how, reader := range readers {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				sent := text(tt.sent)
				var from io.Reader = bytes.NewReader(sent)
				if tt.fail != nil {
					from = io.MultiReader(from, iotest.ErrReader(tt.fail))
				}
				b := &budget{limit: tt.budget}
				held := &hold{from: b}
				got, err := readBody(reader(from), tt.length, tt.limit, held)
				if !errors.Is(err, tt.want) {
					t.Fatalf("readBody() = %v, want %v", err, tt.want)
				}
				if err == nil && !bytes.Equal(got, sent) {
					t.Errorf("readBody() gave %d other bytes, want the %d that were sent", len(got), len(sent))
				}
				if used := b.used.Load(); used != held.n || used > tt.budget || (err == nil && used < int64(len(got))) {
					t.Errorf("%d bytes are held of a budget of %d for a body of %d", used, tt.budget, len(got))
				}
				held.release()
				if used := b.used.Load(); used != 0 {
					t.Errorf("%d bytes are held after release, want 0", used)
				}
			})
		}
	}
}

// TestReadBody_promise: a sender that announces much and sends little holds
// little.
func TestReadBody_promise(t *testing.T) {
	b := &budget{limit: 1 << 30}
	held := &hold{from: b}
	_, err := readBody(bytes.NewReader([]byte("x")), 1<<24, 1<<24, held)
	if !errors.Is(err, io.ErrUnexpectedEOF) || held.n != firstRead {
		t.Errorf("readBody() = %v, holding %d, want unexpected EOF, holding %d", err, held.n, firstRead)
	}
}
