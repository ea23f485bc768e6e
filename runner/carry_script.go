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

// scriptKill runs kill.sh with what is known of the task's processes.
func (t *task) scriptKill(ctx context.Context, k *killing) {
	res, err := t.runKillScript(ctx, k)
	t.lock()
	defer t.unlock()
	t.mu.Lock()
	k.scripting--
	k.tookPart(&res)
	settled := k.settled
	t.mu.Unlock()
	t.after(k.look)
	if ctx.Err() != nil && err != nil || settled || errors.Is(err, errNotNeeded) {
		return
	}
	transport, m := t.road()
	if err != nil {
		t.scriptFailed(k, err, transport == nil)
		return
	}
	r := t.receipt(k, res.Outcome, m.Transport)
	r.Phase, r.Proof, r.Reason, r.ProcessesBefore = res.Phase, res.Proof, res.Reason, res.Before
	r.Left, r.Alive = leftProcesses(res.Left), res.Alive
	switch res.Outcome {
	case wire.OutcomeGone, wire.OutcomeNotRunning:
		t.scriptGone(k, r, res)
	case wire.OutcomeAlive:
		t.delay(k, t.ts.pace.recheck)
		var with []ledger.Event
		if over(t.record().State) {
			with = append(with, ledger.LeftoverNow{Task: t.id, Count: max(res.Alive, 1)})
		}
		t.settle(k, r, false, with...)
	default:
		r.Outcome = wire.OutcomeUnknown
		r.Error = pick(r.Error, pick(res.Reason, "the machine could not tell"))
		t.delay(k, t.ts.pace.recheck)
		t.settle(k, r, false)
	}
}

// delay puts the next try off, longer each time. serial is held.
func (t *task) delay(k *killing, first time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k.wait = max(k.wait, first)
	k.nextTry = time.Now().Add(k.wait)
	k.wait = min(2*k.wait, t.ts.pace.slowest)
}

// errNotNeeded: while a script waited for its place, the wrapper gave the answer.
var errNotNeeded = errors.New("the wrapper has answered meanwhile")

// needsScript looks again whether a kill has to take the other road. Whatever it
// denies, next must not choose a script for.
func (t *task) needsScript(k *killing, now time.Time) bool {
	g, hard := t.patience(k.graceNow(t))
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.session
	switch {
	case k.settled:
		return false
	case k.verify:
		return true
	case over(t.rec.State) && t.rec.Leftover == 0:
		return false
	case s == nil || s.features.Load() == nil || k.sentOn != s || k.resend:
		return true
	case k.sending:
		return false
	}
	return k.heardAt.IsZero() || !now.Before(k.heardAt.Add(g+hard+t.ts.pace.answer))
}

func (t *task) runKillScript(ctx context.Context, k *killing) (launch.ScriptResult, error) {
	transport, m := t.road()
	if transport == nil && m.Transport == transportForeign {
		return launch.ScriptResult{}, errOnlyMessage
	}
	if transport == nil {
		return launch.ScriptResult{}, fmt.Errorf("cannot reach machines by %q: %w", m.Transport, launch.ErrNoTransport)
	}
	give, ok := t.ts.scripts.take(ctx, m, &t.ts.reach)
	if !ok {
		return launch.ScriptResult{}, ctx.Err()
	}
	defer give()
	if !t.needsScript(k, time.Now()) {
		return launch.ScriptResult{}, errNotNeeded
	}
	g, hard := t.patience(k.graceNow(t))
	q := t.question(launch.OpKill)
	t.mu.Lock()
	signal := k.signal
	if signal == "" && t.hasSpec {
		signal = t.spec.Order.KillSignal
	}
	t.mu.Unlock()
	limit, cancel := context.WithTimeout(ctx, g+hard+t.ts.pace.ask)
	defer cancel()
	q.Signal, q.Grace, q.Hard = signal, g, hard
	heard := false // this and working belong to the lock
	q.Heard = func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		heard = true
		k.working++
	}
	res, err := transport.Script(limit, m, q)
	t.mu.Lock()
	if heard {
		k.working--
		k.maybe = k.maybe || err != nil
	}
	t.mu.Unlock()
	t.ts.tried(ctx, m, err)
	return res, err
}

// scriptFailed takes the news that no answer came. serial is held.
func (t *task) scriptFailed(k *killing, err error, noRoad bool) {
	t.mu.Lock()
	verify := k.verify
	t.mu.Unlock()
	if verify {
		// The wrapper said that it is over, and there is no road to look for
		// oneself: its word is all there is.
		t.mu.Lock()
		k.verify = false
		t.mu.Unlock()
		r := t.receipt(k, wire.OutcomeGone, roadWebSocket)
		r.Proof = wire.ProofWrapper
		if rec := t.record(); t.wasBefore(k, &rec) {
			r.finished(rec.End, true)
		}
		t.settle(k, r, true)
		return
	}
	outcome := wire.OutcomeUnknown
	if errors.Is(err, launch.ErrUnreachable) || noRoad || errors.Is(err, launch.ErrNoTransport) {
		outcome = wire.OutcomeUnreachable
	}
	r := t.receipt(k, outcome, "") // nobody has answered
	r.Error = err.Error()
	t.delay(k, t.ts.pace.retry)
	t.settle(k, r, false)
}

// scriptGone takes the news that nothing of the task is left. serial is held.
func (t *task) scriptGone(k *killing, r Receipt, res launch.ScriptResult) {
	r.Outcome = wire.OutcomeGone
	rec := t.record()
	t.mu.Lock()
	k.verify = false
	linked := t.session != nil && time.Since(t.contact) < t.ts.pace.answer
	cause := k.cause
	t.mu.Unlock()
	rebooted := res.Reason == launch.ReasonRebooted
	switch {
	case over(rec.State):
		var with []ledger.Event
		if rec.Leftover > 0 {
			with = append(with, ledger.LeftoverNow{Task: t.id, Count: 0})
		}
		t.merge(k, &r, nil)
		if rec.End != nil && rec.Leftover == 0 {
			r.finished(rec.End, t.wasBefore(k, &rec))
		}
		t.settle(k, r, true, with...)
		return
	case linked && k.report == nil && !rebooted:
		// Its wrapper is there: it knows the true code, and says so in a moment.
		t.mu.Lock()
		k.report = &wire.Report{Op: "kill", OK: true, Outcome: wire.OutcomeGone, Phase: res.Phase, Proof: res.Proof, ProcessesBefore: res.Before}
		k.reportAt, k.reportVia = time.Now(), r.Via
		t.mu.Unlock()
		return
	}
	if res.End != nil {
		if e := t.recorded(res.End); t.before(k, &e) {
			t.endItself(k, r, e)
			return
		}
	}
	if (k.sentOn == nil || rebooted && k.heardAt.IsZero()) && res.Before == 0 && res.Acted == 0 && res.End == nil && !rec.Started.IsZero() {
		t.endedBefore(k, r, res)
		return
	}
	t.endByScript(k, r, res, &rec, cause)
}

// endedBefore records the end of a task that no kill of ours has ended: the first
// look already found nobody, and its wrapper, which would know, is gone too. serial
// is held.
func (t *task) endedBefore(k *killing, r Receipt, res launch.ScriptResult) {
	r.Outcome, r.Reason = wire.OutcomeNotRunning, "it had ended before the kill"
	reason := t.lostReason()
	if res.Reason == launch.ReasonRebooted {
		r.Outcome, r.Reason, reason = wire.OutcomeGone, "the machine was restarted", reasonRebooted
	}
	r.ExitCode = wire.Ptr(wire.ExitLost)
	e := ledger.Ended{
		Task: t.id, At: k.asked.Add(-time.Millisecond), State: ledger.Unknown, ExitCode: wire.ExitLost,
		Reason: reason, End: wire.End{Cause: wire.CauseLost, Proof: r.Proof},
	}
	if err := t.apply(append(t.settled(k, r, true), e)...); err != nil {
		t.log().Error("cannot record an end", "err", err)
		r.Error = pick(r.Error, "the end could not be recorded: "+err.Error())
	}
	t.answered(k, r, true)
	t.askLater(time.Now().Add(t.ts.pace.comeback)) // its output may still lie there
}

// endByScript records the end of a task whose wrapper does not tell it. serial is
// held.
func (t *task) endByScript(k *killing, r Receipt, res launch.ScriptResult, rec *ledger.Task, cause string) {
	e := ledger.Ended{Task: t.id, At: time.Now(), State: ledger.Killed, End: wire.End{Cause: cause, Phase: res.Phase, Proof: res.Proof}}
	if cause == wire.CauseTimeout {
		e.State = ledger.TimedOut
	}
	e.ExitCode = wire.ExitCode(cause, 0, 0)
	var events []ledger.Event
	if rec.Started.IsZero() && rec.Identity == nil && res.Before == 0 && !t.older() {
		e.Reason, e.End.Cause = ledger.ReasonNever, wire.CauseNever
		r.Outcome = wire.OutcomeNeverStarted
		events = []ledger.Event{e}
	} else {
		if res.End != nil {
			t.fromRecord(&e, res.End)
		}
		events = []ledger.Event{e, t.noteEvent(t.closingLine(e.End.Cause))}
	}
	t.merge(k, &r, nil)
	r.finished(&e.End, false)
	r.ExitCode = wire.Ptr(e.ExitCode)
	t.settle(k, r, true, events...)
	t.askLater(time.Now().Add(t.ts.pace.comeback)) // its output may still lie there
}

// closingLine is what the wrapper would have written at the end of the output.
func (t *task) closingLine(cause string) string {
	if cause == wire.CauseTimeout {
		return wire.TimeoutLine(t.plan().Order.Timeout)
	}
	return wire.KilledLine
}

// fromRecord completes an end with the record that the wrapper left.
func (t *task) fromRecord(e *ledger.Ended, r *wire.EndRecord) {
	e.At = t.instant(r.Ended, &r.End, e.At)
	e.End.Phase = graver(e.End.Phase, r.End.Phase)
	if r.End.Cause == wire.CauseTimeout { // it came first
		e.State, e.ExitCode, e.End.Cause = ledger.TimedOut, wire.ExitTimeout, wire.CauseTimeout
	}
	if r.End.RealCode != nil || r.End.RealSignal != 0 {
		e.End.RealCode, e.End.RealSignal, e.End.CoreDumped = r.End.RealCode, r.End.RealSignal, r.End.CoreDumped
	}
	e.End.ElapsedMS, e.End.Length = r.End.ElapsedMS, r.End.Length
}
