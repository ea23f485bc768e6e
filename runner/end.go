package runner

import (
	"errors"
	"fmt"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// held is a complete message that waits for the rest of its output.
type held struct {
	message *wire.Message
	at      time.Time // when it came first
}

// complete takes the end of a task. It is acknowledged when it is durable, with
// all of its output.
func (s *session) complete(m *wire.Message) error {
	s.t.lock()
	defer s.t.unlock()
	return s.t.finish(s, m)
}

// holds reports whether a complete waits for its output.
func (t *task) holds() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held != nil
}

// released goes on with a complete whose output may be there now.
func (t *task) released(s *session) error {
	t.lock()
	defer t.unlock()
	t.mu.Lock()
	h := t.held
	t.mu.Unlock()
	if h == nil {
		return nil
	}
	return t.finish(s, h.message)
}

// finish records the end that a wrapper reports. serial is held.
func (t *task) finish(s *session, m *wire.Message) error {
	ready, err := t.outputReady(s, m)
	if err != nil || !ready {
		return err
	}
	if err := t.saveOutput(); err != nil {
		t.log().Error("cannot keep the output", "err", err)
		return err
	}
	e := t.verdict(m, s.at(m))
	if over(t.record().State) {
		err = t.amend(e)
	} else {
		err = t.end(s, e)
	}
	if err != nil {
		t.log().Error("cannot record the end", "err", err)
		return err
	}
	t.unhold()
	t.ts.expire(s.hash, t.id, time.Now())
	t.after(func() {
		if s.has(wire.FeatureBytes) { // others know no offsets
			s.acks.flush()
		}
		s.send(wire.Message{Type: wire.TypeAck, AckType: wire.TypeComplete, Seq: m.Seq})
	})
	return nil
}

func (t *task) unhold() {
	t.mu.Lock()
	t.held = nil
	t.mu.Unlock()
	t.wants.Store(noWant)
}

// end records the one end of the task, and with it the receipt of the kill that
// it settles. serial is held.
func (t *task) end(s *session, e ledger.Ended) error {
	k := t.killing()
	e.Before = t.before(k, &e)
	events := []ledger.Event{e}
	if e.End.Leftover > 0 {
		events = append(events, ledger.LeftoverNow{Task: t.id, Count: e.End.Leftover})
	}
	events = append(events, t.whyNot(&e)...)
	settles := k != nil && e.End.Leftover == 0
	if settles && s != nil && !s.has(wire.FeatureReport) {
		// An older wrapper knows only what it has signalled: look for the rest.
		t.mu.Lock()
		k.verify = true
		cause := k.cause
		t.mu.Unlock()
		settles = false
		if !e.Before {
			events = append(events, t.olderClosing(cause)...)
		}
	} else if k != nil && unaware(&e) {
		events = append(events, t.olderClosing(k.cause)...)
	}
	if !settles {
		if err := t.apply(events...); err != nil {
			return err
		}
		t.logCompleted()
		return nil
	}
	r := t.endReceipt(k, e)
	events = append(events, t.settled(k, r, true)...)
	if err := t.apply(events...); err != nil {
		return err
	}
	t.logCompleted()
	t.answered(k, r, true)
	return nil
}

// whyNot is the note that tells in the output why nothing was started: there is no
// other output that could. serial is held.
func (t *task) whyNot(e *ledger.Ended) []ledger.Event {
	if e.End.Cause != wire.CauseLaunch || e.Reason == "" {
		return nil
	}
	return []ledger.Event{t.noteEvent(e.Reason + "\n")}
}

// logCompleted says in the server's log what the existing program says there.
func (t *task) logCompleted() {
	rec := t.record()
	t.log().Info(fmt.Sprintf("WebSocket: Job completed - %s:%s (exit code: %d)", t.id.Run, t.id.Machine, code(&rec)))
}

// amend fills in what an end that came by another road lacks. serial is held.
func (t *task) amend(e ledger.Ended) error {
	if knowsNothing(&e.End) {
		return nil // it must not take the place of somebody who knows
	}
	rec := t.record()
	known := rec.End != nil && (rec.End.RealCode != nil || rec.End.RealSignal != 0)
	if rec.Amended || known && rec.State != ledger.Unknown {
		return nil // it is said again
	}
	var exit *int
	if rec.State == ledger.Unknown {
		exit = &e.ExitCode
	}
	events := []ledger.Event{ledger.Amended{Task: t.id, ExitCode: exit, End: e.End}}
	if e.End.Leftover != rec.Leftover {
		events = append(events, ledger.LeftoverNow{Task: t.id, Count: e.End.Leftover})
	}
	err := t.apply(events...)
	if errors.Is(err, ledger.ErrUnlawful) {
		return nil
	}
	if err == nil {
		who := "its wrapper came back and"
		if t.plan().NoWrapper {
			who = "its connection"
		}
		t.log().Info(who+" told how it ended", "exit_code", e.ExitCode)
	}
	return err
}

// knowsNothing reports whether an end only says that nobody saw it.
func knowsNothing(e *wire.End) bool {
	return e.Cause == wire.CauseLost && e.RealCode == nil && e.RealSignal == 0
}

// outputReady reports whether all output that belongs to an end is stored. If
// not, the end is held, and the output asked for.
func (t *task) outputReady(s *session, m *wire.Message) (bool, error) {
	if m.End != nil && m.End.Length != nil {
		length, err := t.openOutput()
		if err != nil || length >= *m.End.Length {
			return err == nil, err
		}
		t.hold(m, *m.End.Length)
		t.after(func() { s.again(length, time.Now()) })
		return false, nil
	}
	return t.olderReady(s, m)
}

// hold keeps an end until its output is there.
func (t *task) hold(m *wire.Message, length int64) *held {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		t.held = &held{at: time.Now()}
	}
	t.held.message = m
	t.wants.Store(length)
	return t.held
}

// verdict makes an end of a complete message.
func (t *task) verdict(m *wire.Message, at time.Time) ledger.Ended {
	e := ledger.Ended{Task: t.id, At: at, Reason: m.Error}
	if m.End != nil && m.End.Cause != "" {
		e.End = *m.End
		if e.End.RealCode == nil && e.End.RealSignal == 0 && m.RetCode != nil && (e.End.Cause == wire.CauseExit || e.End.Cause == wire.CauseSignal) {
			e.End.RealCode = m.RetCode
		}
	} else {
		e.End = t.olderEnd(m, at)
	}
	judge(&e)
	return e
}

// judge derives state and exit code from an end's cause.
func judge(e *ledger.Ended) {
	real := 0
	if e.End.RealCode != nil {
		real = *e.End.RealCode
	}
	e.ExitCode = wire.ExitCode(e.End.Cause, real, e.End.RealSignal)
	switch e.End.Cause {
	case wire.CauseKill:
		e.State = ledger.Killed
	case wire.CauseNever:
		e.State, e.Reason = ledger.Killed, pick(e.Reason, ledger.ReasonNever)
	case wire.CauseTerminated:
		e.State, e.Reason = ledger.Killed, pick(e.Reason, "its wrapper was told to end")
	case wire.CauseTimeout:
		e.State = ledger.TimedOut
	case wire.CauseLaunch:
		e.State = ledger.LaunchFailed
	case wire.CauseLost:
		e.State, e.Reason = ledger.Unknown, pick(e.Reason, reasonLost)
	default:
		e.State = ledger.Succeeded
		if e.ExitCode != 0 {
			e.State = ledger.Failed
		}
		if e.End.RealCode == nil && e.End.RealSignal == 0 {
			e.State, e.ExitCode, e.Reason = ledger.Unknown, wire.ExitLost, pick(e.Reason, "its wrapper told no exit code")
		}
	}
}

// Reasons that ends are recorded with.
const (
	reasonLost     = "ended, exit code unknown (wrapper lost)"
	reasonRebooted = "ended, exit code unknown (the machine was restarted)"
)
