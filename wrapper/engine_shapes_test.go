package wrapper

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// shape is a job and what must show when it is killed.
type shape struct {
	id      string
	command string
	user    string // run as this user: root only
	ready   string // what it prints when it may be killed
	alive   int    // or how many processes it has then
	signal  string
	grace   float64 // 0: 10 s, so that the term phase can't be left by slowness

	phase    string // "" = either
	code     int    // the main process's own, -1: died of a signal
	realSig  int
	output   string
	needs    string // a program
	rootOnly bool
	long     bool // kill lab only
	pids     int  // most processes that it may have: a breeder must not take the machine down
}

func shapes() []shape {
	const term, kill = wire.PhaseTerm, wire.PhaseKill
	return []shape{
		{id: "K01 plain", command: "sleep 300", alive: 1, phase: term, code: -1, realSig: 15},
		{id: "K02 two-cmd", command: "sleep 300; sleep 300", alive: 2, phase: term, code: -1, realSig: 15},
		{id: "K03 trap-exit-0", command: "trap 'exit 0' TERM; echo up; while :; do sleep .05; done", ready: "up", phase: term},
		{id: "K04 trap-cleanup", command: "trap 'sleep .4; echo bye; exit 3' TERM; echo up; sleep 300 & wait", ready: "up", alive: 2, phase: term, code: 3, output: "bye"},
		{id: "K05 ignore-TERM", command: "trap '' TERM; echo up; sleep 300; sleep 300", ready: "up", alive: 2, grace: .3, phase: kill, code: -1, realSig: 9},
		{id: "K06 setsid", command: "setsid sleep 300 & sleep 300", alive: 3, phase: term, code: -1, realSig: 15},
		{id: "K07 setsid+ignore", command: `setsid sh -c 'trap "" TERM; echo up; while :; do sleep 1; done' & sleep 300`, ready: "up", alive: 3, grace: .3, phase: kill, code: -1, realSig: 15},
		{id: "K08 daemon", command: "hostile daemon; echo up; sleep 300", ready: "up", alive: 3, phase: term, code: -1, realSig: 15},
		{id: "K09 daemon deaf to TERM", command: "hostile daemonexit; echo up; sleep 300", ready: "up", alive: 3, grace: .3, phase: kill, code: -1, realSig: 15},
		{id: "K10 nohup", command: "nohup sleep 300 >/dev/null 2>&1 & sleep 300", alive: 3, phase: term, code: -1, realSig: 15},
		{id: "K11 env scrub", command: "env -i setsid sh -c 'sleep 300 & sleep 301' & sleep 300", alive: 4, phase: term, code: -1, realSig: 15},
		{id: "K15 pipeline", command: "yes | sleep 300 | cat", alive: 4, phase: term, code: -1, realSig: 15},
		{id: "K16 wide breeder", command: "hostile bomb 12", alive: 10, pids: 200, grace: .3, phase: kill, code: -2},
		{id: "K16 wide breeder, full", command: "hostile bomb 60", alive: 40, pids: 200, grace: 1, phase: kill, code: -2, long: true},
		{id: "K21 non-dumpable", command: "hostile nodump", ready: "ready", alive: 3, phase: term, code: 2, realSig: 15},
		{id: "K22 zombies", command: "hostile zombie 20", ready: "ready", alive: 1, phase: term, realSig: 15, code: -1},
		{id: "K23 stopped", command: "hostile stopself", alive: 1, phase: term, code: -1, realSig: 15},
		{id: "K24 subreaper", command: "hostile subreap", ready: "ready", alive: 4, phase: term, code: -1, realSig: 15},
		{id: "K26 vfork parent", command: "hostile vforkd", alive: 2, grace: .3, code: -1},
		{id: "K29 su", command: "su nobody -s /bin/sh -c 'setsid sleep 300 & sleep 300'", alive: 3, grace: 2, code: -2, needs: "su", rootOnly: true},
		{id: "K30 run-as setsid", command: "setsid sleep 300 & sleep 300", user: "nobody", alive: 3, phase: term, code: -1, realSig: 15, rootOnly: true},
		{id: "K30 run-as daemon", command: "hostile daemon; echo up; sleep 300", user: "nobody", ready: "up", alive: 3, phase: term, code: -1, realSig: 15, rootOnly: true},
		{id: "K30 run-as breeder", command: "hostile bomb 12", user: "nobody", alive: 10, pids: 200, grace: .3, phase: kill, code: -2, rootOnly: true},
		{id: "K31 pid namespace", command: "unshare --user --pid --fork sh -c 'sleep 300 & sleep 301'", alive: 4, grace: .5, code: -2, needs: "unshare"},
		{id: "K33 big memory", command: "hostile bigmem 400", ready: "held", phase: term, code: -1, realSig: 15, long: true},
		{id: "K35 ptraced", command: "strace -f -o /dev/null sleep 300", alive: 2, grace: 1, code: -2, needs: "strace"},
		{id: "K36 many", command: "hostile many 200", ready: "ready", phase: term, code: -1, realSig: 15},
		{id: "K36 many, full", command: "hostile many 2000", ready: "ready", grace: 1, code: -1, realSig: 15, long: true},
		{id: "R14 INT", command: "sleep 300", alive: 1, signal: "INT", phase: term, code: -1, realSig: 2},
		{id: "R14 QUIT", command: "sleep 300", alive: 1, signal: "SIGQUIT", phase: term, code: -1, realSig: 3},
		{id: "KILL at once", command: "trap '' TERM; echo up; sleep 300; sleep 300", ready: "up", signal: "KILL", phase: kill, code: -1, realSig: 9},
		{id: "hostile name", command: `cp "$(command -v sleep)" "$HOSTILE"; "$HOSTILE" 300 & echo up; wait`, ready: "up", alive: 2, phase: term, code: -1, realSig: 15},
	}
}

// withoutCgroup are the shapes for which it matters that root has no cgroup.
var withoutCgroup = []string{"K01 plain", "K07 setsid+ignore", "K09 daemon deaf to TERM", "K16 wide breeder", "K21 non-dumpable", "K24 subreaper", "K30 run-as daemon"}

func testShapes(t *testing.T, l *rigLab, m mode) {
	for _, s := range shapes() {
		t.Run(s.id, func(t *testing.T) {
			lab.Case(t, s.id, m.name)
			switch {
			case m.name == "root" && !killLab() && !slices.Contains(withoutCgroup, s.id):
				t.Skip("the other modes run it: SALTPETER_KILL_LAB=1 runs it in all")
			case s.long && !killLab():
				t.Skip("long: SALTPETER_KILL_LAB=1 runs it")
			case s.rootOnly && m.uid != 0:
				t.Skip("only root changes users")
			case s.needs != "":
				if _, err := exec.LookPath(s.needs); err != nil {
					t.Skipf("this machine has no %s", s.needs)
				}
				if s.needs == "unshare" && exec.Command("unshare", "--user", "--pid", "--fork", "true").Run() != nil {
					t.Skip("this machine allows no user namespaces")
				}
			}
			if s.pids == 0 && !s.long { // those have the machine to themselves
				t.Parallel()
			}
			testShape(t, l, m, s)
		})
	}
}

func testShape(t *testing.T, l *rigLab, m mode, s shape) {
	grace := s.grace
	if grace == 0 {
		grace = 10
	}
	dir := t.TempDir()
	publish(dir)
	_ = os.Chmod(dir, 0o777)
	r := l.newRig(t, m, wire.Order{
		Command: s.command, User: s.user, KillGrace: wire.Seconds(grace), HardLimit: 30,
		Env: map[string]string{"HOSTILE": dir + "/a) R 1 1 (b\n) Z"},
	})
	if s.pids > 0 && !r.limitProcesses(s.pids) {
		r.send(rigCommand{Op: "kill", Cause: wire.CauseKill})
		r.finish()
		t.Skip("no pids cgroup v1 here that this test may write, and root's processes can't be limited otherwise")
	}
	r.open()
	if s.ready != "" {
		r.printed(s.ready)
	}
	r.population(s.alive)
	asked := time.Now()
	r.send(rigCommand{Op: "kill", ID: "k1", Cause: wire.CauseKill, Signal: s.signal})
	n := r.wait("report")
	took := time.Since(asked)
	exited, gone := r.finish()

	if n.ID != "k1" || !n.Report.OK || n.Report.Outcome != wire.OutcomeGone || n.Report.Proof == "" {
		t.Errorf("report is %+v", n)
	}
	if n.Report.Proof != wire.ProofECHILD {
		t.Errorf("proof is %s, the kernel's word was to be had", n.Report.Proof)
	}
	if s.phase != "" && (n.Report.Phase != s.phase || gone.Phase != s.phase) {
		t.Errorf("phases are %s and %s, want %s", n.Report.Phase, gone.Phase, s.phase)
	}
	if r.referee != nil && n.Report.ProcessesBefore < s.alive && s.needs == "" && s.pids == 0 {
		t.Errorf("%d processes before, want at least %d", n.Report.ProcessesBefore, s.alive)
	}
	if exited.Cause != wire.CauseKill || gone.Cause != wire.CauseKill || wire.ExitCode(gone.Cause, 0, 0) != 143 {
		t.Errorf("causes are %s and %s", exited.Cause, gone.Cause)
	}
	checkCode(t, s, gone)
	if s.output != "" {
		r.printed(s.output)
	}
	bound := time.Duration(grace*float64(time.Second)) + 20*time.Second
	if killLab() {
		bound = time.Duration(s.grace*float64(time.Second)) + 3*time.Second
		if s.long { // the many
			bound += 2 * time.Second
		}
	}
	if took > bound {
		t.Errorf("took %s, more than %s", took, bound)
	}
	lab.Measured(t, fmt.Sprintf("%s  %.1f ms  %d processes  proof %s", n.Report.Phase, n.Report.TookMS, n.Report.ProcessesBefore, n.Report.Proof))
}

// checkCode compares the main process's own end.
func checkCode(t *testing.T, s shape, end wire.End) {
	t.Helper()
	switch {
	case s.code == -2: // it depends on whether this machine's shell stays beside the command
	case s.code == -1 && s.realSig == 0 && end.RealSignal != 0:
	case s.realSig != 0 && end.RealSignal == s.realSig:
	case s.realSig == 0 && end.RealCode != nil && *end.RealCode == s.code:
	default:
		t.Errorf("the main process ended with code %v, signal %d; want %d, %d", end.RealCode, end.RealSignal, s.code, s.realSig)
	}
}
