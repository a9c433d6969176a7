package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// registry is srfake behind a file. The file is written before a registration
// is answered, and nobody sees a schema that is not in it.
type registry struct {
	addr   string
	failed chan error      // one error when it stops serving by itself
	base   context.Context // bounds a stop, and outlives the start

	file   string
	fake   *srfake.Registry
	server *http.Server

	mu    sync.RWMutex // held while something changes, until it is on disk
	state registryState
}

// registryState is the file.
type registryState struct {
	Version int                              `json:"version"`
	Schemas []registered                     `json:"schemas"` // in the order of registration
	Levels  map[string]sr.CompatibilityLevel `json:"compatibility"`
}

const registryVersion = 1

// globalLevel is the key of the level that is no subject's own.
const globalLevel = ""

type registered struct {
	Subject string    `json:"subject"`
	Version int       `json:"version"`
	ID      int       `json:"id"`
	Schema  sr.Schema `json:"schema"`
}

func startRegistry(ctx context.Context, dir, addr string) (*registry, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	r := &registry{
		file:   filepath.Join(dir, "registry.json"),
		fake:   srfake.NewRegistry(),
		failed: make(chan error, 1),
		base:   context.WithoutCancel(ctx),
		state:  registryState{Version: registryVersion, Levels: make(map[string]sr.CompatibilityLevel)},
	}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("read %s: %w", r.file, err)
	}
	ln, err := listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	r.addr = ln.Addr().String()
	r.server = &http.Server{Handler: r.handler(), ReadHeaderTimeout: 10 * time.Second}
	go r.serve(ln)
	return r, nil
}

func (r *registry) serve(ln net.Listener) {
	defer close(r.failed)
	if err := r.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		r.failed <- err
	}
}

func (r *registry) close() error {
	ctx, cancel := context.WithTimeout(r.base, 5*time.Second)
	defer cancel()
	err := r.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = r.server.Close()
	}
	return err
}

// load brings the fake to where the file says it was.
func (r *registry) load() (err error) {
	b, err := os.ReadFile(r.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var state registryState
	if err := json.Unmarshal(b, &state); err != nil {
		return err
	}
	if state.Version != registryVersion {
		return fmt.Errorf("version %d, this program knows %d", state.Version, registryVersion)
	}
	defer func() {
		if p := recover(); p != nil { // how the fake refuses a seed
			err = fmt.Errorf("%v", p)
		}
	}()
	seen := make(map[int]bool)
	for _, s := range state.Schemas {
		if !seen[s.ID] {
			r.fake.SeedSchema(s.Subject, s.Version, s.ID, s.Schema)
			seen[s.ID] = true
			continue
		}
		// One schema under several subjects has one id, and cannot be seeded twice.
		id, version, err := r.fake.RegisterSchema(s.Subject, s.Schema)
		if err == nil && (id != s.ID || version != s.Version) {
			err = fmt.Errorf("id %d version %d came back as id %d version %d", s.ID, s.Version, id, version)
		}
		if err != nil {
			return fmt.Errorf("subject %s: %w", s.Subject, err)
		}
	}
	if state.Levels == nil {
		state.Levels = make(map[string]sr.CompatibilityLevel)
	}
	for subject, level := range state.Levels {
		if subject == globalLevel {
			srfake.WithGlobalCompat(level)(r.fake)
			continue
		}
		if err := r.fake.SetCompat(subject, level); err != nil {
			return fmt.Errorf("compatibility of %s: %w", subject, err)
		}
	}
	r.state = state
	return nil
}

func (r *registry) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", r.read)
	mux.HandleFunc("GET /schemas/ids/{id}/schema", r.readText)
	mux.HandleFunc("GET /subjects/{subject}/versions/{version}/schema", r.readText)
	mux.HandleFunc("POST /subjects/{subject}", r.read)
	mux.HandleFunc("POST /compatibility/", r.read)
	mux.HandleFunc("POST /subjects/{subject}/versions", r.register)
	mux.HandleFunc("PUT /config", r.setLevel)
	mux.HandleFunc("PUT /config/{subject}", r.setLevel)
	mux.HandleFunc("/", refuse)
	return mux
}

// refuse answers what would change something that is not kept.
func refuse(w http.ResponseWriter, req *http.Request) {
	writeRegistryError(w, http.StatusUnprocessableEntity, sr.ErrOperationNotPermitted.Code,
		"the embedded registry has no "+req.Method+" "+req.URL.Path+": it keeps every schema and has no modes and contexts")
}

func (r *registry) read(w http.ResponseWriter, req *http.Request) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.fake.Handler().ServeHTTP(w, req)
}

// readText answers with a schema as it is. The fake quotes it as a string of
// JSON, a registry does not.
func (r *registry) readText(w http.ResponseWriter, req *http.Request) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	answer, ok := r.ask(req, nil)
	if ok {
		var text string
		if err := json.Unmarshal(answer.body.Bytes(), &text); err == nil {
			answer.body.Reset()
			answer.body.WriteString(text)
		}
	}
	answer.send(w, nil)
}

// maxSchema is the fake's own limit.
const maxSchema = 1 << 20

func (r *registry) register(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxSchema))
	if err != nil {
		writeRegistryError(w, http.StatusRequestEntityTooLarge, sr.ErrInvalidSchema.Code, err.Error())
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	answer, ok := r.ask(req, body)
	if ok {
		err = r.keep(req.PathValue("subject"), body)
	}
	answer.send(w, err)
}

// keep writes a schema that the fake has just accepted.
func (r *registry) keep(subject string, body []byte) error {
	var schema sr.Schema
	if err := json.Unmarshal(body, &schema); err != nil {
		return err
	}
	id, version, err := r.fake.RegisterSchema(subject, schema) // now only says where it is
	if err != nil {
		return err
	}
	for _, s := range r.state.Schemas {
		if s.Subject == subject && s.Version == version {
			return nil
		}
	}
	next := r.state
	next.Schemas = append(next.Schemas[:len(next.Schemas):len(next.Schemas)],
		registered{Subject: subject, Version: version, ID: id, Schema: schema})
	return r.save(next)
}

func (r *registry) setLevel(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxSchema))
	if err != nil {
		writeRegistryError(w, http.StatusRequestEntityTooLarge, sr.ErrInvalidCompatibilityLevel.Code, err.Error())
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	answer, ok := r.ask(req, body)
	if ok {
		var level struct {
			Compatibility sr.CompatibilityLevel `json:"compatibility"`
		}
		if err = json.Unmarshal(body, &level); err == nil {
			next := r.state
			next.Levels = maps.Clone(next.Levels)
			next.Levels[levelKey(req)] = level.Compatibility
			err = r.save(next)
		}
	}
	answer.send(w, err)
}

func levelKey(req *http.Request) string {
	if strings.TrimSuffix(req.URL.Path, "/") == "/config" {
		return globalLevel
	}
	return req.PathValue("subject")
}

// save replaces the file. What it fails to write stays in the fake, and is
// written with the next attempt.
func (r *registry) save(next registryState) error {
	b, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(r.file, b); err != nil {
		return err
	}
	r.state = next
	return nil
}

// ask puts a request to the fake and holds its answer back.
func (r *registry) ask(req *http.Request, body []byte) (held *heldAnswer, ok bool) {
	req = req.Clone(req.Context())
	req.Body = io.NopCloser(bytes.NewReader(body))
	held = &heldAnswer{header: make(http.Header), status: http.StatusOK}
	r.fake.Handler().ServeHTTP(held, req)
	return held, held.status == http.StatusOK
}

// heldAnswer is an answer that is not yet sent.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (h *heldAnswer) Header() http.Header         { return h.header }
func (h *heldAnswer) WriteHeader(status int)      { h.status = status }
func (h *heldAnswer) Write(b []byte) (int, error) { return h.body.Write(b) }

// send sends the answer, or what prevented it from being true.
func (h *heldAnswer) send(w http.ResponseWriter, err error) {
	if err != nil {
		writeRegistryError(w, http.StatusInternalServerError, sr.ErrStoreError.Code, err.Error())
		return
	}
	maps.Copy(w.Header(), h.header)
	w.WriteHeader(h.status)
	_, _ = w.Write(h.body.Bytes())
}

func writeRegistryError(w http.ResponseWriter, status, code int, message string) {
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error_code": code, "message": message})
}
