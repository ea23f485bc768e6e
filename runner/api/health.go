package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/VictoriaMetrics/metrics"

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
	metrics.WriteProcessMetrics(w)
	return nil
}
