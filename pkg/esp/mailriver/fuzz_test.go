package mailriver

import (
	"testing"

	"mailriver/pkg/esp/esptest"
)

func FuzzParse(f *testing.F) { esptest.Fuzz(f, Provider) }
