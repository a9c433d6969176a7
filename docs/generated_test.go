package docs_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"mailriver/pkg/config"
	"mailriver/services/assembly"
)

// Two pages are written by these tests out of the source: the comments and
// defaults of the configuration, and the instruments. `make generate` writes
// them, and without it a page that is stale fails.

const generatedNote = "<!-- Written by `make generate` out of the source. Change the comments there, not this page. -->\n"

func TestGenerated(t *testing.T) {
	for _, page := range []struct {
		path string
		make func(*testing.T) string
	}{
		{"configuration.md", configurationPage},
		{"metrics.md", metricsPage},
	} {
		t.Run(page.path, func(t *testing.T) {
			want := page.make(t)
			if t.Failed() {
				return
			}
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(page.path, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			got, err := os.ReadFile(page.path)
			if err != nil || string(got) != want {
				t.Errorf("%s is stale (%v): run `make generate`%s", page.path, err, firstDifference(string(got), want))
			}
		})
	}
}

func firstDifference(got, want string) string {
	have, should := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(have), len(should)) {
		if have[i] != should[i] {
			return fmt.Sprintf("; line %d is\n%s\nwant\n%s", i+1, have[i], should[i])
		}
	}
	return ""
}

// Configuration.

const configurationIntro = `# Configuration

` + generatedNote + `
One file for all services: ` + "`--config FILE`" + `, else the variable ` + "`MAILRIVER_CONFIG`" + `, else ` + "`mailriver.yaml`" + ` in the working directory if it exists. Every process may have the same file; each reads the sections that it needs. Over the file go environment variables. Every key has a default that is valid, and an unknown key is an error.

- ` + "`mailriver config check`" + ` reports everything that is wrong, in one message. Exit status 2 if there is anything.
- ` + "`mailriver config print`" + ` shows what is in effect, secrets as ` + "`***`" + `.

**Variables.** The variable of a key is ` + "`MAILRIVER_`" + ` and its path in upper case, joined by underscores: ` + "`loader.max_rows`" + ` is ` + "`MAILRIVER_LOADER_MAX_ROWS`" + `. Lists of texts are separated by commas. ` + "`sources`" + ` and ` + "`suppression_sync`" + ` can be set in the file only. A variable that begins like a section and names no key of it is an error.

**Durations** have a unit: ` + "`500ms`, `10s`, `5m`, `168h`" + `.

**Secrets** are a literal, ` + "`${env:NAME}` or `${file:PATH}`" + `. They are never printed or logged. A file is read without its last line break. Files of ` + "`sources`" + ` are read again within seconds of a change, so keys can be changed without a restart; other secrets are read at start.

## Examples

Three brokers that want TLS and a password, a registry with basic authentication, ClickHouse over TLS:

` + "```yaml" + `
kafka:
  brokers: ["kafka-1.example.com:9093", "kafka-2.example.com:9093", "kafka-3.example.com:9093"]
  replication_factor: 3
  tls:
    enabled: true
    ca_file: /etc/mailriver/kafka-ca.pem      # leave out for a public certificate
    # cert_file: /etc/mailriver/client.pem    # only where the brokers ask for a client certificate
    # key_file: /etc/mailriver/client.key
  sasl:
    mechanism: scram-sha-512
    username: mailriver
    password: "${file:/run/secrets/kafka-password}"
registry:
  url: "https://user:password@registry.example.com"
clickhouse:
  url: "clickhouse://mailriver@clickhouse.example.com/mailriver?secure=true"
  password: "${env:CLICKHOUSE_PASSWORD}"
receiver:
  trusted_proxies: ["10.0.0.0/8"]             # where the load balancer is
drain_delay: 10s
` + "```" + `

One source for each provider:

` + "```yaml" + `
sources:
  - name: sendgrid                  # POST /webhooks/sendgrid
    provider: sendgrid
    keys: ["${file:/run/secrets/sendgrid-public-key}"]   # the verification key of the signed event webhook
  - name: mailgun
    provider: mailgun
    keys: ["${file:/run/secrets/mailgun}"]               # the HTTP webhook signing key
  - name: postmark
    provider: postmark              # signs nothing: basic authentication, addresses, or both
    basic_auth: ["${file:/run/secrets/postmark-user-and-password}"]
    allow_ips: ["3.134.147.250/32", "50.31.156.6/32"]
  - name: ses
    provider: ses
    topic_arns: ["arn:aws:sns:us-east-1:123456789012:ses-events"]
  - name: mandrill
    provider: mandrill
    keys: ["${env:MANDRILL_WEBHOOK_KEY}"]
    url: "https://hooks.example.com/webhooks/mandrill"   # exactly as entered at Mandrill, which signs it
    rate_limit: { per_second: 200, burst: 400 }
` + "```" + `
`

func configurationPage(t *testing.T) string {
	var page strings.Builder
	page.WriteString(configurationIntro)
	d := documenter{t: t, packages: map[string]map[string]*ast.TypeSpec{}, docs: map[*ast.TypeSpec]string{}}
	root := reflect.ValueOf(assembly.DefaultConfig())

	var top []key
	for _, k := range d.keys(root, "") {
		if k.value.Kind() != reflect.Struct && !isList(k.value.Type()) {
			top = append(top, k)
		}
	}
	fmt.Fprintf(&page, "\n## Top level\n\n%s", d.table(top, true))
	for _, k := range d.keys(root, "") {
		if k.value.Kind() != reflect.Struct && !isList(k.value.Type()) {
			continue
		}
		fmt.Fprintf(&page, "\n## %s\n\n", k.name)
		about := ""
		if isList(k.value.Type()) {
			element := reflect.New(k.value.Type().Elem()).Elem()
			about = strings.TrimSpace(d.about(element.Type()) + " " + k.doc)
			fmt.Fprintf(&page, "A list. %s\n\n%s", about, d.table(d.flat(element, ""), false))
			continue
		}
		if about = d.about(k.value.Type()); k.doc != "" {
			about = strings.TrimSpace(about + " " + k.doc)
		}
		fmt.Fprintf(&page, "%s\n\n%s", about, d.table(d.flat(k.value, ""), true))
	}
	return page.String()
}

// isList says whether a section is a list of structs, as sources is.
func isList(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct
}

// key is a key of the configuration.
type key struct {
	name    string // its yaml path within the section
	doc     string
	value   reflect.Value // its default
	element bool          // of a list within a section: it has a type and no default
}

// documenter finds the comments of structs in their source.
type documenter struct {
	t        *testing.T
	packages map[string]map[string]*ast.TypeSpec
	docs     map[*ast.TypeSpec]string
}

// keys returns the keys of a struct; inline structs belong to it.
func (d documenter) keys(v reflect.Value, prefix string) []key {
	var keys []key
	comments := d.comments(v.Type())
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case name == "-":
		case strings.Contains(options, "inline"):
			keys = append(keys, d.keys(v.Field(i), prefix)...)
		default:
			keys = append(keys, key{name: prefix + name, doc: comments[field.Name], value: v.Field(i)})
		}
	}
	return keys
}

// flat returns the keys of a struct and of those in it.
func (d documenter) flat(v reflect.Value, prefix string) []key {
	var keys []key
	for _, k := range d.keys(v, prefix) {
		if isList(k.value.Type()) && k.value.Type().Elem() != reflect.TypeFor[config.Secret]() {
			keys = append(keys, k)
			for _, below := range d.flat(reflect.New(k.value.Type().Elem()).Elem(), k.name+"[].") {
				below.element = true
				keys = append(keys, below)
			}
			continue
		}
		if k.value.Kind() == reflect.Pointer { // may be left out
			k.value = reflect.New(k.value.Type().Elem()).Elem()
		}
		if k.value.Kind() != reflect.Struct || k.value.Type() == reflect.TypeFor[config.Secret]() {
			keys = append(keys, k)
			continue
		}
		about := d.about(k.value.Type())
		for i, below := range d.flat(k.value, k.name+".") {
			switch {
			case i > 0 || about == "":
			case below.doc == "":
				below.doc = about
			default:
				below.doc = fmt.Sprintf("(`%s`: %s) %s", k.name, strings.TrimSuffix(about, "."), below.doc)
			}
			keys = append(keys, below)
		}
	}
	return keys
}

func (d documenter) table(keys []key, defaults bool) string {
	var b strings.Builder
	if defaults {
		b.WriteString("| key | default | meaning |\n|---|---|---|\n")
	} else {
		b.WriteString("| key | type | meaning |\n|---|---|---|\n")
	}
	for _, k := range keys {
		if k.doc == "" {
			d.t.Errorf("key %s has no comment where its struct is declared", k.name)
		}
		second := kind(k.value.Type())
		if defaults && !k.element {
			second = defaultOf(k.value)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.name, second, strings.ReplaceAll(k.doc, "|", `\|`))
	}
	return b.String()
}

func defaultOf(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case time.Duration:
		text := value.String()
		for _, zero := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(text, zero) {
				text = text[:len(text)-2]
			}
		}
		return "`" + text + "`"
	case config.Secret:
		return "none, a secret"
	case string:
		if value == "" {
			return "none"
		}
		return "`" + value + "`"
	case []string:
		if len(value) == 0 {
			return "`[]`"
		}
		return "`[\"" + strings.Join(value, `", "`) + "\"]`"
	}
	if isList(v.Type()) {
		var names []string
		for i := range v.Len() {
			names = append(names, "`"+v.Index(i).FieldByName("Name").String()+"`")
		}
		if len(names) == 0 {
			return "`[]`"
		}
		return "one called " + strings.Join(names, ", one called ")
	}
	return fmt.Sprintf("`%v`", v.Interface())
}

func kind(typ reflect.Type) string {
	switch {
	case typ == reflect.TypeFor[config.Secret]():
		return "secret"
	case typ == reflect.TypeFor[time.Duration]():
		return "duration"
	}
	switch typ.Kind() {
	case reflect.Slice:
		if isList(typ) && typ.Elem() != reflect.TypeFor[config.Secret]() {
			return "list, below"
		}
		return "list of " + kind(typ.Elem()) + "s"
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	}
	return "number"
}

// about returns what the comment of a type says.
func (d documenter) about(typ reflect.Type) string { return sentence(typ.Name(), d.docs[d.find(typ)]) }

// comments returns what the comments of a struct's fields say.
func (d documenter) comments(typ reflect.Type) map[string]string {
	comments := map[string]string{}
	structure, ok := d.find(typ).Type.(*ast.StructType)
	if !ok {
		d.t.Fatalf("%s is no struct in its source", typ)
	}
	for _, field := range structure.Fields.List {
		text := field.Doc.Text()
		if text == "" {
			text = field.Comment.Text()
		}
		for _, name := range field.Names {
			comments[name.Name] = sentence(name.Name, text)
		}
	}
	return comments
}

func (d documenter) find(typ reflect.Type) *ast.TypeSpec {
	path := typ.PkgPath()
	if d.packages[path] == nil {
		d.packages[path] = map[string]*ast.TypeSpec{}
		for _, file := range parse(d.t, filepath.Join("..", strings.TrimPrefix(path, "mailriver/"))) {
			for _, decl := range file.Decls {
				general, ok := decl.(*ast.GenDecl)
				if !ok {
					continue
				}
				for _, spec := range general.Specs {
					if spec, ok := spec.(*ast.TypeSpec); ok {
						d.packages[path][spec.Name.Name] = spec
						if d.docs[spec] = spec.Doc.Text(); spec.Doc == nil {
							d.docs[spec] = general.Doc.Text()
						}
					}
				}
			}
		}
	}
	spec := d.packages[path][typ.Name()]
	if spec == nil {
		d.t.Fatalf("%s is not in the source of %s", typ, path)
	}
	return spec
}

// parse reads the files of a package that are not tests.
func parse(t *testing.T, dir string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no source in %s (%v)", dir, err)
	}
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

var (
	docLink = regexp.MustCompile(`\[(\w+(?:\.\w+)*)\]`)
	verb    = regexp.MustCompile(`^(is|are|says) `)
)

// sentence makes a sentence for people out of a Go comment, whose first word is
// the name of what it is about.
func sentence(name, comment string) string {
	text := strings.Join(strings.Fields(docLink.ReplaceAllString(comment, "$1")), " ")
	if rest, ok := strings.CutPrefix(text, name+" "); ok {
		text = verb.ReplaceAllString(rest, "")
	}
	if text == "" {
		return ""
	}
	if first, size := utf8.DecodeRuneInString(text); !strings.HasPrefix(text, "http") && !strings.HasPrefix(text, "host:") {
		text = string(unicode.ToUpper(first)) + text[size:]
	}
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

// Metrics.

const metricsIntro = `# Metrics

` + generatedNote + `
Each process serves its metrics in Prometheus form at ` + "`/metrics`" + ` of ` + "`admin.addr`" + `, port 9464 by default, under the names in this page. A histogram ` + "`x`" + ` is the series ` + "`x_bucket`, `x_sum` and `x_count`" + `. The label ` + "`service_instance_id`" + ` of ` + "`target_info`" + ` is the configured ` + "`instance`" + `.

Beside them are those of Go (` + "`go_`" + `), of the process (` + "`process_`" + `) and of the Kafka clients (` + "`messaging_kafka_`" + `: connections, bytes and records by broker and topic).

What to alert on stands in [operations](operations.md#what-to-alert-on).
`

func metricsPage(t *testing.T) string {
	var page strings.Builder
	page.WriteString(metricsIntro)
	found := 0
	for _, dir := range sourceFolders(t) {
		instruments, values := instrumentsOf(t, dir)
		if len(instruments) == 0 {
			continue
		}
		found += len(instruments)
		fmt.Fprintf(&page, "\n## %s\n\n| metric | kind | meaning |\n|---|---|---|\n", filepath.Base(dir))
		for _, in := range instruments {
			if in.description == "" {
				t.Errorf("%s has no description", in.name)
			}
			fmt.Fprintf(&page, "| `%s` | %s | %s |\n", in.prometheus(), in.kind, in.description)
		}
		for _, v := range values {
			fmt.Fprintf(&page, "\n`%s` is one of %s.\n", v.label, list(v.words))
		}
	}
	if found == 0 {
		t.Error("no instrument is in the source")
	}
	page.WriteString("\n## Reasons\n\n" +
		"A refused request has as `reason` one of the receiver's above or " + list(constants(t, "../pkg/esp", "Reason")) + ".\n\n" +
		"A dead letter has one of " + list(constants(t, "../pkg/fault", "")) + ", as header and as label.\n")
	return page.String()
}

type instrument struct{ name, kind, unit, description string }

// prometheus is the name under which the exporter shows the instrument. That it
// does is what TestMetricNames is about.
func (in instrument) prometheus() string {
	name := strings.ReplaceAll(in.name, ".", "_")
	switch in.unit {
	case "s":
		name += "_seconds"
	case "By":
		name += "_bytes"
	case "1":
		if in.kind == "gauge" {
			name += "_ratio"
		}
	}
	if in.kind == "counter" {
		name += "_total"
	}
	return name
}

// words are the constants that a label may have as its value.
type words struct {
	label string
	words []string
}

var makers = map[string]string{
	"Counter": "counter", "UpDownCounter": "gauge", "Histogram": "histogram", "Gauge": "gauge",
	"ObservableCounter": "counter", "ObservableUpDownCounter": "gauge", "ObservableGauge": "gauge",
}

// sourceFolders are the packages of services and pkg.
func sourceFolders(t *testing.T) []string {
	t.Helper()
	var dirs []string
	for _, root := range []string{"../services", "../pkg"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return err
			}
			if entry.Name() == "testdata" {
				return filepath.SkipDir
			}
			sources, err := filepath.Glob(filepath.Join(path, "*.go"))
			if slices.ContainsFunc(sources, func(s string) bool { return !strings.HasSuffix(s, "_test.go") }) {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return dirs
}

// instrumentsOf finds the calls that make instruments, and the constants
// outcome... and reason... beside them.
func instrumentsOf(t *testing.T, dir string) (instruments []instrument, values []words) {
	t.Helper()
	listed := map[string][]string{}
	for _, file := range parse(t, dir) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if in, ok := asInstrument(n); ok {
					instruments = append(instruments, in)
				}
			case *ast.ValueSpec:
				for i, name := range n.Names {
					for _, label := range []string{"outcome", "reason"} {
						if strings.HasPrefix(name.Name, label) && i < len(n.Values) {
							listed[label] = append(listed[label], literal(n.Values[i]))
						}
					}
				}
			}
			return true
		})
	}
	if len(instruments) == 0 {
		return nil, nil
	}
	for _, label := range []string{"outcome", "reason"} {
		if len(listed[label]) > 0 {
			values = append(values, words{label, listed[label]})
		}
	}
	return instruments, values
}

// constants returns the texts of the constants of a package whose names begin
// like this.
func constants(t *testing.T, dir, prefix string) []string {
	t.Helper()
	var texts []string
	for _, file := range parse(t, dir) {
		for _, decl := range file.Decls {
			general, ok := decl.(*ast.GenDecl)
			if !ok || general.Tok != token.CONST {
				continue
			}
			for _, spec := range general.Specs {
				spec, ok := spec.(*ast.ValueSpec)
				if !ok {
					continue
				}
				for i, name := range spec.Names {
					if strings.HasPrefix(name.Name, prefix) && i < len(spec.Values) && literal(spec.Values[i]) != "" {
						texts = append(texts, literal(spec.Values[i]))
					}
				}
			}
		}
	}
	if len(texts) == 0 {
		t.Errorf("no constant %s... in %s", prefix, dir)
	}
	return texts
}

func list(words []string) string { return "`" + strings.Join(words, "`, `") + "`" }

func asInstrument(call *ast.CallExpr) (instrument, bool) {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) == 0 {
		return instrument{}, false
	}
	maker := strings.TrimPrefix(strings.TrimPrefix(selector.Sel.Name, "Int64"), "Float64")
	in := instrument{name: literal(call.Args[0]), kind: makers[maker]}
	if in.kind == "" || !strings.HasPrefix(in.name, "mailriver.") {
		return instrument{}, false
	}
	for _, arg := range call.Args[1:] {
		option, ok := arg.(*ast.CallExpr)
		if !ok || len(option.Args) != 1 {
			continue
		}
		if selector, ok := option.Fun.(*ast.SelectorExpr); ok {
			switch selector.Sel.Name {
			case "WithUnit":
				in.unit = literal(option.Args[0])
			case "WithDescription":
				in.description = literal(option.Args[0])
			}
		}
	}
	return in, true
}

// literal returns the text of a string literal, or of several added together.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil {
			return text
		}
	case *ast.BinaryExpr:
		return literal(e.X) + literal(e.Y)
	}
	return ""
}

// Pages by hand.

// handwritten are the pages that name keys, metrics or commands.
func handwritten(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, pattern := range []string{"*.md", "operations/*.md", "../README.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			pages[path] = read(t, path)
		}
	}
	return pages
}

// Every configuration that a page shows is one: its keys exist, and its values
// have the right form.
func TestPages_configuration(t *testing.T) {
	block := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	found := 0
	for path, text := range handwritten(t) {
		for _, yaml := range firsts(block, text) {
			if strings.Contains(yaml, "\ngroups:") || strings.HasPrefix(yaml, "groups:") || strings.Contains(yaml, "apiVersion:") {
				continue // rules of Prometheus, objects of Kubernetes
			}
			found++
			cfg := assembly.DefaultConfig()
			if err := config.Parse(&cfg, path, []byte(yaml), nil); err != nil {
				t.Errorf("%s shows a configuration that is none: %v\n%s", path, err, yaml)
			}
		}
	}
	if found == 0 {
		t.Error("no page shows a configuration")
	}
}

// Every metric that a page names exists, under the exporter's name or the one
// in the source.
func TestPages_metrics(t *testing.T) {
	known := map[string]bool{}
	var parts []string // receiver, loader, ...: what the second word of a metric can be
	for _, dir := range sourceFolders(t) {
		instruments, _ := instrumentsOf(t, dir)
		for _, in := range instruments {
			known[in.name], known[in.prometheus()] = true, true
			parts = append(parts, strings.Split(in.name, ".")[1])
		}
	}
	// Some consumer groups are called like metrics.
	cfg := assembly.DefaultConfig()
	known[cfg.Suppression.Rates.Group], known[cfg.Leadscoring.Deliver.Deliveries.Group] = true, true
	name := regexp.MustCompile(`\b(mailriver[._](?:` + strings.Join(parts, "|") + `)[._][a-z_.]*[a-z])`)
	found := 0
	for path, text := range handwritten(t) {
		for _, n := range firsts(name, text) {
			base := n
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
			if !known[n] && !known[base] {
				t.Errorf("%s names the metric %s, which does not exist", path, n)
			}
			found++
		}
	}
	if found == 0 {
		t.Error("no page names a metric")
	}
}

// Every variable that a page names is that of a key, or one of the few of other
// use.
func TestPages_variables(t *testing.T) {
	cfg := assembly.DefaultConfig()
	other := []string{"MAILRIVER_CONFIG", "MAILRIVER_REQUIRE", "MAILRIVER_CHDB_LIBRARY", "MAILRIVER_CLICKHOUSE_URL"}
	for path, text := range handwritten(t) {
		for _, name := range firsts(regexp.MustCompile(`\b(MAILRIVER_[A-Z0-9_]*[A-Z0-9])\b`), text) {
			err := config.Parse(&cfg, "", nil, []string{name + "=1"})
			if !slices.Contains(other, name) && err != nil && strings.Contains(err.Error(), "no key") {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

// The names of the page are those that the exporter makes.
func TestMetricNames(t *testing.T) {
	for _, dir := range sourceFolders(t) {
		instruments, _ := instrumentsOf(t, dir)
		for _, in := range instruments {
			if served := exported(t, in); !bytes.Contains(served, []byte("# TYPE "+in.prometheus()+" "+in.kind+"\n")) {
				t.Errorf("%s (%s, unit %q) is not served as %s:\n%s", in.name, in.kind, in.unit, in.prometheus(), served)
			}
		}
	}
}
