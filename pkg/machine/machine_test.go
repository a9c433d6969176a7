package machine_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"mailriver/pkg/event"
	"mailriver/pkg/machine"
)

const (
	safari      = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
	gmailProxy  = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
	gmailBefore = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0"
	yahooProxy  = "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html"
)

func opened(agent string) event.Event {
	return event.Event{Type: event.Opened, UserAgent: agent, Machine: event.MachineUnknown}
}

func clicked(agent string) event.Event {
	return event.Event{Type: event.Clicked, UserAgent: agent, Machine: event.MachineUnknown}
}

func with(e event.Event, change func(*event.Event)) event.Event {
	change(&e)
	return e
}

func flag(e *event.Event) {
	e.Machine, e.MachineEvidence = event.MachineYes, []string{event.EvidenceProviderFlag}
}

func from(ip string) func(*event.Event) { return func(e *event.Event) { e.ClientIP = ip } }

// Each code turns red without its row or its branch: the event beside it has
// nothing else that would give the verdict.
func TestStateless(t *testing.T) {
	const yes, no, unknown = event.MachineYes, event.MachineNo, event.MachineUnknown
	tests := []struct {
		name     string
		event    event.Event
		verdict  string
		evidence []string
	}{
		{"a person clicks", clicked(safari), unknown, nil},
		{"a person opens", opened(safari), unknown, nil},
		{"nothing is known", event.Event{Type: event.Opened}, unknown, nil},
		{"neither an open nor a click", with(clicked("curl/8.0"), func(e *event.Event) { e.Type = event.Delivered }), "", nil},
		{"an unsubscribe by a tool", with(clicked("curl/8.0"), func(e *event.Event) { e.Type = event.Unsubscribed }), "", nil},

		{"provider_flag", with(clicked(safari), flag), yes, []string{machine.ProviderFlag}},
		{"the provider's yes is left as it is", with(clicked("curl/8.0"), flag), yes, []string{machine.ProviderFlag}},
		{"the provider's no stands", with(clicked("curl/8.0"), func(e *event.Event) { e.Machine = no }), no, nil},
		{"bot_name", with(clicked(safari), func(e *event.Event) { e.BotName = "generic" }), yes, []string{machine.BotName}},
		{
			"bot_name beside what the provider said before", with(clicked("curl/8.0"), func(e *event.Event) { e.BotName, e.MachineEvidence = "x", []string{"other"} }),
			yes,
			[]string{"other", machine.BotName, machine.HTTPClient},
		},

		{"apple_proxy", opened("Mozilla/5.0"), yes, []string{machine.AppleProxy}},
		{"apple_proxy, named", with(opened("Mozilla/5.0"), func(e *event.Event) { e.ClientName = "Apple Mail" }), yes, []string{machine.AppleProxy}},
		{"the agent of Apple's proxy on a click", clicked("Mozilla/5.0"), unknown, nil},
		{"the provider knew another client", with(opened("Mozilla/5.0"), func(e *event.Event) { e.ClientName = "Firefox" }), unknown, nil},
		{"Apple Mail without the proxy", opened("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"), unknown, nil},

		{"google_prefetch", opened(gmailBefore), yes, []string{machine.GooglePrefetch}},
		{"google_prefetch from Google's network", with(opened(gmailBefore), from("66.249.93.5")), yes, []string{machine.GooglePrefetch, machine.GoogleProxy}},
		{"google_proxy", opened(gmailProxy), unknown, []string{machine.GoogleProxy}},
		{"google_proxy by its network", with(opened(safari), from("74.125.210.7")), unknown, []string{machine.GoogleProxy}},
		{"google_proxy by both, told once", with(opened(gmailProxy), from("74.125.210.7")), unknown, []string{machine.GoogleProxy}},
		{"a click from Google's network", with(clicked(safari), from("74.125.210.7")), unknown, nil},
		{"Gmail's proxy follows a link", clicked(gmailProxy), yes, []string{machine.GoogleProxy}},
		{"a provider marks Gmail's proxy", with(opened(gmailProxy), flag), unknown, []string{machine.ProviderFlag, machine.GoogleProxy}},
		{"a provider marks Gmail's prefetch", with(opened(gmailBefore), func(e *event.Event) { flag(e); e.ClientIP = "66.249.93.5" }), yes, []string{machine.ProviderFlag}},
		{"a provider marks a click by Gmail's proxy", with(clicked(gmailProxy), flag), yes, []string{machine.ProviderFlag}},
		{"yahoo_proxy", opened(yahooProxy), unknown, []string{machine.YahooProxy}},
		{"Yahoo's proxy follows a link", clicked(yahooProxy), yes, []string{machine.YahooProxy}},

		{"link_scanner", clicked("Barracuda Sentinel (EE)"), yes, []string{machine.LinkScanner}},
		{"link_scanner of Proofpoint", clicked("ProofpointURLDefense/1.0"), yes, []string{machine.LinkScanner}},
		{"link_scanner of Mimecast", clicked("Mimecast-Link-Protect"), yes, []string{machine.LinkScanner}},
		{"link_scanner of Microsoft", clicked(safari + " SafeLinks"), yes, []string{machine.LinkScanner}},
		{"Office looks before the browser does", clicked("Microsoft Office Existence Discovery"), yes, []string{machine.LinkScanner}},
		{"Outlook on a desk", opened("Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; ms-office; MSOffice 16)"), unknown, nil},
		{"scanner_network of Barracuda", with(clicked(safari), from("209.222.87.255")), yes, []string{machine.ScannerNetwork}},
		{"scanner_network of Proofpoint", with(opened(safari), from("67.231.144.0")), yes, []string{machine.ScannerNetwork}},
		{"scanner_network, IPv4 in IPv6", with(clicked(safari), from("::ffff:67.231.159.255")), yes, []string{machine.ScannerNetwork}},
		{"the address after Barracuda's", with(clicked(safari), from("209.222.88.0")), unknown, nil},
		{"not an address", with(clicked(safari), from("67.231.144.0:443")), unknown, nil},
		{"link_preview", clicked("facebookexternalhit/1.1"), yes, []string{machine.LinkPreview}},
		{"link_preview that says where to read", clicked("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"), yes, []string{machine.LinkPreview, machine.Crawler}},
		{"the browser in an app that has previews", clicked(safari + " [FBAN/FBIOS;FBAV/470.0]"), unknown, nil},
		{"http_client", clicked("Go-http-client/2.0"), yes, []string{machine.HTTPClient}},
		{"http_client loads the image", opened("python-requests/2.31.0"), yes, []string{machine.HTTPClient}},
		{"http_client, spaces about it", clicked("  CURL/8.9.0 "), yes, []string{machine.HTTPClient}},
		{"a library that apps use", clicked("okhttp/4.12.0"), unknown, nil},
		{"a name within a word", clicked("Mozilla/5.0 (X11; notmimecast)"), unknown, nil},
		{"the name of a tool inside another", clicked(safari + " curl/8.0"), unknown, nil},
		{"headless", clicked(strings.Replace(safari, "Version/18.5", "HeadlessChrome/120.0.6099.28", 1)), yes, []string{machine.Headless}},
		{"crawler follows a link", clicked("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"), yes, []string{machine.Crawler}},
		{"crawler that may be the image proxy of a mailbox", opened("ImageProxy/1.0 (+https://mailhost.example/)"), unknown, []string{machine.Crawler}},
		{"a phone by a maker called Cubot", clicked("Mozilla/5.0 (Linux; Android 11; CUBOT X30) AppleWebKit/537.36"), unknown, nil},
		{"a name far behind", clicked(strings.Repeat("x", 1024) + "barracuda"), unknown, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.event
			before.MachineEvidence = slices.Clone(tt.event.MachineEvidence)
			verdict, evidence := machine.Stateless(&tt.event)
			if verdict != tt.verdict || !slices.Equal(evidence, tt.evidence) {
				t.Errorf("Stateless(%q) = %q, %q, want %q, %q", tt.event.UserAgent, verdict, evidence, tt.verdict, tt.evidence)
			}
			if !reflect.DeepEqual(tt.event, before) {
				t.Errorf("Stateless() changed the event to %+v", tt.event)
			}
			// What it has said of an event is no news when it is asked again.
			if verdict != "" {
				tt.event.Machine, tt.event.MachineEvidence = verdict, evidence
				again, same := machine.Stateless(&tt.event)
				if again != verdict || !slices.Equal(same, evidence) {
					t.Errorf("Stateless() of its own answer = %q, %q, want %q, %q", again, same, verdict, evidence)
				}
			}
		})
	}
}

func FuzzStateless(f *testing.F) {
	for _, l := range lines[labelled](f, "events.jsonl") {
		e := l.Event
		f.Add(string(e.Type), e.UserAgent, e.ClientIP, e.ClientName, e.BotName, e.Machine)
	}
	known := machine.StatelessCodes()
	f.Fuzz(func(t *testing.T, typ, agent, ip, client, bot, said string) {
		e := event.Event{Type: event.Type(typ), UserAgent: agent, ClientIP: ip, ClientName: client, BotName: bot, Machine: said}
		verdict, evidence := machine.Stateless(&e)
		engaged := e.Type == event.Opened || e.Type == event.Clicked
		if words, _ := event.Vocabulary("machine"); engaged != slices.Contains(words, verdict) || !engaged && verdict != "" {
			t.Errorf("Stateless(%s, %q) = %q", typ, agent, verdict)
		}
		for i, code := range evidence {
			if !slices.Contains(known, code) || slices.Contains(evidence[:i], code) {
				t.Errorf("Stateless(%s, %q) gives the evidence %q", typ, agent, evidence)
			}
		}
		if verdict == event.MachineYes && said != event.MachineYes && len(evidence) == 0 {
			t.Errorf("Stateless(%s, %q) says yes and not why", typ, agent)
		}
	})
}

func BenchmarkStateless(b *testing.B) {
	events := lines[labelled](b, "events.jsonl")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		machine.Stateless(&events[i%len(events)].Event)
	}
}
