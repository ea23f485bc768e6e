// Package runner is the server's wing: when a job fires, where it goes, what
// each task's news means, and how a kill gets through.
package runner

import (
	"context"
	"log/slog"
	"time"

	"saltpeter/config"
	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
)

// STUB: signatures fixed, bodies to be built, file to be replaced by real ones.

// Options of a Runner.
type Options struct {
	Ledger     *ledger.Ledger
	Transports map[string]launch.Transport // by name: local, ssh, salt
	Config     *config.Set
	// MachinesURL is the base that wrappers dial ("wss://127.0.0.1:8889"), for a
	// machine reached by that transport; Pin goes with it.
	MachinesURL func(transport string) string
	Pin         string
	Log         *slog.Logger
}

type Runner struct{}

func New(o Options) *Runner { panic("stub") }

// Run re-adopts unfinished tasks, then schedules until ctx ends. It returns when
// everything it started has; wrappers and their jobs go on.
func (r *Runner) Run(ctx context.Context) error { panic("stub") }

// SetConfig puts a new Set in force; running tasks keep their definition.
func (r *Runner) SetConfig(s *config.Set) { panic("stub") }
func (r *Runner) Config() *config.Set     { panic("stub") }

// Handler is what stands behind the machines listener.
func (r *Runner) Handler() wsx.Handler { panic("stub") }

// Actor is who asks, for the audit log.
type Actor struct{ Who, From string }

// StartRequest is a run by hand.
type StartRequest struct {
	Job      string
	Machines []string // names or globs that restrict the targets
	Force    bool     // in spite of maintenance and overlap
	RetryOf  string   // run id: only its failed machines
}

// Start starts a job now. Errors are *Refusal for what a person can mend.
func (r *Runner) Start(ctx context.Context, a Actor, q StartRequest) (*ledger.Run, error) {
	panic("stub")
}

// Refusal is a request that was not carried out and changed nothing.
type Refusal struct {
	Code string // stable: no_such_job, no_such_run, nothing_running, maintenance, overlap, ambiguous, no_machines, bad_request
	Text string
	Hint string
}

func (e *Refusal) Error() string { return e.Text }

// Selector chooses tasks. Empty fields do not restrict.
type Selector struct {
	Name      string        `json:"name,omitempty"` // job or run; Job and Run say which where both exist
	Job       string        `json:"job,omitempty"`
	Run       string        `json:"run,omitempty"`
	Machine   string        `json:"machine,omitempty"` // glob
	States    []string      `json:"states,omitempty"`  // running, paused, disconnected, lost, overdue …
	Failed    bool          `json:"failed,omitempty"`
	OlderThan time.Duration `json:"older_than,omitempty"`
	All       bool          `json:"all,omitempty"`
}

// KillOptions of one kill.
type KillOptions struct {
	Signal   string
	Grace    *time.Duration
	DryRun   bool
	NoWait   bool
	Withdraw bool
}

// Receipt is what a kill reports for one task; see spec kill.md. Its JSON is stable.
type Receipt struct {
	Run             string        `json:"run"`
	Machine         string        `json:"machine"`
	Outcome         string        `json:"outcome"`
	Via             string        `json:"via,omitempty"`
	Signal          string        `json:"signal,omitempty"`
	Phase           string        `json:"phase,omitempty"`
	TookMS          float64       `json:"took_ms"`
	ExitCode        *int          `json:"exit_code,omitempty"`
	RealCode        *int          `json:"real_code,omitempty"`
	RealSignal      int           `json:"real_signal,omitempty"`
	Proof           string        `json:"proof,omitempty"`
	ProcessesBefore int           `json:"processes_before,omitempty"`
	Left            []LeftProcess `json:"left,omitempty"`
	Error           string        `json:"error,omitempty"`
	WebsocketLost   float64       `json:"websocket_lost_s,omitempty"` // seconds without it, where via is another road
	Pending         bool          `json:"pending,omitempty"`          // the kill stands and will be carried on
}

type LeftProcess struct {
	PID     int    `json:"pid"`
	State   string `json:"state"`
	Command string `json:"command"`
	Reason  string `json:"reason"`
}

// Kill asks for the end of every selected task. The receipts come as they are
// settled; the channel is closed after the last. The kills go on if ctx ends.
func (r *Runner) Kill(ctx context.Context, a Actor, s Selector, o KillOptions) (<-chan Receipt, error) {
	panic("stub")
}

// Answer is what came of a pause, resume or signal for one task.
type Answer struct {
	Run     string `json:"run"`
	Machine string `json:"machine"`
	OK      bool   `json:"ok"`
	Via     string `json:"via,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (r *Runner) Pause(ctx context.Context, a Actor, s Selector, ttl time.Duration) (<-chan Answer, error) {
	panic("stub")
}
func (r *Runner) Resume(ctx context.Context, a Actor, s Selector) (<-chan Answer, error) {
	panic("stub")
}
func (r *Runner) Signal(ctx context.Context, a Actor, s Selector, signal, scope string) (<-chan Answer, error) {
	panic("stub")
}
func (r *Runner) Forget(ctx context.Context, a Actor, run string) error { panic("stub") }

// TaskStatus is a live or recent task with what only the server's memory knows.
type TaskStatus struct {
	ledger.Task
	Connected    bool          `json:"connected"`
	Disconnected bool          `json:"disconnected"` // no frame for 15 s
	LastContact  time.Time     `json:"last_contact,omitzero"`
	KillPending  string        `json:"kill_pending,omitempty"` // why the standing kill has not got through
	Overdue      bool          `json:"overdue"`
	Road         string        `json:"road"`            // how it can be reached now: websocket, local, ssh, none
	Alive        []LeftProcess `json:"alive,omitempty"` // of a kill that could not end them
}

// JobStatus is one job as the scheduler sees it.
type JobStatus struct {
	Name    string      `json:"name"`
	Group   string      `json:"group"`
	Next    time.Time   `json:"next,omitzero"`     // zero = never
	Blocked string      `json:"blocked,omitempty"` // maintenance, disabled, overlap: what keeps it from firing
	Last    *ledger.Run `json:"last,omitempty"`
}

// Status is one consistent look at everything.
type Status struct {
	Now    time.Time    `json:"now"`
	Jobs   []JobStatus  `json:"jobs"`
	Tasks  []TaskStatus `json:"tasks"` // live ones, lost ones, and those with leftovers or a standing kill
	Serial string       `json:"serial"`
}

func (r *Runner) Status(ctx context.Context) (Status, error) { panic("stub") }

// Change is one event for those who watch: a run or task that changed, output
// that grew, a config that was put in force.
type Change struct {
	Kind    string // run, task, output, config, receipt
	At      time.Time
	Run     *ledger.Run   // kind run: it began, or got a reason
	Task    *TaskStatus   // kind task
	ID      ledger.TaskID // kind output: whose
	Length  int64         // kind output: bytes now
	Receipt *Receipt      // kind receipt
}

// Watch sends every change from now on. A watcher that is slower than its buffer
// is closed (the channel), so that it starts again from a fresh Status; it never
// holds anybody up. Output changes are merged per task.
func (r *Runner) Watch(ctx context.Context, buffer int) <-chan Change { panic("stub") }
