package wrapper

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// The engine is one to a process (it reaps every child), so each case runs it in
// a re-executed test binary and talks to it in lines of JSON.

type rigCommand struct {
	Op     string      `json:"op"` // start, open, kill, signal, pause, resume, close
	Order  *wire.Order `json:"order,omitempty"`
	Output string      `json:"output,omitempty"` // file for the job's output
	Pipe   bool        `json:"pipe,omitempty"`   // through a pipe, as in life: it ends with the wrapper
	ID     string      `json:"id,omitempty"`
	Cause  string      `json:"cause,omitempty"`
	Signal string      `json:"signal,omitempty"`
	Scope  string      `json:"scope,omitempty"`
	Grace  *float64    `json:"grace,omitempty"`
	TTL    float64     `json:"ttl,omitempty"`
}

type rigNews struct {
	Kind     string         `json:"kind"` // ready, refused, exited, report, leftover, gone, answer, closed
	ID       string         `json:"id,omitempty"`
	Error    string         `json:"error,omitempty"`
	Identity *wire.Identity `json:"identity,omitempty"`
	Report   wire.Report    `json:"report"`
	End      wire.End       `json:"end"`
}

func init() {
	if os.Getenv("SALTPETER_TEST_ROLE") == "engine" {
		os.Exit(rigMain())
	}
}

// rigMain is the re-executed side.
func rigMain() int {
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	tell := func(n rigNews) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(n)
	}
	var e *engine
	in := json.NewDecoder(os.Stdin)
	finished := make(chan struct{})
	for {
		var c rigCommand
		if err := in.Decode(&c); err != nil {
			return 0 // the test is over
		}
		switch c.Op {
		case "start":
			var err error
			if e, err = rigStart(c); err != nil {
				tell(rigNews{Kind: "refused", Error: err.Error()})
				return 0
			}
			id := e.Identity()
			tell(rigNews{Kind: "ready", Identity: &id})
			go func() {
				names := map[eventKind]string{eventExited: "exited", eventReport: "report", eventLeftover: "leftover", eventGone: "gone"}
				for ev := range e.Events() {
					tell(rigNews{Kind: names[ev.Kind], ID: ev.ID, Report: ev.Report, End: ev.End})
				}
				tell(rigNews{Kind: "closed"})
				close(finished)
			}()
		case "open":
			e.Open()
		case "kill":
			r := killRequest{ID: c.ID, Cause: c.Cause, Signal: c.Signal}
			if c.Grace != nil {
				d := time.Duration(*c.Grace * float64(time.Second))
				r.Grace = &d
			}
			e.Kill(r)
		case "signal":
			tell(rigNews{Kind: "answer", ID: c.ID, Report: e.Signal(c.ID, c.Signal, c.Scope)})
		case "pause":
			tell(rigNews{Kind: "answer", ID: c.ID, Report: e.Pause(c.ID, time.Duration(c.TTL*float64(time.Second)))})
		case "resume":
			tell(rigNews{Kind: "answer", ID: c.ID, Report: e.Resume(c.ID)})
		case "close":
			<-finished
			e.Close(context.Background())
			return 0
		}
	}
}

func rigStart(c rigCommand) (*engine, error) {
	f, err := os.OpenFile(c.Output, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	if c.Pipe {
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		go func(to *os.File) { _, _ = io.Copy(to, read) }(f)
		f = write
	}
	return prepare(engineOptions{Order: c.Order, Stdout: f, Stderr: f, Debugf: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}})
}

// --- the test's side ---

// mode is a way to run the engine.
type mode struct {
	name   string
	uid    int  // 0: as root
	cgroup bool // the wrapper can make a cgroup
}

const strangerUID = 61234 // nobody's, so that its processes are only ours

func modes(t *testing.T) []mode {
	if os.Geteuid() != 0 {
		t.Log("not root: only the mode of an unprivileged wrapper, without a referee")
		return []mode{{name: "user", uid: os.Geteuid()}}
	}
	all := []mode{{name: "root", uid: 0}, {name: "user", uid: strangerUID}}
	if refereeRoot() == "" {
		t.Log("no writable cgroup v2: no referee, and no mode with a cgroup")
		return all
	}
	return append([]mode{{name: "root+cgroup", uid: 0, cgroup: true}}, all...)
}

// rigLab is what all cases share: a copy of this binary and the hostile program,
// where every user may run them.
type rigLab struct {
	dir, self, hostile string
	pipe               bool
	via                func(name string) *exec.Cmd // how self is run; nil: as a child of this user or another
}

// piped is the rigLab with the job's output through a pipe.
func (l rigLab) piped() *rigLab { l.pipe = true; return &l }

func buildLab(t *testing.T) *rigLab {
	t.Helper()
	dir := t.TempDir()
	l := &rigLab{dir: dir, self: filepath.Join(dir, "self"), hostile: filepath.Join(dir, "hostile")}
	publish(dir)
	if out, err := exec.Command("go", "build", "-o", l.hostile, "./testdata/hostile").CombinedOutput(); err != nil {
		t.Fatalf("cannot build hostile: %v: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.self, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

// publish lets every user reach a directory of a test.
func publish(dir string) {
	for ; strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755)
	}
}

// rig is one engine in a process of its own.
type rig struct {
	t       *testing.T
	mode    mode
	cmd     *exec.Cmd
	in      *json.Encoder
	stdin   io.Closer
	news    chan rigNews
	referee *referee
	output  string
	limits  string // its pids cgroup
	start   wire.Identity
	opened  time.Time
	ends    []rigNews // everything of kind exited and gone
}

const rigPatience = 60 * time.Second // a busy machine is no failure

func (l *rigLab) newRig(t *testing.T, m mode, order wire.Order) *rig {
	t.Helper()
	r := l.launch(t, m, order)
	n := r.wait("ready")
	r.start = *n.Identity
	return r
}

// launch starts a wrapper and gives it its order.
func (l *rigLab) launch(t *testing.T, m mode, order wire.Order) *rig {
	t.Helper()
	r := &rig{t: t, mode: m, news: make(chan rigNews, 1000)}
	dir := t.TempDir()
	publish(dir)
	r.output = filepath.Join(dir, "output")
	if err := os.WriteFile(r.output, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(r.output, 0o666)
	r.cmd = exec.Command(l.self)
	if l.via != nil {
		r.cmd = l.via(l.self)
	}
	r.cmd.Dir = "/"
	r.cmd.Env = []string{"SALTPETER_TEST_ROLE=engine", "GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH")}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 && m.uid != 0 && l.via == nil {
		r.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(m.uid), Gid: uint32(m.uid)}
	}
	if testing.Verbose() {
		r.cmd.Stderr = os.Stderr
	}
	r.referee = newReferee(t, m.cgroup)
	if r.referee != nil {
		r.cmd.SysProcAttr.UseCgroupFD = true
		r.cmd.SysProcAttr.CgroupFD = int(r.referee.dir.Fd())
	}
	stdin, err := r.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.in, r.stdin = json.NewEncoder(stdin), stdin
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(r.news)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 1<<22)
		for lines.Scan() {
			var n rigNews
			if json.Unmarshal(lines.Bytes(), &n) == nil {
				r.news <- n
			}
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		_ = r.cmd.Process.Kill()
		<-read
		_ = r.cmd.Wait()
		r.referee.clear()
		for i := 0; r.limits != "" && i < 5000 && os.Remove(r.limits) != nil; i++ {
			time.Sleep(2 * time.Millisecond) // zombies leave it when init has reaped them
		}
	})
	if order.Job == "" {
		order.Job, order.Run, order.Machine = "job", "job_1", "m1"
	}
	if order.Task == "" {
		order.Task = fmt.Sprintf("t%d-%d", os.Getpid(), time.Now().UnixNano())
	}
	order.Command = strings.ReplaceAll(order.Command, "hostile", l.hostile)
	r.send(rigCommand{Op: "start", Order: &order, Output: r.output, Pipe: l.pipe})
	return r
}

func (r *rig) send(c rigCommand) {
	r.t.Helper()
	if err := r.in.Encode(c); err != nil {
		r.t.Fatalf("cannot reach the engine: %v", err)
	}
}

func (r *rig) open() *rig {
	r.opened = time.Now()
	r.send(rigCommand{Op: "open"})
	return r
}

// wait returns the next news of a kind, keeping ends that come before it.
func (r *rig) wait(kinds ...string) rigNews {
	r.t.Helper()
	timeout := time.After(rigPatience)
	for {
		select {
		case n, ok := <-r.news:
			if !ok {
				r.t.Fatalf("the engine ended while %v was awaited", kinds)
			}
			if n.Kind == "exited" || n.Kind == "gone" {
				r.ends = append(r.ends, n)
			}
			if n.Kind == "gone" {
				r.judge()
			}
			if slices.Contains(kinds, n.Kind) {
				return n
			}
		case <-timeout:
			r.t.Fatalf("no %v within %s; in the referee's cgroup: %v", kinds, rigPatience, r.referee.living(r.cmd.Process.Pid))
		}
	}
}

// judge is the oracle: after "gone" nobody may live.
func (r *rig) judge() {
	r.t.Helper()
	if left := r.referee.living(r.cmd.Process.Pid); len(left) > 0 {
		r.t.Errorf("LIE: the engine says gone, but there live %v", left)
	}
}

// finish waits for the engine's last word and checks that there was one end.
func (r *rig) finish() (exited, gone wire.End) {
	r.t.Helper()
	r.wait("closed")
	if len(r.ends) != 2 || r.ends[0].Kind != "exited" || r.ends[1].Kind != "gone" {
		r.t.Fatalf("ends are %+v, want one exited and one gone", r.ends)
	}
	return r.ends[0].End, r.ends[1].End
}

// until waits for a condition of the outside world.
func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(rigPatience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("never: %s", what)
		}
	}
}

// printed waits until the job has printed a text.
func (r *rig) printed(text string) {
	r.t.Helper()
	r.until("output has "+text, func() bool { return strings.Contains(r.read(), text) })
}

func (r *rig) read() string {
	b, _ := os.ReadFile(r.output)
	return string(b)
}

// population waits until as many processes live beside the wrapper. Without a
// referee it can't know, and gives them time.
func (r *rig) population(n int) {
	r.t.Helper()
	if r.referee == nil {
		time.Sleep(500 * time.Millisecond)
		return
	}
	r.until(fmt.Sprintf("%d processes", n), func() bool { return len(r.referee.living(r.cmd.Process.Pid)) >= n })
	// A signal that meets a shell's child between fork and exec is lost with the
	// shell's traps: wait, within reason, until all have become what they will be.
	for range 20 {
		before := r.referee.living(r.cmd.Process.Pid)
		time.Sleep(20 * time.Millisecond)
		if slices.Equal(before, r.referee.living(r.cmd.Process.Pid)) {
			return
		}
	}
}

// limitProcesses bounds how many processes wrapper and job may have.
func (r *rig) limitProcesses(n int) bool {
	mountinfo, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.SplitSeq(string(mountinfo), "\n") {
		m, ok := parseMount(line)
		if !ok || m.fstype != "cgroup" || !strings.Contains(","+m.super+",", ",pids,") {
			continue
		}
		dir, err := os.MkdirTemp(m.point, "sp-pids-")
		if err != nil {
			break
		}
		r.limits = dir
		write := func(file string, v int) bool {
			return os.WriteFile(filepath.Join(dir, file), []byte(fmt.Sprint(v)), 0) == nil
		}
		return write("pids.max", n) && write("cgroup.procs", r.cmd.Process.Pid) && write("cgroup.procs", r.start.PID)
	}
	if r.mode.uid == 0 {
		return false
	}
	limit := &unix.Rlimit{Cur: uint64(n), Max: uint64(n)}
	return unix.Prlimit(r.start.PID, unix.RLIMIT_NPROC, limit, nil) == nil
}

// stop ends a rig before its test does, for tests of many rounds.
func (r *rig) stop() {
	r.stdin.Close()
	for range r.news {
	}
}

// destroy ends the processes of a job that has lost its wrapper.
func (r *rig) destroy() {
	if r.referee != nil {
		r.referee.clear()
		r.referee = nil
		return
	}
	for round := 0; round < 100; round++ { // without a referee: by the brand
		all, _ := newProcReader().all(nil)
		found := false
		for _, p := range all {
			if fmt.Sprint(p.rss) == r.start.Brand && p.alive() {
				found = true
				_ = newProcReader().send(p.procKey, syscall.SIGKILL)
			}
		}
		if !found {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// trace attaches to a process as a debugger would, until released. Its requests
// must all come from one thread.
func trace(t *testing.T, pid int) (release func()) {
	t.Helper()
	attached, done, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		attached <- unix.PtraceSeize(pid)
		<-done
		_ = unix.PtraceDetach(pid)
		var ws unix.WaitStatus
		_, _ = unix.Wait4(pid, &ws, unix.WNOHANG|unix.WALL, nil)
	}()
	if err := <-attached; err != nil {
		close(done)
		t.Skipf("cannot trace: %v", err)
	}
	return func() { close(done); <-ended }
}
