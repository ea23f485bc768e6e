package launch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// needChildren: the first signal waits for a scan where the kernel names no children.
func needChildren(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid())); err != nil {
		t.Skipf("this kernel does not tell: %v", err)
	}
}

// The first signal reaches the job before any program was run for it, however long
// those take: here they wait for just that.
func TestKillSignalsBeforeItReadsEverything(t *testing.T) {
	lab.Case(t, "first signal", "local, wrapper dead")
	needChildren(t)
	t.Parallel()
	dir := t.TempDir()
	stub := `#!/bin/sh
n=0
until [ -e ` + dir + `/told ]; do
	n=$((n + 1))
	[ $n -lt 600 ] || { : >` + dir + `/late; : >` + dir + `/told; }
	/bin/sleep .05
done
exec `
	for _, name := range []string{"awk", "cat", "find", "grep", "ls", "od", "readlink", "sleep", "tr"} {
		real, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(stub+real+` "$@"`+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	k := startTask(t, `trap ': >`+dir+`/told; exit' TERM; sleep 300 & sleep 301 & wait`, taskOptions{})
	k.awaitMembers(3)
	k.loseWrapper()
	sh := posix
	sh.env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	res := sh.ask(t, k.request(OpKill))
	k.assertGone(res)
	if _, err := os.Stat(dir + "/late"); err == nil {
		t.Error("programs were run before the first signal")
	}
	if res.Before != 3 || res.Acted != 3 || res.Phase != wire.PhaseTerm {
		t.Errorf("before %d, acted %d, phase %s", res.Before, res.Acted, res.Phase)
	}
}

// What took brand and cookie off is known by its place alone: below the main process,
// in its session, or with the wrapper. All of those end with the first signal.
func TestKillKeepsWhomTheDeadLedTo(t *testing.T) {
	const scrubbed = `ulimit -m 4096; exec env -i %s sh -c 'trap "" TERM; echo $$ >%s/pid.new; mv %s/pid.new %s/pid; exec sleep 300'`
	lab.Case(t, "scrubbed below a job that ends", "local")
	shells(t, func(t *testing.T, sh shell) {
		for _, c := range []struct {
			name, around, setsid string
			wrapper              bool
		}{
			{"below the main process", "(%s) & wait; sleep 300", "setsid", false},
			{"in its session", "((%s) &); sleep 300", "", false},
			{"with the wrapper", "trap 'kill -KILL $PPID; exit' TERM; ((%s) &); sleep 300 & wait", "setsid", true},
		} {
			t.Run(c.name, func(t *testing.T) {
				dir := t.TempDir()
				k := startTask(t, fmt.Sprintf(c.around, fmt.Sprintf(scrubbed, c.setsid, dir, dir, dir)), taskOptions{reaper: true})
				var was proc
				eventually(t, "the scrubbed one", func() bool {
					text, _ := os.ReadFile(dir + "/pid")
					pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
					if pid == 0 {
						return false
					}
					was, _ = lookAt(pid)
					return was.comm == "sleep" && (c.setsid == "") == (was.session == k.id.Session) && was.brand != k.id.Brand
				})
				alive := func() bool {
					p, ok := lookAt(was.pid)
					return ok && p.alive() && p.start == was.start
				}
				t.Cleanup(func() {
					if alive() {
						_ = exec.Command("kill", "-KILL", strconv.Itoa(was.pid)).Run()
					}
				})
				if !c.wrapper {
					k.loseWrapper()
				}
				r := k.request(OpKill)
				r.Grace = 300 * time.Millisecond
				res := sh.ask(t, r)
				if alive() {
					t.Fatalf("LIE: %s", res.Text)
				}
				k.assertGone(res)
				if res.Phase != wire.PhaseKill {
					t.Errorf("phase %s of one that is deaf", res.Phase)
				}
			})
		}
	})
}

// Whoever gets the first signal early does not get it again, and who left the tree
// before gets it too.
func TestKillTellsEachOnce(t *testing.T) {
	lab.Case(t, "TERM once", "local, wrapper dead")
	shells(t, func(t *testing.T, sh shell) {
		t.Parallel()
		dir := t.TempDir()
		counts := func(name string) string {
			return "trap 'echo told >>" + dir + "/" + name + "' TERM; while [ ! -e " + dir + "/stop ]; do sleep .02; done"
		}
		k := startTask(t, "(setsid sh -c \""+counts("orphan")+"\" &); sh -c \""+counts("child")+"\" & "+counts("main"), taskOptions{})
		t.Cleanup(func() { os.WriteFile(dir+"/stop", nil, 0o644) })
		eventually(t, "three shells", func() bool {
			n := 0
			for _, p := range k.members() {
				if p.comm == "sh" {
					n++
				}
			}
			return n == 3
		})
		k.settleFor("sleep", 3)
		k.loseWrapper()
		r := k.request(OpKill)
		r.Grace = 700 * time.Millisecond
		k.assertGone(sh.ask(t, r))
		for _, name := range []string{"main", "child", "orphan"} {
			if text, _ := os.ReadFile(dir + "/" + name); string(text) != "told\n" {
				t.Errorf("%s was told %d times", name, strings.Count(string(text), "\n"))
			}
		}
	})
}

// settleFor waits until so many of the task's processes are called that.
func (k *task) settleFor(comm string, count int) {
	k.t.Helper()
	eventually(k.t, fmt.Sprintf("%d times %s", count, comm), func() bool {
		n := 0
		for _, p := range k.members() {
			if p.comm == comm {
				n++
			}
		}
		return n >= count
	})
}

// A job may ask for its own end: what asks, and all that it runs in, is left alone.
func TestKillFromBelow(t *testing.T) {
	lab.Case(t, "asked for by the job itself", "local, wrapper alive")
	shells(t, func(t *testing.T, sh shell) {
		if sh.over != nil {
			t.Skip("that login is below sshd")
		}
		dir := t.TempDir()
		line := ""
		for _, arg := range append(append([]string{"env"}, sh.env...), sh.argv...) {
			line += shellQuote(arg) + " "
		}
		k := startTask(t, "sleep 300 & until [ -e "+dir+"/script ]; do sleep .02; done; "+line+"<"+dir+"/script >"+dir+"/out.new; mv "+dir+"/out.new "+dir+"/out; exec sleep 301", taskOptions{})
		k.settleFor("sleep", 2)
		r := k.request(OpKill)
		r.Grace, r.Hard = 200*time.Millisecond, 200*time.Millisecond
		script, _, err := assemble(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/script.new", script, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+"/script.new", dir+"/script"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "an answer", func() bool { _, err := os.Stat(dir + "/out"); return err == nil })
		p, ok := lookAt(k.id.PID)
		if !ok || !p.alive() {
			t.Fatal("the one who asked was killed")
		}
		eventually(t, "the others gone", func() bool { return len(k.members()) == 1 })
		if p, ok := lookAt(k.wrapperPID()); !ok || !p.alive() {
			t.Error("the wrapper was killed")
		}
		k.assertBystander()
	})
}
