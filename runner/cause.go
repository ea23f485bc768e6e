package runner

import (
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// What ended a job where a kill stands: the kill, unless the job had ended by itself
// before anybody asked for it. The first cause wins, on whichever road the end is
// learned.

const endedBeforeKill = "it had ended before the kill"

// ownCause reports whether a cause is one that no kill of ours is behind.
func ownCause(cause string) bool {
	switch cause {
	case "", wire.CauseKill, wire.CauseNever, wire.CauseLost:
		return false
	}
	return true
}

// before reports whether an end came before a kill was asked for. Where the kill has
// found and signalled somebody, a clock alone does not say that: only leftovers can
// have been there beside the end. k may be nil.
func (t *task) before(k *killing, e *ledger.Ended) bool {
	if k == nil || !ownCause(e.End.Cause) || e.State == ledger.Unknown {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at := e.At
	if !t.skewKnown {
		at = at.Add(gateSlack)
	}
	return at.Before(k.asked) && (!k.struck || e.End.Leftover > 0)
}

// gateSlack is how long after its start message a command may begin: the gate opens
// on our answer, or after two seconds without one. Where the machine's clock is not
// known, an end is counted from that message, and may have been later by so much.
const gateSlack = 3 * time.Second

// wasBefore is before for an end that is recorded, and of which nothing is left.
func (t *task) wasBefore(k *killing, rec *ledger.Task) bool {
	if !over(rec.State) || rec.Leftover > 0 || rec.End == nil {
		return false
	}
	return t.before(k, &ledger.Ended{At: rec.Ended, State: rec.State, End: wire.End{Cause: rec.End.Cause}})
}

// instant is when an end was by our clock. The clock of the machine is corrected as
// it was seen at its last connect; before one, the job's start, which is known by
// ours, and how long it ran tell.
func (t *task) instant(stamp string, end *wire.End, otherwise time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := wire.ParseTime(stamp, otherwise)
	switch {
	case t.skewKnown:
		at = at.Add(t.skew)
	case end != nil && end.ElapsedMS > 0 && !t.rec.Started.IsZero():
		at = t.rec.Started.Add(time.Duration(end.ElapsedMS * float64(time.Millisecond)))
	}
	if now := time.Now(); at.After(now) {
		return now
	}
	return at
}

// tookPart remembers what a run of kill.sh did to the task. The lock is held.
func (k *killing) tookPart(res *launch.ScriptResult) {
	if res.Acted == 0 && res.Phase == "" {
		return
	}
	k.struck = true
	k.phase, k.found = graver(k.phase, res.Phase), max(k.found, res.Before)
}

// merge fills a receipt with what the wrapper reported of a kill, and what kill.sh
// did meanwhile: either may have come to an end first, and says what it saw.
func (t *task) merge(k *killing, r *Receipt, w *wire.Report) {
	phase := r.Phase
	if w != nil {
		reported(r, w)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Phase = graver(graver(phase, r.Phase), k.phase)
	r.ProcessesBefore = max(r.ProcessesBefore, k.found)
	if r.Outcome == wire.OutcomeNotRunning && (k.struck || k.maybe || k.scripting > 0) {
		r.Outcome = wire.OutcomeGone // the wrapper does not know who was before it
	}
}

// finished fills a receipt with the end that the kill came to, or came too late for.
func (r *Receipt) finished(end *wire.End, before bool) {
	r.RealCode, r.RealSignal, r.Proof = end.RealCode, end.RealSignal, pick(r.Proof, end.Proof)
	switch {
	case before:
		r.Outcome, r.Reason, r.Phase = wire.OutcomeNotRunning, endedBeforeKill, ""
		return
	case r.Outcome == wire.OutcomeNotRunning && end.Cause == wire.CauseKill && end.Phase != "":
		r.Outcome = wire.OutcomeGone // it was an earlier message of this kill
	}
	r.Phase = graver(r.Phase, end.Phase)
}

// unaware reports whether a wrapper took the end for the job's own although a kill
// was there: it did not write the line that closes the output.
func unaware(e *ledger.Ended) bool {
	return !e.Before && (e.End.Cause == wire.CauseExit || e.End.Cause == wire.CauseSignal)
}

// graver is the later phase of two: who needed KILL on one road needed it.
func graver(a, b string) string {
	if a == wire.PhaseKill || b == wire.PhaseKill {
		return wire.PhaseKill
	}
	return pick(a, b)
}

// endItself records the end that the wrapper wrote down before a kill was asked for.
// What the kill found are leftovers at most: the task keeps its own end. serial is
// held.
func (t *task) endItself(k *killing, r Receipt, e ledger.Ended) {
	e.Before = true
	r.finished(&e.End, r.ProcessesBefore == 0)
	r.ExitCode = wire.Ptr(e.ExitCode)
	events := []ledger.Event{e}
	if e.End.Leftover > 0 {
		events = append(events, ledger.LeftoverNow{Task: t.id, Count: 0})
	}
	t.settle(k, r, true, append(events, t.whyNot(&e)...)...)
	t.logCompleted()
	t.askLater(time.Now().Add(t.ts.pace.comeback)) // its output may still lie there
}
