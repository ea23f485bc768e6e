package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"saltpeter/config"
	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// Status is the answer of /api/v1/status.
type Status struct {
	runner.Status
	Version     string             `json:"version"`
	ConfigDir   string             `json:"config_dir"`
	ConfigError string             `json:"config_error,omitempty"` // the folder itself cannot be read
	StateError  string             `json:"state_error,omitempty"`  // nothing can be recorded: why, and since when
	Problems    []config.Problem   `json:"problems"`
	Maintenance runner.Maintenance `json:"maintenance"`
	Reports     []Reporter         `json:"reports"`
}

func (s *Server) getHealth(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, http.StatusOK, map[string]any{"status": "ok"})
}

// getReady answers 200 from when the unfinished tasks of an earlier server are
// taken over until this one stops, as long as it can record what happens.
func (s *Server) getReady(w http.ResponseWriter, r *http.Request) error {
	if !s.o.Runner.Ready() {
		return &Error{Status: http.StatusServiceUnavailable, Code: "not_ready", Text: "the tasks of an earlier server are still being taken over"}
	}
	if why := s.stateError(); why != "" {
		return &Error{Status: http.StatusServiceUnavailable, Code: "state_unwritable", Text: "kills are carried out, and no run starts: " + why}
	}
	return writeJSON(w, http.StatusOK, map[string]any{"status": "ready"})
}

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request) error {
	status, err := s.o.Runner.Status(r.Context())
	if err != nil {
		return err
	}
	for i := range status.Jobs {
		status.Jobs[i].Last = shown(status.Jobs[i].Last)
	}
	set := s.set()
	return writeJSON(w, http.StatusOK, Status{
		Status: status, Version: s.o.Version, ConfigDir: s.o.ConfigDir, ConfigError: s.configError(),
		StateError: s.stateError(),
		Problems:   problems(set), Maintenance: s.o.Runner.Maintenance(),
		Reports: s.reporters(r.Context()),
	})
}

// stateError is why nothing can be recorded; "" while it can.
func (s *Server) stateError() string {
	fault := s.o.Ledger.Fault()
	if fault == nil {
		return ""
	}
	return fmt.Sprintf("%v, since %s", fault.Err, fault.Since.Format(time.RFC3339))
}

func (s *Server) configError() string {
	if s.o.ConfigError == nil {
		return ""
	}
	if err := s.o.ConfigError(); err != nil {
		return err.Error()
	}
	return ""
}

// list keeps an empty list from becoming null.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// Job is one job as /api/v1/jobs shows it.
type Job struct {
	Name        string           `json:"name"`
	Group       string           `json:"group"`
	File        string           `json:"file"`
	Line        int              `json:"line"`
	Schedule    string           `json:"schedule"` // in words
	Timezone    string           `json:"timezone"`
	Enabled     bool             `json:"enabled"`
	Command     string           `json:"command"`
	Targets     string           `json:"targets"`
	TargetType  string           `json:"target_type"`
	Description string           `json:"description,omitempty"`
	Definition  map[string]any   `json:"definition"` // as written, but for secrets
	Next        []time.Time      `json:"next"`
	Blocked     string           `json:"blocked,omitempty"`
	Machines    []string         `json:"machines"` // that it names now
	Last        *ledger.Run      `json:"last,omitempty"`
	Problems    []config.Problem `json:"problems"`
}

// nextShown is how many firings a job's answer lists.
const nextShown = 5

func (s *Server) job(set *config.Set, st runner.JobStatus, now time.Time) Job {
	j := set.Jobs[st.Name]
	answer := Job{
		Name: j.Name, Group: j.Group, File: j.File, Line: j.Line, Schedule: config.Describe(j.Fields, j.Location),
		Timezone: j.Location.String(), Enabled: j.Enabled, Command: j.Command, Targets: j.Targets, TargetType: j.TargetType,
		Description: j.Description, Next: []time.Time{}, Blocked: st.Blocked, Machines: []string{},
		Last: shown(st.Last), Problems: []config.Problem{},
	}
	answer.Definition, _ = redacted(j.Raw, false).(map[string]any)
	if j.Schedule != nil && j.Enabled {
		answer.Next = list(config.NextN(j.Schedule, now, nextShown))
	}
	if match, _, err := set.Matching(j); err == nil {
		for _, m := range match {
			answer.Machines = append(answer.Machines, m.Name)
		}
	}
	for _, p := range problems(set) {
		if p.Job == j.Name {
			answer.Problems = append(answer.Problems, p)
		}
	}
	return answer
}

// hidden stands where a value may be a secret.
const hidden = "(hidden)"

// redacted is a job as written without what may be secret in it: the values of its
// environment, and addresses and commands that tell people, wherever they stand
// (a merge key keeps them one level further down).
func redacted(v any, secret bool) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, value := range v {
			m[key] = redacted(value, secret || key == "env" || key == "notify")
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, value := range v {
			l[i] = redacted(value, secret)
		}
		return l
	}
	if secret {
		return hidden
	}
	return v
}

// problems are a set's, without values of env, which some of them quote.
func problems(set *config.Set) []config.Problem {
	shown := make([]config.Problem, len(set.Problems))
	for i, p := range set.Problems {
		if strings.HasPrefix(p.Key, "env.") && p.Warning && p.Hint != "" {
			p.Text, p.Hint = "becomes another text than it seems", "quote it; `saltpeter check` on the server shows the value"
		}
		shown[i] = p
	}
	return shown
}

func (s *Server) getJobs(w http.ResponseWriter, r *http.Request) error {
	jobs, err := s.jobs(r, "")
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"jobs": list(jobs)})
}

func (s *Server) getJob(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("job")
	jobs, err := s.jobs(r, name)
	if err != nil {
		return err
	}
	if len(jobs) == 0 {
		return &runner.Refusal{Code: runner.CodeNoSuchJob, Text: "there is no job " + quote(name), Hint: "`saltpeter status` lists the jobs"}
	}
	return writeJSON(w, http.StatusOK, jobs[0])
}

func (s *Server) jobs(r *http.Request, only string) ([]Job, error) {
	status, err := s.o.Runner.Status(r.Context())
	if err != nil {
		return nil, err
	}
	set := s.set()
	var jobs []Job
	for _, st := range status.Jobs {
		if set.Jobs[st.Name] != nil && (only == "" || st.Name == only) {
			jobs = append(jobs, s.job(set, st, status.Now))
		}
	}
	return jobs, nil
}

// states are those that runs can be listed by.
var states = []ledger.State{
	ledger.Queued, ledger.Launching, ledger.Running, ledger.Paused, ledger.Stopping, ledger.Succeeded, ledger.Failed, ledger.TimedOut,
	ledger.Killed, ledger.LaunchFailed, ledger.Unreachable, ledger.Skipped, ledger.Unknown, ledger.Lost,
}

func (s *Server) getRuns(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	since, until, limit, err := querySpan(r)
	if err != nil {
		return err
	}
	filter := ledger.RunFilter{Job: q.Get("job"), Machine: q.Get("machine"), Since: since, Until: until, Limit: limit, Cursor: q.Get("cursor")}
	for _, state := range strings.FieldsFunc(q.Get("state"), func(c rune) bool { return c == ',' }) {
		if !slices.Contains(states, ledger.State(state)) {
			return &Error{Status: http.StatusBadRequest, Code: runner.CodeBadRequest, Text: "there is no state " + quote(state), Hint: fmt.Sprintf("use some of %v, with commas", states)}
		}
		filter.States = append(filter.States, ledger.State(state))
	}
	page, err := s.o.Ledger.Runs(r.Context(), filter)
	if errors.Is(err, ledger.ErrCursor) {
		return badRequest("%v", err)
	}
	if err != nil {
		return err
	}
	for i := range page.Runs {
		page.Runs[i].Tasks = list(page.Runs[i].Tasks)
	}
	return writeJSON(w, http.StatusOK, map[string]any{"runs": list(page.Runs), "next": page.Next})
}

func (s *Server) getRun(w http.ResponseWriter, r *http.Request) error {
	run, err := s.o.Ledger.Run(r.Context(), r.PathValue("run"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, shown(run))
}

func (s *Server) getSkips(w http.ResponseWriter, r *http.Request) error {
	since, until, limit, err := querySpan(r)
	if err != nil {
		return err
	}
	skips, err := s.o.Ledger.Skips(r.Context(), r.URL.Query().Get("job"), since, until, limit)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"skips": list(skips)})
}

func (s *Server) getAudit(w http.ResponseWriter, r *http.Request) error {
	since, err := queryTime(r, "since")
	if err != nil {
		return err
	}
	limit, err := queryLimit(r)
	if err != nil {
		return err
	}
	entries, err := s.o.Ledger.Audit(r.Context(), since, limit)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"audit": list(entries)})
}

// Machine is one of the inventory as /api/v1/machines shows it.
type Machine struct {
	Name        string         `json:"name"`
	Transport   string         `json:"transport"`
	Address     string         `json:"address,omitempty"`
	Enabled     bool           `json:"enabled"`
	Maintenance bool           `json:"maintenance"`
	Tasks       int            `json:"tasks"`                     // live on it
	Version     string         `json:"wrapper_version,omitempty"` // of the last wrapper seen there
	Source      string         `json:"source,omitempty"`
	Grains      map[string]any `json:"grains,omitempty"`
}

func (s *Server) getMachines(w http.ResponseWriter, r *http.Request) error {
	status, err := s.o.Runner.Status(r.Context())
	if err != nil {
		return err
	}
	set := s.set()
	machines := []Machine{}
	for _, m := range set.Machines {
		a := Machine{Name: m.Name, Transport: "local", Address: m.SSH, Enabled: m.Enabled, Source: m.Source, Grains: m.Grains}
		if m.SSH != "" && !m.Local {
			a.Transport = "ssh"
		}
		a.Maintenance = slices.Contains(set.Maintenance.Machines, m.Name)
		for _, t := range status.Tasks {
			if t.Machine == m.Name && !t.State.Done() {
				a.Tasks++
				a.Version = t.Version
			}
		}
		machines = append(machines, a)
	}
	return writeJSON(w, http.StatusOK, map[string]any{"machines": machines})
}

// Config is the answer of /api/v1/config.
type Config struct {
	Dir      string           `json:"dir"`
	Serial   string           `json:"serial"`
	Error    string           `json:"error,omitempty"`
	Files    []ConfigFile     `json:"files"`
	Problems []config.Problem `json:"problems"`
	Reports  []Reporter       `json:"reports"`
}

// ConfigFile is one file of the folder.
type ConfigFile struct {
	Name     string   `json:"name"`
	Group    string   `json:"group"`
	Hash     string   `json:"hash"`
	Broken   bool     `json:"broken"`
	LastGood bool     `json:"last_good"` // jobs of an earlier version are in force
	Jobs     []string `json:"jobs"`
}

func (s *Server) getConfig(w http.ResponseWriter, r *http.Request) error {
	set := s.set()
	answer := Config{Dir: s.o.ConfigDir, Serial: set.Serial, Error: s.configError(), Files: []ConfigFile{}, Problems: problems(set), Reports: s.reporters(r.Context())}
	for _, f := range set.Files {
		answer.Files = append(answer.Files, ConfigFile{Name: f.Name, Group: f.Group, Hash: f.Hash, Broken: f.Broken, LastGood: f.LastGood, Jobs: list(f.Jobs)})
	}
	return writeJSON(w, http.StatusOK, answer)
}

// postCheck reads the folder as it is on the disk now and says what would change.
func (s *Server) postCheck(w http.ResponseWriter, r *http.Request) error {
	running := s.o.Runner.Files()
	fresh, err := config.Load(s.o.ConfigDir, nil)
	if err != nil {
		return &Error{Status: http.StatusConflict, Code: "config_unreadable", Text: err.Error()}
	}
	return writeJSON(w, http.StatusOK, map[string]any{
		"problems": problems(fresh), "diff": list(config.Diff(running, fresh)), "errors": len(fresh.Errors()),
	})
}
