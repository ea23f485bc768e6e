package runner

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// These tests run real wrappers, started as processes of their own.

func TestTaskRunsToItsEnd(t *testing.T) {
	r := newRig(t, local)
	good, bad := r.spec("local", "echo one; echo two"), r.spec("local", "echo oops; exit 3")
	r.launch(good, bad)
	g, b := r.awaitState(good.Task.TaskID, ledger.Succeeded), r.awaitState(bad.Task.TaskID, ledger.Failed)
	if exitCode(g) != 0 || exitCode(b) != 3 || b.End == nil || b.End.RealCode == nil || *b.End.RealCode != 3 {
		t.Errorf("ends: %+v, %+v", g, b)
	}
	if out := r.output(good.Task.TaskID); out != "one\ntwo\n" {
		t.Errorf("output %q", out)
	}
	if g.Identity == nil || g.Identity.PID == 0 || g.Started.IsZero() || g.Launched.IsZero() || g.Cookie == "" || !wire.Has(g.Features, wire.FeatureBytes) {
		t.Errorf("record %+v", g)
	}
	r.await("the tasks leave the memory", func() bool { return len(r.tasks.every()) == 0 })
	if n := r.endings(good.Task.TaskID); n != 1 {
		t.Errorf("its end was told %d times", n)
	}
	if want := "Job completed - " + bad.Task.Run + ":m1 (exit code: 3)"; !strings.Contains(r.logs.String(), want) {
		t.Errorf("the log lacks %q", want)
	}
}

func TestKillOverConnection(t *testing.T) {
	r := newRig(t, local)
	s := r.spec("local", "echo working; sleep 300 & sleep 300")
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output", func() bool { return r.task(id).State == ledger.Running && r.output(id) == "working\n" })
	receipts := r.kill(Selector{Job: s.Task.Job}, KillOptions{})
	if len(receipts) != 1 {
		t.Fatalf("receipts %+v", receipts)
	}
	rc := receipts[0]
	if rc.Outcome != wire.OutcomeGone || rc.Via != roadWebSocket || rc.Proof != wire.ProofECHILD || rc.ExitCode == nil || *rc.ExitCode != 143 || rc.RealSignal != 15 || rc.ProcessesBefore == 0 {
		t.Errorf("receipt %+v", rc)
	}
	end := r.awaitState(id, ledger.Killed)
	if exitCode(end) != 143 || end.Kill == nil || end.Kill.Standing() || end.Kill.By != "alice" || len(end.Kill.Receipt) == 0 {
		t.Errorf("record %+v kill %+v", end, end.Kill)
	}
	if out := r.output(id); out != "working\n"+wire.KilledLine {
		t.Errorf("output %q", out)
	}
	if notes := r.notes(id); notes != "" {
		t.Errorf("the server added %q", notes)
	}
	for _, want := range []string{"Kill command received for job " + s.Task.Job, "Sent kill signal to " + s.Task.Run + ":m1"} {
		if !strings.Contains(r.logs.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	audit, err := r.book.Audit(t.Context(), time.Time{}, 10)
	if err != nil || len(audit) != 2 || audit[0].Who != "alice" {
		t.Errorf("audit %+v, %v", audit, err)
	}
}

// A second kill shortens the first.
func TestSecondKillShortens(t *testing.T) {
	r := newRig(t, local)
	s := r.spec("local", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
	s.Order.KillGrace = 60
	r.launch(s)
	id := s.Task.TaskID
	r.await("the trap", func() bool { return r.output(id) == "ready\n" })
	first := make(chan []Receipt, 1)
	go func() { first <- r.kill(Selector{Run: id.Run}, KillOptions{}) }()
	r.awaitState(id, ledger.Stopping)
	began := time.Now()
	second := r.kill(Selector{Run: id.Run}, KillOptions{Signal: "KILL", Grace: new(time.Duration)})
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, rc := range append(second, <-first...) {
		if rc.Outcome != wire.OutcomeGone || *rc.ExitCode != 143 {
			t.Errorf("receipt %+v", rc)
		}
	}
	if end := r.awaitState(id, ledger.Killed); end.End.RealSignal != 9 {
		t.Errorf("end %+v", end.End)
	}
}

// The wrapper is dead: the other road ends its job, and the server writes the
// closing line.
func TestKillWithDeadWrapper(t *testing.T) {
	r := newRig(t, local)
	s := r.spec("local", "echo working; sleep 300 & sleep 300")
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output", func() bool { return r.task(id).State == ledger.Running && r.output(id) == "working\n" })
	identity := r.task(id).Identity
	syscall.Kill(identity.WrapperPID, syscall.SIGKILL)
	r.await("the connection is lost", func() bool { return !r.tasks.find(id).status(time.Now()).Connected })
	receipts := r.kill(Selector{Run: id.Run}, KillOptions{})
	if len(receipts) != 1 || receipts[0].Outcome != wire.OutcomeGone || receipts[0].Via != "local" || receipts[0].WebsocketLost < 0 {
		t.Fatalf("receipts %+v", receipts)
	}
	end := r.awaitState(id, ledger.Killed)
	if exitCode(end) != 143 || r.notes(id) != wire.KilledLine {
		t.Errorf("end %+v notes %q", end, r.notes(id))
	}
	if alive(identity.PID) {
		t.Error("the job lives")
	}
	if n := r.endings(id); n != 1 {
		t.Errorf("its end was told %d times", n)
	}
}

// The wrapper is dead and its job goes on by itself to its end, whose code nobody
// saw.
func TestWrapperLost(t *testing.T) {
	r := newRig(t, local)
	s := r.spec("local", "echo working; sleep 2")
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output", func() bool { return r.task(id).State == ledger.Running && r.output(id) == "working\n" })
	syscall.Kill(r.task(id).Identity.WrapperPID, syscall.SIGKILL)
	r.await("disconnected", func() bool { return r.tasks.find(id).status(time.Now()).Disconnected })
	end := r.awaitState(id, ledger.Unknown)
	if exitCode(end) != 253 || end.Reason != reasonLost {
		t.Errorf("end %+v", end)
	}
}

// The server is away while a job prints: every byte is there once, and the end is
// the job's own.
func TestServerRestart(t *testing.T) {
	r := newRig(t, local)
	s := r.spec("local", `i=0; while [ $i -lt 30 ]; do echo "line $i of the output"; i=$((i+1)); sleep 0.05; done; exit 7`)
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output", func() bool { return strings.Contains(r.output(id), "line 3") })
	r.stop()
	r.start()
	end := r.awaitState(id, ledger.Failed)
	if exitCode(end) != 7 {
		t.Errorf("end %+v", end)
	}
	var want strings.Builder
	for i := range 30 {
		want.WriteString("line " + itoa(i) + " of the output\n")
	}
	if got := r.output(id); got != want.String() {
		t.Errorf("output %q", got)
	}
}

// A kill that was asked for stands over a restart and is carried out after it.
func TestKillSurvivesRestart(t *testing.T) {
	r := newRig(t, local)
	s := r.spec("local", "echo working; sleep 300")
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output", func() bool { return r.output(id) == "working\n" })
	pid := r.task(id).Identity.PID
	r.stop()
	// What a server recorded that was killed before it could deliver anything:
	book, err := ledger.Open(t.Context(), ledger.Options{Dir: r.dir + "/state"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = book.Apply(t.Context(), ledger.KillAsked{Task: id, Kill: ledger.Kill{ID: "k1", Asked: time.Now(), By: "bob", Cause: wire.CauseKill}})
	if err != nil {
		t.Fatal(err)
	}
	if err := book.Close(); err != nil {
		t.Fatal(err)
	}
	r.start()
	end := r.awaitState(id, ledger.Killed)
	r.processGone(pid)
	r.await("the receipt", func() bool { return !r.task(id).Kill.Standing() })
	if exitCode(end) != 143 || end.Kill.By != "bob" {
		t.Errorf("end %+v kill %+v", end, end.Kill)
	}
}

// A task that ended while no server was there and whose wrapper died before one
// came back: the record that it left tells the true end, and its spool the output.
func TestEndRecordAndSpoolAreFetched(t *testing.T) {
	r := newRig(t, local)
	s := r.spec("local", "echo before; sleep 1; echo after; exit 5")
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output", func() bool { return r.task(id).State == ledger.Running && r.output(id) == "before\n" })
	rec := r.task(id)
	r.stop()
	r.processGone(rec.Identity.PID)
	r.awaitFile(rec.Identity.EndFile)
	syscall.Kill(rec.Identity.WrapperPID, syscall.SIGKILL)
	r.processGone(rec.Identity.WrapperPID)
	r.pace.comeback = 100 * time.Millisecond
	r.start()
	end := r.awaitState(id, ledger.Failed)
	if exitCode(end) != 5 {
		t.Errorf("end %+v", end)
	}
	if out := r.output(id); out != "before\nafter\n" {
		t.Errorf("output %q", out)
	}
}

// The timeout of a job whose wrapper is dead is enforced by the server.
func TestTimeoutWithDeadWrapper(t *testing.T) {
	r := newRig(t, local)
	s := r.spec("local", "echo working; sleep 300")
	s.Order.Timeout = 2
	r.launch(s)
	id := s.Task.TaskID
	r.await("its output", func() bool { return r.task(id).State == ledger.Running && r.output(id) == "working\n" })
	identity := r.task(id).Identity
	syscall.Kill(identity.WrapperPID, syscall.SIGKILL)
	end := r.awaitState(id, ledger.TimedOut)
	if exitCode(end) != 124 || r.notes(id) != wire.TimeoutLine(2) {
		t.Errorf("end %+v notes %q", end, r.notes(id))
	}
	r.processGone(identity.PID)
}

func TestPauseAndResume(t *testing.T) {
	r := newRig(t, local)
	s := r.spec("local", "while :; do sleep 0.05; done")
	r.launch(s)
	id := s.Task.TaskID
	// What the book says is in force a moment later.
	inForce := func(want ledger.State) func() bool {
		return func() bool { return r.tasks.find(id).record().State == want }
	}
	r.await("its start", inForce(ledger.Running))
	yes := func(string) (bool, error) { return true, nil }
	sel, err := Selector{Run: id.Run}.resolve(yes, yes)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		do   func() (<-chan Answer, error)
		want ledger.State
	}{
		{func() (<-chan Answer, error) { return r.tasks.pause(t.Context(), person, sel, 0) }, ledger.Paused},
		{func() (<-chan Answer, error) { return r.tasks.resume(t.Context(), person, sel) }, ledger.Running},
	} {
		answers, err := step.do()
		if err != nil {
			t.Fatal(err)
		}
		if a := <-answers; !a.OK || a.Via != roadWebSocket {
			t.Fatalf("answer %+v", a)
		}
		r.await(string(step.want), inForce(step.want))
	}
	r.kill(Selector{Run: id.Run}, KillOptions{})
}
