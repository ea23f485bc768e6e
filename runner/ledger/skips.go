package ledger

import (
	"database/sql"
	"fmt"
	"slices"
	"time"
)

// maxRecent bounds the due times that a tail remembers.
const maxRecent = 64

// tail is what the writer remembers of the end of a job's records, so that the
// next due time, which nearly always follows them, needs no look into the
// database.
//
// Records may come slightly out of order (a run that is slow to begin while the
// next due times are skipped already). A range of skips says only how many due
// times it has, so the last due times that have a record are remembered one by
// one: what lies between two of them is known to be free, whatever range spans it.
type tail struct {
	lastRun time.Time // the greatest due time with a run, manual ones aside
	skip    Skip      // the range with the greatest To; Count 0: none
	num     int64     // its key

	// recent has every due time with a record from recent[0] on, in order.
	recent []time.Time
}

// oncePerDue says whether a run is the record of its due time.
func oncePerDue(trigger string) bool {
	return trigger == TriggerSchedule || trigger == TriggerCatchUp
}

func (w *writer) tail(job string) (*tail, error) {
	if t := w.tails[job]; t != nil {
		return t, nil
	}
	t := &tail{}
	var due int64
	found, err := w.first(`SELECT due FROM runs WHERE job = ? AND trig IN ('schedule', 'catch_up') ORDER BY due DESC LIMIT 1`, []any{job}, &due)
	if err != nil {
		return nil, err
	}
	if found {
		t.lastRun = instant(due)
	}
	err = w.each(`SELECT num, `+skipColumns+` FROM skips WHERE job = ? ORDER BY last_due DESC, num DESC LIMIT 1`,
		func(rows *sql.Rows) (err error) {
			t.skip, err = scanSkip(rows, &t.num)
			return err
		}, job)
	if err != nil {
		return nil, err
	}
	last := t.lastRun
	if t.skip.To.After(last) {
		last = t.skip.To
	}
	if !last.IsZero() {
		t.recent = []time.Time{last}
	}
	w.tails[job] = t
	return t, nil
}

// keep puts a changed tail in the place of the one before.
func (w *writer) keep(job string, t tail) {
	before := w.tails[job]
	w.undo = append(w.undo, func() { w.tails[job] = before })
	w.tails[job] = &t
}

// dueFree is ErrDueTaken if a due time from..to of the job has its record.
func (w *writer) dueFree(t *tail, job string, from, to time.Time) error {
	n := len(t.recent)
	if n == 0 || from.After(t.recent[n-1]) {
		return nil
	}
	taken := fmt.Errorf("%w: %s at %s", ErrDueTaken, job, from.Format(time.RFC3339))
	if from.Equal(to) && !from.Before(t.recent[0]) {
		if _, found := slices.BinarySearchFunc(t.recent, from, time.Time.Compare); found {
			return taken
		}
		return nil
	}
	var one int
	found, err := w.first(`SELECT 1 FROM runs WHERE job = ? AND due >= ? AND due <= ? AND trig IN ('schedule', 'catch_up') LIMIT 1`,
		[]any{job, nanos(from), nanos(to)}, &one)
	if err == nil && !found {
		found, err = w.first(`SELECT 1 FROM skips WHERE job = ? AND last_due >= ? AND first_due <= ? LIMIT 1`,
			[]any{job, nanos(from), nanos(to)}, &one)
	}
	if err != nil {
		return err
	}
	if found {
		return taken
	}
	return nil
}

// remember adds due times that have their record now. What lies between from and
// to is not known one by one.
func (t *tail) remember(from, to time.Time) {
	i, _ := slices.BinarySearchFunc(t.recent, to, time.Time.Compare)
	switch {
	case i == 0 && len(t.recent) > 0: // before all that is known: it stays so
	case !from.Equal(to):
		t.recent = append([]time.Time{to}, t.recent[i:]...)
	default:
		t.recent = slices.Insert(slices.Clone(t.recent), i, to)
		t.recent = t.recent[max(0, len(t.recent)-maxRecent):]
	}
}

// dueTaken remembers a run's due time; a range that spans it is cut.
func (w *writer) dueTaken(t *tail, job string, due time.Time) error {
	now := *t
	if err := w.cut(&now, job, due); err != nil {
		return err
	}
	if due.After(now.lastRun) {
		now.lastRun = due
	}
	now.remember(due, due)
	w.keep(job, now)
	return nil
}

// cut splits a range that spans a due time which is none of its own.
func (w *writer) cut(t *tail, job string, due time.Time) error {
	i, _ := slices.BinarySearchFunc(t.recent, due, time.Time.Compare)
	if i == 0 || i == len(t.recent) || t.skip.Count == 0 || !due.Before(t.skip.To) {
		return nil // not among those that are known, or the last; or no range reaches so far
	}
	var num int64
	var whole Skip
	err := w.each(`SELECT num, `+skipColumns+` FROM skips WHERE job = ? AND last_due > ? AND first_due < ?`,
		func(rows *sql.Rows) (err error) {
			whole, err = scanSkip(rows, &num)
			return err
		}, job, nanos(due), nanos(due))
	if err != nil || whole.Count == 0 {
		return err
	}
	upper := whole
	upper.From, upper.Count = t.recent[i], 0
	for _, d := range t.recent[i:] { // no other record lies within a range
		if !d.After(whole.To) {
			upper.Count++
		}
	}
	if err := w.exec(`UPDATE skips SET last_due = ?, amount = ? WHERE num = ?`, nanos(t.recent[i-1]), whole.Count-upper.Count, num); err != nil {
		return err
	}
	if num == t.num {
		return w.addRange(t, upper)
	}
	_, err = w.insertSkip(upper)
	return err
}

// addRange writes a new range and makes it the tail's.
func (w *writer) addRange(t *tail, s Skip) error {
	num, err := w.insertSkip(s)
	t.skip, t.num = s, num
	return err
}

func (w *writer) insertSkip(s Skip) (int64, error) {
	w.skips++
	return w.skips, w.exec(`INSERT INTO skips (num, job, grp, first_due, last_due, amount, reason, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		w.skips, s.Job, s.Group, nanos(s.From), nanos(s.To), s.Count, s.Reason, s.Detail)
}

// skipped records due times without a run: as a part of the last range where it
// follows that for the same reason with nothing between, else as a new one.
func (w *writer) skipped(s Skip) error {
	s.From, s.To = utc(s.From), utc(s.To)
	if s.To.IsZero() {
		s.To = s.From
	}
	s.Count = max(1, s.Count)
	if s.Job == "" || s.To.Before(s.From) {
		return fmt.Errorf("cannot record skipped due times of %q from %s to %s: %w", s.Job, s.From, s.To, ErrUnlawful)
	}
	t, err := w.tail(s.Job)
	if err != nil {
		return err
	}
	if err := w.dueFree(t, s.Job, s.From, s.To); err != nil {
		return err
	}
	now := *t
	alike := t.skip.Count > 0 && t.skip.Group == s.Group && t.skip.Reason == s.Reason && t.skip.Detail == s.Detail
	switch {
	case alike && s.From.After(t.skip.To) && !t.lastRun.After(t.skip.To):
		now.skip.To, now.skip.Count = s.To, t.skip.Count+s.Count
		err = w.exec(`UPDATE skips SET last_due = ?, amount = ? WHERE num = ?`, nanos(s.To), now.skip.Count, t.num)
	case alike && s.From.Equal(s.To) && s.From.After(t.skip.From) && s.From.Before(t.skip.To): // late, and it belongs into it
		now.skip.Count++
		err = w.exec(`UPDATE skips SET amount = ? WHERE num = ?`, now.skip.Count, t.num)
	default:
		if err = w.cut(&now, s.Job, s.From); err != nil {
			break
		}
		if now.skip.Count > 0 && s.To.Before(now.skip.To) { // late
			_, err = w.insertSkip(s)
		} else {
			err = w.addRange(&now, s)
		}
	}
	if err != nil {
		return err
	}
	now.remember(s.From, s.To)
	w.keep(s.Job, now)
	w.tellSkipped(s)
	return nil
}

const skipColumns = `job, grp, first_due, last_due, amount, reason, detail`

func scanSkip(row scanner, num *int64) (Skip, error) {
	var s Skip
	var from, to int64
	if err := row.Scan(num, &s.Job, &s.Group, &from, &to, &s.Count, &s.Reason, &s.Detail); err != nil {
		return Skip{}, err
	}
	s.From, s.To = instant(from), instant(to)
	return s, nil
}
