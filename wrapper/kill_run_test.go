package wrapper

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// K14: a kill that comes while output is still drained removes what holds the
// pipe, and the task keeps the code that its shell had given it.
func TestKillWhileDraining(t *testing.T) {
	t.Parallel()
	lab.Case(t, "K14 kill while draining", "whole wrapper")
	s := newTestServer(t)
	o := testOrder(t, s, "sleep 300 & echo said; exit 3")
	o.Drain = 60
	w := launch(t, o)
	s.awaitOutput(5)
	waitFor(t, "the shell's end", func() bool {
		p, ok := newProcReader().stat(w.identity.PID)
		return !ok || p.start != w.identity.StartTicks || !p.alive()
	})
	time.Sleep(100 * time.Millisecond)
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
	asked := time.Now()
	if r := s.awaitReport("k"); r.Outcome != wire.OutcomeGone || r.ProcessesBefore != 1 {
		t.Errorf("report %+v", r)
	}
	retcode(t, s.awaitMessage(wire.TypeComplete), 3)
	w.exits()
	if took := time.Since(asked); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	s.change(func() {
		if n := s.count(wire.TypeComplete); n != 1 {
			t.Errorf("%d ends", n)
		}
	})
}

// K34: the job prints as fast as it can, and the server is slow to acknowledge.
// That delays no kill, and does not fill the memory.
func TestKillFlood(t *testing.T) {
	lab.Case(t, "K34 huge output", "whole wrapper")
	s := newTestServer(t)
	s.change(func() { s.ackDelay = 300 * time.Millisecond })
	o := testOrder(t, s, "yes xxxxx")
	o.MaxOutput = 32 << 20
	w := launch(t, o)
	s.awaitOutput(1 << 20)
	waitFor(t, "a spool that grows", func() bool { return dirSize(t, w.identity.Spool) > 8<<20 })
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
	asked := time.Now()
	waitFor(t, "the job's end", func() bool { return !jobLives(&w.identity) })
	died := time.Since(asked)
	rss := residentKB(t, w.cmd.Process.Pid)
	r := s.awaitReport("k")
	told := time.Since(asked)
	if r.Outcome != wire.OutcomeGone || r.Phase != wire.PhaseTerm || r.Proof != wire.ProofECHILD {
		t.Errorf("report %+v", r)
	}
	lab.Measured(t, fmt.Sprintf("dead after %s, told after %s, wrapper's memory %d MB", died.Round(time.Millisecond), told.Round(time.Millisecond), rss>>10))
	bound, memory := 30*time.Second, 400<<10
	if lab.KillLab() {
		bound, memory = time.Second, 64<<10
	}
	if died > bound || told > bound {
		t.Errorf("dead after %s, told after %s", died, told)
	}
	if rss > memory {
		t.Errorf("the wrapper holds %d KB", rss)
	}
	s.change(func() { s.ackDelay = 0 })
	retcode(t, s.awaitMessage(wire.TypeComplete), wire.ExitKilled)
	w.exits()
	if got := s.text(); !strings.HasSuffix(got, wire.KilledLine) {
		t.Errorf("ends with %q", got[max(0, len(got)-80):])
	}
}
