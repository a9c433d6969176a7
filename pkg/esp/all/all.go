// Package all is the one list of providers. Adding one is a folder beside this
// one and a line here. It holds no provider's facts.
package all

import (
	"mailriver/pkg/esp"
	"mailriver/pkg/esp/mailgun"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/esp/mandrill"
	"mailriver/pkg/esp/postmark"
	"mailriver/pkg/esp/sendgrid"
	"mailriver/pkg/esp/ses"
)

// Providers returns every provider, in the order of the documentation, and
// Mailriver's own changes at the end.
func Providers() []esp.Provider {
	return []esp.Provider{
		sendgrid.Provider, mailgun.Provider, postmark.Provider, ses.Provider, mandrill.Provider,
		mailriver.Provider,
	}
}

// ByName returns the provider of that name.
func ByName(name string) (esp.Provider, bool) {
	for _, p := range Providers() {
		if p.Name == name {
			return p, true
		}
	}
	return esp.Provider{}, false
}
