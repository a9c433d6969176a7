package clickhouse_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/clickhouse"
	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
)

type (
	scored   = clickhouse.State[leadavro.Record]
	signaled = clickhouse.State[leadavro.Signal]
)

// scoredAt is the state of a recipient that the record at an offset says.
func scoredAt(recipient string, offset int64, standings ...lead.Standing) scored {
	return scored{Offset: offset, Value: leadavro.Record{
		State: lead.State{
			Recipient:     recipient,
			Contributions: []lead.Contribution{{At: time.UnixMicro(1).UTC()}, {At: time.UnixMicro(1.7e15 + offset).UTC()}},
		},
		Standings: standings, Rules: "r",
	}}
}

// signaledAt is a signal that the record at an offset says.
func signaledAt(recipient string, offset int64, c lead.Crossing) signaled {
	e := event.Event{
		ID: event.NewID("ses", "eu", recipient), Type: event.Clicked, Provider: "ses", Source: "eu", RecipientNormalized: recipient,
		OccurredAt: time.UnixMicro(1.7e15).UTC(), CampaignID: "spring", URL: "https://example.com/?a=b",
	}
	return signaled{Offset: offset, Value: leadavro.NewSignal(&e, c)}
}

// insertShuffled inserts rows in any order, in batches of any size, some of them
// twice.
func insertShuffled[V any](t *testing.T, r *rand.Rand, sink clickhouse.States[V], rows []clickhouse.State[V]) {
	t.Helper()
	again := append(append([]clickhouse.State[V](nil), rows...), rows[:len(rows)/2]...)
	r.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
	for len(again) > 0 {
		n := min(len(again), 1+r.IntN(60))
		if err := sink.Insert(t.Context(), again[:n]); err != nil {
			t.Fatal(err)
		}
		again = again[n:]
	}
}

// rowsByKey reads two columns of a view. The first is the key, which stands there
// once.
func rowsByKey(t *testing.T, db *clickhousetest.Database, query string) map[string]string {
	t.Helper()
	answer, err := db.Query(t.Context(), query, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, row := range answer.Rows {
		key := fmt.Sprint(row[0])
		if _, twice := got[key]; twice {
			t.Errorf("%s has two rows", key)
		}
		got[key] = fmt.Sprint(row[1])
	}
	return got
}

func compareRows(t *testing.T, when string, got, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: %s is %q, want %q", when, key, got[key], value)
		}
	}
	for key := range got {
		if _, known := want[key]; !known {
			t.Errorf("%s: %s is a row, want none", when, key)
		}
	}
}

// testLeadScores inserts states in any order, some of them twice, with and
// without a merge in between: the view has a row for each recipient and profile
// of the recipient's newest state. With a row for each recipient and profile in
// the table, profiles that a newer state lacks would stay; without the offset as
// version, the last one to come would win; without FINAL in the view, recipients
// would stand there twice.
func testLeadScores(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	r := rand.New(rand.NewPCG(4, 3))
	var log []scored
	newest := map[string]map[string]string{} // of recipient and profile
	for offset := range int64(400) {
		s := scoredAt(fmt.Sprintf("jane%d@d%d.example", r.IntN(40), r.IntN(2)), offset)
		now := map[string]string{}
		if r.IntN(10) == 0 {
			s.Deleted, s.Value.Contributions, s.Value.Rules = true, nil, ""
		} else {
			for _, profile := range []string{"marketing", "success", "trial"} {
				if r.IntN(2) == 0 {
					s.Value.Standings = append(s.Value.Standings, lead.Standing{Profile: profile, Score: float64(offset)})
					now[profile] = fmt.Sprint(offset)
				}
			}
		}
		newest[s.Value.Recipient] = now
		log = append(log, s)
	}
	want := map[string]string{}
	for recipient, profiles := range newest {
		for profile, score := range profiles {
			want[fmt.Sprint(recipient, " ", profile)] = score
		}
	}
	check := func(when string) {
		t.Helper()
		compareRows(t, when, rowsByKey(t, db, "SELECT concat(recipient, ' ', profile), score FROM lead_scores"), want)
	}
	insertShuffled(t, r, db.LeadScores(), log)
	check("unmerged")
	if err := db.Exec(t.Context(), "OPTIMIZE TABLE lead_score_states FINAL"); err != nil {
		t.Fatal(err)
	}
	check("merged")
	// States that come late, after their keys were merged.
	if err := db.LeadScores().Insert(t.Context(), log[:100]); err != nil {
		t.Fatal(err)
	}
	check("late")
}

// testLeadScoreColumns reads a state back, column by column.
func testLeadScoreColumns(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	full := scoredAt("jane@xn--bcher-kva.example", 7,
		lead.Standing{Profile: "marketing", Score: 1.0 / 3, Stage: "hot", At: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)},
		lead.Standing{Profile: "success"})
	full.Partition = 5
	bare := scoredAt("joe@example.com", 8)
	bare.Value.Contributions = nil
	if err := db.LeadScores().Insert(t.Context(), []scored{full, bare}); err != nil {
		t.Fatal(err)
	}
	updated := "2023-11-14 22:13:20.000007 +0000 UTC r"
	for query, want := range map[string]string{
		"SELECT * FROM lead_scores ORDER BY profile": "[[jane@xn--bcher-kva.example xn--bcher-kva.example marketing 0.3333333333333333 hot " +
			"2026-01-02 03:04:05.000006 +0000 UTC " + updated + "] " +
			"[jane@xn--bcher-kva.example xn--bcher-kva.example success 0  <nil> " + updated + "]]",
		"SELECT count() FROM lead_scores WHERE at IS NULL": "[[1]]",
		// The view of a recipient without a profile has no row, the table has.
		"SELECT toUnixTimestamp(updated_at), length(profiles.profile) FROM lead_score_states WHERE recipient = 'joe@example.com'": "[[0 0]]",
		"SELECT state_partition, state_offset, deleted FROM lead_score_states WHERE recipient_domain = 'xn--bcher-kva.example'":   "[[5 7 0]]",
		"SELECT countIf(comment = '') FROM system.columns WHERE database = currentDatabase() AND table = 'lead_score_states'":     "[[0]]",
	} {
		answer, err := db.Query(t.Context(), query, nil)
		if got := fmt.Sprint(answer.Rows); err != nil || got != want {
			t.Errorf("%s = %s, %v, want %s", query, got, err, want)
		}
	}
}

// testLeadSignals inserts signals in any order, some of them twice: the view has
// a row for each id. Of two rows of an id, as a topic that was written from its
// beginning again could have, the one with the higher offset counts.
func testLeadSignals(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	r := rand.New(rand.NewPCG(4, 4))
	var log []signaled
	want := map[string]string{}
	for offset := range int64(300) {
		s := signaledAt(fmt.Sprintf("jane%d@d%d.example", r.IntN(30), r.IntN(2)), offset, lead.Crossing{
			Profile: []string{"marketing", "success"}[r.IntN(2)], Stage: []string{"warm", "hot"}[r.IntN(2)], Up: r.IntN(2) == 0,
			Score: float64(offset),
		})
		// Another revision of the event may have another time. The id is the same.
		s.Value.OccurredAt = s.Value.OccurredAt.Add(time.Duration(offset) * 24 * time.Hour)
		want[s.Value.ID.String()] = fmt.Sprint(offset)
		log = append(log, s)
	}
	if len(want) == len(log) {
		t.Fatal("no id comes twice: it proves less")
	}
	check := func(when string) {
		t.Helper()
		compareRows(t, when, rowsByKey(t, db, "SELECT toString(signal_id), score FROM lead_signals"), want)
	}
	insertShuffled(t, r, db.LeadSignals(), log)
	check("unmerged")
	if err := db.Exec(t.Context(), "OPTIMIZE TABLE lead_signal_rows FINAL"); err != nil {
		t.Fatal(err)
	}
	check("merged")
}

// testLeadSignalColumns reads a signal back, column by column.
func testLeadSignalColumns(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	up := signaledAt("jane@xn--bcher-kva.example", 7, lead.Crossing{Profile: "marketing", Stage: "hot", Up: true, Score: 61.5})
	up.Partition = 5
	down := signaledAt("joe@example.com", 8, lead.Crossing{Profile: "marketing", Stage: "hot", Score: -math.MaxFloat64})
	down.Value.CampaignID, down.Value.URL = "", ""
	if err := db.LeadSignals().Insert(t.Context(), []signaled{up, down}); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"SELECT * FROM lead_signals WHERE direction = 'up'": "[[" + up.Value.ID.String() + " jane@xn--bcher-kva.example xn--bcher-kva.example " +
			"marketing hot up 61.5 2023-11-14 22:13:20 +0000 UTC " + up.Value.EventID.String() + " clicked ses eu spring https://example.com/?a=b]]",
		"SELECT recipient, campaign_id, url, score FROM lead_signals WHERE direction = 'down'":                               "[[joe@example.com   -1.7976931348623157e+308]]",
		"SELECT state_partition, state_offset FROM lead_signal_rows WHERE direction = 'up'":                                  "[[5 7]]",
		"SELECT countIf(comment = '') FROM system.columns WHERE database = currentDatabase() AND table = 'lead_signal_rows'": "[[0]]",
	} {
		answer, err := db.Query(t.Context(), query, nil)
		if got := fmt.Sprint(answer.Rows); err != nil || got != want {
			t.Errorf("%s = %s, %v, want %s", query, got, err, want)
		}
	}
}

// testRefusedLeads shows that a refused row is a row's fault, that its column is
// named and its value is not, and that nothing of the insert is in.
func testRefusedLeads(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	late := time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)
	for column, spoil := range map[string]func(*leadavro.Record){
		"recipient":   func(s *leadavro.Record) { s.Recipient = "" },
		"profiles.at": func(s *leadavro.Record) { s.Standings[0].At = late },
		"updated_at":  func(s *leadavro.Record) { s.Contributions[1].At = late },
	} {
		good, bad := scoredAt("joe@example.com", 2), scoredAt("secret@example.com", 1, lead.Standing{Profile: "secret"})
		spoil(&bad.Value)
		checkRefused(t, column, db.LeadScores(), good, bad)
	}
	for column, spoil := range map[string]func(*leadavro.Signal){
		"signal_id":   func(s *leadavro.Signal) { s.ID = event.ID{} },
		"recipient":   func(s *leadavro.Signal) { s.Recipient = "" },
		"event_id":    func(s *leadavro.Signal) { s.EventID = event.ID{} },
		"occurred_at": func(s *leadavro.Signal) { s.OccurredAt = late },
	} {
		c := lead.Crossing{Profile: "secret", Stage: "secret"}
		good, bad := signaledAt("joe@example.com", 2, c), signaledAt("secret@example.com", 1, c)
		spoil(&bad.Value)
		checkRefused(t, column, db.LeadSignals(), good, bad)
	}
	answer, err := db.Query(t.Context(), "SELECT (SELECT count() FROM lead_score_states), (SELECT count() FROM lead_signal_rows)", nil)
	if got := fmt.Sprint(answer.Rows); err != nil || got != "[[0 0]]" {
		t.Errorf("the tables have %s rows, %v, want none", got, err)
	}
}

func checkRefused[V any](t *testing.T, column string, sink clickhouse.States[V], good, bad clickhouse.State[V]) {
	t.Helper()
	for what, try := range map[string]func([]clickhouse.State[V]) error{
		"Insert": func(rows []clickhouse.State[V]) error { return sink.Insert(t.Context(), rows) },
		"Probe":  func(rows []clickhouse.State[V]) error { return sink.Probe(t.Context(), rows) },
	} {
		err := try([]clickhouse.State[V]{good, bad})
		if reason, _ := fault.Reason(err); reason != fault.RowRefused || !strings.Contains(err.Error(), column) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s with a bad %s = %v, want %s that names the column and no value", what, column, err, fault.RowRefused)
		}
	}
	if err := sink.Probe(t.Context(), []clickhouse.State[V]{good}); err != nil {
		t.Errorf("Probe() of a good row = %v, want nil", err)
	}
}
