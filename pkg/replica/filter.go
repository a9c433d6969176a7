package replica

import (
	"bytes"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
)

// filter knows in memory which prefixes have no entry, all but a few of them: a
// look-up of one of these does not ask the store. It may take one that has none
// for one that has, never the other way round. Deletions leave it as it is.
//
// It is a Bloom filter whose bits of one prefix stand in one word, so that a
// question costs one access to memory for each layer, and an answer is never
// torn. When a layer is full, one twice as large follows.
type filter struct {
	prefixed bool // prefixes end before the first zero byte of a key
	seed     maphash.Seed
	// complete says that every entry of the store was added. Until then all
	// prefixes may have entries.
	complete atomic.Bool

	layers atomic.Pointer[[]layer]
	first  int        // prefixes of the first layer
	mu     sync.Mutex // of those who add
	room   int        // prefixes that the last layer still takes
}

type layer []uint64

// A layer has 12 bits for each of its prefixes, of which 4 are set: it takes one
// in fifty strangers for one of them.
const (
	firstLayer    = 1 << 20 // prefixes
	bitsPerPrefix = 12
)

func newFilter(prefixed bool) *filter {
	f := &filter{prefixed: prefixed, seed: maphash.MakeSeed(), first: firstLayer}
	f.layers.Store(&[]layer{})
	return f
}

// absent reports that no entry has the prefix.
func (f *filter) absent(prefix []byte) bool {
	return f != nil && f.complete.Load() && !f.holds(maphash.Bytes(f.seed, prefix))
}

// add takes note of a key, which may be there already. The entry is readable
// only afterwards.
func (f *filter) add(key []byte) {
	if f == nil {
		return
	}
	if i := bytes.IndexByte(key, 0); f.prefixed && i >= 0 {
		key = key[:i]
	}
	hash := maphash.Bytes(f.seed, key)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holds(hash) {
		return
	}
	layers := *f.layers.Load()
	if f.room == 0 {
		f.room = f.first << len(layers)
		grown := make([]layer, len(layers), len(layers)+1)
		copy(grown, layers)
		layers = append(grown, make(layer, f.room*bitsPerPrefix/64))
		f.layers.Store(&layers)
	}
	f.room--
	word, mask := layers[len(layers)-1].place(hash)
	atomic.StoreUint64(word, *word|mask) // readers may be at it
}

func (f *filter) holds(hash uint64) bool {
	for _, l := range *f.layers.Load() {
		if word, mask := l.place(hash); atomic.LoadUint64(word)&mask == mask {
			return true
		}
	}
	return false
}

// place takes the word from the upper bits of a hash and the bits from the lower
// ones.
func (l layer) place(hash uint64) (word *uint64, mask uint64) {
	at, _ := bits.Mul64(hash, uint64(len(l)))
	for range 4 {
		mask |= 1 << (hash & 63)
		hash >>= 6
	}
	return &l[at], mask
}
