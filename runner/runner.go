// Package runner is the server's wing: when a job fires, where it goes, what
// each task's news means, and how a kill gets through.
//
// It has two halves with one seam (see tasks.go): firing decides what runs where
// and when; tasks owns everything that was begun, until nothing of it is left.
// api and cmd come in here. What goes out: events into runner/ledger, orders and
// questions to machines through runner/launch, frames to wrappers through wsx,
// and changes to whoever watches.
package runner

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"saltpeter/config"
	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
)

// Options of a Runner.
type Options struct {
	Ledger     *ledger.Ledger
	Transports map[string]launch.Transport // by name: local, ssh, salt
	Config     *config.Set
	// MachinesURL is the base that the wrappers of a machine dial
	// ("wss://127.0.0.1:8889"); Pin goes with it.
	MachinesURL func(launch.Machine) string
	// MachinesSocket is a unix socket that leads there too, for wrappers on this
	// machine; "" = none.
	MachinesSocket string
	// Holder keeps the tunnels of machines that cannot dial; nil: there are none.
	Holder     launch.Holder
	Pin        string
	LocalSpool string // where wrappers on this machine spool; "" = where they choose
	Log        *slog.Logger
}

// Runner is the two halves together.
type Runner struct {
	o      Options
	hub    *hub
	tasks  *tasks
	firing *firing
	ready  atomic.Bool
}

// New makes a Runner. Its Handler takes connections from then on; nothing fires
// and nothing is adopted before Run.
func New(o Options) *Runner {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Runner{o: o, hub: newHub()}
	r.tasks = newTasks(taskOptions{
		Ledger: o.Ledger, Transports: o.Transports, MachinesURL: o.MachinesURL, MachinesSocket: o.MachinesSocket, Pin: o.Pin, Log: o.Log, Hub: r.hub,
		Adopt: func() bool { return r.firing.set.Load().Settings.AdoptUnknown },
		Group: func(job string) string {
			if j := r.firing.set.Load().Jobs[job]; j != nil {
				return j.Group
			}
			return ""
		},
		OnEnd: func(t ledger.Task) { r.firing.runs.taskEnded(context.Background(), t) },
		OnKill: func(job, run string) int {
			if run != "" {
				return 0 // all that a run still has to do are its queued tasks, which are killed like the others
			}
			return r.firing.onKill(context.Background(), job)
		},
	})
	r.firing = newFiring(o.Ledger, r.tasks, o.Config, o.Log)
	r.firing.localSpool = o.LocalSpool
	return r
}

// Run re-adopts unfinished tasks, then schedules until ctx ends. It returns when
// everything it started has; wrappers and their jobs go on.
func (r *Runner) Run(ctx context.Context) error {
	defer r.hub.close()
	unfinished, err := r.o.Ledger.Unfinished(ctx)
	if err != nil {
		return err
	}
	r.tasks.adopt(ctx, unfinished, r.specOf(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	tasksCtx, stopTasks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTasks()
	wg.Go(func() { r.tasks.run(tasksCtx) })
	if r.o.Holder != nil {
		r.hold(r.Config())
		wg.Go(func() { r.o.Holder.Run(tasksCtx) })
	}
	if err := r.firing.start(ctx, unfinished); err != nil {
		return err
	}
	wg.Go(func() { r.firing.keepWatermark(ctx) })
	r.ready.Store(true)
	defer r.ready.Store(false)
	r.firing.loop(ctx) // decides nothing more once it has returned: then the tasks may stop
	return nil
}

// Ready reports whether the unfinished tasks of an earlier server are taken over
// and the schedule runs.
func (r *Runner) Ready() bool { return r.ready.Load() }

// specOf makes the taskSpec of a recorded task from what its run was defined as.
func (r *Runner) specOf(ctx context.Context) func(ledger.Task) (taskSpec, error) {
	ctx = context.WithoutCancel(ctx)
	var mu sync.Mutex
	var last string // tasks of one run come one after the other
	var of definition
	return func(t ledger.Task) (taskSpec, error) {
		mu.Lock()
		defer mu.Unlock()
		if t.Run != last {
			run, err := r.o.Ledger.Run(ctx, t.Run)
			if err != nil {
				return taskSpec{}, err
			}
			d, err := decodeDefinition(run.Definition)
			if err != nil {
				return taskSpec{}, err
			}
			last, of = t.Run, d
		}
		return of.spec(t), nil
	}
}

// SetConfig puts a new Set in force; running tasks keep their definition.
func (r *Runner) SetConfig(s *config.Set) {
	r.firing.setConfig(context.Background(), s)
	r.hold(s)
	r.hub.publish(Change{Kind: ChangeConfig, At: time.Now()})
}

// Config is the Set in force: what the files say, and what people hold back beside
// it.
func (r *Runner) Config() *config.Set { return r.firing.set.Load() }

// Handler is what stands behind the machines listener.
func (r *Runner) Handler() wsx.Handler { return handler{r.tasks} }

// Actor is who asks, for the audit log.
type Actor struct{ Who, From string }

// StartRequest is a run by hand.
type StartRequest struct {
	Job      string
	Machines []string // names or globs that restrict the targets
	Force    bool     // in spite of maintenance and overlap
	RetryOf  string   // run id: only its failed machines
}

// Start starts a job now. Errors are *Refusal for what a person can mend.
func (r *Runner) Start(ctx context.Context, a Actor, q StartRequest) (*ledger.Run, error) {
	return r.firing.startNow(ctx, a, q)
}

// Refusal is a request that was not carried out and changed nothing.
type Refusal struct {
	Code string // stable: no_such_job, no_such_run, nothing_running, maintenance, overlap, ambiguous, no_machines, bad_request
	Text string
	Hint string
}

func (e *Refusal) Error() string { return e.Text }

// selected resolves a Selector.
func (r *Runner) selected(ctx context.Context, q Selector) (selection, error) {
	return q.resolve(r.knowsJob(ctx), r.knowsRun(ctx))
}

// Kill asks for the end of every selected task. The receipts come as they are
// settled; the channel is closed after the last. The kills go on if ctx ends.
func (r *Runner) Kill(ctx context.Context, a Actor, s Selector, o KillOptions) (<-chan Receipt, error) {
	chosen, err := r.selected(ctx, s)
	if err != nil {
		return nil, err
	}
	return r.tasks.kill(ctx, a, chosen, o)
}

// Pause freezes every selected task, at most for ttl (0: until resumed).
func (r *Runner) Pause(ctx context.Context, a Actor, s Selector, ttl time.Duration) (<-chan Answer, error) {
	chosen, err := r.selected(ctx, s)
	if err != nil {
		return nil, err
	}
	return r.tasks.pause(ctx, a, chosen, ttl)
}

// Resume thaws every selected task.
func (r *Runner) Resume(ctx context.Context, a Actor, s Selector) (<-chan Answer, error) {
	chosen, err := r.selected(ctx, s)
	if err != nil {
		return nil, err
	}
	return r.tasks.resume(ctx, a, chosen)
}

// Signal sends one signal to every selected task: to its main process, or with
// scope "all" to all of its processes.
func (r *Runner) Signal(ctx context.Context, a Actor, s Selector, signal, scope string) (<-chan Answer, error) {
	chosen, err := r.selected(ctx, s)
	if err != nil {
		return nil, err
	}
	return r.tasks.signal(ctx, a, chosen, signal, scope)
}

// Forget gives up the lost tasks of a run.
func (r *Runner) Forget(ctx context.Context, a Actor, run string) error {
	if _, err := r.selected(ctx, Selector{Run: run}); err != nil {
		return err
	}
	return r.tasks.forget(ctx, a, run)
}

// JobStatus is one job as the scheduler sees it.
type JobStatus struct {
	Name    string      `json:"name"`
	Group   string      `json:"group"`
	Next    time.Time   `json:"next,omitzero"`     // zero = never
	Blocked string      `json:"blocked,omitempty"` // maintenance, disabled, overlap: what keeps it from firing
	Last    *ledger.Run `json:"last,omitempty"`
}

// Status is one consistent look at everything.
type Status struct {
	Now    time.Time    `json:"now"`
	Jobs   []JobStatus  `json:"jobs"`
	Tasks  []TaskStatus `json:"tasks"` // live ones, lost ones, and those with leftovers or a standing kill
	Serial string       `json:"serial"`
}

// Status looks at everything.
func (r *Runner) Status(ctx context.Context) (Status, error) {
	now := time.Now()
	jobs, err := r.firing.jobStatuses(ctx)
	if err != nil {
		return Status{}, err
	}
	return Status{Now: now, Jobs: jobs, Tasks: r.tasks.status(now), Serial: r.Config().Serial}, nil
}

// Watch sends every change from now on. A watcher that is slower than its buffer
// is closed (the channel), so that it starts again from a fresh Status; it never
// holds anybody up. Output changes are merged per task.
func (r *Runner) Watch(ctx context.Context, buffer int) <-chan Change {
	return r.hub.watch(ctx, buffer)
}
