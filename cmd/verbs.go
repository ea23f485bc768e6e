package cmd

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
	"saltpeter/wrapper"
)

// verbs is everything that the command line can do, in the order of its help.
func (a *app) verbs() []*cobra.Command {
	return []*cobra.Command{
		a.serveVerb(), a.wrapVerb(),
		a.runVerb(), a.killVerb(), a.pauseVerb(), a.resumeVerb(), a.signalVerb(),
		a.statusVerb(), a.logsVerb(), a.historyVerb(),
		a.nextVerb(), a.whyVerb(), a.checkVerb(), a.importVerb(), a.machinesVerb(), a.deployVerb(), a.maintenanceVerb(), a.forgetVerb(), a.tokenVerb(),
		a.versionVerb(), a.exitCodesTopic(), completionVerb(),
	}
}

// wrapVerb exists for the help alone: Main looks for wrap before cobra starts.
func (a *app) wrapVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "wrap",
		Short: "One task on one machine; started by the server, settings from SP_* or standard input",
		Long: `One task on one machine. The server starts it; settings come from SP_* environment
variables, or as JSON on standard input. Its first line is "Saltpeter Wrapper version V",
then comes one line of JSON with the identity of what it started. See docs/protocol.md.`,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return quiet(wrapper.Main(args, os.Environ(), a.in, a.out, a.err))
		},
	}
}

func (a *app) forgetVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "forget RUN",
		Short: "Give up a run's lost tasks, so that they hold nothing back any more",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			if err := client.Forget(c.Context(), args[0]); err != nil {
				return err
			}
			a.say("gave up what was lost of %s", args[0])
			return nil
		},
	}
}

func (a *app) tokenVerb() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Tokens that let people in over TCP", Args: cobra.NoArgs}
	with := func(do func(context.Context, *api.Client, []string) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			return do(c.Context(), client, args)
		}
	}
	var role string
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a token; it is shown once", Args: cobra.ExactArgs(1),
		Example: `  saltpeter token create alice --role read > alice.token`,
		RunE: with(func(ctx context.Context, client *api.Client, args []string) error {
			token, err := client.CreateToken(ctx, args[0], role)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(map[string]string{"name": args[0], "role": role, "token": token})
			}
			fmt.Fprintln(a.out, token)
			return nil
		}),
	}
	create.Flags().StringVar(&role, "role", "read", "read: look; operate: run, kill, pause too")
	list := &cobra.Command{
		Use: "list", Short: "Who has one", Args: cobra.NoArgs,
		RunE: with(func(ctx context.Context, client *api.Client, _ []string) error {
			tokens, err := client.Tokens(ctx)
			if err != nil {
				return err
			}
			if a.output == "json" {
				if tokens == nil {
					tokens = []api.Token{}
				}
				return a.json(tokens)
			}
			rows := [][]string{{"NAME", "ROLE"}}
			for _, t := range tokens {
				rows = append(rows, []string{t.Name, t.Role})
			}
			a.table(rows)
			return nil
		}),
	}
	revoke := &cobra.Command{
		Use: "revoke NAME", Short: "End a token", Args: cobra.ExactArgs(1),
		RunE: with(func(ctx context.Context, client *api.Client, args []string) error {
			if err := client.RevokeToken(ctx, args[0]); err != nil {
				return err
			}
			a.say("revoked %s", args[0])
			return nil
		}),
	}
	c.AddCommand(create, list, revoke)
	return c
}

func (a *app) versionVerb() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "The version of this program", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.output == "json" {
				return a.json(map[string]string{"version": wrapper.Version})
			}
			fmt.Fprintln(a.out, "saltpeter", wrapper.Version)
			return nil
		},
	}
}

// exitCodes is what `help exit-codes` prints.
const exitCodes = `Exit codes

  0    done
  1    failed, or finished non-zero
  2    usage
  3    nothing matched: no such job, run or machine; nothing running
  4    the server cannot be reached or refuses this client
  5    a kill could not be confirmed everywhere

run --follow and --wait hand on the task's own exit code where one machine ran it. On
several machines: 0 if all are 0, the common code if all failures share one, else 1. In
that mode failures of saltpeter's own are 125, and Ctrl-C is 130.

A task's exit code is the command's own, or derived: 143 killed by a person, 124 timeout,
128+n death by signal n, 253 wrapper lost, 255 unreachable or launch failed. Since a
command can return any of these itself, the cause is a field of its own.
`

func (a *app) exitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodes}
}

func completionVerb() *cobra.Command {
	return &cobra.Command{
		Use: "completion [bash|zsh|fish|powershell]", Short: "Completion for your shell, with jobs and runs from the server",
		Example:   "  source <(saltpeter completion bash)",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(c *cobra.Command, args []string) error {
			root, out := c.Root(), c.OutOrStdout()
			switch args[0] {
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(out)
			}
			return root.GenBashCompletionV2(out, true)
		},
	}
}

// completionTime bounds how long a TAB waits for the server.
const completionTime = time.Second

func (a *app) completeJobs(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(c, args, false)
}

func (a *app) completeNames(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(c, args, true)
}

func (a *app) complete(c *cobra.Command, args []string, runs bool) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.suggest(func(ctx context.Context, client *api.Client) (names []string) {
		st, err := client.Status(ctx)
		if err != nil {
			return nil
		}
		for _, j := range st.Jobs {
			names = append(names, j.Name)
		}
		if runs {
			if page, err := client.Runs(ctx, ledger.RunFilter{Limit: 50}); err == nil {
				for _, r := range page.Runs {
					names = append(names, r.ID)
				}
			}
		}
		return slices.Compact(names)
	})
}

// suggest completes with what the server knows, and with nothing where it does not
// answer.
func (a *app) suggest(known func(ctx context.Context, client *api.Client) []string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	client, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer client.Close()
	return known(ctx, client), cobra.ShellCompDirectiveNoFileComp
}
