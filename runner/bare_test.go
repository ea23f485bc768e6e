package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner/launch"
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

// The server enforces the timeout, and gives nobody else time to do so.
func TestTimeoutWithoutWrapper(t *testing.T) {
	r := newRig(t, local, func(r *rig) { r.pace.margin = time.Hour })
	s := r.bare("sleep 300")
	s.Order.Timeout = 1
	r.launch(s)
	end := r.awaitState(s.Task.TaskID, ledger.TimedOut)
	if exitCode(end) != 124 || r.notes(s.Task.TaskID) != wire.TimeoutLine(1) {
		t.Errorf("end %+v notes %q", end.End, r.notes(s.Task.TaskID))
	}
	if log := r.logs.String(); strings.Contains(log, "its wrapper") || !strings.Contains(log, "the timeout has passed, and it runs without a wrapper") {
		t.Error("the log speaks of its wrapper")
	}
}

// A restart of the server loses the result and nothing else: the job goes on, is seen
// and can be killed, and its end is not made up.
func TestRestartWithoutWrapper(t *testing.T) {
	r := newRig(t, local, func(r *rig) { r.pace.comeback = time.Hour }) // nobody comes back who could be waited for
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
	r.await("it is asked for", func() bool { return r.orphaned(ends.Task.TaskID) })
	if got, want := r.notes(ends.Task.TaskID), "\n"+lostOutput+"the server was stopped]\n"; got != want {
		t.Errorf("notes %q, want %q", got, want)
	}
	if !alive(pid) || r.task(ends.Task.TaskID).State != ledger.Running {
		t.Errorf("the restart ended it: %+v", r.task(ends.Task.TaskID))
	}
	rc := r.kill(Selector{Run: killed.Task.Run}, KillOptions{})[0]
	if left := carrying(killed.Task.Run); len(left) > 0 || rc.Outcome != wire.OutcomeGone || *rc.ExitCode != 143 {
		t.Errorf("receipt %+v, left %v", rc, left)
	}
	if got := r.notes(killed.Task.TaskID); strings.Count(got, lostOutput) != 1 || !strings.HasSuffix(got, wire.KilledLine) {
		t.Errorf("notes %q", got)
	}
	if err := syscall.Unlink(r.dir + "/go"); err != nil {
		t.Fatal(err)
	}
	if end := r.awaitState(ends.Task.TaskID, ledger.Unknown); exitCode(end) != 253 || end.Reason != reasonUnheard {
		t.Errorf("end %+v", end)
	}
}

// orphaned reports whether the machine was asked for a task and told that nobody
// watches it.
func (r *rig) orphaned(id ledger.TaskID) bool {
	task := r.tasks.find(id)
	if task == nil {
		return false
	}
	task.mu.Lock()
	defer task.mu.Unlock()
	return task.orphan
}

// runningBare records a task without a wrapper that a server began a while ago, and
// that it left without a word: it died.
func (r *rig) runningBare(ago time.Duration, timeout wire.Seconds) ledger.TaskID {
	r.t.Helper()
	s := r.spec("fake", "true")
	s.NoWrapper, s.Order.Timeout = true, timeout
	id, at := s.Task.TaskID, time.Now().Add(-ago)
	who := identityOf(wire.Order{Task: "c00kie" + s.Task.Run})
	who.WrapperPID, who.WrapperStartTicks = 0, 0
	r.begin(s)
	if _, err := r.book.Apply(r.t.Context(), ledger.Launched{Task: id, At: at, Transport: "fake", Cookie: who.Task},
		ledger.Identified{Task: id, Identity: *who}, ledger.Started{Task: id, At: at, PID: 4711}); err != nil {
		r.t.Fatal(err)
	}
	return id
}

// The output of a task whose server died says where its rest is missing, once.
func TestLostOutputIsSaidOnce(t *testing.T) {
	r, f := newFakeRig(t)
	f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) {
		return launch.ScriptResult{Outcome: wire.OutcomeAlive, MainAlive: true}, nil
	})
	id := r.runningBare(time.Minute, 0)
	for range 2 {
		r.stop()
		r.start()
		r.await("it is asked for", func() bool { return r.orphaned(id) })
		if got, want := r.notes(id), "\n"+lostOutput+"the server was restarted]\n"; got != want {
			t.Errorf("notes %q, want %q", got, want)
		}
	}
	f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) {
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan}, nil
	})
	if end := r.awaitState(id, ledger.Unknown); end.Reason != reasonUnheard {
		t.Errorf("reason %q", end.Reason)
	}
}

// cutRoad is a transport that runs commands without a wrapper, and loses them.
type cutRoad struct {
	*fakeRoad
	cut bool
}

func (c cutRoad) Run(_ context.Context, _ launch.Machine, order []byte, b launch.BareTask) launch.BareResult {
	o, err := wire.DecodeOrder(order)
	if err != nil || !b.Started(*identityOf(*o)) {
		return launch.BareResult{Certainty: launch.CertainlyNot, Err: err}
	}
	b.Output(wire.Stdout, []byte("heard\n"))
	return launch.BareResult{Certainty: launch.Unsure, Err: errors.New("its result is lost: the link broke"), Cut: c.cut}
}

// Where the link breaks, the output says so, and why. Where only the result is not
// told, nothing of the output is missing.
func TestLostLinkWithoutWrapper(t *testing.T) {
	for cut, want := range map[bool]string{true: "\n" + lostOutput + "its result is lost: the link broke]\n", false: ""} {
		t.Run(fmt.Sprint("cut ", cut), func(t *testing.T) {
			r, f := newFakeRig(t)
			f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) {
				return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan}, nil
			})
			r.roads["fake"] = cutRoad{f, cut}
			s := r.spec("fake", "true")
			s.NoWrapper = true
			r.launch(s)
			end := r.awaitState(s.Task.TaskID, ledger.Unknown)
			if got := r.notes(end.TaskID); got != want || r.output(end.TaskID) != "heard\n" {
				t.Errorf("output %q notes %q, want %q", r.output(end.TaskID), got, want)
			}
			if (end.Reason == reasonUnheard) != cut {
				t.Errorf("reason %q", end.Reason)
			}
		})
	}
}

// After an outage of the server the timeout counts from the start, whatever a wrapper
// would be given to come back; and what had ended by itself is no timeout.
func TestTimeoutAfterRestartWithoutWrapper(t *testing.T) {
	r, f := newFakeRig(t, func(r *rig) {
		r.pace.comeback, r.pace.silence, r.pace.margin = time.Hour, time.Hour, time.Hour
	})
	late, gone, early := r.runningBare(time.Minute, 59), r.runningBare(time.Minute, 59), r.runningBare(time.Minute, 3600)
	f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
		switch {
		case q.Run == gone.Run, q.Run == early.Run && q.Op == launch.OpKill:
			return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan}, nil
		case q.Op == launch.OpKill:
			return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan, Phase: wire.PhaseTerm, Before: 1, Acted: 1}, nil
		}
		return launch.ScriptResult{Outcome: wire.OutcomeAlive, MainAlive: true}, nil
	})
	r.stop()
	r.start()
	if end := r.awaitState(late, ledger.TimedOut); exitCode(end) != 124 || !strings.HasSuffix(r.notes(late), wire.TimeoutLine(59)) {
		t.Errorf("end %+v, notes %q", end.End, r.notes(late))
	}
	if end := r.awaitState(gone, ledger.Unknown); end.Kill != nil || strings.Contains(end.Reason, "wrapper lost") {
		t.Errorf("end %+v", end)
	}
	r.await("the third is asked for", func() bool { return r.orphaned(early) })
	if rec := r.task(early); rec.State != ledger.Running {
		t.Errorf("it is %s", rec.State)
	}
	r.kill(Selector{Run: early.Run}, KillOptions{}) // of which nothing is left by now
	if end := r.awaitState(early, ledger.Unknown); end.Reason != reasonUnheard {
		t.Errorf("reason %q", end.Reason)
	}
	if strings.Contains(r.logs.String(), "its wrapper") {
		t.Error("the log speaks of a wrapper")
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
		t.Skip("needs the program flock: " + rec.Reason)
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
