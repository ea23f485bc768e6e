package runner

import (
	"context"
	"fmt"
	"time"

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
