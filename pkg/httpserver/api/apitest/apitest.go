// Package apitest holds an HTTP API against its OpenAPI document: the document
// against OpenAPI 3.1, the routes against its paths, and every exchange of a
// test against its schemas.
//
// It is for tests only. The production binary must not depend on it.
package apitest

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/errors"

	"mailriver/pkg/httpserver/api"
)

// Document is an OpenAPI document that tests hold an API against.
type Document struct {
	validator  validator.Validator
	operations map[string]bool // "GET /v1/things/{id}"

	mu   sync.Mutex // the validator keeps caches
	seen map[string]bool
}

// Open fails the test for a document that is not valid OpenAPI 3.1.
func Open(t testing.TB, text []byte) *Document {
	t.Helper()
	parsed, err := api.ParseDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	// As JSON: what is checked is what clients get.
	document, err := libopenapi.NewDocument(parsed.JSON())
	if err != nil {
		t.Fatalf("openapi document: %v", err)
	}
	if version := document.GetVersion(); !strings.HasPrefix(version, "3.1.") {
		t.Fatalf("openapi document: is of version %s, want 3.1", version)
	}
	// Strict: a property that no schema declares is an error, so that an answer
	// cannot grow behind the document's back.
	check, problems := validator.NewValidator(document, config.WithFormatAssertions(), config.WithStrictMode(),
		config.WithStrictIgnoredHeadersExtra("X-Content-Type-Options")) // the kit's, on every answer
	for _, problem := range problems {
		t.Errorf("openapi document: %v", problem)
	}
	if t.Failed() {
		t.FailNow()
	}
	if _, wrong := check.ValidateDocument(); len(wrong) > 0 {
		t.Fatalf("openapi document: %s", explain(wrong))
	}
	model, err := document.BuildV3Model()
	if err != nil {
		t.Fatalf("openapi document: %v", err)
	}
	d := &Document{validator: check, operations: map[string]bool{}, seen: map[string]bool{}}
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for method := range item.GetOperations().FromOldest() {
			d.operations[strings.ToUpper(method)+" "+path] = true
		}
	}
	return d
}

var parameter = regexp.MustCompile(`[:*]([A-Za-z0-9_]+)`)

// Routes fails the test for a route that the document has not, and for an
// operation of the document that has no route. The document's own routes need
// not be in it.
func (d *Document) Routes(t testing.TB, routes gin.RoutesInfo) {
	t.Helper()
	registered := map[string]bool{}
	for _, route := range routes {
		if route.Path == api.PathJSON || route.Path == api.PathYAML {
			continue
		}
		registered[route.Method+" "+parameter.ReplaceAllString(route.Path, "{$1}")] = true
	}
	for _, operation := range slices.Sorted(maps.Keys(registered)) {
		if !d.operations[operation] {
			t.Errorf("route %s is not in the document", operation)
		}
	}
	for _, operation := range slices.Sorted(maps.Keys(d.operations)) {
		if !registered[operation] {
			t.Errorf("operation %s of the document has no route", operation)
		}
	}
}

// Handler returns a handler that passes requests on and fails the test for an
// answer that is not as the document says, for an error that is no problem, and
// for a request that was accepted although the document forbids it. It holds
// bodies in memory.
func (d *Document) Handler(t testing.TB, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var sent []byte
		if r.Body != nil {
			var err error
			if sent, err = io.ReadAll(r.Body); err != nil {
				t.Errorf("%s %s: body: %v", r.Method, r.URL, err)
			}
			r.Body = io.NopCloser(bytes.NewReader(sent))
		}
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, r)
		r.Body = io.NopCloser(bytes.NewReader(sent))
		d.Exchange(t, r, recorder)
		maps.Copy(w.Header(), recorder.Header())
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes())
	})
}

// Exchange is what [Document.Handler] does, for one request and its recorded
// answer. The request's body must not have been read.
func (d *Document) Exchange(t testing.TB, r *http.Request, recorder *httptest.ResponseRecorder) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	body := recorder.Body.Bytes()
	if recorder.Code >= 400 {
		checkProblem(t, r, recorder)
	}
	operation := d.operation(r)
	if operation == "" {
		if recorder.Code < 400 && r.URL.Path != api.PathJSON && r.URL.Path != api.PathYAML {
			t.Errorf("%s %s = %d, which the document does not know", r.Method, r.URL.Path, recorder.Code)
		}
		return
	}
	response := recorder.Result()
	defer func() { _ = response.Body.Close() }()
	response.Body = io.NopCloser(bytes.NewReader(body))
	if ok, wrong := d.validator.ValidateHttpResponse(r, response); !ok {
		t.Errorf("%s %s = %d %s\nis not as the document says: %s", r.Method, r.URL, recorder.Code, body, explain(wrong))
	}
	if recorder.Code >= 400 {
		return
	}
	d.seen[operation] = true
	if ok, wrong := d.validator.ValidateHttpRequest(r); !ok {
		t.Errorf("%s %s was answered %d, and is not as the document says: %s", r.Method, r.URL, recorder.Code, explain(wrong))
	}
}

// Covered fails the test for an operation that no exchange has used with
// success.
func (d *Document) Covered(t testing.TB) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, operation := range slices.Sorted(maps.Keys(d.operations)) {
		if !d.seen[operation] {
			t.Errorf("no test had %s answered with success", operation)
		}
	}
}

// operation finds the operation that a request asks for. A path without
// parameters comes before one with.
func (d *Document) operation(r *http.Request) string {
	found := ""
	for operation := range d.operations {
		method, path, _ := strings.Cut(operation, " ")
		if method == r.Method && matches(path, r.URL.EscapedPath()) &&
			(found == "" || strings.Count(operation, "{") < strings.Count(found, "{")) {
			found = operation
		}
	}
	return found
}

func matches(template, path string) bool {
	want, have := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if want[i] != have[i] && (!strings.HasPrefix(want[i], "{") || have[i] == "") {
			return false
		}
	}
	return true
}

// checkProblem holds an error against RFC 9457.
func checkProblem(t testing.TB, r *http.Request, recorder *httptest.ResponseRecorder) {
	t.Helper()
	var problem api.Problem
	decoder := json.NewDecoder(bytes.NewReader(recorder.Body.Bytes()))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&problem)
	kind := recorder.Header().Get("Content-Type")
	if err != nil || kind != "application/problem+json" || problem.Status != recorder.Code || problem.Type == "" ||
		problem.Title == "" {
		t.Errorf("%s %s = %d %s %s, want a problem (%v)", r.Method, r.URL, recorder.Code, kind, recorder.Body, err)
	}
}

func explain(wrong []*errors.ValidationError) string {
	var text strings.Builder
	for _, one := range wrong {
		text.WriteString("\n- " + one.Message + ": " + one.Reason)
		for _, schema := range one.SchemaValidationErrors {
			text.WriteString("\n  - " + schema.FieldPath + ": " + schema.Reason)
		}
	}
	return text.String()
}
