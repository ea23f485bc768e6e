package wrapper

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"saltpeter/wsx/wire"
)

func runPickup(t *testing.T) string {
	t.Helper()
	out, err := wrapperCommand([]string{"wrap", "--pickup", filepath.Join(spoolDirOf(t), "spool")}).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// A wrapper that dies after the job's end leaves all that is needed.
func TestPickupOfAnEnd(t *testing.T) {
	s := newAbsentServer(t)
	o := testOrder(t, s, "cat "+writeTemp(t, strangeBytes(9<<20))+"; exit 5")
	o.StartWait = 0.05
	w := launch(t, o)
	waitFor(t, "the end record", func() bool { _, err := os.Stat(w.identity.EndFile); return err == nil })
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-w.done
	s.start()
	said := runPickup(t)
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, 5)
	if m.End == nil || m.Cause != wire.CauseExit {
		t.Errorf("end %+v: %s", m.End, said)
	}
	if c := s.saw(wire.TypeConnect); c.Identity == nil || c.Identity.PID != w.identity.PID || c.JobInstance != o.Run {
		t.Errorf("connect %+v", c)
	}
	sameBytes(t, s, strangeBytes(9<<20))
	if dirs := spooled(t); len(dirs) > 0 {
		t.Errorf("the spool still holds %v", dirs)
	}
}

// A wrapper that dies before it leaves the job alone, and pickup waits for it.
func TestPickupOfALostJob(t *testing.T) {
	s := newTestServer(t)
	w := launch(t, testOrder(t, s, "echo orphan; exec sleep 300"))
	s.awaitOutput(7)
	s.stop()
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-w.done
	s.change(func() { s.messages, s.output, s.streams = nil, nil, nil })
	s.start()
	runPickup(t)
	if len(spooled(t)) != 1 || s.saw(wire.TypeComplete) != nil {
		t.Error("the end of a living job was told")
	}
	if err := syscall.Kill(w.identity.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the job's end", func() bool { return !jobLives(&w.identity) })
	runPickup(t)
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, wire.ExitLost)
	if m.End == nil || m.Cause != wire.CauseLost {
		t.Errorf("end %+v", m.End)
	}
	if got := s.text(); got != "orphan\n" {
		t.Errorf("output %q", got)
	}
}

// The next wrapper of the same server looks for what lies there.
func TestNextWrapperPicksUp(t *testing.T) {
	s := newAbsentServer(t)
	o := testOrder(t, s, "echo first")
	o.StartWait = 0.05
	w := launch(t, o)
	waitFor(t, "the end record", func() bool { _, err := os.Stat(w.identity.EndFile); return err == nil })
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-w.done
	s.start()
	// The second task delivers its own end, then the first one's; the test's
	// server knows one token, so both land in one place.
	next := launch(t, testOrder(t, s, "true"))
	next.exits()
	s.await("both ends", func() bool { return s.count(wire.TypeComplete) >= 2 })
	if dirs := spooled(t); len(dirs) > 0 {
		t.Errorf("the spool still holds %v", dirs)
	}
}

// Nobody speaks for a task whose wrapper lives.
func TestPickupLeavesTheLivingAlone(t *testing.T) {
	s := newTestServer(t)
	w := launch(t, testOrder(t, s, "sleep 300"))
	s.awaitMessage(wire.TypeStart)
	if said := runPickup(t); strings.Contains(said, "delivered") {
		t.Error(said)
	}
	s.change(func() {
		if n := s.count(wire.TypeConnect); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
	w.exits()
}
