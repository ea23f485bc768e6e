package runner

import (
	"context"
	"time"

	"saltpeter/runner/ledger"
)

// adopt takes over every unfinished task of an earlier server (from
// Ledger.Unfinished), at start, before run. Tasks that are still queued are only
// made known: the firing half launches or skips them. spec makes the taskSpec of
// a recorded task from its run's definition; it is kept for tasks that come back
// later. A task whose spec cannot be made is still followed, on the road of its
// recorded transport.
//
// Nothing is asked of the machines at once: wrappers come back by themselves, and
// know more than any other road tells. Those that do not are asked for; tasks without
// a wrapper at once.
func (ts *tasks) adopt(_ context.Context, unfinished []ledger.Task, spec func(ledger.Task) (taskSpec, error)) {
	ts.mu.Lock()
	ts.specOf = spec
	ts.mu.Unlock()
	now := time.Now()
	for _, rec := range unfinished {
		// Wrappers are let in before this: one may have brought its end since then.
		t, err := ts.know(ts.write, rec.TaskID, &rec, 0)
		if err != nil {
			ts.o.Log.Error("cannot take a task over", "job", rec.Job, "run", rec.Run, "machine", rec.Machine, "err", err)
			continue
		}
		t.adopted(now)
		ts.forgetIdle(t)
	}
}

// adopted sets going what an unfinished task needs.
func (t *task) adopted(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rec.State == ledger.Queued || over(t.rec.State) && t.rec.Leftover == 0 && !t.rec.Kill.Standing() {
		return
	}
	comeback := now.Add(t.ts.pace.comeback)
	if t.bare() {
		comeback = now // nobody does
		t.ts.spawn(t.bareAdopted)
	}
	if t.session == nil {
		t.quiet = now
		t.checkAt = comeback
		t.checkWait = t.ts.pace.recheck
	}
	if rk := t.rec.Kill; rk.Standing() && (t.kill == nil || t.kill.settled) {
		k := &killing{
			id: rk.ID, by: rk.By, from: rk.From, cause: rk.Cause, asked: rk.Asked, signal: rk.Signal, grace: rk.Grace,
			wait: t.ts.pace.retry, poke: make(chan struct{}, 1), notBefore: comeback,
			why: "the server was started again: it is carried on",
		}
		t.kill = k
		t.ts.spawn(func() { t.carry(t.ts.life, k) })
	}
}
