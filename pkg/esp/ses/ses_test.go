package ses_test

import (
	"testing"

	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/esp/ses"
)

func TestProvider(t *testing.T) { esptest.Parse(t, ses.Provider) }
