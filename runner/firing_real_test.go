package runner

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"saltpeter/config"
	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
)

// buildBinary builds the real program, as it is shipped.
func buildBinary(t testing.TB) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "saltpeter")
	cmd := exec.Command("go", "build", "-o", exe, "./cmd/saltpeter")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	return exe
}

// withRoad gives a house the real road: this machine, and a machines listener.
func withRoad(exe string) func(*house) {
	return func(h *house) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			h.t.Fatal(err)
		}
		h.url = "ws://" + ln.Addr().String()
		local := launch.NewLocal(launch.LocalOptions{Executable: exe})
		h.roads = map[string]launch.Transport{"local": local}
		h.before = func(r *Runner) {
			server := wsx.NewServer(wsx.ServerOptions{Handler: r.Handler(), Log: slog.New(slog.DiscardHandler)})
			done := make(chan struct{})
			go func() {
				defer close(done)
				if err := server.Serve(ln); err != nil {
					h.t.Errorf("serve: %v", err)
				}
			}()
			h.t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				server.Shutdown(ctx)
				<-done
				local.Close()
			})
		}
	}
}

// 20 real runs a second: real processes, the real program as their wrapper, each with
// one record and one end. Here it is for a moment, and says nothing of how fast they are.
func TestTwentyRunsASecondEndOnce(t *testing.T) {
	if soak(0, 1) > 0 {
		t.Skip("the minute of TestTwentyRunsASecondKeptUp looks at the same")
	}
	twentyASecond(t, 3*time.Second)
}

// And they are kept up: after a minute of them the last is over within seconds, and
// the runs of the end are no later than those of the beginning. At 19.6 a second the
// last 10 s are 1 s later than the first.
func TestTwentyRunsASecondKeptUp(t *testing.T) {
	if soak(0, 1) == 0 {
		t.Skip("the speed tells after a minute only: make soak")
	}
	backlog, late := twentyASecond(t, time.Minute)
	if backlog > 5*time.Second {
		t.Errorf("it took %s until the last was over", backlog)
	}
	part := len(late) / 6
	first, last := median(late[:part]), median(late[len(late)-part:])
	t.Logf("over %s after they were due (median) in the first sixth, %s in the last", first, last)
	if last > first+time.Second {
		t.Error("they are not kept up")
	}
}

func median(of []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(of))[len(of)/2]
}

// twentyASecond starts them for a time and looks at each. It returns how long after
// that time the last one was over, and of each, in the order in which they were due,
// how long after that it was over.
func twentyASecond(t *testing.T, whole time.Duration) (backlog time.Duration, late []time.Duration) {
	t.Helper()
	exe := buildBinary(t)
	var jobs []*config.Job
	for i := range 20 {
		job := scheduled(t, fmt.Sprintf("real%02d", i), everySecond, "UTC")
		// A slow machine must not turn it into a test of overlap.
		job.OnOverlap, job.Command = "allow", "echo $SP_JOB_INSTANCE"
		jobs = append(jobs, job)
	}
	set := setOf(jobs...)
	set.Machines[0].Spool = t.TempDir()
	h := newHouse(t, set, nil, withRoad(exe))
	var mu sync.Mutex
	ended := map[ledger.TaskID]int{}
	road := h.before
	h.before = func(r *Runner) {
		road(r)
		on := r.tasks.o.OnEnd
		r.tasks.o.OnEnd = func(task ledger.Task) {
			on(task)
			mu.Lock()
			defer mu.Unlock()
			ended[task.TaskID]++
		}
	}
	h.start()
	time.Sleep(whole) // what is tested takes place in real time
	quiet := setOf()
	h.runner.SetConfig(quiet)
	asked := time.Now()
	h.await("what was due before is decided", func() bool { // its runs are not begun yet, and in nobody's status
		dealt := h.runner.firing.dealt.Load()
		return dealt != nil && dealt.After(asked)
	})
	h.await("all ends", func() bool { return len(h.runner.tasks.status(time.Now())) == 0 })
	backlog = time.Since(asked)
	began := 0
	for _, job := range jobs {
		began += len(h.runs(job.Name))
	}
	h.await("news of all ends", func() bool { // it follows the record
		mu.Lock()
		defer mu.Unlock()
		return len(ended) >= began
	})
	mu.Lock()
	defer mu.Unlock()
	total := 0
	var all []ledger.Run
	for _, job := range jobs {
		runs := h.runs(job.Name)
		total += len(runs)
		all = append(all, runs...)
		for _, r := range runs {
			task := r.Tasks[0]
			if task.State != ledger.Succeeded || ended[task.TaskID] != 1 {
				t.Errorf("%s: %s (%s), %d ends", r.ID, task.State, task.Reason, ended[task.TaskID])
			}
			if task.Length != int64(len(r.ID)+1) {
				t.Errorf("%s: %d bytes of output", r.ID, task.Length)
			}
		}
		first, last := h.bounds(job.Name)
		h.onceEach(job, first.Add(-time.Second), last)
	}
	if len(ended) != total || total < 20*int(whole.Seconds()-2) {
		t.Fatalf("%d runs, %d ends in %s", total, len(ended), whole)
	}
	slices.SortFunc(all, func(a, b ledger.Run) int { return a.Due.Compare(b.Due) })
	for _, r := range all {
		late = append(late, r.Tasks[0].Ended.Sub(r.Due))
	}
	t.Logf("%d runs in %s; the last was over %s later, the slowest %s after it was due", total, whole, backlog.Round(time.Millisecond), slices.Max(late).Round(time.Millisecond))
	return backlog, late
}
