package wrapper

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"saltpeter/wsx/wire"
)

// testStarts: what is prepared at the gate, and what refuses to start.
func testStarts(t *testing.T, l *rigLab, m mode) {
	t.Run("refusals", func(t *testing.T) { t.Parallel(); testRefusals(t, l, m) })
	t.Run("environment", func(t *testing.T) { t.Parallel(); testEnvironment(t, l, m) })
	t.Run("user", func(t *testing.T) { t.Parallel(); testUser(t, l, m) })
	t.Run("lockfile", func(t *testing.T) { t.Parallel(); testLockfile(t, l, m) })
	t.Run("gate", func(t *testing.T) { t.Parallel(); testGate(t, l, m) })
}

func testRefusals(t *testing.T, l *rigLab, m mode) {
	file := filepath.Join(t.TempDir(), "file")
	closed := filepath.Join(t.TempDir(), "closed")
	_ = os.WriteFile(file, nil, 0o600)
	_ = os.Mkdir(closed, 0o700)
	publish(filepath.Dir(file))
	publish(filepath.Dir(closed))
	for _, c := range []struct {
		order wire.Order
		want  string
		skip  bool
	}{
		{order: wire.Order{User: "no-such-user"}, want: "there is no such user on this machine"},
		{order: wire.Order{User: "-x"}, want: "that is no user name"},
		{order: wire.Order{User: "root"}, want: "only root may change users", skip: m.uid == 0},
		{order: wire.Order{Cwd: "/no/such/place"}, want: "cannot start in /no/such/place: no such file or directory"},
		{order: wire.Order{Cwd: file}, want: "not a directory"},
		{order: wire.Order{Cwd: "relative"}, want: "not an absolute path"},
		{order: wire.Order{Cwd: closed, User: "nobody"}, want: "user nobody may not enter it", skip: m.uid != 0},
		{order: wire.Order{Cwd: closed}, want: "may not enter it", skip: m.uid == 0 || os.Geteuid() != 0},
		{order: wire.Order{Lockfile: "/no/such/lock"}, want: "cannot take lockfile /no/such/lock: no such file or directory"},
		{order: wire.Order{Lockfile: "/dev/null"}, want: "not a regular file", skip: m.uid != 0},
		{order: wire.Order{Env: map[string]string{"a=b": ""}}, want: "is no variable"},
		{order: wire.Order{Command: strings.Repeat("x", 200_000)}, want: "128 KiB"},
	} {
		if c.skip {
			continue
		}
		if c.order.Command == "" {
			c.order.Command = "echo ran"
		}
		r := l.launch(t, m, c.order)
		if n := r.wait("refused", "ready"); n.Kind != "refused" || !strings.Contains(n.Error, c.want) {
			t.Errorf("%+v: %s %q, want %q", c.order.Cwd+c.order.User+c.order.Lockfile, n.Kind, n.Error, c.want)
		}
		if r.read() != "" {
			t.Errorf("refused, but it ran: %q", r.read())
		}
		r.stop()
	}
}

func testEnvironment(t *testing.T, l *rigLab, m mode) {
	o := order(`env | sort; ulimit -m; echo "in $(pwd)"; ls -l /proc/self/fd; grep -E '^Sig(Ign|Blk)' /proc/self/status; echo to-stderr >/dev/stderr`)
	o.Cwd, o.Task = "/usr", "cookie-1"
	o.Env = map[string]string{"MINE": "a b\nc", "SP_TASK": "forged", "LANG": "C"}
	r := l.piped().newRig(t, m, o).open()
	r.finish()
	r.printed("to-stderr")
	out := r.read()
	for _, want := range []string{"MINE=a b\n", "\nc\n", "SP_TASK=cookie-1\n", "SP_JOB_NAME=job\n", "SP_JOB_INSTANCE=job_1\n",
		"SP_MACHINE_ID=m1\n", "LANG=C\n", "in /usr\n", "PATH=" + jobPath, "HOME=/", "LOGNAME=", "USER=", "SHELL=/", "to-stderr\n",
		"SigBlk:\t0000000000000000\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q", want)
		}
	}
	// Signals 32 and 33 are the C library's own: its posix_spawn, which make uses,
	// leaves them ignored, and nobody can send or set them by rights.
	const libc = 1<<31 | 1<<32
	_, after, _ := strings.Cut(out, "SigIgn:\t")
	mask, _, _ := strings.Cut(after, "\n")
	if ignored, err := strconv.ParseUint(mask, 16, 64); err != nil || ignored&^libc != 0 {
		t.Errorf("the job was started with signals ignored: %q", mask)
	}
	for _, never := range []string{"SALTPETER_TEST_ROLE", "forged", "SP_COMMAND", "SP_WEBSOCKET_URL"} {
		if strings.Contains(out, never) {
			t.Errorf("output has %q", never)
		}
	}
	if strings.Contains(out, "SP_GATE_LINE_") || strings.Contains(out, " 3 -> pipe") || strings.Contains(out, " 4 -> pipe") {
		t.Errorf("the gate shows:\n%s", out)
	}
	if t.Failed() {
		t.Log(out)
	}
}

func testUser(t *testing.T, l *rigLab, m mode) {
	if m.uid != 0 {
		r := l.newRig(t, m, order("id -u; id -g")).open()
		r.finish()
		if want := fmt.Sprintf("%d\n", m.uid); !strings.HasPrefix(r.read(), want) {
			t.Errorf("output is %q, want %q first", r.read(), want)
		}
		return
	}
	nobody, err := lookupAccount("nobody")
	if err != nil {
		t.Skip(err)
	}
	want, err := exec.Command("id", "-G", "nobody").Output()
	if err != nil {
		t.Skip("this machine has no id")
	}
	o := order("id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL; echo err >/dev/stderr")
	o.User = "nobody"
	r := l.piped().newRig(t, m, o).open()
	if r.start.UID != int(nobody.uid) {
		t.Errorf("identity says uid %d", r.start.UID)
	}
	r.finish()
	r.printed("err\n")
	expect := fmt.Sprintf("%d\n%d\n%s%s nobody nobody %s\nerr\n", nobody.uid, nobody.gid, want, nobody.home, nobody.shell)
	if r.read() != expect {
		t.Errorf("output is %q, want %q", r.read(), expect)
	}
}

func testLockfile(t *testing.T, l *rigLab, m mode) {
	dir := t.TempDir()
	publish(dir)
	_ = os.Chmod(dir, 0o777)
	o := order("sleep 300")
	o.Lockfile = filepath.Join(dir, "lock")
	first := l.newRig(t, m, o).open()
	if text, _ := os.ReadFile(o.Lockfile); string(text) != fmt.Sprint(first.start.PID) {
		t.Errorf("the lockfile says %q, want %d", text, first.start.PID)
	}
	second := l.launch(t, m, o)
	if n := second.wait("refused", "ready"); n.Kind != "refused" || !strings.Contains(n.Error, fmt.Sprintf("process %d holds it", first.start.PID)) {
		t.Errorf("second: %s %q", n.Kind, n.Error)
	}
	// The wrapper's death frees nothing while the job lives; the job's end does,
	// whatever the file says.
	_ = first.cmd.Process.Kill()
	first.until("dead", func() bool { _, ok := <-first.news; return !ok })
	_ = first.cmd.Wait()
	if n := l.launch(t, m, o).wait("refused", "ready"); n.Kind != "refused" {
		t.Errorf("the job lives, and its lock is taken: %s", n.Kind)
	}
	first.destroy()
	first.until("the lock is free", func() bool {
		lock, err := takeLock(o.Lockfile, false)
		lock.release()
		return err == nil
	})
	// What a job has left does not hold it.
	o.Command = "sleep 300 >/dev/null 2>&1 & exit 0"
	third := l.newRig(t, m, o).open()
	third.wait("exited")
	o.Command = "sleep 300"
	fourth := l.newRig(t, m, o).open()
	fourth.send(rigCommand{Op: "kill", Cause: wire.CauseKill})
	fourth.finish()
	third.send(rigCommand{Op: "kill", Cause: wire.CauseKill})
	third.finish()
}

// testGate: a wrapper that dies before the gate opens releases no user code.
func testGate(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order("echo ran"))
	p, ok := newProcReader().stat(r.start.PID)
	if !ok || p.sid != r.start.PID || p.start != r.start.StartTicks {
		t.Fatalf("parked is %+v, identity %+v", p, r.start)
	}
	if m.cgroup != (r.start.Cgroup != "") {
		t.Errorf("cgroup is %q in mode %s, weak: %q", r.start.Cgroup, m.name, r.start.Weak)
	}
	_ = r.cmd.Process.Kill()
	r.until("the parked shell is gone", func() bool {
		p, ok := newProcReader().stat(r.start.PID)
		return !ok || p.start != r.start.StartTicks || !p.alive()
	})
	if r.read() != "" {
		t.Errorf("user code ran: %q", r.read())
	}
}

// A holder that has not told its PID, or not yet, has no name.
func TestLockfileWithoutPID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := takeLock(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer first.release()
	if _, err := takeLock(path, false); err == nil || !strings.Contains(err.Error(), ": another process holds it; ") {
		t.Errorf("the second: %v", err)
	}
}
