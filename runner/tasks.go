package runner

import (
	"context"
	"log/slog"
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
//  2. queue(specs of later batches), so that they can be seen and killed;
//  3. launch(specs of the first batch);
//  4. in onEnd: count, then launch the next batch, or skip what is left of it.
//
// It never applies an event to a task that it has handed over: skip does that.

// taskSpec is one task with all that is needed to launch it and to reach it.
type taskSpec struct {
	Task      ledger.Task    // as begun: Run, Machine, Job, Batch, Transport
	Order     wire.Order     // all but Version, Server, URL, Pin and Task, which are filled in here
	Machine   launch.Machine // Machine.Transport says which road
	LostAfter time.Duration  // 0 = 5 min
}

// taskOptions of the tasks half.
type taskOptions struct {
	Ledger      *ledger.Ledger
	Transports  map[string]launch.Transport
	MachinesURL func(transport string) string
	Pin         string
	Log         *slog.Logger
	Hub         *hub

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
// tasks.mu, task.mu. serial may be held across a write to the ledger, the
// others never are.
type tasks struct {
	o taskOptions

	mu sync.Mutex
}

func newTasks(o taskOptions) *tasks { return &tasks{o: o} }

// run does what time brings (silence, checks, timeouts, tokens that run out)
// until ctx ends, then waits for everything that was started here. Wrappers and
// their jobs go on.
func (ts *tasks) run(ctx context.Context) { panic("stub") }

// adopt takes over every unfinished task of an earlier server (from
// Ledger.Unfinished), at start, before run. Tasks that are still queued are only
// entered: the firing half launches or skips them. spec makes the taskSpec of a
// recorded task from its run's definition; it is kept for tasks that come back
// later. A task whose spec cannot be made is still followed, on the road of its
// recorded transport.
func (ts *tasks) adopt(ctx context.Context, unfinished []ledger.Task, spec func(ledger.Task) (taskSpec, error)) {
	panic("stub")
}

// queue makes queued tasks known without launching them: live, status and kill
// see them.
func (ts *tasks) queue(specs []taskSpec) { panic("stub") }

// launch starts tasks, entered or not. It does not block: they wait for their
// turn, so many at a time for each transport.
func (ts *tasks) launch(ctx context.Context, specs []taskSpec) { panic("stub") }

// skip ends queued tasks as skipped, for a reason of the ledger's list
// (ReasonCancelled for a kill, ReasonServerDown …). Those that are not queued any
// more are left alone.
func (ts *tasks) skip(ctx context.Context, ids []ledger.TaskID, reason string) { panic("stub") }

// live lists the tasks of a job that count for overlap: queued to stopping,
// disconnected and lost ones. Leftovers of ended tasks do not count.
func (ts *tasks) live(job string) []ledger.TaskID { panic("stub") }

// liveOn is live on one machine: a lost task holds back the next run there, and
// only there.
func (ts *tasks) liveOn(job, machine string) []ledger.TaskID { panic("stub") }

// lost lists those of live that are lost: for on_lost.
func (ts *tasks) lost(job string) []ledger.TaskID { panic("stub") }

// status is the tasks' part of Status, in order of queueing.
func (ts *tasks) status(now time.Time) []TaskStatus { panic("stub") }

// kill asks for the end of the selected tasks; see Runner.Kill.
func (ts *tasks) kill(ctx context.Context, a Actor, s selection, o KillOptions) (<-chan Receipt, error) {
	panic("stub")
}
