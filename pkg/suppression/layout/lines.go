package layout

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxLine bounds a line, and a CSV record with the line breaks that it quotes.
// The longest answer of a mail server that a provider keeps is far below it.
const maxLine = 64 << 10

// line is a line of the file without its end.
type line struct {
	number int
	text   string
	end    string // what ended it
	err    error  // a *LineError: the line cannot be used
}

// lines are those of a file. A line that is too long is thrown away as it is
// read.
type lines struct {
	reader *bufio.Reader
	number int
	again  []line // given back, to be read again
}

func newLines(r io.Reader) *lines { return &lines{reader: bufio.NewReaderSize(r, maxLine+2)} }

// next returns the next line, and io.EOF behind the last.
func (l *lines) next() (line, error) {
	if len(l.again) > 0 {
		first := l.again[0]
		l.again = l.again[1:]
		return first, nil
	}
	raw, err := l.reader.ReadSlice('\n')
	if len(raw) == 0 && err != nil {
		return line{}, err
	}
	l.number++
	got := line{number: l.number}
	body, ended := bytes.CutSuffix(raw, []byte("\n"))
	if ended {
		got.end = "\n"
		if rest, ok := bytes.CutSuffix(body, []byte("\r")); ok {
			body, got.end = rest, "\r\n"
		}
	}
	if errors.Is(err, bufio.ErrBufferFull) || len(body) > maxLine {
		got.err = &LineError{Line: got.number, Detail: fmt.Sprintf("is longer than %d bytes", maxLine)}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = l.reader.ReadSlice('\n')
		}
		return got, reading(err)
	}
	if err := reading(err); err != nil {
		return line{}, err
	}
	if l.number == 1 {
		if bytes.HasPrefix(body, []byte("\xff\xfe")) || bytes.HasPrefix(body, []byte("\xfe\xff")) {
			return line{}, errors.New("the file is UTF-16: save it as UTF-8")
		}
		body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	}
	if !utf8.Valid(body) {
		got.err = &LineError{Line: got.number, Detail: "is not UTF-8"}
	}
	got.text = string(body)
	return got, nil
}

// reading is the error of a read that matters: the end of the file comes with
// the last line and again behind it.
func reading(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// giveBack makes lines be read again, before all others.
func (l *lines) giveBack(back []line) { l.again = append(back, l.again...) }
