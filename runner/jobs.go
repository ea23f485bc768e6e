package runner

import (
	"context"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

// jobStatuses is every job as the scheduler sees it, in the order of the files.
func (f *firing) jobStatuses(ctx context.Context) ([]JobStatus, error) {
	set := f.set.Load()
	last, err := f.ledger.LastRuns(ctx)
	if err != nil {
		return nil, err
	}
	nexts := f.table.nexts()
	statuses := make([]JobStatus, 0, len(set.Order))
	for _, name := range set.Order {
		job := set.Jobs[name]
		s := JobStatus{Name: name, Group: job.Group, Next: nexts[name], Blocked: f.blocked(set, job)}
		if run, ran := last[name]; ran {
			s.Last = &run
		}
		statuses = append(statuses, s)
	}
	return statuses, nil
}

// blocked says what keeps a job from firing now, or "".
func (f *firing) blocked(set *config.Set, job *config.Job) string {
	switch {
	case !job.Enabled:
		return ledger.ReasonDisabled
	case set.Resting(job):
		return ledger.ReasonMaintenance
	case job.OnOverlap != "allow" && len(f.tasks.live(job.Name)) > 0:
		return ledger.ReasonOverlap
	}
	return ""
}

// setConfig puts a new Set in force. Jobs that are new get their watermark, so
// that an absence of the server is counted from now on.
func (f *firing) setConfig(ctx context.Context, set *config.Set) {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	f.inForce(func(r *rests) { r.files = set })
	set = f.set.Load()
	if !f.running {
		return // start takes what is in force then
	}
	now := wallNow()
	var marks []ledger.Event
	for _, job := range f.table.load(set, now) {
		if !f.absences.pending(job.Name) { // its watermark must not pass what has no record
			marks = append(marks, watermark(job.Name, now))
		}
	}
	if len(marks) > 0 {
		unlock := f.deciding.lock("")
		f.write(ctx, "", marks...)
		unlock()
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// keepWatermark tells the book now and then that a server is there, and how far
// every due time has been dealt with. What cannot be written is said anew next
// time.
func (f *firing) keepWatermark(ctx context.Context) {
	const each = 10 * time.Second
	tick := time.NewTicker(each)
	defer tick.Stop()
	for {
		events := []ledger.Event{watermark("", wallNow())}
		if dealt := f.dealt.Load(); dealt != nil {
			events = append(events, watermark(dealtMark, *dealt))
		}
		if _, err := f.put(context.WithoutCancel(ctx), events...); err != nil {
			f.log.Warn("cannot record that the server is up", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
