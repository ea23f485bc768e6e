package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// killBinary is the program that the kill cases run: this test binary under its
// other name, or, in the lab, where times count, one without the race detector.
func killBinary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755) // another user runs it too
	}
	path := filepath.Join(dir, "saltpeter")
	if lab.KillLab() {
		build := exec.Command("go", "build", "-o", path, "./saltpeter")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("cannot build: %v: %s", err, out)
		}
		return path
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// killRig is one real server with its jobs, and a client.
type killRig struct {
	t           *testing.T
	dir, bin    string
	socket, log string
	cmd         *exec.Cmd
	done        chan struct{}
	client      *api.Client
	flags       []string // more of them, from the next start on
}

const killPatience = 90 * time.Second // a busy machine is no failure

// newKillRig starts a server on job files that say this. RIGDIR in them is the rig's
// folder.
func newKillRig(t *testing.T, binary, jobs string) *killRig {
	t.Helper()
	r := emptyRig(t, binary)
	text := strings.ReplaceAll(jobs, "RIGDIR", r.dir)
	if err := os.WriteFile(filepath.Join(r.dir, "jobs", "jobs.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r.serve()
	return r
}

// emptyRig has no job files yet, and no server that runs.
func emptyRig(t *testing.T, binary string) *killRig {
	t.Helper()
	r := &killRig{t: t, dir: t.TempDir(), done: make(chan struct{})}
	close(r.done)
	for d := r.dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	// A link of its own tells this rig's processes from all others.
	r.bin = filepath.Join(r.dir, "saltpeter")
	if err := os.Link(binary, r.bin); err != nil {
		t.Fatal(err)
	}
	sockets, err := os.MkdirTemp("", "sp") // a socket's path is short by law
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(sockets, 0o755)
	r.socket, r.log = filepath.Join(sockets, "s"), filepath.Join(r.dir, "serve.log")
	if err := os.Mkdir(filepath.Join(r.dir, "jobs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r.client, err = api.NewClient(api.ClientOptions{Addr: "unix://" + r.socket}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.cleanUp()
		r.client.Close()
		os.RemoveAll(sockets)
	})
	return r
}

// yearly is a job that only people start.
func yearly(name, command, more string) string {
	return fmt.Sprintf("%s:\n  schedule: '@yearly'\n  command: |\n    %s\n  %s\n", name,
		strings.ReplaceAll(command, "\n", "\n    "), strings.ReplaceAll(strings.TrimSpace(more), "\n", "\n  "))
}

func (r *killRig) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "GORACE=atexit_sleep_ms=0", "SALTPETER_ADDR=unix://" + r.socket}
}

func (r *killRig) serve() {
	r.t.Helper()
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	r.cmd = exec.Command(r.bin, "serve", "-c", filepath.Join(r.dir, "jobs"), "--state-dir", filepath.Join(r.dir, "state"), "--socket", r.socket, "--machines-port", "0", "--debug")
	r.cmd.Args = append(r.cmd.Args, r.flags...)
	r.cmd.Dir, r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr = r.dir, r.env(), log, log
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	cmd, done := r.cmd, make(chan struct{})
	r.done = done
	go func() { _ = cmd.Wait(); close(done) }()
	r.await("the server answers", func() bool {
		select {
		case <-done:
			r.t.Fatalf("the server ended: %s", r.tail())
		default:
		}
		_, err := r.client.Status(context.Background())
		return err == nil
	})
}

// end ends the server.
func (r *killRig) end(sig syscall.Signal) {
	r.t.Helper()
	_ = r.cmd.Process.Signal(sig)
	select {
	case <-r.done:
	case <-time.After(killPatience):
		_ = r.cmd.Process.Kill()
		<-r.done
		r.t.Errorf("the server did not end: %s", r.tail())
	}
}

// cleanUp ends jobs, wrappers and server, and looks that nothing is left.
func (r *killRig) cleanUp() {
	select {
	case <-r.done:
	default:
		ctx, cancel := context.WithTimeout(context.Background(), killPatience)
		_ = r.client.Kill(ctx, api.KillRequest{Selection: api.Selection{All: true}, Signal: "KILL"}, func(runner.Receipt) error { return nil })
		cancel()
		if !r.t.Failed() {
			for end := time.Now().Add(killPatience); len(r.working()) > 1 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			}
		}
		r.end(syscall.SIGTERM)
	}
	if left := r.ours(); len(left) > 0 {
		r.t.Errorf("left behind: %v", left)
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if r.t.Failed() {
		r.t.Logf("the server's log:\n%s", r.tail())
	}
}

// ours are the living processes of this rig: its own program, and jobs by the
// folder that stands in their environment.
func (r *killRig) ours() []int {
	return living(func(exe, env string) bool {
		return strings.HasPrefix(exe, r.bin) || strings.Contains(env, "\x00KILL_RIG="+r.dir+"\x00")
	})
}

// working are those of ours that do something: not the wrapper that the server keeps
// ready.
func (r *killRig) working() []int {
	return slices.DeleteFunc(r.ours(), awaitsOrder)
}

// awaitsOrder is true of a wrapper that is kept ready: its standard input is still the
// pipe that an order would come by.
func awaitsOrder(pid int) bool {
	argv, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	stdin, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", pid))
	return bytes.Contains(argv, []byte("\x00wrap\x00")) && strings.HasPrefix(stdin, "pipe:")
}

// ofRun are the living processes of one run. Servers that tests run side by side
// may give runs the same name.
func (r *killRig) ofRun(run string) []int {
	return living(func(_, env string) bool {
		return strings.Contains(env, "\x00KILL_RIG="+r.dir+"\x00") && strings.Contains(env, "\x00SP_JOB_INSTANCE="+run+"\x00")
	})
}

func living(is func(exe, env string) bool) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		var pid int
		if n, _ := fmt.Sscan(e.Name(), &pid); n != 1 {
			continue
		}
		exe, _ := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if is(exe, "\x00"+string(env)) && processLives(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func processLives(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := string(stat[bytes.LastIndexByte(stat, ')')+1:])
	return !strings.HasPrefix(rest, " Z") && !strings.HasPrefix(rest, " X")
}

func (r *killRig) tail() string {
	data, _ := os.ReadFile(r.log)
	return string(data[max(0, len(data)-6000):])
}

func (r *killRig) await(what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(killPatience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("never came: %s", what)
		}
	}
}

// start starts a job and returns the run.
func (r *killRig) start(job string) string {
	r.t.Helper()
	run, err := r.client.RunJob(context.Background(), job, api.RunRequest{Force: true})
	if err != nil {
		r.t.Fatal(err)
	}
	return run.ID
}

// up starts a job and waits until each machine's task has printed "up".
func (r *killRig) up(job string) *ledger.Run {
	r.t.Helper()
	id := r.start(job)
	var run *ledger.Run
	r.await(job+" is up", func() bool {
		run = r.run(id)
		for _, t := range run.Tasks {
			if t.Identity == nil || t.Length < 3 {
				return false
			}
		}
		return len(run.Tasks) > 0
	})
	return run
}

func (r *killRig) run(id string) *ledger.Run {
	r.t.Helper()
	run, err := r.client.Run(context.Background(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return run
}

// task is a run's only task.
func (r *killRig) task(run string) ledger.Task {
	r.t.Helper()
	tasks := r.run(run).Tasks
	if len(tasks) != 1 {
		r.t.Fatalf("%s has %d tasks", run, len(tasks))
	}
	return tasks[0]
}

func (r *killRig) awaitState(run string, want ledger.State) ledger.Task {
	r.t.Helper()
	r.await(fmt.Sprintf("%s is %s", run, want), func() bool { return r.task(run).State == want })
	return r.task(run)
}

func (r *killRig) kill(q api.KillRequest) (receipts []runner.Receipt) {
	r.t.Helper()
	receipts, err := r.tryKill(q)
	if err != nil {
		r.t.Fatal(err)
	}
	return receipts
}

func (r *killRig) tryKill(q api.KillRequest) (receipts []runner.Receipt, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	err = r.client.Kill(ctx, q, func(got runner.Receipt) error {
		receipts = append(receipts, got)
		return nil
	})
	return receipts, err
}

// killed kills one run with one task and returns its receipt.
func (r *killRig) killed(run string, change ...func(*api.KillRequest)) runner.Receipt {
	r.t.Helper()
	q := api.KillRequest{Selection: api.Selection{Run: run}}
	for _, f := range change {
		f(&q)
	}
	receipts := r.kill(q)
	if len(receipts) != 1 {
		r.t.Fatalf("receipts %+v", receipts)
	}
	return receipts[0]
}

func grace(d time.Duration) func(*api.KillRequest) {
	return func(q *api.KillRequest) { g := api.Duration(d); q.Grace = &g }
}

func signalled(name string) func(*api.KillRequest) {
	return func(q *api.KillRequest) { q.Signal = name }
}

func noWait(q *api.KillRequest) { q.NoWait = true }

// gone compares a receipt that says so with the processes that are there.
func (r *killRig) gone(got runner.Receipt) {
	r.t.Helper()
	if got.Outcome != wire.OutcomeGone || got.ExitCode == nil || *got.ExitCode != 143 || got.Proof == "" {
		r.t.Errorf("receipt %+v", got)
	}
	if left := r.ofRun(got.Run); got.Outcome == wire.OutcomeGone && len(left) > 0 {
		r.t.Errorf("LIE: %s is gone, but there live %v", got.Run, left)
	}
}

// onlyEnd looks at how a task ended: killed, once.
func (r *killRig) onlyEnd(run string) ledger.Task {
	r.t.Helper()
	task := r.awaitState(run, ledger.Killed)
	if task.ExitCode == nil || *task.ExitCode != 143 || task.Kill == nil {
		r.t.Errorf("end %+v", task)
	}
	data, _ := os.ReadFile(r.log)
	line := fmt.Sprintf("WebSocket: Job completed - %s:%s ", run, task.Machine)
	if n := strings.Count(string(data), line); n > 1 {
		r.t.Errorf("its end was told %d times", n)
	}
	return task
}

// said is what a job has written to a file of the rig's folder.
func (r *killRig) said(name string) string {
	data, _ := os.ReadFile(filepath.Join(r.dir, name))
	return string(data)
}

// cli runs the program as a person would.
func (r *killRig) cli(cred *syscall.Credential, args ...string) (out, errs string, code int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.bin, args...)
	var o, e bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", r.env(), &o, &e
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// audit is the audit log of one target.
func (r *killRig) audit(target string) (found []ledger.AuditEntry) {
	r.t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", r.socket)
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://localhost/api/v1/audit")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var page struct{ Audit []ledger.AuditEntry }
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		r.t.Fatal(err)
	}
	for _, e := range page.Audit {
		if e.Target == target {
			found = append(found, e)
		}
	}
	return found
}

func (r *killRig) wrapper(t ledger.Task, sig syscall.Signal) {
	r.t.Helper()
	if err := syscall.Kill(t.Identity.WrapperPID, sig); err != nil {
		r.t.Fatal(err)
	}
}
