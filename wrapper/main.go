// Package wrapper owns one task on one machine, from its start to its confirmed
// end: the command and everything that descends from it, its output, its kills,
// and the news of all that to the server.
//
// Main is the only way in: cmd hands it the arguments of `saltpeter wrap`. The
// order comes by environment, standard input or from the server; output and end
// go into the spool on this machine, and from there over the road (wsx) to the
// server, until it has confirmed them.
//
// The package has two halves. The engine (engine, with proc, nets, gate, pause and
// user) owns the processes; the reporting half (main, start, task, pump, spool,
// report, pickup) owns the spool and the link and turns the engine's events into
// messages.
package wrapper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"saltpeter/wsx/wire"
)

// Version is what the wrapper and the whole program call themselves; set by the linker.
var Version = "dev"

const usage = `usage: saltpeter wrap [--foreground]
       saltpeter wrap --pickup [DIR]
       saltpeter wrap --probe

Runs one task: settings from SP_* variables, or the order as JSON on standard
input. Prints its version and the identity of what it started, then goes on in
the background unless --foreground is given. --pickup delivers what wrappers
that died have left in the spool. --probe starts nothing: it says whether this
machine can dial the servers that are named, as JSON, on standard input.
`

const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// flags of `saltpeter wrap`.
type flags struct {
	foreground bool
	detached   bool // started by the wrapper itself, to stay behind
	pickup     bool
	dir        string
	version    bool
	probe      bool
	help       bool
}

func parseFlags(args []string) (flags, error) {
	var f flags
	if len(args) > 0 && args[0] == "wrap" {
		args = args[1:]
	}
	for _, arg := range args {
		switch arg {
		case "--foreground":
			f.foreground = true
		case "--detached":
			f.detached = true
		case "--pickup":
			f.pickup = true
		case "--version":
			f.version = true
		case "--probe":
			f.probe = true
		case "-h", "--help":
			f.help = true
		default:
			if f.pickup && f.dir == "" && arg != "" && arg[0] != '-' {
				f.dir = arg
				continue
			}
			return f, fmt.Errorf("unknown argument %q", arg)
		}
	}
	return f, nil
}

// Main is `saltpeter wrap`: settings from SP_* in environ or the order as JSON on
// stdin, identity on stdout, errors on stderr. It returns the exit code.
func Main(args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f, err := parseFlags(args)
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "saltpeter wrap: %v\n\n%s", err, usage)
		return exitUsage
	case f.help:
		fmt.Fprint(stdout, usage)
		return exitOK
	case f.version:
		fmt.Fprintf(stdout, "%s\n%s%d\n", versionLine(), wire.OrdersLine, wire.OrderVersion)
		return exitOK
	}
	if f.probe {
		return mainProbe(stdin, stdout, stderr)
	}
	// The road that started a wrapper may hang up, and who reads its standard
	// error may go away: neither is a reason to end. Caught, not ignored: what
	// is ignored here would be ignored in the job as well.
	deaf := make(chan os.Signal, 1)
	signal.Notify(deaf, syscall.SIGHUP, syscall.SIGPIPE)
	defer signal.Stop(deaf)
	told := make(chan os.Signal, 4)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(told)

	e := newEnvironment(environ)
	if f.pickup {
		return mainPickup(e, f.dir, stderr, told)
	}
	o, err := loadOrder(context.Background(), e, stdin)
	if err != nil {
		fmt.Fprintf(stderr, "saltpeter wrap: %v\n", err)
		return exitError
	}
	if !f.foreground && !f.detached {
		return detach(o, environ, stdout, stderr)
	}
	return runTask(o, e, stdio{stdin: stdin, stdout: stdout, stderr: stderr, detached: f.detached}, told)
}

// mainPickup is `saltpeter wrap --pickup`.
func mainPickup(e environment, dir string, stderr io.Writer, told <-chan os.Signal) int {
	ctx, cancel := context.WithTimeout(context.Background(), pickupMost)
	defer cancel()
	go func() {
		select {
		case <-told:
			cancel()
		case <-ctx.Done():
		}
	}()
	o := defaultOrder()
	o.SpoolDir, o.LogDir, o.LogLevel = first(dir, e["SP_SPOOL_DIR"]), e["SP_WRAPPER_LOGDIR"], e["SP_WRAPPER_LOGLEVEL"]
	o.Job, o.Run = "pickup", "pickup"
	code := exitOK
	for _, root := range spoolRoots(o, e.get, os.Geteuid()) {
		log := newTaskLog(o, first(o.LogDir, filepath.Join(root, logDirName)), stderr)
		err := (&collector{root: root, log: log}).run(ctx)
		log.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintf(stderr, "saltpeter wrap: %v\n", err)
			code = exitError
		}
	}
	return code
}

const (
	logDirName = "log" // in the spool root
	pickupMost = 30 * time.Minute
)
