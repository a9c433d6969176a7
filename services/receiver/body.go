package receiver

import (
	"errors"
	"io"
	"sync/atomic"
)

// budget bounds the bytes of bodies in memory.
type budget struct {
	limit int64
	used  atomic.Int64
}

// hold is one request's part of the budget.
type hold struct {
	from *budget
	n    int64
}

// grow takes n more bytes, or none when the budget has not that many.
func (h *hold) grow(n int64) bool {
	if h.from.used.Add(n) > h.from.limit {
		h.from.used.Add(-n)
		return false
	}
	h.n += n
	return true
}

func (h *hold) shrink(n int64) {
	h.from.used.Add(-n)
	h.n -= n
}

func (h *hold) release() { h.shrink(h.n) }

var (
	errBodyTooLarge = errors.New("body is larger than allowed")
	errNoMemory     = errors.New("too many bytes in flight")
)

// firstRead is taken for a body before any of it has arrived. More is taken as
// it comes: who only promises a large body holds no more than this.
const firstRead = 64 << 10

// readBody reads a body of the given length, or of any up to limit when length
// is negative, into memory of its own: the record keeps the bytes until Kafka
// has them. It holds what it takes.
func readBody(from io.Reader, length, limit int64, h *hold) ([]byte, error) {
	if length > limit {
		return nil, errBodyTooLarge
	}
	most := length
	if length < 0 {
		most = limit + 1 // one more shows that there is more
	}
	size := min(most, firstRead)
	if !h.grow(size) {
		return nil, errNoMemory
	}
	body := make([]byte, size)
	filled := int64(0)
	for {
		switch {
		case filled > limit:
			return nil, errBodyTooLarge
		case filled == length:
			return body, nil
		case filled == size:
			next := min(most, 2*size)
			if !h.grow(next - size) {
				return nil, errNoMemory
			}
			body = append(make([]byte, 0, next), body...)[:next]
			size = next
		}
		n, err := from.Read(body[filled:])
		filled += int64(n)
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return nil, err
		case filled > limit: // the last bytes can come together with the end
			return nil, errBodyTooLarge
		case filled < length:
			return nil, io.ErrUnexpectedEOF
		default:
			return body[:filled:filled], nil
		}
	}
}
