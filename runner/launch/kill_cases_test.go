package launch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// deadShape is one of the catalogue's shapes, for a wrapper that is dead: the
// script alone has to find and end it.
type deadShape struct {
	id, command string
	alive       int // so many processes at least, before the kill
	phase       string
	needs       string
	breeder     bool // needs a limit, and may be called alive if that is true
	long        bool
	rootOnly    bool
}

func deadShapes() []deadShape {
	const term, kill = wire.PhaseTerm, wire.PhaseKill
	return []deadShape{
		{id: "K01 plain", command: "sleep 300", alive: 1, phase: term},
		{id: "K02 two-cmd", command: "sleep 300; sleep 300", alive: 2, phase: term},
		{id: "K03 trap-exit-0", command: "trap 'exit 0' TERM; while :; do sleep .05; done", alive: 1, phase: term},
		{id: "K05 ignore-TERM", command: "trap '' TERM; sleep 300; sleep 300", alive: 2, phase: kill},
		{id: "K06 setsid", command: "setsid sleep 300 & sleep 300", alive: 3, phase: term},
		{id: "K07 setsid+ignore", command: `setsid sh -c 'trap "" TERM; while :; do sleep 1; done' & sleep 300`, alive: 4, phase: kill},
		{id: "K08 daemon", command: "hostile daemon; sleep 300; true", alive: 3, phase: term},
		{id: "K09 daemon deaf to TERM", command: "hostile daemonexit; sleep 300; true", alive: 3, phase: kill},
		{id: "K10 nohup", command: "nohup sleep 300 >/dev/null 2>&1 & sleep 300", alive: 3, phase: term},
		{id: "K11 env scrub", command: "env -i setsid sh -c 'sleep 300 & sleep 301' & sleep 300", alive: 5, phase: term},
		{id: "K15 pipeline", command: "yes | sleep 300 | cat", alive: 4, phase: term},
		{id: "K16 wide breeder", command: "hostile bomb 12", alive: 10, phase: kill, breeder: true},
		{id: "K16 wide breeder, full", command: "hostile bomb 60", alive: 10, phase: kill, breeder: true, long: true},
		{id: "K21 non-dumpable", command: "hostile nodump; true", alive: 3, phase: term},
		{id: "K22 zombies", command: "hostile zombie 20; true", alive: 2, phase: term},
		{id: "K23 stopped", command: "hostile stopself; true", alive: 2, phase: term},
		{id: "K24 subreaper", command: "hostile subreap; true", alive: 5, phase: term},
		{id: "K26 vfork parent", command: "hostile vforkd; true", alive: 3},
		{id: "K29 su", command: "su nobody -s /bin/sh -c 'setsid sleep 300 & sleep 300'", alive: 3, needs: "su", rootOnly: true},
		{id: "K31 pid namespace", command: "unshare --user --pid --fork sh -c 'sleep 300 & sleep 301'", alive: 4, needs: "unshare"},
		{id: "K33 big memory", command: "hostile bigmem 400; true", alive: 2, phase: term, long: true},
		{id: "K35 ptraced", command: "strace -f -o /dev/null sleep 300", alive: 2, needs: "strace"},
		{id: "K36 many", command: "hostile many 60; true", alive: 62, phase: term},
		{id: "K36 many, full", command: "hostile many 2000; true", alive: 2002, long: true},
	}
}

// everyMode are the shapes that are run without privileges and over SSH outside the
// lab, too.
var everyMode = []string{"K01 plain", "K07 setsid+ignore", "K16 wide breeder", "K21 non-dumpable", "K24 subreaper"}

// TestKillCases: the catalogue's shapes over a transport, with the wrapper dead.
func TestKillCases(t *testing.T) {
	exe := forEverybody(t)
	hostile := filepath.Join(filepath.Dir(exe), "hostile")
	if out, err := exec.Command("go", "build", "-o", hostile, "../../wrapper/testdata/hostile").CombinedOutput(); err != nil {
		t.Fatalf("cannot build hostile: %v: %s", err, out)
	}
	type road struct {
		cred *syscall.Credential
		sh   shell
	}
	modes := map[string]road{"local, wrapper dead, user": {sh: posix}}
	if os.Getuid() == 0 {
		modes = map[string]road{
			"local, wrapper dead, root":    {sh: posix},
			"local, wrapper dead, user":    {cred: nobody, sh: posix},
			"over SSH, wrapper dead, root": {sh: overSSH(t)},
		}
	}
	for mode, by := range modes {
		cred := by.cred
		for _, s := range deadShapes() {
			t.Run(mode+"/"+s.id, func(t *testing.T) {
				lab.Case(t, s.id, mode)
				switch {
				case (cred != nil || by.sh.over != nil) && !lab.KillLab() && !slices.Contains(everyMode, s.id):
					t.Skip("root runs it here: SALTPETER_KILL_LAB=1 runs it in every mode")
				case s.long && !lab.KillLab():
					t.Skip("long: SALTPETER_KILL_LAB=1 runs it")
				case s.rootOnly && (cred != nil || os.Getuid() != 0):
					t.Skip("only root changes users")
				case s.needs != "":
					if _, err := exec.LookPath(s.needs); err != nil {
						t.Skipf("this machine has no %s", s.needs)
					}
					if s.needs == "unshare" && exec.Command("unshare", "--user", "--pid", "--fork", "true").Run() != nil {
						t.Skip("this machine allows no user namespaces")
					}
				}
				if !s.breeder && !s.long {
					t.Parallel()
				}
				s.command = strings.ReplaceAll(s.command, "hostile", hostile)
				killDeadShape(t, s, by.sh, taskOptions{exe: exe, cred: cred, reaper: true})
			})
		}
	}
}

func killDeadShape(t *testing.T, s deadShape, sh shell, o taskOptions) {
	sh.cred = o.cred
	start := filepath.Join(t.TempDir(), "start")
	for d := filepath.Dir(start); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	if s.breeder {
		s.command = "until [ -e " + start + " ]; do sleep .05; done; exec " + s.command
	}
	k := startTask(t, s.command, o)
	if s.breeder {
		limit := limitTask(t, k, 200)
		if err := os.WriteFile(start, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { limit(0); k.sweep() }) // nobody can fork any more
	}
	eventually(t, fmt.Sprintf("%d processes", s.alive), func() bool { return len(k.members()) >= s.alive })
	k.settle()
	k.loseWrapper()
	r := k.request(OpKill)
	r.Grace, r.Hard = patient, patient
	if s.phase != wire.PhaseTerm {
		r.Grace = time.Second
	}
	if s.breeder {
		r.Hard = 5 * time.Second
	}
	began := time.Now()
	res := sh.ask(t, r)
	took := time.Since(began)
	lab.Measured(t, fmt.Sprintf("%s %s  %s  %d processes", res.Outcome, res.Phase, took.Round(time.Millisecond), res.Before))
	if s.breeder {
		k.assertHonest(t, res)
		return
	}
	k.assertGone(res)
	if s.phase != "" && res.Phase != s.phase {
		t.Errorf("phase %q, want %q", res.Phase, s.phase)
	}
}

// settle gives processes that are still becoming what they are to be a moment: a
// signal that meets a shell's child between fork and exec meets the shell's trap.
func (k *task) settle() {
	for range 50 {
		before := len(k.members())
		time.Sleep(20 * time.Millisecond)
		still := len(k.members()) == before
		for _, p := range k.members() {
			still = still && !strings.HasPrefix(p.comm, "launch.test")
		}
		if still {
			return
		}
	}
}

// assertHonest: breeders may outrun a script, but not the truth.
func (k *task) assertHonest(t *testing.T, res ScriptResult) {
	t.Helper()
	alive := 0
	for range 20 {
		alive = max(alive, len(k.members()))
	}
	switch res.Outcome {
	case wire.OutcomeGone:
		if alive > 0 {
			t.Fatalf("LIE: gone, and there live %d: %s", alive, res.Text)
		}
	case wire.OutcomeAlive:
		if alive == 0 {
			t.Fatalf("FALSE ALARM: %s", res.Text)
		}
		lab.Honest(t, fmt.Sprintf("alive, %s, and so says the oracle", res.Reason))
	default:
		t.Errorf("%+v", res)
	}
	k.assertBystander()
}

// limitTask bounds the number of a task's processes. No breeder may run without.
func limitTask(t *testing.T, k *task, n int) (limit func(n int)) {
	t.Helper()
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.SplitSeq(string(mounts), "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || f[2] != "cgroup" || !strings.Contains(","+f[3]+",", ",pids,") {
			continue
		}
		dir, err := os.MkdirTemp(f[1], "sp-pids-")
		if err != nil {
			break
		}
		limit = func(n int) { _ = os.WriteFile(filepath.Join(dir, "pids.max"), []byte(fmt.Sprint(n)), 0) }
		t.Cleanup(func() { eventually(t, "the pids cgroup is empty", func() bool { return os.Remove(dir) == nil }) })
		limit(n)
		if os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(k.id.PID)), 0) == nil {
			return limit
		}
	}
	t.Skip("no pids cgroup v1 here that this test may write: a breeder could take the machine down")
	return nil
}
