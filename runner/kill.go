package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// KillOptions of one kill.
type KillOptions struct {
	Signal   string         // a name with or without SIG, or a number; "" = the job's own
	Grace    *time.Duration // nil = the job's own
	DryRun   bool
	NoWait   bool
	Withdraw bool
}

// kill asks for the end of the selected tasks; see Runner.Kill.
func (ts *tasks) kill(ctx context.Context, a Actor, s selection, o KillOptions) (<-chan Receipt, error) {
	if o.Signal != "" {
		name, err := signalName(o.Signal)
		if err != nil {
			return nil, err
		}
		o.Signal = name
	}
	if o.Grace != nil && *o.Grace < 0 {
		return nil, &Refusal{Code: "bad_request", Text: "the grace must not be negative", Hint: "write --grace 5s"}
	}
	ended := 0
	if ts.o.OnKill != nil && s.whole() && !o.DryRun && !o.Withdraw {
		ended = ts.o.OnKill(s.Job, s.Run)
	}
	chosen := ts.choose(s, killable)
	if o.Withdraw {
		chosen = ts.choose(s, withdrawable)
	}
	if len(chosen) == 0 && ended == 0 {
		return nil, s.nothing(o.Withdraw)
	}
	receipts := make(chan Receipt, len(chosen)) // nobody waits for the reader
	if !o.DryRun && !o.Withdraw {
		ts.logKill(chosen)
		chosen = ts.neverLaunch(a, chosen, s.whole(), receipts)
	}
	var wg sync.WaitGroup
	for _, t := range chosen {
		wg.Go(func() {
			if r, ok := t.killFor(ctx, a, o); ok {
				receipts <- r
			}
		})
	}
	go func() { // ends with the last of the above: they are bounded by ctx and by pace.person
		wg.Wait()
		close(receipts)
	}()
	return receipts, nil
}

// neverLaunch makes sure that what has not been launched is not launched while the
// rest is being killed, and returns those that are left to be killed. Of a whole
// run that is cut, later batches are skipped: nobody ever tried to start them.
func (ts *tasks) neverLaunch(a Actor, chosen []*task, whole bool, receipts chan<- Receipt) []*task {
	var batches, rest []*task
	for _, t := range chosen {
		t.mu.Lock()
		t.doomed = t.rec.State == ledger.Queued
		later := t.doomed && !t.enqueued
		t.mu.Unlock()
		if later && whole {
			batches = append(batches, t)
		} else {
			rest = append(rest, t)
		}
	}
	for _, t := range batches {
		if r, done := t.cancel(a); done {
			receipts <- r
		} else {
			rest = append(rest, t)
		}
	}
	return rest
}

// cancel skips a task whose run was killed before its turn came; false if it is
// not queued any more, or that cannot be recorded.
func (t *task) cancel(a Actor) (Receipt, bool) {
	t.lock()
	defer t.unlock()
	r := Receipt{Run: t.id.Run, Machine: t.id.Machine, Outcome: wire.OutcomeNeverStarted}
	if t.record().State != ledger.Queued {
		return r, false
	}
	err := t.apply(
		ledger.Ended{Task: t.id, At: time.Now(), State: ledger.Skipped, Reason: ledger.ReasonCancelled},
		audited(a, "kill", t.id, wire.OutcomeNeverStarted),
	)
	if err != nil {
		t.log().Error("cannot record that it is skipped", "err", err)
	}
	return r, err == nil
}

// logKill says in the server's log what the existing program says there.
func (ts *tasks) logKill(chosen []*task) {
	told := map[string]bool{}
	for _, t := range chosen {
		if job := t.job(); !told[job] {
			told[job] = true
			ts.o.Log.Info("WebSocket: Kill command received for job "+job, "job", job)
		}
	}
}

// killFor carries one task's part of a kill out and returns its receipt; false if
// ctx ended first.
func (t *task) killFor(ctx context.Context, a Actor, o KillOptions) (Receipt, bool) {
	switch {
	case o.DryRun:
		road := t.status(time.Now()).Road
		return Receipt{Run: t.id.Run, Machine: t.id.Machine, Outcome: OutcomeDryRun, Via: road}, true
	case o.Withdraw:
		return t.withdraw(a), true
	}
	w := &waiter{asked: time.Now(), receipt: make(chan Receipt, 1)}
	var grace *float64
	if o.Grace != nil {
		grace = wire.Ptr(o.Grace.Seconds())
	}
	k := t.askKill(a, ledger.Kill{Cause: wire.CauseKill, Signal: o.Signal, Grace: grace}, w)
	if k != nil && o.NoWait {
		select {
		case r := <-w.receipt:
			return r, true
		default:
			r := t.receipt(k, OutcomeAsked, "")
			r.Pending = true
			return r, true
		}
	}
	return t.awaitReceipt(ctx, k, w, grace)
}

// awaitReceipt waits for one caller's receipt, for as long as a person waits.
// Somebody who has heard of the kill takes the time that a kill takes; a machine
// that nobody has reached yet is not waited for that long. false if ctx ended first.
func (t *task) awaitReceipt(ctx context.Context, k *killing, w *waiter, grace *float64) (Receipt, bool) {
	g, hard := t.patience(grace)
	whole := max(t.ts.pace.person, g+hard+4*time.Second)
	limit := time.NewTimer(t.ts.pace.person)
	defer limit.Stop()
	for {
		select {
		case r := <-w.receipt:
			return r, true
		case <-limit.C:
			if left := whole - time.Since(w.asked); left > 0 && t.underWay(k) {
				limit.Reset(left)
				continue
			}
			t.mu.Lock()
			k.why = pick(k.why, noAnswerYet)
			t.mu.Unlock()
			t.changed()
			return t.pending(k, noAnswerYet), true
		case <-ctx.Done():
			return Receipt{}, false
		case <-t.ts.life.Done():
			if k == nil {
				return <-w.receipt, true
			}
			// Who waits must not take the tasks that were answered for for all of them.
			return t.pending(k, "the server is stopping: the kill stands, and the next one carries it on"), true
		}
	}
}

// pending is the receipt of a kill that nobody has answered yet.
func (t *task) pending(k *killing, why string) Receipt {
	r := t.receipt(k, wire.OutcomeUnknown, "")
	r.Pending, r.Error = true, pick(r.Error, why)
	return r
}

// askKill records a kill and sets it going, or shortens the one that stands. The
// waiter gets one receipt. nil: there is nothing to kill, and the receipt says so.
func (t *task) askKill(a Actor, want ledger.Kill, w *waiter) *killing {
	t.lock()
	defer t.unlock()
	before := t.record()
	standing := t.killing()
	if over(before.State) && before.Leftover == 0 && standing == nil {
		w.receipt <- t.notRunning(&before)
		return nil
	}
	want.ID, want.Asked, want.By, want.From = randomHex(8), w.asked, a.Who, a.From
	err := t.apply(ledger.KillAsked{Task: t.id, Kill: want}, audited(a, auditWord(want.Cause), t.id, "asked"))
	if errors.Is(err, ledger.ErrUnlawful) || errors.Is(err, ledger.ErrNoTask) {
		w.receipt <- t.notRunning(&before)
		return nil
	}
	if err != nil {
		t.log().Error("a kill is carried out, but cannot be recorded: a restart of the server would forget it", "err", err)
	}
	rec := t.record()
	k := t.standKill(want, w, err)
	if before.State == ledger.Queued && over(rec.State) {
		r := t.receipt(k, wire.OutcomeNeverStarted, "")
		t.settle(k, r, true)
		return k
	}
	t.after(k.look)
	return k
}

func auditWord(cause string) string {
	if cause == wire.CauseTimeout {
		return "timeout"
	}
	return "kill"
}

// notRunning is the receipt for a task that had ended before the kill came.
func (t *task) notRunning(rec *ledger.Task) Receipt {
	r := Receipt{Run: t.id.Run, Machine: t.id.Machine, Outcome: wire.OutcomeNotRunning, ExitCode: rec.ExitCode}
	if rec.End != nil {
		r.RealCode, r.RealSignal = rec.End.RealCode, rec.End.RealSignal
	}
	return r
}

// withdraw ends a standing kill without its being carried out any further.
func (t *task) withdraw(a Actor) Receipt {
	t.lock()
	defer t.unlock()
	r := Receipt{Run: t.id.Run, Machine: t.id.Machine, Outcome: wire.OutcomeNotRunning}
	rec := t.record()
	k := t.killing()
	if k == nil && !rec.Kill.Standing() {
		return r
	}
	r.Outcome = OutcomeWithdrawn
	err := t.apply(ledger.KillWithdrawn{Task: t.id, At: time.Now(), By: a.Who}, audited(a, "withdraw", t.id, "withdrawn"))
	if err != nil {
		r.Outcome, r.Error, r.Pending = wire.OutcomeUnknown, fmt.Sprintf("cannot record that: %v", err), true
		return r
	}
	if k != nil {
		t.mu.Lock()
		k.settled, k.withdrawn = true, true
		k.overTurn()
		waiters := k.waiters
		k.waiters = nil
		t.mu.Unlock()
		for _, w := range waiters {
			w.receipt <- r
		}
		t.after(k.look)
	}
	return r
}

const noAnswerYet = "no answer yet"
