package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/runner"
	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
)

func (a *app) statusVerb() *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:   "status [JOB or RUN]",
		Short: "What runs, where, since when, how it can be reached, and what comes next",
		Args:  cobra.MaximumNArgs(1),
		Example: `  saltpeter status                everything, broken job files first
  saltpeter status backup         one job, or one run
  saltpeter status --watch        kept up to date`,
		ValidArgsFunction: a.completeNames,
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			name := strings.Join(args, "")
			if watch {
				return a.watchStatus(c.Context(), client, name)
			}
			return a.printStatus(c.Context(), client, name, a.out)
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "keep it up to date")
	return c
}

// printStatus prints one look.
func (a *app) printStatus(ctx context.Context, client *api.Client, name string, w io.Writer) error {
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	var run *ledger.Run
	if name != "" {
		if run, err = narrow(ctx, client, st, name); err != nil {
			return err
		}
	}
	if a.output == "json" {
		if run != nil {
			return a.json(run)
		}
		return a.json(st)
	}
	if run != nil {
		a.runTable(w, *run, st.Tasks, st.Now)
		return nil
	}
	a.problems(w, st)
	a.reporters(w, st)
	a.liveTable(w, st)
	a.jobTable(w, st)
	return nil
}

// narrow keeps what concerns one job, or returns the run of that name.
func narrow(ctx context.Context, client *api.Client, st *api.Status, name string) (*ledger.Run, error) {
	var jobs []runner.JobStatus
	for _, j := range st.Jobs {
		if j.Name == name {
			jobs = append(jobs, j)
		}
	}
	var tasks []runner.TaskStatus
	for _, t := range st.Tasks {
		if t.Job == name {
			tasks = append(tasks, t)
		}
	}
	if len(jobs) == 0 && len(tasks) == 0 {
		run, err := client.Run(ctx, name)
		var answer *api.Error
		if errors.As(err, &answer) && answer.Code == runner.CodeNoSuchRun {
			return nil, &failure{code: exitNothing, stable: "no_such_job", text: fmt.Sprintf("there is no job or run %q", name),
				hint: "`saltpeter status` lists the jobs, `saltpeter history` the runs"}
		}
		return run, err
	}
	st.Jobs, st.Tasks = jobs, tasks
	return nil, nil
}

// problems come first: a file that is broken keeps jobs in force that it no
// longer says.
func (a *app) problems(w io.Writer, st *api.Status) {
	if st.StateError != "" {
		fmt.Fprintf(w, "%s %s; kills are carried out, no run starts\n\n", a.colour(red, "NOTHING CAN BE RECORDED"), printable(st.StateError))
	}
	if st.ConfigError != "" {
		fmt.Fprintf(w, "%s %s; what was read last stays in force\n\n", a.colour(red, "JOB FILES UNREADABLE"), printable(st.ConfigError))
	}
	var errs, warnings int
	for _, p := range st.Problems {
		if p.Warning {
			warnings++
			continue
		}
		if errs++; errs == 1 {
			fmt.Fprintln(w, a.colour(red, "PROBLEMS IN JOB FILES")+" (jobs keep their last good version)")
		}
		fmt.Fprintf(w, "  %s\n", printable(p.String()))
	}
	if warnings > 0 {
		fmt.Fprintf(w, "%s in job files: see `saltpeter check`\n", plural(warnings, "warning", "warnings"))
	}
	if errs+warnings > 0 {
		fmt.Fprintln(w)
	}
	if st.Maintenance.Global || len(st.Maintenance.Machines) > 0 {
		if st.Maintenance.Global {
			fmt.Fprintln(w, a.colour(yellow, "MAINTENANCE")+": no new run starts")
		} else {
			fmt.Fprintf(w, "%s on %s: left out of every run\n", a.colour(yellow, "MAINTENANCE"), printable(strings.Join(st.Maintenance.Machines, ", ")))
		}
		for _, s := range st.Maintenance.Sources {
			fmt.Fprintf(w, "  %s\n", printable(sourceWords(s, st.Now)))
		}
		fmt.Fprintln(w)
	}
}

func (a *app) liveTable(w io.Writer, st *api.Status) {
	if len(st.Tasks) == 0 {
		fmt.Fprintln(w, "nothing is running")
		fmt.Fprintln(w)
		return
	}
	rows := [][]string{{"RUN", "MACHINE", "STATE", "FOR", "OUTPUT", "ROAD", "PID", "NOTES"}}
	for _, t := range st.Tasks {
		pid := "-"
		if t.Identity != nil {
			pid = fmt.Sprint(t.Identity.PID)
		}
		rows = append(rows, []string{t.Run, t.Machine, string(t.State), lasted(t.Task, st.Now), size(t.Length), orDefault(t.Road, "none"), pid, strings.Join(marks(t, st.Now), ", ")})
	}
	writeTable(w, rows)
	fmt.Fprintln(w)
}

// marks are what is to be said of a task beside its state.
func marks(t runner.TaskStatus, now time.Time) []string {
	var m []string
	switch {
	case t.Disconnected && t.LastContact.IsZero(): // this server has never heard of it
		m = append(m, "disconnected")
	case t.Disconnected:
		m = append(m, "disconnected since "+clock(t.LastContact, now))
	}
	if t.StartUnsure != "" {
		m = append(m, "not known whether it started, the machine is asked: "+t.StartUnsure)
	}
	if t.Unwatched {
		m = append(m, "cannot be watched (use_wrapper: false)")
	}
	if t.Overdue {
		m = append(m, "overdue")
	}
	if t.KillPending != "" {
		m = append(m, "kill pending: "+t.KillPending)
	}
	if n := len(t.Alive); n > 0 {
		m = append(m, fmt.Sprintf("kill failed: %s alive, pid %d (%s, %s) %s", plural(n, "process", "processes"), t.Alive[0].PID, t.Alive[0].State, t.Alive[0].Command, t.Alive[0].Reason))
	}
	if t.Leftover > 0 {
		m = append(m, fmt.Sprintf("leftover=%d", t.Leftover))
	}
	if t.Reason != "" {
		m = append(m, t.Reason)
	}
	return m
}

func (a *app) jobTable(w io.Writer, st *api.Status) {
	if len(st.Jobs) == 0 {
		fmt.Fprintf(w, "no jobs in %s\n", st.ConfigDir)
		return
	}
	rows := [][]string{{"JOB", "GROUP", "NEXT", "IN", "LAST", "RESULT", "NOTES"}}
	for _, j := range st.Jobs {
		next, in := "never", "-"
		if !j.Next.IsZero() {
			next, in = clock(j.Next, st.Now), span(j.Next.Sub(st.Now))
		}
		last, result := "-", "-"
		if j.Last != nil {
			last, result = clock(j.Last.Fired, st.Now), runState(*j.Last)
		}
		rows = append(rows, []string{j.Name, j.Group, next, in, last, result, j.Blocked})
	}
	writeTable(w, rows)
}

// runTable shows one run with its tasks.
func (a *app) runTable(w io.Writer, r ledger.Run, live []runner.TaskStatus, now time.Time) {
	fmt.Fprintf(w, "%s  job %s  %s\n", printable(r.ID), printable(r.Job), a.colour(stateColour(runState(r)), runState(r)))
	fmt.Fprintf(w, "due %s, fired %s later, by %s\n", clock(r.Due, now), span(r.Fired.Sub(r.Due)), orDefault(r.By, r.Trigger))
	if r.Detail != "" {
		fmt.Fprintln(w, printable(r.Detail))
	}
	if len(r.Tasks) == 0 {
		return
	}
	fmt.Fprintln(w)
	rows := [][]string{{"MACHINE", "STATE", "EXIT", "STARTED", "TOOK", "OUTPUT", "NOTES"}}
	for _, t := range r.Tasks {
		notes := []string{}
		if t.Reason != "" {
			notes = append(notes, t.Reason)
		}
		if t.Leftover > 0 {
			notes = append(notes, fmt.Sprintf("leftover=%d", t.Leftover))
		}
		for _, l := range live {
			if l.TaskID == t.TaskID {
				notes = marks(l, now)
			}
		}
		if t.End != nil && t.End.Cause != "" {
			end := "cause " + t.End.Cause
			if t.End.Proof != "" {
				end += ", proof " + t.End.Proof
			}
			notes = append(notes, end)
		}
		if t.Kill != nil && t.Kill.By != "" {
			notes = append(notes, "killed by "+t.Kill.By)
		}
		rows = append(rows, []string{t.Machine, string(t.State), code(t), clock(t.Started, now), lasted(t, now), size(t.Length), strings.Join(notes, "; ")})
	}
	writeTable(w, rows)
}

// size renders a number of bytes.
func size(n int64) string {
	units := []string{"B", "K", "M", "G", "T"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1f%s", f, units[i])
}

// watchStatus prints a new look when something changes, at most twice a second,
// and every 5 s so that durations move.
func (a *app) watchStatus(ctx context.Context, client *api.Client, name string) error {
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := client.Events(ctx, "", "", func(api.Event) error {
				select {
				case changed <- struct{}{}:
				default:
				}
				return nil
			})
			// A server that restarts is waited for: the next look says if it stays
			// away for too long.
			if err != nil && wait(ctx, time.Second, nil) != nil {
				return
			}
		}
	}()
	defer func() { cancel(nil); <-done }()
	const atMost, atLeast = 500 * time.Millisecond, 5 * time.Second
	patience := newPatience()
	for {
		var page bytes.Buffer
		if err := a.printStatus(ctx, client, name, &page); err != nil {
			if err = patience.bear(ctx, err); err != nil {
				return interrupted(ctx, err)
			}
			continue
		}
		patience.reset()
		if isTerminal(a.out) && a.output != "json" {
			fmt.Fprint(a.out, "\x1b[H\x1b[2J")
		}
		a.out.Write(page.Bytes())
		if wait(ctx, atMost, nil) != nil || wait(ctx, atLeast, changed) != nil {
			return interrupted(ctx, context.Cause(ctx))
		}
	}
}

// wait returns nil after a time, or earlier when c gets a value; or why ctx ended.
func wait(ctx context.Context, d time.Duration, c <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	case <-c:
	}
	return nil
}

// interrupted is what a verb returns when it was watching: Ctrl-C is how one
// leaves it, and no failure.
func interrupted(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, context.Canceled) {
			return nil
		}
		return cause
	}
	return err
}
