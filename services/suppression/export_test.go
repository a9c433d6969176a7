package suppression

import "time"

// OpenAPI is the document that is served.
var OpenAPI = openapi

// WaitForPosition bounds ?wait=, which otherwise takes longer than a test should.
func (s *Service) WaitForPosition(bound time.Duration) { s.readWait = bound }

// Filtered reports whether the list answers for absent addresses from memory.
func (s *Service) Filtered() bool { return s.list.Load().states.Filtered() }
