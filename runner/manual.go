package runner

import (
	"context"
	"errors"
	"fmt"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

// Codes of a Refusal. They are stable: scripts look at them.
const (
	CodeNoSuchJob      = "no_such_job"
	CodeNoSuchRun      = "no_such_run"
	CodeNothingRunning = "nothing_running"
	CodeMaintenance    = "maintenance"
	CodeOverlap        = "overlap"
	CodeAmbiguous      = "ambiguous"
	CodeNoMachines     = "no_machines"
	CodeBadRequest     = "bad_request"
)

// startNow is a run by hand. It is written to the audit log whatever comes of it.
func (f *firing) startNow(ctx context.Context, a Actor, q StartRequest) (*ledger.Run, error) {
	entry := ledger.AuditEntry{At: wallNow(), Who: a.Who, From: a.From, What: "run", Target: q.Job}
	run, err := f.tryStart(ctx, a, &q, &entry)
	if err == nil {
		return run, nil // written down together with the run: one fsync less before it starts
	}
	entry.Target, entry.Outcome = q.Job, err.Error()
	defer f.deciding.lock("")()
	f.write(ctx, "", ledger.Audited{Entry: entry})
	return run, err
}

// tryStart starts a run by hand; it fills in the job of a retry. The entry of the
// audit log is written with the run.
func (f *firing) tryStart(ctx context.Context, a Actor, q *StartRequest, entry *ledger.AuditEntry) (*ledger.Run, error) {
	b := beginning{trigger: ledger.TriggerManual, actor: a, only: narrowing{globs: q.Machines}, force: q.Force, retryOf: q.RetryOf, audit: entry}
	if q.RetryOf != "" {
		b.trigger = ledger.TriggerRetry
		var err error
		if b.only.exact, err = f.failedMachines(ctx, q); err != nil {
			return nil, err
		}
	}
	set := f.set.Load()
	job := set.Jobs[q.Job]
	if job == nil {
		return nil, noSuchJob(set, q.Job)
	}
	entry.Target = q.Job
	defer f.deciding.lock(job.Name)()
	b.now = wallNow()
	b.due = b.now
	run, err := f.begin(ctx, set, job, b)
	var refused *refusedFiring
	if errors.As(err, &refused) {
		refusal := refused.refusal(job.Name)
		if refusal.Code == CodeMaintenance {
			refusal.Hint = f.maintenance().toRunNow()
		}
		return nil, refusal
	}
	return run, err
}

// refusal says to a person what a firing that was held back would have recorded.
func (e *refusedFiring) refusal(job string) *Refusal {
	why := ""
	if e.detail != "" {
		why = " (" + e.detail + ")"
	}
	switch e.reason {
	case ledger.ReasonMaintenance:
		return &Refusal{Code: CodeMaintenance, Text: fmt.Sprintf("cannot run %q: maintenance is on%s", job, why),
			Hint: "take it out of saltpeter_maintenance, or add --force"}
	case ledger.ReasonOverlap:
		return &Refusal{Code: CodeOverlap, Text: fmt.Sprintf("cannot run %q: an earlier run of it is not over%s", job, why),
			Hint: fmt.Sprintf("see it with `saltpeter status %s`, end it with `saltpeter kill %s`, or add --force", job, job)}
	case ledger.ReasonDisabled:
		return &Refusal{Code: CodeNoMachines, Text: fmt.Sprintf("cannot run %q: its machines are disabled%s", job, why),
			Hint: "see `saltpeter machines`"}
	}
	return &Refusal{Code: CodeBadRequest, Text: fmt.Sprintf("cannot run %q: %s", job, e.detail), Hint: "mend the job, see `saltpeter check`"}
}

// noSuchJob names the nearest job that there is, since most are typing errors.
func noSuchJob(set *config.Set, name string) *Refusal {
	r := &Refusal{Code: CodeNoSuchJob, Text: fmt.Sprintf("there is no job %q", name), Hint: "`saltpeter status` lists the jobs"}
	best, distance := "", 3
	for _, other := range set.Order {
		if d := editDistance(name, other); d < distance {
			best, distance = other, d
		}
	}
	if best != "" {
		r.Hint = fmt.Sprintf("did you mean %q?", best)
	}
	return r
}

// editDistance counts the letters to change, add or take away.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// failedMachines are those of an earlier run whose task did not succeed. The job of
// the request is filled in.
func (f *firing) failedMachines(ctx context.Context, q *StartRequest) ([]string, error) {
	run, err := f.ledger.Run(ctx, q.RetryOf)
	if errors.Is(err, ledger.ErrNoRun) {
		return nil, &Refusal{Code: CodeNoSuchRun, Text: fmt.Sprintf("there is no run %q", q.RetryOf), Hint: "`saltpeter history` lists the runs"}
	}
	if err != nil {
		return nil, err
	}
	if q.Job == "" {
		q.Job = run.Job
	}
	if q.Job != run.Job {
		return nil, &Refusal{Code: CodeBadRequest, Text: fmt.Sprintf("run %q is one of job %q, not of %q", q.RetryOf, run.Job, q.Job), Hint: "name the run's own job, or none"}
	}
	var failed []string
	for _, t := range run.Tasks {
		if t.State.Done() && t.State != ledger.Succeeded && t.State != ledger.Skipped {
			failed = append(failed, t.Machine)
		}
	}
	if len(failed) == 0 {
		return nil, &Refusal{Code: CodeNoMachines, Text: fmt.Sprintf("run %q failed on no machine", q.RetryOf), Hint: "run the whole job with `saltpeter run`"}
	}
	return failed, nil
}
