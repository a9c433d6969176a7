// Package machine tells engagement by machines from engagement by people: opens
// by proxies that fetch images before anybody reads, and clicks by scanners that
// follow links to see where they lead. It names evidence by codes.
//
// Two kinds of evidence are told apart. [Stateless] is what one event says by
// itself: the normalizer asks it, and the answer is part of the canonical event.
// [OverTime] is what several events of one recipient say together, such as a
// click sooner after the delivery than anybody can read: lead scoring asks it.
//
// A person who is taken for a machine is a lead that is lost, and a machine that
// is taken for a person is a lead too warm. The first is worse, so what speaks
// for both is left open: no evidence here is a verdict unless it would be hard
// to find a person behind it.
//
// That is why two image proxies are judged differently. Apple's loads the images
// of a message when it has arrived, whether or not anybody opens it: an open
// through it says nothing about a person, and is a machine's. Gmail's and Yahoo's
// load them when somebody opens the message: a machine did the fetching, but
// because a person was there, and the verdict stays "unknown".
//
// What is known of user agents and networks stands in tables (agents.go), with
// the source of each row. The package does not know the clock, does not look
// anything up, and does not learn. It never says that a person did something:
// that is for providers. What it does not use, and why, is in docs/machine.md.
package machine

import (
	"net/netip"
	"slices"
	"strings"

	"mailriver/pkg/event"
)

// Codes of evidence that one event gives.
const (
	// ProviderFlag is the provider's own word that it was a machine.
	ProviderFlag = event.EvidenceProviderFlag
	// BotName is a name for the machine, given by the provider.
	BotName = "bot_name"
	// AppleProxy is an open by the proxy of Apple Mail Privacy Protection.
	AppleProxy = "apple_proxy"
	// GooglePrefetch is an open by Gmail before it shows a message, while the
	// recipient has Gmail open.
	GooglePrefetch = "google_prefetch"
	// GoogleProxy is an open through Gmail's image proxy, which fetches when the
	// message is read. It is no verdict.
	GoogleProxy = "google_proxy"
	// YahooProxy is an open through Yahoo's image proxy, which fetches when the
	// message is read. It is no verdict.
	YahooProxy = "yahoo_proxy"
	// LinkScanner is a user agent that names a product for mail security.
	LinkScanner = "link_scanner"
	// ScannerNetwork is an address that a vendor of mail security publishes as
	// its service's own.
	ScannerNetwork = "scanner_network"
	// LinkPreview is a user agent of a service that shows what a link leads to.
	LinkPreview = "link_preview"
	// HTTPClient is a user agent of a library or tool for HTTP, such as curl.
	HTTPClient = "http_client"
	// Headless is a user agent of a browser that is run by a program.
	Headless = "headless"
	// Crawler is a user agent that says where to read about it, as robots do.
	Crawler = "crawler"
)

// StatelessCodes lists the codes that [Stateless] can give.
func StatelessCodes() []string {
	return []string{
		ProviderFlag, BotName, AppleProxy, GooglePrefetch, GoogleProxy, YahooProxy,
		LinkScanner, ScannerNetwork, LinkPreview, HTTPClient, Headless, Crawler,
	}
}

// Stateless returns what one event says by itself: a value of the canonical
// field machine and the codes for machine_evidence. Both are empty unless the
// event is an open or a click.
//
// The provider's word stands where it has given one, and what is found here is
// not even added to it. There is one exception: a provider that marks an open
// through an image proxy which fetches when the message is read has told of the
// proxy, not of who is behind it. Some providers do that and some do not, and
// the same open must mean the same at each. It stays "unknown", with the
// evidence of both.
//
// The result depends on the type, the provider's verdict and evidence, bot_name,
// client_name, user_agent and client_ip alone. The event is not changed.
func Stateless(e *event.Event) (verdict string, evidence []string) {
	if e.Type != event.Opened && e.Type != event.Clicked {
		return "", nil
	}
	if e.Machine == event.MachineNo {
		return e.Machine, e.MachineEvidence
	}
	f := examine(e)
	if e.Machine == event.MachineYes {
		if !f.proxied || f.automatic || e.Type != event.Opened {
			return e.Machine, e.MachineEvidence
		}
		return event.MachineUnknown, join(e.MachineEvidence, f.codes)
	}
	if e.BotName != "" {
		f.codes, f.automatic = append([]string{BotName}, f.codes...), true
	}
	if f.automatic {
		return event.MachineYes, join(e.MachineEvidence, f.codes)
	}
	return event.MachineUnknown, join(e.MachineEvidence, f.codes)
}

// findings are what the tables say about an event.
type findings struct {
	codes     []string
	automatic bool // no person was there
	proxied   bool // a proxy that fetches when a person reads
}

func (f *findings) add(code string, means meaning) {
	if means == silent {
		return
	}
	f.automatic = f.automatic || means == automatic
	f.proxied = f.proxied || means == onReading
	if !slices.Contains(f.codes, code) {
		f.codes = append(f.codes, code)
	}
}

// maxAgent bounds what is looked at of a user agent. Real ones are shorter.
const maxAgent = 1024

// examine asks the tables.
func examine(e *event.Event) findings {
	var f findings
	click := e.Type == event.Clicked
	if name := strings.TrimSpace(e.UserAgent); name != "" {
		name = strings.ToLower(name[:min(len(name), maxAgent)])
		lookUp(name, func(a *agent) {
			if a.code != AppleProxy || maybeApple(e.ClientName) {
				f.add(a.code, a.means(click))
			}
		})
	}
	if ip, err := netip.ParseAddr(e.ClientIP); err == nil {
		ip = ip.Unmap()
		for i := range networks {
			if n := &networks[i]; n.prefix.Contains(ip) {
				f.add(n.code, n.means(click))
			}
		}
	}
	return f
}

// maybeApple: the user agent of Apple's proxy is no more than how every browser
// begins. A provider that has recognized another client knows more of it.
func maybeApple(client string) bool {
	return client == "" || strings.EqualFold(client, "unknown") || strings.Contains(strings.ToLower(client), "apple")
}

// join adds codes that are not there yet, and leaves both lists as they are.
func join(have, more []string) []string {
	if len(more) == 0 {
		return have
	}
	all := slices.Clone(have)
	for _, code := range more {
		if !slices.Contains(all, code) {
			all = append(all, code)
		}
	}
	return all
}
