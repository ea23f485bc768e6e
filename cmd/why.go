package cmd

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/runner"
)

func (a *app) whyVerb() *cobra.Command {
	var at string
	c := &cobra.Command{
		Use:   "why JOB",
		Short: "Why a job did or did not fire: the last time, or at a given one",
		Args:  cobra.ExactArgs(1),
		Example: `  saltpeter why backup                          its last due time
  saltpeter why backup --at '2026-01-02 03:00'  that minute, by this machine's clock
  saltpeter why backup --at 2026-01-02T03:00:00Z`,
		ValidArgsFunction: a.completeJobs,
		RunE: func(c *cobra.Command, args []string) error {
			from, until, err := moment(at, time.Now())
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			why, err := client.Why(c.Context(), args[0], from, until)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(why)
			}
			var zone *time.Location
			if job, err := client.Job(c.Context(), args[0]); err == nil {
				zone, _ = time.LoadLocation(job.Timezone)
			}
			a.printWhy(why, zone)
			return nil
		},
	}
	c.Flags().StringVar(&at, "at", "", "the time: 2026-01-02T15:04:05Z, '2026-01-02 15:04' or 15:04 here, or 2h ago")
	return c
}

// moment reads --at as the stretch of time that it names: a second, or a minute
// where no seconds are given.
func moment(text string, now time.Time) (from, until time.Time, err error) {
	if text == "" {
		return from, until, nil
	}
	for _, l := range []struct {
		layout string
		length time.Duration
		today  bool
	}{
		{time.RFC3339, time.Second, false}, {"2006-01-02 15:04:05", time.Second, false}, {"2006-01-02T15:04:05", time.Second, false},
		{"2006-01-02T15:04Z07:00", time.Minute, false}, {"2006-01-02 15:04", time.Minute, false}, {"2006-01-02T15:04", time.Minute, false},
		{"15:04:05", time.Second, true}, {"15:04", time.Minute, true},
	} {
		t, err := time.ParseInLocation(l.layout, text, time.Local)
		if err != nil {
			continue
		}
		if l.today {
			t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.Local)
		}
		return t, t.Add(l.length), nil
	}
	if d, err := parseSpan(text); err == nil {
		from = now.Add(-d).Truncate(time.Minute)
		return from, from.Add(time.Minute), nil
	}
	return from, until, &failure{code: exitUsage, stable: "usage", text: fmt.Sprintf("cannot read the time %q", text), hint: "write --at 2026-01-02T15:04:05Z, --at '2026-01-02 15:04', --at 15:04, or --at 2h for two hours ago"}
}

// whenLayout is how why writes times: people compare them with a schedule.
const whenLayout = "Mon 2006-01-02 15:04:05 MST"

func (a *app) printWhy(w *runner.Why, zone *time.Location) {
	if zone == nil {
		zone = time.Local
	}
	at := w.From
	if !w.Due.IsZero() {
		at = w.Due
	}
	word := map[string]string{
		runner.WhyRan: "ran", runner.WhyNotRun: "not run", runner.WhyNotDue: "not due", runner.WhyNoRecord: "not run",
		runner.WhyWill: "will run", runner.WhyHeldBack: "would not run",
	}[w.Verdict]
	colour := map[string]string{runner.WhyRan: green, runner.WhyNotRun: yellow, runner.WhyNoRecord: yellow, runner.WhyHeldBack: yellow}[w.Verdict]
	if colour == "" {
		colour = dim
	}
	fmt.Fprintf(a.out, "%s at %s: %s\n", printable(w.Job), at.In(zone).Format(whenLayout), a.colour(colour, word))
	fmt.Fprintf(a.out, "  %s\n", printable(w.Text))
	if s := w.Skip; s != nil && s.Count > 1 {
		fmt.Fprintf(a.out, "  so it was %d times, from %s to %s\n", s.Count, s.From.In(zone).Format(whenLayout), s.To.In(zone).Format(whenLayout))
	}
	for _, run := range w.Runs {
		fmt.Fprintf(a.out, "  run %s: %s, %s, started %s after it was due\n", printable(run.ID), runState(run), orDefault(run.By, run.Trigger), span(max(0, run.Fired.Sub(run.Due))))
		for _, t := range run.Tasks {
			if t.Reason != "" {
				fmt.Fprintf(a.out, "    %s: %s: %s\n", printable(t.Machine), t.State, printable(t.Reason))
			}
		}
	}
	if !w.Before.IsZero() {
		fmt.Fprintf(a.out, "  due before: %s\n", w.Before.In(zone).Format(whenLayout))
	}
	if !w.After.IsZero() {
		fmt.Fprintf(a.out, "  due after:  %s\n", w.After.In(zone).Format(whenLayout))
	}
}
