package wrapper

import (
	"time"

	"saltpeter/wsx/wire"
)

// onAsk is called by the road's reader. A kill waits for nobody; the rest is for
// the loop.
func (t *task) onAsk(m *wire.Message) {
	if m.Type == wire.TypeKill {
		t.onKill(m)
		return
	}
	select {
	case t.asks <- m:
	case <-t.done: // nobody is left to answer
	}
}

// onKill carries a kill message to the engine. A server repeats it until it has
// the receipt, and again after a reconnect: the same id never strikes twice,
// since a second kill would cut the first one's grace. Older servers know no
// ids; all of theirs are one kill.
func (t *task) onKill(m *wire.Message) {
	id := first(m.ID, wire.CauseKill)
	t.mu.Lock()
	repeated := t.seen[id]
	if !repeated && len(t.seen) < seenKillsMost {
		t.seen[id] = true
	}
	answer, answered := t.answers[id]
	t.mu.Unlock()
	t.rep.Killed(m.ID)
	if repeated {
		if answered {
			t.rep.Report(id, answer)
		}
		return
	}
	t.log.Printf("Received kill signal from server")
	r := killRequest{ID: id, Cause: wire.CauseKill, Signal: m.Signal}
	if m.Grace != nil {
		grace := duration(wire.Seconds(*m.Grace))
		r.Grace = &grace
	}
	t.kill(r)
}

// kill may be called by any goroutine.
func (t *task) kill(r killRequest) {
	t.mu.Lock()
	over, proof := t.over, t.proof
	if !over {
		t.waiting[r.ID] = true
	}
	t.mu.Unlock()
	if over {
		t.rep.Report(r.ID, notRunning("kill", proof))
		return
	}
	t.log.Printf("Terminating process %d", t.identity.PID)
	t.engine.Kill(r)
}

func notRunning(op, proof string) wire.Report {
	return wire.Report{Op: op, OK: op == "kill", Outcome: wire.OutcomeNotRunning, Proof: proof}
}

// hear answers what was asked of a job that has begun. Before, it waits for that: the
// server that asks has recorded the start, and its word that opens the gate is on its
// way, maybe behind what is asked.
func (t *task) hear(m *wire.Message) {
	if !t.opened && !t.gone && len(t.early) < cap(t.asks) {
		t.early = append(t.early, m)
		return
	}
	t.answer(m)
}

// answerEarly answers what came before the gate opened, or never did.
func (t *task) answerEarly() {
	for _, m := range t.early {
		t.answer(m)
	}
	t.early = nil
}

// answer carries out a signal, pause or resume, each id once.
func (t *task) answer(m *wire.Message) {
	t.mu.Lock()
	r, done := t.answers[m.ID]
	t.mu.Unlock()
	if !done || m.ID == "" {
		r = t.carryOut(m)
		r.Op = m.Type
		t.mu.Lock()
		if len(t.answers) < seenKillsMost {
			t.answers[m.ID] = r
		}
		t.mu.Unlock()
	}
	t.log.Debugf("%s %s: ok=%v %s", m.Type, m.Signal, r.OK, r.Error)
	t.rep.Report(m.ID, r)
}

func (t *task) carryOut(m *wire.Message) wire.Report {
	if t.gone {
		return notRunning(m.Type, t.end.Proof)
	}
	now := time.Now()
	switch m.Type {
	case wire.TypeSignal:
		return t.engine.Signal(m.ID, m.Signal, m.Scope)
	case wire.TypePause:
		var ttl time.Duration
		if m.TTL != nil {
			ttl = duration(wire.Seconds(*m.TTL))
		}
		r := t.engine.Pause(m.ID, ttl)
		if r.OK {
			t.halt(now, ttl)
		}
		return r
	default:
		r := t.engine.Resume(m.ID)
		if r.OK {
			t.goOn(now)
		}
		return r
	}
}

// halt stops the timeout's clock where the job wants that.
func (t *task) halt(now time.Time, ttl time.Duration) {
	if !t.order.PauseStopsTimeout {
		return
	}
	if !t.timeoutAt.IsZero() {
		t.left = max(t.timeoutAt.Sub(now), time.Millisecond)
		t.timeoutAt = time.Time{}
	}
	t.thawsAt = time.Time{}
	if ttl > 0 && t.left > 0 {
		t.thawsAt = now.Add(ttl)
	}
}

func (t *task) goOn(now time.Time) {
	t.thawsAt = time.Time{}
	if t.left > 0 {
		t.timeoutAt, t.left = now.Add(t.left), 0
	}
}
