package ledger

import (
	"slices"
	"strings"
	"time"

	"saltpeter/wsx/wire"
)

// column is one of those of a task that change. Only what differs from what the
// database has is handed to it: most of a task's columns never change, and each
// one costs about as much as finding its row.
type column struct {
	name  string
	none  string // blank's value, as SQL writes it
	same  func(a, b *entry) bool
	value func(e *entry) (any, error)
}

// blank is a task of which every column is what its none says.
var blank = &entry{Task: Task{State: Succeeded}}

// newColumns lists the columns. It is no variable: wrappers begin without it.
func newColumns() []column {
	return []column{
		numberOf("batch", func(e *entry) int64 { return int64(e.Batch) }),
		textOf("transport", func(e *entry) string { return e.Transport }),
		textOf("cookie", func(e *entry) string { return e.Cookie }),
		instantOf("queued", func(e *entry) time.Time { return e.Queued }),
		instantOf("launched", func(e *entry) time.Time { return e.Launched }),
		instantOf("started", func(e *entry) time.Time { return e.Started }),
		instantOf("ended", func(e *entry) time.Time { return e.Ended }),
		{"exit_code", "NULL", func(a, b *entry) bool {
			return a.ExitCode == b.ExitCode || a.ExitCode != nil && b.ExitCode != nil && *a.ExitCode == *b.ExitCode
		}, func(e *entry) (any, error) {
			if e.ExitCode == nil {
				return nil, nil
			}
			return int64(*e.ExitCode), nil
		}},
		textOf("reason", func(e *entry) string { return e.Reason }),
		numberOf("leftover", func(e *entry) int64 { return int64(e.Leftover) }),
		numberOf("amended", func(e *entry) int64 { return flag(e.Amended) }),
		numberOf("length", func(e *entry) int64 { return e.Length }),
		textOf("version", func(e *entry) string { return e.Version }),
		textOf("nonce", func(e *entry) string { return e.nonce }),
		{"features", "NULL", func(a, b *entry) bool {
			return (a.Features == nil) == (b.Features == nil) && slices.Equal(a.Features, b.Features)
		}, func(e *entry) (any, error) { return document(e.Features, e.Features != nil) }},
		// What an entry points to is never written to, only replaced.
		documentOf("identity", func(e *entry) *wire.Identity { return e.Identity }),
		documentOf("end_detail", func(e *entry) *wire.End { return e.End }),
		documentOf("kill", func(e *entry) *Kill { return e.Kill }),
		{"notes", "NULL", func(a, b *entry) bool { return slices.Equal(a.Notes, b.Notes) },
			func(e *entry) (any, error) { return document(e.Notes, len(e.Notes) > 0) }},
		{"state", "'" + string(Succeeded) + "'", func(a, b *entry) bool { return a.State == b.State },
			func(e *entry) (any, error) { return string(e.State), nil }},
		numberOf("unfinished", func(e *entry) int64 { return flag(e.unfinished()) }),
		numberOf("rare", func(e *entry) int64 { return flag(rare(e.State)) }),
	}
}

func numberOf(name string, of func(*entry) int64) column {
	return column{name, "0", func(a, b *entry) bool { return of(a) == of(b) }, func(e *entry) (any, error) { return of(e), nil }}
}

func textOf(name string, of func(*entry) string) column {
	return column{name, "''", func(a, b *entry) bool { return of(a) == of(b) }, func(e *entry) (any, error) { return of(e), nil }}
}

func instantOf(name string, of func(*entry) time.Time) column {
	return numberOf(name, func(e *entry) int64 { return nanos(of(e)) })
}

func documentOf[T any](name string, of func(*entry) *T) column {
	return column{name, "NULL", func(a, b *entry) bool { return of(a) == of(b) },
		func(e *entry) (any, error) { return document(of(e), of(e) != nil) }}
}

// columnSet is a set of columns, by their place in the list.
type columnSet uint32

// changed are the columns in which two entries differ, and their values in the
// second.
func changed(columns []column, was, now *entry, values []any) (columnSet, []any, error) {
	var set columnSet
	for i, c := range columns {
		if c.same(was, now) {
			continue
		}
		v, err := c.value(now)
		if err != nil {
			return 0, nil, err
		}
		set |= 1 << i
		values = append(values, v)
	}
	return set, values, nil
}

// insertTask is the statement for a new task: the columns of the set are its first
// arguments, the others are blank's.
func insertTask(columns []column, set columnSet) string {
	var names, values []string
	for i, c := range columns {
		names = append(names, c.name)
		if set&(1<<i) != 0 {
			values = append(values, "?")
		} else {
			values = append(values, c.none)
		}
	}
	return `INSERT INTO tasks (` + strings.Join(names, ", ") + `, run, machine, job, due, num) VALUES (` + strings.Join(values, ", ") + `, ?, ?, ?, ?, ?)`
}

// updateTask is the statement for a change of these columns.
func updateTask(columns []column, set columnSet) string {
	var names []string
	for i, c := range columns {
		if set&(1<<i) != 0 {
			names = append(names, c.name+" = ?")
		}
	}
	return `UPDATE tasks SET ` + strings.Join(names, ", ") + ` WHERE num = ?`
}

// writeTask writes down what of a task differs from what the database has.
func (w *writer) writeTask(e *entry) error {
	query, was := updateTask, e.stored
	if was == nil {
		query, was = insertTask, blank
	}
	set, values, err := changed(w.columns, was, e, w.values[:0])
	if err != nil {
		return err
	}
	w.values = values
	if set == 0 && e.stored != nil {
		return nil
	}
	key := taskStatement{e.stored == nil, set}
	s := w.taskStatements[key]
	if s == nil {
		if s, err = w.statement(query(w.columns, set)); err != nil {
			return err
		}
		w.taskStatements[key] = s
	}
	if key.fresh {
		values = append(values, e.run, e.Machine, e.Job, nanos(e.due))
	}
	_, err = s.run(w.ctx, append(values, e.num))
	return failed(err)
}

// taskStatement says which statement writes a task.
type taskStatement struct {
	fresh bool
	set   columnSet
}
