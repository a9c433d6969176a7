package machine

import (
	"cmp"
	"slices"
	"time"

	"mailriver/pkg/event"
)

// Codes of evidence that several events give together. Each speaks for a machine
// strongly enough to be acted upon.
const (
	// BeforeDelivery is an open or click while the message was still being
	// handed over: a gateway that reads it before it says that it took it.
	BeforeDelivery = "before_delivery"
	// FastClick is a click sooner after the delivery than a person can see,
	// open and read a message.
	FastClick = "fast_click"
	// ManyLinks is a click among more different links of one message than a
	// person follows in that time.
	ManyLinks = "many_links"
	// OpenWithClick is an open and a click of one message within a second, soon
	// after its delivery.
	OpenWithClick = "open_with_click"
)

// Bounds of the evidence over time. Many providers tell time in whole seconds,
// cut off. The bounds are whole seconds and exclusive for that reason: two times
// that are nearer than that after cutting were so before.
const (
	// handover is how long a server may take to confirm a message after its last
	// byte (RFC 5321, section 4.5.3.2.6). What happens longer before a delivery
	// belongs to another one.
	handover = 10 * time.Minute
	// fastClick: in less than this nobody notices, opens and reads a message. One
	// who sits there waiting for a link to log in with needs four or five seconds.
	fastClick = 3 * time.Second
	// together is less than it takes to read a word and move a hand.
	together = time.Second
	// soon is when gateways look at what has just come in. A person who opens a
	// message as a web page causes an open and a click at once, too, but rarely
	// so soon.
	soon = 30 * time.Second
)

// bursts are numbers of different links of one message that nobody follows in
// less than a time; the longest time stands last. Marketo, which has tried
// longer ones, takes the same second ("proximity pattern",
// https://nation.marketo.com, "Update to Filtering bot activity").
var bursts = [...]struct { //nolint:gochecknoglobals // a table
	links  int
	within time.Duration
}{
	{2, time.Second},
	{3, 2 * time.Second},
	{6, 5 * time.Second},
}

// OverTimeCodes lists the codes that [OverTime] can give.
func OverTimeCodes() []string { return []string{BeforeDelivery, FastClick, ManyLinks, OpenWithClick} }

// Engagement is an open or a click. Others are ignored.
type Engagement struct {
	At      time.Time
	Type    event.Type
	Message int64 // which message; 0 when it is not known
	Link    int64 // which link; 0 when it is not known
}

// Delivery is when a message arrived.
type Delivery struct {
	Message int64
	At      time.Time
}

// OverTime returns, for each engagement, the codes of what the engagements and
// deliveries of one recipient say together: mostly none. Every code is a reason
// to take that engagement for a machine's. The answer depends on which events
// there are, and not on their order; engagements in order of time are answered
// a little sooner.
func OverTime(engagements []Engagement, deliveries []Delivery) [][]string {
	out := make([][]string, len(engagements))
	order := candidates(engagements, deliveries)
	if len(order) == 0 {
		return out
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := &engagements[a], &engagements[b]
		return cmp.Or(cmp.Compare(x.Message, y.Message), x.At.Compare(y.At))
	})
	found := make([]mark, len(engagements))
	for len(order) > 0 {
		message := engagements[order[0]].Message
		n := 1
		for n < len(order) && engagements[order[n]].Message == message {
			n++
		}
		group := order[:n]
		order = order[n:]
		markBursts(engagements, group, found)
		if at, ok := firstDelivery(deliveries, message); ok {
			markSpeed(engagements, group, at, found)
			markTogether(engagements, group, at, found)
		}
	}
	for i, m := range found {
		out[i] = m.codes()
	}
	return out
}

// candidates returns those that any evidence can be about: near a delivery, or
// so near to another that they may be of one burst. Mostly there is none, and
// nothing is left to do: lead scoring asks on every event. Whatever lies between
// two of a burst is as near, so a burst is here whole or not at all.
func candidates(engagements []Engagement, deliveries []Delivery) []int {
	inTime := func(a, b Engagement) int { return a.At.Compare(b.At) }
	if slices.IsSortedFunc(engagements, inTime) {
		return nearby(engagements, deliveries, nil)
	}
	order := make([]int, len(engagements))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return inTime(engagements[a], engagements[b]) })
	return nearby(engagements, deliveries, order)
}

// nearby looks at the engagements in an order of time; no order is as they stand.
func nearby(engagements []Engagement, deliveries []Delivery, order []int) []int {
	place := func(n int) int {
		if order == nil {
			return n
		}
		return order[n]
	}
	longest := bursts[len(bursts)-1].within
	var near []int
	for n := range engagements {
		i := place(n)
		e := &engagements[i]
		if e.Message == 0 || e.Type != event.Opened && e.Type != event.Clicked {
			continue
		}
		if n > 0 && e.At.Sub(engagements[place(n-1)].At) < longest ||
			n+1 < len(engagements) && engagements[place(n+1)].At.Sub(e.At) < longest ||
			slices.ContainsFunc(deliveries, func(d Delivery) bool { return d.Message == e.Message && early(e.At.Sub(d.At)) }) {
			near = append(near, i)
		}
	}
	return near
}

// early reports whether a time after a delivery is one at which gateways look.
func early(after time.Duration) bool { return after >= -handover && after < soon }

// mark is a set of codes.
type mark uint8

const (
	markBefore mark = 1 << iota
	markFast
	markLinks
	markOpenClick
)

func (m mark) codes() []string {
	if m == 0 {
		return nil
	}
	var codes []string
	for _, c := range [...]struct {
		mark mark
		code string
	}{{markBefore, BeforeDelivery}, {markFast, FastClick}, {markLinks, ManyLinks}, {markOpenClick, OpenWithClick}} {
		if m&c.mark != 0 {
			codes = append(codes, c.code)
		}
	}
	return codes
}

// firstDelivery is the first time that a message was delivered: a second report
// of one cannot make a click fast.
func firstDelivery(deliveries []Delivery, message int64) (time.Time, bool) {
	var first time.Time
	for i := range deliveries {
		d := &deliveries[i]
		if d.Message == message && !d.At.IsZero() && (first.IsZero() || d.At.Before(first)) {
			first = d.At
		}
	}
	return first, !first.IsZero()
}

func markSpeed(all []Engagement, group []int, delivered time.Time, found []mark) {
	for _, i := range group {
		switch after := all[i].At.Sub(delivered); {
		case after < -handover:
		case after < 0:
			found[i] |= markBefore
		case after < fastClick && all[i].Type == event.Clicked:
			found[i] |= markFast
		}
	}
}

// markTogether marks opens and clicks that are close to each other. The group is
// in order of time, so the nearest of the other type on each side is enough.
func markTogether(all []Engagement, group []int, delivered time.Time, found []mark) {
	var opened, clicked time.Time // the last one seen
	look := func(i int) {
		e := &all[i]
		if !early(e.At.Sub(delivered)) {
			return
		}
		mine, other := &opened, clicked
		if e.Type == event.Clicked {
			mine, other = &clicked, opened
		}
		*mine = e.At
		if !other.IsZero() && e.At.Sub(other).Abs() < together {
			found[i] |= markOpenClick
		}
	}
	for _, i := range group {
		look(i)
	}
	opened, clicked = time.Time{}, time.Time{}
	for _, i := range slices.Backward(group) {
		look(i)
	}
}

// markBursts marks clicks on many different links in a short time. A link that
// is followed twice is one: people click twice, too.
func markBursts(all []Engagement, group []int, found []mark) {
	clicks := make([]int, 0, len(group))
	for _, i := range group {
		if all[i].Type == event.Clicked && all[i].Link != 0 {
			clicks = append(clicks, i)
		}
	}
	if len(clicks) < bursts[0].links {
		return
	}
	for _, b := range bursts {
		counts := map[int64]int{} // of each link, among clicks[from:to]
		to, marked := 0, 0
		for from := range clicks {
			for to < len(clicks) && all[clicks[to]].At.Sub(all[clicks[from]].At) < b.within {
				counts[all[clicks[to]].Link]++
				to++
			}
			if len(counts) >= b.links {
				for marked = max(marked, from); marked < to; marked++ {
					found[clicks[marked]] |= markLinks
				}
			}
			link := all[clicks[from]].Link
			if counts[link]--; counts[link] == 0 {
				delete(counts, link)
			}
		}
	}
}
