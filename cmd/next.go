package cmd

import (
	"fmt"
	"sort"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/config"
)

// upcoming is one firing to come.
type upcoming struct {
	Job  string    `json:"job"`
	At   time.Time `json:"at"`
	Note string    `json:"note,omitempty"`
}

func (a *app) nextVerb() *cobra.Command {
	var (
		dir, from string
		n         int
	)
	c := &cobra.Command{
		Use:   "next [JOB]",
		Short: "When jobs fire next; needs no server",
		Long: `When jobs fire next. It reads the job files itself and needs no server; one on this
machine that has the same folder is asked what is in maintenance.`,
		Args: cobra.MaximumNArgs(1),
		Example: `  saltpeter next                     the next firings of all jobs
  saltpeter next report -n 5         of one job
  saltpeter next report --from 2026-03-28T00:00:00Z   around a change of clocks`,
		ValidArgsFunction: a.completeJobs,
		RunE: func(c *cobra.Command, args []string) error {
			set, err := config.Load(dir, nil)
			if err != nil {
				return unreadable(err)
			}
			start := time.Now()
			if from != "" {
				if start, err = time.Parse(time.RFC3339, from); err != nil {
					return &failure{code: exitUsage, stable: "usage", text: fmt.Sprintf("cannot read the time %q", from), hint: "write it like 2026-01-02T15:04:05Z"}
				}
			}
			names := set.Order
			if len(args) > 0 {
				if set.Jobs[args[0]] == nil {
					return &failure{code: exitNothing, stable: "no_such_job", text: fmt.Sprintf("there is no job %q in %s", args[0], dir), hint: "`saltpeter check` says what is wrong with the files"}
				}
				names = args[:1]
			}
			if n < 0 {
				return usage("-n %d is no number of firings", n)
			}
			if n == 0 {
				n = 10
				if len(args) == 0 {
					n = 20
				}
			}
			return a.printNext(a.resting(c.Context(), set, dir), names, start, n)
		},
	}
	f := c.Flags()
	f.StringVarP(&dir, "config", "c", "/etc/saltpeter", "folder of job files")
	f.StringVar(&from, "from", "", "count from this time on (default now)")
	f.IntVarP(&n, "number", "n", 0, "how many (default 10 of one job, 20 of all)")
	return c
}

func (a *app) printNext(set *config.Set, names []string, from time.Time, n int) error {
	var all []upcoming
	var never []string
	for _, name := range names {
		job := set.Jobs[name]
		if job.Schedule == nil {
			never = append(never, name)
			continue
		}
		times := config.NextN(job.Schedule, from, n)
		if len(times) == 0 {
			never = append(never, name)
		}
		for _, t := range times {
			all = append(all, upcoming{Job: name, At: t, Note: noteOf(set, job, t)})
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].At.Before(all[j].At) })
	if len(all) > n {
		all = all[:n]
	}
	if a.output == "json" {
		for _, u := range all {
			if err := a.jsonLine(u); err != nil {
				return err
			}
		}
		return nil
	}
	rows := [][]string{{"AT", "IN", "JOB", "NOTES"}}
	for _, u := range all {
		rows = append(rows, []string{u.At.Format("Mon 2006-01-02 15:04:05 MST"), span(u.At.Sub(from)), u.Job, u.Note})
	}
	if len(all) > 0 {
		a.table(rows)
	}
	for _, name := range never {
		fmt.Fprintf(a.out, "%s never fires again\n", printable(name))
	}
	return nil
}

// noteOf says what is odd about a firing to come.
func noteOf(set *config.Set, job *config.Job, t time.Time) string {
	switch {
	case !job.Enabled:
		return "would fire: the job is disabled"
	case set.Resting(job):
		return "would not fire if maintenance still were on"
	}
	return config.Note(job.Schedule, t)
}

func (a *app) checkVerb() *cobra.Command {
	var (
		dir  string
		diff bool
	)
	c := &cobra.Command{
		Use:   "check",
		Short: "Every problem of the job files, with what to write instead; needs no server",
		Args:  cobra.NoArgs,
		Example: `  saltpeter check -c ./jobs     exit 1 if there is an error
  saltpeter check --diff        what differs from what the running server has in force`,
		RunE: func(c *cobra.Command, _ []string) error {
			if diff {
				return a.checkDiff(c)
			}
			set, err := config.Load(dir, nil)
			if err != nil {
				return unreadable(err)
			}
			return a.printCheck(set)
		},
	}
	f := c.Flags()
	f.StringVarP(&dir, "config", "c", "/etc/saltpeter", "folder of job files")
	f.BoolVar(&diff, "diff", false, "against the running server, over its own folder")
	return c
}

func (a *app) printCheck(set *config.Set) error {
	errs := len(set.Errors())
	if a.output == "json" {
		problems := set.Problems
		if problems == nil {
			problems = []config.Problem{}
		}
		if err := a.json(map[string]any{"problems": problems, "errors": errs, "jobs": len(set.Order)}); err != nil {
			return err
		}
	} else {
		for _, p := range set.Problems {
			kind := ""
			if p.Warning {
				kind = "warning: "
			}
			fmt.Fprintf(a.out, "%s%s\n", kind, printable(p.String()))
		}
		fmt.Fprintf(a.out, "%s in %s, %s, %s\n", plural(len(set.Order), "job", "jobs"), plural(len(set.Files), "file", "files"),
			plural(errs, "error", "errors"), plural(len(set.Problems)-errs, "warning", "warnings"))
	}
	if errs > 0 {
		return quiet(exitFailed)
	}
	return nil
}

func (a *app) checkDiff(c *cobra.Command) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	result, err := client.Check(c.Context())
	if err != nil {
		return err
	}
	if a.output == "json" {
		if err := a.json(result); err != nil {
			return err
		}
	} else {
		for _, line := range result.Diff {
			fmt.Fprintln(a.out, printable(line))
		}
		if len(result.Diff) == 0 {
			fmt.Fprintln(a.out, "the files say what is in force")
		}
		if result.Errors > 0 {
			fmt.Fprintf(a.out, "%s: see `saltpeter check`\n", plural(result.Errors, "error", "errors"))
		}
	}
	if result.Errors > 0 {
		return quiet(exitFailed)
	}
	return nil
}
