package cmd

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/config"
	"saltpeter/runner"
	"saltpeter/runner/api"
)

func (a *app) maintenanceVerb() *cobra.Command {
	c := &cobra.Command{
		Use:   "maintenance",
		Short: "Keep new runs from everything, or from some machines, and end that",
		Long: `Keep new runs from everything, or from some machines, and end that.

In maintenance no new run starts; what runs goes on. Of a machine in maintenance: it is
left out of every run, and shown as such. It lasts until it is switched off, also over
a restart of the server. It stands beside saltpeter_maintenance of the job files: what
either of the two holds back is held back, and what the files say only they can end.
"saltpeter run --force" goes ahead all the same.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("maintenance is switched on or off, or its status is shown; %q is none of that", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			return &failure{code: exitUsage, stable: "usage", text: "it is not said what to do about maintenance", hint: "write `saltpeter maintenance on`, `off` or `status`"}
		},
	}
	c.AddCommand(a.maintenanceOnVerb(), a.maintenanceOffVerb(), a.maintenanceStatusVerb())
	return c
}

func (a *app) maintenanceOnVerb() *cobra.Command {
	var q api.MaintenanceRequest
	c := &cobra.Command{
		Use: "on", Short: "Switch it on", Args: noMachineWords,
		Example: `  saltpeter maintenance on --reason 'kernel upgrade'   of everything
  saltpeter maintenance on -m 'web*' -m db1            of some machines`,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			answer, err := client.MaintenanceOn(c.Context(), q)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(answer)
			}
			for _, s := range answer.Changed {
				what := "of everything is on: no new run starts, what runs goes on"
				if s.Machine != "" {
					what = "of " + s.Machine + " is on: it is left out of every new run"
				}
				fmt.Fprintf(a.out, "maintenance %s\n", printable(what))
			}
			return nil
		},
	}
	c.Flags().StringVar(&q.Reason, "reason", "", "why; everybody who looks is told")
	a.machineFlag(c, &q.Machines, "only machines that this names (name or glob; may be repeated)")
	return c
}

func (a *app) maintenanceOffVerb() *cobra.Command {
	var q api.MaintenanceRequest
	c := &cobra.Command{
		Use: "off", Short: "End what was switched on", Args: noMachineWords,
		Long: `End what was switched on: all of it, or with --machine that of some machines. What
saltpeter_maintenance in the job files says stays; the file and the line are named then,
and the exit code is 1.`,
		Example: `  saltpeter maintenance off
  saltpeter maintenance off -m db1`,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			answer, err := client.MaintenanceOff(c.Context(), q)
			if err != nil {
				return err
			}
			return a.printLifted(answer)
		},
	}
	a.machineFlag(c, &q.Machines, "only of machines that this names (name or glob; may be repeated)")
	return c
}

// printLifted prints what was ended, and fails where something goes on.
func (a *app) printLifted(answer *runner.MaintenanceChange) error {
	now := time.Now()
	if a.output == "json" {
		if err := a.json(answer); err != nil {
			return err
		}
	} else {
		for _, s := range answer.Changed {
			fmt.Fprintf(a.out, "maintenance is over: %s\n", printable(sourceWords(s, now)))
		}
	}
	if len(answer.Still) == 0 {
		if len(answer.Changed) == 0 {
			a.say("nothing of it was in maintenance")
		}
		return nil
	}
	var where, mend []string
	for _, s := range answer.Still {
		where = append(where, sourceWords(s, now))
		if s.File == "" {
			mend = append(mend, "end that of everything with `saltpeter maintenance off`")
		} else {
			mend = append(mend, fmt.Sprintf("edit %s, line %d", s.File, s.Line))
		}
	}
	return &failure{code: exitFailed, stable: "maintenance_stays", text: printable("it stays in maintenance: " + strings.Join(unique(where), "; ")), hint: printable(strings.Join(unique(mend), "; "))}
}

func unique(list []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func (a *app) maintenanceStatusVerb() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "What is in maintenance, since when, and by whom or by which line of a file", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			m, err := client.Maintenance(c.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(m)
			}
			switch {
			case m.Global:
				fmt.Fprintln(a.out, "maintenance is on: no new run starts")
			case len(m.Machines) > 0:
				fmt.Fprintf(a.out, "maintenance is on for %s: left out of every new run\n", plural(len(m.Machines), "machine", "machines"))
			default:
				fmt.Fprintln(a.out, "maintenance is off")
			}
			if len(m.Sources) == 0 {
				return nil
			}
			now := time.Now()
			rows := [][]string{{"WHAT", "SINCE", "BY", "REASON", "ENDS WITH"}}
			for _, s := range m.Sources {
				row := []string{orDefault(s.Machine, "everything"), clock(s.Since, now), orDefault(s.By, "-"), orDefault(s.Reason, "-"), "saltpeter maintenance off"}
				if s.File != "" {
					row[2], row[4] = "the job files", fmt.Sprintf("an edit of %s:%d", s.File, s.Line)
				}
				rows = append(rows, row)
			}
			a.table(rows)
			return nil
		},
	}
}

// sourceWords says what is held back, and by what.
func sourceWords(s runner.MaintenanceSource, now time.Time) string {
	what := orDefault(s.Machine, "everything")
	if s.File != "" {
		return fmt.Sprintf("%s, by saltpeter_maintenance in %s:%d", what, s.File, s.Line)
	}
	text := fmt.Sprintf("%s, switched on by %s since %s", what, s.By, clock(s.Since, now))
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

// noMachineWords refuses words behind the verb, and says where machines go.
func noMachineWords(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &failure{code: exitUsage, stable: "usage", text: fmt.Sprintf("%q is one word too many", args[0]), hint: "machines are named with --machine " + args[0]}
}

// machineFlag is --machine, completed with the server's machines.
func (a *app) machineFlag(c *cobra.Command, into *[]string, usage string) {
	c.Flags().StringArrayVarP(into, "machine", "m", nil, usage)
	// It fails for a flag that there is none of.
	_ = c.RegisterFlagCompletionFunc("machine", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return a.suggest(func(ctx context.Context, client *api.Client) (names []string) {
			machines, _ := client.Machines(ctx)
			for _, m := range machines {
				names = append(names, m.Name)
			}
			return names
		})
	})
}

// resting is the set with what a server on this machine holds back beside the files,
// if there is one that has the same folder; next needs none.
func (a *app) resting(ctx context.Context, set *config.Set, dir string) *config.Set {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	client, err := a.client()
	if err != nil || !strings.HasPrefix(client.Addr(), "unix:") {
		return set
	}
	defer client.Close()
	m, err := client.Maintenance(ctx)
	if err != nil || !sameDir(m.ConfigDir, dir) {
		return set
	}
	return set.Holding(m.Global, m.Machines)
}

func sameDir(a, b string) bool {
	whole, err := filepath.Abs(b)
	if err != nil {
		return false
	}
	if real, err := filepath.EvalSymlinks(whole); err == nil {
		whole = real
	}
	if real, err := filepath.EvalSymlinks(a); err == nil {
		a = real
	}
	return a == whole
}
