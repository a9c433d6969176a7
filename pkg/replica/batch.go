package replica

import (
	"context"
	"iter"
	"strings"
)

// Batch holds the entries that an owner derives anew from one batch of its
// input: each is read and decoded once, and knows whether it was changed. It is
// for one goroutine.
type Batch[S any] struct {
	copy   *Copy
	decode func(ctx context.Context, value []byte) (S, error)
	byKey  map[string]*Held[S]
	order  []string
}

// Held is an entry of a batch.
type Held[S any] struct {
	State   S
	Known   bool // it was in the copy
	Changed bool
}

// NewBatch returns an empty batch.
func NewBatch[S any](c *Copy, decode func(ctx context.Context, value []byte) (S, error)) *Batch[S] {
	return &Batch[S]{copy: c, decode: decode, byKey: map[string]*Held[S]{}}
}

// Load returns the entry of a local key, which may not be known yet.
func (b *Batch[S]) Load(ctx context.Context, key string) (*Held[S], error) {
	if h, ok := b.byKey[key]; ok {
		return h, nil
	}
	h := &Held[S]{}
	value, known, err := b.copy.Current([]byte(key))
	if err != nil {
		return nil, err
	}
	if known {
		if h.State, err = b.decode(ctx, value); err != nil {
			return nil, err
		}
		h.Known = true
	}
	b.byKey[key] = h
	b.order = append(b.order, key)
	return h, nil
}

// Loaded returns the local keys with a prefix that the batch has loaded.
func (b *Batch[S]) Loaded(prefix string) []string {
	var keys []string
	for _, key := range b.order {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

// Changes goes through the entries that were changed, in the order in which
// they were loaded.
func (b *Batch[S]) Changes() iter.Seq[*Held[S]] {
	return func(yield func(*Held[S]) bool) {
		for _, key := range b.order {
			if h := b.byKey[key]; h.Changed && !yield(h) {
				return
			}
		}
	}
}
