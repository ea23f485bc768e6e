package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
	tasks  *tasks
	log    *slog.Logger
	set    atomic.Pointer[config.Set]
	table  *timetable
	runs   *progress
	wake   chan struct{} // the timetable changed

	localSpool string // where wrappers on this machine spool; "" = where they choose

	// deciding serializes the decisions about one job, so that two firings
	// cannot both find it idle.
	deciding keyed

	// unrecorded holds what could not be written down (the disk was full): it
	// is tried again at each turn.
	mu         sync.Mutex
	unrecorded []ledger.Event
}

// newFiring makes the deciding half; the tasks half must call taskEnded and
// onKill of it.
func newFiring(l *ledger.Ledger, ts *tasks, set *config.Set, log *slog.Logger) *firing {
	f := &firing{ledger: l, tasks: ts, log: log, table: newTimetable(), runs: newProgress(ts), wake: make(chan struct{}, 1)}
	f.set.Store(set)
	return f
}

// start takes up what an earlier server left: its unfinished runs, and the due
// times that nobody was there for. The tasks half has adopted its tasks before.
func (f *firing) start(ctx context.Context, unfinished []ledger.Task) error {
	now := wallNow()
	watermarks, err := f.ledger.Watermarks(ctx)
	if err != nil {
		return err
	}
	f.resumeRuns(ctx, unfinished, away(watermarks, now))
	set := f.set.Load()
	var marks []ledger.Event
	for _, job := range f.table.load(set, now) {
		if _, known := watermarks[job.Name]; !known {
			marks = append(marks, watermark(job.Name, now))
		}
	}
	f.write(ctx, append(marks, watermark("", now)))
	f.accountForAbsence(ctx, set, watermarks, now)
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
	timer := time.NewTimer(0)
	defer timer.Stop()
	before := wallNow()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-f.wake:
		}
		now := wallNow()
		if before.Sub(now) > backwardStep {
			f.log.Warn("the clock went back: due times are counted anew from now", "by", before.Sub(now).Round(time.Second))
			f.table.restart(now)
		}
		before = now
		f.fireAll(ctx, f.table.take(now), now)
		f.record(ctx)
		wait := wakeAtLeast
		if next := f.table.earliest(); !next.IsZero() {
			wait = min(wait, max(0, next.Sub(wallNow())))
		}
		timer.Reset(wait)
	}
}

// wallNow is the wall clock alone: due times are wall times, and a comparison
// must see the clock's steps.
func wallNow() time.Time { return time.Now().Round(0) }

// mostDeciding bounds how many decisions wait for the ledger at once; it groups
// them into few commits.
const mostDeciding = 256

// fireAll decides about every due job, side by side, and returns when all is
// recorded. Launches go on behind it.
func (f *firing) fireAll(ctx context.Context, due []dueJob, now time.Time) {
	if len(due) == 0 {
		return
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, mostDeciding)
	set := f.set.Load()
	for _, d := range due {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f.fire(context.WithoutCancel(ctx), set, d, now)
		})
	}
	wg.Wait()
}

// fire decides about one due time and records what became of it, exactly once.
func (f *firing) fire(ctx context.Context, set *config.Set, d dueJob, now time.Time) {
	defer f.deciding.lock(d.job.Name)()
	var events []ledger.Event
	if d.missed > 0 {
		f.log.Warn("several due times passed while the server was held up: one run", "job", d.job.Name, "missed", d.missed)
		events = append(events, skipped(d.job, d.first, d.before, d.missed, ledger.ReasonMissed, ""))
	}
	_, err := f.begin(ctx, set, d.job, beginning{due: d.last, now: now, trigger: ledger.TriggerSchedule}, events)
	var refused *refusedFiring
	switch {
	case err == nil:
	case errors.As(err, &refused):
		f.log.Info("skipped", "job", d.job.Name, "due", d.last, "reason", refused.reason, "detail", refused.detail)
		f.write(ctx, append(events, skipped(d.job, d.last, d.last, 1, refused.reason, refused.detail), watermark(d.job.Name, d.last)))
	case errors.Is(err, ledger.ErrExists):
		f.log.Warn("this due time has its record already", "job", d.job.Name, "due", d.last)
	default:
		f.log.Error("cannot fire", "job", d.job.Name, "due", d.last, "err", err)
		f.write(ctx, append(events, skipped(d.job, d.last, d.last, 1, ledger.ReasonError, err.Error()), watermark(d.job.Name, d.last)))
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

// beginning is one firing on its way to a run.
type beginning struct {
	due, now time.Time
	trigger  string
	actor    Actor
	only     []string // machines, for runs by hand
	force    bool
	retryOf  string
}

// begin starts a run, or says why not with a refusedFiring. Events that belong
// to the same decision are recorded with it, all or none. The caller holds the
// job's decision lock.
func (f *firing) begin(ctx context.Context, set *config.Set, job *config.Job, b beginning, with []ledger.Event) (*ledger.Run, error) {
	if set.Maintenance.Global && !b.force {
		return nil, &refusedFiring{ledger.ReasonMaintenance, ""}
	}
	waits := b.trigger == ledger.TriggerCatchUp // for the job's earlier runs
	if job.OnOverlap != "allow" && !b.force && !waits {
		if live := f.overlapping(job.Name); len(live) > 0 {
			return nil, &refusedFiring{ledger.ReasonOverlap, "still running: " + live[0].Run}
		}
	}
	p, err := place(set, job, b.only, func(machine string) bool { return !waits && len(f.tasks.liveOn(job.Name, machine)) > 0 }, b.force)
	if err != nil {
		return nil, err
	}
	if len(p.machines) == 0 && len(p.left) > 0 {
		return nil, &refusedFiring{p.left[0].reason, "on every machine that it names"}
	}
	d := define(set, job, p.machines, f.localSpool)
	raw, err := d.encode()
	if err != nil {
		return nil, err
	}
	run := ledger.Run{
		Job: job.Name, Group: job.Group, Due: b.due, Fired: b.now, Trigger: b.trigger,
		By: b.actor.Who, RetryOf: b.retryOf, Definition: raw,
	}
	if len(p.machines) == 0 {
		run.Reason = ledger.ReasonNoMachines
		run.Detail = fmt.Sprintf("%s %q names no machine of the inventory", job.TargetType, job.Targets)
	}
	size := batches(job, len(p.machines))
	for i, m := range p.machines {
		run.Tasks = append(run.Tasks, ledger.Task{
			TaskID: ledger.TaskID{Machine: m.Name}, Job: job.Name, State: ledger.Queued,
			Batch: i / size, Transport: d.Machines[m.Name].Transport, Queued: b.now,
		})
	}
	for _, l := range p.left {
		run.Tasks = append(run.Tasks, ledger.Task{
			TaskID: ledger.TaskID{Machine: l.machine}, Job: job.Name, State: ledger.Skipped,
			Reason: l.reason, Queued: b.now, Ended: b.now,
		})
	}
	return f.open(ctx, &run, d, b, with)
}

// open records the run under a free name and sets its first batch going.
func (f *firing) open(ctx context.Context, run *ledger.Run, d definition, b beginning, with []ledger.Event) (*ledger.Run, error) {
	base := fmt.Sprintf("%s_%d", run.Job, b.due.Unix())
	for n := 1; ; n++ {
		run.ID = base
		if n > 1 {
			run.ID = fmt.Sprintf("%s-%d", base, n)
		}
		for i := range run.Tasks {
			run.Tasks[i].Run = run.ID
		}
		events := append(append([]ledger.Event{}, with...), ledger.Begun{Run: *run})
		if b.trigger != ledger.TriggerManual {
			events = append(events, watermark(run.Job, b.due))
		}
		_, err := f.ledger.Apply(ctx, events...)
		if err == nil {
			break
		}
		// A taken name is the next one's turn; a due time that has its record
		// already keeps it.
		if !errors.Is(err, ledger.ErrExists) || errors.Is(err, ledger.ErrDueTaken) {
			return nil, err
		}
	}
	f.log.Info("fired", "job", run.Job, "run", run.ID, "due", b.due, "late", b.now.Sub(b.due).Round(time.Millisecond), "machines", len(run.Tasks))
	f.runs.begin(ctx, run, d)
	return run, nil
}

// overlapping lists the tasks that hold back a job's next run everywhere. Lost
// ones hold it back on their own machine only.
func (f *firing) overlapping(job string) []ledger.TaskID {
	live := f.tasks.live(job)
	lost := f.tasks.lost(job)
	return slices.DeleteFunc(live, func(id ledger.TaskID) bool { return slices.Contains(lost, id) })
}

// skipped is the record of due times without a run.
func skipped(job *config.Job, from, to time.Time, count int64, reason, detail string) ledger.Event {
	return ledger.SkippedDue{Skip: ledger.Skip{
		Job: job.Name, Group: job.Group, From: from, To: to, Count: count, Reason: reason, Detail: detail,
	}}
}

// watermark remembers how far a job's schedule has been dealt with.
func watermark(job string, at time.Time) ledger.Event { return ledger.Watermark{Job: job, At: at} }

// write records events, now or, where the ledger cannot take them, as soon as it
// can: a due time must not go without its record.
func (f *firing) write(ctx context.Context, events []ledger.Event) {
	if _, err := f.ledger.Apply(ctx, events...); err != nil && !errors.Is(err, ledger.ErrExists) {
		f.log.Error("cannot record a due time; it is tried again", "err", err)
		f.mu.Lock()
		f.unrecorded = append(f.unrecorded, events...)
		f.mu.Unlock()
	}
}

// record tries again what could not be written down.
func (f *firing) record(ctx context.Context) {
	f.mu.Lock()
	events := f.unrecorded
	f.unrecorded = nil
	f.mu.Unlock()
	for i, e := range events {
		if _, err := f.ledger.Apply(ctx, e); err != nil && !errors.Is(err, ledger.ErrExists) {
			f.mu.Lock()
			f.unrecorded = append(events[i:], f.unrecorded...)
			f.mu.Unlock()
			return
		}
	}
}

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
