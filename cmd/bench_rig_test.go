package cmd

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
)

// benchProgram is a server that runs on a scratch folder, and the programs that it
// is measured against.
type benchProgram struct {
	dir, state      string
	socket          string
	bin, bare, peer string
	fifo            string
	marks           chan time.Time // a byte has come out of the fifo
	cmd             *exec.Cmd
	client          *api.Client
}

func newBenchProgram(b *testing.B) *benchProgram {
	dir := b.TempDir()
	p := &benchProgram{
		dir: dir, fifo: filepath.Join(dir, "fifo"), marks: make(chan time.Time, 2*manyTasks),
		bin: filepath.Join(dir, "saltpeter"), bare: filepath.Join(dir, "bare"), peer: filepath.Join(dir, "peer"),
	}
	for out, source := range map[string]string{p.bin: "./saltpeter", p.bare: "./testdata/bare", p.peer: "./testdata/peer"} {
		c := exec.Command("go", "build", "-tags", "nethttpomithttp2", "-trimpath", "-ldflags", "-s -w", "-o", out, source)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := c.CombinedOutput(); err != nil {
			b.Fatalf("cannot build %s: %v: %s", source, err, text)
		}
	}
	if err := unix.Mkfifo(p.fifo, 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := os.OpenFile(p.fifo, os.O_RDWR, 0) // for writing too, so that it never ends
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		block := make([]byte, 100)
		for {
			n, err := f.Read(block)
			if err != nil {
				return
			}
			for range n {
				p.marks <- time.Now()
			}
		}
	}()
	b.Cleanup(func() { f.Close(); <-done })
	return p.serve(b, "")
}

// serve starts a server of its own beside the ones that run.
func (p *benchProgram) serve(b *testing.B, settings string) *benchProgram {
	q := *p
	home, err := os.MkdirTemp(p.dir, "s") // short: a socket's path is short by law
	if err != nil {
		b.Fatal(err)
	}
	jobs, socket := filepath.Join(home, "jobs"), filepath.Join(home, "s")
	q.state, q.socket = filepath.Join(home, "state"), socket
	if err := os.Mkdir(jobs, 0o755); err != nil {
		b.Fatal(err)
	}
	text := ""
	if settings != "" {
		text = "saltpeter_config:\n  " + settings + "\n"
	}
	for name, command := range map[string]string{
		"mark":    "printf x >" + q.fifo,
		"sleeper": "printf x >" + q.fifo + "; exec sleep 1000",
		"many":    "printf x >" + q.fifo + "; exec sleep 1000",
		"flood":   fmt.Sprintf("printf x >%s; head -c %d /dev/zero; exec sleep 1000", q.fifo, floodBytes),
	} {
		text += fmt.Sprintf("%s:\n  command: %s\n  schedule: '@yearly'\n  targets: '*'\n  on_overlap: allow\n", name, command)
	}
	if err := os.WriteFile(filepath.Join(jobs, "bench.yaml"), []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	log, err := os.Create(filepath.Join(home, "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	q.cmd = exec.Command(p.bin, "serve", "-c", jobs, "--state-dir", q.state, "--socket", socket, "--machines-port", "0")
	q.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_STATE_HOME=" + home}
	q.cmd.Stdout, q.cmd.Stderr = log, log
	if err := q.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { q.end(b, log.Name()) })
	if q.client, err = api.NewClient(api.ClientOptions{Addr: "unix://" + socket}); err != nil {
		b.Fatal(err)
	}
	eventually(b, "the server answers", 20*time.Millisecond, func() bool {
		_, err := q.client.Status(b.Context())
		return err == nil
	})
	for range 3 { // the first of everything is slower
		_, run := q.runNow(b, "mark")
		q.awaitEnd(b, run)
		q.bareStart(b)
	}
	return &q
}

// end leaves nothing behind, whatever became of the benchmark.
func (p *benchProgram) end(b *testing.B, log string) {
	kill := exec.Command(p.bin, "--addr", p.client.Addr(), "kill", "--all", "--yes", "--signal", "KILL")
	if err := kill.Run(); err != nil && b.Failed() {
		b.Log("kill --all: ", err)
	}
	p.client.Close()
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.cmd.Wait()
	if text, _ := os.ReadFile(log); b.Failed() {
		b.Logf("the server's log ends with:\n%s", text[max(0, len(text)-4000):])
	}
}

// mark waits for one byte out of the fifo.
func (p *benchProgram) mark(b *testing.B) time.Time {
	select {
	case at := <-p.marks:
		return at
	case <-time.After(scriptPatience):
		b.Fatal("nothing came out of the fifo")
		return time.Time{}
	}
}

// runNow starts a job by the API and waits for its first instruction.
func (p *benchProgram) runNow(b *testing.B, job string) (ms float64, id string) {
	start := time.Now()
	run, err := p.client.RunJob(b.Context(), job, api.RunRequest{})
	if err != nil {
		b.Fatal(err)
	}
	return float64(p.mark(b).Sub(start).Microseconds()) / 1000, run.ID
}

// bareStart is the baseline of runNow: a shell, and a Go program that does nothing
// else.
func (p *benchProgram) bareStart(b *testing.B) (ms float64) {
	for _, c := range []*exec.Cmd{exec.Command("/bin/sh", "-c", "printf x >"+p.fifo), exec.Command(p.bare, p.fifo)} {
		start := time.Now()
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		ms += float64(p.mark(b).Sub(start).Microseconds()) / 1000
		c.Wait()
	}
	return ms
}

// await looks at a run until it is as it should be.
func (p *benchProgram) await(b *testing.B, id, what string, good func(*ledger.Run) bool) (run *ledger.Run) {
	eventually(b, what, 2*time.Millisecond, func() bool {
		var err error
		if run, err = p.client.Run(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		return good(run)
	})
	return run
}

// awaitEnd waits for a run's end and that of its wrapper, so that nothing of it
// disturbs what is measured next.
func (p *benchProgram) awaitEnd(b *testing.B, id string) {
	run := p.await(b, id, "the run ends", func(r *ledger.Run) bool { return !live(*r) })
	if who := run.Tasks[0].Identity; who != nil {
		eventually(b, "the wrapper ends", 2*time.Millisecond, func() bool { return syscall.Kill(who.WrapperPID, 0) != nil })
	}
}

func eventually(b *testing.B, what string, pause time.Duration, good func() bool) {
	for deadline := time.Now().Add(2 * scriptPatience); !good(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			b.Fatal("never: ", what)
		}
	}
}

// started starts a program and returns the first line that it prints.
func started(b *testing.B, c *exec.Cmd) string {
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil && err != io.EOF {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func sinceMS(t time.Time) float64 { return float64(time.Since(t).Microseconds()) / 1000 }

// quantile of some values, which it sorts.
func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[int(q*float64(len(values)-1)+0.5)]
}

// spent is what carrying the output cost, in seconds.
type spent struct{ wall, cpu float64 }

func medianSpent(all []spent) spent {
	var wall, cpu []float64
	for _, u := range all {
		wall, cpu = append(wall, u.wall), append(cpu, u.cpu)
	}
	return spent{quantile(wall, 0.5), quantile(cpu, 0.5)}
}

// cpuOf is the CPU time of a process so far, in seconds.
func cpuOf(b *testing.B, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		b.Fatal(string(text))
	}
	return float64(user+system) / 100 // ticks; always this many a second for programs
}

// memoryOf is what a process has in memory in kB: its fair share, and all of it.
func memoryOf(b *testing.B, pid int) (pss, rss float64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Skipf("only root sees a wrapper's memory: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch n, _ := strconv.ParseFloat(f[1], 64); f[0] {
		case "Pss:":
			pss = n
		case "Rss:":
			rss = n
		}
	}
	return pss, rss
}
