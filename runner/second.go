package runner

import (
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// A machine, or only the wrapper on it, may stand still between the wrapper's start and
// its first look at the order that waits for it. If the server dies meanwhile, the next
// one finds nobody, starts the task again and follows that to its end. When the first
// wrapper goes on, it must not run the command a second time, and what it says is not
// the task's.

// comesSecond reports whether a wrapper introduces itself for a task that has run, and
// ended, as other processes.
func comesSecond(rec *ledger.Task, id *wire.Identity) bool {
	if !over(rec.State) || rec.Started.IsZero() || rec.Identity == nil || id == nil {
		return false
	}
	ran := rec.Identity
	return ran.StartTicks != 0 && (ran.BootID != id.BootID || ran.PID != id.PID || ran.StartTicks != id.StartTicks)
}

// turnAway tells a second wrapper to end, whose gate is still shut. serial is held.
func (s *session) turnAway(m *wire.Message, common []string) {
	s.second = true
	s.features.Store(&common)
	s.t.log().Warn("a second wrapper wants to run a task that has ended: it is told to end", "pid", m.Identity.PID, "state", s.t.record().State)
	s.t.after(func() {
		ack := wire.Message{Type: wire.TypeAck, AckType: wire.TypeConnect, Features: common}
		if wire.Has(common, wire.FeatureBytes) {
			ack.Resume = wire.Ptr[int64](0)
		}
		s.send(ack)
		s.order(wire.Message{Type: wire.TypeKill, ID: randomHex(8)})
	})
}

// fromSecond lets a second wrapper have said what it has to say, so that it goes.
func (s *session) fromSecond(m *wire.Message) error {
	switch m.Type {
	case wire.TypeReport:
		s.send(wire.Message{Type: wire.TypeAck, AckType: wire.TypeReport, ID: m.ID})
	case wire.TypeComplete:
		s.acks.flush()
		s.send(wire.Message{Type: wire.TypeAck, AckType: wire.TypeComplete, Seq: m.Seq})
	}
	return nil
}
