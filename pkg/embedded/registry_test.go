package embedded

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"
)

func openRegistry(t testing.TB, dir string) (*registry, *sr.Client) {
	t.Helper()
	r, err := startRegistry(t.Context(), dir, "127.0.0.1:0")
	if err != nil {
		t.Fatalf("startRegistry() = %v, want nil", err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	cl, err := sr.NewClient(sr.URLs("http://"+r.addr), sr.HTTPClient(&http.Client{Transport: transport}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Errorf("close() = %v, want nil", err)
		}
	})
	return r, cl
}

func avro(name string) sr.Schema {
	return sr.Schema{Type: sr.TypeAvro, Schema: fmt.Sprintf(`{"type":"record","name":%q,"fields":[{"name":"x","type":"string","default":""}]}`, name)}
}

func TestRegistryKeepsIDs(t *testing.T) {
	dir := t.TempDir()
	_, cl := openRegistry(t, dir)
	ctx := within(t)

	order := []struct {
		subject string
		schema  sr.Schema
	}{
		{"zebra-value", avro("Z")},
		{"email.events.v1-value", avro("EventV1")},
		{"alpha-value", avro("A")},
		{"email.events.v1-value", avro("EventV2")},
		{"shared-value", avro("EventV1")}, // one schema, two subjects, one id
		{"zebra-value", avro("Z2")},
		{"proto-value", sr.Schema{Type: sr.TypeProtobuf, Schema: `syntax = "proto3"; message P {}`}},
		{"json-value", sr.Schema{Type: sr.TypeJSON, Schema: `{"type":"object"}`, References: []sr.SchemaReference{
			{Name: "a", Subject: "alpha-value", Version: 1},
		}}},
	}
	want := make([]sr.SubjectSchema, 0, len(order))
	for _, o := range order {
		got, err := cl.CreateSchema(ctx, o.subject, o.schema)
		if err != nil {
			t.Fatalf("CreateSchema(%s) = %v, want nil", o.subject, err)
		}
		want = append(want, got)
	}
	if want[1].ID != want[4].ID || want[3].Version != 2 {
		t.Fatalf("schemas = %+v, want one id for one schema, and a second version", want)
	}
	if res := cl.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFullTransitive}, "email.events.v1-value"); res[0].Err != nil {
		t.Fatalf("SetCompatibility() = %v, want nil", res[0].Err)
	}
	if res := cl.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatNone}); res[0].Err != nil {
		t.Fatalf("SetCompatibility() = %v, want nil", res[0].Err)
	}

	// Nothing is written in a stop, so a second registry on the same file is what
	// comes after kill -9.
	_, again := openRegistry(t, dir)
	for i, w := range want {
		got, err := again.SchemaByVersion(ctx, w.Subject, w.Version)
		if err != nil || !reflect.DeepEqual(got, w) {
			t.Errorf("SchemaByVersion(%s, %d) = %+v, %v, want %+v", w.Subject, w.Version, got, err, w)
		}
		same, err := again.CreateSchema(ctx, w.Subject, order[i].schema)
		if err != nil || same.ID != w.ID || same.Version != w.Version {
			t.Errorf("CreateSchema(%s) again = id %d version %d, %v, want id %d version %d",
				w.Subject, same.ID, same.Version, err, w.ID, w.Version)
		}
		text, err := again.SchemaTextByID(ctx, w.ID)
		if err != nil || text != w.Schema.Schema {
			t.Errorf("SchemaTextByID(%d) = %q, %v, want %q", w.ID, text, err, w.Schema.Schema)
		}
	}
	next, err := again.CreateSchema(ctx, "new-value", avro("New"))
	if err != nil || slices.ContainsFunc(want, func(w sr.SubjectSchema) bool { return w.ID == next.ID }) {
		t.Errorf("the id of a new schema = %d, %v, want one that is free", next.ID, err)
	}
	if res := again.Compatibility(ctx, "email.events.v1-value"); res[0].Level != sr.CompatFullTransitive {
		t.Errorf("Compatibility(subject) = %v, want %v", res[0].Level, sr.CompatFullTransitive)
	}
	if res := again.Compatibility(ctx); res[0].Level != sr.CompatNone {
		t.Errorf("Compatibility() = %v, want %v", res[0].Level, sr.CompatNone)
	}
}

func TestRegistryRefusesWhatItDoesNotKeep(t *testing.T) {
	r, cl := openRegistry(t, t.TempDir())
	if _, err := cl.CreateSchema(within(t), "a-value", avro("A")); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ method, path, body string }{
		{"DELETE", "/subjects/a-value", ""},
		{"DELETE", "/subjects/a-value/versions/1?permanent=true", ""},
		{"DELETE", "/config/a-value", ""},
		{"PUT", "/mode", `{"mode":"READONLY"}`},
		{"POST", "/contexts/.x/subjects/a-value/versions", `{"schema":"\"string\""}`},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(within(t), tt.method, "http://"+r.addr+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(b), "42205") {
			t.Errorf("%s %s = %d %s, want 422 with error_code 42205", tt.method, tt.path, resp.StatusCode, b)
		}
	}
	if got, err := cl.Subjects(within(t)); err != nil || !slices.Equal(got, []string{"a-value"}) {
		t.Errorf("Subjects() = %q, %v, want a-value", got, err)
	}
	if _, err := cl.CreateSchema(within(t), "b-value", sr.Schema{Schema: "not json"}); err == nil {
		t.Error("CreateSchema(not a schema) = nil, want an error")
	}
}

func TestRegistryAnswersAfterTheDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "registry")
	_, cl := openRegistry(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	_, err := cl.CreateSchema(within(t), "a-value", avro("A"))
	if re, ok := errors.AsType[*sr.ResponseError](err); !ok || re.ErrorCode != sr.ErrStoreError.Code {
		t.Errorf("CreateSchema() without a disk = %v, want error %d", err, sr.ErrStoreError.Code)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	want, err := cl.CreateSchema(within(t), "a-value", avro("A"))
	if err != nil {
		t.Fatalf("CreateSchema() with a disk again = %v, want nil", err)
	}
	_, again := openRegistry(t, dir)
	if got, err := again.SchemaByVersion(within(t), "a-value", 1); err != nil || got.ID != want.ID {
		t.Errorf("SchemaByVersion() = %+v, %v, want id %d", got, err, want.ID)
	}
}

func TestRegistryDamagedFile(t *testing.T) {
	tests := []struct{ name, content string }{
		{"not json", `{"version":1,"schemas":[`},
		{"of another version", `{"version":2}`},
		{"a version twice", `{"version":1,"schemas":[
			{"subject":"a","version":1,"id":1,"schema":{"schema":"\"string\""}},
			{"subject":"a","version":1,"id":2,"schema":{"schema":"\"int\""}}]}`},
		{"a reference that is not there", `{"version":1,"schemas":[
			{"subject":"a","version":1,"id":1,"schema":{"schema":"\"string\"","references":[{"name":"x","subject":"b","version":1}]}}]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "registry.json"), []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if r, err := startRegistry(t.Context(), dir, "127.0.0.1:0"); err == nil {
				_ = r.close()
				t.Error("startRegistry() = nil, want an error")
			}
		})
	}
}
