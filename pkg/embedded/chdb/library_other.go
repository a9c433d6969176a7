//go:build !linux && !darwin

package chdb

import (
	"fmt"
	"runtime"
)

func load(path string) (*library, error) {
	return nil, fmt.Errorf("open %s: libchdb does not exist for %s", path, runtime.GOOS)
}
