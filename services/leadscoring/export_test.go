package leadscoring

// OpenAPI is the document that is served.
var OpenAPI = openapi
