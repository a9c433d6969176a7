package clickhouse

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
)

// Migrations are SQL files, one statement each, applied in the order of their
// names and never taken back. A file that was applied is never edited: a change
// is a new file.
//
// ClickHouse has no transaction around a statement and the note that it ran, so
// every statement must be repeatable (IF NOT EXISTS, ADD COLUMN IF NOT EXISTS).
//
// A file is a text/template over [placement], so that the same files make plain
// tables on one server and replicated, distributed ones on a cluster. A file
// whose text is empty for this placement does nothing.
type Migrations struct {
	files []migration
}

type migration struct {
	name     string
	checksum string // of the file as written, so it does not depend on the placement
	text     *template.Template
}

// ReadMigrations reads every .sql file of fsys, in subfolders too.
func ReadMigrations(fsys fs.FS) (Migrations, error) {
	var m Migrations
	err := fs.WalkDir(fsys, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".sql") {
			return err
		}
		source, err := fs.ReadFile(fsys, path)
		if err != nil {
			return err
		}
		name := entry.Name()
		parsed, err := template.New(name).Option("missingkey=error").Parse(string(source))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(source)
		m.files = append(m.files, migration{name, hex.EncodeToString(sum[:]), parsed})
		return nil
	})
	if err != nil {
		return Migrations{}, fmt.Errorf("migrations: %w", err)
	}
	slices.SortFunc(m.files, func(a, b migration) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(m.files); i++ {
		if m.files[i].name == m.files[i-1].name {
			return Migrations{}, fmt.Errorf("migrations: two files are named %s", m.files[i].name)
		}
	}
	if len(m.files) == 0 {
		return Migrations{}, errors.New("migrations: there is no .sql file")
	}
	return m, nil
}

// placement is what a migration's template may ask for.
type placement struct {
	database string
	Cluster  string
}

// Table names a table, face or view that users see.
func (p placement) Table(name string) string { return quote(p.database) + "." + quote(name) }

// Local names the table that holds the rows: the same on one server, its shard's
// on a cluster.
func (p placement) Local(name string) string {
	if p.Cluster != "" {
		name += "_local"
	}
	return p.Table(name)
}

// OnCluster is empty on one server.
func (p placement) OnCluster() string {
	if p.Cluster == "" {
		return ""
	}
	return "ON CLUSTER " + p.ClusterLiteral()
}

// Engine names a MergeTree engine, replicated on a cluster. The path in Keeper
// is the server's default_replica_path.
func (p placement) Engine(name string, args ...string) string {
	if p.Cluster != "" {
		name = "Replicated" + name
	}
	if len(args) == 0 {
		return name
	}
	return name + "(" + strings.Join(args, ", ") + ")"
}

// DedupWindow is the setting that makes insert_deduplication_token work. On a
// cluster each remembered block is a node in Keeper, hence fewer.
func (p placement) DedupWindow() string {
	if p.Cluster == "" {
		return "non_replicated_deduplication_window = 100000"
	}
	return "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800"
}

// ClusterLiteral is the cluster's name as a string of SQL.
func (p placement) ClusterLiteral() string { return "'" + p.Cluster + "'" }

// DatabaseLiteral is the database's name as a string of SQL.
func (p placement) DatabaseLiteral() string { return "'" + p.database + "'" }

var sqlComment = regexp.MustCompile(`(?m)^\s*--.*$`)

// statement is the SQL of a file for a placement; empty when there is none.
func (m migration) statement(p placement) (string, error) {
	var text bytes.Buffer
	if err := m.text.Execute(&text, p); err != nil {
		return "", fmt.Errorf("%s: %w", m.name, err)
	}
	sql := strings.TrimSpace(sqlComment.ReplaceAllString(text.String(), ""))
	return strings.TrimSuffix(sql, ";"), nil
}

// ErrEdited means that a migration that was applied is not what it was.
var ErrEdited = errors.New("was edited after it was applied; restore it and put the change into a new file")

// ErrOutOfOrder means that a new migration sorts before one that was applied.
var ErrOutOfOrder = errors.New("sorts before a migration that is applied already; give it a higher number")

// Pending returns the names of the migrations that are not applied. A database
// that is ahead of this binary has none pending: an older binary works on newer
// tables, because it names the columns it writes.
func (c *Client) Pending(ctx context.Context, m Migrations) ([]string, error) {
	applied, err := c.applied(ctx)
	if err != nil {
		return nil, err
	}
	files, err := m.pending(applied)
	names := make([]string, len(files))
	for i, file := range files {
		names[i] = file.name
	}
	return names, err
}

// pending compares the files with what was applied.
func (m Migrations) pending(applied map[string]string) ([]migration, error) {
	last := ""
	for name := range applied {
		last = max(last, name)
	}
	var todo []migration
	for _, file := range m.files {
		checksum, done := applied[file.name]
		switch {
		case done && checksum != file.checksum:
			return nil, fmt.Errorf("migration %s: %w", file.name, ErrEdited)
		case done:
		case file.name < last:
			return nil, fmt.Errorf("migration %s: %w (%s)", file.name, ErrOutOfOrder, last)
		default:
			todo = append(todo, file)
		}
	}
	return todo, nil
}

// Migrate creates the database where it is missing and applies what is pending.
// It returns the names of what it applied, also before an error.
func (c *Client) Migrate(ctx context.Context, m Migrations) (applied []string, err error) {
	place := placement{database: c.database, Cluster: c.cfg.Cluster}
	if err := c.prepare(ctx, place); err != nil {
		return nil, err
	}
	before, err := c.applied(ctx)
	if err != nil {
		return nil, err
	}
	todo, err := m.pending(before)
	if err != nil {
		return nil, err
	}
	for _, file := range todo {
		sql, err := file.statement(place)
		if err != nil {
			return applied, fmt.Errorf("migration %w", err)
		}
		if sql != "" {
			if err := c.Exec(ctx, sql); err != nil {
				return applied, fmt.Errorf("migration %s: %w", file.name, err)
			}
		}
		if err := c.note(ctx, file); err != nil {
			return applied, fmt.Errorf("migration %s ran but is not noted, it will run again: %w", file.name, err)
		}
		applied = append(applied, file.name)
	}
	return applied, nil
}

const migrationsTable = "schema_migrations"

// prepare makes the database and the table of migrations. The database is made
// from another connection, because a connection to a database that does not
// exist is refused.
func (c *Client) prepare(ctx context.Context, p placement) error {
	outside, err := driver.Open(c.endpoint.options(c.cfg.DialTimeout, "default"))
	if err != nil {
		return c.endpoint.classify("open", err)
	}
	defer outside.Close() //nolint:errcheck // nothing was written through it that Exec did not report
	create := fmt.Sprintf("CREATE DATABASE IF NOT EXISTS %s %s", quote(c.database), p.OnCluster())
	if err := c.endpoint.classify("create database", outside.Exec(ctx, create)); err != nil {
		return err
	}
	engine := "MergeTree"
	if p.Cluster != "" {
		// One copy for the whole cluster, whichever server setup talks to.
		engine = "ReplicatedMergeTree('/clickhouse/tables/all/{database}/{table}', '{shard}-{replica}')"
	}
	return c.Exec(ctx, fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s %s
(
    name       String                COMMENT 'File in schemas/clickhouse',
    checksum   String                COMMENT 'SHA-256 of the file',
    applied_at DateTime64(3, 'UTC')  COMMENT 'When it was applied'
)
ENGINE = %s ORDER BY name COMMENT 'Migrations that were applied'`, c.table(migrationsTable), p.OnCluster(), engine))
}

// Codes that mean that nothing was ever applied here.
const (
	codeUnknownTable    = 60
	codeUnknownDatabase = 81
)

func (c *Client) applied(ctx context.Context) (map[string]string, error) {
	applied := make(map[string]string)
	err := c.Each(ctx, "SELECT name, checksum FROM "+c.table(migrationsTable), nil, func(row []any) error {
		name, _ := row[0].(string)
		applied[name], _ = row[1].(string)
		return nil
	})
	if answer, ok := errors.AsType[*Error](err); ok &&
		(answer.Code == codeUnknownTable || answer.Code == codeUnknownDatabase) {
		return nil, nil
	}
	return applied, err
}

func (c *Client) note(ctx context.Context, m migration) error {
	batch, err := c.conn.PrepareBatch(ctx,
		"INSERT INTO "+c.table(migrationsTable)+" (name, checksum, applied_at)")
	if err != nil {
		return c.endpoint.classify("insert", err)
	}
	defer batch.Close() //nolint:errcheck // returns the connection; Send says whether the row is in
	if err := batch.Append(m.name, m.checksum, time.Now().UTC()); err != nil {
		return c.endpoint.classify("insert", err)
	}
	return c.endpoint.classify("insert", batch.Send())
}
