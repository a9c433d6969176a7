package clickhousetest_test

import (
	"testing"

	"mailriver/pkg/clickhouse/clickhousetest"
)

func TestMemory_conforms(t *testing.T) {
	clickhousetest.Conform(t, func(*testing.T) clickhousetest.Sink { return &clickhousetest.Memory{} })
}
