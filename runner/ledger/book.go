// Package ledger is the book: what a run and a task are, which changes of state
// are lawful, and where they and their output are kept. Everything that the
// server must not forget goes through Apply, which is durable before it returns.
//
// The room knows no network and no processes, and no instant that it keeps is of its
// own clock: its callers say what happened and when.
package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"saltpeter/wsx/wire"
)

// TaskID names a task: a run on one machine.
type TaskID struct {
	Run     string `json:"run"`
	Machine string `json:"machine"`
}

// State of a task. The live states come first; the rest are ends.
type State string

const (
	Queued    State = "queued"
	Launching State = "launching"
	Running   State = "running"
	Paused    State = "paused"
	Stopping  State = "stopping"

	Succeeded    State = "succeeded"
	Failed       State = "failed"
	TimedOut     State = "timed_out"
	Killed       State = "killed"
	LaunchFailed State = "launch_failed"
	Unreachable  State = "unreachable"
	Skipped      State = "skipped"
	Unknown      State = "unknown" // ended, code not known: the wrapper was lost
	Lost         State = "lost"    // provisional: no word and no road to ask by
)

// Done reports whether the state is an end.
func (s State) Done() bool {
	switch s {
	case Queued, Launching, Running, Paused, Stopping:
		return false
	}
	return true
}

// Why a due time has no run, or a run no tasks.
const (
	ReasonOverlap     = "overlap"
	ReasonMaintenance = "maintenance"
	ReasonNoMachines  = "no_machines"
	ReasonMissed      = "missed"      // several occurrences in one stall: the last of them ran
	ReasonServerDown  = "server_down" // nobody was there to fire
	ReasonDisabled    = "disabled"
	ReasonError       = "error"  // it could not be recorded or launched; Detail says why
	ReasonCancelled   = "killed" // a kill ended what would have come
)

// Triggers of a run.
const (
	TriggerSchedule = "schedule"
	TriggerManual   = "manual"
	TriggerCatchUp  = "catch_up"
	TriggerRetry    = "retry"
	TriggerForeign  = "foreign" // another server began it
)

// Run is the record of one firing.
type Run struct {
	ID         string          `json:"id"` // NAME_<due unix seconds>[-n], on the wire job_instance
	Job        string          `json:"job"`
	Group      string          `json:"group"`
	Due        time.Time       `json:"due"`
	Fired      time.Time       `json:"fired"` // when the server acted on it; Fired-Due is the lateness
	Trigger    string          `json:"trigger"`
	By         string          `json:"by,omitempty"`       // who asked, for manual runs
	RetryOf    string          `json:"retry_of,omitempty"` // run id
	Reason     string          `json:"reason,omitempty"`   // why it has no tasks: no_machines, error
	Detail     string          `json:"detail,omitempty"`
	Definition json.RawMessage `json:"definition,omitempty"` // versioned JSON of the job as it was; opaque here
	Tasks      []Task          `json:"tasks"`
}

// Task is a run on one machine.
type Task struct {
	TaskID
	Job       string         `json:"job"`
	State     State          `json:"state"`
	Batch     int            `json:"batch"`     // which batch it belongs to, from 0
	Transport string         `json:"transport"` // local, ssh, salt
	Cookie    string         `json:"-"`         // SP_TASK
	Identity  *wire.Identity `json:"identity,omitempty"`
	Version   string         `json:"wrapper_version,omitempty"`
	Features  []string       `json:"features,omitempty"` // of the wrapper's last connect
	Queued    time.Time      `json:"queued"`
	Launched  time.Time      `json:"launched,omitzero"`
	Started   time.Time      `json:"started,omitzero"`
	Ended     time.Time      `json:"ended,omitzero"`
	ExitCode  *int           `json:"exit_code,omitempty"` // derived, see wire.ExitCode; nil while live
	Reason    string         `json:"reason,omitempty"`    // why, in words, for ends that need some
	End       *wire.End      `json:"end,omitempty"`
	Amended   bool           `json:"amended,omitempty"`  // the end's details were filled in afterwards
	Leftover  int            `json:"leftover,omitempty"` // processes that outlived the job, still alive
	Kill      *Kill          `json:"kill,omitempty"`     // the kill that stands or stood
	Length    int64          `json:"output_length"`      // bytes of output stored
	Notes     []Note         `json:"-"`
}

// Kill is one that was asked for a task. It stands until it is settled or
// withdrawn, over restarts of the server.
type Kill struct {
	ID        string          `json:"id"`
	Asked     time.Time       `json:"asked"`
	By        string          `json:"by"`
	From      string          `json:"from,omitempty"`
	Cause     string          `json:"cause"` // wire.CauseKill or wire.CauseTimeout
	Signal    string          `json:"signal,omitempty"`
	Grace     *float64        `json:"grace,omitempty"`   // seconds; nil = the job's own
	Receipt   json.RawMessage `json:"receipt,omitempty"` // the last one, opaque here
	Settled   time.Time       `json:"settled,omitzero"`
	Withdrawn time.Time       `json:"withdrawn,omitzero"`
}

// Standing reports whether the kill is still to be carried out.
func (k *Kill) Standing() bool {
	return k != nil && k.Settled.IsZero() && k.Withdrawn.IsZero()
}

// Note is text that the server adds to a task's output: rendered behind the
// bytes of the job and never stored among them, so that a wrapper that comes
// back goes on at its own offset.
type Note struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Skip is a range of due times that have no run, for one reason.
type Skip struct {
	Job    string    `json:"job"`
	Group  string    `json:"group"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"` // equal to From for a single one
	Count  int64     `json:"count"`
	Reason string    `json:"reason"`
	Detail string    `json:"detail,omitempty"`
}

// AuditEntry says who asked for what, from where, and what came of it.
type AuditEntry struct {
	ID      int64     `json:"id"`
	At      time.Time `json:"at"`
	Who     string    `json:"who"`
	From    string    `json:"from"`
	What    string    `json:"what"` // run, kill, pause, resume, signal, withdraw, forget, token …
	Target  string    `json:"target"`
	Outcome string    `json:"outcome,omitempty"`
}

// otherVersion is an ErrVersion that says which way.
type otherVersion string

const (
	ErrOlder otherVersion = "the state directory was written by an older version"
	ErrNewer otherVersion = "the state directory was written by a newer version"
)

func (e otherVersion) Error() string { return string(e) }

func (otherVersion) Is(target error) bool { return target == ErrVersion }

// Errors that callers look for.
var (
	ErrLocked   = errors.New("another server uses this state directory")
	ErrVersion  = errors.New("the state directory was written by another version")
	ErrNoRun    = errors.New("no such run")
	ErrNoTask   = errors.New("no such task")
	ErrExists   = errors.New("a run of this name exists")
	ErrUnlawful = errors.New("not a lawful change of state") // see next
	ErrGap      = errors.New("output does not follow what is stored")
	ErrNoToken  = errors.New("unknown token")
	ErrClosed   = errors.New("the ledger is closed")

	// ErrDueTaken is an ErrExists of another kind: not the name is taken, the
	// due time of the job has its one record already. Another name will not help.
	ErrDueTaken = fmt.Errorf("this due time has its record (%w)", ErrExists)
	// ErrFull: nothing was written and nothing is damaged; it goes on when there
	// is room again.
	ErrFull = errors.New("the disk of the state directory is full")
	// ErrReadOnly: the book was opened with OpenReadOnly.
	ErrReadOnly = errors.New("the ledger is open for reading only")
)
