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

// step is what a kill does next.
type step int

const (
	stepWait   step = iota // for news, or until a time
	stepDone               // it stands no more
	stepSend               // over the connection
	stepScript             // over the other road
	stepReport             // all is gone, says the wrapper, and no end came: that settles it
	stepEnded              // the task's end settles it
)

// carry brings a kill to its receipt, on whichever road is open, for as long as
// it stands. It returns early when the server stops: the ledger remembers.
func (t *task) carry(ctx context.Context, k *killing) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		do, wait, s := t.next(k, time.Now())
		switch do {
		case stepDone:
			t.ts.forgetIdle(t)
			return
		case stepSend:
			// Not here: a wrapper that does not read would keep the kill from
			// taking the other road.
			if !t.ts.spawn(func() { t.sendKill(ctx, s, k) }) {
				return
			}
			continue
		case stepScript:
			if !t.ts.spawn(func() { t.scriptKill(ctx, k) }) {
				return
			}
			continue
		case stepReport:
			t.settleByReport(k)
			continue
		case stepEnded:
			t.settleByEnd(k)
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-k.poke:
		case <-timer.C:
		}
	}
}

// forever is a wait that only news ends.
const forever = time.Hour

// next decides what a kill does now: pure but for marking what it chose as begun.
func (t *task) next(k *killing, now time.Time) (step, time.Duration, *session) {
	g, hard := t.patience(k.graceNow(t))
	p := &t.ts.pace
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.session
	var introduced time.Time // by when a new connection has to say who it is
	if s != nil && s.features.Load() == nil {
		introduced = s.opened.Add(p.answer)
		s = nil
	}
	switch ended := over(t.rec.State); {
	case k.settled:
		return stepDone, 0, nil
	case k.verify:
		return t.script(k, now)
	case ended && t.rec.Leftover == 0 && k.scripting > 0 && (t.rec.End == nil || t.rec.End.Proof == ""):
		return stepWait, forever, nil // kill.sh tells more of how it ended, in a moment
	case ended && t.rec.Leftover == 0:
		return stepEnded, 0, nil
	case k.report != nil && k.report.Outcome != wire.OutcomeAlive && k.report.Outcome != "":
		if left := k.reportAt.Add(p.complete).Sub(now); left > 0 {
			return stepWait, left, nil
		}
		return stepReport, 0, nil
	case t.starting:
		return stepWait, forever, nil // the start returns soon, with an identity or without
	case s != nil && (k.sentOn != s || k.resend):
		k.sentOn, k.sentAt, k.heardAt, k.report, k.resend = s, now, time.Time{}, nil, false
		k.sending = true
		return stepSend, 0, s
	case s == nil && k.resend:
		k.resend, k.nextTry = false, time.Time{}
		if k.scripting < 2 {
			k.scripting++
			return stepScript, 0, nil // it shortens the one that is running
		}
	}
	var until time.Time
	switch {
	case now.Before(introduced):
		until = introduced
	case s == nil && now.Before(k.notBefore):
		until = k.notBefore
	case s == nil && t.contact.IsZero() && t.rec.Started.IsZero() && now.Before(t.quiet.Add(p.connect)):
		until = t.quiet.Add(p.connect) // it was launched a moment ago
	case s != nil && k.sending:
		return stepWait, forever, nil // its turn comes
	case s != nil && k.report != nil && k.report.Outcome == wire.OutcomeAlive:
		return stepWait, forever, nil // its wrapper goes on, and corrects that
	case s != nil && k.heardAt.IsZero() && now.Before(k.sentAt.Add(p.answer)):
		until = k.sentAt.Add(p.answer)
	case s != nil && !k.heardAt.IsZero() && now.Before(k.heardAt.Add(g+hard+p.answer)):
		until = k.heardAt.Add(g + hard + p.answer)
	default:
		if s != nil && k.sentOn == s && k.heardAt.IsZero() {
			t.deaf = s
		}
		return t.script(k, now)
	}
	return stepWait, until.Sub(now), nil
}

// script chooses the other road if it is not being tried already and its time has
// come. The lock is held.
func (t *task) script(k *killing, now time.Time) (step, time.Duration, *session) {
	switch {
	case k.scripting > 0:
		return stepWait, forever, nil
	case now.Before(k.nextTry):
		return stepWait, k.nextTry.Sub(now), nil
	}
	k.scripting++
	return stepScript, 0, nil
}

func (k *killing) graceNow(t *task) *float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return k.grace
}

// sendKill says it over the connection when its turn comes. What came of that
// shows in what comes back, or does not.
func (t *task) sendKill(ctx context.Context, s *session, k *killing) {
	_, machine := t.road()
	give, ok := t.ts.takeTurn(ctx, machine)
	if !ok {
		return
	}
	t.mu.Lock()
	if k.sentOn != s || !k.sending || k.settled { // another connection carries it, or nobody needs to
		t.mu.Unlock()
		give()
		return
	}
	k.overTurn()
	k.sending, k.sentAt, k.turn = false, time.Now(), give
	m := wire.Message{Type: wire.TypeKill, ID: k.message(), Signal: k.signal, Grace: k.grace}
	t.mu.Unlock()
	k.look()
	if err := s.order(m); err != nil {
		t.mu.Lock()
		if k.sentOn == s {
			k.sentAt = time.Time{} // not said: do not wait for an answer
			k.overTurn()
		}
		t.mu.Unlock()
		k.look()
		return
	}
	t.log().Info(fmt.Sprintf("WebSocket: Sent kill signal to %s:%s", t.id.Run, t.id.Machine))
}

// settleByReport takes the wrapper's word that all is gone. serial is not held.
func (t *task) settleByReport(k *killing) {
	t.lock()
	defer t.unlock()
	t.mu.Lock()
	report, via, ended := k.report, k.reportVia, over(t.rec.State)
	settled := k.settled
	t.mu.Unlock()
	if settled || report == nil {
		return
	}
	r := t.receipt(k, wire.OutcomeGone, pick(via, roadWebSocket))
	t.merge(k, &r, report)
	var with []ledger.Event
	if ended {
		with = append(with, ledger.LeftoverNow{Task: t.id, Count: 0})
	} else if r.Outcome != wire.OutcomeNotRunning { // whose code is still to come
		r.ExitCode = wire.Ptr(wire.ExitCode(k.cause, 0, 0))
	}
	t.settle(k, r, true, with...)
}

// settleByEnd takes the end that was recorded by somebody else as the answer.
func (t *task) settleByEnd(k *killing) {
	t.lock()
	defer t.unlock()
	rec := t.record()
	t.mu.Lock()
	settled, report, via := k.settled, k.report, t.rec.Transport
	t.mu.Unlock()
	if settled {
		return
	}
	if report != nil || rec.End != nil && rec.End.Cause != wire.CauseLost && k.sentOn != nil {
		via = roadWebSocket
	}
	r := t.receipt(k, wire.OutcomeGone, via)
	t.merge(k, &r, report)
	if rec.End != nil {
		r.finished(rec.End, t.wasBefore(k, &rec))
	}
	if rec.Started.IsZero() && rec.Identity == nil {
		r.Outcome, r.Via = wire.OutcomeNeverStarted, ""
	}
	t.settle(k, r, true)
}

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
