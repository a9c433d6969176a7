package chdb

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	data := bytes.Repeat([]byte("a row of some length\n"), 100_000) // more than one frame
	for _, method := range []string{"", "lz4", "LZ4HC", "ZSTD", "NONE"} {
		f, err := newFramer(method)
		if err != nil {
			t.Fatalf("newFramer(%q) = %v, want nil", method, err)
		}
		frames, err := f.frames(data)
		if err != nil {
			t.Fatalf("frames(%s) = %v, want nil", method, err)
		}
		got, err := io.ReadAll(newUnframer(io.NopCloser(bytes.NewReader(frames))))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("unframer(%s) = %d bytes, %v, want %d, nil", method, len(got), err, len(data))
		}
		for _, cut := range []int{1, len(frames) - 1, len(frames) / 2, len(frames) - 30, 25} {
			_, err := io.ReadAll(newUnframer(io.NopCloser(bytes.NewReader(frames[:cut]))))
			if err == nil {
				t.Errorf("unframer(%s, %d of %d bytes) = nil, want an error", method, cut, len(frames))
			}
		}
	}
	if _, err := newFramer("snappy"); err == nil {
		t.Error(`newFramer("snappy") = nil, want an error`)
	}
}

func TestUnframerCutBetweenHeaderAndData(t *testing.T) {
	f, err := newFramer("LZ4")
	if err != nil {
		t.Fatal(err)
	}
	frames, err := f.frames([]byte("one frame"))
	if err != nil {
		t.Fatal(err)
	}
	const header = 16 + 9 // checksum, method and two sizes
	_, err = io.ReadAll(newUnframer(io.NopCloser(bytes.NewReader(frames[:header]))))
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("unframer(header only) = %v, want %v", err, io.ErrUnexpectedEOF)
	}
}
