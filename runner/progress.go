package runner

import (
	"context"
	"slices"
	"sync"
	"time"

	"saltpeter/runner/ledger"
)

// progress knows how far each unfinished run has come: which of its tasks live,
// and which batches wait for them.
type progress struct {
	tasks   *tasks
	resting func() bool // maintenance: no run that waits as a whole is let go

	mu    sync.Mutex
	runs  map[string]*running
	swept time.Time
}

// running is one unfinished run.
type running struct {
	job     string
	due     time.Time
	held    bool            // it waits until the job's earlier runs have ended
	live    map[string]bool // machines whose task was launched and is not over
	waiting [][]taskSpec    // later batches, in order
	early   map[string]bool // while it is being read after a restart: whose task has ended meanwhile
}

func newProgress(ts *tasks, resting func() bool) *progress {
	return &progress{tasks: ts, resting: resting, runs: map[string]*running{}}
}

// begin takes a recorded run and launches its first batch.
func (p *progress) begin(ctx context.Context, run *ledger.Run, d definition) {
	r := newRunning(run, d)
	all := slices.Concat(r.waiting...)
	if len(all) == 0 {
		return
	}
	p.mu.Lock()
	p.add(run, r)
	p.mu.Unlock()
	p.tasks.queue(all)
	p.next(ctx, run.ID)
}

// newRunning makes batches of a run's queued tasks.
func newRunning(run *ledger.Run, d definition) *running {
	r := &running{job: run.Job, due: run.Due, live: map[string]bool{}}
	batches := map[int][]taskSpec{}
	last := 0
	for _, t := range run.Tasks {
		switch {
		case t.State == ledger.Queued:
			batches[t.Batch] = append(batches[t.Batch], d.spec(t))
			last = max(last, t.Batch)
		case !t.State.Done():
			r.live[t.Machine] = true
		}
	}
	for b := 0; b <= last; b++ {
		if len(batches[b]) > 0 {
			r.waiting = append(r.waiting, batches[b])
		}
	}
	return r
}

// add puts a run among the unfinished ones. One that makes up for a missed time
// waits for the job's others. The lock is held.
func (p *progress) add(run *ledger.Run, r *running) {
	r.held = run.Trigger == ledger.TriggerCatchUp && len(r.live) == 0 && p.busy(run.Job, run.ID)
	p.runs[run.ID] = r
}

// expect makes a run known that an earlier server left unfinished, before it is
// read: its tasks may end in between.
func (p *progress) expect(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs[id] = &running{early: map[string]bool{}}
}

// drop forgets what was expected in vain.
func (p *progress) drop(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.runs, id)
}

// resume takes a run that an earlier server left unfinished: live tasks are being
// re-adopted, queued ones wait their turn.
func (p *progress) resume(run *ledger.Run, d definition) {
	r := newRunning(run, d)
	p.mu.Lock()
	defer p.mu.Unlock()
	if was := p.runs[run.ID]; was != nil {
		for machine := range was.early {
			r.over(machine)
		}
	}
	if len(r.live) == 0 && len(r.waiting) == 0 {
		delete(p.runs, run.ID)
		return
	}
	p.add(run, r)
}

// busy reports whether a job has another run under way or waiting. One of which
// only lost tasks are left holds back nobody. The lock is held.
func (p *progress) busy(job, but string) bool {
	for id, r := range p.runs {
		if r.job == job && id != but && (len(r.waiting) > 0 || p.lives(id, r)) {
			return true
		}
	}
	return false
}

// lives reports whether a task of a run is under way; a lost one may be, and is
// not waited for. The lock is held.
func (p *progress) lives(id string, r *running) bool {
	for machine := range r.live {
		t := p.tasks.find(ledger.TaskID{Run: id, Machine: machine})
		if t == nil || t.record().State != ledger.Lost {
			return true
		}
	}
	return false
}

// release lets the earliest of a job's held runs go on and returns its name; ""
// if none may. The lock is held.
func (p *progress) release(job string) string {
	first := ""
	for id, r := range p.runs {
		switch {
		case r.job != job:
		case !r.held && (len(r.waiting) > 0 || p.lives(id, r)):
			return ""
		case r.held && (first == "" || r.due.Before(p.runs[first].due)):
			first = id
		}
	}
	if first == "" || p.resting() {
		return ""
	}
	p.runs[first].held = false
	return first
}

// next launches a run's next batch if nothing of it is under way, or the job's
// next run if nothing of this one is left.
func (p *progress) next(ctx context.Context, run string) {
	p.mu.Lock()
	r := p.runs[run]
	if r == nil || r.early != nil || r.held && len(r.waiting) > 0 || p.lives(run, r) {
		p.mu.Unlock()
		return
	}
	if len(r.waiting) == 0 {
		if len(r.live) == 0 {
			delete(p.runs, run)
		}
		released := p.release(r.job)
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

// sweepEach is how often runs are looked at that wait for what is told to nobody:
// that a task is lost, which is no end, or that maintenance is over.
const sweepEach = time.Second

// sweep goes on with what would wait in vain.
func (p *progress) sweep(ctx context.Context, now time.Time) {
	p.mu.Lock()
	if since := now.Sub(p.swept); since >= 0 && since < sweepEach {
		p.mu.Unlock()
		return
	}
	p.swept = now
	var stuck []string
	jobs := map[string]bool{}
	for id, r := range p.runs {
		switch {
		case r.held:
			jobs[r.job] = true
		case len(r.waiting) > 0 && len(r.live) > 0 && !p.lives(id, r):
			stuck = append(stuck, id)
		}
	}
	for job := range jobs {
		if id := p.release(job); id != "" {
			stuck = append(stuck, id)
		}
	}
	p.mu.Unlock()
	for _, id := range stuck {
		p.next(ctx, id)
	}
}

// taskEnded is the news that a task has reached its end, launched or not.
func (p *progress) taskEnded(ctx context.Context, t ledger.Task) {
	p.mu.Lock()
	r := p.runs[t.Run]
	switch {
	case r == nil:
	case r.early != nil:
		r.early[t.Machine] = true
	default:
		r.over(t.Machine)
	}
	p.mu.Unlock()
	p.next(ctx, t.Run)
}

// over takes a machine whose task has ended out of a run.
func (r *running) over(machine string) {
	delete(r.live, machine)
	for i, batch := range r.waiting {
		// A copy: a batch that is being launched must not change under its feet.
		r.waiting[i] = slices.DeleteFunc(slices.Clone(batch), func(s taskSpec) bool { return s.Task.Machine == machine })
	}
	r.waiting = slices.DeleteFunc(slices.Clone(r.waiting), func(batch []taskSpec) bool { return len(batch) == 0 })
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
		for _, s := range slices.Concat(r.waiting...) {
			ids = append(ids, s.Task.TaskID)
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
		NoWrapper: d.NoWrapper,
	}
}
