package runner

import (
	"context"
	"sync"
	"time"

	"saltpeter/runner/ledger"
)

// progress knows how far each unfinished run has come: which of its tasks live,
// and which batches wait for them.
type progress struct {
	tasks *tasks
	mu    sync.Mutex
	runs  map[string]*running
}

// running is one unfinished run.
type running struct {
	job     string
	due     time.Time
	held    bool            // it waits until the job's earlier runs have ended
	live    map[string]bool // machines whose task was launched and is not done
	waiting [][]taskSpec    // later batches, in order
}

func newProgress(ts *tasks) *progress {
	return &progress{tasks: ts, runs: map[string]*running{}}
}

// begin takes a recorded run and launches its first batch.
func (p *progress) begin(ctx context.Context, run *ledger.Run, d definition) {
	r := &running{job: run.Job, due: run.Due, live: map[string]bool{}}
	var all []taskSpec
	batch := -1
	for _, t := range run.Tasks {
		if t.State != ledger.Queued {
			continue
		}
		spec := d.spec(t)
		all = append(all, spec)
		if t.Batch != batch || len(r.waiting) == 0 {
			r.waiting = append(r.waiting, nil)
			batch = t.Batch
		}
		r.waiting[len(r.waiting)-1] = append(r.waiting[len(r.waiting)-1], spec)
	}
	if len(all) == 0 {
		return
	}
	p.mu.Lock()
	r.held = run.Trigger == ledger.TriggerCatchUp && p.busy(run.Job)
	p.runs[run.ID] = r
	p.mu.Unlock()
	p.tasks.queue(all)
	p.next(ctx, run.ID)
}

// resume takes a run that an earlier server left unfinished: live tasks are
// being re-adopted, queued ones wait their turn.
func (p *progress) resume(run *ledger.Run, d definition) {
	r := &running{job: run.Job, due: run.Due, live: map[string]bool{}}
	byBatch := map[int][]taskSpec{}
	last := 0
	for _, t := range run.Tasks {
		switch {
		case t.State == ledger.Queued:
			byBatch[t.Batch] = append(byBatch[t.Batch], d.spec(t))
			last = max(last, t.Batch)
		case !t.State.Done():
			r.live[t.Machine] = true
		}
	}
	for b := 0; b <= last; b++ {
		if len(byBatch[b]) > 0 {
			r.waiting = append(r.waiting, byBatch[b])
		}
	}
	if len(r.live) == 0 && len(r.waiting) == 0 {
		return
	}
	p.mu.Lock()
	r.held = run.Trigger == ledger.TriggerCatchUp && len(r.live) == 0 && p.busy(run.Job)
	p.runs[run.ID] = r
	p.mu.Unlock()
}

// busy reports whether a job has a run under way. The lock is held.
func (p *progress) busy(job string) bool {
	for _, r := range p.runs {
		if r.job == job {
			return true
		}
	}
	return false
}

// release lets the earliest of a job's held runs go on and returns its name. The
// lock is held.
func (p *progress) release(job string) string {
	first := ""
	for id, r := range p.runs {
		if r.job == job && r.held && (first == "" || r.due.Before(p.runs[first].due)) {
			first = id
		}
	}
	if first != "" {
		p.runs[first].held = false
	}
	return first
}

// next launches a run's next batch if nothing of it is under way.
func (p *progress) next(ctx context.Context, run string) {
	p.mu.Lock()
	r := p.runs[run]
	if r == nil || len(r.live) > 0 || r.held && len(r.waiting) > 0 {
		p.mu.Unlock()
		return
	}
	if len(r.waiting) == 0 {
		delete(p.runs, run)
		released := ""
		if !r.held {
			released = p.release(r.job)
		}
		p.mu.Unlock()
		if released != "" {
			p.next(ctx, released)
		}
		return
	}
	batch := r.waiting[0]
	r.waiting = r.waiting[1:]
	for _, s := range batch {
		r.live[s.Task.Machine] = true
	}
	p.mu.Unlock()
	p.tasks.launch(ctx, batch)
}

// taskEnded is the news that a task has reached its end, launched or not.
func (p *progress) taskEnded(ctx context.Context, t ledger.Task) {
	p.mu.Lock()
	r := p.runs[t.Run]
	if r == nil {
		p.mu.Unlock()
		return
	}
	delete(r.live, t.Machine)
	for i, batch := range r.waiting {
		for j, s := range batch {
			if s.Task.Machine == t.Machine {
				r.waiting[i] = append(batch[:j:j], batch[j+1:]...)
				break
			}
		}
	}
	for len(r.waiting) > 0 && len(r.waiting[0]) == 0 {
		r.waiting = r.waiting[1:]
	}
	p.mu.Unlock()
	p.next(ctx, t.Run)
}

// waitingFor is the tasks of a job's runs that are held until earlier ones end.
func (p *progress) waitingFor(job string) []ledger.TaskID {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []ledger.TaskID
	for _, r := range p.runs {
		if r.job != job || !r.held {
			continue
		}
		for _, batch := range r.waiting {
			for _, s := range batch {
				ids = append(ids, s.Task.TaskID)
			}
		}
	}
	return ids
}

// spec is what the tasks half needs to launch one task of this definition.
func (d definition) spec(t ledger.Task) taskSpec {
	return taskSpec{
		Task:      t,
		Order:     d.order(t.Run, t.Machine),
		Machine:   d.Machines[t.Machine],
		LostAfter: d.LostAfter,
	}
}

// away is how long no server was there, as far as the book tells.
func away(watermarks map[string]time.Time, now time.Time) time.Duration {
	up, known := watermarks[""]
	if !known {
		return 0
	}
	return max(0, now.Sub(up))
}
