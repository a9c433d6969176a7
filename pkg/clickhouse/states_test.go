package clickhouse_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/clickhouse"
	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
)

type suppressed = clickhouse.State[suppressionavro.Record]

// suppressedAt is the state of an address that the record at an offset says.
func suppressedAt(address string, offset int64, entries ...suppression.Entry) suppressed {
	return suppressed{Offset: offset, Value: suppressionavro.Record{
		State: suppression.State{
			Address: address, ScopeKind: event.ScopeAddress,
			Facts: []suppression.Fact{{At: time.UnixMicro(1.7e15 + offset).UTC()}},
		},
		Folded: strings.ToLower(address), Entries: entries, Policy: "p",
	}}
}

func entry(reason suppression.Reason, expires time.Time) suppression.Entry {
	return suppression.Entry{
		Reason: reason, Since: time.UnixMicro(1.7e15).UTC(), ExpiresAt: expires, Provider: "ses", Source: "eu",
		EventID: event.NewID("ses", "eu", string(reason)).String(),
	}
}

// testSuppressions inserts states in any order, in batches of any size, some of
// them twice, with and without a merge in between: the view has a row for each
// key, and it is the newest state. Without the offset as version, the last one to
// come would win; without FINAL in the view, keys would stand there twice.
func testSuppressions(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	r := rand.New(rand.NewPCG(4, 2))
	var log []suppressed
	want := map[string]string{}
	for offset := range int64(400) {
		s := suppressedAt(fmt.Sprintf("Jane%d@d%d.example", r.IntN(40), r.IntN(2)), offset)
		switch r.IntN(4) {
		case 0:
			s.Value.ScopeKind, s.Value.ScopeID = event.ScopeStream, "news"
		case 1:
			s.Value.ScopeKind, s.Value.ScopeID = event.ScopeStream, "offers"
		}
		key := s.Value.Key()
		if r.IntN(10) == 0 {
			s.Deleted, s.Value.Folded, s.Value.Facts = true, "", nil
			delete(want, key)
		} else {
			if r.IntN(3) > 0 {
				s.Value.Entries = []suppression.Entry{entry(suppression.Reasons()[r.IntN(7)], time.Time{})}
			}
			want[key] = fmt.Sprint(s.Value.Facts[0].At.UnixMicro(), len(s.Value.Entries) > 0)
		}
		log = append(log, s)
	}
	check := func(when string) {
		t.Helper()
		answer, err := db.Query(t.Context(),
			"SELECT scope_kind, scope_id, address, updated_at, suppressed, in_force, address_folded, domain FROM suppressions", nil)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, row := range answer.Rows {
			state := suppression.State{ScopeKind: row[0].(string), ScopeID: row[1].(string), Address: row[2].(string)}
			key := state.Key()
			if _, twice := got[key]; twice {
				t.Errorf("%s: %s has two rows", when, key)
			}
			got[key] = fmt.Sprint(row[3].(time.Time).UnixMicro(), row[4])
			if row[5] != row[4] || row[6] != strings.ToLower(state.Address) || !strings.HasSuffix(state.Address, "@"+row[7].(string)) {
				t.Errorf("%s: row = %v", when, row)
			}
		}
		for key, state := range want {
			if got[key] != state {
				t.Errorf("%s: %s is %q, want %q", when, key, got[key], state)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d rows, want %d", when, len(got), len(want))
		}
	}
	again := append(append([]suppressed(nil), log...), log[:200]...)
	r.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
	for len(again) > 0 {
		n := min(len(again), 1+r.IntN(60))
		if err := db.Suppressions().Insert(t.Context(), again[:n]); err != nil {
			t.Fatal(err)
		}
		again = again[n:]
	}
	check("unmerged")
	if err := db.Exec(t.Context(), "OPTIMIZE TABLE suppression_states FINAL"); err != nil {
		t.Fatal(err)
	}
	check("merged")
	// A state that comes late, after its key was merged.
	if err := db.Suppressions().Insert(t.Context(), log[:100]); err != nil {
		t.Fatal(err)
	}
	check("late")
}

// testSuppressionColumns reads a state back, column by column.
func testSuppressionColumns(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	past, future := time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC), time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC)
	full := suppressedAt("Jane@xn--bcher-kva.example", 7,
		entry(suppression.Complaint, past), entry(suppression.HardBounce, time.Time{}), entry(suppression.SoftBounce, future))
	full.Value.ScopeKind, full.Value.ScopeID, full.Partition = event.ScopeList, "a|b", 5
	full.Value.Entries[0].Note, full.Value.Entries[2].Note = "it's\nmine", "n"
	full.Value.Entries[1].EventID = ""
	bare := suppressedAt("joe@example.com", 8)
	expired := suppressedAt("old@example.com", 9, entry(suppression.SoftBounce, past))
	lasting := suppressedAt("new@example.com", 10, entry(suppression.SoftBounce, future))
	if err := db.Suppressions().Insert(t.Context(), []suppressed{full, bare, expired, lasting}); err != nil {
		t.Fatal(err)
	}
	since := "2023-11-14 22:13:20 +0000 UTC"
	complaint, soft := full.Value.Entries[0].EventID, full.Value.Entries[2].EventID
	for query, want := range map[string]string{
		"SELECT * EXCEPT('^weaker') FROM suppressions WHERE scope_id = 'a|b'": "[[Jane@xn--bcher-kva.example jane@xn--bcher-kva.example xn--bcher-kva.example list a|b true true complaint " +
			since + " 2020-01-02 03:04:05.000006 +0000 UTC ses eu " + complaint + " it's\nmine 1 p 2023-11-14 22:13:20.000007 +0000 UTC]]",
		"SELECT toString(weaker.reason), toString(weaker.since), toString(weaker.expires_at), toString(weaker.event_id), toString(weaker.note), toString(weaker.provider), toString(weaker.source) FROM suppressions WHERE facts = 1 AND reason = 'complaint'": "[[['hard_bounce','soft_bounce'] ['2023-11-14 22:13:20.000000','2023-11-14 22:13:20.000000'] [NULL,'2199-01-01 00:00:00.000000'] [NULL,'" + soft + "'] ['','n'] ['ses','ses'] ['eu','eu']]]",
		"SELECT suppressed, in_force, reason, since, expires_at, provider, event_id, length(weaker.reason) FROM suppressions WHERE address = 'joe@example.com'":                                                                                                "[[false false  <nil> <nil>  <nil> 0]]",
		"SELECT address, suppressed, in_force FROM suppressions WHERE domain = 'example.com' AND suppressed ORDER BY address":                                                                                                                                  "[[new@example.com true true] [old@example.com true false]]",
		"SELECT weaker.reason FROM suppressions ARRAY JOIN weaker ORDER BY 1":                                                                                                                                                                                  "[[hard_bounce] [soft_bounce]]",
		"SELECT state_partition, state_offset, deleted FROM suppression_states WHERE scope_id = 'a|b'":                                                                                                                                                         "[[5 7 0]]",
		"SELECT countIf(comment = '') FROM system.columns WHERE database = currentDatabase() AND table = 'suppression_states'":                                                                                                                                 "[[0]]",
	} {
		answer, err := db.Query(t.Context(), query, nil)
		if got := fmt.Sprint(answer.Rows); err != nil || got != want {
			t.Errorf("%s = %s, %v, want %s", query, got, err, want)
		}
	}
}

// testRefusedSuppressions shows that a refused row is a row's fault, that its
// column is named and its value is not, and that nothing of the insert is in.
func testRefusedSuppressions(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	late := time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)
	for column, spoil := range map[string]func(*suppressionavro.Record){
		"address":           func(s *suppressionavro.Record) { s.Address = "" },
		"scope_kind":        func(s *suppressionavro.Record) { s.ScopeKind = "" },
		"event_id":          func(s *suppressionavro.Record) { s.Entries[0].EventID = "secret" },
		"expires_at":        func(s *suppressionavro.Record) { s.Entries[0].ExpiresAt = late },
		"weaker.event_id":   func(s *suppressionavro.Record) { s.Entries[1].EventID = "secret" },
		"weaker.expires_at": func(s *suppressionavro.Record) { s.Entries[1].ExpiresAt = late },
		"updated_at":        func(s *suppressionavro.Record) { s.Facts[0].At = late },
	} {
		bad := suppressedAt("secret@example.com", 1, entry(suppression.Manual, time.Time{}), entry(suppression.HardBounce, time.Time{}))
		spoil(&bad.Value)
		rows := []suppressed{suppressedAt("joe@example.com", 2), bad}
		for what, try := range map[string]func() error{
			"Insert": func() error { return db.Suppressions().Insert(t.Context(), rows) },
			"Probe":  func() error { return db.Suppressions().Probe(t.Context(), rows) },
		} {
			err := try()
			if reason, _ := fault.Reason(err); reason != fault.RowRefused || !strings.Contains(err.Error(), column) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s with a bad %s = %v, want %s that names the column and no value", what, column, err, fault.RowRefused)
			}
		}
	}
	if err := db.Suppressions().Probe(t.Context(), []suppressed{suppressedAt("joe@example.com", 2)}); err != nil {
		t.Errorf("Probe() of a good row = %v, want nil", err)
	}
	answer, err := db.Query(t.Context(), "SELECT count() FROM suppression_states", nil)
	if got := fmt.Sprint(answer.Rows); err != nil || got != "[[0]]" {
		t.Errorf("the table has %s rows, %v, want none", got, err)
	}
}
