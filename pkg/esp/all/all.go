// Package all is the one list of providers. Adding one is a folder beside this
// one and a line here. It holds no provider's facts.
package all

import (
	"mailriver/pkg/esp"
)

// Providers returns every provider, in the order of the documentation.
func Providers() []esp.Provider {
	return []esp.Provider{}
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
