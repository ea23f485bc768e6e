package runner

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

// leave writes down when an earlier server dealt with a job last, and when it was
// up last.
func (h *house) leave(since time.Time, jobs ...string) {
	h.t.Helper()
	events := []ledger.Event{watermark("", since)}
	for _, job := range jobs {
		events = append(events, watermark(job, since))
	}
	h.apply(events...)
}

// What was due while no server was there: how often it is made up for, and that
// each due time has one record.
func TestAbsence(t *testing.T) {
	for _, c := range []struct {
		catchUp string
		window  time.Duration
		away    time.Duration
		made    int // how many runs make up for it
	}{
		{"none", 0, 100 * time.Second, 0},
		{"one", 0, 100 * time.Second, 1},
		{"all", 0, 100 * time.Second, 100},
		{"all", 30 * time.Second, 100 * time.Second, 30},
		{"one", time.Hour, 31 * 24 * time.Hour, 1},
		{"all", 20 * time.Second, 31 * 24 * time.Hour, 20},
	} {
		t.Run(fmt.Sprint(c.catchUp, " ", c.window, " ", c.away), func(t *testing.T) {
			t.Parallel()
			job := scheduled(t, "j", everySecond, "Europe/Bucharest")
			job.CatchUp, job.CatchUpWindow = c.catchUp, c.window
			f := newFleet(ends)
			h := newHouse(t, setOf(job), f)
			from := time.Now().Add(-c.away)
			h.leave(from, "j")
			h.start()
			h.await("it is accounted for, and goes on", func() bool {
				first, last := h.bounds("j")
				return h.runner.firing.absences.none() && !first.IsZero() && time.Since(last) < 2*time.Second && len(h.runner.tasks.live("j")) == 0
			})
			h.stop()
			h.openBook()
			made := 0
			for i, r := range h.runs("j") {
				if r.Trigger == ledger.TriggerCatchUp {
					if made++; made != i+1 || r.Tasks[0].State != ledger.LaunchFailed {
						t.Errorf("run %d: %+v", i, r)
					}
				}
			}
			if made < c.made-1 || made > c.made+1 { // the second in which the server comes back
				t.Errorf("%d runs make up for it, not %d", made, c.made)
			}
			var last string // they came one after the other, in order; the names have equally many digits
			for _, s := range f.began() {
				if s.run <= last {
					t.Errorf("%s was started after %s", s.run, last)
				}
				last = s.run
			}
			skips := h.skips("j")
			if c.away > time.Hour && (len(skips) == 0 || skips[0].Reason != ledger.ReasonServerDown || skips[0].Count < int64(c.away.Seconds())-100) {
				t.Errorf("skips %+v", skips)
			}
			_, end := h.bounds("j")
			if c.away < time.Hour {
				h.onceEach(job, from, end)
			} else { // the last hour, and the sum
				sum := int64(len(h.runs("j")))
				for _, s := range skips {
					sum += s.Count
				}
				if want := end.Unix() - from.Unix(); sum != want {
					t.Errorf("%d records of %d", sum, want)
				}
			}
		})
	}
}

// A server that is stopped while it accounts for its absence, again and again,
// leaves no due time without a record and none with two.
func TestAbsenceIsInterrupted(t *testing.T) {
	t.Parallel()
	var jobs []*config.Job
	for i, catchUp := range []string{"all", "none", "one", "all"} {
		job := scheduled(t, fmt.Sprint("j", i), everySecond, "UTC")
		job.CatchUp = catchUp
		jobs = append(jobs, job)
	}
	h := newHouse(t, setOf(jobs...), newFleet(ends))
	from := time.Now().Add(-5 * time.Minute)
	h.leave(from, "j0", "j1", "j2", "j3")
	for _, pause := range []time.Duration{time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, 1200 * time.Millisecond, 5 * time.Millisecond} {
		h.start()
		time.Sleep(pause) // wherever that cuts it
		h.stop()
	}
	h.start()
	h.await("everything is accounted for", func() bool {
		if !h.runner.firing.absences.none() {
			return false
		}
		for _, job := range jobs {
			if _, last := h.bounds(job.Name); time.Since(last) > 2*time.Second {
				return false
			}
		}
		return true
	})
	h.stop()
	h.openBook()
	for _, job := range jobs {
		_, last := h.bounds(job.Name)
		h.onceEach(job, from, last)
	}
}

// A job whose schedule was changed while no server was there is not blamed for
// times before the server went.
func TestAbsenceIsNoLongerThanTheServersOwn(t *testing.T) {
	t.Parallel()
	job := scheduled(t, "j", everySecond, "UTC")
	h := newHouse(t, setOf(job), newFleet(ends))
	gone := time.Now().Add(-30 * time.Second)
	h.apply(watermark("j", time.Now().Add(-24*time.Hour)), watermark("", gone), watermark(dealtMark, gone))
	h.start()
	h.await("it goes on", func() bool { return len(h.runs("j")) > 0 })
	h.stop()
	h.openBook()
	first, last := h.bounds("j")
	if first.Before(gone) || first.After(gone.Add(2*time.Second)) {
		t.Errorf("the first record is of %s, the server went at %s", first, gone)
	}
	h.onceEach(job, gone, last)
}

// 10,000 jobs that were due every second of a month: the start does not wait for
// them, and neither does what fires.
func TestLongAbsenceOfManyJobs(t *testing.T) {
	n := 500
	if soak(0, 1) > 0 {
		n = 10_000
	}
	// Not due today and tomorrow: what such a lot of jobs does now is not what is
	// measured.
	f, rest := everySecond, []string{}
	for day := range 5 {
		rest = append(rest, fmt.Sprint((int(time.Now().UTC().Weekday())+2+day)%7))
	}
	f.Dow = strings.Join(rest, ",")
	jobs := make([]*config.Job, n)
	names := make([]string, n)
	for i := range jobs {
		names[i] = fmt.Sprintf("job%05d", i)
		jobs[i] = scheduled(t, names[i], f, "UTC")
	}
	other := scheduled(t, "other", everySecond, "UTC")
	set := setOf(append(jobs, other)...)
	h := newHouse(t, set, newFleet(ends))
	from := time.Now().Add(-31 * 24 * time.Hour)
	h.leave(from, names...)
	began := time.Now()
	h.start()
	h.await("the first run", func() bool { return len(h.runs("other")) > 0 })
	first := time.Since(began)
	h.await("everything is accounted for", func() bool { return h.runner.firing.absences.none() })
	t.Logf("%d jobs: the first run after %s, accounted for after %s", n, first.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	h.stop()
	h.openBook()
	for _, job := range []*config.Job{jobs[0], jobs[n/2], jobs[n-1]} {
		skips := h.skips(job.Name)
		if len(skips) == 0 || skips[0].Reason != ledger.ReasonServerDown || skips[0].Count < 20*86400 {
			t.Errorf("%s: %+v", job.Name, skips)
		}
	}
}

// unfinished writes down a run of two batches whose first was not launched yet.
func (h *house) unfinished(job *config.Job, trigger string, due time.Time) string {
	h.t.Helper()
	d := define(h.set, job, h.set.Machines, "")
	raw, err := json.Marshal(d)
	if err != nil {
		h.t.Fatal(err)
	}
	run := runOf(job, beginning{due: due, now: due, trigger: trigger}, placement{machines: h.set.Machines}, d)
	run.ID, run.Definition = fmt.Sprintf("%s_%d", job.Name, due.Unix()), raw
	h.apply(ledger.Begun{Run: *run})
	return run.ID
}

// Queued batches go on if the server was away for less than ten minutes; else they
// are skipped, but for runs that make up for an absence.
func TestQueuedBatchesAfterARestart(t *testing.T) {
	for _, c := range []struct {
		away    time.Duration
		trigger string
		skipped bool
	}{
		{9 * time.Minute, ledger.TriggerSchedule, false},
		{11 * time.Minute, ledger.TriggerSchedule, true},
		{11 * time.Minute, ledger.TriggerCatchUp, false},
	} {
		t.Run(fmt.Sprint(c.trigger, " ", c.away), func(t *testing.T) {
			t.Parallel()
			f := config.FieldTexts{Min: "0", Hour: "0", Dom: "1", Mon: "1", Dow: "*", Year: "2090"}
			job := scheduled(t, "j", f, "UTC")
			job.Batch, job.CatchUp = config.Size{N: 1}, "all"
			set := setOf(job)
			set.Machines = inventory("m1", "m2")
			fleet := newFleet(ends)
			h := newHouse(t, set, fleet)
			due := time.Now().Add(-c.away - time.Minute).Truncate(time.Second)
			id := h.unfinished(job, c.trigger, due)
			h.leave(time.Now().Add(-c.away), "j")
			h.start()
			want, starts := ledger.LaunchFailed, "m1 m2"
			if c.skipped {
				want, starts = ledger.Skipped, ""
			}
			for _, m := range []string{"m1", "m2"} {
				h.await("its end on "+m, func() bool { return h.task(id, m).State == want })
				task := h.task(id, m)
				if c.skipped && (task.Reason != ledger.ReasonServerDown || task.ExitCode != nil) {
					t.Errorf("%+v", task)
				}
			}
			if got := strings.Join(fleet.machines(id), " "); got != starts {
				t.Errorf("started on %q, not %q", got, starts)
			}
			h.await("the run is over", func() bool {
				p := h.runner.firing.runs
				p.mu.Lock()
				defer p.mu.Unlock()
				return len(p.runs) == 0
			})
		})
	}
}

// A kill ends what would still be made up for.
func TestKillEndsCatchUp(t *testing.T) {
	t.Parallel()
	f := config.FieldTexts{Sec: "0", Min: "*", Hour: "*", Dom: "*", Mon: "*", Dow: "*"}
	job := scheduled(t, "j", f, "UTC")
	job.CatchUp = "all"
	fleet := newFleet(stays)
	h := newHouse(t, setOf(job), fleet)
	from := time.Now().Add(-20 * time.Minute)
	h.leave(from, "j")
	h.start()
	h.await("all are in the book", func() bool {
		return h.runner.firing.absences.none() && len(h.runs("j")) >= 20 && len(fleet.began()) > 0
	})
	receipts, err := h.runner.Kill(t.Context(), person, Selector{Job: "j"}, KillOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range receipts {
	}
	h.await("nothing of it is left", func() bool { return len(h.runner.tasks.live("j")) == 0 })
	states := map[ledger.State]int{}
	for _, r := range h.runs("j") {
		states[r.Tasks[0].State]++
	}
	if states[ledger.Killed] == 0 || states[ledger.Killed] > 2 || states[ledger.Skipped] < 18 || states[ledger.Killed]+states[ledger.Skipped] != len(h.runs("j")) {
		t.Errorf("ends %v", states)
	}
	if n := len(fleet.began()); n > 2 {
		t.Errorf("%d were started", n)
	}
	h.stop()
	h.openBook()
	_, last := h.bounds("j")
	h.onceEach(job, from, last)
}
