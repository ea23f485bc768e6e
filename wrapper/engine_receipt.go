package wrapper

import (
	"time"

	"saltpeter/wsx/wire"
)

// goneReport answers one request when nothing is left.
func (e *engine) goneReport(id, proof string) wire.Report {
	k := e.kill
	r := wire.Report{
		Op: "kill", OK: true, Outcome: wire.OutcomeGone, Signal: k.name, Phase: k.phase, Proof: proof,
		TookMS: milliseconds(time.Since(k.began)), ProcessesBefore: k.before, Already: k.already[id],
	}
	if e.never {
		r.Outcome, r.Phase, r.Signal, r.ProcessesBefore = wire.OutcomeNeverStarted, "", "", 0
	}
	return r
}

// sayAlive answers all requests with who is still there.
func (e *engine) sayAlive(members []member) {
	k := e.kill
	k.answered = true
	left, n := e.describe(members)
	for _, id := range k.ids {
		e.emit(engineEvent{Kind: eventReport, ID: id, Report: wire.Report{
			Op: "kill", Outcome: wire.OutcomeAlive, Signal: k.name, Phase: k.phase,
			TookMS: milliseconds(time.Since(k.began)), ProcessesBefore: k.before,
			Alive: n, Left: left, Already: k.already[id],
		}})
	}
	e.debugf("%d processes are still alive past the hard limit", n)
}

// describe names the living, bounded, each with the reason why it still lives.
func (e *engine) describe(members []member) (left []wire.Process, n int) {
	for _, m := range members {
		if !m.alive() {
			continue
		}
		if n++; n > wire.MaxLeft {
			continue
		}
		reason := wire.ReasonPending
		switch {
		case e.kill == nil:
			reason = ""
		case e.kill.eperm[m.procKey]:
			reason = wire.ReasonEPERM
		case e.nets.frozen(m.proc):
			reason = wire.ReasonFrozen
		case m.state == 'D':
			reason = wire.ReasonUninterruptible
		}
		left = append(left, wire.Process{
			PID: m.pid, State: string(rune(m.state)), Command: e.nets.reader.command(m.pid), Reason: reason,
		})
	}
	return left, n
}
