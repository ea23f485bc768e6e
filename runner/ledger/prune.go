package ledger

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// pruneAtOnce bounds what one commit of Prune takes away, since events wait
// behind it.
const pruneAtOnce = 200

// pruned is a run on its way out.
type pruned struct {
	num   int64
	id    string
	tasks []int64 // keys
}

// Prune removes ended runs whose Due is before the given time, with their output,
// and skips and audit entries of before that time. Runs of which a task is not
// finished, or whose output is open for writing, stay.
//
// Files go first: that makes room where there is none, and a crash in between
// leaves runs that the next Prune finds again, never files that nobody finds.
func (l *Ledger) Prune(ctx context.Context, before time.Time) (runs int, err error) {
	after := spot{due: -1 << 63}
	for {
		list, next, err := l.prunable(ctx, nanos(before), after)
		if err != nil {
			return runs, err
		}
		if len(list) > 0 {
			n := 0
			work := func(w *writer) (err error) {
				n, err = w.prune(list)
				return err
			}
			if err := l.ask(ctx, &request{work: work}); err != nil {
				return runs, err
			}
			runs += n
		}
		if next == nil {
			break
		}
		after = *next
	}
	return runs, l.ask(ctx, &request{work: func(w *writer) error {
		if err := w.exec(`DELETE FROM skips WHERE last_due < ?`, nanos(before)); err != nil {
			return err
		}
		clear(w.tails) // a range that is gone must not be extended
		if err := w.exec(`DELETE FROM audit WHERE at < ?`, nanos(before)); err != nil {
			return err
		}
		clear(w.defs)
		return w.exec(`DELETE FROM definitions WHERE NOT EXISTS
			(SELECT 1 FROM runs r WHERE r.job = definitions.job AND r.definition = definitions.num)`)
	}})
}

// prunable lists the next runs that are old enough and finished, and where to go
// on; nil at the end.
func (l *Ledger) prunable(ctx context.Context, before int64, after spot) ([]pruned, *spot, error) {
	var list []pruned
	var last *spot
	seen := 0
	err := l.query(ctx, func(rows *sql.Rows) error {
		var p pruned
		var at spot
		var open int
		if err := rows.Scan(&at.due, &at.num, &p.id, &open); err != nil {
			return err
		}
		p.num = at.num
		seen, last = seen+1, &at
		if open == 0 {
			list = append(list, p)
		}
		return nil
	}, `SELECT r.due, r.num, r.id, (SELECT count(*) FROM tasks t WHERE t.run = r.num AND t.unfinished = 1) FROM runs r
		WHERE r.due < ? AND (r.due, r.num) > (?, ?) ORDER BY r.due, r.num LIMIT ?`, before, after.due, after.num, pruneAtOnce)
	if seen < pruneAtOnce {
		last = nil
	}
	return list, last, err
}

// prune removes runs that are still finished.
func (w *writer) prune(list []pruned) (int, error) {
	n := 0
	gone := map[TaskID]bool{}
	for _, p := range list {
		went, err := w.pruneRun(p, gone)
		if err != nil {
			return n, err
		}
		if went {
			n++
		}
	}
	return n, w.dropTokens(gone)
}

func (w *writer) pruneRun(p pruned, gone map[TaskID]bool) (bool, error) {
	free := true
	var machines []string
	err := w.each(`SELECT num, machine, unfinished FROM tasks WHERE run = ?`, func(rows *sql.Rows) error {
		var num int64
		var machine string
		var open int
		err := rows.Scan(&num, &machine, &open)
		free = free && open == 0
		p.tasks, machines = append(p.tasks, num), append(machines, machine)
		return err
	}, p.num)
	if err != nil {
		return false, err
	}
	w.l.outputLock.Lock()
	for _, num := range p.tasks {
		free = free && w.l.outputs[num] == nil
	}
	w.l.outputLock.Unlock()
	if !free {
		return false, nil
	}
	for i, num := range p.tasks {
		if err := removeOutput(w.l.dir, num); err != nil {
			return false, failed(err)
		}
		id := TaskID{p.id, machines[i]}
		gone[id] = true
		delete(w.tasks, id) // only a memory of what the database has: nothing to undo
	}
	if err := w.exec(`DELETE FROM tasks WHERE run = ?`, p.num); err != nil {
		return false, err
	}
	return true, w.exec(`DELETE FROM runs WHERE num = ?`, p.num)
}

// dropTokens forgets the tokens of tasks that go. Only the writer changes the
// tokens in memory, so what it reads of them cannot be outdated.
func (w *writer) dropTokens(gone map[TaskID]bool) error {
	var hashes []string
	w.l.tokenLock.RLock()
	for hash, id := range w.l.tokens {
		if gone[id] {
			hashes = append(hashes, hash)
		}
	}
	w.l.tokenLock.RUnlock()
	for _, hash := range hashes {
		w.tokens = append(w.tokens, tokenChange{hash: hash, drop: true})
		if err := w.exec(`DELETE FROM tokens WHERE hash = ?`, hash); err != nil {
			return err
		}
	}
	return nil
}

// removeOutput removes a task's files, and directories that are empty then.
func removeOutput(dir string, num int64) error {
	base := outputBase(dir, num)
	for _, suffix := range []string{".out", ".idx"} {
		if err := os.Remove(base + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if os.Remove(filepath.Dir(base)) == nil {
		_ = os.Remove(filepath.Dir(filepath.Dir(base))) // fails while another is in there
	}
	return nil
}
