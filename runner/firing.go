package runner

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

// firing is the half of the runner that decides: what is due, whether it may
// start, where it goes, and in which batches. What happens to a task after it
// was begun belongs to tasks.
type firing struct {
	ledger *ledger.Ledger
	put    func(context.Context, ...ledger.Event) ([]ledger.Task, error) // Apply of ledger
	tasks  *tasks
	log    *slog.Logger
	set    atomic.Pointer[config.Set] // in force: what the files say, and what people hold back beside it
	rests  rests
	table  *timetable
	runs   *progress
	wake   chan struct{} // the timetable changed

	localSpool string // where wrappers on this machine spool; "" = where they choose

	// deciding serializes the decisions about one job, so that two firings
	// cannot both find it idle.
	deciding keyed

	unrecorded unrecorded

	// configuring orders start and the reloads: nothing is scheduled before start.
	configuring sync.Mutex
	running     bool

	absences absences

	// dealt is the instant up to which every due time has its record.
	dealt atomic.Pointer[time.Time]
}

// newFiring makes the deciding half; the tasks half must call taskEnded and
// onKill of it.
func newFiring(l *ledger.Ledger, ts *tasks, set *config.Set, log *slog.Logger) *firing {
	f := &firing{ledger: l, put: l.Apply, tasks: ts, log: log, table: newTimetable(), wake: make(chan struct{}, 1)}
	f.runs = newProgress(ts, func() bool { return f.set.Load().Maintenance.Global })
	f.inForce(func(r *rests) { r.files, r.holds = set, r.read(l) })
	return f
}

// start takes up what an earlier server left: its unfinished runs, and the due
// times that nobody was there for. The tasks half has adopted its tasks before.
func (f *firing) start(ctx context.Context, unfinished []ledger.Task) error {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	if f.rests.unread != nil {
		return f.rests.unread
	}
	now := wallNow()
	watermarks, err := f.ledger.Watermarks(ctx)
	if err != nil {
		return err
	}
	f.resumeRuns(ctx, unfinished, away(watermarks, now), now)
	set := f.set.Load()
	var marks []ledger.Event
	for _, job := range f.table.load(set, now) {
		if _, known := watermarks[job.Name]; !known {
			marks = append(marks, watermark(job.Name, now))
		}
	}
	f.absences.find(set, watermarks, now)
	f.running = true
	f.write(ctx, "", append(marks, watermark("", now))...)
	return nil
}

// wakeAtLeast bounds how late a step of the wall clock, or a suspend, is
// noticed: timers run on the monotonic clock.
const wakeAtLeast = time.Second

// backwardStep is how far the wall clock must go back for due times to be
// counted anew from there; a smaller step lets the schedule wait until the clock
// has caught up, since those times have had their runs.
const backwardStep = 3 * time.Hour

// loop fires what is due until ctx ends, and returns when every decision that it
// began has been recorded.
func (f *firing) loop(ctx context.Context) {
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(func() { f.accountForAbsences(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	before := wallNow()
	for {
		select {
		case <-ctx.Done():
			f.record(context.WithoutCancel(ctx))
			return
		case <-timer.C:
		case <-f.wake:
		}
		now := wallNow()
		f.noticeStep(before, now)
		before = now
		f.fireAll(ctx, f.table.take(now), now)
		f.record(context.WithoutCancel(ctx))
		if f.unrecorded.empty() && f.absences.none() {
			f.dealt.Store(&now)
		}
		f.runs.sweep(ctx, now)
		wait := wakeAtLeast
		if next := f.table.earliest(); !next.IsZero() {
			wait = min(wait, max(0, next.Sub(wallNow())))
		}
		timer.Reset(wait)
	}
}

// noticeStep looks whether the wall clock went back.
func (f *firing) noticeStep(before, now time.Time) {
	switch back := before.Sub(now); {
	case back > backwardStep:
		f.log.Warn("the clock went back: due times are counted anew from now", "by", back.Round(time.Second))
		f.table.restart(now)
	case back > wakeAtLeast:
		f.log.Warn("the clock went back: nothing is due until it has caught up, those times had their runs", "by", back.Round(time.Second))
	}
}

// wallNow is the wall clock alone: due times are wall times, and a comparison
// must see the clock's steps.
func wallNow() time.Time { return time.Now().Round(0) }

// mostDeciding bounds how many decisions wait for the ledger at once; it groups
// them into few commits.
const mostDeciding = 1024

// fireAll decides about every due job, side by side, and returns when all is
// recorded. Launches go on behind it.
func (f *firing) fireAll(ctx context.Context, due []dueJob, now time.Time) {
	if len(due) == 0 {
		return
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, mostDeciding)
	set := f.set.Load()
	ctx = context.WithoutCancel(ctx)
	for _, d := range due {
		if f.absences.putOff(d) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			defer f.deciding.lock(d.job.Name)()
			f.fire(ctx, set, d, now)
		})
	}
	wg.Wait()
}

// fire decides about one due time and records what became of it, exactly once.
// The caller holds the job's decision lock.
func (f *firing) fire(ctx context.Context, set *config.Set, d dueJob, now time.Time) {
	if d.missed > 0 {
		f.log.Warn("several due times passed while the server was held up: one run", "job", d.job.Name, "missed", d.missed)
		f.skipRange(ctx, d.job, dueSpan{first: d.first, last: d.before, count: d.missed}, ledger.ReasonMissed)
	}
	_, err := f.begin(ctx, set, d.job, beginning{due: d.last, now: now, trigger: ledger.TriggerSchedule})
	f.settle(ctx, d.job, d.last, err)
}

// settle gives a due time whose run did not begin its record.
func (f *firing) settle(ctx context.Context, job *config.Job, due time.Time, err error) {
	var refused *refusedFiring
	switch {
	case err == nil:
	case errors.As(err, &refused):
		f.log.Info("skipped", "job", job.Name, "due", due, "reason", refused.reason, "detail", refused.detail)
		f.write(ctx, job.Name, skipped(job, due, due, 1, refused.reason, refused.detail), watermark(job.Name, due))
	case errors.Is(err, ledger.ErrExists): // the clock went back, and this time comes again
		f.log.Debug("this due time has its record already", "job", job.Name, "due", due)
	default:
		f.log.Error("cannot fire", "job", job.Name, "due", due, "err", err)
		f.write(ctx, job.Name, skipped(job, due, due, 1, ledger.ReasonError, err.Error()), watermark(job.Name, due))
	}
}

// skipRange records due times without a run. Where some of them have their record
// already, since the clock was wrong for a while, the others get theirs. The
// caller holds the job's decision lock.
func (f *firing) skipRange(ctx context.Context, job *config.Job, span dueSpan, reason string) {
	events := []ledger.Event{skipped(job, span.first, span.last, span.count, reason, ""), watermark(job.Name, span.last)}
	err := f.apply(ctx, job.Name, events...)
	switch {
	case err == nil, errors.Is(err, ledger.ErrExists) && span.count == 1:
	case errors.Is(err, ledger.ErrExists):
		d := duesOf(job)
		middle := span.first.Add(span.last.Sub(span.first) / 2)
		for _, half := range []dueSpan{d.in(span.first.Add(-time.Second), middle), d.in(middle, span.last)} {
			if half.count > 0 && half.count < span.count {
				f.skipRange(ctx, job, half, reason)
			}
		}
	default:
		f.log.Error("cannot record due times; it is tried again", "job", job.Name, "err", err)
		f.unrecorded.put(job.Name, events, f.log)
	}
}

// refusedFiring is a decision not to start, which is a record like any other.
type refusedFiring struct{ reason, detail string }

func (e *refusedFiring) Error() string {
	if e.detail == "" {
		return "held back: " + e.reason
	}
	return "held back: " + e.reason + ": " + e.detail
}

// skipped is the record of due times without a run.
func skipped(job *config.Job, from, to time.Time, count int64, reason, detail string) ledger.Event {
	return ledger.SkippedDue{Skip: ledger.Skip{
		Job: job.Name, Group: job.Group, From: from, To: to, Count: count, Reason: reason, Detail: detail,
	}}
}

// watermark remembers how far a job's schedule has been dealt with.
func watermark(job string, at time.Time) ledger.Event { return ledger.Watermark{Job: job, At: at} }

// keyed is a lock for each name.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	sync.Mutex
	users int
}

// lock takes the name's lock and returns what gives it back.
func (k *keyed) lock(name string) func() {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	l := k.locks[name]
	if l == nil {
		l = &keyedLock{}
		k.locks[name] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		if l.users--; l.users == 0 {
			delete(k.locks, name)
		}
		k.mu.Unlock()
	}
}
