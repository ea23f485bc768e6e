package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// askLater has the other road asked at a time, unless a connection comes first.
func (t *task) askLater(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checkAt, t.checkWait = at, t.ts.pace.recheck
}

// askAgain puts the next question off, longer each time.
func (t *task) askAgain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := max(t.checkWait, t.ts.pace.recheck)
	t.checkAt = time.Now().Add(wait)
	t.checkWait = min(2*wait, t.ts.pace.slowest)
}

// ask asks the machine over the other road what became of a task whose wrapper
// does not say.
func (t *task) ask(ctx context.Context) {
	defer func() {
		t.mu.Lock()
		t.checking = false
		t.mu.Unlock()
	}()
	transport, m := t.road()
	give, ok := t.ts.checks.take(ctx, m, &t.ts.reach)
	if !ok {
		return
	}
	defer give()
	t.mu.Lock()
	t.checkAt = time.Time{}
	t.mu.Unlock()
	rec := t.record()
	var res launch.ScriptResult
	err := launch.ErrNoTransport
	if transport != nil {
		limit, cancel := context.WithTimeout(ctx, t.ts.pace.ask)
		defer cancel()
		res, err = transport.Script(limit, m, t.question(launch.OpCheck))
		t.ts.tried(ctx, m, err)
	}
	if ctx.Err() != nil {
		return
	}
	if t.link() != nil {
		return // it came back meanwhile, and knows better
	}
	switch {
	case err != nil:
		t.noRoad(err)
	case over(rec.State):
		t.askedEnded(ctx, res)
	default:
		t.asked(ctx, res)
	}
}

// noRoad takes the news that the machine cannot be asked either. After a while the
// task is lost, which is no end: nobody knows.
func (t *task) noRoad(err error) {
	t.askAgain()
	t.lock()
	defer t.unlock()
	now := time.Now()
	t.mu.Lock()
	lostAfter := t.ts.pace.lostAfter
	if t.hasSpec && t.spec.LostAfter > 0 {
		lostAfter = t.spec.LostAfter
	}
	lost := t.session == nil && !t.rec.State.Done() && now.Sub(t.quiet) >= lostAfter
	silence := now.Sub(t.quiet)
	t.mu.Unlock()
	if !lost {
		t.log().Debug("cannot ask the machine", "err", err)
		return
	}
	reason := fmt.Sprintf("no word for %s, and the machine cannot be asked: %v", silence.Round(time.Second), err)
	if err := t.apply(ledger.LostAt{Task: t.id, At: now, Reason: reason}); err != nil {
		t.log().Error("cannot record that it is lost", "err", err)
		return
	}
	t.log().Warn("lost: no word and no road", "err", err)
}

// asked takes what the machine says of a task that has not ended.
func (t *task) asked(ctx context.Context, res launch.ScriptResult) {
	t.mu.Lock()
	t.orphan = !res.WrapperAlive
	t.mu.Unlock()
	rec := t.record()
	switch {
	case res.Found != nil && (rec.Identity == nil || rec.Identity.BootID == ""):
		t.found(*res.Found)
		t.askAgain()
	case res.End != nil:
		t.fetchOutput(ctx, res.End.Identity, res.End.End.Length)
		t.endFromRecord(res.End)
	case res.Outcome == wire.OutcomeGone && !res.WrapperAlive:
		t.gone(ctx, res)
	case res.Outcome == wire.OutcomeAlive && !res.WrapperAlive && !res.MainAlive && rec.Identity != nil && rec.Identity.BootID != "":
		t.gone(ctx, res) // the job itself is over; what is left are leftovers
	default:
		t.stillThere(res)
	}
}

// found records who was found by the cookie alone, or by an older wrapper's PID.
func (t *task) found(id wire.Identity) {
	t.lock()
	defer t.unlock()
	rec := t.record()
	if err := t.apply(ledger.Identified{Task: t.id, Identity: id, Version: rec.Version, Features: rec.Features}); err != nil {
		t.log().Error("cannot record who the task's processes are", "err", err)
	}
}

// stillThere: it lives, or that cannot be told. It is asked again, and no longer
// counts as lost if it was.
func (t *task) stillThere(res launch.ScriptResult) {
	t.askAgain()
	t.lock()
	defer t.unlock()
	t.mu.Lock()
	t.unsure = 0
	t.mu.Unlock()
	if t.record().State == ledger.Paused && goesOn(res) {
		// Somebody on the machine has ended the pause: the timer that a --ttl left there.
		if err := t.applyOrder("resume"); err != nil {
			t.log().Error("cannot record that it goes on", "err", err)
		}
	}
	if t.record().State == ledger.Lost && res.Outcome == wire.OutcomeAlive {
		if err := t.apply(ledger.FoundAt{Task: t.id, At: time.Now()}); err != nil {
			t.log().Error("cannot record that it was found", "err", err)
		}
	}
}

// goesOn reports whether a task that was paused is certainly not any more: nobody of
// it is stopped or frozen, and all of it was seen.
func goesOn(res launch.ScriptResult) bool {
	if res.Outcome != wire.OutcomeAlive || res.Reason != "" || res.Alive == 0 || len(res.Left) < res.Alive {
		return false
	}
	return !slices.ContainsFunc(res.Left, func(p wire.Process) bool { return p.State == "T" || p.State == "t" })
}

// gone: nothing of the task is left and no end was recorded. If it never started
// for certain it can be started now; else its exit code is not known.
func (t *task) gone(ctx context.Context, res launch.ScriptResult) {
	rec := t.record()
	if rec.Started.IsZero() && rec.Identity == nil {
		t.neverStarted(&rec)
		return
	}
	t.fetchOutput(ctx, rec.Identity, nil)
	t.lock()
	defer t.unlock()
	rec = t.record()
	if over(rec.State) || t.link() != nil {
		return
	}
	t.mu.Lock()
	h := t.held
	t.mu.Unlock()
	if h != nil {
		// Its end was told, but not all of its output came before its wrapper died.
		e := t.verdict(h.message, t.instant(h.message.Timestamp, h.message.End, h.at))
		t.endByCheck(e, "\n[some output was not received]\n")
		return
	}
	e := ledger.Ended{
		Task: t.id, At: time.Now(), State: ledger.Unknown, ExitCode: wire.ExitLost, Reason: t.lostReason(),
		End: wire.End{Cause: wire.CauseLost, Proof: res.Proof, Leftover: res.Alive},
	}
	if res.Reason == launch.ReasonRebooted {
		e.Reason = reasonRebooted
	}
	t.endByCheck(e, "")
}

// neverStarted: two questions with some time between them found nothing of a task
// whose start was never confirmed.
func (t *task) neverStarted(rec *ledger.Task) {
	t.mu.Lock()
	t.unsure++
	again := t.unsure < 2
	t.mu.Unlock()
	if again {
		t.askAgain()
		return
	}
	if t.older() {
		t.olderNeverSeen()
		return
	}
	if t.killing() == nil && !rec.Launched.IsZero() && time.Since(rec.Launched) < t.ts.pace.restart && t.plan().Order.Command != "" && t.mayRestart() {
		t.log().Info("it never started: it is started now")
		t.ts.enqueue(t)
		return
	}
	t.lock()
	defer t.unlock()
	if rec := t.record(); over(rec.State) || !rec.Started.IsZero() || t.link() != nil {
		return
	}
	t.mu.Lock()
	why := neverSeen
	if t.restarts > 0 {
		why += fmt.Sprintf(", after %d starts", t.restarts+1)
	}
	if t.startErr != "" {
		why += ": " + t.startErr
	}
	t.mu.Unlock()
	if err := t.fail(ledger.LaunchFailed, why); err != nil {
		t.log().Error("cannot record that the launch failed", "err", err)
		t.askAgain()
	}
}

const neverSeen = "it is not known to have started, and nothing of it was found on the machine"

// mostRestarts bounds how often one server repeats a start that came to nothing
// and did not say why: what is no wrapper will be none the next time either.
const mostRestarts = 2

func (t *task) mayRestart() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.restarts >= mostRestarts {
		return false
	}
	t.restarts++
	t.unsure = 0
	return true
}

// endFromRecord records the true end that the wrapper left on the machine.
func (t *task) endFromRecord(r *wire.EndRecord) {
	t.lock()
	defer t.unlock()
	if over(t.record().State) || t.link() != nil {
		return
	}
	t.endByCheck(t.recorded(r), "")
}

// recorded is the end that a wrapper wrote down.
func (t *task) recorded(r *wire.EndRecord) ledger.Ended {
	code := r.RetCode
	return t.verdict(&wire.Message{RetCode: &code, End: &r.End, Error: r.Error}, t.instant(r.Ended, &r.End, time.Now()))
}

// endByCheck records an end that was learned over the other road. serial is held.
func (t *task) endByCheck(e ledger.Ended, note string) {
	if err := t.saveOutput(); err != nil {
		t.log().Error("cannot keep the output", "err", err)
		t.askAgain()
		return
	}
	k := t.killing()
	e.Before = t.before(k, &e)
	events := []ledger.Event{e}
	if e.End.Leftover > 0 {
		events = append(events, ledger.LeftoverNow{Task: t.id, Count: e.End.Leftover})
	}
	if k != nil && (e.End.Cause == wire.CauseLost || unaware(&e)) {
		note += t.closingLine(k.cause)
	}
	if note != "" {
		events = append(events, t.noteEvent(note))
	}
	events = append(events, t.whyNot(&e)...)
	if err := t.apply(events...); err != nil {
		if !errors.Is(err, ledger.ErrUnlawful) {
			t.log().Error("cannot record the end", "err", err)
			t.askAgain()
		}
		return
	}
	t.unhold()
	if e.End.Leftover > 0 {
		t.askAgain()
	}
}

// askedEnded takes what the machine says of a task that has ended: whether its
// leftovers live, and what its wrapper could not bring.
func (t *task) askedEnded(ctx context.Context, res launch.ScriptResult) {
	rec := t.record()
	if res.End != nil {
		t.fetchOutput(ctx, res.End.Identity, res.End.End.Length)
		t.lock()
		code := res.End.RetCode
		if err := t.amend(t.verdict(&wire.Message{RetCode: &code, End: &res.End.End, Error: res.End.Error}, rec.Ended)); err != nil {
			t.log().Error("cannot complete the end", "err", err)
		}
		t.unlock()
	} else if !res.WrapperAlive {
		t.fetchOnce(ctx)
	}
	if rec.Leftover == 0 {
		return
	}
	left := rec.Leftover
	switch res.Outcome {
	case wire.OutcomeGone:
		left = 0
	case wire.OutcomeAlive:
		left = max(res.Alive, 1)
	}
	t.lock()
	err := t.leftovers(left)
	t.unlock()
	if err != nil {
		t.log().Error("cannot record the leftovers", "err", err)
	}
	if left > 0 {
		t.askAgain()
	}
}

// fetchOnce brings what a dead wrapper left of the output.
func (t *task) fetchOnce(ctx context.Context) {
	t.mu.Lock()
	done := t.fetched
	t.fetched = true
	t.mu.Unlock()
	if done {
		return
	}
	t.fetchOutput(ctx, nil, nil)
	if err := t.saveOutput(); err != nil {
		t.log().Error("cannot keep the output", "err", err)
	}
}
