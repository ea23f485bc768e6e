package api

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/runner/ledger"
)

// audit writes down what was asked of the front door itself; the runner does so
// for what is asked of it.
func (s *Server) audit(r *http.Request, what, target string, err error) {
	who := callerOf(r)
	outcome := "done"
	if err != nil {
		outcome = err.Error()
	}
	entry := ledger.AuditEntry{At: time.Now(), Who: who.who, From: who.from, What: what, Target: target, Outcome: outcome}
	if _, err := s.o.Ledger.Apply(r.Context(), ledger.Audited{Entry: entry}); err != nil {
		s.o.Log.Error("cannot write the audit log", "err", err)
	}
}

// getMetrics answers in the text form that Prometheus reads. The figures are
// taken from one status, so that they agree with each other.
func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) error {
	status, err := s.o.Runner.Status(r.Context())
	if err != nil {
		return err
	}
	states := map[ledger.State]int{}
	var connected, disconnected, pending, leftovers int
	for _, t := range status.Tasks {
		states[t.State]++
		leftovers += t.Leftover
		if t.Connected {
			connected++
		}
		if t.Disconnected {
			disconnected++
		}
		if t.KillPending != "" {
			pending++
		}
	}
	var failed int
	for _, j := range status.Jobs {
		if j.Last == nil {
			continue
		}
		for _, t := range j.Last.Tasks {
			if t.State.Done() && t.State != ledger.Succeeded && t.State != ledger.Skipped {
				failed++
				break
			}
		}
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	gauge := func(name, help string, value int) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n%s %d\n", name, help, name, name, value)
	}
	set := s.set()
	gauge("saltpeter_jobs", "Jobs that are configured.", len(status.Jobs))
	gauge("saltpeter_jobs_last_failed", "Jobs whose last run did not succeed everywhere.", failed)
	gauge("saltpeter_config_errors", "Errors in the job files.", len(set.Errors()))
	gauge("saltpeter_wrappers_connected", "Tasks whose wrapper is connected.", connected)
	gauge("saltpeter_tasks_disconnected", "Live tasks without a word from their wrapper for 15 s.", disconnected)
	gauge("saltpeter_kills_pending", "Kills that have not got through yet.", pending)
	gauge("saltpeter_leftover_processes", "Processes that outlived their job.", leftovers)
	fmt.Fprint(w, "# HELP saltpeter_tasks Tasks that are not over, by state.\n# TYPE saltpeter_tasks gauge\n")
	for _, state := range []ledger.State{ledger.Queued, ledger.Launching, ledger.Running, ledger.Paused, ledger.Stopping, ledger.Lost} {
		fmt.Fprintf(w, "saltpeter_tasks{state=%q} %d\n", state, states[state])
	}
	writeReporters(w, s.reporters(r.Context()))
	writeProcess(w)
	return nil
}

// writeProcess tells of the server's own process, by the names that dashboards
// know. It is written by hand: the libraries for it describe every metric of the
// runtime when the program starts, which each task does once.
func writeProcess(w io.Writer) {
	put := func(kind, name, help string, value float64) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %s\n", name, help, name, kind, name, strconv.FormatFloat(value, 'f', -1, 64))
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	put("gauge", "go_goroutines", "Goroutines of the server.", float64(runtime.NumGoroutine()))
	put("gauge", "go_memstats_heap_inuse_bytes", "Heap in use.", float64(m.HeapInuse))
	put("gauge", "go_memstats_sys_bytes", "Memory that the runtime has from the system.", float64(m.Sys))
	put("counter", "go_gc_cycles_total", "Garbage collections so far.", float64(m.NumGC))
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) == nil {
		cpu := time.Duration(u.Utime.Nano() + u.Stime.Nano())
		put("counter", "process_cpu_seconds_total", "Processor time of the server.", cpu.Seconds())
	}
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		var pages [2]float64
		if n, _ := fmt.Sscan(string(text), &pages[0], &pages[1]); n == 2 {
			put("gauge", "process_virtual_memory_bytes", "Address space of the server.", pages[0]*float64(os.Getpagesize()))
			put("gauge", "process_resident_memory_bytes", "Memory of the server.", pages[1]*float64(os.Getpagesize()))
		}
	}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		put("gauge", "process_open_fds", "Open files and connections of the server.", float64(len(files)-1)) // one is for this look
	}
}
