package launch

import (
	"os"
	"syscall"
	"testing"
)

// waiting is the spare that a transport has.
func (s *spares) waiting() *child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c
}

func awaitSpare(t *testing.T, l *local) int {
	t.Helper()
	var c *child
	eventually(t, "a spare wrapper", func() bool { c = l.spares.waiting(); return c != nil })
	return c.pid
}

// The next task gets the wrapper that was started ahead, whatever became of the one
// before, and a spare that somebody ended or stopped costs nobody a start.
func TestSpare(t *testing.T) {
	l := NewLocal(LocalOptions{Executable: self(t)}).(*local)
	defer l.Close()
	g := rig{machine: Machine{Name: "here", Transport: "local"}}
	if l.spares.waiting() != nil {
		t.Error("a spare before the first start")
	}
	mustBegin(t, g, l, "exit 0")
	ahead := awaitSpare(t, l)
	if k := mustBegin(t, g, l, "exit 0"); k.id.WrapperPID != ahead {
		t.Errorf("started by wrapper %d, not by the spare %d", k.id.WrapperPID, ahead)
	}

	ended := awaitSpare(t, l)
	c := l.spares.waiting()
	syscall.Kill(ended, syscall.SIGKILL)
	<-c.done
	if k := mustBegin(t, g, l, "exit 0"); k.id.WrapperPID == ended {
		t.Error("started by a dead wrapper")
	}

	frozen := awaitSpare(t, l)
	c = l.spares.waiting()
	syscall.Kill(frozen, syscall.SIGSTOP)
	eventually(t, "the spare's stop", func() bool { return stopped(frozen) })
	if k := mustBegin(t, g, l, "exit 0"); k.id.WrapperPID == frozen {
		t.Error("started by a wrapper that stands still")
	}
	<-c.done

	last := awaitSpare(t, l)
	g.machine.WrapperPath = self(t)
	if k := mustBegin(t, g, l, "exit 0"); k.id.WrapperPID == last || awaitSpare(t, l) != last {
		t.Error("a machine with a wrapper of its own was given the spare")
	}
	l.Close()
	if p, ok := lookAt(last); ok && p.ppid == os.Getpid() {
		t.Errorf("the spare outlives its transport: %+v", p)
	}
}

// One that nobody needs goes.
func TestSpareDismissed(t *testing.T) {
	l := NewLocal(LocalOptions{Executable: self(t)}).(*local)
	defer l.Close()
	l.spares.refill()
	awaitSpare(t, l)
	c := l.spares.waiting()
	l.spares.drop(c)
	<-c.done
	if l.spares.waiting() != nil {
		t.Error("still kept")
	}
	l.spares.drop(c) // as a late timer would
}
