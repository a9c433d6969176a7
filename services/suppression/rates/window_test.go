package rates

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

func TestLevel(t *testing.T) {
	cfg := DefaultConfig()
	mail := func(delivered, complained, bounced int64) Counts { return Counts{delivered, complained, bounced} }
	for _, tt := range []struct {
		name   string
		before Level
		rate   Rate
		n      Counts
		want   Level
	}{
		{"nothing", OK, Complaint, mail(0, 0, 0), OK},
		{"one of three", OK, Complaint, mail(3, 1, 0), OK},
		{"just too few", OK, Complaint, mail(999, 10, 0), OK},
		{"enough", OK, Complaint, mail(1000, 10, 0), Critical},
		{"below 0.1 %", OK, Complaint, mail(1001, 1, 0), OK},
		{"0.1 %", OK, Complaint, mail(1000, 1, 0), Warning},
		{"below 0.3 %", OK, Complaint, mail(1001, 3, 0), Warning},
		{"0.3 %", OK, Complaint, mail(1000, 3, 0), Critical},
		{"warning holds at 0.8", Warning, Complaint, mail(10_000, 8, 0), Warning},
		{"warning ends below", Warning, Complaint, mail(10_001, 8, 0), OK},
		{"warning does not rise before 0.3 %", Warning, Complaint, mail(10_000, 29, 0), Warning},
		{"warning rises", Warning, Complaint, mail(10_000, 30, 0), Critical},
		{"critical holds at 0.8", Critical, Complaint, mail(10_000, 24, 0), Critical},
		{"critical falls to warning", Critical, Complaint, mail(10_000, 23, 0), Warning},
		{"critical falls to where warning still holds", Critical, Complaint, mail(10_000, 8, 0), Warning},
		{"critical ends", Critical, Complaint, mail(10_000, 7, 0), OK},
		{"volume holds at 0.8", Critical, Complaint, mail(800, 80, 0), Critical},
		{"volume ends below", Critical, Complaint, mail(799, 80, 0), OK},
		{"the mail stopped", Critical, Complaint, mail(0, 5, 0), OK},
		{"bounces are of what was tried", OK, HardBounce, mail(980, 0, 20), Warning},
		{"below 2 %", OK, HardBounce, mail(981, 0, 20), OK},
		{"5 %", OK, HardBounce, mail(950, 0, 50), Critical},
		{"everything bounced", OK, HardBounce, mail(0, 0, 1000), Critical},
		{"complaints are no bounces", OK, HardBounce, mail(1000, 1000, 0), OK},
	} {
		if got := cfg.level(tt.before, tt.rate, tt.n); got != tt.want {
			t.Errorf("%s: level(%s, %s, %v) = %s, want %s", tt.name, tt.before, tt.rate, tt.n, got, tt.want)
		}
	}
}

// Whatever wavers between a threshold and the hysteresis's part of it makes one
// crossing.
func TestLevel_waversOnce(t *testing.T) {
	cfg := DefaultConfig()
	level, crossings := OK, 0
	for i := range 100 {
		next := cfg.level(level, Complaint, Counts{Delivered: 10_000, Complained: 10 - int64(i%2)})
		if next != level {
			crossings++
		}
		level = next
	}
	if crossings != 1 || level != Warning {
		t.Errorf("%d crossings to %s, want 1 to warning", crossings, level)
	}
}

const h0 = hour(490_000)

func TestSums_slides(t *testing.T) {
	s := newSums(24, noon)
	s.add(0, cell{"a", h0}, Counts{Delivered: 10, Complained: 1}, noon)
	s.add(1, cell{"a", h0}, Counts{Delivered: 5}, noon)
	s.add(0, cell{"a", h0 + 1}, Counts{Delivered: 7}, noon)
	s.add(0, cell{"b", h0 + 1}, Counts{Delivered: 1}, noon)
	check := func(name string, end hour, a Counts) {
		t.Helper()
		if got := s.end(noon); got != end {
			t.Errorf("%s: end() = %d, want %d", name, got, end)
		}
		if got := s.total("a", end); got != a {
			t.Errorf("%s: total(a) = %v, want %v", name, got, a)
		}
	}
	check("all", h0+1, Counts{Delivered: 22, Complained: 1})
	s.add(2, cell{"b", h0 + 23}, Counts{Delivered: 1}, noon)
	check("the first hour is the last one in", h0+23, Counts{Delivered: 22, Complained: 1})
	s.add(2, cell{"b", h0 + 24}, Counts{Delivered: 1}, noon)
	check("the first hour is out", h0+24, Counts{Delivered: 7})
	s.add(0, cell{"a", h0}, Counts{Delivered: 11, Complained: 2}, noon)
	check("what comes too late", h0+24, Counts{Delivered: 7})
	s.add(0, cell{"a", h0 + 1}, Counts{Delivered: 9}, noon)
	check("what comes late", h0+24, Counts{Delivered: 9})
	s.add(2, cell{"b", h0 + 25}, Counts{Delivered: 1}, noon)
	check("nothing is left", h0+25, Counts{})
	if _, kept := s.totals["a"]; kept || len(s.cells) != 3 {
		t.Errorf("%d cells and totals of a are kept, want the 3 of b", len(s.cells))
	}
}

// The window goes on by the clock while nothing comes, and never goes back.
func TestSums_silence(t *testing.T) {
	s := newSums(24, noon)
	s.add(0, cell{"a", h0}, Counts{Delivered: 1}, noon)
	for _, tt := range []struct {
		after time.Duration
		want  hour
	}{
		{0, h0}, {59 * time.Minute, h0}, {time.Hour, h0 + 1}, {10*time.Hour + time.Minute, h0 + 10}, {-time.Hour, h0 + 10},
	} {
		if got := s.end(noon.Add(tt.after)); got != tt.want {
			t.Errorf("end() %s later = %d, want %d", tt.after, got, tt.want)
		}
	}
	s.add(0, cell{"a", h0 + 2}, Counts{Delivered: 1}, noon.Add(11*time.Hour))
	if got := s.end(noon.Add(11 * time.Hour)); got != h0+10 {
		t.Errorf("end() after something of an earlier hour = %d, want %d", got, h0+10)
	}
	if got, want := s.total("a", s.end(noon.Add(34*time.Hour))), (Counts{Delivered: 1}); got != want {
		t.Errorf("total() 23 hours later = %v, want %v", got, want)
	}
	if got := s.total("a", s.end(noon.Add(35*time.Hour))); got != (Counts{}) {
		t.Errorf("total() a window later = %v, want nothing", got)
	}
}

// Counters that come in any order, and more than once, add up to the same. Without
// the join of greater they do not.
func TestSums_anyOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	type record struct {
		p int32
		c cell
		n Counts
	}
	var records []record
	want := newSums(24, noon)
	for p := range int32(3) {
		for h := range hour(30) {
			n := Counts{}
			for range 5 {
				n = n.plus(Counts{Delivered: r.Int64N(5), Complained: r.Int64N(2)})
				records = append(records, record{p, cell{"a", h0 + h}, n})
			}
			want.add(p, cell{"a", h0 + h}, n, noon)
		}
	}
	records = append(records, records...)
	for range 20 {
		r.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		got := newSums(24, noon)
		for _, x := range records {
			got.add(x.p, x.c, x.n, noon)
		}
		if !reflect.DeepEqual(got.totals, want.totals) {
			t.Fatalf("totals = %v, want %v", got.totals, want.totals)
		}
	}
}

func TestLargest(t *testing.T) {
	list := []standing{{"a", Counts{Delivered: 5}}, {"b", Counts{Delivered: 3, HardBounced: 3}}, {"c", Counts{Delivered: 5}}}
	got := largest(list, 2)
	if len(got) != 2 || got[0].sender != "b" || got[1].sender != "a" {
		t.Errorf("largest() = %v, want b and a", got)
	}
	if got := largest(list, 9); len(got) != 3 || list[0].sender != "a" {
		t.Errorf("largest(9) = %v and the list is %v, want all, and the list as it was", got, list)
	}
	if got := largest(list, 0); len(got) != 0 {
		t.Errorf("largest(0) = %v, want none", got)
	}
}

func TestCrossed(t *testing.T) {
	cfg := DefaultConfig()
	bad := standing{"a", Counts{Delivered: 1000, Complained: 3, HardBounced: 100}}
	first := cfg.crossed([]standing{bad, {"b", Counts{Delivered: 1000}}}, nil, h0, noon)
	if len(first) != 2 || first[0].Rate != Complaint || first[1].Rate != HardBounce {
		t.Fatalf("crossed() = %v, want a complaint and a bounce alert", first)
	}
	a := first[0]
	want := Alert{
		ID: a.ID, Rate: Complaint, Sender: "a", Level: Critical, Previous: OK, Value: 0.003, Threshold: 0.003,
		Events: 3, Volume: 1000, MinVolume: 1000, WindowStart: (h0 - 23).begin(), WindowEnd: (h0 + 1).begin(), DecidedAt: noon,
	}
	if a != want || a.ID.IsZero() {
		t.Errorf("crossed() = %+v, want %+v with an id", a, want)
	}
	last := map[string]Alert{first[0].key(): first[0], first[1].key(): first[1]}
	if again := cfg.crossed([]standing{bad}, last, h0, noon); len(again) != 0 {
		t.Errorf("crossed() again = %v, want nothing", again)
	}
	// The mail stopped: both end, and say which threshold they came back over.
	ended := cfg.crossed(nil, last, h0+24, noon)
	if len(ended) != 2 {
		t.Fatalf("crossed() without mail = %v, want both to end", ended)
	}
	for _, a := range ended {
		before := last[a.key()]
		if a.Level != OK || a.Previous != Critical || a.PreviousID != before.ID || a.Threshold != before.Threshold || a.Volume != 0 || a.Value != 0 {
			t.Errorf("crossed() without mail = %+v", a)
		}
	}
}
