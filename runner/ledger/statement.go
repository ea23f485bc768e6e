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
