package runner

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"saltpeter/runner/ledger"
)

// unrecorded is what could not be written down, since the disk was full: in order
// for each job, so that a job's watermark never passes what has no record yet.
// Neighbours that are alike become one range, as in the ledger, so that a disk
// that is full for a day does not fill the memory as well.
type unrecorded struct {
	mu   sync.Mutex
	jobs map[string][]ledger.Event // "" for what belongs to no job
}

// mostUnrecorded bounds what is kept for one job: ranges are few, and of the audit
// log the oldest must go at last.
const mostUnrecorded = 10_000

// put adds events to the end of a job's.
func (u *unrecorded) put(job string, events []ledger.Event, log *slog.Logger) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.jobs == nil {
		u.jobs = map[string][]ledger.Event{}
	}
	list := u.jobs[job]
	for _, e := range events {
		list = merged(list, e)
	}
	if over := len(list) - mostUnrecorded; over > 0 {
		log.Error("too much could not be recorded: the oldest of it is given up", "job", job, "events", over)
		list = slices.Clone(list[over:])
	}
	u.jobs[job] = list
}

// merged is the list with one more event, as a part of the last of its kind where
// that says the same.
func merged(list []ledger.Event, e ledger.Event) []ledger.Event {
	for i := len(list) - 1; i >= max(0, len(list)-2); i-- {
		switch e := e.(type) {
		case ledger.Watermark:
			if was, ok := list[i].(ledger.Watermark); ok && was.Job == e.Job && i == len(list)-1 {
				list[i] = e
				return list
			}
		case ledger.SkippedDue:
			was, ok := list[i].(ledger.SkippedDue)
			if !ok {
				continue
			}
			a, b := was.Skip, e.Skip
			if a.Job != b.Job || a.Group != b.Group || a.Reason != b.Reason || a.Detail != b.Detail || !b.From.After(a.To) {
				return append(list, e)
			}
			a.To, a.Count = b.To, a.Count+b.Count
			list[i] = ledger.SkippedDue{Skip: a}
			return list
		}
	}
	return append(list, e)
}

// take hands out what is kept for a job, which is then no longer kept.
func (u *unrecorded) take(job string) []ledger.Event {
	u.mu.Lock()
	defer u.mu.Unlock()
	events := u.jobs[job]
	delete(u.jobs, job)
	return events
}

// names are the jobs that something is kept for.
func (u *unrecorded) names() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	names := make([]string, 0, len(u.jobs))
	for name := range u.jobs {
		names = append(names, name)
	}
	return names
}

func (u *unrecorded) empty() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.jobs) == 0
}

// apply records events of a job, all or none, behind what is still unrecorded of
// it. The caller holds the job's decision lock.
func (f *firing) apply(ctx context.Context, job string, events ...ledger.Event) error {
	if before := f.unrecorded.take(job); len(before) > 0 {
		if rest, err := f.applyEach(ctx, before); err != nil {
			f.unrecorded.put(job, rest, f.log)
			return err
		}
	}
	if len(events) == 0 {
		return nil
	}
	_, err := f.put(ctx, events...)
	return err
}

// applyEach records events one by one; those whose due time has its record are
// left out. It returns what is left from the first that failed on.
func (f *firing) applyEach(ctx context.Context, events []ledger.Event) ([]ledger.Event, error) {
	for i, e := range events {
		_, err := f.put(ctx, e)
		switch {
		case errors.Is(err, ledger.ErrExists):
			f.log.Warn("a due time has its record already", "err", err)
		case err != nil:
			return events[i:], err
		}
	}
	return nil, nil
}

// write records events of a job, now or, where the ledger cannot take them, as
// soon as it can: a due time must not go without its record. The caller holds the
// job's decision lock.
func (f *firing) write(ctx context.Context, job string, events ...ledger.Event) {
	err := f.apply(ctx, job, events...)
	if errors.Is(err, ledger.ErrExists) {
		events, err = f.applyEach(ctx, events)
	}
	if err != nil {
		f.log.Error("cannot record a due time; it is tried again", "job", job, "err", err)
		f.unrecorded.put(job, events, f.log)
	}
}

// record tries again what could not be written down.
func (f *firing) record(ctx context.Context) {
	for _, job := range f.unrecorded.names() {
		unlock := f.deciding.lock(job)
		err := f.apply(ctx, job)
		unlock()
		if err != nil {
			return // the next turn
		}
	}
}
