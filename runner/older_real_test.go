package runner

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/testdata/oldwrapper"
	"saltpeter/wsx/wire"
)

// These tests run real wrappers of older generations, over the local transport.

// oldSpec is a task whose job names a wrapper of another generation.
func (r *rig) oldSpec(generation int, command string) taskSpec {
	s := r.spec("local", command)
	exe, err := os.Executable()
	if err == nil {
		s.Machine.WrapperPath, err = oldwrapper.Write(r.t.TempDir(), exe, generation)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { sweepRun(s.Task.Run) })
	return s
}

// unhurried leaves it to the wrappers of a test what becomes of their silence and
// their timeouts: a busy machine must not look like a dead one.
func unhurried(r *rig) {
	r.pace.silence, r.pace.margin, r.pace.comeback = time.Minute, time.Minute, time.Minute
}

// sweepRun ends what a failed test left: whatever carries the run's name.
func sweepRun(run string) {
	for _, pid := range carrying(run) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// carrying lists the living processes with a run's name in their environment: the
// older wrapper itself, and its job.
func carrying(run string) []int {
	var found []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && bytes.Contains(append([]byte{0}, env...), []byte("\x00SP_JOB_INSTANCE="+run+"\x00")) && alive(pid) {
			found = append(found, pid)
		}
	}
	return found
}

func TestOlderWrappersRun(t *testing.T) {
	r := newRig(t, local, unhurried)
	for generation := 1; generation <= 2; generation++ {
		s := r.oldSpec(generation, "echo one; echo \"$COLOUR $SP_JOB_NAME\" >&2; exit 3")
		s.Order.Env = map[string]string{"COLOUR": "red", "OLD_TWICE": "yes"}
		r.launch(s)
		id := s.Task.TaskID
		end := r.awaitState(id, ledger.Failed)
		if exitCode(end) != 3 || end.Version != "0.9.31" || end.Identity == nil || end.Identity.PID == 0 || end.Identity.Task != "" {
			t.Errorf("generation %d: %+v, identity %+v", generation, end, end.Identity)
		}
		if got, want := r.output(id), "one\nred "+s.Task.Job+"\n"; got != want {
			t.Errorf("generation %d: output %q", generation, got)
		}
	}
}

func TestOlderWrapperTimesOut(t *testing.T) {
	r := newRig(t, local, unhurried)
	s := r.oldSpec(2, "echo working; exec sleep 300")
	s.Order.Timeout = 1
	r.launch(s)
	end := r.awaitState(s.Task.TaskID, ledger.TimedOut)
	if exitCode(end) != 124 || end.End.RealSignal != 15 {
		t.Errorf("end %+v", end.End)
	}
	if got := r.output(s.Task.TaskID); got != "working\n\n[Job exceeded timeout of 1 seconds]\n" {
		t.Errorf("output %q", got)
	}
}

// An older wrapper signals the one process that it knows, and calls that the end.
// Whoever looks for the rest must find it by what an older job carries, and must not
// take the wrapper for it.
func TestKillOfOlderWrapperFindsTheRest(t *testing.T) {
	for generation := 1; generation <= 2; generation++ {
		t.Run(fmt.Sprint(generation), func(t *testing.T) {
			r := newRig(t, local, unhurried)
			s := r.oldSpec(generation, "echo working; setsid sleep 300 >/dev/null 2>&1 & setsid sh -c 'sleep 301 & wait' >/dev/null 2>&1 & sleep 302 >/dev/null 2>&1")
			r.launch(s)
			id := s.Task.TaskID
			r.await("its output, and who it is", func() bool {
				rec := r.task(id)
				return r.output(id) == "working\n" && rec.Identity != nil && rec.Identity.BootID != ""
			})
			r.await("all its processes", func() bool { return len(carrying(id.Run)) >= 6 })
			identity := *r.task(id).Identity
			if identity.WrapperPID == 0 || identity.WrapperPID == identity.PID || identity.Task != "" {
				t.Errorf("identity %+v", identity)
			}
			rc := r.kill(Selector{Run: id.Run}, KillOptions{})[0]
			var left []int
			for _, pid := range carrying(id.Run) {
				if pid != identity.WrapperPID {
					left = append(left, pid)
				}
			}
			if len(left) > 0 {
				t.Fatalf("LIE: %+v, but alive: %v", rc, left)
			}
			if rc.Outcome != wire.OutcomeGone || rc.Proof != wire.ProofScan || *rc.ExitCode != 143 || rc.RealSignal != 15 {
				t.Errorf("receipt %+v", rc)
			}
			end := r.awaitState(id, ledger.Killed)
			if exitCode(end) != 143 || end.End.RealSignal != 15 || r.endings(id) != 1 {
				t.Errorf("end %+v", end.End)
			}
			if got := r.output(id) + r.notes(id); strings.Count(got, strings.TrimSpace(wire.KilledLine)) != 1 {
				t.Errorf("output %q notes %q", r.output(id), r.notes(id))
			}
			r.processGone(identity.WrapperPID) // by itself: it was told that its end is recorded
		})
	}
}

// A wrapper that does not act on the message: its job is ended over the other road,
// and it lives to tell the end.
func TestKillOfDeafOlderWrapper(t *testing.T) {
	r := newRig(t, local, unhurried, func(r *rig) { r.pace.answer, r.pace.complete = time.Second, 20*time.Second })
	s := r.oldSpec(2, "echo working; sleep 300 & sleep 301")
	s.Order.Env = map[string]string{"OLD_DEAF": "yes"}
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output, and who it is", func() bool {
		rec := r.task(id)
		return r.output(id) == "working\n" && rec.Identity != nil && rec.Identity.BootID != ""
	})
	rc := r.kill(Selector{Run: id.Run}, KillOptions{})[0]
	if rc.Outcome != wire.OutcomeGone || rc.Proof != wire.ProofScan || *rc.ExitCode != 143 {
		t.Errorf("receipt %+v", rc)
	}
	end := r.awaitState(id, ledger.Killed)
	if exitCode(end) != 143 || end.End.RealSignal != 15 {
		t.Errorf("end %+v", end.End)
	}
	r.await("nothing of it", func() bool { return len(carrying(id.Run)) == 0 })
}

// The older wrapper is dead: its job is found by its PID and its environment.
func TestKillWithDeadOlderWrapper(t *testing.T) {
	r := newRig(t, local, unhurried)
	s := r.oldSpec(2, "echo working; setsid sleep 300 & sleep 301")
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output, and who it is", func() bool {
		rec := r.task(id)
		return r.output(id) == "working\n" && rec.Identity != nil && rec.Identity.BootID != ""
	})
	syscall.Kill(r.task(id).Identity.WrapperPID, syscall.SIGKILL)
	r.await("the connection is lost", func() bool { return !r.tasks.find(id).status(time.Now()).Connected })
	rc := r.kill(Selector{Run: id.Run}, KillOptions{})[0]
	if left := carrying(id.Run); len(left) > 0 || rc.Outcome != wire.OutcomeGone || rc.Via != "local" || *rc.ExitCode != 143 {
		t.Errorf("receipt %+v, left %v", rc, left)
	}
	if end := r.awaitState(id, ledger.Killed); r.notes(id) != wire.KilledLine {
		t.Errorf("end %+v notes %q", end.End, r.notes(id))
	}
}

// The server is away in the middle of the output, with nothing closed in order: what
// was acknowledged is there once, what was not is sent again.
func TestOlderWrapperOverRestart(t *testing.T) {
	r := newRig(t, local, unhurried)
	s := r.oldSpec(2, `i=0; while [ $i -lt 30 ]; do echo "line $i é"; i=$((i+1)); sleep 0.05; done; exit 7`)
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output", func() bool { return strings.Contains(r.output(id), "line 3") })
	r.stop()
	r.start()
	if end := r.awaitState(id, ledger.Failed); exitCode(end) != 7 {
		t.Errorf("end %+v", end)
	}
	var want strings.Builder
	for i := range 30 {
		want.WriteString("line " + itoa(i) + " é\n")
	}
	if got := r.output(id); got != want.String() {
		t.Errorf("output %q", got)
	}
}

// Nobody can say of an older wrapper that vanished whether its job ran: it is not
// started a second time.
func TestOlderWrapperNeverSeen(t *testing.T) {
	r := newRig(t, local)
	dir := t.TempDir()
	s := r.spec("local", "true")
	s.Machine.WrapperPath = dir + "/wrapper"
	script := "#!/bin/sh\n[ \"$SP_COMMAND\" ] && echo ran >>" + dir + "/ran\nexit 1\n"
	if err := os.WriteFile(s.Machine.WrapperPath, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r.launch(s)
	end := r.awaitState(s.Task.TaskID, ledger.Unknown)
	if exitCode(end) != 253 || end.Reason == "" {
		t.Errorf("end %+v", end)
	}
	if data, _ := os.ReadFile(dir + "/ran"); string(data) != "ran\n" {
		t.Errorf("it was started so often: %q", data)
	}
}
