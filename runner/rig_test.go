package runner

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/testdata/lab"
	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

const testWait = 90 * time.Second

// rig is a server without the firing half: a real ledger, a real machines
// listener, and the tasks. It can be stopped and started again.
type rig struct {
	t     *testing.T
	dir   string
	addr  string
	pace  pace
	roads map[string]launch.Transport
	logs  *lab.Buffer
	adopt bool

	tasks  *tasks
	book   *ledger.Ledger
	server *wsx.Server
	cancel context.CancelFunc
	wg     sync.WaitGroup
	specs  map[ledger.TaskID]taskSpec

	mu    sync.Mutex
	ended []ledger.Task
	waits chan struct{} // poked at each change
}

// hurried is a pace for tests: the same order of things, sooner.
func hurried() pace {
	p := defaultPace
	p.tick = 20 * time.Millisecond
	p.silence = 600 * time.Millisecond
	p.comeback = 6 * time.Second
	p.recheck = 100 * time.Millisecond
	p.slowest = time.Second
	p.retry = 50 * time.Millisecond
	p.margin = 200 * time.Millisecond
	p.lostAfter = time.Second
	// What would make a busy machine look like a dead one takes its time.
	p.answer, p.complete, p.connect, p.person = 20*time.Second, 20*time.Second, 20*time.Second, time.Minute
	return p
}

func newRig(t *testing.T, change ...func(*rig)) *rig {
	t.Helper()
	t.Parallel()
	r := &rig{t: t, dir: t.TempDir(), pace: hurried(), roads: map[string]launch.Transport{}, logs: &lab.Buffer{},
		specs: map[ledger.TaskID]taskSpec{}, waits: make(chan struct{}, 1)}
	for _, f := range change {
		f(r)
	}
	r.start()
	t.Cleanup(func() {
		left := r.identities()
		r.stop()
		for _, id := range left {
			putDown(id.WrapperPID, id.WrapperStartTicks)
			putDown(id.PID, id.StartTicks)
		}
		for _, road := range r.roads {
			road.Close()
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.logs.String())
		}
	})
	return r
}

// identities are those of all tasks of the rig that real wrappers ran.
func (r *rig) identities() []wire.Identity {
	var all []wire.Identity
	if r.roads["local"] == nil || r.cancel == nil {
		return nil
	}
	for id := range r.specs {
		if t, err := r.book.Task(context.Background(), id); err == nil && t.Identity != nil {
			all = append(all, *t.Identity)
		}
	}
	return all
}

// putDown ends a process that a test has left, if it is still the one it was: a
// wrapper whose server is gone would try to report for a day.
func putDown(pid int, startTicks uint64) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || pid <= 1 {
		return
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) > 19 && fields[19] == fmt.Sprint(startTicks) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// local gives the rig this machine, with the test binary as wrapper.
func local(r *rig) {
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	r.roads["local"] = launch.NewLocal(launch.LocalOptions{Executable: exe})
}

func (r *rig) start() {
	r.t.Helper()
	book, err := ledger.Open(context.Background(), ledger.Options{Dir: filepath.Join(r.dir, "state")})
	if err != nil {
		r.t.Fatal(err)
	}
	r.book = book
	addr := r.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	log := slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h := newHub()
	r.tasks = newTasks(taskOptions{
		Ledger: book, Transports: r.roads, MachinesURL: func(launch.Machine) string { return "ws://" + r.addr }, Log: log, Hub: h,
		Adopt: func() bool { return r.adopt }, Group: func(job string) string { return "group of " + job },
		OnEnd: func(t ledger.Task) {
			r.mu.Lock()
			r.ended = append(r.ended, t)
			r.mu.Unlock()
		},
	})
	r.tasks.pace = r.pace
	r.server = wsx.NewServer(wsx.ServerOptions{Handler: handler{r.tasks}, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	changes := h.watch(ctx, 1<<16)
	r.wg.Go(func() {
		for range changes {
			select {
			case r.waits <- struct{}{}:
			default:
			}
		}
	})
	unfinished, err := book.Unfinished(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	r.tasks.adopt(ctx, unfinished, func(t ledger.Task) (taskSpec, error) {
		s, ok := r.specs[t.TaskID]
		if !ok {
			return s, fmt.Errorf("no spec of %v", t.TaskID)
		}
		return s, nil
	})
	server := r.server
	r.wg.Go(func() {
		if err := server.Serve(ln); err != nil {
			r.t.Errorf("serve: %v", err)
		}
	})
	r.wg.Go(func() { r.tasks.run(ctx) })
}

func (r *rig) stop() {
	if r.cancel == nil {
		return
	}
	ctx, done := context.WithTimeout(context.Background(), 10*time.Second)
	defer done()
	r.server.Shutdown(ctx)
	r.cancel()
	r.wg.Wait()
	r.tasks.o.Hub.close()
	if err := r.book.Close(); err != nil {
		r.t.Errorf("close: %v", err)
	}
	r.cancel = nil
}

var runNumber atomic.Int64

// spec is one task of a job of its own.
func (r *rig) spec(road, command string) taskSpec {
	n := runNumber.Add(1)
	job := fmt.Sprintf("job%d", n)
	return r.specOf(job, fmt.Sprintf("%s_%d", job, 1000+n), "m1", road, command)
}

func (r *rig) specOf(job, run, machine, road, command string) taskSpec {
	return taskSpec{
		Task: ledger.Task{TaskID: ledger.TaskID{Run: run, Machine: machine}, Job: job, State: ledger.Queued, Transport: road, Queued: time.Now()},
		Order: wire.Order{Job: job, Run: run, Machine: machine, Command: command, KillGrace: 1, HardLimit: 2, Drain: 1, StartWait: 10,
			SpoolDir: filepath.Join(r.dir, "spool")},
		Machine: launch.Machine{Name: machine, Transport: road},
	}
}

// begin records runs with these tasks, one run for each name.
func (r *rig) begin(specs ...taskSpec) {
	r.t.Helper()
	runs := map[string]*ledger.Run{}
	var order []string
	for _, s := range specs {
		r.specs[s.Task.TaskID] = s
		run := runs[s.Task.Run]
		if run == nil {
			run = &ledger.Run{ID: s.Task.Run, Job: s.Task.Job, Due: time.Now(), Fired: time.Now(), Trigger: ledger.TriggerManual}
			runs[s.Task.Run] = run
			order = append(order, s.Task.Run)
		}
		run.Tasks = append(run.Tasks, s.Task)
	}
	for _, id := range order {
		if _, err := r.book.Apply(context.Background(), ledger.Begun{Run: *runs[id]}); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) launch(specs ...taskSpec) {
	r.t.Helper()
	r.begin(specs...)
	r.tasks.launch(context.Background(), specs)
}

func (r *rig) task(id ledger.TaskID) ledger.Task {
	r.t.Helper()
	t, err := r.book.Task(context.Background(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return *t
}

// await waits until a condition holds.
func (r *rig) await(what string, is func() bool) {
	r.t.Helper()
	limit := time.NewTimer(testWait)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-r.waits:
		case <-tick.C:
		case <-limit.C:
			r.t.Fatalf("never came: %s", what)
		}
	}
}

func (r *rig) awaitState(id ledger.TaskID, states ...ledger.State) ledger.Task {
	r.t.Helper()
	var last ledger.Task
	defer func() {
		if r.t.Failed() {
			r.t.Logf("last seen: %+v", last)
		}
	}()
	r.await(fmt.Sprintf("%v %v", id, states), func() bool {
		last = r.task(id)
		for _, s := range states {
			if last.State == s {
				return true
			}
		}
		return false
	})
	return last
}

func (r *rig) output(id ledger.TaskID) string {
	r.t.Helper()
	reader, err := r.book.OpenOutput(id)
	if err != nil {
		r.t.Fatal(err)
	}
	defer reader.Close()
	length, err := reader.Length()
	if err != nil {
		r.t.Fatal(err)
	}
	data := make([]byte, length)
	if _, err := reader.ReadAt(data, 0); err != nil && length > 0 && err.Error() != "EOF" {
		r.t.Fatal(err)
	}
	return string(data)
}

func (r *rig) notes(id ledger.TaskID) string {
	var all strings.Builder
	for _, n := range r.task(id).Notes {
		all.WriteString(n.Text)
	}
	return all.String()
}

var person = Actor{Who: "alice", From: "unix"}

// kill kills what is selected and returns its receipts.
func (r *rig) kill(q Selector, o KillOptions) []Receipt {
	r.t.Helper()
	receipts, err := r.tryKill(q, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return receipts
}

func (r *rig) tryKill(q Selector, o KillOptions) ([]Receipt, error) {
	yes := func(string) (bool, error) { return true, nil }
	s, err := q.resolve(yes, yes)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	c, err := r.tasks.kill(ctx, person, s, o)
	if err != nil {
		return nil, err
	}
	var receipts []Receipt
	for receipt := range c {
		receipts = append(receipts, receipt)
	}
	return receipts, nil
}

func (r *rig) endings(id ledger.TaskID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, t := range r.ended {
		if t.TaskID == id {
			n++
		}
	}
	return n
}

func exitCode(t ledger.Task) int { return code(&t) }

// processGone waits until a process is no more.
func (r *rig) processGone(pid int) {
	r.t.Helper()
	r.await(fmt.Sprintf("process %d gone", pid), func() bool { return !alive(pid) })
}

// alive reports whether a process lives; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := string(stat[bytes.LastIndexByte(stat, ')')+1:])
	return !strings.HasPrefix(rest, " Z") && !strings.HasPrefix(rest, " X")
}

func itoa(n int) string { return fmt.Sprint(n) }

func (r *rig) awaitFile(path string) {
	r.t.Helper()
	r.await(path, func() bool { _, err := os.Stat(path); return err == nil })
}
