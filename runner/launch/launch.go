// Package launch runs one short command on a machine, by each transport, and
// answers: started, certainly not, or unknown. It carries kill.sh (its functions
// are in kill/), the other road for kills. It knows no runs, and holds a connection
// for a task's life only for a command without a wrapper (Bare), in its caller's time.
// What it keeps standing beside is a machine's tunnel and, on this machine, one
// wrapper that is started ahead.
//
// Only runner comes in here; cmd opens the transports and closes them. What goes out
// is an order on the standard input of `saltpeter wrap`, a script on the standard
// input of `sh -s`, and our program where a machine lacks it; what comes back is an
// identity, marked lines, or a piece of a spool file. The scripts' text and the
// reading of their answers belong to no transport, so every one of them asks and
// understands alike.
package launch

import (
	"context"
	"errors"
	"time"

	"saltpeter/wsx/wire"
)

// Machine is what a transport needs to know of one.
type Machine struct {
	Name        string
	Transport   string // "local" | "ssh" | "salt"
	SSH         string // user@host:port
	Sudo        bool   // launch and kill through sudo -n
	WrapperPath string // "" = this binary / ours, pushed
	NoPush      bool   `json:",omitempty"` // ssh: the binary must be there already
	Tunnel      bool   `json:",omitempty"` // ssh: the wrapper dials a port of its own machine, which is forwarded
	ServerHost  string `json:",omitempty"` // the name by which the wrapper dials the server; "" = the server's own
	Spool       string
}

// Certainty of a start.
type Certainty int

const (
	Started      Certainty = iota // the identity line came back
	CertainlyNot                  // nothing of the order was carried out
	Unsure                        // it may have started: ask with Check, never start again blindly
)

func (c Certainty) String() string {
	switch c {
	case Started:
		return "started"
	case CertainlyNot:
		return "certainly not started"
	}
	return "unsure whether it started"
}

// StartResult is what is known after a start.
type StartResult struct {
	Certainty Certainty
	Version   string
	Identity  *wire.Identity
	Older     bool  // its wrapper is of an older generation: its start message names a PID, and no identity comes here
	Err       error // why, unless Started. errors.Is(err, ErrUnreachable) tells the two 255s apart
}

// ErrUnreachable: the machine could not be spoken to at all.
var ErrUnreachable = errors.New("machine unreachable")

// ErrNoTransport: this build cannot reach machines that way yet.
var ErrNoTransport = errors.New("transport not available")

// ErrClosed: the transport was asked after its Close; nothing was done.
var ErrClosed = errors.New("transport closed")

// Op of kill.sh.
type Op string

const (
	OpCheck  Op = "check"
	OpKill   Op = "kill"
	OpSignal Op = "signal"
	OpPause  Op = "pause"
	OpResume Op = "resume"
)

// ScriptRequest is one call of kill.sh.
type ScriptRequest struct {
	Op       Op
	Run      string         // SP_JOB_INSTANCE, for wrappers without identity
	Task     string         // cookie
	Identity *wire.Identity // nil: find by the cookie alone
	Signal   string         // default TERM
	Grace    time.Duration
	Hard     time.Duration
	Scope    string // signal: main | all
	// TTL of a pause: after it, a process that is left on the machine thaws, whoever
	// is there then. 0: until it is resumed.
	TTL time.Duration
	// Heard, if it is set, is called once the machine has begun to carry the request
	// out; from then on it takes the time that it takes.
	Heard func()
}

// Reasons in a ScriptResult, beside those of wire that say why a process lives.
const (
	ReasonRebooted     = "rebooted"      // the machine has started anew: nothing of the task can live
	ReasonPIDNamespace = "pid_ns"        // the script sees other PIDs than the recorded ones: nothing was touched
	ReasonNoProc       = "no_proc"       // /proc cannot be read there: nothing was touched
	ReasonPartial      = "partial"       // nobody was found, but not everybody could be seen
	ReasonBreeding     = "breeding"      // new processes appear faster than they can be found
	ReasonNoMain       = "no_main"       // signal: the main process is not there any more
	ReasonBadSignal    = "bad_signal"    // that machine knows no such signal
	ReasonMaybeWrapper = "maybe_wrapper" // what is left may be an older wrapper: spared
	ReasonNothing      = "nothing_known" // neither identity nor cookie: nothing to look for
)

// ScriptResult is what kill.sh's marked line says.
type ScriptResult struct {
	Outcome      string // wire.OutcomeGone, OutcomeAlive or OutcomeUnknown
	Reason       string // rebooted, eperm, …
	Phase        string
	Proof        string // scan, cgroup, rebooted
	Before       int
	Left         []wire.Process
	Alive        int
	Partial      bool // other users' processes cannot be seen: never "proved gone"
	Reused       bool // the PID belongs to a stranger now
	MainAlive    bool // the recorded main process itself
	WrapperAlive bool
	End          *wire.EndRecord // check: the end record, if the wrapper left one
	Text         string          // the raw answer, for the log

	Acted int // processes that took the signal, stop or continuation
	// Found is what a request without Identity, or with nothing but an older
	// wrapper's PID, found out about the task: enough to ask again by identity. Its wrapper fields are zero unless the parent of
	// the main process is beyond doubt a wrapper.
	Found *wire.Identity
}

// Transport reaches machines in one way.
type Transport interface {
	// Start runs the wrapper with its order on standard input and waits for its
	// identity line, at most until ctx ends.
	Start(ctx context.Context, m Machine, order []byte) StartResult
	// Script runs kill.sh. An error means that no answer came; ErrUnreachable if
	// the machine could not be spoken to. The script goes on if ctx ends.
	Script(ctx context.Context, m Machine, r ScriptRequest) (ScriptResult, error)
	// Fetch reads a file of a task's spool from an offset, at most max bytes. A
	// short or empty answer means that the file ends there.
	Fetch(ctx context.Context, m Machine, path string, offset, max int64) ([]byte, error)
	// Close waits for what is under way. What was started goes on.
	Close() error
}
