//go:build linux || darwin

package chdb

import (
	"fmt"

	"github.com/ebitengine/purego"
)

// load opens libchdb at path. It can never be closed again.
func load(path string) (*library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	lib := new(library)
	for symbol, field := range lib.symbols() {
		address, err := purego.Dlsym(handle, symbol)
		if err != nil {
			return nil, fmt.Errorf("%s has no %s, it is too old: %w", path, symbol, err)
		}
		purego.RegisterFunc(field, address)
	}
	return lib, nil
}
