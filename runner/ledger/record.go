package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
)

// newWriter reads what the writer must remember: the highest keys, the tokens,
// and every task that is not finished.
func newWriter(ctx context.Context, l *Ledger, conn *sql.Conn) (*writer, error) {
	w := &writer{
		l: l, ctx: ctx, conn: conn,
		statements: map[string]*statement{}, taskStatements: map[taskStatement]*statement{}, queries: map[string]*sql.Stmt{}, columns: newColumns(),
		tasks: map[TaskID]*entry{}, tails: map[string]*tail{}, defs: map[string]int64{},
		marked: map[TaskID]int{},
		feed:   feed{open: map[int64]*openRun{}},
	}
	for _, key := range []struct {
		table string
		into  *int64
	}{{"runs", &w.runs}, {"tasks", &w.numTasks}, {"skips", &w.skips}, {"audit", &w.audits}, {"definitions", &w.numDefs}} {
		if _, err := w.first(`SELECT coalesce(max(num), 0) FROM `+key.table, nil, key.into); err != nil {
			return nil, err
		}
	}
	err := w.each(`SELECT `+taskColumns+`, r.id, r.grp FROM tasks t JOIN runs r ON r.num = t.run WHERE t.unfinished = 1`,
		func(rows *sql.Rows) error {
			var run, group string
			e, _, err := scanTask(rows, &run, &group)
			if err != nil {
				return err
			}
			e.Run = run
			w.tasks[e.TaskID] = e
			if !over(e.State) {
				of := w.feed.open[e.run]
				if of == nil {
					of = &openRun{group: group}
					w.feed.open[e.run] = of
				}
				of.live++
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	err = w.each(`SELECT k.hash, r.id, t.machine FROM tokens k JOIN tasks t ON t.num = k.task JOIN runs r ON r.num = t.run`,
		func(rows *sql.Rows) error {
			var hash string
			var id TaskID
			if err := rows.Scan(&hash, &id.Run, &id.Machine); err != nil {
				return err
			}
			l.tokens[hash] = id
			return nil
		})
	if err != nil {
		return nil, err
	}
	return w, w.readFeed()
}

// record carries out one event inside the transaction.
func (w *writer) record(e Event) error {
	switch e := e.(type) {
	case Begun:
		return w.begun(e.Run)
	case Joined:
		return w.joined(e.Task)
	case SkippedDue:
		return w.skipped(e.Skip)
	case TokenDropped:
		w.tokens = append(w.tokens, tokenChange{hash: e.Hash, drop: true})
		return w.exec(`DELETE FROM tokens WHERE hash = ?`, e.Hash)
	case Audited:
		w.audits++
		a := e.Entry
		return w.exec(`INSERT INTO audit (num, at, who, came_from, what, target, outcome) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			w.audits, nanos(a.At), a.Who, a.From, a.What, a.Target, a.Outcome)
	case HoldSet:
		return w.holdSet(e.Hold)
	case HoldLifted:
		return w.exec(`DELETE FROM holds WHERE machine = ?`, e.Machine)
	case Watermark:
		return w.exec(`INSERT INTO watermarks (job, at) VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET at = excluded.at`, e.Job, nanos(e.At))
	}
	id, ok := taskOf(e)
	if !ok {
		return fmt.Errorf("cannot record a %T: %w", e, ErrUnlawful)
	}
	was, err := w.entry(id)
	if err != nil {
		return err
	}
	now := *was
	if now.Task, err = change(was.Task, e); err != nil {
		return fmt.Errorf("%s on %s: %w", id.Run, id.Machine, err)
	}
	switch e := e.(type) {
	case NonceBound:
		if was.nonce != "" && was.nonce != e.Nonce {
			return fmt.Errorf("%s on %s: cannot bind its order to a second nonce: %w", id.Run, id.Machine, ErrUnlawful)
		}
		now.nonce = e.Nonce
	case TokenAdded:
		err = w.token(e.Hash, &now)
	case Launched:
		err = w.token(e.TokenHash, &now)
	}
	if err != nil {
		return err
	}
	w.put(&now)
	return w.tellChange(was, &now, e)
}

func (w *writer) token(hash string, e *entry) error {
	if hash == "" {
		return nil
	}
	w.tokens = append(w.tokens, tokenChange{hash: hash, task: e.TaskID})
	return w.exec(`INSERT INTO tokens (hash, task) VALUES (?, ?) ON CONFLICT (hash) DO UPDATE SET task = excluded.task`, hash, e.num)
}

// begun opens a run. Everything is checked before the first row is written,
// since a single event has no savepoint.
func (w *writer) begun(r Run) error {
	if r.ID == "" || r.Job == "" {
		return fmt.Errorf("cannot begin a run without a name and a job: %w", ErrUnlawful)
	}
	seen := make(map[string]bool, len(r.Tasks))
	for _, t := range r.Tasks {
		if seen[t.Machine] {
			return fmt.Errorf("cannot begin %s twice on %s: %w", r.ID, t.Machine, ErrUnlawful)
		}
		seen[t.Machine] = true
		if t.State != "" && t.State != Queued && (!t.State.Done() || t.State == Lost) {
			return fmt.Errorf("cannot begin %s on %s as %s: %w", r.ID, t.Machine, t.State, ErrUnlawful)
		}
	}
	due := utc(r.Due)
	var t *tail
	if oncePerDue(r.Trigger) {
		var err error
		if t, err = w.tail(r.Job); err != nil {
			return err
		}
		if err := w.dueFree(t, r.Job, due, due); err != nil {
			return err
		}
	}
	def, err := w.definition(r.Job, r.Definition)
	if err != nil {
		return err
	}
	num := w.runs + 1
	n, err := w.change(`INSERT INTO runs (num, id, job, grp, due, fired, trig, asked_by, retry_of, reason, detail, definition)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
		num, r.ID, r.Job, r.Group, nanos(due), nanos(utc(r.Fired)), r.Trigger, r.By, r.RetryOf, r.Reason, r.Detail, def)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: %s", ErrExists, r.ID)
	}
	w.runs = num
	if t != nil {
		if err := w.dueTaken(t, r.Job, due); err != nil {
			return err
		}
	}
	for _, task := range r.Tasks {
		w.numTasks++
		w.put(newEntry(r, task, num, w.numTasks))
	}
	w.tellBegun(r, num)
	return nil
}

// joined adds a task to a run that another server began.
func (w *writer) joined(t Task) error {
	var num, due int64
	r := Run{ID: t.Run}
	found, err := w.first(`SELECT num, job, trig, due FROM runs WHERE id = ?`, []any{t.Run}, &num, &r.Job, &r.Trigger, &due)
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("%w: %s", ErrNoRun, t.Run)
	case r.Trigger != TriggerForeign || t.State != "" && t.State != Queued:
		return fmt.Errorf("cannot add a task to %s: %w", t.Run, ErrUnlawful)
	}
	switch _, err := w.entry(t.TaskID); {
	case err == nil:
		return fmt.Errorf("%w: %s on %s", ErrExists, t.Run, t.Machine)
	case !errors.Is(err, ErrNoTask):
		return err
	}
	r.Due, r.Fired = instant(due), t.Queued
	w.numTasks++
	w.put(newEntry(r, t, num, w.numTasks))
	if of := w.feed.open[num]; of != nil {
		of.live++
		w.undo = append(w.undo, func() { of.live-- })
	}
	return nil
}

func newEntry(r Run, t Task, run, num int64) *entry {
	t.Run, t.Job = r.ID, r.Job
	if t.State == "" {
		t.State = Queued
	}
	if t.Queued.IsZero() {
		t.Queued = r.Fired
	}
	if t.State.Done() && t.Ended.IsZero() { // it ends where it begins: never to be launched
		t.Ended = t.Queued
	}
	t.Queued, t.Launched, t.Started, t.Ended = utc(t.Queued), utc(t.Launched), utc(t.Started), utc(t.Ended)
	t.Length = 0
	return &entry{Task: copyOf(t), num: num, run: run, due: utc(r.Due)}
}

// definition stores a job as it was once for all the runs that had it so.
func (w *writer) definition(job string, body []byte) (int64, error) {
	if len(body) == 0 {
		return 0, nil
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	key := job + "\x00" + hash
	if num := w.defs[key]; num != 0 {
		return num, nil
	}
	var num int64
	found, err := w.first(`SELECT num FROM definitions WHERE hash = ? AND job = ?`, []any{hash, job}, &num)
	if err != nil {
		return 0, err
	}
	if !found {
		w.numDefs++
		num = w.numDefs
		err := w.exec(`INSERT INTO definitions (num, job, hash, body) VALUES (?, ?, ?, ?)`, num, job, hash, string(body))
		if err != nil {
			return 0, err
		}
	}
	if len(w.defs) >= 1<<14 {
		clear(w.defs)
	}
	w.defs[key] = num
	w.undo = append(w.undo, func() { delete(w.defs, key) })
	return num, nil
}
