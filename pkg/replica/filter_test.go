package replica

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// A filter that forgets a prefix would answer "not there" for what is. The
// prefixes go over the first layer, whose successor must not hide it.
func TestFilter_neverDenies(t *testing.T) {
	f := newFilter(true)
	f.complete.Store(true)
	f.first = 1 << 13
	n := f.first + f.first/8
	for i := range n {
		f.add([]byte(address(i) + "\x00rest"))
	}
	if got := len(*f.layers.Load()); got != 2 {
		t.Errorf("layers after %d prefixes = %d, want 2", n, got)
	}
	for i := range n {
		if f.absent([]byte(address(i))) {
			t.Fatalf("absent(%s) = true after it was added", address(i))
		}
	}
	// A prefix that the filter takes for known costs what it would without a
	// filter. More than one in twenty would be a bad hash or wrong sizes.
	denied := 0
	for i := range n {
		if f.absent([]byte(address(n + i))) {
			denied++
		}
	}
	if denied < n*19/20 {
		t.Errorf("absent() = true for %d of %d strangers, want 19 in 20", denied, n)
	}
}

// What is there already takes no room, or a topic of changes would fill layers
// with few keys. Without holds in add there are two layers.
func TestFilter_sameAgain(t *testing.T) {
	f := newFilter(true)
	f.first = 1 << 11
	for i := range 10 * f.first {
		f.add(fmt.Appendf(nil, "%d\x00%d", i%1000, i))
	}
	if got := len(*f.layers.Load()); got != 1 {
		t.Errorf("layers after a thousand prefixes = %d, want 1", got)
	}
}

func TestFilter_whole(t *testing.T) {
	f := newFilter(false)
	f.complete.Store(true)
	f.add([]byte("a\x00b"))
	if f.absent([]byte("a\x00b")) || !f.absent([]byte("a")) {
		t.Error("a filter of whole keys takes the part before the zero byte for one")
	}
}

// Whatever is put, deleted, emptied and opened again, Lookup tells exactly what
// Get tells, which asks the store alone. It turns red without the add in apply,
// and without the scan after a restart.
func TestFilter_likeStore(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	cfg := Config{Topic: "filtered", Dir: t.TempDir(), Prefixed: true, Filter: true}
	c := filteredCopy(t, cfg)
	learnt := false
	const keys = 40
	for step := range 400 {
		switch r.IntN(40) {
		case 0:
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			c, learnt = filteredCopy(t, cfg), false
		case 1:
			if err := c.store.discard(kadm.TopicID{1}, time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
			learnt = true
		case 2, 3, 4:
			if err := c.store.learn(t.Context()); err != nil {
				t.Fatal(err)
			}
			learnt = true
		default:
			var batch []entry
			for range r.IntN(5) {
				e := entry{key: fmt.Appendf(nil, "%d\x00x", r.IntN(keys)), value: []byte("v")}
				if r.IntN(3) == 0 {
					e.value = nil
				}
				batch = append(batch, e)
			}
			if _, err := c.store.apply(batch, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.store.filter.Load().complete.Load(); got != learnt {
			t.Fatalf("step %d: complete = %t, want %t", step, got, learnt)
		}
		prefixes := make([][]byte, keys)
		for i := range prefixes {
			prefixes[i] = fmt.Appendf(nil, "%d", i)
		}
		var found [keys]bool
		if err := c.Lookup(prefixes, func(i int, _, _ []byte) bool { found[i] = true; return true }); err != nil {
			t.Fatal(err)
		}
		for i, got := range found {
			_, want, err := c.Get(fmt.Appendf(nil, "%d\x00x", i))
			if err != nil || got != want {
				t.Fatalf("step %d: Lookup(%d) found %t, want %t, %v", step, i, got, want, err)
			}
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Lookup([][]byte{[]byte("absent")}, nil); err != ErrClosed { //nolint:errorlint // as it is documented
		t.Errorf("Lookup() after Close = %v, want ErrClosed", err)
	}
}

// A reader that was told of an entry finds it, while the filter is being made and
// grows and others are applied. It turns red when the filter learns of an entry
// after it can be read.
func TestFilter_concurrently(t *testing.T) {
	cfg := Config{Topic: "filtered", Dir: t.TempDir(), Prefixed: true, Filter: true}
	c := filteredCopy(t, cfg)
	const before, during = 5_000, 5_000
	apply := func(from, to int) {
		var batch []entry
		for i := from; i < to; i++ {
			batch = append(batch, entry{key: []byte(address(i) + "\x00x"), value: []byte("v")})
		}
		if _, err := c.store.apply(batch, nil); err != nil {
			t.Error(err)
		}
	}
	apply(0, before)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = filteredCopy(t, cfg)

	told := make(chan int, during)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.store.learn(t.Context()); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		defer close(told)
		for i := before; i < before+during; i += 10 {
			apply(i, i+10)
			told <- i
		}
	})
	for reader := range 3 {
		wg.Go(func() {
			look := func(at int) {
				found := false
				err := c.Lookup([][]byte{[]byte(address(at))}, func(int, []byte, []byte) bool { found = true; return true })
				if err != nil || !found {
					t.Errorf("Lookup(entry %d) found %t, %v, want it", at, found, err)
				}
			}
			old := reader
			for at := range told {
				look(at)
				look(at + 9)
				old = (old + 7919) % before
				look(old)
			}
		})
	}
	wg.Wait()
	if !c.store.filter.Load().complete.Load() {
		t.Error("filter is not complete after everything was read")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func filteredCopy(t *testing.T, cfg Config) *Copy {
	t.Helper()
	c, err := Open(cfg, unfollowed())
	if err != nil {
		t.Fatal(err)
	}
	return c
}
