package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

// beginning is one firing on its way to a run.
type beginning struct {
	due, now time.Time
	trigger  string
	actor    Actor
	only     narrowing // for runs by hand
	force    bool
	retryOf  string
	audit    *ledger.AuditEntry // written down with the run, in the same step
}

// ofSchedule reports whether the run is the record of a due time.
func (b beginning) ofSchedule() bool {
	return b.trigger == ledger.TriggerSchedule || b.trigger == ledger.TriggerCatchUp
}

// begin starts a run, or says why not with a refusedFiring. The caller holds the
// job's decision lock.
func (f *firing) begin(ctx context.Context, set *config.Set, job *config.Job, b beginning) (*ledger.Run, error) {
	if set.Maintenance.Global && !b.force {
		return nil, &refusedFiring{ledger.ReasonMaintenance, f.maintenance().whyAll()}
	}
	waits := b.trigger == ledger.TriggerCatchUp // for the job's earlier runs, so they do not hold it back
	if job.OnOverlap != "allow" && !b.force && !waits {
		if live := f.tasks.live(job.Name); len(live) > 0 {
			return nil, &refusedFiring{ledger.ReasonOverlap, "still running: " + live[0].Run}
		}
	}
	// What is lost may still live: it holds back its own machine, and no other.
	lost := map[string]bool{}
	for _, id := range f.tasks.lost(job.Name) {
		lost[id.Machine] = true
	}
	p, err := place(set, job, b.only, lost, b.force)
	if err != nil {
		return nil, err
	}
	if len(p.machines) == 0 && len(p.left) > 0 {
		return nil, p.refused()
	}
	d := define(set, job, p.machines, f.localSpool)
	raw, err := d.encode()
	if err != nil {
		return nil, err
	}
	run := runOf(job, b, p, d)
	run.Definition = raw
	return f.open(ctx, run, d, b)
}

// runOf is the run that a placement makes, still without a name.
func runOf(job *config.Job, b beginning, p placement, d definition) *ledger.Run {
	run := &ledger.Run{
		Job: job.Name, Group: job.Group, Due: b.due, Fired: b.now, Trigger: b.trigger, By: b.actor.Who, RetryOf: b.retryOf,
		Tasks: make([]ledger.Task, 0, len(p.machines)+len(p.left)),
	}
	if len(p.machines) == 0 {
		run.Reason = ledger.ReasonNoMachines
		run.Detail = fmt.Sprintf("%s %q names no machine of the inventory", job.TargetType, job.Targets)
	}
	size := batchSize(job, len(p.machines))
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
	return run
}

// open records the run under a free name and sets its first batch going.
func (f *firing) open(ctx context.Context, run *ledger.Run, d definition, b beginning) (*ledger.Run, error) {
	base := fmt.Sprintf("%s_%d", run.Job, b.due.Unix())
	for n := 1; ; n++ {
		run.ID = base
		if n > 1 {
			run.ID = fmt.Sprintf("%s-%d", base, n)
		}
		for i := range run.Tasks {
			run.Tasks[i].Run = run.ID
		}
		events := []ledger.Event{ledger.Begun{Run: *run}}
		if b.ofSchedule() {
			events = append(events, watermark(run.Job, b.due))
		}
		if b.audit != nil {
			entry := *b.audit
			entry.Outcome = "started " + run.ID
			events = append(events, ledger.Audited{Entry: entry})
		}
		err := f.apply(ctx, run.Job, events...)
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
	f.tell(run)
	f.runs.begin(ctx, run, d)
	return run, nil
}

// tell shows a new run to those who watch.
func (f *firing) tell(run *ledger.Run) {
	shown := *run
	shown.Definition = nil
	f.tasks.o.Hub.publish(Change{Kind: ChangeRun, At: time.Now(), Run: &shown})
}

// refused says why a firing that names machines may use none of them.
func (p placement) refused() *refusedFiring {
	counts := map[string]int{}
	var reasons []string
	for _, l := range p.left {
		if counts[l.reason]++; counts[l.reason] == 1 {
			reasons = append(reasons, l.reason)
		}
	}
	if len(reasons) == 1 {
		return &refusedFiring{reasons[0], "on every machine that it names"}
	}
	for i, reason := range reasons {
		reasons[i] = fmt.Sprintf("%s on %d", reason, counts[reason])
	}
	return &refusedFiring{p.left[0].reason, strings.Join(reasons, ", ")}
}
