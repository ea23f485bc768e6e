package runner

import (
	"context"
	"slices"
	"sync"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

// dealtMark is the watermark of all jobs together: up to there every due time had
// its record while the server was up. A job's own watermark stays where it last
// fired; counting from there would blame an absence for times that a schedule
// which was changed meanwhile never had. No job can have this name.
const dealtMark = "/dealt"

// absences are the jobs with due times that passed while no server was there and
// that are not accounted for yet. It takes a while where there are many, or many
// runs to make up for, so it is done beside the loop; what such a job is due for
// in the meantime is put off behind it, so that each job's records are made in
// order and its watermark never passes what has none.
type absences struct {
	mu    sync.Mutex
	jobs  map[string]*absence
	order []string
	until time.Time // when the server came back
}

// absence is one job's. Its fields belong to absences.mu, but for job and from,
// which do not change.
type absence struct {
	job       *config.Job // as it was when the server came back
	from      time.Time   // it was dealt with up to there
	later     *dueJob     // due since the server came back
	cancelled bool        // a kill came: nothing is made up for any more
}

// find lists the jobs that have something to account for at now.
func (a *absences) find(set *config.Set, watermarks map[string]time.Time, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.jobs, a.until = map[string]*absence{}, now
	for _, name := range set.Order {
		job := set.Jobs[name]
		from, known := watermarks[name]
		if !known || job.Schedule == nil || !job.Enabled {
			continue // a job that is new has missed nothing
		}
		if dealt := watermarks[dealtMark]; dealt.After(from) {
			from = dealt
		}
		if first := job.Schedule.Next(from); first.IsZero() || first.After(now) {
			continue
		}
		a.jobs[name] = &absence{job: job, from: from}
		a.order = append(a.order, name)
	}
}

// putOff keeps what a job is due for until its absence is accounted for. False:
// there is none, it may fire.
func (a *absences) putOff(d dueJob) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	of := a.jobs[d.job.Name]
	if of == nil {
		return false
	}
	if was := of.later; was != nil { // one run when its turn comes, as after any stall
		before := was.last
		if d.missed > 0 {
			before = d.before
		}
		d.first, d.before, d.missed = was.first, before, d.missed+was.missed+1
	}
	of.later = &d
	return true
}

// pending reports whether a job's absence is still to be accounted for.
func (a *absences) pending(job string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.jobs[job] != nil
}

// none reports whether everything is accounted for.
func (a *absences) none() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.jobs) == 0
}

// cancel lets nothing more be made up for a job, and reports whether something
// would have been.
func (a *absences) cancel(job string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	of := a.jobs[job]
	if of == nil || of.cancelled || of.job.CatchUp == "none" || of.job.CatchUp == "" {
		return false
	}
	of.cancelled = true
	return true
}

func (a *absences) isCancelled(of *absence) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return of.cancelled
}

// settle ends a job's absence unless something was put off: that is returned, and
// comes first.
func (a *absences) settle(job string) *dueJob {
	a.mu.Lock()
	defer a.mu.Unlock()
	of := a.jobs[job]
	later := of.later
	of.later = nil
	if later == nil {
		delete(a.jobs, job)
	}
	return later
}

// accountingAtOnce is how many jobs are accounted for side by side: the ledger
// writes them with few commits.
const accountingAtOnce = 64

// accountForAbsences records what became of every due time that passed while no
// server was there, and begins the runs that make up for them. If ctx ends, the
// rest is left to the next server: nothing of it has moved a watermark.
func (f *firing) accountForAbsences(ctx context.Context) {
	f.absences.mu.Lock()
	order, until := f.absences.order, f.absences.until
	jobs := make([]*absence, len(order))
	makingUp := 0
	for i, name := range order {
		jobs[i] = f.absences.jobs[name]
		if jobs[i].job.CatchUp == "all" {
			makingUp++
		}
	}
	f.absences.mu.Unlock()
	if len(jobs) == 0 {
		return
	}
	began := time.Now()
	var wg sync.WaitGroup
	slots := make(chan struct{}, accountingAtOnce)
	for _, of := range jobs {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f.accountFor(ctx, of, until, makingUp)
		})
	}
	wg.Wait()
	f.log.Info("accounted for what was due while no server was there", "jobs", len(jobs), "took", time.Since(began).Round(time.Millisecond))
}

// accountFor deals with one job's due times in (of.from, until], and then with
// what it has become due for since.
func (f *firing) accountFor(ctx context.Context, of *absence, until time.Time, makingUp int) {
	free := context.WithoutCancel(ctx)
	d := duesOf(of.job)
	again := toMakeUp(of, d, until, makingUp)
	missed := until
	if len(again) > 0 {
		missed = again[0].Add(-time.Second)
	}
	if span := d.in(of.from, missed); span.count > 0 {
		f.log.Warn("missed while no server was there", "job", of.job.Name, "count", span.count, "from", span.first, "to", span.last)
		unlock := f.deciding.lock(of.job.Name)
		f.skipRange(free, of.job, span, ledger.ReasonServerDown)
		unlock()
	}
	if len(again) > 0 {
		f.log.Info("making up for what was missed", "job", of.job.Name, "runs", len(again))
	}
	for i, due := range again {
		if ctx.Err() != nil {
			return
		}
		unlock := f.deciding.lock(of.job.Name)
		more := f.catchUp(free, of, again[i:], due, until)
		unlock()
		if !more {
			break
		}
	}
	defer f.deciding.lock(of.job.Name)()
	for ctx.Err() == nil {
		later := f.absences.settle(of.job.Name)
		if later == nil {
			return
		}
		f.fire(free, f.set.Load(), *later, wallNow())
	}
}

// catchUp begins one missed run, the first of those that are left. It is in the
// book from now on, queued, and starts when the job's earlier runs have ended:
// what is still to be made up for survives a restart, is seen in the status, and
// can be killed like any other. False: that was all.
func (f *firing) catchUp(ctx context.Context, of *absence, left []time.Time, due, now time.Time) bool {
	set := f.set.Load()
	job := set.Jobs[of.job.Name]
	reason := ""
	switch {
	case f.absences.isCancelled(of):
		reason = ledger.ReasonCancelled
	case job == nil || !job.Enabled:
		reason = ledger.ReasonServerDown
	}
	if reason != "" {
		f.skipRange(ctx, of.job, dueSpan{first: due, last: left[len(left)-1], count: int64(len(left))}, reason)
		return false
	}
	_, err := f.begin(ctx, set, job, beginning{due: due, now: now, trigger: ledger.TriggerCatchUp})
	f.settle(ctx, job, due, err)
	return true
}

// toMakeUp are the due times that get a run after all: the last ones, as many as
// the job wants, of those in its window.
func toMakeUp(of *absence, d *dues, until time.Time, makingUp int) []time.Time {
	again := d.latest(of.from, until, mostToMakeUp(of.job, makingUp))
	if of.job.CatchUpWindow > 0 {
		first := until.Add(-of.job.CatchUpWindow)
		again = slices.DeleteFunc(again, func(due time.Time) bool { return due.Before(first) })
	}
	return again
}

// Bounds of what is made up for: of one job, and of all jobs with catch_up: all
// together, each of which gets some. They all wait in the book and in memory.
const (
	mostMadeUp      = 1000
	mostMadeUpOfAll = 100_000
	leastMadeUp     = 10
)

// mostToMakeUp is how many of a job's missed runs are made up for at most.
func mostToMakeUp(job *config.Job, makingUp int) int {
	switch job.CatchUp {
	case "one":
		return 1
	case "all":
		return min(mostMadeUp, max(leastMadeUp, mostMadeUpOfAll/max(1, makingUp)))
	}
	return 0
}
