package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

// mostCaughtUp bounds how many missed runs of one job are made up for.
const mostCaughtUp = 1000

// accountForAbsence records what became of every due time that passed while no
// server was there, and begins the runs that make up for them.
func (f *firing) accountForAbsence(ctx context.Context, set *config.Set, watermarks map[string]time.Time, now time.Time) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, name := range set.Order {
		job := set.Jobs[name]
		from, known := watermarks[name]
		if !known || job.Schedule == nil || !job.Enabled || !from.Before(now) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f.accountFor(ctx, set, job, from, now)
		})
	}
	wg.Wait()
}

// accountFor deals with one job's due times in (from, now].
func (f *firing) accountFor(ctx context.Context, set *config.Set, job *config.Job, from, now time.Time) {
	window := from
	wanted := 0
	switch job.CatchUp {
	case "one":
		wanted = 1
	case "all":
		wanted = mostCaughtUp
	}
	if job.CatchUpWindow > 0 && now.Add(-job.CatchUpWindow).After(from) {
		window = now.Add(-job.CatchUpWindow)
	}
	var again []time.Time
	if wanted > 0 {
		again = lastDues(job.Schedule, window, now, wanted)
	}
	until := now
	if len(again) > 0 {
		until = again[0].Add(-time.Nanosecond)
	}
	if span := countDue(job.Schedule, from, until); span.count > 0 {
		detail := ""
		if span.more {
			detail = fmt.Sprintf("at least %d, counted no further", span.count)
		}
		f.write(ctx, []ledger.Event{
			skipped(job, span.first, span.last, span.count, ledger.ReasonServerDown, detail),
			watermark(job.Name, span.last),
		})
		f.log.Warn("missed while no server was there", "job", job.Name, "count", span.count, "from", span.first, "to", span.last)
	}
	if len(again) > 0 {
		f.log.Info("making up for what was missed", "job", job.Name, "runs", len(again))
	}
	for _, due := range again {
		f.catchUp(ctx, set, job, due, now)
	}
}

// catchUp begins one missed run. It is in the book from now on, queued, and
// starts when the job's earlier runs have ended: what is still to be made up for
// survives a restart, is seen in the status, and can be killed like any other.
func (f *firing) catchUp(ctx context.Context, set *config.Set, job *config.Job, due, now time.Time) {
	defer f.deciding.lock(job.Name)()
	_, err := f.begin(ctx, set, job, beginning{due: due, now: now, trigger: ledger.TriggerCatchUp}, nil)
	if err == nil || errors.Is(err, ledger.ErrExists) {
		return
	}
	reason, detail := ledger.ReasonError, err.Error()
	var refused *refusedFiring
	if errors.As(err, &refused) {
		reason, detail = refused.reason, refused.detail
	}
	f.write(ctx, []ledger.Event{skipped(job, due, due, 1, reason, detail), watermark(job.Name, due)})
}

// lastDues are the last n due times in (from, until], in order.
func lastDues(s config.Schedule, from, until time.Time, n int) []time.Time {
	var ring []time.Time
	counted := 0
	for t := s.Next(from); !t.IsZero() && !t.After(until) && counted < mostCounted; t = s.Next(t) {
		counted++
		if len(ring) == n {
			copy(ring, ring[1:])
			ring = ring[:n-1]
		}
		ring = append(ring, t)
	}
	return ring
}

// mostAway is how long the server may have been away for runs that it had begun
// to go on with their later batches.
const mostAway = 10 * time.Minute

// resumeRuns goes on with the runs that an earlier server left unfinished, or
// says that what they had not launched yet is not launched any more.
func (f *firing) resumeRuns(ctx context.Context, unfinished []ledger.Task, away time.Duration) {
	queued := map[string][]ledger.TaskID{}
	seen := map[string]bool{}
	var runs []string
	for _, t := range unfinished {
		if !seen[t.Run] {
			seen[t.Run] = true
			runs = append(runs, t.Run)
		}
		if t.State == ledger.Queued {
			queued[t.Run] = append(queued[t.Run], t.TaskID)
		}
	}
	for _, id := range runs {
		if away > mostAway && len(queued[id]) > 0 {
			f.log.Warn("a run's later tasks are skipped: the server was away for too long", "run", id, "tasks", len(queued[id]), "away", away.Round(time.Second))
			f.tasks.skip(ctx, queued[id], ledger.ReasonServerDown)
		}
		run, err := f.ledger.Run(ctx, id)
		if err != nil {
			f.log.Error("cannot read an unfinished run", "run", id, "err", err)
			continue
		}
		d, err := decodeDefinition(run.Definition)
		if err != nil {
			f.log.Error("cannot go on with an unfinished run", "run", id, "err", err)
			continue
		}
		f.runs.resume(run, d)
	}
	for _, id := range runs {
		f.runs.next(ctx, id)
	}
}

// onKill ends what a job would still make up for; what it had begun is killed
// task by task. It returns how many tasks that were.
func (f *firing) onKill(ctx context.Context, job string) int {
	jobs := []string{job}
	if job == "" {
		jobs = f.set.Load().Order
	}
	count := 0
	for _, name := range jobs {
		waiting := f.runs.waitingFor(name)
		count += len(waiting)
		f.tasks.skip(ctx, waiting, ledger.ReasonCancelled)
	}
	return count
}
