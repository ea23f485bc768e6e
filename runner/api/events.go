package api

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
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
	ctx, cancel := s.streaming(r)
	defer cancel()
	changes := s.o.Runner.Watch(ctx, watchBuffer)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	control := http.NewResponseController(w)
	send := func(text string) error {
		control.SetWriteDeadline(time.Now().Add(s.o.Patience))
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		return control.Flush()
	}
	err := send(": every change from now on\n\n")
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for err == nil {
		select {
		case c, open := <-changes:
			if !open {
				return nil
			}
			if concerns(c, job, run) {
				err = send(eventText(c))
			}
		case <-alive.C:
			err = send(": alive\n\n")
		case <-ctx.Done():
			return nil
		}
	}
	return nil // the client does not take it: it is gone, or cut off
}

func eventText(c runner.Change) string {
	e := Event{Kind: c.Kind, At: c.At, Run: shown(c.Run), Task: c.Task, Length: c.Length, Receipt: c.Receipt}
	if c.ID != (ledger.TaskID{}) {
		e.ID = &c.ID
	}
	data, err := json.Marshal(e)
	if err != nil {
		return ": an event cannot be shown: " + strings.ReplaceAll(err.Error(), "\n", " ") + "\n\n"
	}
	return fmt.Sprintf("event: %s\ndata: %s\n\n", c.Kind, data)
}

// shown is a run as it may be seen: its definition holds the job's environment,
// and secrets stay inside. Others may be reading the run, so it is copied.
func shown(run *ledger.Run) *ledger.Run {
	if run == nil {
		return nil
	}
	c := *run
	c.Definition = nil
	c.Tasks = list(c.Tasks)
	return &c
}

// concerns reports whether a change is one that a client asked for. A change of
// the job files concerns who asked for a job, and nobody who asked for a run.
func concerns(c runner.Change, job, run string) bool {
	if job == "" && run == "" {
		return true
	}
	of, name := c.ID.Run, ""
	switch {
	case c.Run != nil:
		of, name = c.Run.ID, c.Run.Job
	case c.Task != nil:
		of, name = c.Task.Run, c.Task.Job
	case of == "":
		return c.Kind == runner.ChangeConfig && run == ""
	default:
		// Growing output and receipts name the run only, whose name is its job's,
		// one underscore, and a time.
		name = of[:max(strings.LastIndexByte(of, '_'), 0)]
	}
	return (run == "" || of == run) && (job == "" || name == job)
}
