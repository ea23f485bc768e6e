package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite" // also registers the driver
)

// This file is all that knows which database the book is kept in. The SQL of the
// others is what SQLite and PostgreSQL both take; where they differ it goes
// through here.

const driverName = "sqlite"

// How a database file is opened.
const (
	modeWrite     = "rw"        // the server's one writer
	modeRead      = "ro"        // beside a writer, or after one
	modeImmutable = "immutable" // nobody writes, and we may not either
)

// openDB makes a handle; nothing is opened before its first use.
func openDB(path, mode string, conns int) (*sql.DB, error) {
	q := url.Values{}
	pragmas := []string{"busy_timeout(10000)", "cache_size(-16384)", "temp_store(2)"}
	switch mode {
	case modeWrite:
		// FULL: one fsync of the log for each commit; without it a commit could be
		// lost with the machine's power, and Apply would have lied.
		//
		// The log is moved into the database each 16 MB: a busy page of an index is in
		// the log of nearly every commit, and is moved once.
		pragmas = append(pragmas, "journal_mode(WAL)", "synchronous(FULL)",
			"wal_autocheckpoint(4000)", "journal_size_limit(67108864)")
		q.Set("mode", "rwc")
	case modeRead:
		pragmas = append(pragmas, "query_only(1)")
		q.Set("mode", "ro")
	case modeImmutable:
		q.Set("mode", "ro")
		q.Set("immutable", "1")
	}
	q["_pragma"] = pragmas
	db, err := sql.Open(driverName, "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// bind turns the placeholders of a statement, written ?, into the database's.
func bind(query string) string { return query }

// ddl turns the types of the schema into the database's. Only a column of this
// very type is the key that SQLite keeps its rows by.
func ddl(schema string) string {
	return strings.ReplaceAll(schema, "BIGINT PRIMARY KEY", "INTEGER PRIMARY KEY")
}

const (
	// beginWrite takes the write lock at once, so that nothing that was read in
	// the transaction can be outdated when it writes.
	beginWrite = "BEGIN IMMEDIATE"
	countBooks = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'book'"
	countOther = "SELECT count(*) FROM sqlite_master WHERE type = 'table'"
)

// Primary result codes of SQLite.
const (
	codeReadOnly = 8
	codeIO       = 10
	codeCorrupt  = 11
	codeFull     = 13
	codeCantOpen = 14
	codeNotADB   = 26
)

func primaryCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// explain turns the database's own failures into those that callers look for.
func explain(dir string, err error) error {
	switch primaryCode(err) {
	case codeFull:
		return fmt.Errorf("%w: %s: make room there", ErrFull, dir)
	case codeIO, codeCantOpen:
		// Some calls on a full disk are told as plain I/O errors.
		if diskFull(dir) {
			return fmt.Errorf("%w: %s: make room there (%v)", ErrFull, dir, err)
		}
	case codeNotADB:
		return fmt.Errorf("%w: %s is no database of saltpeter: move it away or name another state directory", ErrVersion, dir)
	case codeCorrupt:
		return fmt.Errorf("the database in %s is damaged: stop the server, restore it from a backup or move it away (%w)", dir, err)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %s: make room there (%v)", ErrFull, dir, err)
	}
	return err
}

func diskFull(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && s.Blocks > 0 && s.Bavail*uint64(s.Bsize) < 64<<10
}

// noSync tells a connection to leave fsync away: for copies that nobody will
// need again.
func noSync(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "PRAGMA synchronous = OFF")
	return err
}
