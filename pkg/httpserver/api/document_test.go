package api

import (
	"encoding/json"
	"testing"
)

const small = `openapi: 3.1.0
info: {title: Things, version: "1"}
paths:
  /v1/b: {get: {responses: {200: {description: "yes: <&>"}}}}
  /v1/a: {get: {x: [1, 2.5, true, null, 2026-11-24], example: 2026-11-24T12:00:00Z}}
`

func TestDocument(t *testing.T) {
	document, err := ParseDocument([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	engine := quiet()
	document.Routes(engine)
	tests := []struct{ path, kind, want string }{
		{PathYAML, "application/yaml", small},
		{
			PathJSON, "application/json",
			`{"openapi":"3.1.0","info":{"title":"Things","version":"1"},"paths":{` +
				`"/v1/b":{"get":{"responses":{"200":{"description":"yes: \u003c\u0026\u003e"}}}},` +
				`"/v1/a":{"get":{"x":[1,2.5,true,null,"2026-11-24"],"example":"2026-11-24T12:00:00Z"}}}}`,
		},
	}
	for _, tt := range tests {
		w := serve(engine, request(t, "GET", tt.path, ""))
		if w.Code != 200 || w.Header().Get("Content-Type") != tt.kind || w.Body.String() != tt.want {
			t.Errorf("GET %s = %d %s %s, want 200 %s %s", tt.path, w.Code, w.Header().Get("Content-Type"), w.Body, tt.kind, tt.want)
		}
	}
	if !json.Valid(document.JSON()) {
		t.Errorf("JSON() = %s, which is none", document.JSON())
	}
}

func TestParseDocument_bad(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "openapi document: EOF",
		"a: [":                "openapi document: yaml: line 1: did not find expected node content",
		"a: 1\n---\nb: 2":     "openapi document: holds more than one YAML document",
		"a: &x {b: 1}\nc: *x": "openapi document: line 2: anchors have no form in JSON; use $ref",
		"[a]: 1":              "openapi document: line 1: a key must be a text",
		"a: .inf":             "openapi document: json: unsupported value: +Inf",
	} {
		if _, err := ParseDocument([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("ParseDocument(%q) = %v, want %s", text, err, want)
		}
	}
}
