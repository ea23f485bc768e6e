package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"saltpeter/config"
	"saltpeter/runner"
	"saltpeter/runner/api"
	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/runner/report"
	"saltpeter/wrapper"
	"saltpeter/wsx"
)

// serveOptions are the flags of serve. They win over saltpeter_config.
type serveOptions struct {
	dir          string
	api          bool
	port         int
	stateDir     string
	socket       string
	machinesPort int
	debug        bool
}

func (a *app) serveVerb() *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve",
		Short: "The daemon: watches the job files, fires jobs, takes kills",
		Args:  cobra.NoArgs,
		Example: `  saltpeter serve                    job files in /etc/saltpeter, API on the unix socket
  saltpeter serve -c ./examples -a   another folder, and the API on TCP too`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkPorts(c.Flags(), o); err != nil {
				return err
			}
			d, err := newDaemon(a, o, c.Flags().Changed("port"))
			if err != nil {
				return err
			}
			return d.run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVarP(&o.dir, "config", "c", "/etc/saltpeter", "folder of job files")
	f.BoolVarP(&o.api, "api", "a", false, "answer on TCP too (saltpeter_config: api_ws)")
	f.IntVarP(&o.port, "port", "p", 0, "port of the TCP API (saltpeter_config: api_ws_port, 8888); 0 takes a free one, which the log tells")
	f.StringVar(&o.stateDir, "state-dir", "", "where runs, output and keys are kept (default "+defaultStateDir()+")")
	f.StringVar(&o.socket, "socket", "", "unix socket for the command line (default "+ownSocket()+")")
	f.IntVar(&o.machinesPort, "machines-port", -1, "port that wrappers dial (saltpeter_config: machines_ws_port, 8889); 0 takes a free one and keeps it")
	f.BoolVar(&o.debug, "debug", false, "log more")
	return c
}

// checkPorts looks at the ports that were given as flags.
func checkPorts(f *pflag.FlagSet, o serveOptions) error {
	for name, port := range map[string]int{"port": o.port, "machines-port": o.machinesPort} {
		if f.Changed(name) && (port < 0 || port > 65535) {
			return usage("--%s %d is no port: give 1 to 65535, or 0 for a free one", name, port)
		}
	}
	return nil
}

// daemon is one server from its start to its stop. What it opens is closed in
// the opposite order by closers.
type daemon struct {
	o        serveOptions
	log      *slog.Logger
	level    *slog.LevelVar // of log
	set      *config.Set
	stateDir string
	book     *ledger.Ledger
	runner   *runner.Runner
	tunnels  *launch.Tunnels // nil where ssh cannot be set up
	reports  *report.Reports
	closers  []func()

	mu     sync.Mutex
	unread error // why the folder of job files cannot be read at the moment
}

// newLogger writes for people on a terminal and for the journal, which has its
// own times.
func newLogger(w *os.File, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if os.Getenv("JOURNAL_STREAM") != "" {
		o.ReplaceAttr = func(groups []string, attr slog.Attr) slog.Attr {
			if len(groups) == 0 && attr.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return attr
		}
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// unreadable is the failure of a folder of job files that cannot be read.
func unreadable(err error) *failure {
	f := &failure{code: exitFailed, stable: "config_unreadable", text: err.Error(), hint: "name the folder of job files with -c"}
	var told *config.Unreadable
	if errors.As(err, &told) {
		f.text, f.hint = told.Text, told.Hint
	}
	return f
}

// newDaemon reads the job files and settles where everything lies.
func newDaemon(a *app, o serveOptions, portGiven bool) (*daemon, error) {
	set, err := config.Load(o.dir, nil)
	if err != nil {
		return nil, unreadable(err)
	}
	o.api = o.api || set.Settings.API || portGiven
	if !portGiven {
		o.port = set.Settings.APIPort
	}
	if o.machinesPort < 0 {
		o.machinesPort = set.Settings.MachinesPort
	}
	d := &daemon{o: o, set: set, level: &slog.LevelVar{}}
	d.log = newLogger(os.Stderr, d.level)
	d.setLevel(set)
	for _, dir := range []string{o.stateDir, set.Settings.StateDir, defaultStateDir()} {
		if dir != "" {
			d.stateDir = dir
			break
		}
	}
	if d.stateDir, err = filepath.Abs(d.stateDir); err != nil {
		return nil, err
	}
	if d.o.socket == "" {
		d.o.socket = ownSocket()
	}
	return d, nil
}

// setLevel logs as much as the flag or the job files want.
func (d *daemon) setLevel(set *config.Set) {
	level := slog.LevelInfo
	if d.o.debug || set.Settings.Debug {
		level = slog.LevelDebug
	}
	d.level.Set(level)
}

func (d *daemon) closeLater(f func()) { d.closers = append(d.closers, f) }

// run opens everything, serves until ctx ends, and closes everything again. What
// fails to open leaves nothing behind.
func (d *daemon) run(ctx context.Context) (err error) {
	defer func() {
		for i := len(d.closers) - 1; i >= 0; i-- {
			d.closers[i]()
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	keepDescriptors()
	d.logProblems(nil, d.set)
	if err := d.openBook(ctx); err != nil {
		return err
	}
	d.openReports(ctx)
	machines, url, err := d.openMachinesPort()
	if err != nil {
		return err
	}
	transports := d.openTransports(machines.Addr())
	pin, tlsConfig, err := d.machinesTLS()
	if err != nil {
		return err
	}
	var holder launch.Holder
	if d.tunnels != nil {
		holder = d.tunnels
	}
	d.runner = runner.New(runner.Options{
		Ledger: d.book, Transports: transports, Holder: holder, Config: d.set,
		MachinesURL: func(m launch.Machine) string { return url(m, tlsConfig != nil, pin != "") }, Pin: pin,
		MachinesSocket: d.machinesSocket(),
		LocalSpool:     filepath.Join(d.stateDir, "spool"), Log: d.log,
	})
	road := wsx.NewServer(wsx.ServerOptions{Handler: d.runner.Handler(), TLS: tlsConfig, Log: d.log})
	front, listeners, err := d.openAPI()
	if err != nil {
		return err
	}

	var wg sync.WaitGroup
	start := func(what string, serve func() error) {
		wg.Go(func() {
			if err := serve(); err != nil {
				cancel(fmt.Errorf("%s ended: %w", what, err))
			}
		})
	}
	start("the machines port", func() error { return road.Serve(machines) })
	if ln := d.openMachinesSocket(); ln != nil {
		start("the machines socket", func() error { return road.Serve(ln) })
	}
	start("the reports", func() error { return d.reports.Run(ctx) })
	start("the runner", func() error { return d.runner.Run(ctx) })
	for _, ln := range listeners {
		start("the API on "+ln.Addr().String(), func() error { return front.Serve(ln) })
	}
	start("the watch over the job files", func() error { return d.watch(ctx) })
	wg.Go(func() { d.prune(ctx) })
	wg.Go(func() { d.upgrade(ctx, transports["ssh"]) })

	d.warnOfUnit(ctx)
	d.log.Info("serving", "version", wrapper.Version, "jobs", len(d.set.Order), "config", d.o.dir, "state", d.stateDir, "socket", d.o.socket, "machines_port", machines.Addr().String())
	systemd.SdNotify(false, systemd.SdNotifyReady)
	<-ctx.Done()
	systemd.SdNotify(false, systemd.SdNotifyStopping)
	d.log.Info("stopping: jobs go on, and are taken over by the next start")
	down, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	front.Shutdown(down)
	road.Shutdown(down)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return failed(cause, "")
	}
	return nil
}

// openBook opens the ledger, and says what to do where it cannot be had.
func (d *daemon) openBook(ctx context.Context) error {
	book, err := ledger.Open(ctx, ledger.Options{Dir: d.stateDir})
	switch {
	case errors.Is(err, ledger.ErrLocked):
		return &failure{code: exitFailed, stable: "locked", text: err.Error(), hint: "stop that server first, or give this one a folder of its own with --state-dir"}
	case errors.Is(err, ledger.ErrVersion):
		return &failure{code: exitFailed, stable: "state_version", text: err.Error(), hint: "start the version that wrote it, or name another folder with --state-dir; nothing was changed"}
	case err != nil:
		return &failure{code: exitFailed, stable: "state_unusable", text: err.Error(), hint: "the state directory must be writable and have room; name another with --state-dir"}
	}
	d.book = book
	d.closeLater(func() {
		if err := book.Close(); err != nil {
			d.log.Error("cannot close the ledger", "err", err)
		}
	})
	return nil
}

// openAPI opens the unix socket and, where it is wanted, the TCP port.
func (d *daemon) openAPI() (*api.Server, []net.Listener, error) {
	s := d.set.Settings
	path := s.TokensFile
	if path == "" {
		path = filepath.Join(d.stateDir, "tokens")
	}
	tokens, err := api.OpenTokens(path, d.log)
	if err != nil {
		return nil, nil, failed(err, "mend the file, or name another with tokens_file in saltpeter_config")
	}
	front := api.New(api.Options{
		Runner: d.runner, Ledger: d.book, Version: wrapper.Version, Tokens: tokens,
		ConfigDir: d.o.dir, ConfigError: d.configError, Reports: d.reporters, Log: d.log,
	})
	socket, err := listenSocket(d.o.socket, s.SocketGroup)
	if err != nil {
		return nil, nil, err
	}
	d.closeLater(func() { socket.Close() })
	listeners := []net.Listener{socket}
	if !d.o.api {
		return front, listeners, nil
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(s.APIBind, strconv.Itoa(d.o.port)))
	if err != nil {
		return nil, nil, &failure{code: exitFailed, stable: "port_in_use", text: fmt.Sprintf("cannot open the API port: %v", err),
			hint: "another server may use it: see `ss -ltnp`; set api_ws_port in saltpeter_config, or -p"}
	}
	d.closeLater(func() { ln.Close() })
	d.log.Info("the API answers on TCP", "address", ln.Addr().String())
	if s.APIBind == "127.0.0.1" {
		d.log.Info("the API answers this machine only; for others add to saltpeter_config: api_ws_bind_addr: 0.0.0.0")
	}
	tlsConfig, err := d.apiTLS()
	if err != nil {
		return nil, nil, err
	}
	if tlsConfig != nil {
		ln = wsx.SniffTLS(ln, tlsConfig)
	}
	return front, append(listeners, ln), nil
}

// watch puts what people write in force as they write it.
func (d *daemon) watch(ctx context.Context) error {
	before := d.set
	err := config.Watch(ctx, d.o.dir, d.set, config.WatchOptions{}, func(set *config.Set) {
		d.setUnread(nil)
		d.logProblems(before, set)
		for _, line := range config.Diff(before, set) {
			d.log.Info("job files changed", "what", line)
		}
		before = set
		d.setLevel(set)
		d.log.Debug("the job files were read", "jobs", len(set.Order))
		d.warnOfBind(set)
		d.runner.SetConfig(set)
		d.reports.Set(ctx, reportSettings(set))
	}, func(err error) {
		d.setUnread(err)
		if err != nil {
			d.log.Error("the job files cannot be read; what was read last stays in force", "err", err)
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (d *daemon) setUnread(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unread = err
}

func (d *daemon) configError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unread
}

// logProblems logs what is wrong in the job files, once.
func (d *daemon) logProblems(before, now *config.Set) {
	known := map[string]bool{}
	if before != nil {
		for _, p := range before.Problems {
			known[p.String()] = true
		}
	}
	for _, p := range now.Problems {
		switch {
		case known[p.String()]:
		case p.Warning:
			d.log.Warn(p.String())
		default:
			d.log.Error(p.String())
		}
	}
}

// defaultRetention is how long runs and their output are kept.
const defaultRetention = 90 * 24 * time.Hour

// prune forgets what is older than the retention, at the start and then hourly.
func (d *daemon) prune(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		keep := d.runner.Config().Settings.Retention
		if keep <= 0 {
			keep = defaultRetention
		}
		if n, err := d.book.Prune(ctx, time.Now().Add(-keep)); err != nil && ctx.Err() == nil {
			d.log.Error("cannot prune old runs", "err", err)
		} else if n > 0 {
			d.log.Info("pruned old runs", "runs", n, "older_than", keep)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
