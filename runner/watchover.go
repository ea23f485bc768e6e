package runner

import (
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// tick does what only time brings, for every task in memory. It never blocks:
// what takes long is started.
func (ts *tasks) tick(now time.Time) {
	for _, t := range ts.every() {
		t.tick(now)
	}
	ts.dropTokens(now)
}

// due is what a look at one task found to do.
type due struct {
	cut      bool // it is silent: say so
	ask      bool
	timeout  bool
	thaw     bool
	idle     bool
	unfollow bool // another server's, for too long
}

func (t *task) tick(now time.Time) {
	d := t.due(now)
	if d.cut {
		if t.plan().NoWrapper {
			t.log().Warn("disconnected: it runs without a wrapper, and its connection is gone")
		} else {
			t.log().Warn("disconnected: no word from its wrapper", "for", t.ts.pace.silence)
		}
		t.changed()
	}
	if d.ask {
		t.ts.spawn(func() { t.ask(t.ts.life) })
	}
	if d.timeout {
		t.ts.spawn(t.enforceTimeout)
	}
	if d.thaw {
		t.ts.spawn(t.enforceThaw)
	}
	if d.unfollow {
		t.ts.spawn(t.unfollow)
	}
	if d.idle {
		t.ts.forgetIdle(t)
	}
	t.closeIdleOutput(now)
}

func (t *task) due(now time.Time) due {
	t.mu.Lock()
	defer t.mu.Unlock()
	var d due
	ended := over(t.rec.State)
	if t.holding {
		t.quiet = now // its connection is there, and tells when it ends
	}
	live := !t.rec.State.Done() && t.rec.State != ledger.Queued
	silent := now.Sub(t.quiet) > t.ts.pace.silence && !t.starting // who is being started cannot speak yet
	if live && silent && !t.cut {
		t.cut, d.cut = true, true
	}
	if !t.checkAt.IsZero() && !now.Before(t.checkAt) && !t.checking && !t.starting && t.session == nil &&
		(t.kill == nil || t.kill.scripting == 0) {
		t.checking, d.ask = true, true
	}
	if live && (silent || t.orphan) && t.timedOut(now) && (t.kill == nil || t.kill.settled) {
		d.timeout = true
	}
	if live && !t.thawAt.IsZero() && now.After(t.thawAt.Add(t.ts.pace.answer)) && t.rec.State == ledger.Paused {
		t.thawAt, d.thaw = time.Time{}, true
	}
	d.unfollow = !ended && t.rec.Transport == transportForeign && now.Sub(t.rec.Launched) > t.ts.pace.foreign
	d.idle = ended && t.session == nil && t.rec.Leftover == 0 && t.checkAt.IsZero() && !t.checking
	return d
}

// timedOut reports whether the wrapper should have ended the job by now, or the time of
// a job without one is over. The lock is held.
func (t *task) timedOut(now time.Time) bool {
	if !t.hasSpec || t.rec.Started.IsZero() {
		return false
	}
	o := &t.spec.Order
	if o.Timeout <= 0 || o.PauseStopsTimeout && !t.timeKnown {
		return false // how long it was paused is not known here: late is better than early
	}
	limit := seconds(o.Timeout)
	if !t.bare() {
		limit += t.ts.pace.margin
	}
	return now.Sub(t.rec.Started) > limit
}

// enforceTimeout does over the other road what a wrapper that is gone, or was never
// there, cannot.
func (t *task) enforceTimeout() {
	if t.plan().NoWrapper {
		t.log().Warn("the timeout has passed, and it runs without a wrapper: the server ends it")
	} else {
		t.log().Warn("the timeout has passed and its wrapper is silent: the server ends it")
	}
	w := &waiter{asked: time.Now(), receipt: make(chan Receipt, 1)}
	t.askKill(Actor{Who: "server", From: "timeout"}, ledger.Kill{Cause: wire.CauseTimeout}, w)
}

// enforceThaw ends a pause whose time has run out.
func (t *task) enforceThaw() {
	ans := t.control(t.ts.life, Actor{Who: "server", From: "pause --ttl"}, request{op: "resume"})
	if !ans.OK {
		t.log().Warn("the pause has run out and could not be ended", "err", ans.Error)
		t.mu.Lock()
		t.thawAt = time.Now().Add(t.ts.pace.recheck)
		t.mu.Unlock()
	}
}
