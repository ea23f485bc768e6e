package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
)

const (
	maxRequests = 1024 // that wait, and that one commit takes
	maxEvents   = 4096 // after which a commit takes no more requests
	maxSettled  = 4096 // finished tasks that stay remembered for their late news
)

// request is one call of Apply or Prune on its way through the writer.
type request struct {
	events []Event
	work   func(w *writer) error // instead of events

	tasks []Task
	err   error
	done  chan struct{}
}

// Apply writes events down, all or none, durable when it returns. Events of one
// task are applied in the order of the calls. It returns the tasks as they are
// after it, one per task that an event names, in the order of first mention.
//
// Once the writer has the events, Apply waits for the outcome even if ctx ends:
// "perhaps recorded" would help nobody.
func (l *Ledger) Apply(ctx context.Context, events ...Event) ([]Task, error) {
	r := &request{events: events}
	err := l.ask(ctx, r)
	return r.tasks, err
}

func (l *Ledger) ask(ctx context.Context, r *request) error {
	if l.write == nil {
		return ErrReadOnly
	}
	r.done = make(chan struct{})
	select {
	case <-l.closing:
		return ErrClosed
	default:
	}
	select {
	case l.requests <- r:
	case <-l.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-r.done:
	case <-l.done:
		select {
		case <-r.done:
		default: // it came in as the writer went
			return ErrClosed
		}
	}
	return r.err
}

// writer is owned by its goroutine; nothing in it has a lock.
type writer struct {
	l    *Ledger
	ctx  context.Context
	conn *sql.Conn

	statements     map[string]*statement // what is executed, by its text
	taskStatements map[taskStatement]*statement
	queries        map[string]*sql.Stmt // what is read
	columns        []column
	values         []any // of the task at hand

	tasks   map[TaskID]*entry // every unfinished one, and some that ended lately
	settled int               // how many of them are finished, roughly
	tails   map[string]*tail  // by job
	defs    map[string]int64  // definitions lately used: key by job and hash

	runs, numTasks, skips, audits, numDefs int64 // the highest keys given out

	feed  feed
	crowd int // how many the last commit answered

	undo   []func()      // takes back what a request or a commit that failed has changed in memory
	tokens []tokenChange // to be published with the commit
	dirty  []*entry      // of the request at hand: tasks to be written, in order of first mention
	marked map[TaskID]int
}

type tokenChange struct {
	hash string
	task TaskID
	drop bool
}

// failure is one of the store, as against an event that is refused: the whole
// transaction is in doubt.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{err}
}

func isFailure(err error) bool {
	var f *failure
	return errors.As(err, &f)
}

// run takes what waits, commits it at once, and answers; until Close.
func (w *writer) run() {
	defer close(w.l.done)
	defer func() {
		for _, s := range w.statements { // the connection goes with them
			_ = s.close()
		}
		for _, s := range w.queries {
			_ = s.Close()
		}
		_ = w.conn.Close()
	}()
	for {
		var first *request
		select {
		case first = <-w.l.requests:
		case <-w.l.closing:
			select {
			case first = <-w.l.requests: // accepted before
			default:
				return
			}
		}
		w.commit(w.waiting(first))
	}
}

// patience is how long a commit waits for those whom the last one answered. It is
// little beside what a commit takes, which they would have to wait for otherwise.
const patience = 100 * time.Microsecond

// waiting collects what has gathered while the last commit was written. Where that
// one answered many, they come back with their next requests in a moment: a commit
// for the first few of them would make all the others late.
func (w *writer) waiting(first *request) []*request {
	group := []*request{first}
	events := len(first.events)
	var since time.Time
	for len(group) < maxRequests && events < maxEvents {
		select {
		case r := <-w.l.requests:
			group = append(group, r)
			events += len(r.events)
			continue
		default:
		}
		switch {
		case len(group) >= w.crowd:
		case since.IsZero():
			since = time.Now()
			fallthrough
		case time.Since(since) < patience:
			runtime.Gosched()
			continue
		}
		break
	}
	w.crowd = len(group)
	return group
}

// commit writes a group in one transaction. If the store refuses it, each is
// tried by itself: one that cannot be written must not take its neighbours along.
func (w *writer) commit(group []*request) {
	err := w.transaction(group)
	if err != nil && len(group) > 1 {
		for _, r := range group {
			if err := w.transaction([]*request{r}); err != nil {
				r.err = err // else it has its own: it may have been refused
			}
		}
		err = nil
	} else if err != nil {
		group[0].err = err
	}
	var fault error
	for _, r := range group {
		if r.err != nil {
			r.tasks = nil
			if isFailure(r.err) {
				r.err = fmt.Errorf("cannot record: %w", explain(w.l.dir, r.err))
				fault = r.err
			}
		}
	}
	w.l.setFault(fault)
	for _, r := range group {
		close(r.done)
	}
}

// Fault is that nothing can be recorded.
type Fault struct {
	Since time.Time
	Err   error
}

// Fault says what kept the last change from being recorded, nil if nothing did.
func (l *Ledger) Fault() *Fault { return l.fault.Load() }

// setFault is the writer's: the time of a fault is that of its first failure.
func (l *Ledger) setFault(err error) {
	was := l.fault.Load()
	switch {
	case err == nil && was == nil:
	case err == nil:
		l.fault.Store(nil)
	case was == nil:
		l.fault.Store(&Fault{Since: time.Now(), Err: err})
	default:
		l.fault.Store(&Fault{Since: was.Since, Err: err})
	}
}

// transaction carries out a group. An error means that nothing of it is written;
// a request that is refused has its own error and leaves no trace.
func (w *writer) transaction(group []*request) (err error) {
	w.undo, w.tokens, w.feed.pending = w.undo[:0], w.tokens[:0], w.feed.pending[:0]
	if err := w.exec(beginWrite); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.takeBack(0)
			// It may have been rolled back by the failure itself.
			_, _ = w.conn.ExecContext(w.ctx, "ROLLBACK")
		}
	}()
	for _, r := range group {
		r.tasks, r.err = nil, nil
		if err := w.request(r); err != nil {
			if isFailure(err) {
				return err
			}
			r.err = err
		}
	}
	if err := w.writeNews(); err != nil {
		return err
	}
	if err := w.exec("COMMIT"); err != nil {
		return err
	}
	w.publish()
	w.publishNews()
	return nil
}

// request carries out one request, all or nothing.
func (w *writer) request(r *request) (err error) {
	if r.work != nil {
		return r.work(w)
	}
	undo, tokens, news := len(w.undo), len(w.tokens), len(w.feed.pending)
	w.dirty = w.dirty[:0]
	clear(w.marked)
	// An event checks first and writes then: only a later one can be refused when
	// something is written already.
	several := len(r.events) > 1 && slices.ContainsFunc(r.events[1:], refusable)
	if several {
		if err := w.exec("SAVEPOINT request"); err != nil {
			return err
		}
	}
	for _, e := range r.events {
		if err = w.record(e); err != nil {
			break
		}
	}
	if err == nil {
		if r.tasks, err = w.flush(); err != nil && !several && len(r.events) > 1 {
			err = failed(err) // what is written can be taken back with the transaction only
		}
	}
	if err != nil {
		if isFailure(err) {
			return err
		}
		w.takeBack(undo)
		w.tokens, w.feed.pending = w.tokens[:tokens], w.feed.pending[:news]
		if several {
			if err := w.exec("ROLLBACK TO SAVEPOINT request"); err != nil {
				return err
			}
		}
	}
	if several {
		if err := w.exec("RELEASE SAVEPOINT request"); err != nil {
			return err
		}
	}
	return err
}

// refusable reports whether an event may be refused.
func refusable(e Event) bool {
	switch e.(type) {
	case Watermark, Audited, TokenDropped:
		return false
	}
	return true
}

// takeBack undoes what was remembered since there were n steps to undo.
func (w *writer) takeBack(n int) {
	for i := len(w.undo) - 1; i >= n; i-- {
		w.undo[i]()
	}
	w.undo = w.undo[:n]
}

// flush writes the tasks that the request has changed, each once.
func (w *writer) flush() ([]Task, error) {
	tasks := make([]Task, 0, len(w.dirty))
	for _, e := range w.dirty {
		if e.State != Queued && e.stored != nil {
			e.Length = w.l.storedLength(e.num)
		}
		if err := w.writeTask(e); err != nil {
			return nil, err
		}
		e.stored = nil
		if !e.unfinished() {
			w.settled++
		}
		tasks = append(tasks, copyOf(e.Task))
	}
	return tasks, nil
}

// publish shows the tokens of a commit and forgets finished tasks in time.
func (w *writer) publish() {
	if len(w.tokens) > 0 {
		w.l.tokenLock.Lock()
		for _, c := range w.tokens {
			if c.drop {
				delete(w.l.tokens, c.hash)
			} else {
				w.l.tokens[c.hash] = c.task
			}
		}
		w.l.tokenLock.Unlock()
	}
	if w.settled <= maxSettled {
		return
	}
	for id, e := range w.tasks {
		if !e.unfinished() {
			delete(w.tasks, id)
		}
	}
	w.settled = 0
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

// entry finds a task, remembered or stored.
func (w *writer) entry(id TaskID) (*entry, error) {
	if e := w.tasks[id]; e != nil {
		return e, nil
	}
	var found *entry
	err := w.each(`SELECT `+taskColumns+` FROM tasks t WHERE t.run = (SELECT num FROM runs WHERE id = ?) AND t.machine = ?`,
		func(rows *sql.Rows) (err error) {
			found, _, err = scanTask(rows)
			return err
		}, id.Run, id.Machine)
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, fmt.Errorf("%w: %s on %s", ErrNoTask, id.Run, id.Machine)
	}
	found.Run = id.Run
	w.tasks[id] = found
	w.settled++
	return found, nil
}

// put remembers a task as it is now and marks it to be written.
func (w *writer) put(e *entry) {
	id := e.TaskID
	before := w.tasks[id]
	i, again := w.marked[id]
	if e.stored = before; again {
		e.stored = before.stored
	}
	w.undo = append(w.undo, func() {
		if before == nil {
			delete(w.tasks, id)
		} else {
			w.tasks[id] = before
		}
	})
	w.tasks[id] = e
	if again {
		w.dirty[i] = e
		return
	}
	w.marked[id] = len(w.dirty)
	w.dirty = append(w.dirty, e)
}

// copyOf is a task that the caller may have; entries point into the same memory,
// which nobody writes to.
func copyOf(t Task) Task {
	t.Features, t.Notes = slices.Clone(t.Features), slices.Clone(t.Notes)
	return t
}
