package wire

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
)

// OrderVersion is the version of Order that this build writes and the highest
// that it takes.
const OrderVersion = 1

// Order is everything that a wrapper needs to run one task. It travels on
// standard input or a pipe, or is fetched from the machines listener: never in
// arguments, since it holds the token and the job's environment.
type Order struct {
	Version int    `json:"order_version"`
	Server  string `json:"server"`        // id of the server's state directory: whose spool this is
	URL     string `json:"url"`           // ws:// or wss://HOST:PORT/task/TOKEN
	Pin     string `json:"pin,omitempty"` // hex SHA-256 of the server's public key; empty: the system's CAs decide
	// Socket is a unix socket of the server's, for wrappers on its own machine. It
	// is tried before URL, if root or the wrapper's own user listens there.
	Socket string `json:"socket,omitempty"`

	Job     string            `json:"job"`
	Run     string            `json:"run"`
	Machine string            `json:"machine"`
	Task    string            `json:"task"` // the cookie: random, unique over all servers
	Command string            `json:"command"`
	Cwd     string            `json:"cwd,omitempty"`
	User    string            `json:"user,omitempty"`
	Env     map[string]string `json:"env,omitempty"`

	Timeout           Seconds `json:"timeout,omitempty"`     // 0 = none
	KillSignal        string  `json:"kill_signal,omitempty"` // "" = TERM
	KillGrace         Seconds `json:"kill_grace"`
	HardLimit         Seconds `json:"hard_limit"` // after KILL, until the answer is "alive"
	Drain             Seconds `json:"drain"`
	Leftover          string  `json:"leftover,omitempty"` // leave (default), wait, kill
	PauseStopsTimeout bool    `json:"pause_stops_timeout,omitempty"`
	Lockfile          string  `json:"lockfile,omitempty"`
	AllowOverlap      bool    `json:"allow_overlap,omitempty"`
	Streams           string  `json:"streams,omitempty"`       // "" = one pipe; "separate"
	MaxOutput         int64   `json:"max_output,omitempty"`    // bytes the spool may hold; 0 = 1 GiB
	OnSpoolFull       string  `json:"on_spool_full,omitempty"` // gap (default), block

	OutputInterval Seconds `json:"output_interval,omitempty"` // for servers without the bytes feature; 0 = 1 s
	StartWait      Seconds `json:"start_wait"`                // how long the gate waits for a server
	SpoolDir       string  `json:"spool_dir,omitempty"`       // "" = the wrapper chooses
	LogLevel       string  `json:"log_level,omitempty"`       // normal, debug, off
	LogDir         string  `json:"log_dir,omitempty"`
}

// Seconds is a duration on the wire. The zero value is zero seconds.
type Seconds float64

// Duration is s as Go counts time. What does not fit, or is no number, is the
// nearest that is: a grace of 1e300 must not turn into none.
func (s Seconds) Duration() time.Duration {
	switch d := float64(s) * float64(time.Second); {
	case d >= math.MaxInt64:
		return math.MaxInt64
	case d <= math.MinInt64:
		return math.MinInt64
	case d != d:
		return 0
	default:
		return time.Duration(d)
	}
}

// Defaults of an Order where job files and kills say nothing, in seconds.
const (
	DefaultKillGrace Seconds = 5
	DefaultHardLimit Seconds = 10
	DefaultDrain     Seconds = 2
	DefaultStartWait Seconds = 2
)

// DefaultMaxOutput is the most output that one task keeps, in bytes.
const DefaultMaxOutput int64 = 1 << 30

// Encode renders the order as one line of JSON.
func (o *Order) Encode() ([]byte, error) { return json.Marshal(o) }

// DecodeOrder reads an order and checks that it can be carried out.
func DecodeOrder(data []byte) (*Order, error) {
	var o Order
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("cannot read the order: %w", err)
	}
	return &o, o.Check()
}

// Check says what an order lacks.
func (o *Order) Check() error {
	switch {
	case o.Version > OrderVersion:
		return fmt.Errorf("cannot take the order: it has version %d, this wrapper knows up to %d: upgrade the wrapper", o.Version, OrderVersion)
	case o.URL == "":
		return fmt.Errorf("cannot take the order: it names no server (url, SP_WEBSOCKET_URL)")
	case o.Job == "":
		return fmt.Errorf("cannot take the order: it names no job (job, SP_JOB_NAME)")
	case o.Run == "":
		return fmt.Errorf("cannot take the order: it names no run (run, SP_JOB_INSTANCE)")
	case o.Command == "":
		return fmt.Errorf("cannot take the order: it has no command (command, SP_COMMAND)")
	}
	return nil
}

func formatSeconds(s Seconds) string { return strconv.FormatFloat(float64(s), 'f', -1, 64) }
