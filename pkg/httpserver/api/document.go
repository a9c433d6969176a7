package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/gin-gonic/gin"
	"go.yaml.in/yaml/v3"
)

// Document is the OpenAPI document of an API: written as YAML, served as that
// and as JSON.
type Document struct{ yaml, json []byte }

// ParseDocument reads a document. It checks only that it is one YAML document
// that JSON can say, too; package apitest holds it against OpenAPI 3.1.
func ParseDocument(text []byte) (*Document, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var root, more yaml.Node
	if err := decoder.Decode(&root); err != nil {
		return nil, fmt.Errorf("openapi document: %w", err)
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("openapi document: holds more than one YAML document")
	}
	var out bytes.Buffer
	if err := writeJSON(&out, root.Content[0]); err != nil {
		return nil, fmt.Errorf("openapi document: %w", err)
	}
	return &Document{yaml: text, json: out.Bytes()}, nil
}

// writeJSON writes a node in the order of its source, which a map would lose.
func writeJSON(out *bytes.Buffer, node *yaml.Node) error {
	switch node.Kind {
	case yaml.MappingNode:
		out.WriteByte('{')
		for i := 0; i < len(node.Content); i += 2 {
			key := node.Content[i]
			if key.Kind != yaml.ScalarNode {
				return fmt.Errorf("line %d: a key must be a text", key.Line)
			}
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeValue(out, key.Value); err != nil { // 200 is a key, too
				return err
			}
			out.WriteByte(':')
			if err := writeJSON(out, node.Content[i+1]); err != nil {
				return err
			}
		}
		out.WriteByte('}')
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, element := range node.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeJSON(out, element); err != nil {
				return err
			}
		}
		out.WriteByte(']')
	case yaml.ScalarNode:
		if node.Tag == "!!timestamp" {
			return writeValue(out, node.Value) // JSON has texts only
		}
		var value any
		if err := node.Decode(&value); err != nil {
			return fmt.Errorf("line %d: %w", node.Line, err)
		}
		return writeValue(out, value)
	default:
		return fmt.Errorf("line %d: anchors have no form in JSON; use $ref", node.Line)
	}
	return nil
}

func writeValue(out *bytes.Buffer, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	out.Write(text)
	return nil
}

// The paths of the document.
const (
	PathJSON = "/openapi.json"
	PathYAML = "/openapi.yaml"
)

// Routes adds the document's own routes. They need no key: it holds nothing that
// is not in the source of Mailriver.
func (d *Document) Routes(r gin.IRouter) {
	r.GET(PathJSON, func(c *gin.Context) { c.Data(http.StatusOK, "application/json", d.json) })
	r.GET(PathYAML, func(c *gin.Context) { c.Data(http.StatusOK, "application/yaml", d.yaml) }) // RFC 9512
}

// JSON returns the document as JSON.
func (d *Document) JSON() []byte { return bytes.Clone(d.json) }
