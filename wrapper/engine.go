package wrapper

import (
	"context"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// engine owns the processes of one task: it starts them, reaps them, signals
// them, and says when nothing is left of them. It is the only one in its process
// that may wait for children, since as subreaper it waits for any.
//
// One goroutine (run) owns everything below the line; the exported-looking
// methods hand it closures and take its news from the events channel, so a slow
// reader of events delays no kill.
type engine struct {
	order    *wire.Order
	debugf   func(format string, args ...any)
	identity wire.Identity

	mu    sync.Mutex
	queue []func()
	wake  chan struct{} // one token: the queue is not empty

	events chan engineEvent
	quit   chan struct{}
	closed sync.Once
	done   chan struct{} // run has returned
	child  chan os.Signal

	// ---- owned by run ----
	gate   *os.File // nil once opened or shut
	lock   *jobLock
	cg     *taskCgroup
	nets   *nets
	outbox []engineEvent
	wakeAt time.Time

	opened      time.Time // zero: no user code has run
	mainEnded   bool      // reaped: code and time are fixed
	mainStatus  unix.WaitStatus
	mainEndedAt time.Time
	cause       string // the first that struck, "" = none
	never       bool   // killed before the gate opened
	codeUnknown bool   // the main process is gone, but a stranger that traces it keeps its code
	empty       bool   // a look after the main process's end found nobody alive
	finished    bool
	end         wire.End
	sentMain    map[unix.Signal]bool // by `signal`, for the cause of a death
	hurried     bool                 // the thread is locked and runs before others

	kill     *killing
	leftover leftovers
	pause    pausing
}

type engineOptions struct {
	Order          *wire.Order
	Stdout, Stderr *os.File                         // write ends for the job (the same file unless streams are separate); engine closes its copies after fork
	Debugf         func(format string, args ...any) // wrapper log lines
}

// launchError is a start that failed before any user code ran: 255, launch_failed.
type launchError struct{ why string }

func (e *launchError) Error() string { return e.why }

// killRequest is one wish to end the job. A second one shortens the first.
type killRequest struct {
	ID     string
	Cause  string         // wire.CauseKill, CauseTimeout, CauseTerminated
	Signal string         // "" = order's, else TERM
	Grace  *time.Duration // nil = order's
}

// engineEvent is news from the engine, in order, on one channel.
type engineEvent struct {
	Kind   eventKind
	ID     string      // of the kill that a report answers
	Report wire.Report // eventReport, eventLeftover
	End    wire.End    // eventExited: code, signal, cause, phase, elapsed as fixed at the shell's exit; eventGone: with proof
}

type eventKind int

const (
	eventExited   eventKind = iota // the main process ended: code and time are fixed
	eventReport                    // a kill's answer: gone with proof, or alive (again when corrected)
	eventLeftover                  // the number of leftovers changed (Report.Leftover), 0: nothing of the task is left
	eventGone                      // after eventExited: nothing of the task is left; the engine is finished, the channel closes
)

// Identity names the job's processes.
func (e *engine) Identity() wire.Identity { return e.identity }

// Events is the engine's news in order. After a normal end the channel closes
// behind eventGone. With `leftover: wait` the order's eventExited comes at the
// shell's exit all the same: who reports holds `complete` back until eventGone.
func (e *engine) Events() <-chan engineEvent { return e.events }

// Open opens the gate: the command runs as the same PID. No-op after a kill.
func (e *engine) Open() { e.ask(e.openGate) }

// Kill never blocks. Its reports come through Events, one for each request, all
// of them before eventGone; a request that comes after that has no answer here.
func (e *engine) Kill(r killRequest) { e.post(func() { e.askKill(r) }) }

// Signal sends one signal to the main process or to all, and escalates nothing.
func (e *engine) Signal(id, signal, scope string) (r wire.Report) {
	r = wire.Report{Op: "signal", Outcome: wire.OutcomeNotRunning, Signal: signal, Error: errOver}
	e.ask(func() { r = e.signal(signal, scope) })
	return r
}

// Pause stops the job's processes, for ttl or (0) until Resume.
func (e *engine) Pause(id string, ttl time.Duration) (r wire.Report) {
	r = wire.Report{Op: "pause", Outcome: wire.OutcomeNotRunning, Error: errOver}
	e.ask(func() { r = e.pauseAll(ttl) })
	return r
}

// Resume lets what Pause stopped run again.
func (e *engine) Resume(id string) (r wire.Report) {
	r = wire.Report{Op: "resume", Outcome: wire.OutcomeNotRunning, Error: errOver}
	e.ask(func() { r = e.resume() })
	return r
}

const errOver = "the job is over"

// Close releases what the engine holds (lockfile, cgroup); only after eventGone
// or when ctx of the whole wrapper ends. Processes that still live stay alive.
func (e *engine) Close(ctx context.Context) {
	e.closed.Do(func() { close(e.quit) })
	select {
	case <-e.done:
	case <-ctx.Done():
	}
}

// post hands f to the engine's goroutine and does not wait.
func (e *engine) post(f func()) {
	e.mu.Lock()
	e.queue = append(e.queue, f)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// ask hands f over and waits until it ran, or the engine is done.
func (e *engine) ask(f func()) {
	ran := make(chan struct{})
	e.post(func() { f(); close(ran) })
	select {
	case <-ran:
	case <-e.done:
	}
}

func (e *engine) emit(ev engineEvent) { e.outbox = append(e.outbox, ev) }

// run is the engine's goroutine.
func (e *engine) run() {
	defer close(e.done)
	defer e.release()
	defer e.calm()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		e.serve()
		if !e.finished {
			e.turn()
		}
		if e.finished && len(e.outbox) == 0 {
			close(e.events)
			e.linger()
			return
		}
		var out chan engineEvent
		var first engineEvent
		if len(e.outbox) > 0 {
			out, first = e.events, e.outbox[0]
		}
		var due <-chan time.Time
		if !e.wakeAt.IsZero() && !e.finished {
			timer.Reset(time.Until(e.wakeAt))
			due = timer.C
		}
		select {
		case <-e.quit:
			return
		case <-e.wake:
		case <-e.child:
		case <-due:
		case out <- first:
			e.outbox = e.outbox[1:]
		}
	}
}

// linger answers what is asked after the end, until Close.
func (e *engine) linger() {
	for {
		select {
		case <-e.quit:
			return
		case <-e.wake:
			e.serve()
		}
	}
}

// serve runs the closures that came in.
func (e *engine) serve() {
	e.mu.Lock()
	queue := e.queue
	e.queue = nil
	e.mu.Unlock()
	for _, f := range queue {
		f()
	}
}

// turn looks at what has changed and does what is due. It must be cheap when
// nothing is: it runs for every child that ends.
func (e *engine) turn() {
	e.wakeAt = time.Time{}
	childless := e.reap()
	now := time.Now()
	if e.pause.on && !e.pause.until.IsZero() {
		if !now.Before(e.pause.until) {
			e.debugf("Pause is over, resuming")
			// Told without being asked: a server that was restarted meanwhile
			// does not know when the pause ends.
			e.emit(engineEvent{Kind: eventReport, ID: "ttl-" + strconv.FormatInt(now.UnixNano(), 36), Report: e.resume()})
		} else {
			e.wakeBy(e.pause.until)
		}
	}
	switch {
	case e.kill != nil:
		e.killStep(childless, now)
	case e.mainEnded:
		e.leftoverStep(childless, now)
	}
}

// wakeBy makes the next turn come no later than t.
func (e *engine) wakeBy(t time.Time) {
	if e.wakeAt.IsZero() || t.Before(e.wakeAt) {
		e.wakeAt = t
	}
}

// openGate lets the parked shell run the command.
func (e *engine) openGate() {
	if e.gate == nil || e.mainEnded {
		return
	}
	e.opened = time.Now()
	if _, err := e.gate.Write([]byte("\n")); err != nil {
		e.debugf("cannot open the gate: %v", err) // the shell is dead: its end is on the way
	}
	e.shutGate()
}

func (e *engine) shutGate() {
	if e.gate != nil {
		e.gate.Close()
		e.gate = nil
	}
}

// release gives back what is held on the machine.
func (e *engine) release() {
	signal.Stop(e.child)
	e.shutGate()
	e.lock.release()
	if e.cg != nil {
		e.cg.remove()
	}
}

// exited fixes code and time, once, and says so.
func (e *engine) exited() {
	e.lock.release() // what the job has left is no overlap
	ws := e.mainStatus
	cause := e.cause
	switch {
	case e.never:
		cause = wire.CauseNever
	case cause != "":
	case e.opened.IsZero():
		cause = wire.CauseLaunch // died at the gate, of something outside
	case ws.Signaled() && e.sentMain[ws.Signal()]:
		cause = wire.CauseSignal
	default:
		cause = wire.CauseExit
	}
	e.end = wire.End{Cause: cause}
	if !e.opened.IsZero() {
		e.end.ElapsedMS = milliseconds(e.mainEndedAt.Sub(e.opened))
	}
	switch {
	case e.never, e.codeUnknown:
	case ws.Signaled():
		e.end.RealSignal = int(ws.Signal())
		e.end.CoreDumped = ws.CoreDump()
	case ws.Exited():
		e.end.RealCode = wire.Ptr(ws.ExitStatus())
	}
	if e.kill != nil && !e.never {
		e.end.Phase = e.kill.phase
	} else if e.kill == nil {
		e.end.Leftover = e.leftover.count
	}
	e.emit(engineEvent{Kind: eventExited, End: e.end})
}

// finish ends the engine's work: nothing of the task is left.
func (e *engine) finish(proof string) {
	if !e.mainEnded { // a stranger traces its zombie: the code stays unknown
		e.mainEnded, e.codeUnknown, e.mainEndedAt = true, true, time.Now()
		e.exited()
	}
	e.end.Proof = proof
	if k := e.kill; k != nil {
		if e.end.Cause == e.cause && !e.never {
			e.end.Phase = k.phase
		}
		for _, id := range k.ids {
			e.emit(engineEvent{Kind: eventReport, ID: id, Report: e.goneReport(id, proof)})
		}
	}
	if e.leftover.count > 0 {
		e.leftover.count = 0
		e.emit(engineEvent{Kind: eventLeftover, Report: wire.Report{Op: "leftover", OK: true}})
	}
	e.emit(engineEvent{Kind: eventGone, End: e.end})
	e.stopTimer()
	e.calm()
	e.finished = true
	e.debugf("Nothing of the job is left (%s)", proof)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// never started: what prepare caught is undone by abandon.
func (e *engine) abandon(pid int) {
	e.shutGate()
	_ = unix.Kill(pid, unix.SIGKILL) // a child of ours that nobody has reaped yet: the number is its own
	for {
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != syscall.EINTR {
			break
		}
	}
	e.release()
}
