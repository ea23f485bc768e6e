package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"saltpeter/runner/api"
	"saltpeter/wrapper"
)

// app is one call of the command line.
type app struct {
	in       io.Reader
	out, err io.Writer

	addr      string
	tokenFile string
	caFile    string
	pin       string
	output    string // table, wide, json
	noColor   bool

	understood bool // the words of the call were, so what fails later is no usage error
}

// execute runs one call and returns its exit code.
func execute(args []string, in io.Reader, out, errs io.Writer) int {
	a := &app{in: in, out: out, err: errs}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	f := explain(err)
	if !a.understood && f.code == exitFailed {
		f = &failure{code: exitUsage, stable: "usage", text: f.text, hint: "see `saltpeter --help`"}
	}
	f.report(errs, a.output == "json")
	return f.code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "saltpeter",
		Short: "A distributed cron that always knows what runs, and can always stop it",
		Long: `Saltpeter watches a folder of cron-style YAML job files, fires jobs, and runs them
on this machine and others. It always knows what runs, and can always stop it.

Start the daemon with "saltpeter serve -c DIR"; the other verbs speak to it.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return a.settings(c) },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	// cobra's own --version is a template, and templates make the linker keep every
	// exported method there is: two megabytes.
	version := root.Flags().BoolP("version", "v", false, "print the version of this program")
	root.RunE = func(c *cobra.Command, _ []string) error {
		if *version {
			_, err := fmt.Fprintf(a.out, "saltpeter %s\n", wrapper.Version)
			return err
		}
		return c.Help()
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &failure{code: exitUsage, stable: "usage", text: err.Error(), hint: fmt.Sprintf("see `%s --help`", c.CommandPath())}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.addr, "addr", "", "the server: unix:///PATH or https://HOST:PORT (default the socket of a server on this machine)")
	flags.StringVar(&a.tokenFile, "token-file", "", "file that holds the token for https addresses")
	flags.StringVar(&a.caFile, "ca-file", "", "PEM file to check the server's certificate by (default the system's CAs)")
	flags.StringVar(&a.pin, "pin", "", "SHA-256 of the server's public key, to check it by (its log tells it where api_ws_tls is auto)")
	flags.StringVarP(&a.output, "output", "o", "table", "table, wide or json")
	flags.BoolVar(&a.noColor, "no-color", false, "no colours, also on a terminal")
	root.AddCommand(a.verbs()...)
	sayArguments(root)
	return root
}

// sayArguments has every verb that gets too few or too many words say what it takes;
// cobra's own words count them.
func sayArguments(c *cobra.Command) {
	for _, sub := range c.Commands() {
		sayArguments(sub)
	}
	check := c.Args
	if check == nil {
		return
	}
	c.Args = func(c *cobra.Command, args []string) error {
		err := check(c, args)
		var own *failure
		if err == nil || errors.As(err, &own) {
			return err
		}
		text := fmt.Sprintf("%s: %d words are not what it takes", c.CommandPath(), len(args))
		switch len(args) {
		case 0:
			text = c.CommandPath() + ": something is missing"
		case 1:
			text = fmt.Sprintf("%s: %q is not what it takes", c.CommandPath(), args[0])
		}
		return &failure{code: exitUsage, stable: "usage", text: text, hint: fmt.Sprintf("write `%s`; see `%s --help`", c.UseLine(), c.CommandPath())}
	}
}

// settings fills every flag that was not given from its environment variable,
// and checks what all verbs share.
func (a *app) settings(c *cobra.Command) error {
	a.understood = true
	var bad error
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || bad != nil {
			return
		}
		name := "SALTPETER_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v, ok := os.LookupEnv(name); ok && v != "" {
			if err := f.Value.Set(v); err != nil {
				bad = usage("%s=%q: %v", name, v, err)
				return
			}
			f.Changed = true
		}
	})
	if bad != nil {
		return bad
	}
	switch a.output {
	case "table", "wide", "json":
		return nil
	}
	return &failure{code: exitUsage, stable: "usage", text: fmt.Sprintf("unknown output %q", a.output), hint: "use -o table, -o wide or -o json"}
}

// client speaks to the server that the flags name.
func (a *app) client() (*api.Client, error) {
	addr := a.addr
	if addr == "" {
		addr = "unix://" + defaultSocket()
	}
	c, err := api.NewClient(api.ClientOptions{Addr: addr, TokenFile: a.tokenFile, CAFile: a.caFile, Pin: a.pin})
	if err != nil {
		return nil, &failure{code: exitUsage, stable: "usage", text: err.Error()}
	}
	return c, nil
}

// Where a server keeps its things: the system's folders as root, the user's own
// otherwise.

func defaultStateDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/saltpeter"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "saltpeter")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "saltpeter")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("saltpeter-%d", os.Geteuid()), "state")
}

// defaultSocket is where a server of this user listens. A user's command line
// finds the system's server when the user has none of its own.
func defaultSocket() string {
	own := ownSocket()
	if os.Geteuid() != 0 {
		if _, err := os.Stat(own); err != nil {
			if _, err := os.Stat(systemSocket); err == nil {
				return systemSocket
			}
		}
	}
	return own
}

const systemSocket = "/run/saltpeter/saltpeter.sock"

func ownSocket() string {
	if os.Geteuid() == 0 {
		return systemSocket
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "saltpeter", "saltpeter.sock")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("saltpeter-%d", os.Geteuid()), "saltpeter.sock")
}
