package layout

import (
	"errors"
	"strings"
)

// record reads the next CSV record and the line that it begins in. Package
// encoding/csv would go on looking for the end of a quote that is not closed
// through the rest of the file, in memory without bound, and lose every line
// that it passes. Here such a line is an error of its own, and the next one is
// read as if nothing had been.
func (l *lines) record(width func(int) error) (cells []string, number int, err error) {
	first, err := l.next()
	for err == nil && first.err == nil && strings.TrimSpace(first.text) == "" {
		first, err = l.next()
	}
	if err != nil {
		return nil, 0, err
	}
	if first.err != nil {
		return nil, first.number, first.err
	}
	var taken []line // behind the first
	var s splitter
	size := len(first.text)
	err = s.feed(first.text)
	for last := first; err == nil && s.quoted; {
		var more line
		if more, err = l.next(); err != nil {
			if !isEnd(err) {
				return nil, first.number, err
			}
			err = errOpen
			break
		}
		taken = append(taken, more)
		if size += len(last.end) + len(more.text); more.err != nil || size > maxLine {
			err = errOpen
			break
		}
		if err = s.feed(last.end + more.text); err == nil {
			last = more
		}
	}
	if err == nil {
		err = width(len(s.cells) + 1)
	}
	if err != nil {
		l.giveBack(taken)
		return nil, first.number, &LineError{Line: first.number, Detail: err.Error()}
	}
	return s.done(), first.number, nil
}

var (
	errOpen   = errors.New("has a quote that is not closed")
	errBehind = errors.New("has text behind a quoted cell")
	errWithin = errors.New(`has a quote within a cell that is not quoted`)
)

// splitter takes a record apart, as its lines come.
type splitter struct {
	cells  []string
	cell   strings.Builder
	begun  bool // something of the cell has been read
	quoted bool // within quotes
	closed bool // behind the quote that ends a cell
}

// feed reads the text of a line, with the line end before it where it is not the
// first.
func (s *splitter) feed(text string) error {
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case s.quoted && c == '"' && i+1 < len(text) && text[i+1] == '"':
			s.cell.WriteByte('"')
			i++
		case s.quoted && c == '"':
			s.quoted, s.closed = false, true
		case s.quoted:
			s.cell.WriteByte(c)
		case c == ',':
			s.cells = append(s.cells, s.cell.String())
			s.cell.Reset()
			s.begun, s.closed = false, false
		case s.closed:
			return errBehind
		case c == '"' && s.begun:
			return errWithin
		case c == '"':
			s.quoted, s.begun = true, true
		default:
			s.cell.WriteByte(c)
			s.begun = true
		}
	}
	return nil
}

func (s *splitter) done() []string { return append(s.cells, s.cell.String()) }
