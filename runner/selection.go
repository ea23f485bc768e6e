package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"saltpeter/config/targets"
	"saltpeter/runner/ledger"
)

// Selector chooses tasks. Empty fields do not restrict.
type Selector struct {
	Name      string        `json:"name,omitempty"` // job or run; Job and Run say which where both exist
	Job       string        `json:"job,omitempty"`
	Run       string        `json:"run,omitempty"`
	Machine   string        `json:"machine,omitempty"` // glob
	States    []string      `json:"states,omitempty"`  // running, paused, disconnected, lost, overdue …
	Failed    bool          `json:"failed,omitempty"`
	OlderThan time.Duration `json:"older_than,omitempty"`
	All       bool          `json:"all,omitempty"`
}

// Marks beside a state that a Selector's States may name as well.
const (
	markDisconnected = "disconnected"
	markOverdue      = "overdue"
	markLeftover     = "leftover"
	markKillPending  = "kill_pending"
)

// selectable are the words that States may hold.
var selectable = []string{
	string(ledger.Queued), string(ledger.Launching), string(ledger.Running), string(ledger.Paused), string(ledger.Stopping),
	string(ledger.Lost), markDisconnected, markOverdue, markLeftover, markKillPending,
}

// selection is a Selector whose Name was resolved to a job or a run.
type selection struct {
	Selector
	machine *targets.Expr // nil: every machine
}

// resolve finds out what a Selector means. isJob and isRun tell what exists.
func (q Selector) resolve(isJob, isRun func(string) (bool, error)) (selection, error) {
	s := selection{Selector: q}
	if q.Name == "" && q.Job == "" && q.Run == "" && q.Machine == "" && len(q.States) == 0 && !q.Failed && q.OlderThan == 0 && !q.All {
		return s, &Refusal{Code: "bad_request", Text: "nothing was chosen", Hint: "name a job or a run, or say --all"}
	}
	if q.Machine != "" {
		expr, err := targets.Parse("glob", q.Machine)
		if err != nil {
			return s, &Refusal{Code: "bad_request", Text: fmt.Sprintf("machine %q: %v", q.Machine, err), Hint: "write a glob such as 'web*'"}
		}
		s.machine = expr
	}
	for _, state := range q.States {
		if !slices.Contains(selectable, state) {
			return s, &Refusal{Code: "bad_request", Text: fmt.Sprintf("there is no state %q to choose by", state), Hint: "use some of " + strings.Join(selectable, ", ")}
		}
	}
	return s, s.name(isJob, isRun)
}

// name resolves job and run.
func (s *selection) name(isJob, isRun func(string) (bool, error)) error {
	var job, run bool
	var err error
	look := func(name string, is func(string) (bool, error)) bool {
		if name == "" || err != nil {
			return false
		}
		var yes bool
		yes, err = is(name)
		return yes
	}
	job, run = look(s.Name, isJob), look(s.Name, isRun)
	jobThere, runThere := look(s.Job, isJob), look(s.Run, isRun)
	switch {
	case err != nil:
		return err
	case s.Name != "" && job && run:
		return &Refusal{Code: "ambiguous", Text: fmt.Sprintf("%q is both a job and a run", s.Name), Hint: fmt.Sprintf("say which: --job %s or --run %s", s.Name, s.Name)}
	case s.Name != "" && !job && !run:
		return &Refusal{Code: "no_such_job", Text: fmt.Sprintf("there is no job and no run %q", s.Name), Hint: "`saltpeter status` lists what runs, `saltpeter history` what ran"}
	case s.Job != "" && !jobThere:
		return &Refusal{Code: "no_such_job", Text: fmt.Sprintf("there is no job %q", s.Job), Hint: "`saltpeter status` lists the jobs"}
	case s.Run != "" && !runThere:
		return &Refusal{Code: "no_such_run", Text: fmt.Sprintf("there is no run %q", s.Run), Hint: "`saltpeter history` lists the runs"}
	case job:
		s.Job = s.Name
	case run:
		s.Run = s.Name
	}
	return nil
}

// whole reports whether jobs or runs are meant as such, and not some of their
// machines or states.
func (s selection) whole() bool {
	return s.Machine == "" && len(s.States) == 0 && !s.Failed && s.OlderThan == 0
}

// matches reports whether a task is meant.
func (s selection) matches(t *TaskStatus, now time.Time) bool {
	switch {
	case s.Job != "" && t.Job != s.Job,
		s.Run != "" && t.Run != s.Run,
		s.machine != nil && !s.machine.Match(targets.Machine{Name: t.Machine}),
		len(s.States) > 0 && !slices.ContainsFunc(s.States, func(state string) bool { return t.is(state) }),
		s.Failed && !(t.is(markDisconnected) || t.is(string(ledger.Lost)) || t.is(markOverdue) || t.is(markLeftover)),
		s.OlderThan > 0 && now.Sub(t.since()) < s.OlderThan:
		return false
	}
	return true
}

// nothing is the refusal for a selection that no task matches.
func (s selection) nothing(withdraw bool) *Refusal {
	what := "nothing that was chosen"
	switch {
	case s.Run != "":
		what = fmt.Sprintf("run %q", s.Run)
	case s.Job != "":
		what = fmt.Sprintf("job %q", s.Job)
	}
	if !s.whole() {
		what = "nothing that was chosen"
	}
	text := what + " is not running"
	if strings.HasPrefix(what, "nothing") {
		text = "nothing that was chosen is running"
	}
	if withdraw {
		text = "no kill stands there"
	}
	return &Refusal{Code: "nothing_running", Text: text, Hint: "`saltpeter status` shows what runs"}
}

// choose lists the tasks that a selection means and that are wanted, in order of
// queueing.
func (ts *tasks) choose(s selection, want func(*TaskStatus) bool) []*task {
	now := time.Now()
	type pair struct {
		task   *task
		status TaskStatus
	}
	var chosen []pair
	for _, t := range ts.every() {
		st := t.status(now)
		if want(&st) && s.matches(&st, now) {
			chosen = append(chosen, pair{t, st})
		}
	}
	slices.SortFunc(chosen, func(a, b pair) int { return byQueue(&a.status.Task, &b.status.Task) })
	all := make([]*task, len(chosen))
	for i, p := range chosen {
		all[i] = p.task
	}
	return all
}

// killable: what lives, is lost, or has left something behind.
func killable(t *TaskStatus) bool {
	return !over(t.State) || t.Leftover > 0 || t.Kill.Standing()
}

// withdrawable: what a kill stands for.
func withdrawable(t *TaskStatus) bool { return t.Kill.Standing() }

// knowsJob reports whether there is or was a job of this name.
func (r *Runner) knowsJob(ctx context.Context) func(string) (bool, error) {
	return func(name string) (bool, error) {
		if r.Config().Jobs[name] != nil {
			return true, nil
		}
		page, err := r.o.Ledger.Runs(ctx, ledger.RunFilter{Job: name, Limit: 1})
		return len(page.Runs) > 0, err
	}
}

// knowsRun reports whether there is a run of this name.
func (r *Runner) knowsRun(ctx context.Context) func(string) (bool, error) {
	return func(name string) (bool, error) {
		_, err := r.o.Ledger.Run(ctx, name)
		if errors.Is(err, ledger.ErrNoRun) {
			return false, nil
		}
		return err == nil, err
	}
}

// signals that may be sent, by their numbers on Linux.
var signals = [...]string{
	1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 10: "USR1", 11: "SEGV",
	12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 16: "STKFLT", 17: "CHLD", 18: "CONT", 19: "STOP", 20: "TSTP", 21: "TTIN",
	22: "TTOU", 23: "URG", 24: "XCPU", 25: "XFSZ", 26: "VTALRM", 27: "PROF", 28: "WINCH", 29: "IO", 30: "PWR", 31: "SYS",
}

// signalName reads a signal as people write it: TERM, SIGTERM, term, 15.
func signalName(text string) (string, error) {
	name := strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(text)), "SIG")
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(signals) {
		name = signals[n]
	}
	if name != "" && slices.Contains(signals[:], name) {
		return name, nil
	}
	return "", &Refusal{Code: "bad_request", Text: fmt.Sprintf("there is no signal %q", text), Hint: "use a name such as TERM, INT, USR1 or KILL"}
}
