package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// killing is a kill that stands, from its wish to its last receipt. One goroutine
// carries it (carry); everybody else only changes the fields and pokes it. The
// fields belong to task.mu.
type killing struct {
	id     string
	by     string
	from   string
	cause  string
	asked  time.Time
	signal string
	grace  *float64

	waiters    []*waiter
	unrecorded error // the ledger could not take it: it lives in memory only
	settled    bool
	withdrawn  bool
	audited    string // the last outcome in the audit log
	why        string // why it has not got through

	changes   int      // how often it was changed
	resend    bool     // it was changed: say it again
	sentOn    *session // the connection that carried it last
	sending   bool     // it waits for its turn to be sent there
	turn      func()   // gives the turn back; nil: it has none
	sentAt    time.Time
	heardAt   time.Time // killed or a report came since
	report    *wire.Report
	reportAt  time.Time
	reportVia string // the road that it came by; "" = the connection

	verify    bool // the wrapper's word is not enough
	scripting int  // kill.sh is running so many times
	working   int  // and so many of them are known to be at work on the machine
	maybe     bool // one was at work and its answer did not come
	struck    bool // one of them has signalled somebody
	phase     string
	found     int // processes that it found before it did
	nextTry   time.Time
	wait      time.Duration
	notBefore time.Time // until then the wrapper may come back

	poke chan struct{}
}

// waiter is one caller who waits for the receipt.
type waiter struct {
	asked   time.Time
	receipt chan Receipt
}

// look makes the kill's goroutine look again.
func (k *killing) look() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

// message is the id that it goes by over the connection: a wrapper takes each id
// once, so that repeating one never cuts the grace short, while a changed kill is
// a new one. The lock is held.
func (k *killing) message() string {
	if k.changes == 0 {
		return k.id
	}
	return fmt.Sprintf("%s-%d", k.id, k.changes)
}

// answers reports whether an id is one that this kill went by. Older wrappers name
// none.
func (k *killing) answers(id string) bool {
	return id == "" || id == k.id || strings.HasPrefix(id, k.id+"-")
}

// killing is the kill that stands, nil if none does.
func (t *task) killing() *killing {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kill == nil || t.kill.settled {
		return nil
	}
	return t.kill
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

// underWay reports whether somebody on the machine is known to be at work on a kill.
func (t *task) underWay(k *killing) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return k.working > 0 || !k.heardAt.IsZero() && t.session == k.sentOn
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

// standKill puts a kill in force in memory, or changes the one that stands.
// serial is held.
func (t *task) standKill(want ledger.Kill, w *waiter, unrecorded error) *killing {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kill
	if k == nil || k.settled {
		k = &killing{
			id: want.ID, by: want.By, from: want.From, cause: want.Cause, asked: want.Asked,
			signal: want.Signal, grace: want.Grace, unrecorded: unrecorded,
			wait: t.ts.pace.retry, poke: make(chan struct{}, 1),
		}
		if t.rec.Kill != nil && unrecorded == nil {
			k.id = t.rec.Kill.ID
		}
		t.kill = k
		if t.endWait != nil {
			t.endWait()
		}
		t.ts.spawn(func() { t.carry(t.ts.life, k) })
	} else {
		k.signal, k.grace, k.resend, k.nextTry = want.Signal, want.Grace, true, time.Time{}
		k.report, k.heardAt = nil, time.Time{}
		k.changes++
	}
	if w != nil {
		k.waiters = append(k.waiters, w)
	}
	return k
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

// hears notes that a connection brings answers to what was sent over it. The lock
// is held.
func (t *task) hears(s *session) {
	if t.deaf == s {
		t.deaf = nil
	}
}

// killHeard takes the word that a kill message arrived.
func (t *task) killHeard(s *session, _ string) {
	k := t.killing()
	if k == nil {
		return
	}
	t.mu.Lock()
	if k.sentOn == s && k.heardAt.IsZero() {
		k.heardAt = time.Now()
	}
	t.hears(s)
	t.mu.Unlock()
	k.look()
}
