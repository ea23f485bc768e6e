package runner

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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

// 20 real runs a second are kept up: real processes, the real program as their
// wrapper, each with one end.
func TestTwentyRunsASecond(t *testing.T) {
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
	whole := soak(3*time.Second, time.Minute)
	time.Sleep(whole) // what is tested takes place in real time
	quiet := setOf()
	h.runner.SetConfig(quiet)
	asked := time.Now()
	h.await("what was due before is decided", func() bool { // its runs are not begun yet, and in nobody's status
		dealt := h.runner.firing.dealt.Load()
		return dealt != nil && dealt.After(asked)
	})
	h.await("all ends", func() bool { return len(h.runner.tasks.status(time.Now())) == 0 })
	backlog := time.Since(asked)
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
	var worst time.Duration
	slow := 0
	for _, job := range jobs {
		runs := h.runs(job.Name)
		total += len(runs)
		for _, r := range runs {
			task := r.Tasks[0]
			if task.State != ledger.Succeeded || ended[task.TaskID] != 1 {
				t.Errorf("%s: %s (%s), %d ends", r.ID, task.State, task.Reason, ended[task.TaskID])
			}
			if task.Length != int64(len(r.ID)+1) {
				t.Errorf("%s: %d bytes of output", r.ID, task.Length)
			}
			worst = max(worst, task.Ended.Sub(r.Due))
			if task.Ended.Sub(r.Due) > 5*time.Second {
				slow++
			}
		}
		first, last := h.bounds(job.Name)
		h.onceEach(job, first.Add(-time.Second), last)
	}
	if len(ended) != total || total < 20*int(whole.Seconds()-2) {
		t.Errorf("%d runs, %d ends in %s", total, len(ended), whole)
	}
	// Kept up: what is left at the end is a moment's work, however long it went on.
	if backlog > 30*time.Second {
		t.Errorf("it took %s until the last was over", backlog)
	}
	t.Logf("%d runs in %s; the last was over %s later, the slowest %s after it was due, %d slower than 5 s", total, whole, backlog.Round(time.Millisecond), worst.Round(time.Millisecond), slow)
}
