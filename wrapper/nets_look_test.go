package wrapper

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// lookCase starts a shell that starts `sleep` and prints both numbers. If it is to
// escape, the shell ends, and the sleeper is somebody else's child.
func lookCase(t *testing.T, escape bool, brand uint64, env ...string) (shellPID, sleeper int) {
	t.Helper()
	script := "sleep 300 >/dev/null & echo $$ $!; "
	if !escape {
		script += "wait"
	}
	cmd := exec.Command("/bin/sh", "-c", "read go; "+script)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"))
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if brand != 0 {
		if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_RSS, &unix.Rlimit{Cur: brand, Max: brand}, nil); err != nil {
			t.Skipf("this user cannot set a brand: %v", err)
		}
	}
	io.WriteString(in, "go\n")
	if _, err := fmt.Fscan(bufio.NewReader(out), &shellPID, &sleeper); err != nil {
		t.Fatal(err)
	}
	if escape {
		_ = cmd.Wait()
	}
	t.Cleanup(func() {
		_ = unix.Kill(sleeper, unix.SIGKILL)
		if !escape {
			_ = cmd.Wait()
		}
	})
	return shellPID, sleeper
}

// TestLook: the cheap look finds whom the dear one finds, and reads nobody who
// carries another task's brand.
func TestLook(t *testing.T) {
	const ours, theirs = brandBit | 4711, brandBit | 4712
	main, ok := newProcReader().stat(os.Getpid())
	if !ok {
		t.Fatal("/proc does not show this process")
	}
	n := newNets(procKey{pid: 1 << 30, start: main.start}, "look-case") // no session: nobody has this number
	n.brand = ours
	nested, inner := lookCase(t, false, theirs)                                // a wrapper's job inside the job
	_, branded := lookCase(t, true, ours)                                      // out of the tree, with our brand
	_, cookie := lookCase(t, true, 0, "SP_TASK=look-case")                     // and with our cookie only
	_, other := lookCase(t, true, theirs)                                      // another task's
	_, marked := lookCase(t, true, wrapperBrand, "SP_TASK=look-case-unlikely") // another wrapper
	for name, find := range map[string]func() []member{"look": n.look, "scan": n.scan} {
		outside := map[int]bool{}
		for _, m := range find() {
			outside[m.pid] = m.outside
		}
		for _, pid := range []int{nested, inner} {
			if out, found := outside[pid]; !found || out {
				t.Errorf("%s: descendant %d found %v, outside %v", name, pid, found, out)
			}
		}
		for _, pid := range []int{branded, cookie} {
			if out, found := outside[pid]; !found || !out {
				t.Errorf("%s: %d found %v, outside %v", name, pid, found, out)
			}
		}
		for _, pid := range []int{other, marked} {
			if _, found := outside[pid]; found {
				t.Errorf("%s: the stranger %d is taken for a member", name, pid)
			}
		}
	}
	n.look()
	read := func(pid int) bool { return slices.ContainsFunc(n.procs, func(p proc) bool { return p.pid == pid }) }
	if read(other) || read(marked) || !read(branded) {
		t.Errorf("looked at another task's process %v, at another wrapper %v, at ours %v", read(other), read(marked), read(branded))
	}
	if !n.escaped {
		t.Error("whoever is out of the tree is no escape")
	}
}

// TestLookAtMany: a tree too large to be walked is found all the same.
func TestLookAtMany(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do sleep 300 & i=$((i+1)); done; echo up; wait", lookTreeMost+10))
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait()
	}()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	n := newNets(procKey{pid: 1 << 30}, "look-many")
	if _, ok := n.family(); ok {
		t.Errorf("a tree of %d was walked", lookTreeMost+11)
	}
	if found := living(n.look()); found < lookTreeMost+11 {
		t.Errorf("found %d of %d", found, lookTreeMost+11)
	}
}
