package wire

// Causes of an end. The first that strikes wins, by the wrapper's monotonic
// clock.
const (
	CauseExit       = "exit"          // the command ended by itself
	CauseKill       = "kill"          // a person's kill
	CauseTimeout    = "timeout"       // the job's timeout
	CauseTerminated = "terminated"    // the wrapper itself was told to end (TERM, INT)
	CauseSignal     = "signal"        // died of a signal that a person sent with `signal`
	CauseLaunch     = "launch"        // never started: user, cwd, lockfile …
	CauseNever      = "never_started" // killed while the gate was shut
	CauseLost       = "lost"          // nobody saw the end: the wrapper was gone
)

// Phases of a kill.
const (
	PhaseTerm = "term" // gone within the grace
	PhaseKill = "kill" // SIGKILL was needed
)

// Proofs that nothing of a task is left, strongest first.
const (
	ProofECHILD   = "echild"   // the kernel told a subreaper that it has no descendant
	ProofCgroup   = "cgroup"   // the task's cgroup is unpopulated
	ProofRebooted = "rebooted" // the machine has started anew since
	ProofScan     = "scan"     // a look through /proc found nobody
	ProofWrapper  = "wrapper"  // an older wrapper's word
)

// Outcomes of a kill for one task.
const (
	OutcomeGone         = "gone"
	OutcomeAlive        = "alive"
	OutcomeUnknown      = "unknown"
	OutcomeUnreachable  = "unreachable"
	OutcomeNotRunning   = "not_running"
	OutcomeNeverStarted = "never_started"
)

// Reasons why a process is still there after SIGKILL.
const (
	ReasonEPERM           = "eperm"
	ReasonUninterruptible = "uninterruptible"
	ReasonFrozen          = "frozen"
	ReasonPending         = "pending"
)

// Process is one that is still alive.
type Process struct {
	PID     int    `json:"pid"`
	State   string `json:"state"` // the letter of /proc/PID/stat
	Command string `json:"command"`
	Reason  string `json:"reason"`
}

// MaxLeft bounds the list of living processes in a Report; Alive counts them all.
const MaxLeft = 32

// Report is what a wrapper says of the task's processes: the answer to a kill,
// signal, pause or resume, its later correction, or news of leftovers. A server
// acks it with ack_type "report" and the same id; until then it is sent again
// after a reconnect.
type Report struct {
	Op              string    `json:"op"`                // kill, signal, pause, resume, leftover
	OK              bool      `json:"ok"`                // the request did what it asked for
	Outcome         string    `json:"outcome,omitempty"` // kill: gone, alive, not_running, never_started
	Signal          string    `json:"signal,omitempty"`
	Phase           string    `json:"phase,omitempty"`
	Proof           string    `json:"proof,omitempty"`
	TookMS          float64   `json:"took_ms,omitempty"`
	ProcessesBefore int       `json:"processes_before,omitempty"`
	Alive           int       `json:"alive,omitempty"` // how many still live, of which Left shows the first
	Left            []Process `json:"left,omitempty"`
	Leftover        int       `json:"leftover,omitempty"` // processes that outlive the job's end
	Already         bool      `json:"already,omitempty"`  // a kill was under way
	Error           string    `json:"error,omitempty"`
}

// End is the detail of a complete message, and what an end record holds.
type End struct {
	Cause      string  `json:"cause,omitempty"`
	Phase      string  `json:"phase,omitempty"`
	Proof      string  `json:"proof,omitempty"`
	RealCode   *int    `json:"real_code,omitempty"`   // the main process's own exit code
	RealSignal int     `json:"real_signal,omitempty"` // or the signal that ended it
	CoreDumped bool    `json:"core,omitempty"`
	Leftover   int     `json:"leftover,omitempty"`
	ElapsedMS  float64 `json:"elapsed_ms,omitempty"`
	Length     *int64  `json:"length,omitempty"` // bytes of output; the ack waits until they are stored
}

// EndRecord is the file that a wrapper leaves in its spool when the job is over
// and its server has not acknowledged that yet.
type EndRecord struct {
	Job      string    `json:"job"`
	Run      string    `json:"run"`
	Machine  string    `json:"machine"`
	Task     string    `json:"task"`
	RetCode  int       `json:"retcode"`
	Ended    string    `json:"ended"` // FormatTime
	End      End       `json:"end"`
	Error    string    `json:"error,omitempty"` // a start that failed: why
	Identity *Identity `json:"identity,omitempty"`
}

// Exit codes that are derived for people and for older clients. A command can
// return any of them itself: the cause tells them apart.
const (
	ExitOK          = 0
	ExitTimeout     = 124
	ExitKilled      = 143
	ExitLost        = 253 // heartbeat timeout, wrapper lost
	ExitUnreachable = 255 // unreachable, launch failed, wrapper error
)

// ExitCode derives the one number for an end from its cause and the main
// process's own code or signal.
func ExitCode(cause string, realCode, realSignal int) int {
	switch cause {
	case CauseKill, CauseNever, CauseTerminated:
		return ExitKilled
	case CauseTimeout:
		return ExitTimeout
	case CauseLaunch:
		return ExitUnreachable
	case CauseLost:
		return ExitLost
	}
	if realSignal > 0 {
		return 128 + realSignal
	}
	if realCode < 0 && realCode > -128 {
		return 128 - realCode
	}
	return realCode
}

// Lines that close an output, as every generation writes them.
const KilledLine = "\n[Job terminated by user request]\n"

// TimeoutLine is the closing line of a task that ran into its timeout.
func TimeoutLine(timeout Seconds) string {
	return "\n[Job exceeded timeout of " + formatSeconds(timeout) + " seconds]\n"
}
