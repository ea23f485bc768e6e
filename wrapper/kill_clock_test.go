package wrapper

import (
	"testing"
	"time"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// R16: the wrapper's wall clock jumps by a day, either way, while a timeout or a
// grace runs. Neither ends early, neither late. The machine's clock stays as it is.
func TestKillClockJump(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]time.Duration{"a day on": 24 * time.Hour, "a day back": -24 * time.Hour} {
		t.Run("timeout, "+name, func(t *testing.T) {
			t.Parallel()
			lab.Case(t, "R16 clock jump", "timeout, "+name)
			jumpDuringTimeout(t, by)
		})
		t.Run("grace, "+name, func(t *testing.T) {
			t.Parallel()
			lab.Case(t, "R16 clock jump", "grace, "+name)
			jumpDuringGrace(t, by)
		})
	}
}

const stubborn = "trap '' TERM; echo up; while :; do sleep .05; done"

func jumpDuringTimeout(t *testing.T, by time.Duration) {
	s := newTestServer(t)
	o := testOrder(t, s, stubborn)
	o.Timeout, o.KillGrace = 5, 1
	w := launch(t, o)
	began := time.Now()
	s.awaitOutput(3)
	lab.JumpingClock(t, w.cmd.Process.Pid).Jump(by)
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, wire.ExitTimeout)
	if m.End == nil || m.Phase != wire.PhaseKill || m.ElapsedMS < 5999 {
		t.Fatalf("end %+v", m.End)
	}
	// The wrapper counted from the open gate, which is later than began.
	if took := time.Since(began); took < 5999*time.Millisecond || took.Seconds() < m.ElapsedMS/1000 {
		t.Errorf("it took %s by our clock, %g ms by the wrapper's", took, m.ElapsedMS)
	}
	jumped(t, m, by)
	w.exits()
}

func jumpDuringGrace(t *testing.T, by time.Duration) {
	s := newTestServer(t)
	o := testOrder(t, s, stubborn)
	w := launch(t, o)
	s.awaitOutput(3)
	clock := lab.JumpingClock(t, w.cmd.Process.Pid)
	asked := time.Now()
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k", Grace: wire.Ptr(4.0)})
	s.awaitMessage(wire.TypeKilled)
	clock.Jump(by)
	r := s.awaitReport("k")
	if r.Outcome != wire.OutcomeGone || r.Phase != wire.PhaseKill || r.Proof != wire.ProofECHILD || r.TookMS < 3999 {
		t.Errorf("report %+v", r)
	}
	if took := time.Since(asked); took < 3999*time.Millisecond {
		t.Errorf("SIGKILL came after %s", took)
	}
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, wire.ExitKilled)
	jumped(t, m, by)
	w.exits()
}

// jumped makes sure that the wrapper lived by the other clock.
func jumped(t *testing.T, m *wire.Message, by time.Duration) {
	t.Helper()
	says := wire.ParseTime(m.Timestamp, time.Time{})
	if off := time.Until(says) - by; off < -testWait || off > testWait {
		t.Errorf("the wrapper says it ended at %s: its clock did not jump by %s", m.Timestamp, by)
	}
}
