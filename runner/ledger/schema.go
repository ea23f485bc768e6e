package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// schemaVersion is what this build writes. A step up adds a function to
// migrations; a book of a later version is never opened.
const schemaVersion = 3

// migrations[v] takes a book from version v to v+1, inside one transaction with
// all the others.
var migrations = map[int]migration{
	1: func(ctx context.Context, conn *sql.Conn) error { return runAll(ctx, conn, schemaNews) },
	2: func(ctx context.Context, conn *sql.Conn) error { return runAll(ctx, conn, schemaHolds) },
}

type migration func(ctx context.Context, conn *sql.Conn) error

// schema of version 1; see schemaNews and schemaHolds for the rest. Times are nanoseconds since 1970 (UTC), 0 for none.
// runs.num and tasks.num count up in order of recording; task files are named
// after tasks.num. tasks.job and tasks.due repeat the run's for the indexes.
// tasks.unfinished and tasks.rare are 0 or 1 and exist for the partial indexes:
// what still needs care, and ends that people look for (not success).
var schema = []string{
	`CREATE TABLE book (name TEXT PRIMARY KEY, value TEXT NOT NULL)`,

	`CREATE TABLE definitions (num BIGINT PRIMARY KEY, job TEXT NOT NULL, hash TEXT NOT NULL, body TEXT NOT NULL)`,
	`CREATE INDEX definitions_hash ON definitions (hash)`,

	`CREATE TABLE runs (num BIGINT PRIMARY KEY, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL, grp TEXT NOT NULL,
		due BIGINT NOT NULL, fired BIGINT NOT NULL, trig TEXT NOT NULL, asked_by TEXT NOT NULL, retry_of TEXT NOT NULL,
		reason TEXT NOT NULL, detail TEXT NOT NULL, definition BIGINT NOT NULL)`,
	`CREATE INDEX runs_due ON runs (due, num)`,
	`CREATE INDEX runs_job_due ON runs (job, due, num)`,

	`CREATE TABLE tasks (num BIGINT PRIMARY KEY, run BIGINT NOT NULL, machine TEXT NOT NULL, job TEXT NOT NULL, due BIGINT NOT NULL,
		state TEXT NOT NULL, unfinished SMALLINT NOT NULL, rare SMALLINT NOT NULL, batch BIGINT NOT NULL, transport TEXT NOT NULL,
		cookie TEXT NOT NULL, queued BIGINT NOT NULL, launched BIGINT NOT NULL, started BIGINT NOT NULL, ended BIGINT NOT NULL,
		exit_code BIGINT, reason TEXT NOT NULL, leftover BIGINT NOT NULL, amended SMALLINT NOT NULL, length BIGINT NOT NULL,
		version TEXT NOT NULL, nonce TEXT NOT NULL, features TEXT, identity TEXT, end_detail TEXT, kill TEXT, notes TEXT)`,
	`CREATE UNIQUE INDEX tasks_run ON tasks (run, machine)`,
	`CREATE INDEX tasks_machine ON tasks (machine, due, run)`,
	`CREATE INDEX tasks_unfinished ON tasks (num) WHERE unfinished = 1`,
	`CREATE INDEX tasks_rare ON tasks (state, due, run) WHERE rare = 1`,
	`CREATE INDEX tasks_job_rare ON tasks (job, state, due, run) WHERE rare = 1`,

	`CREATE TABLE tokens (hash TEXT PRIMARY KEY, task BIGINT NOT NULL)`,
	`CREATE TABLE skips (num BIGINT PRIMARY KEY, job TEXT NOT NULL, grp TEXT NOT NULL, first_due BIGINT NOT NULL,
		last_due BIGINT NOT NULL, amount BIGINT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL)`,
	`CREATE INDEX skips_job ON skips (job, last_due)`,
	`CREATE INDEX skips_due ON skips (last_due)`,
	`CREATE TABLE watermarks (job TEXT PRIMARY KEY, at BIGINT NOT NULL)`,
	`CREATE TABLE audit (num BIGINT PRIMARY KEY, at BIGINT NOT NULL, who TEXT NOT NULL, came_from TEXT NOT NULL,
		what TEXT NOT NULL, target TEXT NOT NULL, outcome TEXT NOT NULL)`,
	`CREATE INDEX audit_at ON audit (at, num)`,
}

// prepareBook makes the tables or brings them up to this version, all or none.
func prepareBook(ctx context.Context, conn *sql.Conn, path string) (err error) {
	var books int
	if err := conn.QueryRowContext(ctx, bind(countBooks)).Scan(&books); err != nil {
		return err
	}
	if books == 1 { // the usual case takes no write lock
		if v, err := bookVersion(ctx, conn, path); err != nil || v == schemaVersion {
			return err
		}
	}
	if _, err := conn.ExecContext(ctx, beginWrite); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// The first error is the one to tell; a failed transaction may be gone already.
			_, _ = conn.ExecContext(ctx, "ROLLBACK")
		}
	}()
	if books == 0 {
		err = createBook(ctx, conn, path)
	} else {
		err = migrateBook(ctx, conn, path, schemaVersion, migrations)
	}
	if err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	return err
}

func createBook(ctx context.Context, conn *sql.Conn, path string) error {
	var others int
	if err := conn.QueryRowContext(ctx, bind(countOther)).Scan(&others); err != nil {
		return err
	}
	if others > 0 {
		return fmt.Errorf("%w: %s is a database of something else: name another state directory", ErrVersion, path)
	}
	if err := runAll(ctx, conn, slices.Concat(schema, schemaNews, schemaHolds)); err != nil {
		return err
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	const add = `INSERT INTO book (name, value) VALUES (?, ?)`
	if _, err := conn.ExecContext(ctx, bind(add), "version", strconv.Itoa(schemaVersion)); err != nil {
		return err
	}
	_, err := conn.ExecContext(ctx, bind(add), "server", hex.EncodeToString(id))
	return err
}

func runAll(ctx context.Context, conn *sql.Conn, statements []string) error {
	for _, s := range statements {
		if _, err := conn.ExecContext(ctx, ddl(s)); err != nil {
			return err
		}
	}
	return nil
}

func migrateBook(ctx context.Context, conn *sql.Conn, path string, to int, steps map[int]migration) error {
	v, err := bookVersion(ctx, conn, path)
	if err != nil {
		return err
	}
	for ; v < to; v++ {
		step := steps[v]
		if step == nil {
			return fmt.Errorf("%w: %s has version %d, which this saltpeter does not read any more: open it once with the release before", ErrVersion, path, v)
		}
		if err := step(ctx, conn); err != nil {
			return fmt.Errorf("cannot bring %s from version %d to %d: %w", path, v, v+1, err)
		}
	}
	_, err = conn.ExecContext(ctx, bind(`UPDATE book SET value = ? WHERE name = 'version'`), strconv.Itoa(to))
	return err
}

// querier is a connection or a pool.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// bookVersion is the version of the book, and ErrVersion where it is later than
// ours.
func bookVersion(ctx context.Context, q querier, path string) (int, error) {
	text, err := bookValue(ctx, q, "version")
	if err != nil {
		return 0, err
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < 1 {
		return 0, fmt.Errorf("%w: %s says version %q: restore it from a backup or name another state directory", ErrVersion, path, text)
	}
	if v > schemaVersion {
		return v, fmt.Errorf("%w: %s has version %d, this saltpeter knows up to %d: start the newer saltpeter again, or name another state directory",
			ErrNewer, path, v, schemaVersion)
	}
	return v, nil
}

func bookValue(ctx context.Context, q querier, name string) (string, error) {
	var value string
	err := q.QueryRowContext(ctx, bind(`SELECT value FROM book WHERE name = ?`), name).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return value, err
}
