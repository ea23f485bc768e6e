package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

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
