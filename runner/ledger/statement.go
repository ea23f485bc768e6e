package ledger

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
)

// statement is one that the writer has prepared. Its executions go straight to the
// driver: what the pool does for each (locks, and a second look at every value)
// would cost as much as the small statements themselves.
type statement struct {
	conn *sql.Conn
	exec driver.StmtExecContext
	args []driver.NamedValue // used again by each execution
}

// prepare makes a statement of a connection, which must outlive it.
func prepare(ctx context.Context, conn *sql.Conn, query string) (*statement, error) {
	s := &statement{conn: conn}
	err := conn.Raw(func(c any) error {
		preparer, ok := c.(driver.ConnPrepareContext)
		if !ok {
			return errors.New("the database's driver prepares no statements")
		}
		prepared, err := preparer.PrepareContext(ctx, bind(query))
		if err != nil {
			return err
		}
		if s.exec, ok = prepared.(driver.StmtExecContext); !ok {
			return errors.Join(errors.New("the database's driver executes no statements"), prepared.Close())
		}
		return nil
	})
	return s, err
}

// run executes the statement and counts the rows that it changed.
func (s *statement) run(ctx context.Context, args []any) (n int64, err error) {
	s.args = s.args[:0]
	for i, arg := range args {
		v, err := valueOf(arg)
		if err != nil {
			return 0, err
		}
		s.args = append(s.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	err = s.conn.Raw(func(any) error {
		res, err := s.exec.ExecContext(ctx, s.args)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	clear(s.args) // the texts are not ours to keep
	return n, err
}

// valueOf is an argument as drivers take it.
func valueOf(arg any) (driver.Value, error) {
	switch v := arg.(type) {
	case nil, int64, string:
		return v, nil
	case int:
		return int64(v), nil
	}
	return nil, fmt.Errorf("cannot write a %T into the database", arg)
}

func (s *statement) close() error {
	return s.conn.Raw(func(any) error { return s.exec.(driver.Stmt).Close() })
}

// statement is one that is executed, prepared once.
func (w *writer) statement(query string) (*statement, error) {
	if s := w.statements[query]; s != nil {
		return s, nil
	}
	s, err := prepare(w.ctx, w.conn, query)
	if err != nil {
		return nil, failed(err)
	}
	w.statements[query] = s
	return s, nil
}

func (w *writer) exec(query string, args ...any) error {
	_, err := w.change(query, args...)
	return err
}

// change is exec that counts the rows it changed.
func (w *writer) change(query string, args ...any) (int64, error) {
	s, err := w.statement(query)
	if err != nil {
		return 0, err
	}
	n, err := s.run(w.ctx, args)
	return n, failed(err)
}

// query is one that reads, prepared once.
func (w *writer) query(query string) (*sql.Stmt, error) {
	if s := w.queries[query]; s != nil {
		return s, nil
	}
	s, err := w.conn.PrepareContext(w.ctx, bind(query))
	if err != nil {
		return nil, failed(err)
	}
	w.queries[query] = s
	return s, nil
}

// each calls f for every row of a query.
func (w *writer) each(query string, f func(rows *sql.Rows) error, args ...any) error {
	s, err := w.query(query)
	if err != nil {
		return err
	}
	return failed(eachRow(f)(s.QueryContext(w.ctx, args...)))
}

// first scans the first row of a query; false if there is none.
func (w *writer) first(query string, args []any, dest ...any) (bool, error) {
	found := false
	err := w.each(query, func(rows *sql.Rows) error {
		if found {
			return nil
		}
		found = true
		return rows.Scan(dest...)
	}, args...)
	return found, err
}

// eachRow walks the result of a query.
func eachRow(f func(rows *sql.Rows) error) func(rows *sql.Rows, err error) error {
	return func(rows *sql.Rows, err error) error {
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := f(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}
