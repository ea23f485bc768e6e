package ledger

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"saltpeter/wsx/wire"
)

// entry is a task as the book keeps it. It is never written to once it is in the
// writer's hands: a change makes a new one.
type entry struct {
	Task
	num   int64 // its key, and the name of its files
	run   int64 // key of its run
	due   time.Time
	nonce string
	// stored is the entry that the database has, nil for a new one, while this one
	// waits to be written.
	stored *entry
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func instant(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// document is v as a JSON column; NULL where there is none.
func document(v any, there bool) (any, error) {
	if !there {
		return nil, nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot write a task down: %w", err)
	}
	return string(data), nil
}

const (
	taskColumns = `t.num, t.run, t.machine, t.job, t.due, t.state, t.batch, t.transport, t.cookie, t.queued, t.launched, t.started, t.ended,
		t.exit_code, t.reason, t.leftover, t.amended, t.length, t.version, t.nonce, t.features, t.identity, t.end_detail, t.kill, t.notes, t.unfinished`
	runColumns = `r.num, r.id, r.job, r.grp, r.due, r.fired, r.trig, r.asked_by, r.retry_of, r.reason, r.detail`
)

// rare says which ends have an index: those that people look for.
func rare(s State) bool { return s.Done() && s != Succeeded }

// scanner is a row to read.
type scanner interface{ Scan(dest ...any) error }

// scanTask reads taskColumns, and what follows them into more.
func scanTask(row scanner, more ...any) (*entry, bool, error) {
	var (
		e                                                  entry
		due, queued, launched, started, ended, amended, un int64
		code                                               sql.NullInt64
		features, identity, end, kill, notes               sql.RawBytes
	)
	dest := append([]any{&e.num, &e.run, &e.Machine, &e.Job, &due, (*string)(&e.State), &e.Batch, &e.Transport, &e.Cookie,
		&queued, &launched, &started, &ended, &code, &e.Reason, &e.Leftover, &amended, &e.Length, &e.Version, &e.nonce,
		&features, &identity, &end, &kill, &notes, &un}, more...)
	if err := row.Scan(dest...); err != nil {
		return nil, false, err
	}
	e.due, e.Queued, e.Launched, e.Started, e.Ended = instant(due), instant(queued), instant(launched), instant(started), instant(ended)
	e.Amended = amended != 0
	if code.Valid {
		e.ExitCode = wire.Ptr(int(code.Int64))
	}
	for _, d := range []struct {
		text []byte
		into any
	}{{features, &e.Features}, {identity, &e.Identity}, {end, &e.End}, {kill, &e.Kill}, {notes, &e.Notes}} {
		if len(d.text) == 0 {
			continue
		}
		if err := json.Unmarshal(d.text, d.into); err != nil {
			return nil, false, fmt.Errorf("cannot read the record of a task on %s: %w", e.Machine, err)
		}
	}
	return &e, un != 0, nil
}

// scanRun reads runColumns, and what follows them into more.
func scanRun(row scanner, more ...any) (r Run, num int64, err error) {
	var due, fired int64
	dest := append([]any{&num, &r.ID, &r.Job, &r.Group, &due, &fired, &r.Trigger, &r.By, &r.RetryOf, &r.Reason, &r.Detail}, more...)
	if err := row.Scan(dest...); err != nil {
		return Run{}, 0, err
	}
	r.Due, r.Fired = instant(due), instant(fired)
	return r, num, nil
}
