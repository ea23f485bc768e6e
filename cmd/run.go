package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
)

func (a *app) runVerb() *cobra.Command {
	var (
		machines                      []string
		follow, wait, noMirror, force bool
	)
	c := &cobra.Command{
		Use:   "run JOB",
		Short: "Start a job now",
		Long: `Start a job now, and print the run's name.

Maintenance and overlap are respected; --force says otherwise. With --follow or --wait
the exit code is the task's own where one machine ran it; on several machines it is 0 if
all are 0, the common code if all failures share one, else 1. In that mode failures of
saltpeter's own are 125. Ctrl-C detaches: the job goes on.`,
		Example: `  saltpeter run backup
  saltpeter run backup -f             follow the output to the end
  saltpeter run backup -m 'db*' --wait`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeJobs,
		RunE: func(c *cobra.Command, args []string) error {
			mirror := (follow || wait) && !noMirror
			err := a.runJob(c.Context(), args[0], api.RunRequest{Machines: machines, Force: force}, follow, wait, mirror)
			if f := (*failure)(nil); err != nil && mirror && !(errors.As(err, &f) && f.text == "") {
				own := explain(err)
				own.code = exitOwnFailure
				return own
			}
			return err
		},
	}
	f := c.Flags()
	f.StringSliceVarP(&machines, "machine", "m", nil, "only on machines that match this glob; may be repeated")
	f.BoolVarP(&follow, "follow", "f", false, "stream the output until the end")
	f.BoolVar(&wait, "wait", false, "wait for the end")
	f.BoolVar(&noMirror, "no-mirror-exit", false, "with --follow and --wait: exit 0 whatever the job's code")
	f.BoolVar(&force, "force", false, "in spite of maintenance and overlap")
	return c
}

func (a *app) runJob(ctx context.Context, job string, q api.RunRequest, follow, wait, mirror bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	run, err := client.RunJob(ctx, job, q)
	if err != nil {
		return err
	}
	if len(run.Tasks) == 0 {
		a.say("saltpeter: %s has no task: %s", run.ID, orDefault(run.Detail, run.Reason))
	}
	if !follow && !wait {
		if a.output == "json" {
			return a.json(run)
		}
		fmt.Fprintln(a.out, run.ID)
		return nil
	}
	if follow {
		a.say("%s", run.ID)
		f := follower{app: a, client: client, prefix: len(run.Tasks) > 1, out: &lineWriter{w: a.out}}
		err = f.all(ctx, run.Tasks)
	}
	if err == nil {
		run, err = waitForRun(ctx, client, run.ID)
	}
	if ctx.Err() != nil {
		a.say("\ndetached: %s goes on; come back with `saltpeter logs %s -f`, end it with `saltpeter kill %s`", nameOf(run, job), nameOf(run, job), nameOf(run, job))
		return quiet(exitInterrupted)
	}
	if err != nil {
		return err
	}
	if wait && !follow {
		if a.output == "json" {
			err = a.json(run)
		} else {
			a.runTable(a.out, *run, nil, time.Now())
		}
		if err != nil {
			return err
		}
	} else {
		a.sayEnd(*run)
	}
	a.sayLeftovers(*run)
	if mirror {
		return quiet(mirrored(*run))
	}
	return nil
}

// sayEnd says how a run ended, and why where a code alone would not tell.
func (a *app) sayEnd(run ledger.Run) {
	a.say("%s: %s", run.ID, runState(run))
	for _, t := range run.Tasks {
		if t.Reason != "" && t.State != ledger.Succeeded {
			a.say("%s: %s", printable(t.Machine), printable(t.Reason))
		}
	}
}

// sayLeftovers says what outlives a run that has ended: a code alone would let
// people believe that it is all over.
func (a *app) sayLeftovers(run ledger.Run) {
	for _, t := range run.Tasks {
		if t.Leftover > 0 {
			a.say("%s: leftover=%d: alive when it ended; see `saltpeter status %[3]s`, and `saltpeter kill %[3]s` ends that", printable(t.Machine), t.Leftover, printable(run.ID))
		}
	}
}

func nameOf(run *ledger.Run, job string) string {
	if run != nil && run.ID != "" {
		return run.ID
	}
	return job
}

// waitForRun returns the run once all its tasks are over. A server that restarts
// meanwhile is waited for.
func waitForRun(ctx context.Context, client *api.Client, id string) (*ledger.Run, error) {
	patience := newPatience()
	// The stream of events may have begun after the last of them, so a look is
	// taken even without news: soon at first, for short jobs, then each second.
	pause := 50 * time.Millisecond
	for {
		poke := make(chan struct{}, 1)
		watch, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			client.Events(watch, "", id, func(api.Event) error {
				select {
				case poke <- struct{}{}:
				default:
				}
				return nil
			})
		}()
		run, err := client.Run(ctx, id)
		if err == nil {
			patience.reset()
			if !live(*run) {
				stop()
				<-ended
				return run, nil
			}
			err = wait(ctx, pause, poke)
			pause = min(2*pause, time.Second)
		} else {
			err = patience.bear(ctx, err)
		}
		stop()
		<-ended
		if err != nil {
			return &ledger.Run{ID: id}, err
		}
	}
}

// live reports whether a run has a task that is not over.
func live(r ledger.Run) bool {
	for _, t := range r.Tasks {
		if !t.State.Done() {
			return true
		}
	}
	return false
}

// patience is how long a verb that follows puts up with a server that is away: a
// restart must not end it.
type patience struct{ since time.Time }

const mostPatience = 2 * time.Minute

func newPatience() *patience { return &patience{} }

func (p *patience) reset() { p.since = time.Time{} }

// bear waits a little after an error that a restart explains, and returns the
// error when it has lasted too long or is of another kind.
func (p *patience) bear(ctx context.Context, err error) error {
	var gone *api.Unreachable
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !errors.As(err, &gone) {
		return err
	}
	var refused *api.Error
	if errors.As(gone.Err, &refused) {
		return err
	}
	if p.since.IsZero() {
		p.since = time.Now()
	}
	if time.Since(p.since) > mostPatience {
		return err
	}
	return wait(ctx, 300*time.Millisecond, nil)
}
