package replica

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Pebble states what an order of keys must keep to, and comes with a check of it.
func TestPrefixComparer(t *testing.T) {
	prefixes := [][]byte{{}, []byte("a"), []byte("ab"), []byte("ab\x01"), []byte("b"), []byte("e\xff")}
	suffixes := [][]byte{{}, []byte("\x00"), []byte("\x00\x00"), []byte("\x00x"), []byte("\x00x\x00y"), []byte("\x00\xff")}
	if err := pebble.CheckComparer(prefixComparer(), prefixes, suffixes); err != nil {
		t.Error(err)
	}
}

// However the work is divided, results stand where their records do.
func TestMapAll(t *testing.T) {
	for _, n := range []int{0, 1, perTask, perTask + 1, 10 * perTask} {
		records := make([]*kgo.Record, n)
		for i := range records {
			records[i] = &kgo.Record{Key: []byte(strconv.Itoa(i))}
		}
		mapped := mapAll(func(r *kgo.Record) (key, value []byte, err error) {
			if len(r.Key) == 1 {
				err = fmt.Errorf("refused: %s", r.Key)
			}
			return r.Key, nil, err
		}, records)
		if len(mapped) != n {
			t.Errorf("mapAll(%d records) has %d results", n, len(mapped))
		}
		for i, e := range mapped {
			want := strconv.Itoa(i)
			if i < 10 && (e.err == nil || e.key != nil) || i >= 10 && string(e.key) != want {
				t.Fatalf("mapAll(%d records)[%d] = %q, %v, want %s", n, i, e.key, e.err, want)
			}
		}
	}
}

func TestOverlay_drop(t *testing.T) {
	o := newOverlay()
	o.add(entry{key: []byte("a"), value: []byte("1")}, 0, 10)
	o.add(entry{key: []byte("b"), value: []byte("2")}, 0, 11)
	o.add(entry{key: []byte("a"), value: []byte("3")}, 0, 12)
	o.add(entry{key: []byte("c"), value: []byte("4")}, 1, 5)
	for _, tt := range []struct {
		position int64
		want     string
	}{
		{10, "a=3 b=2 c=4"},
		{11, "a=3 b=2 c=4"}, // the older a leaves, the newer one stays
		{12, "a=3 c=4"},
		{13, "c=4"},
	} {
		o.drop(map[int32]int64{0: tt.position})
		got := ""
		for _, key := range []string{"a", "b", "c"} {
			if own, ok := o.entries[key]; ok {
				got += " " + key + "=" + string(own.value)
			}
		}
		if got != " "+tt.want {
			t.Errorf("drop(%d) leaves%s, want %s", tt.position, got, tt.want)
		}
	}
	if o.drop(map[int32]int64{1: 6}); len(o.entries) != 0 || len(o.order) != 0 {
		t.Errorf("at the end %d entries and %d partitions are left, want none", len(o.entries), len(o.order))
	}
}

// A sweep of several parts looks at every entry once.
func TestStore_sweepInParts(t *testing.T) {
	s, err := openStore(Config{
		Topic: "swept", Dir: t.TempDir(), CacheBytes: 1 << 20, MemTableBytes: 8 << 20,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	const n = 2*perSweep + 1
	mapped := make([]entry, n)
	for i := range mapped {
		mapped[i] = entry{key: binary.BigEndian.AppendUint32(nil, uint32(i)), value: []byte{}}
	}
	if _, err := s.apply(mapped, map[int32]int64{0: n}); err != nil {
		t.Fatal(err)
	}
	c := &Copy{store: s}
	asked := 0
	third := func(key, _ []byte) bool {
		asked++
		return binary.BigEndian.Uint32(key)%3 == 0
	}
	deleted, err := c.Sweep(third)
	if want := (n + 2) / 3; err != nil || deleted != want || asked != n {
		t.Errorf("Sweep() = %d, %v after %d entries, want %d of %d", deleted, err, asked, want, n)
	}
	if deleted, err := c.Sweep(third); err != nil || deleted != 0 {
		t.Errorf("second Sweep() = %d, %v, want 0", deleted, err)
	}
}
