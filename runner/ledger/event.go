package ledger

import (
	"time"

	"saltpeter/wsx/wire"
)

// Event is one thing that happened, to be written down with Apply.
type Event interface{ isEvent() }

type (
	// Begun opens a run with all its tasks, queued (or at an end where they are
	// never to start: over a limit, say). It is recorded before anything is
	// launched. Run.ID must be free: ErrExists otherwise. With the triggers
	// schedule and catch_up the run is the one record of its due time:
	// ErrDueTaken, which is an ErrExists too, if there is one.
	Begun struct{ Run Run }

	// Joined adds a task, queued, to a run that another server began (trigger
	// foreign): of each of its machines one hears by itself. ErrNoRun, ErrExists;
	// ErrUnlawful for runs of our own.
	Joined struct{ Task Task }

	// SkippedDue says that due times of a job have no run. Neighbours with the
	// same reason and detail become one range. ErrDueTaken if one of them has its
	// record already.
	SkippedDue struct{ Skip Skip }

	// Launched: queued -> launching; again for a launching task that certainly
	// did not start, which lets one more token in. TokenHash (SHA-256, hex) lets the wrapper
	// in; the token itself is never stored.
	Launched struct {
		Task      TaskID
		At        time.Time
		Transport string
		Cookie    string
		TokenHash string
	}

	// Identified fills in the identity of the processes, whichever road brought
	// it first. Lawful in every state; it changes none.
	Identified struct {
		Task     TaskID
		Identity wire.Identity
		Version  string
		Features []string
	}

	// Started: launching -> running (stopping stays stopping; a lost task comes
	// back as running).
	Started struct {
		Task TaskID
		At   time.Time
		PID  int
	}

	// PausedAt and ResumedAt: running <-> paused; harmless when repeated, and
	// while the task is stopping.
	PausedAt struct {
		Task TaskID
		At   time.Time
	}
	ResumedAt struct {
		Task TaskID
		At   time.Time
	}

	// KillAsked records a kill that stands from now on: launching, running and
	// paused become stopping; queued becomes killed at once (never started); an
	// ended task keeps its state (its leftovers are the target). A second one
	// while one stands replaces signal and grace and keeps id, by and asked.
	KillAsked struct {
		Task TaskID
		Kill Kill
	}

	// KillSettled stores a receipt. Final says that the kill does not stand any
	// more; otherwise (unreachable, alive) it is only the last word so far.
	KillSettled struct {
		Task    TaskID
		At      time.Time
		Receipt []byte
		Final   bool
	}

	// KillWithdrawn: the kill stands no more; stopping goes back to running.
	KillWithdrawn struct {
		Task TaskID
		At   time.Time
		By   string
	}

	// Ended is the one end of a task, from any live state or from lost. State
	// must be an end. A second Ended is ErrUnlawful and changes nothing. A kill
	// that stands or that stood when the job died is the cause whatever State
	// says: it is stored as killed/143 (timeouts as timed_out/124), and ExitCode
	// becomes End.RealCode where that is unset. Only a timeout that the wrapper
	// says came first stays one, and an end that is known to have come before the
	// kill was asked for stays what it is.
	Ended struct {
		Task     TaskID
		At       time.Time
		State    State
		ExitCode int
		Reason   string
		End      wire.End
		Before   bool // it had ended by itself before the kill was asked for, whatever a clock says
	}

	// Amended fills in true code, proof and details of an end that was recorded
	// without them (unknown, or a kill confirmed over the other road), once. An
	// unknown end becomes what the code says, now that it is known; no other end
	// changes its state or exit code.
	Amended struct {
		Task     TaskID
		ExitCode *int // nil: not known any better
		End      wire.End
	}

	// LostAt: any live state -> lost, provisional. FoundAt: lost -> running
	// (stopping if a kill stands); harmless where the task is not lost.
	LostAt struct {
		Task   TaskID
		At     time.Time
		Reason string
	}
	FoundAt struct {
		Task TaskID
		At   time.Time
	}

	// LeftoverNow counts the processes that outlive an ended task.
	LeftoverNow struct {
		Task  TaskID
		Count int
	}

	// NoteAdded appends server text to the task's output.
	NoteAdded struct {
		Task TaskID
		Note Note
	}

	// TokenAdded lets one more token in for a task; TokenDropped ends a token's
	// life, from which time on it is unknown.
	TokenAdded struct {
		Hash string
		Task TaskID
	}
	TokenDropped struct{ Hash string }

	// NonceBound ties the order of a task to the first fetcher's nonce.
	NonceBound struct {
		Task  TaskID
		Nonce string
	}

	// Audited appends to the audit log.
	Audited struct{ Entry AuditEntry }

	// HoldSet keeps something from new runs, in place of an earlier hold of the
	// same; HoldLifted ends that, and is harmless where there is none.
	HoldSet    struct{ Hold Hold }
	HoldLifted struct{ Machine string }

	// Watermark remembers how far a job's schedule has been dealt with, so that
	// a restart knows which due times it missed. Job "" is the server's own
	// heartbeat: the last instant at which it was certainly up.
	Watermark struct {
		Job string
		At  time.Time
	}
)

func (Begun) isEvent()         {}
func (Joined) isEvent()        {}
func (SkippedDue) isEvent()    {}
func (Launched) isEvent()      {}
func (Identified) isEvent()    {}
func (Started) isEvent()       {}
func (PausedAt) isEvent()      {}
func (ResumedAt) isEvent()     {}
func (KillAsked) isEvent()     {}
func (KillSettled) isEvent()   {}
func (KillWithdrawn) isEvent() {}
func (Ended) isEvent()         {}
func (Amended) isEvent()       {}
func (LostAt) isEvent()        {}
func (FoundAt) isEvent()       {}
func (LeftoverNow) isEvent()   {}
func (NoteAdded) isEvent()     {}
func (TokenAdded) isEvent()    {}
func (TokenDropped) isEvent()  {}
func (NonceBound) isEvent()    {}
func (Audited) isEvent()       {}
func (HoldSet) isEvent()       {}
func (HoldLifted) isEvent()    {}
func (Watermark) isEvent()     {}
