// Package clickhouse is the one place that speaks to ClickHouse: it inserts
// events column by column, applies migrations, runs queries for the command
// line, and tells errors of a row from errors of the server.
//
// It does not decide when to insert or to try again; services/loader does. The
// tables themselves are in schemas/clickhouse.
package clickhouse

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	driver "github.com/ClickHouse/clickhouse-go/v2"
)

// Client talks to one ClickHouse server or cluster. It is safe for concurrent
// use.
type Client struct {
	conn     driver.Conn
	cfg      Config
	endpoint endpoint
	database string
}

// Open checks the configuration, and connects when it is first used. The
// password is the resolved [Config.Password], or empty.
func Open(cfg Config, password string) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	e, err := cfg.endpoint()
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	if password != "" {
		e.auth.Password = password
	}
	conn, err := driver.Open(e.options(cfg.DialTimeout, e.auth.Database))
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", e.classify("open", err))
	}
	return &Client{conn: conn, cfg: cfg, endpoint: e, database: e.auth.Database}, nil
}

// Database is the database that the URL names.
func (c *Client) Database() string { return c.database }

// Close closes the connections.
func (c *Client) Close() error { return c.conn.Close() }

// Ping reports whether the server answers a query on this database. (The
// driver's own ping asks a pooled HTTP connection nothing.)
func (c *Client) Ping(ctx context.Context) error { return c.Exec(ctx, "SELECT 1") }

// Exec runs a statement that gives no rows, or whose rows do not matter.
func (c *Client) Exec(ctx context.Context, sql string) error {
	return c.endpoint.classify("exec", c.conn.Exec(ctx, sql))
}

// Rows is the answer to a query.
type Rows struct {
	Columns []string
	Types   []string // ClickHouse's names
	Rows    [][]any
}

// Query reads the whole answer to a query. Parameters are written in the query
// as {name:Type} and never become part of its text. The caller bounds the answer
// with a LIMIT, or uses [Client.Each].
func (c *Client) Query(ctx context.Context, sql string, params map[string]any) (Rows, error) {
	var answer Rows
	err := c.each(ctx, sql, params, &answer, func(row []any) error {
		answer.Rows = append(answer.Rows, row)
		return nil
	})
	return answer, err
}

// Each calls f for each row of the answer as it arrives, until f fails. The row
// is f's to keep.
func (c *Client) Each(ctx context.Context, sql string, params map[string]any, f func(row []any) error) error {
	return c.each(ctx, sql, params, &Rows{}, f)
}

func (c *Client) each(
	ctx context.Context, sql string, params map[string]any, head *Rows, f func(row []any) error,
) error {
	// Without it, an f that fails would wait for the rest of the answer.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := make([]any, 0, len(params))
	for name, value := range params {
		args = append(args, driver.Named(name, value))
	}
	rows, err := c.conn.Query(ctx, sql, args...)
	if err != nil {
		return c.endpoint.classify("query", err)
	}
	defer func() { cancel(); _ = rows.Close() }() // what went wrong is in rows.Err
	head.Columns = rows.Columns()
	kinds := rows.ColumnTypes()
	for _, kind := range kinds {
		head.Types = append(head.Types, kind.DatabaseTypeName())
	}
	targets := make([]any, len(kinds))
	for rows.Next() {
		for i, kind := range kinds {
			targets[i] = reflect.New(kind.ScanType()).Interface()
		}
		if err := rows.Scan(targets...); err != nil {
			return c.endpoint.classify("query", err)
		}
		row := make([]any, len(kinds))
		for i, target := range targets {
			row[i] = value(reflect.ValueOf(target).Elem())
		}
		if err := f(row); err != nil {
			return err
		}
	}
	return c.endpoint.classify("query", rows.Err())
}

// value takes a Nullable out of its pointer: nil, or the value.
func value(v reflect.Value) any {
	if v.Kind() != reflect.Pointer {
		return v.Interface()
	}
	if v.IsNil() {
		return nil
	}
	return v.Elem().Interface()
}

// table returns the quoted name of a table of this database.
func (c *Client) table(name string) string { return quote(c.database) + "." + quote(name) }

func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }
