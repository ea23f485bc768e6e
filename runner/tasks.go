package runner

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// This file is the seam between the two halves of the room. The firing half
// decides what runs where and when; this half owns a task from the moment that
// it was begun in the ledger until nothing of it is left: launching, the news of
// its wrapper, kills, what became of it after a restart.
//
// What the firing half does, in order:
//
//  1. Ledger.Apply(Begun{run}) with all tasks of the run, queued;
//  2. queue(specs of every batch), so that they can be seen and killed;
//  3. launch(specs of the first batch);
//  4. in OnEnd: count, then launch the next batch, or skip what is left of it.
//
// It never applies an event to a task that it has handed over: skip does that.
// A task that is killed while it is queued comes through OnEnd like any other;
// launching it afterwards does nothing. Between Begun and queue a task is in
// nobody's live list: two decisions about one job must not run at once.

// taskSpec is one task with all that is needed to launch it and to reach it.
type taskSpec struct {
	Task      ledger.Task    // as begun: Run, Machine, Job, Batch, Transport
	Order     wire.Order     // all but Version, Server, URL, Pin and Task, which are filled in here
	Machine   launch.Machine // Machine.Transport says which road
	LostAfter time.Duration  // 0 = 5 min
	NoWrapper bool           // the transport runs the command itself
}

// taskOptions of the tasks half.
type taskOptions struct {
	Ledger      *ledger.Ledger
	Transports  map[string]launch.Transport
	MachinesURL func(launch.Machine) string
	// MachinesSocket is a unix socket that leads to the same place, for wrappers on
	// this machine; "" = none.
	MachinesSocket string
	Pin            string
	Log            *slog.Logger
	Hub            *hub

	// Adopt reports whether wrappers that another server started are taken over;
	// Group is the group of a job. nil: they are not, and it has none.
	Adopt func() bool
	Group func(job string) string

	// OnEnd is called once for each task after its end is durable; not for lost,
	// which is no end yet, and not for ends from before this process. No lock is
	// held: it may call launch and skip, and must not block for long.
	OnEnd func(ledger.Task)

	// OnKill is called before the tasks of a kill that is not restricted to
	// machines or states are chosen: what the job (run == "": every run of it;
	// job == "" too: everything) would still start must not start any more:
	// later batches (skip them with ledger.ReasonCancelled), retries, waiting and
	// catch-up runs. It returns how many things it ended, so that a kill that
	// found only those is no "nothing running". nil: nothing to end.
	OnKill func(job, run string) int
}

// tasks is every task that is not over, or whose wrapper may still have to say
// something. Its methods may be called from any goroutine.
//
// Locks, in the order in which they are taken: task.serial, task.outMu,
// tasks.mu, task.mu. serial orders what happens to one task and is held across
// its writes to the ledger; tasks.mu and task.mu guard memory only.
type tasks struct {
	o     taskOptions
	pace  pace
	life  context.Context // ends with run; what was started here watches it
	stop  context.CancelFunc
	write context.Context // of the ledger: what must be recorded is recorded
	wg    sync.WaitGroup

	reach   reach
	turns   slots   // kills on this machine over the connection
	scripts *places // kills over the other road
	checks  *places // questions over the other road

	foreigners foreigners

	mu     sync.Mutex
	closed bool
	all    map[ledger.TaskID]*task

	forgotten uint64 // how many have left all

	byJob  map[string]map[ledger.TaskID]*task
	lanes  map[string]*lane
	specOf func(ledger.Task) (taskSpec, error)
	tokens []expiry // of tasks that have ended, in order of expiry
}

func newTasks(o taskOptions) *tasks {
	ts := &tasks{
		o: o, pace: defaultPace,
		all: map[ledger.TaskID]*task{}, byJob: map[string]map[ledger.TaskID]*task{},
		lanes: map[string]*lane{},
		// Scripts on this machine share its processors with the jobs and with us: many
		// at once would make wrappers late to answer, and call for yet more scripts.
		// Of others sshd takes about ten commands on one connection.
		scripts: newPlaces(4, 256, 32, 8), turns: make(slots, killsAtOnce()), checks: newPlaces(16, 64, 16, 4),
	}
	ts.life, ts.stop = context.WithCancel(context.Background())
	ts.write = context.WithoutCancel(ts.life)
	return ts
}

// run does what time brings (silence, checks, timeouts, tokens that run out)
// until ctx ends, then waits for everything that was started here. Wrappers and
// their jobs go on.
func (ts *tasks) run(ctx context.Context) {
	tick := time.NewTicker(ts.pace.tick)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			ts.tick(time.Now())
		}
	}
	ts.mu.Lock()
	ts.closed = true
	ts.mu.Unlock()
	ts.stop()
	ts.wg.Wait()
	ts.closeOutputs()
}

// spawn runs f in a goroutine that run waits for. Once run is ending it starts
// nothing and says so.
func (ts *tasks) spawn(f func()) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.closed {
		return false
	}
	ts.wg.Go(f)
	return true
}

// queue makes queued tasks known without launching them: live, status and kill
// see them.
func (ts *tasks) queue(specs []taskSpec) {
	for i := range specs {
		t := ts.put(specs[i])
		t.changed()
	}
}

// launch starts tasks, queued before or not. It does not block: they wait for
// their turn, so many at a time for each transport.
func (ts *tasks) launch(ctx context.Context, specs []taskSpec) {
	for _, s := range specs {
		if ts.find(s.Task.TaskID) == nil {
			// It was never queued here, or it has ended since and left the memory.
			rec, err := ts.o.Ledger.Task(ctx, s.Task.TaskID)
			if err != nil {
				ts.o.Log.Error("cannot launch", "job", s.Task.Job, "run", s.Task.Run, "machine", s.Task.Machine, "err", err)
				continue
			}
			if over(rec.State) {
				continue
			}
			s.Task = *rec
		}
		ts.enqueue(ts.put(s))
	}
}

// skip ends queued tasks as skipped, for a reason of the ledger's list
// (ReasonCancelled for a kill, ReasonServerDown …). Those that are not queued any
// more are left alone.
func (ts *tasks) skip(_ context.Context, ids []ledger.TaskID, reason string) {
	for _, id := range ids {
		t := ts.find(id)
		if t == nil {
			continue
		}
		t.lock()
		if t.record().State == ledger.Queued {
			err := t.apply(ledger.Ended{Task: id, At: time.Now(), State: ledger.Skipped, Reason: reason})
			if err != nil {
				t.log().Error("cannot record that it is skipped", "err", err)
			}
		}
		t.unlock()
	}
}

// live lists the tasks of a job that hold back its next run as a whole: queued to
// stopping, disconnected or not. Neither lost ones (see liveOn) nor leftovers of
// ended tasks do.
func (ts *tasks) live(job string) []ledger.TaskID {
	return ts.list(job, func(r *ledger.Task) bool { return !r.State.Done() })
}

// liveOn lists what holds back the next run on one machine: live tasks, and lost
// ones, which hold back nothing elsewhere.
func (ts *tasks) liveOn(job, machine string) []ledger.TaskID {
	return ts.list(job, func(r *ledger.Task) bool { return !over(r.State) && r.Machine == machine })
}

// lost lists a job's lost tasks, for on_lost.
func (ts *tasks) lost(job string) []ledger.TaskID {
	return ts.list(job, func(r *ledger.Task) bool { return r.State == ledger.Lost })
}

// list is the tasks of a job that are wanted, in order of queueing.
func (ts *tasks) list(job string, want func(*ledger.Task) bool) []ledger.TaskID {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var found []*ledger.Task
	for _, t := range ts.byJob[job] {
		if rec := t.record(); want(&rec) {
			found = append(found, &rec)
		}
	}
	slices.SortFunc(found, byQueue)
	ids := make([]ledger.TaskID, len(found))
	for i, r := range found {
		ids[i] = r.TaskID
	}
	return ids
}

// over reports whether a state is a true end; lost is none.
func over(s ledger.State) bool { return s.Done() && s != ledger.Lost }

// find returns a task that is in memory, or nil.
func (ts *tasks) find(id ledger.TaskID) *task {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.all[id]
}

// put makes a task known, or returns the one that is, with its spec.
func (ts *tasks) put(s taskSpec) *task {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.all[s.Task.TaskID]
	if t == nil {
		t = ts.add(s.Task)
	}
	t.mu.Lock()
	t.spec, t.hasSpec = s, true
	t.mu.Unlock()
	return t
}

// add makes a recorded task known. The lock is held.
func (ts *tasks) add(rec ledger.Task) *task {
	t := &task{ts: ts, id: rec.TaskID, rec: rec, quiet: time.Now()}
	t.length.Store(rec.Length)
	t.wants.Store(noWant)
	ts.all[rec.TaskID] = t
	jobs := ts.byJob[rec.Job]
	if jobs == nil {
		jobs = map[ledger.TaskID]*task{}
		ts.byJob[rec.Job] = jobs
	}
	jobs[rec.TaskID] = t
	return t
}

// load returns a task, from the ledger where it is not in memory any more: its
// wrapper has come back late.
func (ts *tasks) load(ctx context.Context, id ledger.TaskID) (*task, error) {
	if t := ts.find(id); t != nil {
		return t, nil
	}
	return ts.know(ctx, id, nil, 0)
}

// know makes a task known that is not in memory, by what the ledger said of it when
// so many had been forgotten; nil: that is still to be read. A task may come, end
// and be forgotten after it was read: what was read before is then of the past, and
// would be followed, and even started again, as if it had not ended.
func (ts *tasks) know(ctx context.Context, id ledger.TaskID, rec *ledger.Task, forgotten uint64) (*task, error) {
	for {
		if rec == nil {
			ts.mu.Lock()
			forgotten = ts.forgotten
			ts.mu.Unlock()
			var err error
			if rec, err = ts.o.Ledger.Task(ctx, id); err != nil {
				return nil, err
			}
		}
		spec, hasSpec := ts.makeSpec(*rec)
		if t := ts.knowAs(*rec, spec, hasSpec, forgotten); t != nil {
			return t, nil
		}
		rec = nil
	}
}

// knowAs is one try of know; nil if the record may be of the past.
func (ts *tasks) knowAs(rec ledger.Task, spec taskSpec, hasSpec bool, forgotten uint64) *task {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.all[rec.TaskID]
	if t == nil {
		if ts.forgotten != forgotten {
			return nil
		}
		t = ts.add(rec)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.hasSpec {
		t.spec, t.hasSpec = spec, hasSpec
	}
	return t
}

// makeSpec asks for the taskSpec of a recorded task.
func (ts *tasks) makeSpec(rec ledger.Task) (taskSpec, bool) {
	ts.mu.Lock()
	of := ts.specOf
	ts.mu.Unlock()
	if of == nil {
		return taskSpec{}, false
	}
	spec, err := of(rec)
	if err != nil {
		ts.o.Log.Warn("cannot tell how a task was defined; it is followed without that", "job", rec.Job, "run", rec.Run, "machine", rec.Machine, "err", err)
		return taskSpec{}, false
	}
	spec.Task = rec
	return spec, true
}

// forgetIdle takes a task out of memory if nothing can come of it but a late
// word of its wrapper, which loads it again.
func (ts *tasks) forgetIdle(t *task) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.mu.Lock()
	idle := over(t.rec.State) && t.rec.Leftover == 0 && t.session == nil && t.checkAt.IsZero() && !t.checking &&
		(t.kill == nil || t.kill.settled) && time.Now().After(t.expected)
	job := t.rec.Job
	t.mu.Unlock()
	if !idle {
		return
	}
	if ts.all[t.id] == t {
		ts.forgotten++
		delete(ts.all, t.id)
		delete(ts.byJob[job], t.id)
		if len(ts.byJob[job]) == 0 {
			delete(ts.byJob, job)
		}
	}
}

// every is all tasks in memory.
func (ts *tasks) every() []*task {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	all := make([]*task, 0, len(ts.all))
	for _, t := range ts.all {
		all = append(all, t)
	}
	return all
}

func (ts *tasks) closeOutputs() {
	for _, t := range ts.every() {
		t.closeOutput()
	}
}

// byQueue orders tasks as they were queued.
func byQueue(a, b *ledger.Task) int {
	if c := a.Queued.Compare(b.Queued); c != 0 {
		return c
	}
	if a.Run != b.Run {
		return strings.Compare(a.Run, b.Run)
	}
	return strings.Compare(a.Machine, b.Machine)
}
