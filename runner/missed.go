package runner

import (
	"context"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

// mostAway is how long the server may have been away for runs that it had begun
// to go on with their later batches.
const mostAway = 10 * time.Minute

// away is how long no server was there, as far as the book tells.
func away(watermarks map[string]time.Time, now time.Time) time.Duration {
	up, known := watermarks[""]
	if !known {
		return 0
	}
	return max(0, now.Sub(up))
}

// resumeRuns goes on with the runs that an earlier server left unfinished, or
// says that what they had not launched yet is not launched any more.
func (f *firing) resumeRuns(ctx context.Context, unfinished []ledger.Task, away time.Duration, now time.Time) {
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
		f.runs.expect(id)
		run, err := f.ledger.Run(ctx, id)
		if err != nil {
			f.runs.drop(id)
			f.log.Error("cannot read an unfinished run", "run", id, "err", err)
			continue
		}
		d, err := decodeDefinition(run.Definition)
		// What is skipped must be out of the run before it goes on: the end of one
		// batch would launch the next.
		switch {
		case err != nil:
			f.log.Error("cannot go on with an unfinished run", "run", id, "err", err)
			f.tasks.skip(ctx, queued[id], ledger.ReasonError)
		case away > mostAway && len(queued[id]) > 0 && !stillWanted(f.set.Load(), run, now):
			f.log.Warn("a run's later tasks are skipped: the server was away for too long", "run", id, "tasks", len(queued[id]), "away", away.Round(time.Second))
			f.tasks.skip(ctx, queued[id], ledger.ReasonServerDown)
		}
		f.runs.resume(run, d)
	}
	for _, id := range runs {
		f.runs.next(ctx, id)
	}
}

// stillWanted reports whether a run that has launched nothing makes up for a time
// that its job would make up for again: then the absence is no reason to give it
// up, it is what it is for.
func stillWanted(set *config.Set, run *ledger.Run, now time.Time) bool {
	job := set.Jobs[run.Job]
	if run.Trigger != ledger.TriggerCatchUp || job == nil || !job.Enabled || job.CatchUp != "all" && job.CatchUp != "one" {
		return false
	}
	for _, t := range run.Tasks {
		if t.State != ledger.Queued && t.State != ledger.Skipped {
			return false
		}
	}
	return job.CatchUpWindow == 0 || !run.Due.Before(now.Add(-job.CatchUpWindow))
}

// onKill ends what a job would still make up for; what it had begun is killed
// task by task. It returns how many things that were.
func (f *firing) onKill(ctx context.Context, job string) int {
	jobs := []string{job}
	if job == "" {
		jobs = f.set.Load().Order
	}
	count := 0
	for _, name := range jobs {
		if f.absences.cancel(name) {
			count++
		}
		waiting := f.runs.waitingFor(name)
		count += len(waiting)
		f.tasks.skip(ctx, waiting, ledger.ReasonCancelled)
	}
	return count
}
