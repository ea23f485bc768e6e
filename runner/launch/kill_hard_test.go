package launch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to act as another user")
	}
}

// S02: without privileges one's own are ended, the others are named.
func TestKillUnprivileged(t *testing.T) {
	lab.Case(t, "S02 unprivileged login", "local")
	needRoot(t)
	exe := forEverybody(t)
	shells(t, func(t *testing.T, sh shell) {
		if sh.over != nil {
			t.Skip("this login is root's")
		}
		sh.cred = nobody
		k := startTask(t, "setsid sleep 300 & sleep 300", taskOptions{cred: nobody, exe: exe})
		k.awaitMembers(3)
		root := exec.Command(exe, "branded", k.id.Brand, "exec sleep 300")
		root.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := root.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { root.Process.Kill(); root.Wait() })
		k.awaitMembers(4)
		r := k.request(OpKill)
		r.Grace, r.Hard = 300*time.Millisecond, patient // refused is known at once: the limit is not waited for
		began := time.Now()
		res := sh.ask(t, r)
		if res.Outcome != wire.OutcomeAlive || res.Reason != wire.ReasonEPERM || res.Alive != 1 || len(res.Left) != 1 ||
			res.Left[0].PID != root.Process.Pid || res.Left[0].Reason != wire.ReasonEPERM || res.Left[0].Command != "sleep" {
			t.Errorf("%+v", res)
		}
		if took := time.Since(began); took > patient/2 {
			t.Errorf("it took %s", took)
		}
		if left := k.members(); len(left) != 1 || left[0].pid != root.Process.Pid {
			t.Errorf("alive: %+v", left)
		}
		k.assertBystander()
	})
}

// S16: who cannot see others cannot say that nobody is left.
func TestKillBehindHidepid(t *testing.T) {
	lab.Case(t, "S16 hidepid", "local")
	needRoot(t)
	k := startTask(t, "setsid sleep 300 & sleep 300", taskOptions{cred: nobody, exe: forEverybody(t)})
	k.awaitMembers(3)
	// A fresh proc: to remount the present one would change it for the whole machine.
	before, _ := os.ReadFile("/proc/self/mounts")
	defer func() {
		if after, _ := os.ReadFile("/proc/self/mounts"); string(after) != string(before) {
			t.Errorf("the machine's mounts have changed:\n%s", after)
		}
	}()
	sh := posix
	sh.argv = []string{"unshare", "--mount", "--propagation", "private", "sh", "-c",
		"mount -t proc -o hidepid=2 saltpeter-test /proc || exit 9; exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -s"}
	res, err := sh.try(k.request(OpKill))
	if err != nil {
		t.Skipf("no mount namespace with hidepid here: %v", err)
	}
	lab.Honest(t, "unknown, partial: never called gone")
	if res.Outcome != wire.OutcomeUnknown || res.Reason != ReasonPartial || !res.Partial || res.Proof != "" {
		t.Errorf("%+v", res)
	}
	if left := k.members(); len(left) > 0 {
		t.Errorf("alive: %+v", left)
	}
}

// S17: a machine full of strangers.
func TestKillAmongStrangers(t *testing.T) {
	lab.Case(t, "S17 many strangers", "local")
	n, limit := 600, patient
	if lab.KillLab() {
		n, limit = 5000, 5*time.Second
	}
	crowd := exec.Command("sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do sleep 9999 & i=$((i+1)); done; echo all; wait", n))
	crowd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := crowd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := crowd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { syscall.Kill(-crowd.Process.Pid, syscall.SIGKILL); crowd.Wait() }()
	if _, err := out.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	k := startTask(t, "setsid sleep 300 & sleep 300", taskOptions{})
	k.awaitMembers(3)
	k.loseWrapper()
	began := time.Now()
	k.assertGone(posix.ask(t, k.request(OpKill)))
	took := time.Since(began)
	t.Logf("%d strangers: %s", n, took)
	if took > limit {
		t.Errorf("it took %s", took)
	}
	if left := len(childrenOf(crowd.Process.Pid)); left != n {
		t.Errorf("%d of %d strangers live", left, n)
	}
}

// A chain of processes, each of which starts the next and ends, runs ahead of
// the scans. It may be caught or not; what is said of it must be true.
func TestKillForkChain(t *testing.T) {
	lab.Case(t, "fork chain", "local")
	dir := t.TempDir()
	link := dir + "/link"
	stop := dir + "/stop"
	text := "#!/bin/sh\n[ -e " + stop + " ] && exit\n/bin/sh " + link + " &\n"
	if err := os.WriteFile(link, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(stop, nil, 0o644) })
	k := startTask(t, "trap '' TERM; env -i setsid /bin/sh "+link+" & sleep 300", taskOptions{})
	eventually(t, "the chain to run", func() bool { return len(k.members()) >= 2 })
	k.loseWrapper()
	r := k.request(OpKill)
	r.Grace, r.Hard = 200*time.Millisecond, time.Second
	res := posix.ask(t, r)
	alive := false
	for range 200 { // the oracle has the same difficulty
		alive = alive || len(k.members()) > 0
	}
	switch res.Outcome {
	case wire.OutcomeGone:
		if alive {
			t.Fatalf("LIE: %s", res.Text)
		}
	case wire.OutcomeAlive:
		if res.Reason != ReasonBreeding && len(res.Left) == 0 || res.Alive == 0 {
			t.Errorf("alive without a word who: %+v", res)
		}
		// A link that is still "pending" was struck at the script's last look, and
		// may have been the one that the chain hung by.
		if !alive && !slices.ContainsFunc(res.Left, func(p wire.Process) bool { return p.Reason == wire.ReasonPending }) {
			t.Errorf("FALSE ALARM: %s", res.Text)
		}
		lab.Honest(t, "alive, "+res.Reason+", and so says the oracle")
	default:
		t.Errorf("%+v", res)
	}
	t.Logf("outcome %s %s", res.Outcome, res.Reason)
}

// A cgroup of the task's own is one more net, a brake, and a proof.
func TestKillWithCgroup(t *testing.T) {
	lab.Case(t, "cgroup over the script", "local")
	shells(t, func(t *testing.T, sh shell) {
		dir := testCgroup(t)
		k := startTask(t, "trap '' TERM; setsid sleep 300 & sleep 300; sleep 300", taskOptions{})
		k.awaitMembers(3)
		k.loseWrapper()
		for _, p := range k.members() {
			if err := os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(p.pid)), 0); err != nil {
				t.Skipf("cannot move a process: %v", err)
			}
		}
		k.id.Cgroup = dir
		res := sh.ask(t, k.request(OpPause))
		if res.Outcome != wire.OutcomeAlive || res.Reason != "" || res.Acted != 3 {
			t.Fatalf("pause: %+v", res)
		}
		if events, _ := os.ReadFile(dir + "/cgroup.events"); !strings.Contains(string(events), "frozen 1") {
			t.Fatalf("not frozen: %s", events)
		}
		res = sh.ask(t, k.request(OpResume))
		if events, _ := os.ReadFile(dir + "/cgroup.events"); !strings.Contains(string(events), "frozen 0") || res.Acted != 3 {
			t.Fatalf("still frozen: %s %+v", events, res)
		}
		sh.ask(t, k.request(OpPause))
		r := k.request(OpKill)
		r.Grace = 300 * time.Millisecond
		res = sh.ask(t, r)
		if res.Outcome != wire.OutcomeGone || res.Proof != wire.ProofCgroup || res.Phase != wire.PhaseKill || len(k.members()) > 0 {
			t.Errorf("%+v, alive %+v", res, k.members())
		}
		k.assertBystander()
	})
}

// A cgroup that holds us, or the wrapper, is not the task's own whatever a
// record says: it is neither frozen nor killed.
func TestKillForeignCgroup(t *testing.T) {
	lab.Case(t, "foreign cgroup", "local")
	dir := testCgroup(t)
	k := startTask(t, "sleep 300 & sleep 300", taskOptions{})
	k.awaitMembers(3)
	if err := os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(k.wrapper.Pid)), 0); err != nil {
		t.Skipf("cannot move a process: %v", err)
	}
	if err := os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(k.bystander.pid)), 0); err != nil {
		t.Fatal(err)
	}
	k.id.Cgroup = dir
	k.assertGone(posix.ask(t, k.request(OpKill)))
}

// testCgroup makes a cgroup v2 and removes it again.
func testCgroup(t *testing.T) string {
	t.Helper()
	needRoot(t)
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		dir, err := os.MkdirTemp(root, "saltpeter-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			eventually(t, "the cgroup to be empty", func() bool {
				pids, _ := os.ReadFile(dir + "/cgroup.procs")
				for _, pid := range bytes.Fields(pids) {
					os.WriteFile(root+"/cgroup.procs", pid, 0)
				}
				err := os.Remove(dir)
				return err == nil || errors.Is(err, os.ErrNotExist)
			})
		})
		if _, err := os.Stat(dir + "/cgroup.kill"); err == nil {
			return dir
		}
	}
	t.Skip("no writable cgroup v2 here")
	return ""
}

// The script is cut at any point: nothing is carried out, nothing answered.
func TestScriptCutShort(t *testing.T) {
	t.Parallel()
	k := startTask(t, "sleep 300 & sleep 300", taskOptions{})
	k.awaitMembers(3)
	r := k.request(OpKill)
	r.Signal = "KILL"
	script, mark, err := assemble(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{10, 300, len(script) / 2, len(script) - len("k_all </dev/null 2>/dev/null\n"), len(script) - 35} {
		cmd := exec.Command("/bin/sh", "-s")
		cmd.Stdin = bytes.NewReader(script[:cut])
		out, _ := cmd.Output()
		if strings.Contains(string(out), mark) || len(k.members()) != 3 {
			t.Errorf("cut at %d of %d: it acted: %s", cut, len(script), out)
		}
	}
}

// forEverybody is this test program where other users can execute it.
func forEverybody(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "saltpeter-launch-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "launch.test")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// R16 for the script: it asks nobody for the wall clock, and its grace is as long
// as it should be by another clock.
func TestKillByUptimeOnly(t *testing.T) {
	lab.Case(t, "R16 clock jump", "kill.sh")
	t.Parallel()
	dir := t.TempDir()
	marker := dir + "/asked"
	stub := "#!/bin/sh\n: >" + marker + "\necho 0\n"
	for _, name := range []string{"date", "hwclock", "stat"} {
		if err := os.WriteFile(dir+"/"+name, []byte(stub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, env := range []string{"SP_NOAWK=1", "SP_NOAWK="} {
		k := startTask(t, "trap '' TERM; sleep 300 & wait; wait", taskOptions{})
		k.awaitMembers(2)
		k.loseWrapper()
		sh := posix
		sh.env = []string{env, "PATH=" + dir + ":" + os.Getenv("PATH")}
		q := k.request(OpKill)
		q.Grace = time.Second
		began := time.Now()
		k.assertGone(sh.ask(t, q))
		if took := time.Since(began); took < q.Grace {
			t.Errorf("gone after %s, the grace is %s", took, q.Grace)
		}
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("the script asked for the wall clock")
	}
}
