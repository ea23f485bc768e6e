package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"saltpeter/config"
	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// soak is how long a test that shows something over time goes on: long where
// SALTPETER_SOAK=1 says so.
func soak(short, long time.Duration) time.Duration {
	if os.Getenv("SALTPETER_SOAK") == "1" {
		return long
	}
	return short
}

// 200 jobs at every second, of every kind: afterwards each due second of each has
// exactly one record, over a restart and reloads as well.
func TestEverySecond(t *testing.T) {
	var jobs []*config.Job
	for i := range 200 {
		job := scheduled(t, fmt.Sprintf("job%03d", i), everySecond, "UTC")
		switch i % 10 {
		case 1:
			job.Command = "stay" // and hold back the next
		case 2:
			job.Targets = "nowhere"
		case 3:
			job.OnOverlap, job.Command = "allow", "stay"
		case 4:
			job.CatchUp = "all"
		}
		jobs = append(jobs, job)
	}
	f := newFleet(func(o wire.Order) launch.StartResult {
		if o.Command == "stay" {
			return stays(o)
		}
		return ends(o)
	})
	h := newHouse(t, setOf(jobs...), f)
	h.start()
	// From the instant that the schedule counts from, to one up to which the loop
	// says that everything has its record.
	from, err := h.book.Watermarks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dealtUntil := func(until time.Time) time.Time {
		t.Helper()
		time.Sleep(time.Until(until)) // what is tested takes place in real time
		h.await("everything is dealt with", func() bool {
			dealt := h.runner.firing.dealt.Load()
			return dealt != nil && !dealt.Before(until)
		})
		return *h.runner.firing.dealt.Load()
	}
	whole := soak(5*time.Second, time.Minute)
	dealtUntil(time.Now().Add(whole / 2))
	resting := setOf(jobs...)
	resting.Maintenance.Machines = []string{"m1"}
	h.runner.SetConfig(resting)
	h.await("a due time in maintenance", func() bool {
		skips := h.skips(jobs[0].Name)
		return len(skips) > 0 && skips[len(skips)-1].Reason == ledger.ReasonMaintenance
	})
	h.runner.SetConfig(h.set)
	h.stop()
	h.start()
	until := dealtUntil(time.Now().Add(whole / 2))
	h.stop()
	h.openBook()
	kinds := map[string]int{}
	for _, job := range jobs {
		if from[job.Name].IsZero() || until.Sub(from[job.Name]) < whole {
			t.Fatalf("%s: from %s to %s", job.Name, from[job.Name], until)
		}
		h.onceEach(job, from[job.Name], until)
		for _, s := range h.skips(job.Name) {
			kinds[s.Reason]++
		}
		for _, r := range h.runs(job.Name) {
			kinds[r.Trigger]++
		}
	}
	for _, kind := range []string{ledger.TriggerSchedule, ledger.ReasonOverlap, ledger.ReasonMaintenance} {
		if kinds[kind] == 0 {
			t.Errorf("no %s among %v", kind, kinds)
		}
	}
	t.Logf("%v", kinds)
}

// Several due times missed in one stall are one run, and a range that says so.
func TestStallIsOneRun(t *testing.T) {
	job := scheduled(t, "j", everySecond, "UTC")
	h := newHouse(t, setOf(job), newFleet(ends))
	held := time.Now().Add(-20 * time.Second)
	h.before = func(r *Runner) { r.firing.table.load(h.set, held) } // nobody has looked since
	h.start()
	h.await("two runs", func() bool { return len(h.runs("j")) > 1 })
	h.stop()
	h.openBook()
	skips, runs := h.skips("j"), h.runs("j")
	if len(skips) == 0 || skips[0].Reason != ledger.ReasonMissed || skips[0].Count < 18 {
		t.Fatalf("skips %+v", skips)
	}
	if late := runs[0].Fired.Sub(runs[0].Due); late < 0 || late > 5*time.Second || runs[0].Trigger != ledger.TriggerSchedule {
		t.Errorf("the run of %s was fired at %s", runs[0].Due, runs[0].Fired)
	}
	h.onceEach(job, held, runs[len(runs)-1].Due)
	if !strings.Contains(h.logs.String(), "held up") {
		t.Error("the log does not say so")
	}
}

// A range of which some has its record already, since the clock was wrong for a
// while, is recorded but for those.
func TestMissedRangeWithHoles(t *testing.T) {
	job := scheduled(t, "j", everySecond, "UTC")
	h := newHouse(t, setOf(), newFleet(ends))
	h.start()
	f := h.runner.firing
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return base.Add(time.Duration(s) * time.Second) }
	h.apply(ledger.Begun{Run: ledger.Run{ID: "j_5", Job: "j", Due: at(5), Fired: at(5), Trigger: ledger.TriggerSchedule}})
	f.fire(t.Context(), h.set, dueJob{job: job, first: at(1), before: at(39), last: at(40), missed: 39}, at(40))
	h.onceEach(job, base, at(40))
	// And once more: what has its record keeps it.
	runs := len(h.runs("j"))
	f.fire(t.Context(), h.set, dueJob{job: job, first: at(38), before: at(39), last: at(40), missed: 2}, at(41))
	h.onceEach(job, base, at(40))
	if len(h.runs("j")) != runs {
		t.Error("a due time ran twice")
	}
}

// While the disk is full nothing is launched unrecorded, and every due time gets
// its record when there is room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	jobs := []*config.Job{scheduled(t, "a", everySecond, "UTC"), scheduled(t, "b", everySecond, "UTC")}
	f := newFleet(ends)
	h := newHouse(t, setOf(jobs...), f)
	var full atomic.Bool
	h.before = func(r *Runner) {
		put := r.firing.put
		r.firing.put = func(ctx context.Context, events ...ledger.Event) ([]ledger.Task, error) {
			if full.Load() {
				return nil, fmt.Errorf("cannot record: %w", ledger.ErrFull)
			}
			return put(ctx, events...)
		}
	}
	h.start()
	h.await("runs of both", func() bool { return len(h.runs("a")) > 0 && len(h.runs("b")) > 0 })
	h.await("their end", func() bool { return len(h.runner.tasks.live("a"))+len(h.runner.tasks.live("b")) == 0 })
	full.Store(true)
	h.await("the first that cannot be recorded", func() bool { return !h.runner.firing.unrecorded.empty() })
	h.await("the end of what was begun before", func() bool { return len(h.runner.tasks.live("a"))+len(h.runner.tasks.live("b")) == 0 })
	before := len(f.began())
	if _, err := h.runner.Start(t.Context(), person, StartRequest{Job: "a"}); !errors.Is(err, ledger.ErrFull) {
		t.Errorf("a run by hand: %v", err)
	}
	h.await("due times without a record", func() bool {
		u := &h.runner.firing.unrecorded
		u.mu.Lock()
		defer u.mu.Unlock()
		for _, name := range []string{"a", "b"} {
			if len(u.jobs[name]) != 2 { // one range and one watermark, however long it takes
				return false
			}
			if e, ok := u.jobs[name][0].(ledger.SkippedDue); !ok || e.Skip.Count < 3 {
				return false
			}
		}
		return true
	})
	if n := len(f.began()); n != before {
		t.Errorf("%d launches without a record", n-before)
	}
	full.Store(false)
	runs := len(h.runs("a"))
	h.await("runs again", func() bool { return len(h.runs("a")) > runs && len(h.runs("b")) > runs })
	h.stop()
	h.openBook()
	for _, job := range jobs {
		first, last := h.bounds(job.Name)
		h.onceEach(job, first.Add(-time.Second), last)
		skips := h.skips(job.Name)
		if len(skips) != 1 || skips[0].Reason != ledger.ReasonError || !strings.Contains(skips[0].Detail, "full") {
			t.Errorf("skips %+v", skips)
		}
	}
	audit, err := h.book.Audit(t.Context(), time.Time{}, 10)
	if err != nil || len(audit) != 1 || !strings.Contains(audit[0].Outcome, "full") {
		t.Errorf("audit %+v, %v", audit, err)
	}
}

// What a job was due for when its schedule was changed or it was removed is not
// lost, and its new times count from then on.
func TestReloadBetweenDueAndFired(t *testing.T) {
	t.Parallel()
	job, gone := scheduled(t, "j", everySecond, "UTC"), scheduled(t, "gone", everySecond, "UTC")
	h := newHouse(t, setOf(job, gone), newFleet(ends))
	h.start()
	h.await("runs", func() bool { return len(h.runs("j")) > 0 && len(h.runs("gone")) > 0 })
	for i := range 20 {
		f := everySecond
		if i%2 == 0 {
			f.Sec = "0-59/1" // the same times, written otherwise: a new entry
		}
		h.runner.SetConfig(setOf(scheduled(t, "j", f, "UTC"), gone))
		time.Sleep(97 * time.Millisecond)
	}
	h.runner.SetConfig(setOf(job))
	removed := time.Now()
	runs := len(h.runs("j"))
	h.await("more runs", func() bool { return len(h.runs("j")) > runs+1 })
	h.stop()
	h.openBook()
	first, last := h.bounds("j")
	h.onceEach(job, first.Add(-time.Second), last)
	first, last = h.bounds("gone")
	if last.After(removed) {
		t.Errorf("removed at %s, and there is a record of %s", removed, last)
	}
	h.onceEach(gone, first.Add(-time.Second), removed)
}

// The clock went back: small steps wait, big ones count anew, and neither makes a
// due time run twice.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	job := scheduled(t, "j", everySecond, "UTC")
	h := newHouse(t, setOf(job), newFleet(ends))
	h.before = func(r *Runner) {
		// As if the clock had been a day ahead: the next time is tomorrow.
		r.firing.table.load(h.set, time.Now().Add(24*time.Hour))
	}
	h.start()
	f := h.runner.firing
	now := time.Now()
	f.noticeStep(now.Add(time.Minute), now)
	if next := f.table.earliest(); next.Before(now.Add(23 * time.Hour)) {
		t.Errorf("next after a small step: %s", next)
	}
	f.noticeStep(now.Add(24*time.Hour), now)
	h.await("runs", func() bool { return len(h.runs("j")) > 1 })
	h.stop()
	h.openBook()
	first, last := h.bounds("j")
	h.onceEach(job, first.Add(-time.Second), last)
}
