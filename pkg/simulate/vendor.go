package simulate

import "time"

// vendor is a provider that can be played: what it says is its dialect; this is
// how it is set up, and what it makes of answers. Each is declared in the file of
// its dialect.
type vendor struct {
	name string
	// eventsPerMessage is about how many events it reports of a message. It
	// spreads the messages over the span.
	eventsPerMessage float64
	speak            func(Source, *generator) (dialect, error)

	// files are the names of its keys in a folder of [Keys], the one that is
	// written last at the end, and secrets makes their contents.
	files   []string
	secrets func(now time.Time) (map[string][]byte, error)
	// settings are those of a source that verifies it.
	settings func(k Keys, endpoint, certHost string) []setting
	// adopt gives a source what the vendor signs with. Nil takes the keys of the
	// configuration.
	adopt func(k Keys, s *Source, c Configured) error

	// judge says what an answer means to it; nil is [succeedsBy2xx].
	judge func(r Request, status int) Verdict
	// retries are its pauses before the second attempt, the third, ...
	retries []time.Duration
}

// setting is one setting of a source in the receiver's configuration: a text, or
// a file of the keys that holds it. Several with one key are a list.
type setting struct{ key, text, file string }

// vendors is the one list of what can be played.
func vendors() []vendor {
	return []vendor{
		sendgridVendor(), mailgunVendor(), postmarkVendor(), sesVendor(), mandrillVendor(),
	}
}

func vendorOf(name string) (vendor, bool) {
	for _, v := range vendors() {
		if v.name == name {
			return v, true
		}
	}
	return vendor{}, false
}

// Providers are the names of the providers whose traffic can be made.
func Providers() []string {
	var names []string
	for _, v := range vendors() {
		names = append(names, v.name)
	}
	return names
}

// doubling are pauses that grow from first to most, over a window.
func doubling(first, most, window time.Duration) []time.Duration {
	var pauses []time.Duration
	for pause, total := first, time.Duration(0); total+pause <= window; pause = min(2*pause, most) {
		pauses = append(pauses, pause)
		total += pause
	}
	return pauses
}
