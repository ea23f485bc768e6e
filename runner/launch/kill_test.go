package launch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

var posix = shell{name: "sh", argv: []string{"/bin/sh", "-s"}}

// shapes are process trees that a kill has to end over this road alone; they
// stand for the A-cases, with the wrapper dead (W01).
var shapes = []struct {
	name, command string
	count         int
	phase         string
	everywhere    bool // under every shell, not only under sh
}{
	{"plain", "exec sleep 300", 1, wire.PhaseTerm, false},
	{"two commands", "sleep 300; sleep 300", 2, wire.PhaseTerm, false},
	{"setsid", "setsid sleep 300 & sleep 300", 3, wire.PhaseTerm, false},
	{"ignores TERM", "trap '' TERM; sleep 300; sleep 300", 2, wire.PhaseKill, false},
	{"setsid and ignores TERM", "setsid sh -c 'trap \"\" TERM; while :; do sleep 300; done' & sleep 300", 4, wire.PhaseKill, true},
	{"daemon, environment scrubbed", "env -i setsid sh -c 'env -i setsid sleep 300 & sleep 301' & sleep 300", 5, wire.PhaseTerm, true},
	{"parent gone", "(setsid sleep 300 &) ; setsid sh -c 'sleep 301 & sleep 302 &'", 3, wire.PhaseTerm, false},
	{"stops itself", "sleep 300 & kill -STOP $$", 2, wire.PhaseTerm, false},
}

func TestKillShapes(t *testing.T) {
	lab.Case(t, "S01 shells", "local")
	shells(t, func(t *testing.T, sh shell) {
		for _, shape := range shapes {
			if !shape.everywhere && sh.name != "sh" && !lab.KillLab() {
				continue
			}
			t.Run(shape.name, func(t *testing.T) {
				t.Parallel()
				k := startTask(t, shape.command, taskOptions{})
				k.awaitMembers(shape.count)
				k.loseWrapper()
				res := sh.ask(t, k.request(OpKill))
				k.assertGone(res)
				if res.Phase != shape.phase || res.Before != shape.count || res.Acted == 0 {
					t.Errorf("phase %q, before %d, acted %d, want %q and %d", res.Phase, res.Before, res.Acted, shape.phase, shape.count)
				}
				if res.MainAlive || res.WrapperAlive || res.Reused || res.Partial {
					t.Errorf("main %v wrapper %v reused %v partial %v", res.MainAlive, res.WrapperAlive, res.Reused, res.Partial)
				}
			})
		}
	})
}

// The handler's own children, born after the kill, are to finish their work.
func TestKillLeavesHandlersAlone(t *testing.T) {
	lab.Case(t, "K04 trap-cleanup", "local, wrapper alive")
	t.Parallel()
	dir := t.TempDir()
	k := startTask(t, `trap 'sleep .4; echo bye >`+dir+`/said; exit 3' TERM; sleep 300 & wait`, taskOptions{})
	k.awaitMembers(2)
	r := k.request(OpKill)
	r.Grace = patient
	res := posix.ask(t, r)
	k.assertGone(res)
	if said, err := os.ReadFile(dir + "/said"); err != nil || string(said) != "bye\n" || res.Phase != wire.PhaseTerm {
		t.Fatalf("the handler said %q (%v), phase %q", said, err, res.Phase)
	}
	// It ends of itself once the job has, perhaps before the last look.
	if state, err := k.wrapper.Wait(); err != nil || !state.Success() {
		t.Errorf("the wrapper that should report the end did not live to: %v, %v", state, err)
	}
}

// S03, S04 and a foreign PID namespace: the recorded PID exists, and is not ours.
func TestKillChecksBeforeItSignals(t *testing.T) {
	lab.Case(t, "S03 S04 rebooted, PID reused", "local")
	shells(t, func(t *testing.T, sh shell) {
		innocent := exec.Command("sleep", "9999")
		if err := innocent.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { innocent.Process.Kill(); innocent.Wait() }()
		was, _ := lookAt(innocent.Process.Pid)
		for _, c := range []struct {
			name    string
			change  func(id *wire.Identity)
			outcome string
			reason  string
			reused  bool
		}{
			{"rebooted", func(id *wire.Identity) { id.BootID = "0d0d0d0d-0000-0000-0000-000000000000" }, wire.OutcomeGone, ReasonRebooted, false},
			{"reused", func(id *wire.Identity) { id.StartTicks -= 5 }, wire.OutcomeGone, "", true},
			{"namespace", func(id *wire.Identity) { id.PIDNamespace = "pid:[1]" }, wire.OutcomeUnknown, ReasonPIDNamespace, false},
		} {
			id := identityOf(was.pid)
			id.Task, id.Brand = "task-"+c.name, newBrand()
			c.change(&id)
			res := sh.ask(t, ScriptRequest{Op: OpKill, Identity: &id, Signal: "KILL"})
			if res.Outcome != c.outcome || res.Reason != c.reason || res.Reused != c.reused || res.Acted != 0 {
				t.Errorf("%s: %+v", c.name, res)
			}
			if is, ok := lookAt(was.pid); !ok || is.start != was.start || !is.alive() {
				t.Fatalf("%s: the innocent one was touched: %+v", c.name, is)
			}
		}
	})
}

// S06: the cookie of one job is the beginning of another's.
func TestKillCookieIsExact(t *testing.T) {
	lab.Case(t, "S06 cookie prefix", "local")
	shells(t, func(t *testing.T, sh shell) {
		start := func(env ...string) *exec.Cmd {
			cmd := exec.Command("sleep", "9999")
			cmd.Env = append([]string{"PATH=/bin"}, env...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			return cmd
		}
		name := fmt.Sprintf("x%d-1", time.Now().UnixNano())
		mine := start("SP_TASK=" + name)
		others := []*exec.Cmd{start("SP_TASK=" + name + "1"), start("NOT_SP_TASK=" + name), start("X=\nSP_TASK=" + name), start("SP_TASK=", "Y="+name)}
		res := sh.ask(t, ScriptRequest{Op: OpKill, Task: name, Grace: patient})
		if res.Outcome != wire.OutcomeGone || res.Before != 1 {
			t.Errorf("%+v", res)
		}
		if p, ok := lookAt(mine.Process.Pid); ok && p.alive() {
			t.Error("the task lives")
		}
		for i, o := range others {
			if p, ok := lookAt(o.Process.Pid); !ok || !p.alive() {
				t.Errorf("stranger %d was killed", i)
			}
		}
	})
}

// An older wrapper gave only a PID, and its environment to everybody below it.
func TestKillOfOlderWrapper(t *testing.T) {
	lab.Case(t, "older wrapper", "local, wrapper alive")
	shells(t, func(t *testing.T, sh shell) {
		run := fmt.Sprintf("old_%d", time.Now().UnixNano())
		start := func(script string) (wrapper *exec.Cmd, job int) {
			wrapper = exec.Command("sh", "-c", script)
			wrapper.Env = []string{"PATH=" + os.Getenv("PATH"), "SP_JOB_INSTANCE=" + run}
			wrapper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			out, err := wrapper.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := wrapper.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { syscall.Kill(-wrapper.Process.Pid, syscall.SIGKILL); wrapper.Wait() })
			if _, err := fmt.Fscan(out, &job); err != nil {
				t.Fatal(err)
			}
			return wrapper, job
		}
		wrapper, job := start("sh -c 'echo $$; setsid sleep 9999 & sleep 9998; :' & wait; exec sleep 9997")
		eventually(t, "the job to have its processes", func() bool { return len(childrenOf(job)) == 2 })
		res := sh.ask(t, ScriptRequest{Op: OpKill, Run: run, Identity: &wire.Identity{PID: job}, Grace: patient})
		if res.Outcome != wire.OutcomeGone || res.Before != 3 || !res.WrapperAlive {
			t.Errorf("%+v", res)
		}
		if f := res.Found; f == nil || f.PID != job || f.StartTicks == 0 || f.WrapperPID != wrapper.Process.Pid || f.WrapperStartTicks == 0 {
			t.Errorf("found %+v", f)
		}
		if p, ok := lookAt(wrapper.Process.Pid); !ok || !p.alive() {
			t.Fatal("the older wrapper was killed: nobody is left to report")
		}
		// Now only the wrapper carries the name; it cannot be told from a leftover.
		res = sh.ask(t, ScriptRequest{Op: OpKill, Run: run, Identity: &wire.Identity{PID: job}, Signal: "KILL"})
		if res.Outcome != wire.OutcomeUnknown || res.Reason != ReasonMaybeWrapper || len(res.Left) != 1 || res.Left[0].PID != wrapper.Process.Pid {
			t.Errorf("%+v", res)
		}
		if p, ok := lookAt(wrapper.Process.Pid); !ok || !p.alive() {
			t.Fatal("the older wrapper was killed on suspicion")
		}
	})
}

func childrenOf(pid int) (kids []proc) {
	for _, p := range everybody() {
		if p.ppid == pid && p.alive() {
			kids = append(kids, p)
		}
	}
	return kids
}

// Command names are what the job says they are. One imitates a dead record, the
// other, with a line break, the beginning of the bystander's.
func TestKillHostileNames(t *testing.T) {
	lab.Case(t, "hostile name", "local, wrapper alive")
	shells(t, func(t *testing.T, sh shell) {
		dir := t.TempDir()
		const dead = "a) Z 1\n1 (b %"
		k := startTask(t, `until [ -s `+dir+`/forged ]; do sleep .01; done
			sh -c 'n=$(cat `+dir+`/dead); printf %s "$n" >/proc/$$/comm; kill -STOP $$' &
			n=$(cat `+dir+`/forged); printf %s "$n" >/proc/$$/comm; kill -STOP $$`, taskOptions{})
		forged := fmt.Sprintf("\n%d (z) S 1", k.bystander.pid)
		for name, text := range map[string]string{"dead": dead, "forged.new": forged} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Rename(dir+"/forged.new", dir+"/forged"); err != nil {
			t.Fatal(err)
		}
		k.awaitMembers(2)
		eventually(t, "both to have stopped", func() bool {
			m := k.members()
			return len(m) == 2 && m[0].state == "T" && m[1].state == "T"
		})
		res := sh.ask(t, k.request(OpCheck))
		want := map[string]bool{dead: true, forged[:min(len(forged), 15)]: true}
		for _, p := range res.Left {
			if !want[p.Command] {
				t.Errorf("no process is called %q", p.Command)
			}
			delete(want, p.Command)
		}
		if res.Outcome != wire.OutcomeAlive || res.Alive != 2 || len(want) > 0 {
			t.Errorf("outcome %q, %d alive, not named: %v", res.Outcome, res.Alive, want)
		}
		k.assertGone(sh.ask(t, k.request(OpKill)))
	})
}

// S14: nothing of the task shows in anybody's arguments while a kill works.
func TestKillShowsNothing(t *testing.T) {
	lab.Case(t, "S14 nothing in ps", "local, wrapper alive")
	t.Parallel()
	k := startTask(t, "trap '' TERM; sleep 300 & wait; wait; sleep 300", taskOptions{run: "secret-run-name"})
	k.awaitMembers(2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := k.request(OpKill)
		if _, err := posix.try(r); err != nil {
			t.Error(err)
		}
	}()
	looks := 0
	for running := true; running; looks++ {
		select {
		case <-done:
			running = false
		default:
		}
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			args, _ := os.ReadFile(f)
			for _, secret := range []string{k.id.Task, k.id.Brand, k.run, k.id.BootID, k.id.EndFile} {
				if strings.Contains(string(args), secret) && !strings.Contains(string(args), "branded") {
					t.Fatalf("%q shows in %q", secret, args)
				}
			}
		}
	}
	if looks < 5 {
		t.Fatalf("only %d looks: the kill was not watched", looks)
	}
}

// S15: no awk, and a sleep that knows whole seconds only.
func TestKillWithoutComforts(t *testing.T) {
	lab.Case(t, "S15 no awk, no fractions", "local")
	t.Parallel()
	dir := t.TempDir()
	real, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	stub := "#!/bin/sh\ncase $1 in *[!0-9]*) echo no fractions >&2; exit 1;; esac\nexec " + real + " $1\n"
	if err := os.WriteFile(dir+"/sleep", []byte(stub), 0o755); err != nil {
		t.Fatal(err)
	}
	k := startTask(t, "trap '' TERM; setsid sleep 300 & sleep 300 & wait; wait", taskOptions{})
	k.awaitMembers(3)
	k.loseWrapper()
	sh := posix
	sh.env = []string{"SP_NOAWK=1", "PATH=" + dir + ":" + os.Getenv("PATH")}
	k.assertGone(sh.ask(t, k.request(OpKill)))
}
