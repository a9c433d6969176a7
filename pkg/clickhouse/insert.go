package clickhouse

import (
	"context"
	"fmt"
	"strings"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
	lib "github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

// Insert makes rows durable in events, all or none for each token: a second
// insert with a token that went in already changes nothing, neither in the table
// nor in the roll-ups behind it. After an error nothing is known, and the same
// rows are to be inserted again with the same token.
//
// The table remembers its newest non_replicated_deduplication_window parts (see
// schemas/clickhouse/0001_events.sql); a repeat after that many is not noticed.
// A server that was killed may remember a token whose rows it lost: see
// [Client.Restore].
func (c *Client) Insert(ctx context.Context, token string, rows []event.Event) error {
	if token == "" {
		return fmt.Errorf("clickhouse: insert: the token is empty")
	}
	return c.insert(ctx, "events", token, rows)
}

// Probe reports whether ClickHouse would take the rows, by its types and
// constraints, without any effect.
func (c *Client) Probe(ctx context.Context, rows []event.Event) error {
	return c.insert(ctx, "events_probe", "", rows)
}

func (c *Client) insert(ctx context.Context, table, token string, rows []event.Event) error {
	settings := driver.Settings{}
	if token != "" {
		settings["insert_deduplicate"] = 1
		settings["insert_deduplication_token"] = token
		settings["deduplicate_blocks_in_dependent_materialized_views"] = 1
	}
	return insertRows(ctx, c, table, eventColumns(), rows, settings)
}

// insertRows inserts rows as one block.
func insertRows[T any](
	ctx context.Context, c *Client, table string, columns []column[T], rows []T, settings driver.Settings,
) error {
	if len(rows) == 0 {
		return nil
	}
	// A buffered insert would be acknowledged before it is durable, or lose its
	// token when it is merged with others.
	settings["async_insert"] = 0
	// One block as sent is one block as written, in one thread: the token then
	// means the same parts each time.
	settings["max_insert_threads"] = 1
	settings["min_insert_block_size_rows"] = 0
	settings["min_insert_block_size_bytes"] = 0
	if c.cfg.Cluster != "" {
		// Return when the shards have the rows, not when they are queued here.
		settings["distributed_foreground_insert"] = 1
	}
	kinds := make([]driver.ColumnNameAndType, len(columns))
	names := make([]string, len(columns))
	for i, column := range columns {
		kinds[i] = driver.ColumnNameAndType{Name: column.name, Type: column.kind}
		names[i] = quote(column.name)
	}
	// Over HTTP the driver would ask for the types before each insert.
	ctx = driver.Context(ctx, driver.WithSettings(settings), driver.WithColumnNamesAndTypes(kinds))

	op := "insert into " + table
	batch, err := c.conn.PrepareBatch(ctx,
		fmt.Sprintf("INSERT INTO %s (%s)", c.table(table), strings.Join(names, ", ")))
	if err != nil {
		return c.endpoint.classify(op, err)
	}
	defer batch.Close() //nolint:errcheck // returns the connection; Send says whether the rows are in
	for i, column := range columns {
		if err := column.append(batch.Column(i), rows); err != nil {
			return c.endpoint.classify(op, fmt.Errorf("column %s: %w", column.name, err))
		}
	}
	// Over HTTP the driver swallows the error of a block whose columns differ in
	// length, sends an empty body, and the server takes it.
	for i, column := range batch.Columns() {
		if column.Rows() != len(rows) {
			return fmt.Errorf("clickhouse: %s: column %s holds %d rows, want %d",
				op, columns[i].name, column.Rows(), len(rows))
		}
	}
	return c.endpoint.classify(op, batch.Send())
}

// column is one column of a table of rows T: its name and type, and how it is
// filled. Tests compare them all with the rows and with the migrations.
type column[T any] struct {
	name   string
	kind   string
	append func(lib.BatchColumn, []T) error
}

func all[T, V any](get func(*T) V) func(lib.BatchColumn, []T) error {
	return func(to lib.BatchColumn, rows []T) error {
		values := make([]V, len(rows))
		for i := range rows {
			values[i] = get(&rows[i])
		}
		return to.Append(values)
	}
}

// each appends row by row: for arrays and maps that is the driver's fast path.
func each[T, V any](get func(*T) V) func(lib.BatchColumn, []T) error {
	return func(to lib.BatchColumn, rows []T) error {
		for i := range rows {
			if err := to.AppendRow(get(&rows[i])); err != nil {
				return err
			}
		}
		return nil
	}
}

func text[T any](name string, get func(*T) string) column[T] {
	return column[T]{name, "String", all(get)}
}

// word is a text with few different values.
func word[T any](name string, get func(*T) string) column[T] {
	return column[T]{name, "LowCardinality(String)", all(get)}
}

func number[T any](name string, get func(*T) int32) column[T] {
	return column[T]{name, "Int32", all(get)}
}

func flag[T any](name string, get func(*T) bool) column[T] {
	return column[T]{name, "Bool", all(get)}
}

func list[T any](name string, get func(*T) []string) column[T] {
	return column[T]{name, "Array(String)", each(func(e *T) []string {
		if values := get(e); values != nil {
			return values
		}
		return []string{}
	})}
}

// Times outside are refused here, because the driver would wrap them around.
var (
	minTime = time.Unix(0, 0)
	maxTime = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

func inRange(name string, t time.Time) error {
	if t.IsZero() || !t.Before(minTime) && t.Before(maxTime) {
		return nil
	}
	return fault.Permanentf(fault.RowRefused, "column %s: the time is before %d or after %d",
		name, minTime.UTC().Year(), maxTime.Year())
}

// instant is a time in microseconds; one that is not set becomes 1970.
func instant[T any](name string, get func(*T) time.Time) column[T] {
	fill := all(get)
	return column[T]{name, "DateTime64(6, 'UTC')", func(to lib.BatchColumn, rows []T) error {
		for i := range rows {
			if err := inRange(name, get(&rows[i])); err != nil {
				return err
			}
		}
		return fill(to, rows)
	}}
}

func maybeInstant[T any](name string, get func(*T) time.Time) column[T] {
	return column[T]{name, "Nullable(DateTime64(6, 'UTC'))", func(to lib.BatchColumn, rows []T) error {
		values := make([]*time.Time, len(rows))
		for i := range rows {
			t := get(&rows[i])
			if err := inRange(name, t); err != nil {
				return err
			}
			if !t.IsZero() {
				values[i] = &t
			}
		}
		return to.Append(values)
	}}
}

// eventColumns lists the columns of events in the order of the struct. Names are
// those of the fields in JSON.
func eventColumns() []column[event.Event] {
	return []column[event.Event]{
		number("schema_version", func(e *event.Event) int32 { return e.SchemaVersion }),
		{"event_id", "UUID", all(func(e *event.Event) uuid.UUID { return uuid.UUID(e.ID) })},
		word("event_type", func(e *event.Event) string { return string(e.Type) }),
		word("provider", func(e *event.Event) string { return e.Provider }),
		word("provider_variant", func(e *event.Event) string { return e.ProviderVariant }),
		word("source", func(e *event.Event) string { return e.Source }),
		word("account_id", func(e *event.Event) string { return e.AccountID }),
		word("subaccount_id", func(e *event.Event) string { return e.SubaccountID }),
		text("native_event_id", func(e *event.Event) string { return e.NativeEventID }),
		word("native_event_type", func(e *event.Event) string { return e.NativeEventType }),
		flag("is_test", func(e *event.Event) bool { return e.IsTest }),
		flag("is_duplicate_hint", func(e *event.Event) bool { return e.IsDuplicateHint }),
		number("revision", func(e *event.Event) int32 { return e.Revision }),

		instant("occurred_at", func(e *event.Event) time.Time { return e.OccurredAt }),
		word("occurred_at_precision", func(e *event.Event) string { return e.OccurredAtPrecision }),
		word("occurred_at_source", func(e *event.Event) string { return e.OccurredAtSource }),
		instant("received_at", func(e *event.Event) time.Time { return e.ReceivedAt }),
		instant("normalized_at", func(e *event.Event) time.Time { return e.NormalizedAt }),

		text("recipient", func(e *event.Event) string { return e.Recipient }),
		text("recipient_normalized", func(e *event.Event) string { return e.RecipientNormalized }),
		word("recipient_domain", func(e *event.Event) string { return e.RecipientDomain }),
		flag("recipient_ambiguous", func(e *event.Event) bool { return e.RecipientAmbiguous }),
		number("recipient_count", func(e *event.Event) int32 { return e.RecipientCount }),
		word("sender", func(e *event.Event) string { return e.Sender }),
		text("subject", func(e *event.Event) string { return e.Subject }),
		text("provider_message_id", func(e *event.Event) string { return e.ProviderMessageID }),
		text("smtp_message_id", func(e *event.Event) string { return e.SMTPMessageID }),
		text("batch_message_id", func(e *event.Event) string { return e.BatchMessageID }),
		list("tags", func(e *event.Event) []string { return e.Tags }),
		{"metadata", "Map(String, String)", each(func(e *event.Event) map[string]string { return e.Metadata })},
		word("campaign_id", func(e *event.Event) string { return e.CampaignID }),
		word("campaign_name", func(e *event.Event) string { return e.CampaignName }),
		word("template_id", func(e *event.Event) string { return e.TemplateID }),
		word("stream", func(e *event.Event) string { return e.Stream }),
		word("list_id", func(e *event.Event) string { return e.ListID }),
		word("group_id", func(e *event.Event) string { return e.GroupID }),
		word("scope_kind", func(e *event.Event) string { return e.ScopeKind }),
		word("scope_id", func(e *event.Event) string { return e.ScopeID }),

		word("ip_pool", func(e *event.Event) string { return e.IPPool }),
		word("sending_ip", func(e *event.Event) string { return e.SendingIP }),
		word("mx_host", func(e *event.Event) string { return e.MXHost }),
		word("mx_ip", func(e *event.Event) string { return e.MXIP }),
		number("smtp_code", func(e *event.Event) int32 { return e.SMTPCode }),
		word("enhanced_code", func(e *event.Event) string { return e.EnhancedCode }),
		text("smtp_response", func(e *event.Event) string { return e.SMTPResponse }),
		number("attempt", func(e *event.Event) int32 { return e.Attempt }),
		number("retry_after_s", func(e *event.Event) int32 { return e.RetryAfterS }),
		word("bounce_kind", func(e *event.Event) string { return e.BounceKind }),
		word("bounce_cause", func(e *event.Event) string { return e.BounceCause }),
		flag("bounce_is_async", func(e *event.Event) bool { return e.BounceIsAsync }),
		word("provider_bounce_class", func(e *event.Event) string { return e.ProviderBounceClass }),
		word("reject_reason", func(e *event.Event) string { return e.RejectReason }),
		{"provider_suppressed", "Nullable(Bool)", all(func(e *event.Event) *bool { return e.ProviderSuppressed })},

		word("complaint_type", func(e *event.Event) string { return e.ComplaintType }),
		word("suppression_action", func(e *event.Event) string { return e.SuppressionAction }),
		maybeInstant("suppression_expires_at", func(e *event.Event) time.Time { return e.SuppressionExpiresAt }),

		text("url", func(e *event.Event) string { return e.URL }),
		word("link_name", func(e *event.Event) string { return e.LinkName }),
		{"link_index", "Nullable(Int32)", all(func(e *event.Event) *int32 { return e.LinkIndex })},
		text("client_ip", func(e *event.Event) string { return e.ClientIP }),
		text("user_agent", func(e *event.Event) string { return e.UserAgent }),
		word("device_type", func(e *event.Event) string { return e.DeviceType }),
		word("client_name", func(e *event.Event) string { return e.ClientName }),
		word("os_name", func(e *event.Event) string { return e.OSName }),
		word("geo_country", func(e *event.Event) string { return e.GeoCountry }),
		word("geo_region", func(e *event.Event) string { return e.GeoRegion }),
		word("geo_city", func(e *event.Event) string { return e.GeoCity }),
		word("machine", func(e *event.Event) string { return e.Machine }),
		list("machine_evidence", func(e *event.Event) []string { return e.MachineEvidence }),
		word("bot_name", func(e *event.Event) string { return e.BotName }),
		word("engagement_variant", func(e *event.Event) string { return e.EngagementVariant }),

		word("raw_topic", func(e *event.Event) string { return e.RawTopic }),
		number("raw_partition", func(e *event.Event) int32 { return e.RawPartition }),
		{"raw_offset", "Int64", all(func(e *event.Event) int64 { return e.RawOffset })},
		number("raw_event_index", func(e *event.Event) int32 { return e.RawEventIndex }),
		number("raw_recipient_index", func(e *event.Event) int32 { return e.RawRecipientIndex }),
		word("normalizer_version", func(e *event.Event) string { return e.NormalizerVersion }),
		list("warnings", func(e *event.Event) []string { return e.Warnings }),
	}
}
