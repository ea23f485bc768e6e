package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"sort"
	"time"
)

const defaultLimit = 100

// query runs a reading query on one of the readers' connections.
func (l *Ledger) query(ctx context.Context, f func(rows *sql.Rows) error, query string, args ...any) error {
	if l.immutable { // a server that has started since changes what we read
		if err := probeLock(l.dir); err != nil {
			return err
		}
	}
	if l.trace != nil {
		l.trace(query, args)
	}
	err := eachRow(f)(l.read.QueryContext(ctx, bind(query), args...))
	if l.immutable {
		if locked := probeLock(l.dir); locked != nil {
			return locked
		}
	}
	if err != nil {
		select {
		case <-l.closing: // a nil channel where there is no writer: never
			return ErrClosed
		default:
		}
		return fmt.Errorf("cannot read the ledger: %w", explain(l.dir, err))
	}
	return nil
}

// Run returns a run with its tasks and definition. ErrNoRun.
func (l *Ledger) Run(ctx context.Context, id string) (*Run, error) {
	var run *Run
	var num int64
	err := l.query(ctx, func(rows *sql.Rows) error {
		var definition sql.NullString
		r, n, err := scanRun(rows, &definition)
		if definition.Valid {
			r.Definition = json.RawMessage(definition.String)
		}
		run, num = &r, n
		return err
	}, `SELECT `+runColumns+`, d.body FROM runs r LEFT JOIN definitions d ON d.num = r.definition WHERE r.id = ?`, id)
	if err != nil {
		return nil, err
	}
	if run == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoRun, id)
	}
	err = l.query(ctx, func(rows *sql.Rows) error {
		t, err := l.readTask(rows, id)
		run.Tasks = append(run.Tasks, t)
		return err
	}, `SELECT `+taskColumns+` FROM tasks t WHERE t.run = ? ORDER BY t.num`, num)
	return run, err
}

// readTask reads a task of a run, with the length of its output as it is now
// where it may still grow.
func (l *Ledger) readTask(row scanner, run string) (Task, error) {
	e, unfinished, err := scanTask(row)
	if err != nil {
		return Task{}, err
	}
	e.Run = run
	if unfinished && e.State != Queued {
		e.Length = l.storedLength(e.num)
	}
	return e.Task, nil
}

// Task returns a task. ErrNoTask.
func (l *Ledger) Task(ctx context.Context, id TaskID) (*Task, error) {
	var task *Task
	err := l.query(ctx, func(rows *sql.Rows) error {
		t, err := l.readTask(rows, id.Run)
		task = &t
		return err
	}, `SELECT `+taskColumns+` FROM tasks t WHERE t.run = (SELECT num FROM runs WHERE id = ?) AND t.machine = ?`, id.Run, id.Machine)
	if err != nil {
		return nil, err
	}
	if task == nil {
		return nil, fmt.Errorf("%w: %s on %s", ErrNoTask, id.Run, id.Machine)
	}
	return task, nil
}

// taskKey is the key of a task, under which its output is kept. ErrNoTask.
func (l *Ledger) taskKey(ctx context.Context, id TaskID) (int64, error) {
	var num int64
	err := l.query(ctx, func(rows *sql.Rows) error { return rows.Scan(&num) },
		`SELECT t.num FROM tasks t WHERE t.run = (SELECT num FROM runs WHERE id = ?) AND t.machine = ?`, id.Run, id.Machine)
	if err == nil && num == 0 {
		err = fmt.Errorf("%w: %s on %s", ErrNoTask, id.Run, id.Machine)
	}
	return num, err
}

// Unfinished lists the tasks that are live, lost, or have a standing kill or
// leftovers, in order of queueing.
func (l *Ledger) Unfinished(ctx context.Context) ([]Task, error) {
	var tasks []Task
	err := l.query(ctx, func(rows *sql.Rows) error {
		var run string
		e, _, err := scanTask(rows, &run)
		if err != nil {
			return err
		}
		e.Run = run
		if e.State != Queued {
			e.Length = l.storedLength(e.num)
		}
		tasks = append(tasks, e.Task)
		return nil
	}, `SELECT `+taskColumns+`, r.id FROM tasks t JOIN runs r ON r.num = t.run WHERE t.unfinished = 1 ORDER BY t.num`)
	sort.SliceStable(tasks, func(i, j int) bool { return tasks[i].Queued.Before(tasks[j].Queued) })
	return tasks, err
}

// Skips lists the ranges of due times without a run that touch since..until (the
// last excluded), newest first; of one job or, with "", of all. Limit 0 = 100.
func (l *Ledger) Skips(ctx context.Context, job string, since, until time.Time, limit int) ([]Skip, error) {
	where, args := newWhere()
	where.add(job != "", "job = ?", job)
	where.add(!since.IsZero(), "last_due >= ?", nanos(since))
	where.add(!until.IsZero(), "first_due < ?", nanos(until))
	var skips []Skip
	err := l.query(ctx, func(rows *sql.Rows) error {
		var num int64
		s, err := scanSkip(rows, &num)
		skips = append(skips, s)
		return err
	}, `SELECT num, `+skipColumns+` FROM skips`+where.String()+` ORDER BY last_due DESC, num DESC LIMIT ?`, append(*args, limitOf(limit))...)
	return skips, err
}

// Watermarks tells how far each job's schedule has been dealt with; "" is the
// server's heartbeat.
func (l *Ledger) Watermarks(ctx context.Context) (map[string]time.Time, error) {
	marks := map[string]time.Time{}
	err := l.query(ctx, func(rows *sql.Rows) error {
		var job string
		var at int64
		err := rows.Scan(&job, &at)
		marks[job] = instant(at)
		return err
	}, `SELECT job, at FROM watermarks`)
	return marks, err
}

// Audit lists the audit log from since on, newest first. Limit 0 = 100.
func (l *Ledger) Audit(ctx context.Context, since time.Time, limit int) ([]AuditEntry, error) {
	var entries []AuditEntry
	err := l.query(ctx, func(rows *sql.Rows) error {
		var a AuditEntry
		var at int64
		err := rows.Scan(&a.ID, &at, &a.Who, &a.From, &a.What, &a.Target, &a.Outcome)
		a.At = instant(at)
		entries = append(entries, a)
		return err
	}, `SELECT num, at, who, came_from, what, target, outcome FROM audit WHERE at >= ? ORDER BY at DESC, num DESC LIMIT ?`, nanos(since), limitOf(limit))
	return entries, err
}

func limitOf(n int) int {
	if n <= 0 {
		return defaultLimit
	}
	return n
}

// TaskByToken is answered from memory: whose token hash this is. ErrNoToken.
func (l *Ledger) TaskByToken(hash string) (TaskID, error) {
	l.tokenLock.RLock()
	defer l.tokenLock.RUnlock()
	id, ok := l.tokens[hash]
	if !ok {
		return TaskID{}, ErrNoToken
	}
	return id, nil
}

// Nonce is the nonce that a task's order is bound to; "" before the first fetch.
func (l *Ledger) Nonce(ctx context.Context, id TaskID) (string, error) {
	found, nonce := false, ""
	err := l.query(ctx, func(rows *sql.Rows) error {
		found = true
		return rows.Scan(&nonce)
	}, `SELECT t.nonce FROM tasks t WHERE t.run = (SELECT num FROM runs WHERE id = ?) AND t.machine = ?`, id.Run, id.Machine)
	if err == nil && !found {
		err = fmt.Errorf("%w: %s on %s", ErrNoTask, id.Run, id.Machine)
	}
	return nonce, err
}
