package clickhouse_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"mailriver/pkg/clickhouse"
	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/embedded/chdb"
	"mailriver/pkg/embedded/embeddedtest"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/schemas"
)

func TestMain(m *testing.M) {
	chdb.RunChildIfAsked()
	m.Run()
}

// TestServer runs everything that needs a real ClickHouse on one.
func TestServer(t *testing.T) {
	server := embeddedtest.ClickHouse(t)
	t.Run("conforms", func(t *testing.T) {
		clickhousetest.Conform(t, func(t *testing.T) clickhousetest.Sink { return clickhousetest.Open(t, server) })
	})
	for name, test := range map[string]func(*testing.T, string){
		"migrate":                      testMigrate,
		"migrate by half":              testMigrateHalf,
		"every column":                 testEveryColumn,
		"range of times":               testRangeOfTimes,
		"query":                        testQuery,
		"failing view":                 testFailingView,
		"views":                        testViews,
		"many partitions":              testManyPartitions,
		"unknown table":                testUnknownTable,
		"suppressions":                 testSuppressions,
		"every column of suppressions": testSuppressionColumns,
		"refused suppressions":         testRefusedSuppressions,
		"lead scores":                  testLeadScores,
		"every column of lead scores":  testLeadScoreColumns,
		"lead signals":                 testLeadSignals,
		"every column of lead signals": testLeadSignalColumns,
		"refused leads":                testRefusedLeads,
	} {
		t.Run(name, func(t *testing.T) { test(t, server) })
	}
}

func open(t *testing.T, cfg clickhouse.Config) *clickhouse.Client {
	t.Helper()
	client, err := clickhouse.Open(cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func testMigrate(t *testing.T, server string) {
	client := open(t, clickhousetest.Empty(t, server))
	m := clickhousetest.Migrations(t)
	names, err := fs.Glob(schemas.ClickHouse, "clickhouse/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	if pending, err := client.Pending(t.Context(), m); err != nil || len(pending) != len(names) {
		t.Fatalf("Pending() without a database = %v, %v, want %d", pending, err, len(names))
	}
	if applied, err := client.Migrate(t.Context(), m); err != nil || len(applied) != len(names) {
		t.Fatalf("Migrate() = %v, %v, want %d", applied, err, len(names))
	}
	if pending, err := client.Pending(t.Context(), m); err != nil || len(pending) != 0 {
		t.Errorf("Pending() = %v, %v, want none", pending, err)
	}
	if applied, err := client.Migrate(t.Context(), m); err != nil || len(applied) != 0 {
		t.Errorf("Migrate() again = %v, %v, want none", applied, err)
	}
	// Each file may run and not be noted, so each must be repeatable.
	if err := client.Exec(t.Context(), "TRUNCATE TABLE schema_migrations"); err != nil {
		t.Fatal(err)
	}
	if applied, err := client.Migrate(t.Context(), m); err != nil || len(applied) != len(names) {
		t.Errorf("Migrate() over what exists = %v, %v, want %d", applied, err, len(names))
	}
}

func testMigrateHalf(t *testing.T, server string) {
	client := open(t, clickhousetest.Empty(t, server))
	files := fstest.MapFS{
		"0001_a.sql": {Data: []byte("CREATE TABLE IF NOT EXISTS {{ .Local \"a\" }} (x Int8) ENGINE = {{ .Engine \"MergeTree\" }} ORDER BY x")},
		"0002_b.sql": {Data: []byte("CREATE TABLEAU")},
		"0003_c.sql": {Data: []byte("{{ if .Cluster }}CREATE NOTHING{{ end }} -- only a cluster needs it")},
	}
	m, err := clickhouse.ReadMigrations(files)
	if err != nil {
		t.Fatal(err)
	}
	applied, err := client.Migrate(t.Context(), m)
	if !slices.Equal(applied, []string{"0001_a.sql"}) || err == nil || !strings.Contains(err.Error(), "0002_b.sql") {
		t.Errorf("Migrate() = %v, %v, want the first file and an error that names the second", applied, err)
	}
	files["0002_b.sql"].Data = []byte("ALTER TABLE {{ .Local \"a\" }} ADD COLUMN IF NOT EXISTS y Int8")
	if m, err = clickhouse.ReadMigrations(files); err != nil {
		t.Fatal(err)
	}
	if applied, err = client.Migrate(t.Context(), m); err != nil || len(applied) != 2 {
		t.Errorf("Migrate() after the repair = %v, %v, want two files", applied, err)
	}
	files["0001_a.sql"].Data = append(files["0001_a.sql"].Data, '\n')
	if m, err = clickhouse.ReadMigrations(files); err != nil {
		t.Fatal(err)
	}
	if _, err = client.Migrate(t.Context(), m); !errors.Is(err, clickhouse.ErrEdited) {
		t.Errorf("Migrate() with an edited file = %v, want %v", err, clickhouse.ErrEdited)
	}
	if _, err = client.Pending(t.Context(), m); !errors.Is(err, clickhouse.ErrEdited) {
		t.Errorf("Pending() with an edited file = %v, want %v", err, clickhouse.ErrEdited)
	}
}

// filled returns an event whose every field is set, to a value of its own where
// the type allows it.
func filled(r *rand.Rand) event.Event {
	var e event.Event
	v := reflect.ValueOf(&e).Elem()
	for i := range v.NumField() {
		word := fmt.Sprintf("%s-%d-\u00e9'\\\n", v.Type().Field(i).Name, r.IntN(1000))
		switch f := v.Field(i); f.Interface().(type) {
		case event.ID:
			f.Set(reflect.ValueOf(event.NewID("p", "s", word)))
		case time.Time:
			at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(r.IntN(1e9)) * time.Microsecond)
			f.Set(reflect.ValueOf(at))
		case []string:
			f.Set(reflect.ValueOf([]string{word, "", word + "2"}))
		case map[string]string:
			f.Set(reflect.ValueOf(map[string]string{word: "v", "k": word}))
		case *bool:
			f.Set(reflect.ValueOf(new(bool)))
		case *int32:
			f.Set(reflect.ValueOf(new(r.Int32())))
		default:
			switch f.Kind() {
			case reflect.String:
				f.SetString(word)
			case reflect.Bool:
				f.SetBool(true)
			case reflect.Int32, reflect.Int64:
				f.SetInt(int64(r.Int32()) - 1<<30)
			}
		}
	}
	return e
}

// testEveryColumn reads back what was inserted, column by column: a column that
// is filled from another field would be seen here only.
func testEveryColumn(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	r := rand.New(rand.NewPCG(1, 2))
	bare := event.Event{
		ID: event.NewID("p", "s", "bare"), Type: event.Test,
		OccurredAt: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), ReceivedAt: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
	}
	for _, e := range []event.Event{filled(r), filled(r), bare} {
		if err := db.Insert(t.Context(), e.ID.String(), []event.Event{e}); err != nil {
			t.Fatal(err)
		}
		answer, err := db.Query(t.Context(), "SELECT * FROM events WHERE event_id = {id:UUID}", map[string]any{"id": e.ID.String()})
		if err != nil || len(answer.Rows) != 1 {
			t.Fatalf("Query() = %d rows, %v, want one", len(answer.Rows), err)
		}
		v := reflect.ValueOf(e)
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if answer.Columns[i] != name {
				t.Fatalf("column %d is %s, want %s", i, answer.Columns[i], name)
			}
			got, want := text(answer.Rows[0][i]), text(v.Field(i).Interface())
			if got != want {
				t.Errorf("column %s holds %s, want %s", name, got, want)
			}
		}
	}
}

// text makes values comparable that Go and the driver give different types.
func text(v any) string {
	switch v := v.(type) {
	case time.Time:
		if v.IsZero() || v.Unix() == 0 {
			return "no time"
		}
		return v.UTC().Format(time.RFC3339Nano)
	case nil:
		return "no time"
	case *bool:
		if v == nil {
			return "no time"
		}
		return fmt.Sprint(*v)
	case *int32:
		if v == nil {
			return "no time"
		}
		return fmt.Sprint(*v)
	case []string:
		return fmt.Sprintf("%q", v)
	case map[string]string:
		if len(v) == 0 {
			return "map[]"
		}
	}
	return fmt.Sprint(v)
}

func testRangeOfTimes(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	for _, at := range []time.Time{
		time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC),
		time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC), // wraps around in nanoseconds
		time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		for column, set := range map[string]func(*event.Event){
			"occurred_at":            func(e *event.Event) { e.OccurredAt = at },
			"normalized_at":          func(e *event.Event) { e.NormalizedAt = at },
			"suppression_expires_at": func(e *event.Event) { e.SuppressionExpiresAt = at },
		} {
			rows := clickhousetest.Rows("a", 1)
			set(&rows[0])
			err := db.Insert(t.Context(), "1", rows)
			if reason, _ := fault.Reason(err); reason != fault.RowRefused || !strings.Contains(err.Error(), "column "+column) {
				t.Errorf("Insert(%s = %s) = %v, want %s that names the column", column, at, err, fault.RowRefused)
			}
		}
	}
}

func testQuery(t *testing.T, server string) {
	client := clickhousetest.Open(t, server)
	answer, err := client.Query(t.Context(),
		"SELECT number AS n, {name:String} AS name, if(number = 1, NULL, toInt8(7)) AS maybe FROM numbers(3) WHERE number >= {from:UInt8}",
		map[string]any{"name": "O'Brien\t\\ {x:String}", "from": 1})
	want := clickhouse.Rows{
		Columns: []string{"n", "name", "maybe"},
		Types:   []string{"UInt64", "String", "Nullable(Int8)"},
		Rows:    [][]any{{uint64(1), "O'Brien\t\\ {x:String}", nil}, {uint64(2), "O'Brien\t\\ {x:String}", int8(7)}},
	}
	if err != nil || !reflect.DeepEqual(answer, want) {
		t.Errorf("Query() = %#v, %v, want %#v", answer, err, want)
	}
	// A reader that has enough stops the query.
	enough := errors.New("enough")
	n := 0
	err = client.Each(t.Context(), "SELECT number FROM numbers(100000000)", nil, func([]any) error {
		if n++; n == 10 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || n != 10 {
		t.Errorf("Each() = %v after %d rows, want %v after 10", err, n, enough)
	}
	answer, err = client.Query(t.Context(), "SELECT nonsense", nil)
	if failure, ok := errors.AsType[*clickhouse.Error](err); !ok || failure.Code != 47 {
		t.Errorf("Query(nonsense) = %v, %v, want an Error with code 47", answer, err)
	}
}

// testFailingView shows why an insert that fails in a view is repeated under its
// token and never split: the rows are in the table already.
func testFailingView(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	rows := clickhousetest.Rows("a", 5)
	rows[3].Subject = "not a number"
	if err := db.Exec(t.Context(),
		"CREATE MATERIALIZED VIEW theirs ENGINE = MergeTree ORDER BY n AS SELECT toInt32(if(subject = '', '0', subject)) AS n FROM events"); err != nil {
		t.Fatal(err)
	}
	err := db.Insert(t.Context(), "1", rows)
	if _, marked := fault.Reason(err); err == nil || marked {
		t.Fatalf("Insert() with a failing view = %v, want an error that is retried", err)
	}
	if !strings.Contains(err.Error(), "theirs") || strings.Contains(err.Error(), "not a number") {
		t.Errorf("Insert() with a failing view = %v, want the view named and the value left out", err)
	}
	if err := db.Exec(t.Context(), "DROP TABLE theirs"); err != nil {
		t.Fatal(err)
	}
	if err := db.Insert(t.Context(), "1", rows); err != nil {
		t.Fatal(err)
	}
	ids, err := db.IDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if ids[row.ID.String()] != 1 {
			t.Errorf("event %s is there %d times, want once", row.ID, ids[row.ID.String()])
		}
	}
	if counted, err := db.Counted(t.Context()); err != nil || counted != 5 {
		t.Errorf("the roll-up counts %d, %v, want 5", counted, err)
	}
}

func testViews(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	rows := clickhousetest.Rows("a", 12)
	for i, change := range []func(*event.Event){
		func(e *event.Event) { e.Type = event.Accepted },
		func(e *event.Event) {},
		func(e *event.Event) {},
		func(e *event.Event) {},
		func(e *event.Event) {
			e.Type, e.BounceKind, e.BounceCause, e.SMTPResponse = event.Bounced, event.KindHard, event.CauseUnknownRecipient, "550 no such user"
		},
		func(e *event.Event) { e.Type, e.Machine = event.Opened, event.MachineYes },
		func(e *event.Event) { e.Type, e.Machine = event.Opened, event.MachineNo },
		func(e *event.Event) { e.Type, e.Machine = event.Opened, event.MachineUnknown },
		func(e *event.Event) { e.Type, e.Machine = event.Clicked, event.MachineNo },
		func(e *event.Event) { e.Type = event.Complained },
		func(e *event.Event) { e.IsTest = true },
		func(e *event.Event) { e.IsDuplicateHint = true },
	} {
		rows[i].CampaignID, rows[i].ProviderMessageID = "spring", "m1"
		change(&rows[i])
	}
	if err := db.Insert(t.Context(), "1", rows); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"SELECT accepted, delivered, bounced, bounced_hard, complained, delivery_rate, bounce_rate FROM deliverability_daily WHERE day = '2026-11-01' AND source = 'shop'": "[[1 3 1 1 1 0.75 0.25]]",
		"SELECT bounce_kind, bounce_cause, bounces, recipients, example_response FROM bounce_reasons_daily":                                                                "[[hard unknown_recipient 1 1 550 no such user]]",
		"SELECT campaign_id, delivered, bounced, opens_human, opens_machine, opens_unknown, clicks_human, recipients_opened, complained FROM campaign_engagement":          "[[spring 3 1 1 1 1 1 1 1]]",
		"SELECT delivered, complained, round(complaint_rate, 3) FROM complaint_rates_daily WHERE recipient_domain = 'example.com'":                                         "[[3 1 0.333]]",
		"SELECT count(), min(event_type) FROM message_timeline WHERE provider_message_id = 'm1'":                                                                           "[[12 accepted]]",
		"SELECT count() FROM message_timeline WHERE recipient_normalized = 'a@example.com'":                                                                                "[[12]]",
		"SELECT countIf(comment = '') FROM system.columns WHERE database = currentDatabase() AND table IN ('events', 'events_hourly')":                                     "[[0]]",
	} {
		answer, err := db.Query(t.Context(), query, nil)
		if got := fmt.Sprint(answer.Rows); err != nil || got != want {
			t.Errorf("%s = %s, %v, want %s", query, got, err, want)
		}
	}
}

// testManyPartitions inserts events whose own times are years apart: they must
// not make a part each, or ClickHouse refuses the insert.
func testManyPartitions(t *testing.T, server string) {
	db := clickhousetest.Open(t, server)
	rows := clickhousetest.Rows("a", 300)
	for i := range rows {
		rows[i].OccurredAt = time.Date(2000, time.Month(1+i), 1, 0, 0, 0, 0, time.UTC)
	}
	if err := db.Insert(t.Context(), "1", rows); err != nil {
		t.Fatal(err)
	}
	answer, err := db.Query(t.Context(),
		"SELECT table, count() FROM system.parts WHERE database = currentDatabase() AND active AND table != 'schema_migrations' GROUP BY table ORDER BY table", nil)
	if got, want := fmt.Sprint(answer.Rows), "[[events 1] [events_hourly 1]]"; err != nil || got != want {
		t.Errorf("parts = %s, %v, want %s", got, err, want)
	}
}

func testUnknownTable(t *testing.T, server string) {
	client := open(t, clickhousetest.Empty(t, server))
	err := client.Insert(context.Background(), "1", clickhousetest.Rows("a", 1))
	if _, marked := fault.Reason(err); err == nil || marked {
		t.Errorf("Insert() without tables = %v, want an error that is retried", err)
	}
}
