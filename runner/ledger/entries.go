package ledger

import (
	"database/sql"
	"fmt"
	"slices"
)

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
