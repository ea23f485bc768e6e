package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
)

// pastReader is where history comes from: the server, or its book while no
// server is there.
type pastReader interface {
	Runs(context.Context, ledger.RunFilter) (ledger.RunPage, error)
	Skips(ctx context.Context, job string, since, until time.Time, limit int) ([]ledger.Skip, error)
}

// past opens the history. A server that answers is asked; otherwise the book is
// read, which a state directory without a server allows.
func (a *app) past(ctx context.Context, stateDir string) (pastReader, func(), error) {
	if stateDir == "" {
		client, err := a.client()
		if err != nil {
			return nil, nil, err
		}
		_, err = client.Runs(ctx, ledger.RunFilter{Limit: 1})
		var gone *api.Unreachable
		if err == nil || !errors.As(err, &gone) {
			return client, client.Close, err
		}
		client.Close()
		if a.addr != "" { // whose folder is another is not known
			f := explain(err)
			if f.stable == "unreachable" {
				f.hint += "; without a server --state-dir DIR reads its state directory"
			}
			return nil, nil, f
		}
		stateDir = defaultStateDir()
		if _, missing := os.Stat(stateDir); missing != nil {
			return nil, nil, err
		}
	}
	book, err := ledger.OpenReadOnly(ctx, stateDir)
	if errors.Is(err, ledger.ErrLocked) {
		return nil, nil, &failure{code: exitUnreachable, stable: "locked", text: err.Error(), hint: "that server runs: ask it with --addr unix:///PATH of its socket"}
	}
	if err != nil {
		return nil, nil, unreadBook(err)
	}
	a.say("no server is running: reading %s", stateDir)
	return book, func() { book.Close() }, nil
}

// unreadBook says what to do about a book that cannot be read.
func unreadBook(err error) *failure {
	switch {
	case errors.Is(err, ledger.ErrOlder):
		return &failure{code: exitFailed, stable: "state_version", text: err.Error(), hint: "start the server on it once with this saltpeter: `saltpeter serve --state-dir DIR`"}
	case errors.Is(err, ledger.ErrNewer):
		return &failure{code: exitFailed, stable: "state_version", text: err.Error(), hint: "read it with the newer saltpeter that wrote it"}
	}
	return failed(err, "name the server's folder with --state-dir")
}

// historyLine is one line of the history: a run, or due times without one.
type historyLine struct {
	at   time.Time
	Run  *ledger.Run  `json:"run,omitempty"`
	Skip *ledger.Skip `json:"skip,omitempty"`
}

func (a *app) historyVerb() *cobra.Command {
	var (
		machine, stateDir, since string
		onlyFailed               bool
		n                        int
	)
	c := &cobra.Command{
		Use:   "history [JOB]",
		Short: "Past runs, and due times that had none",
		Args:  cobra.MaximumNArgs(1),
		Example: `  saltpeter history backup -n 50
  saltpeter history --failed --since 24h
  saltpeter history --state-dir /var/lib/saltpeter    without a server`,
		ValidArgsFunction: a.completeJobs,
		RunE: func(c *cobra.Command, args []string) error {
			if n < 1 {
				return usage("-n %d is no number of runs", n)
			}
			now := time.Now()
			from, err := ago(since, now)
			if err != nil {
				return err
			}
			f := ledger.RunFilter{Machine: machine, Since: from, Limit: n}
			if len(args) > 0 {
				f.Job = args[0]
			}
			if onlyFailed {
				f.States = []ledger.State{ledger.Failed, ledger.TimedOut, ledger.Killed, ledger.LaunchFailed, ledger.Unreachable, ledger.Unknown, ledger.Lost}
			}
			reader, done, err := a.past(c.Context(), stateDir)
			if err != nil {
				return err
			}
			defer done()
			lines, err := readHistory(c.Context(), reader, f, !onlyFailed && machine == "")
			if err != nil {
				return err
			}
			if len(lines) == 0 && f.Job != "" {
				return &failure{code: exitNothing, stable: "no_runs", text: fmt.Sprintf("no run of %q is on record", f.Job), hint: "`saltpeter next` shows when it is due"}
			}
			return a.printHistory(lines, now)
		},
	}
	f := c.Flags()
	f.StringVarP(&machine, "machine", "m", "", "only runs that went to this machine")
	f.BoolVar(&onlyFailed, "failed", false, "only runs that did not succeed everywhere")
	f.StringVar(&since, "since", "", "only from then on: a duration like 24h, or a time like 2026-01-02T15:04:05Z")
	f.IntVarP(&n, "number", "n", 20, "how many")
	f.StringVar(&stateDir, "state-dir", "", "read this folder instead of asking a server")
	return c
}

// readHistory joins runs and skipped due times, the newest last.
func readHistory(ctx context.Context, reader pastReader, f ledger.RunFilter, withSkips bool) ([]historyLine, error) {
	page, err := reader.Runs(ctx, f)
	if err != nil {
		return nil, err
	}
	var lines []historyLine
	for i := range page.Runs {
		page.Runs[i].Definition = nil
		lines = append(lines, historyLine{at: page.Runs[i].Due, Run: &page.Runs[i]})
	}
	if withSkips {
		skips, err := reader.Skips(ctx, f.Job, f.Since, f.Until, f.Limit)
		if err != nil {
			return nil, err
		}
		for i := range skips {
			lines = append(lines, historyLine{at: skips[i].To, Skip: &skips[i]})
		}
	}
	sort.SliceStable(lines, func(i, j int) bool { return lines[i].at.Before(lines[j].at) })
	if len(lines) > f.Limit {
		lines = lines[len(lines)-f.Limit:]
	}
	return lines, nil
}

func (a *app) printHistory(lines []historyLine, now time.Time) error {
	if a.output == "json" {
		for _, l := range lines {
			if err := a.jsonLine(l); err != nil {
				return err
			}
		}
		return nil
	}
	if len(lines) == 0 {
		fmt.Fprintln(a.out, "no runs yet")
		return nil
	}
	header := []string{"DUE", "RUN", "STATE", "EXIT", "TOOK", "MACHINES", "BY"}
	if a.output == "wide" {
		header = append(header, "LATE", "CAUSE", "PROOF")
	}
	rows := [][]string{header}
	for _, l := range lines {
		if l.Skip != nil {
			rows = append(rows, skipRow(*l.Skip, now))
			continue
		}
		rows = append(rows, a.runRow(*l.Run, now))
	}
	a.table(rows)
	return nil
}

func skipRow(s ledger.Skip, now time.Time) []string {
	what := fmt.Sprintf("%s (not run)", s.Job)
	if s.Count > 1 {
		what = fmt.Sprintf("%s (%d times not run, from %s)", s.Job, s.Count, clock(s.From, now))
	}
	return []string{clock(s.To, now), what, s.Reason, "-", "-", "-", orDefault(s.Detail, "-")}
}

func (a *app) runRow(r ledger.Run, now time.Time) []string {
	exit, took, cause, proof := "-", "-", "-", "-"
	var longest ledger.Task
	for i, t := range r.Tasks {
		if i == 0 || t.Ended.Sub(t.Started) > longest.Ended.Sub(longest.Started) {
			longest = t
		}
		if t.End != nil {
			cause, proof = orDefault(t.End.Cause, cause), orDefault(t.End.Proof, proof)
		}
	}
	if len(r.Tasks) > 0 {
		took = lasted(longest, now)
	}
	if len(r.Tasks) == 1 {
		exit = code(r.Tasks[0])
	}
	row := []string{clock(r.Due, now), r.ID, runState(r), exit, took, fmt.Sprint(len(r.Tasks)), orDefault(r.By, r.Trigger)}
	if a.output == "wide" {
		row = append(row, span(r.Fired.Sub(r.Due)), cause, proof)
	}
	return row
}

// ago reads --since: a duration before now, or a time.
func ago(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := parseSpan(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, &failure{code: exitUsage, stable: "usage", text: fmt.Sprintf("cannot read the time %q", s), hint: "write a duration like 90m or 7d, or a time like 2026-01-02T15:04:05Z"}
}
