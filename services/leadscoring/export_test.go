package leadscoring

// OpenAPI is the document that is served.
var OpenAPI = openapi

// Listed reports whether all leads are in order.
func (s *Service) Listed() bool {
	l := s.leads.Load()
	return l != nil && l.index.complete.Load()
}
