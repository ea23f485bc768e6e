package runner

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// These tests run commands without a wrapper, over the local transport.

func (r *rig) bare(command string) taskSpec {
	s := r.spec("local", command)
	s.NoWrapper = true
	s.Order.SpoolDir = ""
	r.t.Cleanup(func() { sweepRun(s.Task.Run) })
	return s
}

func TestWithoutWrapper(t *testing.T) {
	r := newRig(t, local)
	good := r.bare("echo one; echo \"$COLOUR $SP_JOB_NAME $SP_MACHINE_ID\" >&2; read x; echo \"[$x]\"; pwd")
	good.Order.Env, good.Order.Cwd = map[string]string{"COLOUR": "it's red"}, "/usr"
	bad, struck := r.bare("exit 3"), r.bare("kill -SEGV $$")
	r.launch(good, bad, struck)
	g, b, s := r.awaitState(good.Task.TaskID, ledger.Succeeded), r.awaitState(bad.Task.TaskID, ledger.Failed), r.awaitState(struck.Task.TaskID, ledger.Failed)
	if exitCode(g) != 0 || exitCode(b) != 3 || *b.End.RealCode != 3 || exitCode(s) != 139 || s.End.RealSignal != 11 {
		t.Errorf("ends %+v, %+v, %+v", g.End, b.End, s.End)
	}
	if got, want := r.output(good.Task.TaskID), "one\nit's red "+good.Task.Job+" m1\n[]\n/usr\n"; got != want {
		t.Errorf("output %q", got)
	}
	if g.Identity == nil || g.Identity.Task != g.Cookie || g.Identity.WrapperPID != 0 || g.Started.IsZero() {
		t.Errorf("identity %+v", g.Identity)
	}
	r.await("its end is told", func() bool { return r.endings(bad.Task.TaskID) == 1 })
}

func TestWithoutWrapperNotStarted(t *testing.T) {
	r := newRig(t, local)
	cwd, user, env := r.bare("true"), r.bare("true"), r.bare("true")
	cwd.Order.Cwd, user.Order.User, env.Order.Env = "/no/such/place", "no-such-user", map[string]string{"a.b": "c"}
	r.launch(cwd, user, env)
	for want, s := range map[string]taskSpec{"/no/such/place": cwd, "no-such-user": user, `"a.b"`: env} {
		if end := r.awaitState(s.Task.TaskID, ledger.LaunchFailed); !strings.Contains(end.Reason, want) {
			t.Errorf("reason %q", end.Reason)
		}
	}
}

// It is killed over the road that it was started by, with all that it has started.
func TestKillWithoutWrapper(t *testing.T) {
	r := newRig(t, local)
	s := r.bare("echo working; setsid sleep 300 & sleep 301")
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output", func() bool { return r.output(id) == "working\n" })
	if st := r.tasks.find(id).status(time.Now()); !st.Unwatched || st.Road != "local" || st.Disconnected {
		t.Errorf("status %+v", st)
	}
	rc := r.kill(Selector{Run: id.Run}, KillOptions{})[0]
	if left := carrying(id.Run); len(left) > 0 || rc.Outcome != wire.OutcomeGone || rc.Via != "local" || *rc.ExitCode != 143 {
		t.Errorf("receipt %+v, left %v", rc, left)
	}
	end := r.awaitState(id, ledger.Killed)
	if exitCode(end) != 143 || r.notes(id) != wire.KilledLine {
		t.Errorf("end %+v notes %q", end.End, r.notes(id))
	}
}

// The server enforces the timeout.
func TestTimeoutWithoutWrapper(t *testing.T) {
	r := newRig(t, local)
	s := r.bare("sleep 300")
	s.Order.Timeout = 1
	r.launch(s)
	end := r.awaitState(s.Task.TaskID, ledger.TimedOut)
	if exitCode(end) != 124 || r.notes(s.Task.TaskID) != wire.TimeoutLine(1) {
		t.Errorf("end %+v notes %q", end.End, r.notes(s.Task.TaskID))
	}
}

// A restart of the server loses the result and nothing else: the job goes on, is seen
// and can be killed, and its end is not made up.
func TestRestartWithoutWrapper(t *testing.T) {
	r := newRig(t, local, func(r *rig) { r.pace.comeback = 100 * time.Millisecond })
	ends, killed := r.bare("echo on; while [ -e "+r.dir+"/go ]; do sleep 0.05; echo on; done; exit 5"), r.bare("sleep 300 & sleep 301")
	if err := touch(r.dir + "/go"); err != nil {
		t.Fatal(err)
	}
	r.launch(ends, killed)
	r.awaitState(ends.Task.TaskID, ledger.Running)
	r.awaitState(killed.Task.TaskID, ledger.Running)
	r.await("its processes", func() bool { return len(carrying(killed.Task.Run)) >= 3 })
	pid := r.task(ends.Task.TaskID).Identity.PID
	r.stop()
	r.start()
	r.await("it is asked for", func() bool {
		task := r.tasks.find(ends.Task.TaskID)
		if task == nil {
			return false
		}
		task.mu.Lock()
		defer task.mu.Unlock()
		return task.orphan
	})
	if !alive(pid) || r.task(ends.Task.TaskID).State != ledger.Running {
		t.Errorf("the restart ended it: %+v", r.task(ends.Task.TaskID))
	}
	rc := r.kill(Selector{Run: killed.Task.Run}, KillOptions{})[0]
	if left := carrying(killed.Task.Run); len(left) > 0 || rc.Outcome != wire.OutcomeGone || *rc.ExitCode != 143 {
		t.Errorf("receipt %+v, left %v", rc, left)
	}
	if err := syscall.Unlink(r.dir + "/go"); err != nil {
		t.Fatal(err)
	}
	if end := r.awaitState(ends.Task.TaskID, ledger.Unknown); exitCode(end) != 253 || end.Reason != reasonUnwatched {
		t.Errorf("end %+v", end)
	}
}

// A server that dies before it has recorded who the command is leaves nothing that
// runs.
func TestKillBeforeStartWithoutWrapper(t *testing.T) {
	r := newRig(t, local)
	s := r.bare("touch " + r.dir + "/ran")
	r.begin(s)
	r.tasks.queue([]taskSpec{s})
	task := r.tasks.find(s.Task.TaskID)
	order, err := task.recordLaunch(t.Context())
	if err != nil || order == nil {
		t.Fatal(err)
	}
	receipts := make(chan []Receipt, 1)
	go func() { receipts <- r.kill(Selector{Run: s.Task.Run}, KillOptions{}) }()
	r.await("the kill stands", func() bool { return task.killing() != nil })
	task.launchBare(order)
	if rc := (<-receipts)[0]; rc.Outcome != wire.OutcomeNeverStarted || rc.Via != "" {
		t.Errorf("receipt %+v", rc)
	}
	if end := r.awaitState(s.Task.TaskID, ledger.Killed); exitCode(end) != 143 || !end.Started.IsZero() {
		t.Errorf("end %+v", end)
	}
	r.await("the shell is gone", func() bool { return len(carrying(s.Task.Run)) == 0 })
	if err := syscall.Access(r.dir+"/ran", 0); err == nil {
		t.Error("it ran")
	}
}

// The lockfile is the job's own, and is free when it has ended.
func TestLockfileWithoutWrapper(t *testing.T) {
	r := newRig(t, local)
	first, second := r.bare("sleep 300"), r.bare("true")
	first.Order.Lockfile, second.Order.Lockfile = r.dir+"/lock", r.dir+"/lock"
	r.launch(first)
	rec := r.awaitState(first.Task.TaskID, ledger.Running, ledger.LaunchFailed)
	if strings.Contains(rec.Reason, "no flock") {
		t.Skip(rec.Reason)
	}
	r.launch(second)
	if end := r.awaitState(second.Task.TaskID, ledger.LaunchFailed); !strings.Contains(end.Reason, "another process holds it") {
		t.Errorf("reason %q", end.Reason)
	}
	r.kill(Selector{Run: first.Task.Run}, KillOptions{})
	third := r.bare("true")
	third.Order.Lockfile = r.dir + "/lock"
	r.launch(third)
	r.awaitState(third.Task.TaskID, ledger.Succeeded)
}

func touch(path string) error { return os.WriteFile(path, nil, 0o600) }
