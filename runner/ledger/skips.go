package ledger

import (
	"database/sql"
	"fmt"
	"slices"
	"time"
)

// maxRecent bounds the due times that a tail remembers of its last range.
const maxRecent = 64

// tail is what the writer remembers of the end of a job's records, so that the
// next due time, which nearly always follows them, needs no look into the
// database.
//
// Records may come slightly out of order (a run that is slow to begin while the
// next due time is skipped already). A range says only how many due times it
// has, so the last of them are remembered: one that lies between two of them is
// known to be free.
type tail struct {
	lastRun time.Time // the greatest due time with a run, manual ones aside
	skip    Skip      // the range with the greatest To; Count 0: none
	num     int64     // its key
	recent  []time.Time
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
	if t.skip.Count > 0 {
		t.recent = []time.Time{t.skip.To}
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
	if from.After(t.lastRun) && (t.skip.Count == 0 || from.After(t.skip.To)) {
		return nil
	}
	taken := fmt.Errorf("%w: %s at %s", ErrDueTaken, job, from.Format(time.RFC3339))
	var one int
	found, err := w.first(`SELECT 1 FROM runs WHERE job = ? AND due >= ? AND due <= ? AND trig IN ('schedule', 'catch_up') LIMIT 1`,
		[]any{job, nanos(from), nanos(to)}, &one)
	if err != nil {
		return err
	}
	if found {
		return taken
	}
	between := from.Equal(to) && t.gap(from) > 0
	err = w.each(`SELECT num FROM skips WHERE job = ? AND last_due >= ? AND first_due <= ?`, func(rows *sql.Rows) error {
		var num int64
		if err := rows.Scan(&num); err != nil {
			return err
		}
		found = found || num != t.num || !between
		return nil
	}, job, nanos(from), nanos(to))
	if err != nil {
		return err
	}
	if found {
		return taken
	}
	return nil
}

// gap is the index in recent before which a due time is missing, 0 if it is not
// known to be missing.
func (t *tail) gap(due time.Time) int {
	i, found := slices.BinarySearchFunc(t.recent, due, time.Time.Compare)
	if found || i == len(t.recent) {
		return 0
	}
	return i
}

// dueTaken remembers a run's due time; the range that it falls into is cut.
func (w *writer) dueTaken(t *tail, job string, due time.Time) error {
	now := *t
	if err := w.cut(&now, due); err != nil {
		return err
	}
	if due.After(now.lastRun) {
		now.lastRun = due
	}
	w.keep(job, now)
	return nil
}

// cut splits the last range at a due time that is none of its own.
func (w *writer) cut(t *tail, due time.Time) error {
	i := t.gap(due)
	if t.skip.Count == 0 || i == 0 {
		return nil
	}
	upper := t.skip
	upper.From, upper.Count = t.recent[i], int64(len(t.recent)-i)
	if err := w.exec(`UPDATE skips SET last_due = ?, amount = ? WHERE num = ?`,
		nanos(t.recent[i-1]), t.skip.Count-upper.Count, t.num); err != nil {
		return err
	}
	t.recent = slices.Clone(t.recent[i:])
	return w.addRange(t, upper)
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
		now.recent = append(now.recent[max(0, len(now.recent)-maxRecent):len(now.recent):len(now.recent)], s.To)
		if s.Count > 1 { // what lies inside is not known
			now.recent = []time.Time{s.To}
		}
		err = w.exec(`UPDATE skips SET last_due = ?, amount = ? WHERE num = ?`, nanos(s.To), now.skip.Count, t.num)
	case alike && t.gap(s.From) > 0:
		now.skip.Count++
		now.recent = slices.Insert(slices.Clone(now.recent), t.gap(s.From), s.From)
		err = w.exec(`UPDATE skips SET amount = ? WHERE num = ?`, now.skip.Count, t.num)
	case t.skip.Count > 0 && !s.To.After(t.skip.To): // late
		if err = w.cut(&now, s.From); err == nil {
			_, err = w.insertSkip(s)
		}
	default:
		now.recent = []time.Time{s.To}
		err = w.addRange(&now, s)
	}
	if err != nil {
		return err
	}
	w.keep(s.Job, now)
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
