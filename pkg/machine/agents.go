package machine

import (
	"net/netip"
	"strings"
)

// meaning is what a row of a table says about an open or a click.
type meaning uint8

const (
	silent    meaning = iota // nothing
	onReading                // a machine, but because a person was there
	possible                 // it may be a machine, or stand for a person
	automatic                // a machine, and nobody there
)

// way is how a row's text is looked for in a user agent.
type way uint8

const (
	aWord   way = iota // at the beginning of a word
	atStart            // at the beginning
	whole              // nothing else
)

// agent is a row of the table of user agents.
type agent struct {
	how             way
	text            string // lower case
	code            string
	opened, clicked meaning
	source          string // where it is documented
}

// at reports whether the row's text stands at a place of an agent.
func (a *agent) at(name string, place int) bool {
	switch {
	case a.how != aWord && place > 0, a.how == whole && len(name) != len(a.text):
		return false
	default:
		return strings.HasPrefix(name[place:], a.text)
	}
}

func (a *agent) means(click bool) meaning {
	if click {
		return a.clicked
	}
	return a.opened
}

// Sources of more than one row.
const (
	// Mailgun shows the agent of an Apple open in its example; its blog, in
	// "Privacy, automatic engagements", says the same in words.
	mailgunBots = "https://documentation.mailgun.com/docs/mailgun/user-manual/tracking-messages/open-click-bot-detect"
	// SparkPost found the agent of Gmail's prefetch in its own events.
	sparkpostPrefetch = "https://www.sparkpost.com/blog/gmail-prefetching-images/"
	// The image proxy is described by those who classify agents.
	wurflProxy = "https://www.scientiamobile.com/what-is-google-image-proxy/"
	// Yahoo's agent bears the address of its own description.
	yahooProxy = "https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html"
	// Barracuda says that its products click. The name is in Braze's list of the
	// agents that it leaves out of clicks.
	barracudaClicks = "https://campus.barracuda.com/product/sentinel/doc/498468311/unwanted-link-clicks"
	// Microsoft describes what Office asks of a server before it opens a link.
	officeDiscovery = "https://learn.microsoft.com/archive/blogs/vsofficedeveloper/description-of-the-microsoft-office-existence-discovery-protocol-2"
	// productName: the product's name is in the agent, and in no browser's.
	productName = "the agent names the product"
	// ownDefault: what the library or tool sends unless it is told otherwise.
	ownDefault = "the default of that software, by its documentation"
	// robotsSay: the convention of RFC 9309's robots to bear "+" and an address.
	robotsSay = "convention of robots, as in https://developers.google.com/search/docs/crawling-indexing/overview-google-crawlers"
)

// agents is what is known of user agents. Not in it: what people use as well.
// Desktop Outlook (ms-office), apps that fetch by okhttp, CFNetwork or Dalvik,
// and an absent agent are no evidence; docs/machine.md says why of each.
var agents = [...]agent{ //nolint:gochecknoglobals // a table
	// Apple's proxy sends this and no more. A click does not pass through it.
	{whole, "mozilla/5.0", AppleProxy, automatic, silent, mailgunBots},

	// Before Gmail shows the message: the version of Edge never existed with it.
	{aWord, "chrome/42.0.2311.135 safari/537.36 edge/12.246 mozilla/5.0", GooglePrefetch, automatic, automatic, sparkpostPrefetch},
	// When it is read. It does not follow links, so a click is not a person's.
	{aWord, "googleimageproxy", GoogleProxy, onReading, automatic, wurflProxy},
	{aWord, "yahoomailproxy", YahooProxy, onReading, automatic, yahooProxy},

	{aWord, "barracuda", LinkScanner, automatic, automatic, barracudaClicks},
	{aWord, "proofpoint", LinkScanner, automatic, automatic, productName},
	{aWord, "mimecast", LinkScanner, automatic, automatic, productName},
	{aWord, "safelinks", LinkScanner, automatic, automatic, productName},
	// Office asks before it hands the link to the browser, whose click follows.
	{aWord, "microsoft office existence discovery", LinkScanner, automatic, automatic, officeDiscovery},
	{aWord, "microsoft office protocol discovery", LinkScanner, automatic, automatic, officeDiscovery},

	{aWord, "bingpreview/", LinkPreview, automatic, automatic, "https://www.bing.com/webmasters/help/which-crawlers-does-bing-use-8c184ec0"},
	{aWord, "slackbot", LinkPreview, automatic, automatic, "https://api.slack.com/robots"},
	{aWord, "facebookexternalhit/", LinkPreview, automatic, automatic, "https://developers.facebook.com/docs/sharing/webmasters/web-crawlers"},
	{aWord, "twitterbot/", LinkPreview, automatic, automatic, "https://developer.x.com/en/docs/x-for-websites/cards/guides/getting-started"},
	{aWord, "linkedinbot/", LinkPreview, automatic, automatic, productName},
	{aWord, "discordbot/", LinkPreview, automatic, automatic, productName},
	{aWord, "telegrambot", LinkPreview, automatic, automatic, productName},
	{aWord, "skypeuripreview", LinkPreview, automatic, automatic, productName},
	{atStart, "whatsapp/", LinkPreview, automatic, automatic, productName},

	{atStart, "curl/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "wget/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "python-requests/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "python-urllib/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "python-httpx/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "python/", HTTPClient, automatic, automatic, ownDefault}, // aiohttp
	{atStart, "go-http-client/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "java/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "java-http-client/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "apache-httpclient/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "libwww-perl/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "guzzlehttp/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "axios/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "node-fetch", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "lua-resty-http/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "ahc/", HTTPClient, automatic, automatic, ownDefault}, // AsyncHttpClient
	{atStart, "scrapy/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "httpie/", HTTPClient, automatic, automatic, ownDefault},
	{atStart, "postmanruntime/", HTTPClient, automatic, automatic, ownDefault},
	{aWord, "windowspowershell/", HTTPClient, automatic, automatic, ownDefault},

	{aWord, "headlesschrome/", Headless, automatic, automatic, ownDefault},
	{aWord, "phantomjs/", Headless, automatic, automatic, ownDefault},
	{aWord, "chrome-lighthouse", Headless, automatic, automatic, ownDefault},

	// Image proxies of smaller mailbox providers call themselves robots, too, so
	// that an open may be somebody's.
	{aWord, "+http://", Crawler, possible, automatic, robotsSay},
	{aWord, "+https://", Crawler, possible, automatic, robotsSay},
}

// byLetter are the rows by the first byte of their text. An agent has a dozen
// words, and most begin like no row: looking at each word is ten times as fast
// as looking for each row.
var byLetter = func() (rows [256][]*agent) { //nolint:gochecknoglobals // computed once, never written again
	for i := range agents {
		first := agents[i].text[0]
		rows[first] = append(rows[first], &agents[i])
	}
	return rows
}()

// lookUp calls found with each row whose text is in an agent of lower case.
func lookUp(name string, found func(*agent)) {
	for i := range len(name) {
		if i > 0 && isWord(name[i-1]) && isWord(name[i]) {
			continue
		}
		for _, a := range byLetter[name[i]] {
			if a.at(name, i) {
				found(a)
			}
		}
	}
}

func isWord(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// network is a row of the table of addresses.
type network struct {
	prefix          netip.Prefix
	code            string
	opened, clicked meaning
	source          string
}

func (n *network) means(click bool) meaning {
	if click {
		return n.clicked
	}
	return n.opened
}

// Lists of addresses that their owners publish.
const (
	googleRanges     = "https://www.gstatic.com/ipranges/goog.json"
	barracudaRanges  = "https://campus.barracuda.com/product/emailgatewaydefense/doc/96023004/ip-analysis-inbound/"
	proofpointRanges = "https://proofpoint.my.site.com/support/PPSup_SupportInfo"
)

// networks is what is known of addresses: only what the owner publishes as the
// service's own, and of that only what belongs to it. No vendor says that its
// scans come from there alone; Barracuda says that they do not.
var networks = [...]network{ //nolint:gochecknoglobals // a table
	// Google's own, without its cloud. Gmail's proxies are among them, and so may
	// be people who use Google's VPN: the address of a click says nothing.
	{netip.MustParsePrefix("64.233.160.0/19"), GoogleProxy, onReading, silent, googleRanges},
	{netip.MustParsePrefix("66.102.0.0/20"), GoogleProxy, onReading, silent, googleRanges},
	{netip.MustParsePrefix("66.249.64.0/19"), GoogleProxy, onReading, silent, googleRanges},
	{netip.MustParsePrefix("72.14.192.0/18"), GoogleProxy, onReading, silent, googleRanges},
	{netip.MustParsePrefix("74.125.0.0/16"), GoogleProxy, onReading, silent, googleRanges},
	{netip.MustParsePrefix("108.177.0.0/17"), GoogleProxy, onReading, silent, googleRanges},

	{netip.MustParsePrefix("209.222.80.0/21"), ScannerNetwork, automatic, automatic, barracudaRanges},
	{netip.MustParsePrefix("67.231.144.0/20"), ScannerNetwork, automatic, automatic, proofpointRanges},
	{netip.MustParsePrefix("208.84.64.0/22"), ScannerNetwork, automatic, automatic, proofpointRanges},
	{netip.MustParsePrefix("208.86.200.0/22"), ScannerNetwork, automatic, automatic, proofpointRanges},
	{netip.MustParsePrefix("62.209.50.0/24"), ScannerNetwork, automatic, automatic, proofpointRanges},
	{netip.MustParsePrefix("91.209.104.0/24"), ScannerNetwork, automatic, automatic, proofpointRanges},
}
