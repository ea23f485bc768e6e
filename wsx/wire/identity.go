package wire

// Identity names a job's processes so that they can be found again, and never
// mistaken for others, over a road that knows nothing else of them. A PID alone
// is never signalled: the boot id and the start time must match as well.
type Identity struct {
	BootID            string `json:"boot_id"`
	PID               int    `json:"pid"`         // the job's main process
	StartTicks        uint64 `json:"start_ticks"` // field 22 of /proc/PID/stat
	Session           int    `json:"session"`
	PIDNamespace      string `json:"pid_ns"`           // "pid:[4026531836]"
	Cgroup            string `json:"cgroup,omitempty"` // absolute directory of the task's own cgroup v2, if it has one
	Brand             string `json:"brand,omitempty"`  // RLIMIT_RSS as decimal text: it passes 2^53, compare it as text only
	Task              string `json:"task"`             // the cookie, SP_TASK in the job's environment
	WrapperPID        int    `json:"wrapper_pid"`
	WrapperStartTicks uint64 `json:"wrapper_start_ticks"`
	UID               int    `json:"uid"`
	Spool             string `json:"spool,omitempty"`    // directory with the task's output on the machine
	EndFile           string `json:"end_file,omitempty"` // where the end record lies once the job is over
	// Weak says which nets could not be cast and why, for people to read.
	Weak []string `json:"weak,omitempty"`
}

// FirstLine is what a wrapper of ours prints first; its version follows.
const FirstLine = "Saltpeter Wrapper version "

// OrdersLine is what a wrapper of ours says after FirstLine when it is asked for its
// version: the highest version of Order follows. No other generation says that.
const OrdersLine = "Takes orders up to version "
