package wrapper

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

func testTimes(t *testing.T, l *rigLab, m mode) {
	cases := []struct {
		id string
		f  func(t *testing.T, l *rigLab, m mode)
	}{
		{"R15 R17 ends by itself", testEnds},
		{"K12 leftover", testLeftover},
		{"K13 kill of leftovers", testLeftoverKilled},
		{"leftover kill", testLeftoverPolicy},
		{"leftover count", testLeftoverCount},
		{"K25 frozen", testFrozen},
		{"K27 setuid", testNotPermitted},
		{"traced zombie", testTraced},
		{"R01 exit at the same instant", testSameInstant},
		{"R03 kill while starting", testKillStarting},
		{"never started", testNever},
		{"R04 kill twice", testTwice},
		{"R05 TERM then KILL", testShorten},
		{"R06 timeout", testTimeoutObeyed},
		{"R08 timeout, TERM ignored", testTimeout},
		{"R09 R10 pause, resume", testPause},
		{"R11 pause then kill", testPauseKill},
		{"pause ttl", testPauseTTL},
		{"pause ttl without a wrapper", testPauseOrphan},
		{"R13 signals", testSignals},
		{"wrapper dies", testWrapperDies},
		{"unknown signal", testUnknownSignal},
		{"W03 out of memory", testOutOfMemory},
	}
	for _, c := range cases {
		t.Run(c.id, func(t *testing.T) {
			lab.Case(t, c.id, m.name)
			t.Parallel()
			c.f(t, l, m)
		})
	}
}

func order(command string) wire.Order {
	return wire.Order{Command: command, KillGrace: 10, HardLimit: 30}
}

func testEnds(t *testing.T, l *rigLab, m mode) {
	for command, want := range map[string]struct{ code, sig int }{
		"exit 0": {}, "exit 143": {code: 143}, "kill -SEGV $$": {sig: 11}, "-no-such-command": {code: 127},
	} {
		r := l.newRig(t, m, order(command)).open()
		exited, gone := r.finish()
		if exited.Cause != wire.CauseExit || gone.Proof != wire.ProofECHILD || exited.Leftover != 0 {
			t.Errorf("%s: ends are %+v, %+v", command, exited, gone)
		}
		checkCode(t, shape{code: want.code, realSig: want.sig}, exited)
	}
}

func testLeftover(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order("sleep 1 >/dev/null 2>&1 & exit 0")).open()
	n := r.wait("exited")
	if n.End.Leftover != 1 || n.End.Cause != wire.CauseExit || n.End.RealCode == nil || *n.End.RealCode != 0 {
		t.Errorf("exit is %+v", n.End)
	}
	if left := r.referee.living(r.cmd.Process.Pid); r.referee != nil && len(left) != 1 {
		t.Errorf("the leftover was not left alone: %v", left)
	}
	if n := r.wait("leftover"); n.Report.Leftover != 0 {
		t.Errorf("news of leftovers is %+v", n.Report)
	}
	if _, gone := r.finish(); gone.Proof != wire.ProofECHILD || gone.Phase != "" {
		t.Errorf("end is %+v", gone)
	}
}

func testLeftoverKilled(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order("sleep 300 & exit 3")).open()
	r.wait("exited")
	r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill})
	n := r.wait("report")
	if n.Report.Outcome != wire.OutcomeGone || n.Report.ProcessesBefore != 1 || n.Report.Phase != wire.PhaseTerm {
		t.Errorf("report is %+v", n.Report)
	}
	exited, gone := r.finish()
	if gone.Cause != wire.CauseExit || gone.RealCode == nil || *gone.RealCode != 3 || gone.Leftover != 1 || exited.Leftover != 1 {
		t.Errorf("ends are %+v, %+v", exited, gone)
	}
}

func testLeftoverPolicy(t *testing.T, l *rigLab, m mode) {
	o := order("(trap '' TERM; sleep 300; sleep 300) & sleep .2; exit 3")
	o.Leftover, o.KillGrace = "kill", .2
	r := l.newRig(t, m, o).open()
	exited, gone := r.finish()
	if exited.Leftover < 1 || gone.Cause != wire.CauseExit || *gone.RealCode != 3 || gone.Proof != wire.ProofECHILD {
		t.Errorf("ends are %+v, %+v", exited, gone)
	}
}

func testLeftoverCount(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order("sleep .5 & sleep 300 & exit 0")).open()
	if n := r.wait("exited"); n.End.Leftover != 2 {
		t.Errorf("%d leftovers, want 2", n.End.Leftover)
	}
	if n := r.wait("leftover"); n.Report.Leftover != 1 || len(n.Report.Left) != 1 {
		t.Errorf("news of leftovers is %+v", n.Report)
	}
	r.send(rigCommand{Op: "kill", Cause: wire.CauseKill})
	r.finish()
}

// testFrozen is the honest case: not even SIGKILL reaches a process that the old
// freezer holds.
func testFrozen(t *testing.T, l *rigLab, m mode) {
	mountinfo, _ := os.ReadFile("/proc/self/mountinfo")
	freezer := ""
	for line := range strings.SplitSeq(string(mountinfo), "\n") {
		if mt, ok := parseMount(line); ok && mt.fstype == "cgroup" && strings.Contains(mt.super, "freezer") {
			freezer = mt.point
		}
	}
	dir, err := os.MkdirTemp(freezer, "sp-frozen-")
	if freezer == "" || err != nil {
		t.Skip("no cgroup v1 freezer that this test may write")
	}
	_ = os.Chmod(dir, 0o755) // the wrapper reads the state
	write := func(file, text string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil {
			t.Error(err)
		}
	}
	defer func() { // an emptied cgroup may be busy for an instant
		for i := 0; i < 1000 && os.Remove(dir) != nil; i++ {
			time.Sleep(2 * time.Millisecond)
		}
	}()
	o := order("echo up; exec sleep 300")
	o.KillGrace, o.HardLimit = .2, .4
	r := l.newRig(t, m, o).open()
	defer write("freezer.state", "THAWED")
	r.printed("up")
	r.until("sleep", func() bool { return newProcReader().command(r.start.PID) == "sleep" })
	write("cgroup.procs", strconv.Itoa(r.start.PID))
	write("freezer.state", "FROZEN")
	r.until("frozen", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "freezer.state"))
		return string(b) == "FROZEN\n"
	})
	r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill})
	n := r.wait("report")
	rep := n.Report
	if rep.OK || rep.Outcome != wire.OutcomeAlive || rep.Alive != 1 || len(rep.Left) != 1 ||
		rep.Left[0].PID != r.start.PID || rep.Left[0].Reason != wire.ReasonFrozen || rep.Left[0].Command != "sleep" {
		t.Errorf("report is %+v", rep)
	}
	lab.Honest(t, "alive: "+rep.Left[0].Reason+"; gone and corrected after the thaw")
	write("freezer.state", "THAWED")
	if n := r.wait("report"); n.ID != "k" || !n.Report.OK || n.Report.Outcome != wire.OutcomeGone || n.Report.Phase != wire.PhaseKill {
		t.Errorf("correction is %+v", n)
	}
	if exited, _ := r.finish(); exited.Cause != wire.CauseKill {
		t.Errorf("end is %+v", exited)
	}
}

// testNotPermitted: a set-uid child of an unprivileged wrapper is out of reach.
func testNotPermitted(t *testing.T, l *rigLab, m mode) {
	if m.uid == 0 || os.Geteuid() != 0 {
		t.Skip("needs root to make the set-uid program, and an unprivileged wrapper")
	}
	suid := filepath.Join(l.dir, "suid")
	binary, _ := os.ReadFile(l.hostile)
	if err := os.WriteFile(suid, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(suid, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	o := order(suid + " root; true")
	o.KillGrace, o.HardLimit = .2, .4
	r := l.newRig(t, m, o).open()
	pid := 0
	r.printed("root ")
	if _, err := fmt.Sscanf(r.read(), "root %d", &pid); err != nil || pid == 0 {
		t.Fatalf("the program could not become root (a nosuid mount?): %q", r.read())
	}
	r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill})
	rep := r.wait("report").Report
	if rep.OK || rep.Outcome != wire.OutcomeAlive || rep.Alive != 1 || rep.Left[0].PID != pid || rep.Left[0].Reason != wire.ReasonEPERM {
		t.Errorf("report is %+v", rep)
	}
	lab.Honest(t, "alive: eperm, a set-uid child of an unprivileged wrapper; corrected when it ends")
	_ = unix.Kill(pid, unix.SIGKILL)
	if rep := r.wait("report").Report; rep.Outcome != wire.OutcomeGone || rep.Proof != wire.ProofECHILD {
		t.Errorf("correction is %+v", rep)
	}
	r.finish()
}

// testTraced: a zombie that a stranger traces can't be reaped, but does not live.
func testTraced(t *testing.T, l *rigLab, m mode) {
	if os.Geteuid() != 0 {
		t.Skip("only root may trace every process")
	}
	r := l.newRig(t, m, order("sleep 300; true")).open()
	r.population(2)
	release := trace(t, r.start.PID)
	defer release()
	r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill, Signal: "KILL"})
	rep := r.wait("report").Report
	if rep.Outcome != wire.OutcomeGone || rep.Proof == wire.ProofECHILD {
		t.Errorf("report is %+v", rep)
	}
	if exited, _ := r.finish(); exited.RealCode != nil || exited.RealSignal != 0 {
		t.Errorf("the engine claims to know the code: %+v", exited)
	}
}

func rounds(few int) int {
	if killLab() {
		return 200
	}
	return few
}

func testSameInstant(t *testing.T, l *rigLab, m mode) {
	for i := range rounds(5) {
		r := l.newRig(t, m, order("sleep .05")).open()
		time.Sleep(45*time.Millisecond + time.Duration(i%11)*time.Millisecond)
		r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill})
		exited, gone := r.finish()
		code := wire.ExitCode(gone.Cause, *orZero(gone.RealCode), gone.RealSignal)
		if exited.Cause != gone.Cause || code != 0 && code != 143 {
			t.Errorf("round %d: ends are %+v, %+v", i, exited, gone)
		}
		r.stop()
	}
}

func orZero(n *int) *int {
	if n == nil {
		return new(int)
	}
	return n
}

func testKillStarting(t *testing.T, l *rigLab, m mode) {
	for i := range rounds(5) {
		o := order("(sleep 300 & sleep 300 & setsid sleep 300) & sleep 300")
		o.KillGrace = .2
		r := l.newRig(t, m, o).open()
		time.Sleep(time.Duration(i) * time.Millisecond % (6 * time.Millisecond))
		r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill})
		if rep := r.wait("report").Report; rep.Outcome != wire.OutcomeGone {
			t.Errorf("round %d: report is %+v", i, rep)
		}
		r.finish()
		r.stop()
	}
}

func testNever(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order("echo ran"))
	r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill})
	r.open()
	rep := r.wait("report").Report
	if rep.Outcome != wire.OutcomeNeverStarted || !rep.OK || rep.Proof != wire.ProofECHILD {
		t.Errorf("report is %+v", rep)
	}
	exited, gone := r.finish()
	if exited.Cause != wire.CauseNever || gone.Cause != wire.CauseNever || exited.RealCode != nil || r.read() != "" {
		t.Errorf("end is %+v, output %q", exited, r.read())
	}
}

func testTwice(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order("trap 'echo hit; sleep .3; exit 0' TERM; echo up; while :; do sleep .05; done")).open()
	r.printed("up")
	r.send(rigCommand{Op: "kill", ID: "a", Cause: wire.CauseKill})
	r.printed("hit")
	r.send(rigCommand{Op: "kill", ID: "b", Cause: wire.CauseTimeout})
	r.send(rigCommand{Op: "kill", ID: "b", Cause: wire.CauseTimeout})
	seen := map[string]wire.Report{}
	for range 2 {
		n := r.wait("report")
		seen[n.ID] = n.Report
	}
	if a, b := seen["a"], seen["b"]; a.Already || !b.Already || a.Outcome != wire.OutcomeGone || b.Outcome != wire.OutcomeGone {
		t.Errorf("reports are %+v", seen)
	}
	if exited, _ := r.finish(); exited.Cause != wire.CauseKill {
		t.Errorf("the first cause does not win: %+v", exited)
	}
	if strings.Count(r.read(), "hit") != 1 {
		t.Errorf("TERM was not sent once: %q", r.read())
	}
}

func testShorten(t *testing.T, l *rigLab, m mode) {
	o := order("trap '' TERM; echo up; sleep 300; sleep 300")
	o.KillGrace = 600
	for _, second := range []rigCommand{
		{Op: "kill", ID: "b", Cause: wire.CauseKill, Signal: "KILL"},
		{Op: "kill", ID: "b", Cause: wire.CauseKill, Grace: wire.Ptr(.1)},
	} {
		r := l.newRig(t, m, o).open()
		r.printed("up")
		r.send(rigCommand{Op: "kill", ID: "a", Cause: wire.CauseKill})
		r.send(second)
		if _, gone := r.finish(); gone.Phase != wire.PhaseKill || gone.RealSignal != 9 {
			t.Errorf("end is %+v", gone)
		}
	}
}

func testTimeout(t *testing.T, l *rigLab, m mode) {
	o := order("trap '' TERM; echo up; sleep 300; true")
	o.KillGrace = .1
	r := l.newRig(t, m, o).open()
	r.printed("up")
	r.send(rigCommand{Op: "kill", Cause: wire.CauseTimeout})
	_, gone := r.finish()
	if gone.Cause != wire.CauseTimeout || gone.Phase != wire.PhaseKill || wire.ExitCode(gone.Cause, 0, gone.RealSignal) != 124 {
		t.Errorf("end is %+v", gone)
	}
}

// counting is a job of several processes whose output grows unless it is paused.
const counting = "setsid hostile spin & hostile spin; true"

// still says whether the job prints nothing for a while.
func (r *rig) still(d time.Duration) bool {
	before := len(r.read())
	time.Sleep(d)
	return len(r.read()) == before
}

func (r *rig) pause(ttl float64) {
	r.t.Helper()
	r.printed("\n5\n")
	r.send(rigCommand{Op: "pause", ID: "p", TTL: ttl})
	if n := r.wait("answer"); !n.Report.OK || n.Report.Error != "" {
		r.t.Fatalf("pause answers %+v", n.Report)
	}
	// What was printed before may still be on its way.
	r.until("a paused job prints no more", func() bool { return r.still(200 * time.Millisecond) })
}

func (r *rig) moves() {
	r.t.Helper()
	before := len(r.read())
	r.until("the job prints again", func() bool { return len(r.read()) > before+20 })
}

func testPause(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order(counting)).open()
	r.pause(0)
	r.send(rigCommand{Op: "resume", ID: "r"})
	if n := r.wait("answer"); !n.Report.OK {
		t.Errorf("resume answers %+v", n.Report)
	}
	r.moves()
	r.send(rigCommand{Op: "kill", Cause: wire.CauseKill})
	r.finish()
}

func testPauseKill(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order("trap 'echo bye; exit 0' TERM; "+strings.TrimSuffix(counting, "hostile spin; true")+"hostile spin & wait")).open()
	r.pause(60)
	r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill})
	if n := r.wait("report"); n.Report.Phase != wire.PhaseTerm || n.Report.Proof != wire.ProofECHILD {
		t.Errorf("report is %+v", n.Report)
	}
	r.finish()
	r.printed("bye")
}

func testPauseTTL(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order(counting)).open()
	r.pause(.4)
	if n := r.wait("report"); n.Report.Op != "resume" || !n.Report.OK {
		t.Errorf("the end of the pause is told as %+v", n.Report)
	}
	r.moves()
	r.send(rigCommand{Op: "kill", Cause: wire.CauseKill})
	if _, gone := r.finish(); gone.Proof != wire.ProofECHILD {
		t.Errorf("end is %+v", gone)
	}
}

// testPauseOrphan: with the wrapper dead the machine thaws the job all the same.
func testPauseOrphan(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order(counting)).open()
	r.pause(.5)
	_ = r.cmd.Process.Kill()
	r.until("the wrapper is dead", func() bool { _, ok := <-r.news; return !ok })
	r.moves()
	r.destroy()
}

func testSignals(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order("trap 'echo usr' USR1; echo up; while :; do sleep .05; done")).open()
	r.printed("up")
	r.send(rigCommand{Op: "signal", ID: "s", Signal: "USR1"})
	if n := r.wait("answer"); !n.Report.OK || n.Report.Signal != "USR1" {
		t.Errorf("signal answers %+v", n.Report)
	}
	r.printed("usr")
	r.send(rigCommand{Op: "kill", Cause: wire.CauseKill, Signal: "KILL"})
	r.finish()

	r = l.newRig(t, m, order("echo up; exec sleep 300")).open()
	r.printed("up")
	r.population(1)
	r.send(rigCommand{Op: "signal", ID: "s", Signal: "SIGUSR1", Scope: "all"})
	exited, _ := r.finish()
	if exited.Cause != wire.CauseSignal || wire.ExitCode(exited.Cause, 0, exited.RealSignal) != 128+10 {
		t.Errorf("end is %+v", exited)
	}
}

// testWrapperDies: KILL to the wrapper leaves the job alive and findable.
func testWrapperDies(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order(counting)).open()
	r.printed("\n5\n")
	_ = r.cmd.Process.Kill()
	r.until("the wrapper is dead", func() bool { _, ok := <-r.news; return !ok })
	r.moves()
	p, ok := newProcReader().stat(r.start.PID)
	if !ok || p.start != r.start.StartTicks || strconv.FormatUint(p.rss, 10) != r.start.Brand || p.sid != r.start.Session {
		t.Errorf("the job is %+v, its identity %+v", p, r.start)
	}
	r.destroy()
}

func testUnknownSignal(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order("sleep 300")).open()
	r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill, Signal: "NONSENSE"})
	if n := r.wait("report"); n.Report.OK || n.Report.Outcome != "" || !strings.Contains(n.Report.Error, "NONSENSE") {
		t.Errorf("report is %+v", n.Report)
	}
	r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill})
	r.finish()
}
