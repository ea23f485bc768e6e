package runner

import (
	"slices"
	"time"

	"saltpeter/runner/ledger"
)

// TaskStatus is a live or recent task with what only the server's memory knows.
type TaskStatus struct {
	ledger.Task
	Connected    bool          `json:"connected"`
	Disconnected bool          `json:"disconnected"` // no frame for 15 s
	LastContact  time.Time     `json:"last_contact,omitzero"`
	KillPending  string        `json:"kill_pending,omitempty"` // why the standing kill has not got through
	Overdue      bool          `json:"overdue"`
	Unwatched    bool          `json:"unwatched,omitempty"`    // it runs without a wrapper: only its result will be known
	Road         string        `json:"road"`                   // how it can be reached now: websocket, local, ssh, none; "ssh?": not tried yet
	StartUnsure  string        `json:"start_unsure,omitempty"` // why it is not known whether it started; the machine is being asked
	Alive        []LeftProcess `json:"alive,omitempty"`        // of a kill that could not end them
}

// is reports whether a task is in a state, or has a mark beside it.
func (t *TaskStatus) is(state string) bool {
	switch state {
	case markDisconnected:
		return t.Disconnected
	case markOverdue:
		return t.Overdue
	case markLeftover:
		return over(t.State) && t.Leftover > 0
	case markKillPending:
		return t.Kill.Standing()
	}
	return string(t.State) == state
}

// since is when the task began to live.
func (t *TaskStatus) since() time.Time {
	switch {
	case !t.Started.IsZero():
		return t.Started
	case !t.Launched.IsZero():
		return t.Launched
	}
	return t.Queued
}

// status is the tasks' part of Status: live ones, lost ones, and those with
// leftovers or a standing kill, in order of queueing.
func (ts *tasks) status(now time.Time) []TaskStatus {
	all := []TaskStatus{}
	for _, t := range ts.every() {
		if s := t.status(now); killable(&s) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b TaskStatus) int { return byQueue(&a.Task, &b.Task) })
	return all
}

// Kinds of Change.
const (
	ChangeRun     = "run"     // a run began, or got a reason
	ChangeTask    = "task"    // a task changed
	ChangeOutput  = "output"  // a task's output grew
	ChangeConfig  = "config"  // a config was put in force
	ChangeReceipt = "receipt" // a kill was answered, or its answer corrected
)

// Change is one event for those who watch.
type Change struct {
	Kind    string
	At      time.Time
	Run     *ledger.Run   // kind run
	Task    *TaskStatus   // kind task
	ID      ledger.TaskID // kinds output and receipt: whose
	Length  int64         // kind output: bytes now
	Receipt *Receipt      // kind receipt
}
