package runner

import (
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// report takes what a wrapper says of the task's processes: the answer to a kill,
// its later correction, the answer to another order, or news of leftovers. It is
// acknowledged once what it says is recorded.
func (s *session) report(m *wire.Message) error {
	if m.Report == nil {
		return nil
	}
	t := s.t
	t.lock()
	defer t.unlock()
	if m.Report.Op != "leftover" { // which is news, and no answer to anything
		t.mu.Lock()
		t.hears(s)
		t.mu.Unlock()
	}
	var err error
	switch m.Report.Op {
	case "kill":
		err = t.killReport(s, m.ID, m.Report)
	case "leftover":
		err = t.leftovers(m.Report.Leftover)
	case "pause", "resume", "signal":
		err = t.orderReport(m.ID, m.Report)
	}
	if err != nil {
		return err
	}
	t.after(func() { s.send(wire.Message{Type: wire.TypeAck, AckType: wire.TypeReport, ID: m.ID}) })
	return nil
}

// killReport takes the wrapper's word on a kill. What it says is recorded with the
// receipt that it settles. serial is held.
func (t *task) killReport(s *session, id string, w *wire.Report) error {
	k := t.killing()
	ended := over(t.record().State)
	if k == nil || !k.answers(id) {
		if ended && w.Outcome == wire.OutcomeGone {
			return t.leftovers(0)
		}
		if w.Outcome == wire.OutcomeAlive {
			t.log().Warn("the wrapper could not end all of the job's processes", "alive", w.Alive)
			t.mu.Lock()
			t.alive = leftProcesses(w.Left)
			t.mu.Unlock()
			t.changed()
		}
		return nil
	}
	t.mu.Lock()
	now := time.Now()
	k.heardAt, k.report, k.reportAt, k.reportVia = now, w, now, ""
	k.overTurn()
	t.mu.Unlock()
	if w.Outcome == wire.OutcomeAlive {
		r := t.receipt(k, wire.OutcomeAlive, roadWebSocket)
		reported(&r, w)
		t.settle(k, r, false)
		return nil
	}
	if ended {
		// Leftovers were the target: there is no end to wait for.
		r := t.receipt(k, wire.OutcomeGone, roadWebSocket)
		t.merge(k, &r, w)
		t.settle(k, r, true, ledger.LeftoverNow{Task: t.id, Count: 0})
		return nil
	}
	t.after(k.look)
	return nil
}

// leftovers counts what outlives an ended task. serial is held.
func (t *task) leftovers(count int) error {
	rec := t.record()
	if !rec.State.Done() || rec.Leftover == count {
		return nil
	}
	return t.apply(ledger.LeftoverNow{Task: t.id, Count: count})
}

// orderReport takes the answer to a pause, resume or signal. serial is held.
func (t *task) orderReport(id string, w *wire.Report) error {
	if w.OK {
		if err := t.applyOrder(w.Op); err != nil {
			return err
		}
	}
	t.mu.Lock()
	asked := t.asks[id]
	delete(t.asks, id)
	t.mu.Unlock()
	if asked != nil {
		asked <- *w // buffered: one answer for each question
	}
	return nil
}

// applyOrder records what an order that was carried out made of the task. serial
// is held.
func (t *task) applyOrder(op string) error {
	rec := t.record()
	now := time.Now()
	switch {
	case op == "pause" && rec.State == ledger.Running:
		t.mu.Lock()
		t.timeKnown = false
		t.mu.Unlock()
		return t.apply(ledger.PausedAt{Task: t.id, At: now})
	case op == "resume" && rec.State == ledger.Paused:
		t.mu.Lock()
		t.thawAt = time.Time{}
		t.mu.Unlock()
		return t.apply(ledger.ResumedAt{Task: t.id, At: now})
	}
	return nil
}
