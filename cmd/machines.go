package cmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/runner"
	"saltpeter/runner/api"
)

func (a *app) machinesVerb() *cobra.Command {
	var check bool
	var q api.MachinesRequest
	c := &cobra.Command{
		Use:   "machines",
		Short: "The inventory, and how each machine is reached",
		Long: `The inventory, and how each machine is reached.

With --check the server tries everything on every machine, several at a time, and says
all that is wrong at once: login, host key, place for the wrapper, clock, and whether
the machine can dial the server's machines port. It changes nothing there.
--accept-new is the deliberate first contact: a host key that nobody knows yet is
written to the known_hosts file. One that differs from a known one is never accepted.`,
		Example: `  saltpeter machines
  saltpeter machines --check
  saltpeter machines --check --accept-new -m 'web*'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !check {
				if q.AcceptNew || len(q.Machines) > 0 {
					return usage("--accept-new and --machine belong to --check")
				}
				return a.listMachines(c.Context())
			}
			return a.checkMachines(c.Context(), q)
		},
	}
	f := c.Flags()
	f.BoolVar(&check, "check", false, "try everything on each machine")
	f.BoolVar(&q.AcceptNew, "accept-new", false, "with --check: write down host keys that nobody knows yet")
	f.StringArrayVarP(&q.Machines, "machine", "m", nil, "with --check: only machines that this names (name or glob; may be repeated)")
	return c
}

func (a *app) listMachines(ctx context.Context) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	machines, err := client.Machines(ctx)
	if err != nil {
		return err
	}
	if a.output == "json" {
		if machines == nil {
			machines = []api.Machine{}
		}
		return a.json(machines)
	}
	rows := [][]string{{"MACHINE", "TRANSPORT", "ADDRESS", "TASKS", "WRAPPER", "NOTES"}}
	for _, m := range machines {
		var notes []string
		if !m.Enabled {
			notes = append(notes, "disabled")
		}
		if m.Maintenance {
			notes = append(notes, "maintenance")
		}
		rows = append(rows, []string{m.Name, m.Transport, orDefault(m.Address, "-"), fmt.Sprint(m.Tasks), orDefault(m.Version, "-"), strings.Join(notes, ", ")})
	}
	a.table(rows)
	return nil
}

func (a *app) checkMachines(ctx context.Context, q api.MachinesRequest) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	bad, all := 0, 0
	err = client.CheckMachines(ctx, q, func(m runner.MachineCheck) error {
		all++
		if !m.OK {
			bad++
		}
		if a.output == "json" {
			return a.jsonLine(m)
		}
		a.printMachine(m)
		return nil
	})
	if err != nil {
		return err
	}
	if bad > 0 {
		return &failure{code: exitFailed, stable: "machines_failed", text: fmt.Sprintf("%d of %d machines have problems", bad, all)}
	}
	return nil
}

// printMachine prints one machine: a line where all is well, and everything that was
// used where it is not.
func (a *app) printMachine(m runner.MachineCheck) {
	word := "ok"
	switch {
	case !m.Reached:
		word = "FAILED"
	case !m.OK:
		word = "PROBLEMS"
	}
	parts := []string{m.Machine, word, m.Transport}
	if m.Address != "" {
		parts = append(parts, m.Address)
	}
	if m.Reached && m.Transport != "local" {
		parts = append(parts, orDefault(m.System, "-"), "wrapper "+orDefault(m.Wrapper, "not there yet"))
		skew := time.Duration(m.SkewMS) * time.Millisecond
		parts = append(parts, "clock "+signed(skew))
	}
	for _, d := range m.WayBack {
		if d.OK {
			parts = append(parts, "dials "+d.URL)
		}
	}
	fmt.Fprintln(a.out, strings.Join(parts, "  "))
	if m.Accepted != "" {
		fmt.Fprintf(a.out, "    accepted the host key %s on first contact; compare it with the machine's own: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\n", m.Accepted)
	}
	for _, p := range m.Problems {
		fmt.Fprintf(a.out, "    %s\n", p)
	}
	if !m.Reached && m.Address != "" {
		fmt.Fprintf(a.out, "    used: user and address %s\n", m.Address)
		if len(m.Jumps) > 0 {
			fmt.Fprintf(a.out, "    used: jump hosts %s\n", strings.Join(m.Jumps, ", "))
		}
		fmt.Fprintf(a.out, "    used: keys %s\n", orDefault(strings.Join(m.Keys, ", "), "of the agent only"))
		fmt.Fprintf(a.out, "    used: known_hosts %s\n", orDefault(strings.Join(m.KnownHosts, ", "), "none"))
	}
}

func signed(d time.Duration) string {
	if d == 0 {
		return "right"
	}
	if d > 0 {
		return "+" + d.String()
	}
	return d.String()
}

func (a *app) deployVerb() *cobra.Command {
	var q api.MachinesRequest
	c := &cobra.Command{
		Use:   "deploy",
		Short: "Put the wrapper onto machines before a job needs it",
		Long: `Put the wrapper onto machines before a job needs it. The server does so by itself on
first use, and after its upgrade; this does it now, and says what came of it.`,
		Example: `  saltpeter deploy --dry-run
  saltpeter deploy -m 'web*'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.deploy(c.Context(), q)
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&q.Machines, "machine", "m", nil, "only machines that this names (name or glob; may be repeated)")
	f.BoolVar(&q.DryRun, "dry-run", false, "only show what would be done")
	return c
}

func (a *app) deploy(ctx context.Context, q api.MachinesRequest) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	bad, all := 0, 0
	err = client.Deploy(ctx, q, func(m runner.MachineDeploy) error {
		all++
		if !m.OK {
			bad++
		}
		if a.output == "json" {
			return a.jsonLine(m)
		}
		word := map[string]string{"put": "put", "there": "was there", "would_put": "would be put there", "failed": "FAILED"}[m.Action]
		fmt.Fprintln(a.out, strings.TrimRight(strings.Join([]string{m.Machine, word, m.Path, m.Version, m.Error}, "  "), " "))
		return nil
	})
	if err != nil {
		return err
	}
	if bad > 0 {
		return &failure{code: exitFailed, stable: "deploy_failed", text: fmt.Sprintf("%d of %d machines have no wrapper", bad, all)}
	}
	return nil
}
