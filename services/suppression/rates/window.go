package rates

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Rate is what is watched.
type Rate string

// The rates.
const (
	Complaint  Rate = "complaint"   // complaints of delivered messages
	HardBounce Rate = "hard_bounce" // hard bounces of delivered and hard-bounced messages
)

func watched() []Rate { return []Rate{Complaint, HardBounce} }

// of returns the numerator and the denominator.
func (r Rate) of(n Counts) (events, volume int64) {
	if r == Complaint {
		return n.Complained, n.Delivered
	}
	return n.HardBounced, n.Delivered + n.HardBounced
}

// fraction is 0 where there is no mail.
func fraction(events, volume int64) float64 {
	if volume == 0 {
		return 0
	}
	return float64(events) / float64(volume)
}

// Level is how bad a rate is.
type Level string

// The levels.
const (
	OK       Level = "ok"
	Warning  Level = "warning"
	Critical Level = "critical"
)

func (l Level) rank() int { return slices.Index([]Level{OK, Warning, Critical}, l) }

func (c Config) thresholds(r Rate) Thresholds {
	if r == Complaint {
		return c.Complaint
	}
	return c.HardBounce
}

// at is the threshold of a level.
func (t Thresholds) at(l Level) float64 {
	switch l {
	case Critical:
		return t.Critical
	case Warning:
		return t.Warning
	}
	return 0
}

// level is the level that follows on another. A level begins at its threshold and
// the minimum of volume, and holds until one of them is below the hysteresis's
// part: a rate that wavers around a threshold crosses it once.
func (c Config) level(before Level, r Rate, n Counts) Level {
	events, volume := r.of(n)
	for _, l := range []Level{Critical, Warning} {
		part := 1.0
		if before.rank() >= l.rank() {
			part = c.Hysteresis
		}
		if volume > 0 && reaches(volume, part*float64(c.MinVolume)) &&
			reaches(events, part*c.thresholds(r).at(l)*float64(volume)) {
			return l
		}
	}
	return OK
}

// reaches compares a count with a product of fractions, which binary floating
// point may put a little above the whole number that it is: 0.8 of 0.3 % of
// 10,000 is 24.
func reaches(n int64, bound float64) bool { return float64(n)+1e-6 >= bound }

// sums adds the counters of all partitions up, by sender and hour.
//
// The window is one for all senders, in event time: it ends with the newest hour
// in which anything was counted for anybody. So a backlog is judged by when things
// happened, and the alert of a domain that went silent ends when the others have
// gone on for a window. When all are silent, nothing is read, and event time goes
// on from the newest hour at the pace of the clock. The end never goes back.
type sums struct {
	window  int64
	cells   map[partitionCell]Counts
	totals  map[string]map[hour]Counts
	newest  hour
	moved   time.Time // when a counter last changed, by the clock
	last    hour      // the end as it was last
	changed bool      // since it was last judged
}

type partitionCell struct {
	partition int32
	cell
}

func newSums(window int64, now time.Time) *sums {
	return &sums{window: window, cells: map[partitionCell]Counts{}, totals: map[string]map[hour]Counts{}, moved: now, changed: true}
}

// add takes a counter in.
func (s *sums) add(partition int32, c cell, n Counts, now time.Time) {
	s.moved, s.changed = now, true
	if c.hour > s.newest {
		s.newest = c.hour
		s.prune()
	}
	if c.hour <= s.newest-hour(s.window) {
		return
	}
	key := partitionCell{partition, c}
	before := s.cells[key]
	n = before.greater(n)
	s.cells[key] = n
	byHour := s.totals[c.sender]
	if byHour == nil {
		byHour = map[hour]Counts{}
		s.totals[c.sender] = byHour
	}
	byHour[c.hour] = byHour[c.hour].plus(n.minus(before))
}

// prune forgets what has left the window. The end is never before newest.
func (s *sums) prune() {
	gone := func(h hour) bool { return h <= s.newest-hour(s.window) }
	maps.DeleteFunc(s.cells, func(c partitionCell, _ Counts) bool { return gone(c.hour) })
	for sender, byHour := range s.totals {
		maps.DeleteFunc(byHour, func(h hour, _ Counts) bool { return gone(h) })
		if len(byHour) == 0 {
			delete(s.totals, sender)
		}
	}
}

// end is the last hour of the window.
func (s *sums) end(now time.Time) hour {
	silent := max(0, now.Sub(s.moved))
	s.last = max(s.last, s.newest+hour(silent/time.Hour))
	return s.last
}

// total is what was counted for a sender in the window.
func (s *sums) total(sender string, end hour) Counts {
	var n Counts
	for h, counts := range s.totals[sender] {
		if h > end-hour(s.window) && h <= end {
			n = n.plus(counts)
		}
	}
	return n
}

// standing is a sender and its total.
type standing struct {
	sender string
	total  Counts
}

// all are the totals of everybody who has one, in the order of names.
func (s *sums) all(end hour) []standing {
	var list []standing
	for sender := range s.totals {
		if n := s.total(sender, end); n != (Counts{}) {
			list = append(list, standing{sender, n})
		}
	}
	slices.SortFunc(list, func(a, b standing) int { return cmp.Compare(a.sender, b.sender) })
	return list
}

// largest are the n with the most mail.
func largest(list []standing, n int) []standing {
	list = slices.Clone(list)
	volume := func(s standing) int64 { return s.total.Delivered + s.total.HardBounced }
	slices.SortStableFunc(list, func(a, b standing) int { return cmp.Compare(volume(b), volume(a)) })
	return list[:min(n, len(list))]
}
