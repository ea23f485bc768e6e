package runner

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// lane is where the tasks of one transport wait for their launch: so many are
// started at a time, in the order in which they came. Machines that did not answer
// last time have a lane of their own, since each start there may last until its
// deadline. It has goroutines only while somebody waits. Its fields belong to
// tasks.mu.
//
// On this machine a start takes less time than an fsync by itself costs, so launches
// are recorded ahead of their turn, many by one fsync; see waitTurn.
type lane struct {
	waiting []*task
	busy    int
	on      map[string]int // machines that are being launched on, and how often; nil: that is no matter
	turns   slots          // to start; nil: who is recorded is started
}

// launchesAtOnce is how many starts of one transport are under way together.
func launchesAtOnce(transport string) int {
	if transport == "local" {
		return max(4, 4*runtime.NumCPU())
	}
	return 128
}

const (
	launchesToSilent = 16  // on machines that did not answer
	launchesEach     = 8   // on one machine: sshd takes about ten commands on one connection
	launchesAhead    = 128 // recorded on this machine and waiting for their turn: a moment's work
)

// enqueue gives a task its place in the lane of its transport.
func (ts *tasks) enqueue(t *task) {
	_, machine := t.road()
	name, most := machine.Transport, launchesAtOnce(machine.Transport)
	if ts.reach.state(wayTo(machine)) == fails {
		name, most = name+" to silent machines", launchesToSilent
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.mu.Lock()
	t.enqueued = true
	t.mu.Unlock()
	if ts.closed {
		return // it stays queued: the next server finds it so
	}
	l := ts.lanes[name]
	if l == nil {
		l = &lane{}
		if machine.Transport != "local" {
			l.on = map[string]int{}
		} else {
			l.turns = make(slots, most)
		}
		ts.lanes[name] = l
	}
	if l.turns != nil {
		most += launchesAhead
	}
	l.waiting = append(l.waiting, t)
	if l.busy < most {
		l.busy++
		ts.wg.Go(func() { ts.work(l) })
	}
}

// work launches what waits in a lane until nothing does.
func (ts *tasks) work(l *lane) {
	for {
		ts.mu.Lock()
		t := l.next()
		if t == nil || ts.closed {
			l.busy--
			ts.mu.Unlock()
			return
		}
		ts.mu.Unlock()
		t.launch(ts.life, l.turns)
		ts.mu.Lock()
		l.done(t)
		ts.mu.Unlock()
	}
}

// next takes the first task whose machine has room; nil if there is none. Who
// launches on a machine without room comes back for what waits for it. The lock of
// tasks is held.
func (l *lane) next() *task {
	for i, t := range l.waiting {
		if l.on == nil {
			l.waiting[0] = nil
			l.waiting = l.waiting[1:]
			return t
		}
		if l.on[t.id.Machine] < launchesEach {
			l.on[t.id.Machine]++
			l.waiting = slices.Delete(l.waiting, i, i+1)
			return t
		}
	}
	return nil
}

// done gives the machine's room back. The lock of tasks is held.
func (l *lane) done(t *task) {
	if l.on == nil {
		return
	}
	if l.on[t.id.Machine]--; l.on[t.id.Machine] == 0 {
		delete(l.on, t.id.Machine)
	}
}

// launch starts the task: recorded first, then done when a turn is free.
func (t *task) launch(ctx context.Context, turns slots) {
	order, ok := t.prepare(ctx)
	if !ok {
		return
	}
	if turns != nil {
		if !t.waitTurn(ctx, turns) {
			return
		}
		defer turns.give()
	}
	transport, machine := t.road()
	if transport == nil {
		t.started(launch.StartResult{
			Certainty: launch.CertainlyNot,
			Err:       fmt.Errorf("cannot reach machines by %q: %w", machine.Transport, launch.ErrNoTransport),
		})
		return
	}
	if t.plan().NoWrapper {
		t.launchBare(order)
		return
	}
	startCtx, cancel := lingering(ctx, t.ts.pace.start)
	defer cancel()
	res := transport.Start(startCtx, machine, order)
	switch {
	case res.Certainty == launch.CertainlyNot && errors.Is(res.Err, launch.ErrUnreachable):
		t.ts.tried(startCtx, machine, res.Err)
	case res.Certainty == launch.Started, res.Certainty == launch.CertainlyNot && startCtx.Err() == nil &&
		!errors.Is(res.Err, launch.ErrClosed):
		t.ts.tried(startCtx, machine, nil) // whatever it said, the machine has answered
	}
	t.started(res)
}

// waitTurn waits until a task whose launch is recorded may start. A kill ends the
// wait; the server's stop does not at once, since the next one would have to ask the
// machine whether this one has started it. false: it is not to start any more.
func (t *task) waitTurn(ctx context.Context, turns slots) bool {
	wait, cancel := lingering(ctx, forever)
	defer cancel()
	t.mu.Lock()
	t.endWait = cancel
	t.mu.Unlock()
	had := t.killing() == nil && turns.take(wait)
	t.mu.Lock()
	t.endWait = nil
	killed := t.kill != nil && !t.kill.settled
	t.mu.Unlock()
	switch {
	case killed:
		t.neverLaunched()
	case !had:
		t.log().Warn("it was not started before the server stopped")
	default:
		return true
	}
	if had {
		turns.give()
	}
	return false
}

// neverLaunched ends a task that was killed between the record of its launch and its
// turn.
func (t *task) neverLaunched() {
	t.lock()
	defer t.unlock()
	t.mu.Lock()
	t.starting = false
	k := t.kill
	t.mu.Unlock()
	if k != nil {
		t.after(k.look)
	}
	now := time.Now()
	err := t.apply(ledger.Ended{
		Task: t.id, At: now, State: ledger.Killed, ExitCode: wire.ExitKilled, Reason: ledger.ReasonNever,
		End: wire.End{Cause: wire.CauseNever},
	})
	if err != nil {
		t.log().Error("cannot record that it was never started", "err", err)
		t.askLater(now.Add(t.ts.pace.recheck)) // it is found again there
		return
	}
	t.ts.expire(t.hash, t.id, now)
}

// lingering is a context for what should not be cut at once when the server
// stops, since half a start is one that nobody knows the outcome of.
func lingering(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	free, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(3*time.Second, cancel)
		context.AfterFunc(free, func() { timer.Stop() })
	})
	return free, func() { stop(); cancel() }
}

// prepare records the launch and completes the order; false if there is nothing
// to launch any more. A launch that cannot be recorded is not done: it is tried
// again until it can be, or the task is ended, or the server.
func (t *task) prepare(ctx context.Context) ([]byte, bool) {
	wait := t.ts.pace.retry
	for {
		order, err := t.recordLaunch(ctx)
		switch {
		case err == nil:
			return order, order != nil
		case errors.Is(err, ledger.ErrClosed), errors.Is(err, ledger.ErrNoTask), errors.Is(err, ledger.ErrUnlawful):
			t.log().Error("cannot launch", "err", err)
			return nil, false
		}
		t.log().Error("cannot record the launch, so it waits", "err", err)
		if !pause(ctx, wait) {
			return nil, false
		}
		wait = min(2*wait, t.ts.pace.slowest)
	}
}

// recordLaunch is one try of prepare; nil without an error: nothing to launch.
func (t *task) recordLaunch(ctx context.Context) ([]byte, error) {
	t.lock()
	defer t.unlock()
	rec, spec := t.record(), t.plan()
	t.mu.Lock()
	doomed := t.doomed
	t.mu.Unlock()
	if doomed {
		return nil, nil
	}
	token, hash := newToken()
	cookie := rec.Cookie
	var event ledger.Event
	switch {
	case rec.State == ledger.Queued:
		cookie = newCookie()
		event = ledger.Launched{Task: t.id, At: time.Now(), Transport: spec.Machine.Transport, Cookie: cookie, TokenHash: hash}
	case rec.State == ledger.Launching && rec.Identity == nil && ctx.Err() == nil:
		event = ledger.TokenAdded{Hash: hash, Task: t.id} // a new server starts what the old one did not
	default:
		return nil, nil
	}
	if ctx.Err() != nil {
		return nil, nil
	}
	order := t.order(spec, token, cookie)
	if err := order.Check(); err != nil {
		return nil, t.fail(ledger.LaunchFailed, err.Error())
	}
	data, err := order.Encode()
	if err != nil {
		return nil, t.fail(ledger.LaunchFailed, err.Error())
	}
	if err := t.apply(event); err != nil {
		return nil, err
	}
	t.hash = hash
	t.mu.Lock()
	t.starting, t.timeKnown = true, true
	t.quiet = time.Now()
	t.checkAt = time.Time{}
	t.mu.Unlock()
	return data, nil
}

// order completes the task's order with a token and the cookie.
func (t *task) order(spec taskSpec, token, cookie string) wire.Order {
	o := spec.Order
	o.Version = wire.OrderVersion
	o.Server = t.ts.o.Ledger.ServerID()
	o.URL = t.ts.o.MachinesURL(spec.Machine) + "/task/" + token
	if isTLS(o.URL) {
		o.Pin = t.ts.o.Pin
	}
	if spec.Machine.Transport == "local" {
		o.Socket = t.ts.o.MachinesSocket
	}
	o.Task = cookie
	o.Run, o.Machine, o.Job = t.id.Run, t.id.Machine, t.job()
	return o
}

// started takes what a start came to.
func (t *task) started(res launch.StartResult) {
	t.lock()
	defer t.unlock()
	now := time.Now()
	t.mu.Lock()
	t.starting, t.olderStart, t.startErr = false, res.Older, ""
	if res.Certainty == launch.Unsure && res.Err != nil {
		t.startErr = res.Err.Error()
	}
	t.quiet = now
	rec, linked, k := t.rec, t.session != nil, t.kill
	t.mu.Unlock()
	if k != nil {
		t.after(k.look)
	}
	switch res.Certainty {
	case launch.Started:
		t.identifyLater(res)
		if !linked {
			t.askLater(now.Add(t.ts.pace.silence))
		}
	case launch.CertainlyNot:
		if linked || !rec.Started.IsZero() || over(rec.State) {
			t.log().Warn("the start failed, yet the wrapper has connected", "err", res.Err)
			return
		}
		t.failedStart(res.Err)
	default:
		t.log().Warn("it is not known whether it started", "err", res.Err)
		t.after(t.changed)
		if !linked {
			t.askLater(now.Add(t.ts.pace.recheck))
		}
	}
}

// identifyLater records the identity that a start returned, unless the wrapper's own
// word comes first: that is recorded together with the start, by one fsync, which
// the command waits for. The gate is shut until then, so nothing runs unrecorded.
// serial is held.
func (t *task) identifyLater(res launch.StartResult) {
	record := func() {
		rec := t.record()
		t.identified(res, &rec)
	}
	if res.Identity == nil {
		return
	}
	waits := !res.Older && t.ts.spawn(func() {
		pause(t.ts.life, t.ts.pace.identity)
		t.lock()
		defer t.unlock()
		record()
	})
	if !waits {
		record()
	}
}

// identified records the identity that a start returned. serial is held.
func (t *task) identified(res launch.StartResult, rec *ledger.Task) {
	if over(rec.State) && rec.Identity != nil {
		return
	}
	if rec.Identity != nil && sameIdentity(rec.Identity, res.Identity) && rec.Version == res.Version {
		return // its connection was faster
	}
	features := rec.Features
	err := t.apply(ledger.Identified{Task: t.id, Identity: *res.Identity, Version: res.Version, Features: features})
	if err != nil {
		t.log().Error("cannot record who the task's processes are", "err", err)
	}
}

// failedStart ends a task that certainly did not start. serial is held.
func (t *task) failedStart(err error) {
	why := "it could not be started"
	if err != nil {
		why = err.Error()
	}
	state := ledger.LaunchFailed
	if errors.Is(err, launch.ErrUnreachable) {
		state = ledger.Unreachable
	}
	if err := t.fail(state, why); err != nil {
		t.log().Error("cannot record that the launch failed", "err", err)
		t.askLater(time.Now().Add(t.ts.pace.recheck)) // it is found again there
	}
}

// fail ends the task with 255, its reason in the output. serial is held.
func (t *task) fail(state ledger.State, why string) error {
	now := time.Now()
	err := t.apply(
		ledger.Ended{Task: t.id, At: now, State: state, ExitCode: wire.ExitUnreachable, Reason: why, End: wire.End{Cause: wire.CauseLaunch}},
		t.noteEvent(why+"\n"),
	)
	if err == nil && t.hash != "" {
		t.ts.expire(t.hash, t.id, now)
	}
	return err
}
