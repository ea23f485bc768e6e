package launch

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
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

// patient is the deadline for things that happen at once on an idle machine.
const patient = 30 * time.Second

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patient); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// shells are the ones that kill.sh has to run under.
func shells(t *testing.T, test func(t *testing.T, sh shell)) {
	for _, s := range []shell{
		{name: "sh", argv: []string{"/bin/sh", "-s"}},
		{name: "bash", argv: []string{"bash", "--posix", "-s"}},
		{name: "busybox"},
		{name: "noawk", argv: []string{"/bin/sh", "-s"}, env: []string{"SP_NOAWK=1"}},
		{name: "ssh"},
	} {
		t.Run(s.name, func(t *testing.T) {
			switch s.name {
			case "busybox":
				s = busyboxOnly(t)
			case "ssh":
				test(t, overSSH(t))
				return
			}
			if _, err := exec.LookPath(s.argv[0]); err != nil {
				t.Skipf("no %s here", s.name)
			}
			test(t, s)
		})
	}
}

// busyboxOnly is a machine that has nothing but busybox: its shell and its grep,
// awk, sleep and so on.
func busyboxOnly(t *testing.T) shell {
	path := lab.Busybox(t)
	dir := t.TempDir()
	for _, applet := range []string{"cat", "grep", "awk", "sleep", "tr", "od", "find", "readlink", "ls", "printf", "echo", "kill"} {
		if err := os.Symlink(path, filepath.Join(dir, applet)); err != nil {
			t.Fatal(err)
		}
	}
	return shell{name: "busybox", argv: []string{path, "sh", "-s"}, env: []string{"PATH=" + dir}}
}

// shell runs kill.sh as a transport would, under any shell and credentials.
type shell struct {
	name string
	argv []string
	env  []string
	cred *syscall.Credential
	over Transport // instead of all these: the road that a server takes
	on   Machine
}

// overSSH is a login to this machine: what is to be killed was started beside it, and
// nothing but the script's text goes there.
func overSSH(t *testing.T) shell {
	t.Helper()
	d := lab.SSHD(t, lab.SSHDOptions{Config: []string{"MaxStartups 100"}})
	tr := NewSSH(SSHOptions{Client: sshClient(t, d), Executable: self(t)})
	t.Cleanup(func() { tr.Close() })
	return shell{name: "ssh", over: tr, on: Machine{Name: "there", Transport: "ssh", SSH: login(d)}}
}

func (s shell) ask(t testing.TB, r ScriptRequest) ScriptResult {
	t.Helper()
	res, err := s.try(r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (s shell) try(r ScriptRequest) (ScriptResult, error) {
	if s.over != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience(r))
		defer cancel()
		return s.over.Script(ctx, s.on, r)
	}
	script, mark, err := assemble(r)
	if err != nil {
		return ScriptResult{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience(r))
	defer cancel()
	cmd := exec.CommandContext(ctx, s.argv[0], s.argv[1:]...)
	cmd.Env = append(environment(), s.env...)
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.cred}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return ScriptResult{}, fmt.Errorf("%w: %s %s", err, out.String(), errs.String())
	}
	line, err := readAnswer(&out, mark, nil)
	if err != nil {
		return ScriptResult{}, fmt.Errorf("%w: %s", err, errs.String())
	}
	return parseAnswer(line, mark, r)
}

// task is a job under test, with everybody who ever belonged to it.
type task struct {
	t       testing.TB
	id      wire.Identity
	run     string
	wrapper *os.Process
	// bystanders of the same user, started before: none may be touched.
	bystander proc
}

type taskOptions struct {
	noBrand bool
	cred    *syscall.Credential
	exe     string // "" = this program
	run     string
	reaper  bool // orphans of the job fall to a process that collects them
}

func newBrand() string {
	var b [8]byte
	rand.Read(b[:])
	return strconv.FormatUint(binary.BigEndian.Uint64(b[:])>>3|1<<62, 10)
}

// startTask starts a fake wrapper with a command.
func startTask(t testing.TB, command string, o taskOptions) *task {
	t.Helper()
	by := exec.Command("sleep", "9999")
	by.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: o.cred}
	if err := by.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { by.Process.Kill(); by.Wait() })
	bystander, _ := lookAt(by.Process.Pid)

	run := o.run
	if run == "" {
		run = fmt.Sprintf("job_%d", time.Now().UnixNano())
	}
	order := wire.Order{Job: "job", Run: run, Task: rand.Text(), Command: command, SpoolDir: t.TempDir(), Env: map[string]string{}}
	if !o.noBrand {
		order.Env["BRAND"] = newBrand()
	}
	if o.cred != nil {
		for dir := order.SpoolDir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}
	}
	text, err := order.Encode()
	if err != nil {
		t.Fatal(err)
	}
	exe := o.exe
	if exe == "" {
		if exe, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"wrap", "--foreground"}
	if o.reaper {
		args = append([]string{"reap"}, args...)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = environment()
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(text)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: o.cred}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	task := &task{t: t, run: run, wrapper: cmd.Process, bystander: bystander}
	t.Cleanup(func() {
		task.wrapper.Kill()
		if o.reaper {
			task.sweep() // it ends when all have
		}
		cmd.Process.Kill()
		cmd.Wait()
		task.sweep()
	})
	_, id, err := readHandshake(out)
	if err != nil {
		t.Fatal(err)
	}
	task.id = *id
	if o.reaper {
		if task.wrapper, err = os.FindProcess(id.WrapperPID); err != nil {
			t.Fatal(err)
		}
	}
	return task
}

// members are the living processes of the task as the oracle sees them: by brand
// or cookie, but never the wrapper.
func (k *task) members() []proc {
	var found []proc
	for _, p := range everybody() {
		if !p.alive() || p.pid == k.wrapperPID() {
			continue
		}
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
		if k.id.Brand != "" && p.brand == k.id.Brand || slices.Contains(strings.Split(string(env), "\x00"), "SP_TASK="+k.id.Task) {
			found = append(found, p)
		}
	}
	return found
}

// awaitMembers waits until the task has grown to that many processes that have
// become what they are to be.
func (k *task) awaitMembers(n int) {
	k.t.Helper()
	eventually(k.t, fmt.Sprintf("%d processes", n), func() bool { return len(k.members()) == n })
	eventually(k.t, "all executed", func() bool {
		for _, p := range k.members() {
			if strings.HasPrefix(p.comm, "launch.test") {
				return false
			}
		}
		return true
	})
}

func (k *task) wrapperPID() int {
	if k.wrapper == nil {
		return 0 // it never said who it is
	}
	return k.wrapper.Pid
}

func (k *task) loseWrapper() {
	k.wrapper.Kill()
	eventually(k.t, "wrapper gone", func() bool {
		p, ok := lookAt(k.wrapper.Pid)
		return !ok || !p.alive()
	})
}

// sweep ends what a failed test left.
func (k *task) sweep() {
	for range 200 {
		left := k.members()
		if len(left) == 0 {
			return
		}
		for _, p := range left {
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (k *task) request(op Op) ScriptRequest {
	id := k.id
	return ScriptRequest{Op: op, Run: k.run, Task: id.Task, Identity: &id, Grace: time.Second, Hard: 5 * time.Second}
}

// assertGone compares what kill.sh says with what the oracle sees.
func (k *task) assertGone(res ScriptResult) {
	k.t.Helper()
	if left := k.members(); len(left) > 0 {
		k.t.Fatalf("LIE: %q, but alive: %+v\n%s", res.Outcome, left, res.Text)
	}
	if res.Outcome != wire.OutcomeGone || res.Proof != wire.ProofScan {
		k.t.Fatalf("FALSE ALARM: outcome %q, reason %q, proof %q, left %+v", res.Outcome, res.Reason, res.Proof, res.Left)
	}
	k.assertBystander()
}

func (k *task) assertBystander() {
	k.t.Helper()
	p, ok := lookAt(k.bystander.pid)
	if !ok || !p.alive() || p.start != k.bystander.start || p.state == "T" {
		k.t.Fatalf("the bystander was touched: %+v", p)
	}
}
