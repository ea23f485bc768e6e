// Package launch runs one short command on a machine, by each transport, and
// answers: started, certainly not, or unknown. It carries kill.sh, the other
// road for kills. It knows no runs and holds no connection for a task's life.
package launch

import (
	"context"
	"errors"
	"time"

	"saltpeter/wsx/wire"
)

// STUB: signatures fixed, bodies to be built, file to be replaced by real ones.

// Machine is what a transport needs to know of one.
type Machine struct {
	Name        string
	Transport   string // "local" | "ssh" | "salt"
	SSH         string // user@host:port
	Sudo        bool
	WrapperPath string // "" = this binary / ours, pushed
	Spool       string
}

// Certainty of a start.
type Certainty int

const (
	Started      Certainty = iota // the identity line came back
	CertainlyNot                  // nothing of the order was carried out
	Unsure                        // it may have started: ask with Check, never start again blindly
)

// StartResult is what is known after a start.
type StartResult struct {
	Certainty Certainty
	Version   string
	Identity  *wire.Identity
	Err       error // why, unless Started. errors.Is(err, ErrUnreachable) tells the two 255s apart
}

// ErrUnreachable: the machine could not be spoken to at all.
var ErrUnreachable = errors.New("machine unreachable")

// ErrNoTransport: this build cannot reach machines that way yet.
var ErrNoTransport = errors.New("transport not available")

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
}

// ScriptResult is what kill.sh's marked line says.
type ScriptResult struct {
	Outcome      string // wire.Outcome…; check: gone, alive, unknown
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
}

// Transport reaches machines in one way.
type Transport interface {
	// Start runs the wrapper with its order on standard input and waits for its
	// identity line, at most until ctx ends.
	Start(ctx context.Context, m Machine, order []byte) StartResult
	// Script runs kill.sh. An error means that no answer came; ErrUnreachable if
	// the machine could not be spoken to.
	Script(ctx context.Context, m Machine, r ScriptRequest) (ScriptResult, error)
	// Fetch reads a file of a task's spool from an offset, at most max bytes.
	Fetch(ctx context.Context, m Machine, path string, offset, max int64) ([]byte, error)
	// Close waits for what is under way.
	Close() error
}

// LocalOptions of the local transport.
type LocalOptions struct {
	Executable string // this binary; "" = os.Executable
}

func NewLocal(o LocalOptions) Transport { panic("stub") }
