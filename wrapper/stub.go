// Package wrapper owns one task on one machine, from its start to its confirmed
// end: the command and everything that descends from it, its output, its kills,
// and the news of all that to the server.
package wrapper

import (
	"context"
	"io"
	"os"
	"time"

	"saltpeter/wsx/wire"
)

// STUB: signatures fixed, bodies to be built, file to be replaced by real ones.

// Version is what the wrapper and the whole program call themselves; set by the linker.
var Version = "dev"

// Main is `saltpeter wrap`: settings from SP_* in environ or the order as JSON on
// stdin, identity on stdout, errors on stderr. It returns the exit code.
func Main(args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int { panic("stub") }

// --- the engine (unexported; the seam between "engine" and "reporting") ---

// engine owns the processes of one task.
type engine struct{}

type engineOptions struct {
	Order          *wire.Order
	Stdout, Stderr *os.File                         // write ends for the job (the same file unless streams are separate); engine closes its copies after fork
	Debugf         func(format string, args ...any) // wrapper log lines
}

// prepare does everything fallible (user, cwd, lockfile, cgroup, limits, brand)
// with the job's shell parked at the gate, and returns it with its identity. A
// launchError says why it could not.
func prepare(o engineOptions) (*engine, error) { panic("stub") }

// launchError is a start that failed before any user code ran: 255, launch_failed.
type launchError struct{ why string }

func (e *launchError) Error() string { return e.why }

func (e *engine) Identity() wire.Identity { panic("stub") }

// Open opens the gate: the command runs as the same PID. No-op after a kill.
func (e *engine) Open() { panic("stub") }

// killRequest is one wish to end the job. A second one shortens the first.
type killRequest struct {
	ID     string
	Cause  string         // wire.CauseKill, CauseTimeout, CauseTerminated
	Signal string         // "" = order's, else TERM
	Grace  *time.Duration // nil = order's
}

// Kill never blocks. Its reports come through Events.
func (e *engine) Kill(r killRequest) { panic("stub") }

// Signal, Pause and Resume answer with a report at once.
func (e *engine) Signal(id, signal, scope string) wire.Report    { panic("stub") }
func (e *engine) Pause(id string, ttl time.Duration) wire.Report { panic("stub") }
func (e *engine) Resume(id string) wire.Report                   { panic("stub") }

// engineEvent is news from the engine, in order, on one channel.
type engineEvent struct {
	Kind   eventKind
	ID     string      // of the kill that a report answers
	Report wire.Report // eventReport, eventLeftover
	End    wire.End    // eventExited: code, signal, cause, phase, elapsed as fixed at the shell's exit; eventGone: with proof
}

type eventKind int

const (
	eventExited   eventKind = iota // the main process ended: code and time are fixed
	eventReport                    // a kill's answer: gone with proof, or alive (again when corrected)
	eventLeftover                  // the number of leftovers changed (Report.Leftover), 0: nothing of the task is left
	eventGone                      // after eventExited: nothing of the task is left; the engine is finished, the channel closes
)

func (e *engine) Events() <-chan engineEvent { panic("stub") }

// Close releases what the engine holds (lockfile, cgroup); only after eventGone
// or when ctx of the whole wrapper ends.
func (e *engine) Close(ctx context.Context) { panic("stub") }
