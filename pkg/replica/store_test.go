package replica

import (
	"fmt"
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
