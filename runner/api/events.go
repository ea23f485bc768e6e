package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// Event is one change as /api/v1/events sends it.
type Event struct {
	Kind    string             `json:"kind"` // run, task, output, config, receipt
	At      time.Time          `json:"at"`
	Run     *ledger.Run        `json:"run,omitempty"`
	Task    *runner.TaskStatus `json:"task,omitempty"`
	ID      *ledger.TaskID     `json:"id,omitempty"`
	Length  int64              `json:"length,omitempty"`
	Receipt *runner.Receipt    `json:"receipt,omitempty"`
}

// keepAlive is how often a silent stream of events shows that it lives.
const keepAlive = 15 * time.Second

// getEvents sends every change from now on as server-sent events. A client that
// is too slow is cut off and starts again from a fresh status.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) error {
	job, run := r.URL.Query().Get("job"), r.URL.Query().Get("run")
	changes := s.o.Runner.Watch(r.Context(), watchBuffer)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	fmt.Fprint(w, ": every change from now on\n\n")
	control.Flush()
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		select {
		case c, open := <-changes:
			if !open {
				return nil
			}
			if !concerns(c, job, run) {
				continue
			}
			if err := sendEvent(w, c); err != nil {
				return nil
			}
		case <-alive.C:
			if _, err := fmt.Fprint(w, ": alive\n\n"); err != nil {
				return nil
			}
		case <-r.Context().Done():
			return nil
		}
		if control.Flush() != nil {
			return nil
		}
	}
}

func sendEvent(w http.ResponseWriter, c runner.Change) error {
	e := Event{Kind: c.Kind, At: c.At, Task: c.Task, Length: c.Length, Receipt: c.Receipt}
	if c.Run != nil {
		run := *c.Run
		run.Definition = nil
		e.Run = &run
	}
	if c.ID != (ledger.TaskID{}) {
		e.ID = &c.ID
	}
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", c.Kind, data)
	return err
}

// concerns reports whether a change is one that a client asked for.
func concerns(c runner.Change, job, run string) bool {
	if job == "" && run == "" {
		return true
	}
	of, name := "", ""
	switch {
	case c.Run != nil:
		of, name = c.Run.ID, c.Run.Job
	case c.Task != nil:
		of, name = c.Task.Run, c.Task.Job
	case c.Receipt != nil:
		of = c.Receipt.Run
	case c.ID.Run != "":
		of = c.ID.Run
	default:
		return c.Kind == "config"
	}
	if run != "" && of != run {
		return false
	}
	return job == "" || name == job || name == ""
}
