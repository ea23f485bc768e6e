package api

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"

	"saltpeter/config"
	"saltpeter/runner"
)

func quote(s string) string { return strconv.Quote(s) }

// RunRequest is the body of POST /api/v1/jobs/{job}/run.
type RunRequest struct {
	Machines []string `json:"machines,omitempty"`
	Force    bool     `json:"force,omitempty"`
	RetryOf  string   `json:"retry_of,omitempty"`
}

func (s *Server) postRun(w http.ResponseWriter, r *http.Request) error {
	var q RunRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	// Who asked may go away: the run begins all the same, and is recorded.
	run, err := s.o.Runner.Start(context.WithoutCancel(r.Context()), callerOf(r).actor(), runner.StartRequest{
		Job: r.PathValue("job"), Machines: q.Machines, Force: q.Force, RetryOf: q.RetryOf,
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, shown(run))
}

// Duration is one in JSON: a number of seconds, or text like "90s". It is never
// negative.
type Duration time.Duration

const longest = 100 * 365 * 24 * time.Hour

// UnmarshalJSON reads a number of seconds, or text as in job files.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var seconds float64
	if err := json.Unmarshal(b, &seconds); err == nil {
		// A selector's negative age would choose everything.
		if seconds < 0 || seconds > longest.Seconds() {
			return badRequest("%s is no duration in seconds: it must not be negative, nor longer than a century", b)
		}
		*d = Duration(math.Round(seconds * float64(time.Second)))
		return nil
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return badRequest("a duration is a number of seconds or text like \"90s\"")
	}
	v, err := config.ParseDuration(text)
	if err != nil {
		return badRequest("%v", err)
	}
	if v > longest {
		return badRequest("%q is longer than a century", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalJSON writes seconds.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).Seconds())
}

// Selection is the part of a control request that says which tasks.
type Selection struct {
	Name      string   `json:"name,omitempty"` // a job or a run
	Job       string   `json:"job,omitempty"`
	Run       string   `json:"run,omitempty"`
	Machine   string   `json:"machine,omitempty"` // glob
	States    []string `json:"states,omitempty"`
	Failed    bool     `json:"failed,omitempty"`
	OlderThan Duration `json:"older_than,omitempty"`
	All       bool     `json:"all,omitempty"`
}

func (q Selection) selector() (runner.Selector, error) {
	s := runner.Selector{
		Name: q.Name, Job: q.Job, Run: q.Run, Machine: q.Machine, States: q.States,
		Failed: q.Failed, OlderThan: time.Duration(q.OlderThan), All: q.All,
	}
	if s.Name == "" && s.Job == "" && s.Run == "" && s.Machine == "" && len(s.States) == 0 && !s.Failed && s.OlderThan == 0 && !s.All {
		return s, &Error{Status: http.StatusBadRequest, Code: runner.CodeBadRequest, Text: "the request names no task", Hint: `name a job or a run, or say "all": true`}
	}
	return s, nil
}

// KillRequest is the body of POST /api/v1/kill.
type KillRequest struct {
	Selection
	Signal   string    `json:"signal,omitempty"`
	Grace    *Duration `json:"grace,omitempty"`
	DryRun   bool      `json:"dry_run,omitempty"`
	NoWait   bool      `json:"no_wait,omitempty"`
	Withdraw bool      `json:"withdraw,omitempty"`
}

func (s *Server) postKill(w http.ResponseWriter, r *http.Request) error {
	var q KillRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	selector, err := q.selector()
	if err != nil {
		return err
	}
	ctx, cancel := s.asked(r)
	defer cancel()
	receipts, err := s.o.Runner.Kill(ctx, callerOf(r).actor(), selector, runner.KillOptions{
		Signal: q.Signal, Grace: (*time.Duration)(q.Grace), DryRun: q.DryRun, NoWait: q.NoWait, Withdraw: q.Withdraw,
	})
	if err != nil {
		return err
	}
	// The kill stands from here on. Without its client nobody waits for receipts.
	defer context.AfterFunc(r.Context(), cancel)()
	return sendAll(ctx, s.newStream(w), receipts)
}

// sendAll streams what comes out of a channel until it is closed. It keeps on
// reading when the client has gone, since the sender must not be held up. A list
// that ctx cut short is broken off: it must not look complete.
func sendAll[T any](ctx context.Context, out *stream, from <-chan T) error {
	gone := false
	for v := range from {
		if !gone {
			gone = out.send(v) != nil
		}
	}
	if gone || ctx.Err() != nil {
		breakOff()
	}
	return nil
}

// PauseRequest is the body of POST /api/v1/pause.
type PauseRequest struct {
	Selection
	TTL Duration `json:"ttl,omitempty"`
}

// SignalRequest is the body of POST /api/v1/signal.
type SignalRequest struct {
	Selection
	Signal string `json:"signal"`
	Scope  string `json:"scope,omitempty"` // main (default) or all
}

func (s *Server) postPause(w http.ResponseWriter, r *http.Request) error {
	var q PauseRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	return s.control(w, r, q.Selection, func(ctx context.Context, a runner.Actor, sel runner.Selector) (<-chan runner.Answer, error) {
		return s.o.Runner.Pause(ctx, a, sel, time.Duration(q.TTL))
	})
}

func (s *Server) postResume(w http.ResponseWriter, r *http.Request) error {
	var q Selection
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	return s.control(w, r, q, s.o.Runner.Resume)
}

func (s *Server) postSignal(w http.ResponseWriter, r *http.Request) error {
	var q SignalRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	if q.Signal == "" {
		return badRequest(`the request names no signal; add "signal": "USR1"`)
	}
	return s.control(w, r, q.Selection, func(ctx context.Context, a runner.Actor, sel runner.Selector) (<-chan runner.Answer, error) {
		return s.o.Runner.Signal(ctx, a, sel, q.Signal, q.Scope)
	})
}

func (s *Server) control(w http.ResponseWriter, r *http.Request, q Selection, do func(context.Context, runner.Actor, runner.Selector) (<-chan runner.Answer, error)) error {
	selector, err := q.selector()
	if err != nil {
		return err
	}
	ctx, cancel := s.asked(r)
	defer cancel()
	answers, err := do(ctx, callerOf(r).actor(), selector)
	if err != nil {
		return err
	}
	return sendAll(ctx, s.newStream(w), answers)
}

func (s *Server) postForget(w http.ResponseWriter, r *http.Request) error {
	if err := readJSON(w, r, &struct{}{}); err != nil {
		return err
	}
	if err := s.o.Runner.Forget(context.WithoutCancel(r.Context()), callerOf(r).actor(), r.PathValue("run")); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"forgotten": r.PathValue("run")})
}
