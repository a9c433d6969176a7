// Package esplisttest has servers that answer as the documentation of the
// providers says that their suppression APIs do, and the suite that each client
// must pass against its own.
//
// The servers are written from the documentation that the clients' packages
// name, and share no code with the clients; the one for SES checks signatures
// by the steps of Signature Version 4. They cannot show that the documentation
// is right.
package esplisttest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Answer is one that a server gives instead of its own.
type Answer struct {
	Status int
	Header map[string]string
	Body   string
}

// Server is a provider on 127.0.0.1.
type Server struct {
	URL string

	mu       sync.Mutex
	next     []Answer
	always   *Answer
	busy     int // every how many requests; 0 for never
	requests []string
	headers  []http.Header
}

// serve starts a server. The handler is called for one request at a time.
func serve(t testing.TB, handler http.HandlerFunc) *Server {
	s := &Server{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		s.headers = append(s.headers, r.Header.Clone())
		if s.always != nil {
			write(w, *s.always)
			return
		}
		if s.busy > 0 && len(s.requests)%s.busy == 0 {
			write(w, Answer{Status: http.StatusTooManyRequests, Header: map[string]string{"Retry-After": "1"}})
			return
		}
		if len(s.next) > 0 {
			a := s.next[0]
			s.next = s.next[1:]
			if a.Status != 0 {
				write(w, a)
				return
			}
		}
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

func write(w http.ResponseWriter, a Answer) {
	for name, value := range a.Header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.Status)
	_, _ = io.WriteString(w, a.Body)
}

// Next queues answers for the next requests. The zero Answer leaves a request
// to the server.
func (s *Server) Next(answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = append(s.next, answers...)
}

// Always gives one answer to every request from now on.
func (s *Server) Always(a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always = &a
}

// BusyEvery has every nth request answered with 429 and a Retry-After of one
// second.
func (s *Server) BusyEvery(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = n
}

// Requests lists method and path of what came so far.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// Headers lists the headers of what came so far.
func (s *Server) Headers() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]http.Header(nil), s.headers...)
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

func decode(r *http.Request, into any) bool {
	return r.Header.Get("Content-Type") == "application/json" && json.NewDecoder(r.Body).Decode(into) == nil
}
