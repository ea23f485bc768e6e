package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/runner"
	"saltpeter/runner/api"
	"saltpeter/wsx/wire"
)

// selectors are the flags that choose tasks, the same for every verb that acts
// on them.
type selectors struct {
	job, run  string
	machine   string
	states    []string
	failed    bool
	olderThan time.Duration
	all       bool
	yes       bool
}

func (s *selectors) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.job, "job", "", "the job of this name, where a run has the same")
	f.StringVar(&s.run, "run", "", "the run of this name, where a job has the same")
	f.StringVarP(&s.machine, "machine", "m", "", "only on machines that match this glob")
	f.StringSliceVar(&s.states, "state", nil, "only in these states: running, paused, disconnected, lost, overdue, …")
	f.BoolVar(&s.failed, "failed", false, "only disconnected, lost and overdue ones, and failed ones with leftovers")
	durationVar(f, &s.olderThan, "older-than", "only those that started longer ago than this")
	f.BoolVar(&s.all, "all", false, "everything that runs")
	f.BoolVarP(&s.yes, "yes", "y", false, "do not ask")
}

// selection is what the request says. A named job or run is consent; a selector
// without one shows what it would hit, and asks.
func (s *selectors) selection(args []string) (q api.Selection, mustAsk bool, err error) {
	q = api.Selection{Job: s.job, Run: s.run, Machine: s.machine, States: s.states, Failed: s.failed, OlderThan: api.Duration(s.olderThan), All: s.all}
	if len(args) > 0 {
		q.Name = args[0]
	}
	named := q.Name != "" || q.Job != "" || q.Run != ""
	if named && s.all {
		return q, false, &failure{code: exitUsage, stable: "usage", text: "--all and a name exclude each other", hint: "leave one of them out"}
	}
	if !named && !s.all && s.machine == "" && len(s.states) == 0 && !s.failed && s.olderThan == 0 {
		return q, false, &failure{code: exitUsage, stable: "usage", text: "what? name a job or a run, or give a selector",
			hint: "`saltpeter status` shows what runs; --all means everything"}
	}
	return q, !named && !s.yes, nil
}

// confirm asks on a terminal, and refuses without one.
func (a *app) confirm(question string) error {
	if !isTerminal(a.in) {
		return &failure{code: exitUsage, stable: "needs_yes", text: "this would hit more than one named job, and nobody is there to be asked", hint: "add --yes, or look first with --dry-run"}
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	line, _ := bufio.NewReader(a.in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return &failure{code: exitFailed, stable: "refused", text: "nothing was done"}
	}
	return nil
}

// killFlags are the flags of kill.
type killFlags struct {
	selectors
	signal   string
	grace    time.Duration
	dryRun   bool
	noWait   bool
	withdraw bool
}

func (a *app) killVerb() *cobra.Command {
	var o killFlags
	c := &cobra.Command{
		Use:   "kill [JOB or RUN]",
		Short: "End jobs, with proof that nothing is left",
		Long: `End jobs, with proof that nothing is left.

Every process of the job gets the signal, then its grace, then SIGKILL, until nothing
is left. Each task ends with a receipt: gone, with the proof; or what is still alive
and why; or that the machine could not be reached and that the kill stands and will be
carried on. Exit code 5 means that a kill could not be confirmed everywhere.`,
		Example: `  saltpeter kill backup                   every running task of the job
  saltpeter kill backup_1700000000        one run
  saltpeter kill backup -m 'db*'          on some machines
  saltpeter kill --failed --dry-run       what that would hit
  saltpeter kill backup --signal KILL     at once`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeNames,
		RunE: func(c *cobra.Command, args []string) error {
			q, ask, err := o.selection(args)
			if err != nil {
				return err
			}
			req := api.KillRequest{Selection: q, Signal: o.signal, NoWait: o.noWait, Withdraw: o.withdraw}
			if c.Flags().Changed("grace") {
				g := api.Duration(o.grace)
				req.Grace = &g
			}
			return a.kill(c.Context(), req, o.dryRun, ask)
		},
	}
	o.flags(c)
	f := c.Flags()
	f.StringVarP(&o.signal, "signal", "s", "", "the first signal (default the job's kill_signal, TERM); KILL ends it at once")
	durationVar(f, &o.grace, "grace", "how long to wait before SIGKILL (default the job's kill_grace, 5s)")
	f.BoolVar(&o.dryRun, "dry-run", false, "only show what would be killed")
	f.BoolVar(&o.noWait, "no-wait", false, "ask for it and return: saltpeter status shows how it goes")
	f.BoolVar(&o.withdraw, "withdraw", false, "take back a kill that has not got through yet")
	return c
}

// kill asks for what was selected, after a look and a question where the request
// names no job, and prints the receipts as they come.
func (a *app) kill(ctx context.Context, req api.KillRequest, dryRun, ask bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	if dryRun || ask {
		hit, err := a.wouldKill(ctx, client, req, dryRun)
		if err != nil || dryRun {
			return err
		}
		if err := a.confirm(fmt.Sprintf("kill %s?", plural(hit, "task", "tasks"))); err != nil {
			return err
		}
	}
	worst := exitOK
	err = client.Kill(ctx, req, func(r runner.Receipt) error {
		if !settled(r, req.NoWait) {
			worst = exitUnconfirmed
		}
		return a.receipt(r)
	})
	var gone *api.Unreachable
	if errors.As(err, &gone) {
		f := explain(err)
		f.hint = "what was asked may stand: see `saltpeter status`"
		return f
	}
	if err != nil {
		return err
	}
	return quiet(worst)
}

// wouldKill shows what a kill would hit: as the result of a dry run, else beside
// the question.
func (a *app) wouldKill(ctx context.Context, client *api.Client, req api.KillRequest, dryRun bool) (hit int, err error) {
	req.DryRun = true
	to := a.err
	if dryRun {
		to = a.out
	}
	err = client.Kill(ctx, req, func(r runner.Receipt) error {
		hit++
		if a.output == "json" && dryRun {
			return a.jsonLine(r)
		}
		_, err := fmt.Fprintf(to, "would kill %s on %s\n", printable(r.Run), printable(r.Machine))
		return err
	})
	return hit, err
}

// settled reports whether a receipt leaves nothing open.
func settled(r runner.Receipt, noWait bool) bool {
	switch r.Outcome {
	case wire.OutcomeGone, wire.OutcomeNotRunning, wire.OutcomeNeverStarted, "withdrawn":
		return true
	case "asked":
		return noWait
	}
	return false
}

// receipt prints one line a task, as it is settled.
func (a *app) receipt(r runner.Receipt) error {
	if a.output == "json" {
		return a.jsonLine(r)
	}
	_, err := fmt.Fprintln(a.out, a.receiptText(r))
	return err
}

func (a *app) receiptText(r runner.Receipt) string {
	outcome := r.Outcome
	paint := green
	switch r.Outcome {
	case wire.OutcomeAlive:
		outcome, paint = "ALIVE", red
	case wire.OutcomeUnknown, wire.OutcomeUnreachable:
		paint = red
	}
	parts := []string{printable(r.Machine), a.colour(paint, outcome)}
	if road := roadText(r); road != "" {
		parts = append(parts, road)
	}
	switch r.Phase {
	case wire.PhaseTerm:
		parts = append(parts, orDefault(r.Signal, "TERM"))
	case wire.PhaseKill:
		parts = append(parts, "KILL")
	}
	if r.Outcome == wire.OutcomeGone {
		parts = append(parts, fmt.Sprintf("%.2fs", r.TookMS/1000))
	}
	if r.ProcessesBefore > 0 {
		parts = append(parts, plural(r.ProcessesBefore, "process", "processes"))
	}
	if r.Proof != "" {
		parts = append(parts, "proof "+r.Proof)
	}
	if r.ExitCode != nil {
		parts = append(parts, fmt.Sprintf("exit %d", *r.ExitCode))
	}
	for _, p := range r.Left {
		parts = append(parts, fmt.Sprintf("pid %d (%s, %s) %s", p.PID, p.State, printable(p.Command), p.Reason))
	}
	if r.Reason != "" {
		parts = append(parts, printable(r.Reason))
	}
	if r.Alive > len(r.Left) {
		parts = append(parts, fmt.Sprintf("and %d more", r.Alive-len(r.Left)))
	}
	if r.Already {
		parts = append(parts, "(a kill was under way)")
	}
	if r.Error != "" {
		parts = append(parts, printable(r.Error))
	}
	if r.Pending {
		parts = append(parts, "the kill stands and will be carried on")
	}
	return strings.Join(parts, "  ")
}

// roadText is the road that answered, or that none did.
func roadText(r runner.Receipt) string {
	lost := ""
	if r.WebsocketLost > 0 {
		lost = fmt.Sprintf(" (websocket lost %s ago)", span(time.Duration(r.WebsocketLost*float64(time.Second))))
	}
	switch {
	case r.Via != "" && r.Outcome != wire.OutcomeAlive:
		return "via " + r.Via + lost
	case r.Via == "" && r.Outcome == wire.OutcomeUnreachable:
		return "no road" + lost
	}
	return ""
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// controlVerb is the shape of pause, resume and signal.
func (a *app) controlVerb(c *cobra.Command, args func([]string) (names []string), do func(*cobra.Command, *api.Client, api.Selection, []string, func(runner.Answer) error) error) *cobra.Command {
	var sel selectors
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, given []string) error {
		q, ask, err := sel.selection(args(given))
		if err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		defer client.Close()
		if ask {
			if err := a.confirm(c.Name() + " everything that this selects?"); err != nil {
				return err
			}
		}
		code := exitOK
		err = do(c, client, q, given, func(r runner.Answer) error {
			if !r.OK {
				code = exitFailed
			}
			if a.output == "json" {
				return a.jsonLine(r)
			}
			text := "done"
			if !r.OK {
				text = "FAILED"
			}
			line := fmt.Sprintf("%s  %s  %s", printable(r.Machine), printable(r.Run), text)
			if r.Via != "" {
				line += "  via " + r.Via
			}
			if r.Error != "" {
				line += "  " + printable(r.Error)
			}
			_, err := fmt.Fprintln(a.out, line)
			return err
		})
		if err != nil {
			return err
		}
		return quiet(code)
	}
	sel.flags(c)
	return c
}

func first(args []string) []string {
	if len(args) > 1 {
		return args[:1]
	}
	return args
}

func (a *app) pauseVerb() *cobra.Command {
	var ttl time.Duration
	c := a.controlVerb(&cobra.Command{
		Use: "pause [JOB or RUN]", Short: "Freeze jobs until they are resumed", Args: cobra.MaximumNArgs(1),
		Example: `  saltpeter pause backup --ttl 30m   thaws by itself, also when the server is gone`,
	}, first, func(c *cobra.Command, client *api.Client, q api.Selection, _ []string, on func(runner.Answer) error) error {
		return client.Pause(c.Context(), api.PauseRequest{Selection: q, TTL: api.Duration(ttl)}, on)
	})
	durationVar(c.Flags(), &ttl, "ttl", "thaw by itself after this time")
	return c
}

func (a *app) resumeVerb() *cobra.Command {
	return a.controlVerb(&cobra.Command{Use: "resume [JOB or RUN]", Short: "Let paused jobs go on", Args: cobra.MaximumNArgs(1)},
		first, func(c *cobra.Command, client *api.Client, q api.Selection, _ []string, on func(runner.Answer) error) error {
			return client.Resume(c.Context(), q, on)
		})
}

func (a *app) signalVerb() *cobra.Command {
	var scope string
	c := a.controlVerb(&cobra.Command{
		Use: "signal [JOB or RUN] SIGNAL", Short: "Send one signal, without any escalation", Args: cobra.RangeArgs(1, 2),
		Example: "  saltpeter signal nginx-reload HUP\n  saltpeter signal worker USR1 --scope all",
	}, func(args []string) []string { return args[:len(args)-1] },
		func(c *cobra.Command, client *api.Client, q api.Selection, given []string, on func(runner.Answer) error) error {
			return client.Signal(c.Context(), api.SignalRequest{Selection: q, Signal: given[len(given)-1], Scope: scope}, on)
		})
	c.Flags().StringVar(&scope, "scope", "main", "main: the main process; all: every process of the job")
	return c
}
