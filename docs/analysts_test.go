package docs_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/embedded/chdb"
	"mailriver/pkg/embedded/embeddedtest"
)

func TestMain(m *testing.M) {
	chdb.RunChildIfAsked()
	os.Exit(m.Run())
}

// Every query that the page for analysts shows is one that ClickHouse takes, and
// the answer beside it has the columns that it gives.
func TestAnalysts(t *testing.T) {
	server := embeddedtest.ClickHouse(t)
	db := clickhousetest.Open(t, server)
	block := regexp.MustCompile("(?s)```sql\n(.*?)```\n\n\\|([^\n]+)\\|\n")
	found := block.FindAllStringSubmatch(read(t, "analysts.md"), -1)
	if len(found) == 0 {
		t.Error("the page has no query with an answer")
	}
	for _, m := range found {
		query, header := m[1], m[2]
		var told []string
		for _, cell := range strings.Split(header, "|") {
			told = append(told, strings.TrimSpace(cell))
		}
		query = strings.ReplaceAll(query, "mailriver.", db.Database()+".")
		if got := columns(t, server, query); !slices.Equal(got, told) {
			t.Errorf("the answer has the columns %q, want %q\n%s", told, got, query)
		}
	}
}

// columns returns the columns of the answer, which has no rows.
func columns(t *testing.T, server, query string) []string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server, strings.NewReader(query+" FORMAT JSONCompact"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s %v: %s\n%s", resp.Status, err, body, query)
		return nil
	}
	var answer struct{ Meta []struct{ Name string } }
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, column := range answer.Meta {
		names = append(names, column.Name)
	}
	return names
}
