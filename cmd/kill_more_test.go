package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner"
	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// freezer makes a cgroup of the old freezer, which not even SIGKILL gets through.
func freezer(t *testing.T) (dir string, write func(file, text string)) {
	t.Helper()
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.SplitSeq(string(mounts), "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || f[2] != "cgroup" || !slices.Contains(strings.Split(f[3], ","), "freezer") {
			continue
		}
		dir, err := os.MkdirTemp(f[1], "sp-frozen-")
		if err != nil {
			break
		}
		write = func(file, text string) {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil {
				t.Error(err)
			}
		}
		t.Cleanup(func() {
			write("freezer.state", "THAWED")
			for i := 0; i < 5000 && os.Remove(dir) != nil; i++ {
				time.Sleep(2 * time.Millisecond)
			}
		})
		return dir, write
	}
	t.Skip("no cgroup v1 freezer that this test may write")
	return "", nil
}

// K25 with a whole server: what cannot die is called alive, with exit code 5; the
// kill stands, can be withdrawn on the record, and the end is told when it comes.
func killFrozen(t *testing.T, binary string) {
	dir, write := freezer(t)
	r := newKillRig(t, binary, yearly("stuck", "echo up\nexec sleep 300", "targets: '*'\nkill_grace: 200ms\nenv: {KILL_RIG: 'RIGDIR'}"))
	defer write("freezer.state", "THAWED")
	run := r.up("stuck")
	pid := run.Tasks[0].Identity.PID
	r.await("sleep", func() bool {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return strings.Contains(exe, "sleep")
	})
	write("cgroup.procs", strconv.Itoa(pid))
	write("freezer.state", "FROZEN")
	r.await("frozen", func() bool {
		state, _ := os.ReadFile(filepath.Join(dir, "freezer.state"))
		return strings.HasPrefix(string(state), "FROZEN")
	})
	out, errs, code := r.cli(nil, "kill", run.ID)
	if code != 5 || !strings.Contains(out, "ALIVE") || !strings.Contains(out, fmt.Sprintf("pid %d (", pid)) || !strings.Contains(out, "frozen") ||
		!strings.Contains(out, "the kill stands") || !processLives(pid) {
		t.Errorf("%d %s%s", code, out, errs)
	}
	if task := r.task(run.ID); !task.Kill.Standing() || task.ExitCode != nil {
		t.Errorf("what is frozen has an end: %+v", task)
	}
	lab.Honest(t, "ALIVE, frozen, exit code 5; withdrawn on the record; its end told after the thaw")
	out, errs, code = r.cli(nil, "kill", run.ID, "--withdraw")
	if code != 0 || !strings.Contains(out, "withdrawn") {
		t.Errorf("--withdraw: %d %s%s", code, out, errs)
	}
	if k := r.task(run.ID).Kill; k.Withdrawn.IsZero() {
		t.Errorf("kill %+v", k)
	}
	var words []string
	for _, e := range r.audit(run.ID + ":" + run.Tasks[0].Machine) {
		words = append(words, e.What+" "+strings.Fields(e.Outcome)[0])
	}
	for _, want := range []string{"kill asked", "kill alive", "withdraw withdrawn"} {
		if !slices.Contains(words, want) {
			t.Errorf("the audit log lacks %q: %q", want, words)
		}
	}
	write("freezer.state", "THAWED")
	// SIGKILL was pending in the kernel: that cannot be taken back.
	r.onlyEnd(run.ID)
}

// A pause with a ttl ends though the wrapper is dead and the pause went by the
// other road: the server sees to it.
func pauseWithoutWrapper(t *testing.T, binary string) {
	r := newKillRig(t, binary, yearly("counting", "echo up\nwhile :; do echo x >>RIGDIR/count; sleep .02; done", anywhere))
	run := r.up("counting")
	r.wrapper(run.Tasks[0], syscall.SIGKILL)
	size := func() int { return len(r.said("count")) }
	began := time.Now()
	out, errs, code := r.cli(nil, "pause", run.ID, "--ttl", "3s")
	if code != 0 || !strings.Contains(out, "via local") {
		t.Fatalf("pause: %d %s%s", code, out, errs)
	}
	before := size()
	time.Sleep(300 * time.Millisecond)
	if after := size(); after != before && time.Since(began) < 3*time.Second {
		t.Errorf("a paused job went on: %d, %d", before, after)
	}
	r.await("the job goes on", func() bool { return size() > before+10 })
	if took := time.Since(began); took < 2900*time.Millisecond {
		t.Errorf("it went on after %s", took)
	}
	r.gone(r.killed(run.ID))
	r.onlyEnd(run.ID)
}

// TestKillManyTasks: everything that runs, by one selector.
func TestKillManyTasks(t *testing.T) {
	lab.Case(t, "many tasks, one selector", "server")
	n, bound := 50, killPatience
	if lab.KillLab() {
		n = 500
		if quietMachine() { // they load it themselves from here on
			bound = 10 * time.Second
		}
	}
	r := newKillRig(t, killBinary(t), machines(n)+yearly("wide", "echo up\nsleep 300; sleep 300", anywhere))
	run := r.up("wide")
	began := time.Now()
	receipts := r.kill(api.KillRequest{Selection: api.Selection{All: true}})
	took := time.Since(began)
	seen := map[string]bool{}
	for _, got := range receipts {
		if got.Outcome != wire.OutcomeGone || got.Proof != wire.ProofECHILD || got.ExitCode == nil || *got.ExitCode != 143 {
			t.Errorf("receipt %+v", got)
		}
		seen[got.Machine] = true
	}
	if len(seen) != n || len(receipts) != n {
		t.Errorf("%d receipts of %d machines, want %d", len(receipts), len(seen), n)
	}
	lives := map[int]bool{}
	for _, pid := range r.ofRun(run.ID) {
		lives[pid] = true
	}
	for _, task := range run.Tasks {
		if lives[task.Identity.PID] {
			t.Errorf("LIE: %s lives", task.Machine)
		}
	}
	lab.Measured(t, fmt.Sprintf("%d tasks in %s", n, took.Round(time.Millisecond)))
	if took > bound {
		t.Errorf("%d tasks took %s", n, took)
	}
	for _, task := range r.run(run.ID).Tasks {
		if task.State != ledger.Killed {
			t.Errorf("%s is %s", task.Machine, task.State)
		}
	}
}

// TestKillLatency measures a kill of a plain job from the request to the receipt.
func TestKillLatency(t *testing.T) {
	lab.Case(t, "K01 plain", "server")
	r := newKillRig(t, killBinary(t), yearly("plain", "echo up\nexec sleep 300", anywhere))
	rounds := 5
	if lab.KillLab() {
		rounds = 60
	}
	var all []time.Duration
	for range rounds {
		run := r.up("plain").ID
		began := time.Now()
		got := r.killed(run)
		all = append(all, time.Since(began))
		r.gone(runner.Receipt{Run: run, Outcome: got.Outcome, ExitCode: got.ExitCode, Proof: got.Proof})
		if got.Proof != wire.ProofECHILD || got.Via != "websocket" {
			t.Errorf("receipt %+v", got)
		}
	}
	slices.Sort(all)
	p95 := all[len(all)*95/100]
	lab.Measured(t, fmt.Sprintf("request to receipt: median %s, p95 %s of %d", all[len(all)/2].Round(100*time.Microsecond), p95.Round(100*time.Microsecond), rounds))
	if lab.KillLab() && quietMachine() && p95 > 25*time.Millisecond {
		t.Errorf("p95 is %s on a quiet machine", p95)
	}
}

// quietMachine says whether the machine had little else to do in the last minute.
func quietMachine() bool {
	var load float64
	text, _ := os.ReadFile("/proc/loadavg")
	_, err := fmt.Sscan(string(text), &load)
	return err == nil && load < 1
}
