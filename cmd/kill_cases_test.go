package cmd

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner"
	"saltpeter/runner/api"
	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

const (
	rigEnv   = "env: {KILL_RIG: 'RIGDIR'}\nkill_grace: 20s"
	anywhere = "targets: '*'\n" + rigEnv
)

// TestKillCases are the cases of the catalogue that need a whole server: real
// program, real socket, real wrappers on this machine.
func TestKillCases(t *testing.T) {
	binary := killBinary(t)
	for _, c := range []struct {
		id string
		f  func(t *testing.T, binary string)
	}{
		{"R04 kill twice", killTwice},
		{"R04 both roads at once", killBothRoads},
		{"R05 TERM then KILL now", killShortened},
		{"W01 wrapper SIGKILLed", killWrapperDead},
		{"W02 wrapper SIGSTOPped", killWrapperStopped},
		{"W05 server SIGKILLed", killServerCrash},
		{"W10 one of many", killOneOfMany},
		{"W11 during a batch", killDuringBatch},
		{"W12 binary removed", killBinaryRemoved},
		{"kill while launching", killLaunching},
		{"selectors", killSelectors},
		{"no-wait and re-attach", killReattach},
		{"K25 frozen, withdrawn", killFrozen},
		{"pause ttl, wrapper dead", pauseWithoutWrapper},
	} {
		t.Run(c.id, func(t *testing.T) {
			lab.Case(t, c.id, "server")
			t.Parallel()
			c.f(t, binary)
		})
	}
}

const politely = "trap 'echo hit >>RIGDIR/hits; sleep 1; exit 0' TERM\necho up\nwhile :; do sleep .05; done"

// R04: two people, 50 ms apart. One end, one TERM, and both get the truth.
func killTwice(t *testing.T, binary string) {
	group := ""
	var other *syscall.Credential
	if os.Geteuid() == 0 {
		group, other = "saltpeter_config: {socket_group: nogroup}\n", &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	r := newKillRig(t, binary, group+yearly("polite", politely, anywhere))
	run := r.up("polite").ID
	var wg sync.WaitGroup
	var first runner.Receipt
	wg.Go(func() { first = r.killed(run) })
	r.await("the first TERM", func() bool { return r.said("hits") != "" })
	time.Sleep(50 * time.Millisecond)
	out, errs, code := r.cli(other, "kill", run, "-o", "json")
	wg.Wait()
	r.gone(first)
	if code != 0 || !strings.Contains(out, `"outcome":"gone"`) || !strings.Contains(out, `"exit_code":143`) {
		t.Errorf("the second: %d %q %q", code, out, errs)
	}
	if hits := r.said("hits"); hits != "hit\n" {
		t.Errorf("TERM came %d times", strings.Count(hits, "\n"))
	}
	task := r.onlyEnd(run)
	if task.End == nil || task.End.RealCode == nil || *task.End.RealCode != 0 || task.End.Phase != wire.PhaseTerm {
		t.Errorf("end %+v", task.End)
	}
	r.auditTells(run+":"+task.Machine, other)
}

// auditTells: who asked, from where, and what came of it.
func (r *killRig) auditTells(target string, other *syscall.Credential) {
	r.t.Helper()
	who := map[string]bool{}
	settled := 0
	for _, e := range r.audit(target) {
		if e.What != "kill" {
			continue
		}
		if e.From == "" || e.Who == "" || e.At.IsZero() {
			r.t.Errorf("audit %+v", e)
		}
		who[e.Who] = true
		if strings.HasPrefix(e.Outcome, "gone via ") {
			settled++
		}
	}
	if want := 1; settled != want || other != nil && len(who) != 2 {
		r.t.Errorf("the audit log names %v and has %d outcomes: %+v", who, settled, r.audit(target))
	}
}

// R04: over the connection and by kill.sh at the same time.
func killBothRoads(t *testing.T, binary string) {
	r := newKillRig(t, binary, yearly("stubborn", "trap '' TERM\necho up\nsleep 300 & wait; sleep 300; sleep 300", anywhere))
	run := r.up("stubborn")
	road := launch.NewLocal(launch.LocalOptions{Executable: r.bin})
	defer road.Close()
	var wg sync.WaitGroup
	var res launch.ScriptResult
	var err error
	wg.Go(func() {
		res, err = road.Script(t.Context(), launch.Machine{Name: "m", Transport: "local"}, launch.ScriptRequest{
			Op: launch.OpKill, Run: run.ID, Task: run.Tasks[0].Identity.Task, Identity: run.Tasks[0].Identity, Grace: time.Second, Hard: 20 * time.Second,
		})
	})
	got := r.killed(run.ID, grace(time.Second))
	wg.Wait()
	r.gone(got)
	if err != nil || res.Outcome != wire.OutcomeGone {
		t.Errorf("the script: %+v %v", res, err)
	}
	if end := r.onlyEnd(run.ID); end.End.Phase != wire.PhaseKill {
		t.Errorf("end %+v", end.End)
	}
}

// R05: a kill with a long grace, then KILL.
func killShortened(t *testing.T, binary string) {
	r := newKillRig(t, binary, yearly("stubborn", "trap '' TERM\necho up\nwhile :; do sleep .05; done", anywhere))
	run := r.up("stubborn").ID
	var wg sync.WaitGroup
	var first runner.Receipt
	wg.Go(func() { first = r.killed(run, grace(time.Hour)) })
	r.await("the first kill", func() bool { return r.task(run).Kill != nil })
	began := time.Now()
	second := r.killed(run, signalled("KILL"))
	took := time.Since(began)
	wg.Wait()
	r.gone(first)
	r.gone(second)
	if second.Phase != wire.PhaseKill {
		t.Errorf("receipt %+v", second)
	}
	lab.Measured(t, fmt.Sprintf("gone after %s", took.Round(time.Millisecond)))
	if bound := bounded(time.Second, 30*time.Second); took > bound {
		t.Errorf("it took %s", took)
	}
	r.onlyEnd(run)
}

func bounded(exact, generous time.Duration) time.Duration {
	if lab.KillLab() {
		return exact
	}
	return generous
}

// scattered is a job that does what it can to survive.
const scattered = "setsid sleep 300 &\n(env -i KILL_RIG=RIGDIR setsid sleep 301 &)\ntrap '' TERM\necho up\nsleep 300; sleep 300; sleep 300"

// W01: nobody is left to report; the machine is asked.
func killWrapperDead(t *testing.T, binary string) {
	r := newKillRig(t, binary, yearly("scattered", scattered, anywhere))
	run := r.up("scattered")
	r.wrapper(run.Tasks[0], syscall.SIGKILL)
	got := r.killed(run.ID, grace(time.Second))
	r.gone(got)
	if got.Via != "local" || got.Proof == wire.ProofECHILD || got.Phase != wire.PhaseKill {
		t.Errorf("receipt %+v", got)
	}
	lab.Measured(t, fmt.Sprintf("%.0f ms with 1 s of grace, proof %s", got.TookMS, got.Proof))
	r.onlyEnd(run.ID)
	if left := r.working(); len(left) != 1 {
		t.Errorf("LIE: beside the server there live %v", left)
	}
}

// W02: the wrapper hangs; it wakes when all is over, and its end counts once.
func killWrapperStopped(t *testing.T, binary string) {
	r := newKillRig(t, binary, yearly("scattered", scattered, anywhere))
	run := r.up("scattered")
	r.wrapper(run.Tasks[0], syscall.SIGSTOP)
	got := r.killed(run.ID, grace(time.Second))
	r.gone(got)
	if got.Via != "local" {
		t.Errorf("receipt %+v", got)
	}
	r.wrapper(run.Tasks[0], syscall.SIGCONT)
	r.await("the wrapper's own end", func() bool { return len(r.working()) == 1 })
	r.onlyEnd(run.ID)
}

// W05: asked for, and the server is gone before it was delivered: the wrapper
// hangs, so that it cannot have been.
func killServerCrash(t *testing.T, binary string) {
	r := newKillRig(t, binary, yearly("scattered", scattered, anywhere))
	run := r.up("scattered")
	r.wrapper(run.Tasks[0], syscall.SIGSTOP)
	if got := r.killed(run.ID, noWait, grace(time.Second)); got.Outcome != runner.OutcomeAsked || !got.Pending {
		t.Errorf("receipt %+v", got)
	}
	r.end(syscall.SIGKILL)
	if left := r.ofRun(run.ID); len(left) == 0 {
		t.Error("it was delivered after all: the case shows nothing")
	}
	r.serve()
	end := r.onlyEnd(run.ID)
	r.await("the receipt", func() bool { return !r.task(run.ID).Kill.Standing() })
	if left := r.ofRun(run.ID); len(left) > 0 {
		t.Errorf("LIE: there live %v", left)
	}
	if end.Kill.By == "" {
		t.Errorf("nobody knows who asked: %+v", end.Kill)
	}
	r.wrapper(run.Tasks[0], syscall.SIGCONT)
	r.await("the wrapper's own end", func() bool { return len(r.working()) == 1 })
	r.onlyEnd(run.ID)
}

func machines(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("m%d: {local: true}", i+1)
	}
	return "saltpeter_machines: {" + strings.Join(names, ", ") + "}\n"
}

// W10: one machine of three; the others end as they would have.
func killOneOfMany(t *testing.T, binary string) {
	r := newKillRig(t, binary, machines(3)+yearly("wide", "echo up\nuntil [ -e RIGDIR/go ]; do sleep .05; done\nexit 7", anywhere))
	run := r.up("wide")
	got := r.kill(api.KillRequest{Selection: api.Selection{Run: run.ID, Machine: "m2"}})
	if len(got) != 1 || got[0].Machine != "m2" || got[0].Outcome != wire.OutcomeGone {
		t.Errorf("receipts %+v", got)
	}
	if err := os.WriteFile(r.dir+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"m1": 7, "m2": 143, "m3": 7}
	r.await("all ends", func() bool {
		for _, task := range r.run(run.ID).Tasks {
			if task.ExitCode == nil {
				return false
			}
		}
		return true
	})
	for _, task := range r.run(run.ID).Tasks {
		if *task.ExitCode != want[task.Machine] {
			t.Errorf("%s ended with %d, want %d", task.Machine, *task.ExitCode, want[task.Machine])
		}
	}
}

// W11: one machine at a time, of five: the later ones never start.
func killDuringBatch(t *testing.T, binary string) {
	r := newKillRig(t, binary, machines(5)+yearly("batched", "echo $SP_MACHINE_ID >>RIGDIR/started\necho up\nsleep 300", "batch_size: 1\n"+anywhere))
	run := r.start("batched")
	r.await("the first", func() bool { return r.said("started") != "" })
	gone, never := 0, 0
	for _, got := range r.kill(api.KillRequest{Selection: api.Selection{Job: "batched"}}) {
		switch got.Outcome {
		case wire.OutcomeGone:
			gone++
		case wire.OutcomeNeverStarted:
			never++
		default:
			t.Errorf("receipt %+v", got)
		}
	}
	if gone != 1 || never != 4 {
		t.Errorf("%d gone, %d never started", gone, never)
	}
	r.await("the run's end", func() bool {
		status, err := r.client.Status(t.Context())
		return err == nil && len(status.Tasks) == 0
	})
	if n := strings.Count(r.said("started"), "\n"); n != 1 || len(r.ofRun(run)) > 0 {
		t.Errorf("%d started, alive: %v", n, r.ofRun(run))
	}
}

// W12: the program is not there any more, and its wrapper dies: the script needs
// nothing of ours.
func killBinaryRemoved(t *testing.T, binary string) {
	r := newKillRig(t, binary, yearly("scattered", scattered, anywhere))
	one, two := r.up("scattered"), r.up("scattered")
	if err := os.Remove(r.bin); err != nil {
		t.Fatal(err)
	}
	r.wrapper(one.Tasks[0], syscall.SIGKILL)
	for _, id := range []string{one.ID, two.ID} {
		r.gone(r.killed(id, grace(500*time.Millisecond)))
		r.onlyEnd(id)
	}
}

// A kill while the start is under way: it never started, or it is gone, and the
// job's own traces agree with what is said.
func killLaunching(t *testing.T, binary string) {
	r := newKillRig(t, binary, yearly("quick", "echo $SP_JOB_INSTANCE >>RIGDIR/started\nexec sleep 300", anywhere))
	rounds := 20
	if lab.KillLab() {
		rounds = 200
	}
	never := 0
	for i := range rounds {
		run := r.start("quick")
		time.Sleep(time.Duration(i%20) * 3 * time.Millisecond)
		got := r.killed(run)
		switch got.Outcome {
		case wire.OutcomeNeverStarted:
			never++
			if strings.Contains(r.said("started"), run+"\n") {
				t.Errorf("LIE: round %d: %s never started, it says, and yet it did", i, run)
			}
		case wire.OutcomeGone:
		default:
			t.Errorf("round %d: receipt %+v", i, got)
		}
		if left := r.ofRun(run); len(left) > 0 {
			t.Errorf("LIE: round %d: %s, and there live %v", i, got.Outcome, left)
		}
		r.onlyEnd(run)
		if strings.Count(r.said("started"), run+"\n") > 1 {
			t.Errorf("round %d: it was started twice", i)
		}
	}
	lab.Measured(t, fmt.Sprintf("%d rounds, %d never started, %d gone", rounds, never, rounds-never))
}

// Selectors: what they show is what they hit, and nothing else.
func killSelectors(t *testing.T, binary string) {
	r := newKillRig(t, binary, machines(2)+yearly("a", "echo up\nsleep 300", anywhere)+yearly("b", "echo up\nsleep 300", anywhere)+
		yearly("c", "sleep 300 &\necho up", "targets: m1\ndrain: 0\n"+rigEnv))
	a, b, c := r.up("a"), r.up("b"), r.start("c")
	r.await("a leftover", func() bool { return r.task(c).Leftover == 1 })
	dry := func(want int, args ...string) {
		t.Helper()
		out, errs, code := r.cli(nil, append([]string{"kill", "--dry-run"}, args...)...)
		if n := strings.Count(out, "would kill "); n != want || (code != 0) != (want == 0) {
			t.Errorf("%v would hit %d, want %d, code %d: %s%s", args, n, want, code, out, errs)
		}
	}
	dry(4, "--state", "running")
	dry(2, "--state", "running", "-m", "m1")
	dry(2, "b")
	dry(1, "--failed") // the leftover
	dry(1, "--state", "leftover")
	dry(0, "--state", "paused,overdue")
	dry(0, "--older-than", "1h")
	dry(5, "--older-than", "1ms")
	dry(5, "--all")
	if out, errs, code := r.cli(nil, "pause", b.ID); code != 0 || strings.Count(out, "done") != 2 {
		t.Errorf("pause: %d %s%s", code, out, errs)
	}
	r.await("paused", func() bool {
		tasks := r.run(b.ID).Tasks
		return tasks[0].State == ledger.Paused && tasks[1].State == ledger.Paused
	})
	dry(2, "--state", "paused")
	if out, errs, code := r.cli(nil, "kill", "--state", "paused"); code != 2 || strings.Contains(out, "gone") {
		t.Errorf("without a terminal and --yes: %d %s%s", code, out, errs)
	}
	if out, errs, code := r.cli(nil, "kill", "--state", "paused", "--yes"); code != 0 || strings.Count(out, "gone") != 2 || len(r.ofRun(b.ID)) > 0 {
		t.Errorf("kill of the paused: %d %s%s", code, out, errs)
	}
	if n := len(r.ofRun(a.ID)); n != 4 { // shell and sleep on either
		t.Errorf("%d processes of a bystander are left", n)
	}
	if out, errs, code := r.cli(nil, "kill", "--failed", "--yes"); code != 0 || strings.Count(out, "gone") != 1 || len(r.ofRun(c)) > 0 {
		t.Errorf("kill of leftovers: %d %s%s", code, out, errs)
	}
	if task := r.task(c); task.ExitCode == nil || *task.ExitCode != 0 {
		t.Errorf("the leftovers' task ended with %+v", task)
	}
	if out, errs, code := r.cli(nil, "kill", "--all", "--yes"); code != 0 || strings.Count(out, "gone") != 2 || len(r.ofRun(a.ID)) > 0 {
		t.Errorf("kill of all: %d %s%s", code, out, errs)
	}
}

// --no-wait, and a second kill that waits for the first one's end.
func killReattach(t *testing.T, binary string) {
	r := newKillRig(t, binary, yearly("polite", politely, anywhere))
	run := r.up("polite").ID
	out, errs, code := r.cli(nil, "kill", run, "--no-wait")
	if code != 0 || !strings.Contains(out, "asked") {
		t.Errorf("--no-wait: %d %s%s", code, out, errs)
	}
	r.await("TERM", func() bool { return r.said("hits") != "" })
	out, errs, code = r.cli(nil, "kill", run)
	if code != 0 || !strings.Contains(out, "gone") || len(r.ofRun(run)) > 0 || r.said("hits") != "hit\n" {
		t.Errorf("the second: %d %s%s, TERM: %q", code, out, errs, r.said("hits"))
	}
	r.onlyEnd(run)
}
