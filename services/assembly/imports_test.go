package assembly_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Who may import whom. The linter says the same in the editor; this test asks
// the toolchain, which also sees what comes in through a dependency. Test files
// are not looked at: a test may use what it needs.
//
// A path that ends in "/..." is the package and everything below it.

const (
	kgo      = "github.com/twmb/franz-go/pkg/kgo"
	kfake    = "github.com/twmb/franz-go/pkg/kfake"
	registry = "github.com/twmb/franz-go/pkg/sr"
	srfake   = "github.com/twmb/franz-go/pkg/sr/srfake"
	purego   = "github.com/ebitengine/purego"
)

// builtOn lists all that some packages may be built on, beside the standard
// library, whether imported or brought in by what is imported.
var builtOn = []struct {
	packages string
	on       []string
}{
	{"mailriver/pkg/event", nil},
	{"mailriver/pkg/fault", nil},
	{"mailriver/schemas", nil},
	{"mailriver/pkg/bounce", []string{"mailriver/pkg/event"}},
	{"mailriver/pkg/esp/...", []string{
		"mailriver/pkg/esp/...", "mailriver/pkg/event", "mailriver/pkg/fault", "mailriver/pkg/bounce",
		"github.com/tidwall/gjson", "github.com/tidwall/match", "github.com/tidwall/pretty", // docs/adr/0010
		"golang.org/x/sync/singleflight", // one fetch of a certificate, however many ask
	}},
}

// imports lists all that some packages may import themselves, beside the
// standard library.
var imports = []struct {
	packages string
	may      []string
}{
	{"mailriver/pkg/raw", []string{"mailriver/pkg/esp", "mailriver/pkg/fault", kgo}},
}

// never lists what some packages may not depend on, however far away.
var never = []struct {
	packages, on, why string
}{
	{"mailriver/pkg/...", "mailriver/services/...", "packages know no service"},
	{"mailriver/pkg/esp/...", "net/http", "a provider is pure: what must be fetched comes through esp.Settings.Fetch"},
	{"mailriver/services/mailriver", kfake, "fakes do not belong in the production binary"},
	{"mailriver/services/mailriver", srfake, "fakes do not belong in the production binary"},
	{"mailriver/services/mailriver", purego, "an embedded engine does not belong in the production binary"},
	{"mailriver/services/mailriver", "mailriver/pkg/embedded/...", "embedded mode is addresses: only services/allinone and the tests know that it exists"},
	{"mailriver/services/mailriver", "github.com/pb33f/...", "documents of APIs are checked by tests, docs/adr/0021"},
	{"mailriver/...", "github.com/chdb-io/chdb-go", "it loads libchdb in init and panics without it"},
}

// onlyIn lists who may import something at all.
var onlyIn = []struct {
	imported string
	in       []string
	why      string
}{
	{"github.com/gin-gonic/gin", []string{"mailriver/pkg/httpserver/...", "mailriver/services/..."}, "routes live in services"},
	{"github.com/ClickHouse/...", []string{"mailriver/pkg/clickhouse/...", "mailriver/pkg/embedded/..."}, "pkg/clickhouse speaks to the database"},
	{"github.com/linkedin/goavro/v2", []string{"mailriver/pkg/avro/...", "mailriver/pkg/embedded/..."}, "pkg/avro writes and reads Avro"},
	{registry, []string{"mailriver/pkg/avro/...", "mailriver/pkg/embedded/..."}, "pkg/avro speaks to the registry"},
	{kfake, []string{"mailriver/pkg/embedded/...", "mailriver/pkg/kafka/kafkatest"}, "the embedded broker is for tests and embedded mode"},
	{srfake, []string{"mailriver/pkg/embedded/...", "mailriver/pkg/kafka/kafkatest"}, "the embedded registry is for tests and embedded mode"},
	{purego, []string{"mailriver/pkg/embedded/..."}, "pkg/embedded opens libchdb"},
	{"mailriver/pkg/embedded/...", []string{"mailriver/pkg/embedded/...", "mailriver/services/allinone", "mailriver/services/e2e/..."}, "embedded mode is addresses"},
	{"mailriver/services/assembly", []string{"mailriver/services/mailriver", "mailriver/services/allinone"}, "only mains put services together"},
}

func TestImports(t *testing.T) {
	all := list(t)

	t.Run("built on", func(t *testing.T) {
		for _, rule := range builtOn {
			for _, p := range all.matching(t, rule.packages) {
				for _, dep := range p.Deps {
					if !all[dep].Standard && !matchesAny(dep, rule.on) {
						t.Errorf("%s is built on %s (%s); it may be built on %q",
							p.ImportPath, dep, all.chain(p.ImportPath, dep), rule.on)
					}
				}
			}
		}
	})

	t.Run("imports", func(t *testing.T) {
		for _, rule := range imports {
			for _, p := range all.matching(t, rule.packages) {
				for _, imported := range p.Imports {
					if !all[imported].Standard && !matchesAny(imported, rule.may) {
						t.Errorf("%s imports %s; it may import %q", p.ImportPath, imported, rule.may)
					}
				}
			}
		}
	})

	t.Run("never", func(t *testing.T) {
		for _, rule := range never {
			for _, p := range all.matching(t, rule.packages) {
				for _, dep := range p.Deps {
					if matches(dep, rule.on) {
						t.Errorf("%s depends on %s (%s): %s", p.ImportPath, dep, all.chain(p.ImportPath, dep), rule.why)
					}
				}
			}
		}
	})

	t.Run("only in", func(t *testing.T) {
		for _, rule := range onlyIn {
			all.matching(t, rule.imported)
			for _, p := range all.matching(t, "mailriver/...") {
				for _, imported := range p.Imports {
					if matches(imported, rule.imported) && !matchesAny(p.ImportPath, rule.in) {
						t.Errorf("%s imports %s; only %q may: %s", p.ImportPath, imported, rule.in, rule.why)
					}
				}
			}
		}
	})

	// Services meet in Kafka, and providers share nothing but package esp. Only
	// the lists, services/assembly and esp/all, know them all; mains know the list.
	t.Run("neighbors", func(t *testing.T) {
		for _, parent := range []string{"mailriver/services", "mailriver/pkg/esp"} {
			for _, p := range all.matching(t, parent+"/...") {
				self, reach := neighbor(parent, p.ImportPath), p.Deps
				switch self {
				case "", "assembly", "all":
					continue
				case "mailriver", "allinone":
					reach = slices.DeleteFunc(slices.Clone(p.Imports), func(path string) bool {
						return path == "mailriver/services/assembly"
					})
				}
				for _, dep := range reach {
					if other := neighbor(parent, dep); other != "" && other != self {
						t.Errorf("%s depends on its neighbor %s (%s)", p.ImportPath, dep, all.chain(p.ImportPath, dep))
					}
				}
			}
		}
	})
}

// What an import list cannot say is read off the source.
func TestSource(t *testing.T) {
	fset := token.NewFileSet()
	for _, p := range list(t).matching(t, "mailriver/...") {
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Recv == nil && n.Name.Name == "init" {
						t.Errorf("%s: an init function: what must happen is called by the one who needs it", fset.Position(n.Pos()))
					}
				case *ast.SelectorExpr:
					from, ok := n.X.(*ast.Ident)
					builds := n.Sel.Name == "NewClient" || n.Sel.Name == "NewGroupTransactSession"
					if ok && from.Name == "kgo" && builds && !matches(p.ImportPath, "mailriver/pkg/kafka/...") {
						t.Errorf("%s: kgo.%s: clients are built in pkg/kafka", fset.Position(n.Pos()), n.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// listed is what `go list` tells about a package.
type listed struct {
	ImportPath string
	Dir        string
	Standard   bool
	GoFiles    []string
	Imports    []string
	Deps       []string
}

// graph holds every package of the module and everything they depend on.
type graph map[string]listed

func list(t *testing.T) graph {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Dir,Standard,GoFiles,Imports,Deps", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	all := graph{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all[p.ImportPath] = p
	}
}

// matching returns the packages of a pattern, in order. None at all is an
// error: the rule would hold for nothing.
func (g graph) matching(t *testing.T, pattern string) []listed {
	t.Helper()
	var found []listed
	for path, p := range g {
		if matches(path, pattern) {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		t.Errorf("a rule is about %s, which does not exist", pattern)
	}
	slices.SortFunc(found, func(a, b listed) int { return strings.Compare(a.ImportPath, b.ImportPath) })
	return found
}

// chain tells how one package comes to depend on another: "a -> b -> c".
func (g graph) chain(from, to string) string {
	via := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range g[queue[0]].Imports {
			if _, seen := via[next]; !seen {
				via[next] = queue[0]
				queue = append(queue, next)
			}
		}
	}
	path := to
	for step := via[to]; step != ""; step = via[step] {
		path = step + " -> " + path
	}
	return path
}

// neighbor returns the folder directly below parent that holds a package.
func neighbor(parent, path string) string {
	below, ok := strings.CutPrefix(path, parent+"/")
	if !ok {
		return ""
	}
	folder, _, _ := strings.Cut(below, "/")
	return folder
}

func matches(path, pattern string) bool {
	root, below := strings.CutSuffix(pattern, "/...")
	return path == root || below && strings.HasPrefix(path, root+"/")
}

func matchesAny(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(path, pattern) })
}
