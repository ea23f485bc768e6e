package cmd

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"saltpeter/runner"
	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// BenchmarkProgram measures the whole program: the real binary serves a scratch
// folder and is driven through its API, in turns with the baseline of each row.
// Medians; testdata/ratios.sh makes the table.
func BenchmarkProgram(b *testing.B) {
	p := newBenchProgram(b)
	b.Run("RunNow", p.benchRunNow)
	b.Run("Kill", p.benchKill)
	b.Run("Output", p.benchOutput)
	b.Run("Idle", p.benchIdle)
	b.Run("Many", p.benchMany)
	b.Run("Binary", p.benchBinary)
}

const (
	runNowRounds = 30
	killRounds   = 60
	floodRounds  = 5
	floodBytes   = 256 << 20
	idleOnes     = 10
	manyTasks    = 500
	manyAtOnce   = 10
)

// benchRunNow is from the API's request to the command's first instruction,
// beside the start of a shell and of a bare Go program.
func (p *benchProgram) benchRunNow(b *testing.B) {
	var ours, bare []float64
	for b.Loop() {
		for range runNowRounds {
			took, run := p.runNow(b, "mark")
			p.awaitEnd(b, run)
			ours, bare = append(ours, took), append(bare, p.bareStart(b))
		}
	}
	ratio(b, "", "ms", quantile(ours, 0.5), quantile(bare, 0.5), 2)
	figure(b, "p95-ms", quantile(ours, 0.95), 0)
}

// benchKill is from the API's request to the process's end and to the receipt,
// beside SIGTERM to Wait.
func (p *benchProgram) benchKill(b *testing.B) {
	var gone, receipt, bare []float64
	for b.Loop() {
		for range killRounds {
			_, run := p.runNow(b, "sleeper")
			g, r := p.kill(b, run)
			gone, receipt = append(gone, g), append(receipt, r)
			p.awaitEnd(b, run)
			bare = append(bare, bareKill(b))
		}
	}
	ratio(b, "gone", "ms", quantile(gone, 0.5), quantile(bare, 0.5), 0)
	figure(b, "gone-p50-ms", quantile(gone, 0.5), 5)
	figure(b, "gone-p95-ms", quantile(gone, 0.95), 0)
	figure(b, "receipt-p50-ms", quantile(receipt, 0.5), 0)
	figure(b, "receipt-p95-ms", quantile(receipt, 0.95), 25)
}

// kill ends the only task of a run and returns when its process and when the
// receipt was there, in milliseconds from the request.
func (p *benchProgram) kill(b *testing.B, id string) (gone, receipt float64) {
	pid := p.await(b, id, "its identity is recorded", func(r *ledger.Run) bool {
		t := r.Tasks[0]
		return t.Identity != nil && t.State == ledger.Running
	}).Tasks[0].Identity.PID
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	ended := make(chan time.Time, 1)
	go func() {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(scriptPatience.Milliseconds()))
			if err != unix.EINTR || n > 0 {
				ended <- time.Now()
				return
			}
		}
	}()
	start := time.Now()
	var got runner.Receipt
	err = p.client.Kill(b.Context(), api.KillRequest{Selection: api.Selection{Run: id}}, func(r runner.Receipt) error {
		receipt, got = sinceMS(start), r
		return nil
	})
	if err != nil || got.Outcome != wire.OutcomeGone || got.Via != "websocket" {
		b.Fatalf("the receipt is %+v, %v", got, err)
	}
	return float64((<-ended).Sub(start).Microseconds()) / 1000, receipt
}

func bareKill(b *testing.B) float64 {
	c := exec.Command("sleep", "1000")
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond) // until it has executed; the kill is measured, not the start
	start := time.Now()
	c.Process.Signal(unix.SIGTERM)
	c.Wait()
	return sinceMS(start)
}

// benchOutput carries what a job prints into the server's file, beside a pipe, a
// TCP connection and a file between two bare programs: by the socket, as it comes on
// the server's machine, and by TLS, as from elsewhere.
func (p *benchProgram) benchOutput(b *testing.B) {
	secure := p.serve(b, "machines_ws_tls: auto")
	if err := os.Remove(secure.socket + ".wrappers"); err != nil {
		b.Fatal(err)
	}
	var tls, ours, bare []spent
	for b.Loop() {
		for range floodRounds {
			bare = append(bare, p.bareFlood(b))
			ours = append(ours, p.flood(b))
			tls = append(tls, secure.flood(b))
		}
	}
	const mb = floodBytes / 1e6
	raw, o, t := medianSpent(bare), medianSpent(ours), medianSpent(tls)
	ratio(b, "", "MB/s", mb/o.wall, mb/raw.wall, 0.65)
	ratio(b, "cpu", "ms/MB", 1000*o.cpu/mb, 1000*raw.cpu/mb, 2)
	ratio(b, "tls", "MB/s", mb/t.wall, mb/raw.wall, 0)
	ratio(b, "tls-cpu-of-plain", "ms/MB", 1000*t.cpu/mb, 1000*o.cpu/mb, 2.8)
}

// flood runs the job that prints much, until the last byte is in the file.
func (p *benchProgram) flood(b *testing.B) spent {
	before := p.outputFiles(b)
	_, run := p.runNow(b, "flood")
	start := time.Now()
	r := p.await(b, run, "its identity is recorded", func(r *ledger.Run) bool { return r.Tasks[0].Identity != nil })
	wrap := r.Tasks[0].Identity.WrapperPID
	server := cpuOf(b, p.cmd.Process.Pid)
	path := ""
	eventually(b, "all output is stored", time.Millisecond, func() bool {
		if path == "" {
			for _, f := range p.outputFiles(b) {
				if info, err := os.Stat(f); err == nil && info.Size() > 1<<20 && !slices.Contains(before, f) {
					path = f
				}
			}
		}
		info, err := os.Stat(path)
		return err == nil && info.Size() >= floodBytes
	})
	u := spent{wall: time.Since(start).Seconds(), cpu: cpuOf(b, p.cmd.Process.Pid) - server + cpuOf(b, wrap)}
	p.kill(b, run)
	p.awaitEnd(b, run)
	os.Truncate(path, 0) // the scratch disk may be small
	return u
}

func (p *benchProgram) outputFiles(b *testing.B) []string {
	files, err := filepath.Glob(filepath.Join(p.state, "output", "*", "*", "*"))
	if err != nil {
		b.Fatal(err)
	}
	return files
}

// bareFlood is the baseline of flood.
func (p *benchProgram) bareFlood(b *testing.B) spent {
	path := filepath.Join(p.dir, "bare-output")
	defer os.Remove(path)
	store := exec.Command(p.peer, "store", path)
	address := started(b, store)
	send := exec.Command(p.peer, "send", address)
	head := exec.Command("head", "-c", fmt.Sprint(floodBytes), "/dev/zero")
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	send.Stdin, head.Stdout = r, w
	if err := send.Start(); err != nil {
		b.Fatal(err)
	}
	r.Close()
	start := time.Now()
	err = head.Run()
	w.Close()
	for _, c := range []*exec.Cmd{send, store} {
		if e := c.Wait(); err == nil {
			err = e
		}
	}
	u := spent{wall: time.Since(start).Seconds()}
	if info, e := os.Stat(path); err != nil || e != nil || info.Size() != floodBytes {
		b.Fatal("the baseline did not store all bytes: ", err, e)
	}
	for _, c := range []*exec.Cmd{send, store} {
		u.cpu += (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds()
	}
	return u
}

// benchIdle is the memory of a wrapper whose job is silent, beside a program that
// holds a WebSocket open.
func (p *benchProgram) benchIdle(b *testing.B) {
	var ours, bare [2][]float64
	add := func(to *[2][]float64, pid int) {
		pss, rss := memoryOf(b, pid)
		to[0], to[1] = append(to[0], pss), append(to[1], rss)
	}
	for b.Loop() {
		var runs []string
		for range idleOnes {
			_, run := p.runNow(b, "many")
			runs = append(runs, run)
		}
		url, stop := bareListener(b)
		var peers []*exec.Cmd
		for range idleOnes {
			c := exec.Command(p.peer, "dial", url)
			started(b, c)
			peers = append(peers, c)
		}
		time.Sleep(3 * time.Second) // what a start leaves behind is given back by then
		for i := range idleOnes {
			r, err := p.client.Run(b.Context(), runs[i])
			if err != nil || r.Tasks[0].Identity == nil {
				b.Fatal(r, err)
			}
			add(&ours, r.Tasks[0].Identity.WrapperPID)
			add(&bare, peers[i].Process.Pid)
		}
		stop()
		for _, c := range peers {
			c.Wait()
		}
		for _, run := range runs {
			p.kill(b, run)
			p.awaitEnd(b, run)
		}
	}
	ratio(b, "pss", "kB", quantile(ours[0], 0.5), quantile(bare[0], 0.5), 1.6)
	ratio(b, "rss", "kB", quantile(ours[1], 0.5), quantile(bare[1], 0.5), 2)
}

// bareListener is a server that upgrades and waits.
func bareListener(b *testing.B) (url string, stop func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	var conns []*websocket.Conn
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil); err == nil {
			mu.Lock()
			conns = append(conns, ws)
			mu.Unlock()
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(ln)
	}()
	return "ws://" + ln.Addr().String(), func() {
		srv.Close()
		<-done
		mu.Lock()
		defer mu.Unlock()
		for _, ws := range conns {
			ws.Close()
		}
	}
}

// benchMany starts hundreds of tasks at once, beside as many bare starts one after
// another, and kills them with one selector.
func (p *benchProgram) benchMany(b *testing.B) {
	var bare []float64
	var began, killed, late float64
	for b.Loop() {
		for range 5 {
			bare = append(bare, p.bareStart(b))
		}
		start := time.Now()
		var wg sync.WaitGroup
		for range manyAtOnce {
			wg.Go(func() {
				for range manyTasks / manyAtOnce {
					if _, err := p.client.RunJob(b.Context(), "many", api.RunRequest{}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if b.Failed() {
			b.FailNow()
		}
		n := manyTasks / manyAtOnce * manyAtOnce
		for range n {
			p.mark(b)
		}
		began = sinceMS(start)
		for range 5 {
			bare = append(bare, p.bareStart(b))
		}
		var unsettled int
		killed, unsettled = p.killAll(b, n)
		late = float64(unsettled)
	}
	ratio(b, "", "ms", began, manyTasks*quantile(bare, 0.5), 1.5)
	figure(b, "kill-all-s", killed, 10)
	b.ReportMetric(late, "receipts-without-proof") // each of them is one too many
}

// killAll asks for the end of everything, and holds each receipt to be right. One
// that says that the kill is still being carried out is right too, but too late: it
// is counted, and the time is that until the last task was gone.
func (p *benchProgram) killAll(b *testing.B, want int) (seconds float64, late int) {
	start := time.Now()
	seen := map[string]bool{}
	err := p.client.Kill(b.Context(), api.KillRequest{Selection: api.Selection{All: true}}, func(r runner.Receipt) error {
		if r.Pending && !seen[r.Run] {
			seen[r.Run] = true
			late++
			return nil
		}
		if r.Outcome != wire.OutcomeGone || r.ExitCode == nil || *r.ExitCode != wire.ExitKilled || seen[r.Run] {
			return fmt.Errorf("the receipt is %+v", r)
		}
		seen[r.Run] = true
		return nil
	})
	seconds = time.Since(start).Seconds()
	if err != nil || len(seen) != want {
		b.Fatalf("%d receipts for %d tasks: %v", len(seen), want, err)
	}
	for run := range seen {
		p.awaitEnd(b, run)
	}
	if late > 0 {
		seconds = time.Since(start).Seconds()
	}
	return seconds, late
}

func (p *benchProgram) benchBinary(b *testing.B) {
	for b.Loop() {
		info, err := os.Stat(p.bin)
		if err != nil {
			b.Fatal(err)
		}
		ratio(b, "", "MB", float64(info.Size())/1e6, 14, 1)
	}
}

// ratio makes one row of the table: ours beside the baseline, and the ratio that
// is to be reached, 0 for none.
func ratio(b *testing.B, what, unit string, ours, baseline, reach float64) {
	if what != "" {
		what += ":"
	}
	b.ReportMetric(0, "ns/op") // says nothing here
	b.ReportMetric(ours, what+"ours-"+unit)
	b.ReportMetric(baseline, what+"baseline-"+unit)
	if reach > 0 {
		b.ReportMetric(reach, what+"reach")
	}
}

// figure reports what has no baseline.
func figure(b *testing.B, unit string, value, reach float64) {
	b.ReportMetric(value, unit)
	if reach > 0 {
		b.ReportMetric(reach, unit+":reach")
	}
}
