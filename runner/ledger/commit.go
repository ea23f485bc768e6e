package ledger

import (
	"fmt"
	"slices"
)

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
