package api

import (
	"errors"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// The routes of the program that came before, for the scripts and dashboards that
// know them. They stay as they are; what is new goes below /api/v1.

// buildTime is when this program was built, as far as it knows.
func buildTime() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" {
				return s.Value
			}
		}
	}
	if exe, err := os.Executable(); err == nil {
		if info, err := os.Stat(exe); err == nil {
			return info.ModTime().UTC().Format(time.RFC3339)
		}
	}
	return ""
}

func (s *Server) getVersion(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, http.StatusOK, map[string]any{"version": s.o.Version, "last_build": s.built()})
}

func (s *Server) getOldConfig(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, http.StatusOK, configOf(s.set()))
}

// runsNow is the running ones by instance, and the views of all jobs.
func (s *Server) runsNow(r *http.Request) (map[string]runView, map[string]*jobView, error) {
	status, err := s.o.Runner.Status(r.Context())
	if err != nil {
		return nil, nil, err
	}
	tasks := map[string]map[ledger.TaskID]*runner.TaskStatus{}
	heads := map[string]*ledger.Run{}
	put := func(t *runner.TaskStatus) {
		if tasks[t.Job] == nil {
			tasks[t.Job] = map[ledger.TaskID]*runner.TaskStatus{}
		}
		tasks[t.Job][t.TaskID] = t
	}
	for _, j := range status.Jobs {
		heads[j.Name] = j.Last
		if j.Last != nil {
			for _, t := range j.Last.Tasks {
				put(&runner.TaskStatus{Task: t})
			}
		}
	}
	for i := range status.Tasks {
		put(&status.Tasks[i])
		if _, known := heads[status.Tasks[i].Job]; !known {
			heads[status.Tasks[i].Job] = nil
		}
	}
	views, running := map[string]*jobView{}, map[string]runView{}
	for job, head := range heads {
		v := viewJob(head, tasks[job], false, 0, func(ledger.TaskID) *text { return nil })
		views[job] = v
		for _, run := range v.running {
			running[run.id] = run
		}
	}
	return running, views, nil
}

func (s *Server) getRunning(w http.ResponseWriter, r *http.Request) error {
	running, _, err := s.runsNow(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, running)
}

// oldResult is one machine in the answer of /status.
type oldResult struct {
	Start   string `json:"starttime"`
	End     string `json:"endtime"`
	Ret     string `json:"ret"`
	RetCode any    `json:"retcode"`
}

type oldState struct {
	NextRun string               `json:"next_run,omitempty"`
	LastRun string               `json:"last_run,omitempty"`
	Results map[string]oldResult `json:"results"`
}

func (s *Server) getOldStatus(w http.ResponseWriter, r *http.Request) error {
	running, views, err := s.runsNow(r)
	if err != nil {
		return err
	}
	set := s.set()
	state := map[string]oldState{}
	for job, v := range views {
		if set.Jobs[job] == nil {
			continue
		}
		d := detailsOf(set, job, v)
		old := oldState{NextRun: d.NextRun, LastRun: d.LastRun, Results: map[string]oldResult{}}
		for _, t := range v.texts {
			res := resultOf(t.status)
			old.Results[t.status.Machine] = oldResult{Start: res.Start, End: res.End, RetCode: res.RetCode}
		}
		state[job] = old
	}
	return writeJSON(w, http.StatusOK, map[string]any{"running": running, "state": state})
}

// postOldKill answers once the kill is recorded and on its way, as it always did.
func (s *Server) postOldKill(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Job string `json:"job"`
	}
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	if q.Job == "" {
		return badRequest(`the request names no job; send {"job": NAME}`)
	}
	ctx, cancel := s.asked(r)
	defer cancel()
	receipts, err := s.o.Runner.Kill(ctx, callerOf(r).actor(), runner.Selector{Job: q.Job}, runner.KillOptions{NoWait: true})
	var all []runner.Receipt
	if err == nil {
		for receipt := range receipts {
			all = append(all, receipt)
		}
	}
	none := len(all) > 0 && !slices.ContainsFunc(all, func(r runner.Receipt) bool { return r.Outcome != wire.OutcomeNotRunning })
	var refused *runner.Refusal
	if none || errors.As(err, &refused) && refused.Code == runner.CodeNothingRunning {
		return &Error{Status: http.StatusConflict, Code: runner.CodeNothingRunning, Text: "job " + quote(q.Job) + " is not running", Hint: "`saltpeter status` shows what runs"}
	}
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"status": "ok", "message": "Kill signal sent to job: " + q.Job})
}
