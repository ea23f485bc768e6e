// Package wire is what both wings of the house must agree on: the messages of
// every wrapper generation, the binary output frame, the identity of a job's
// processes, the order that starts a task, the report that ends it, and how an
// end maps to an exit code.
//
// Every room may import it; it opens no connection and touches no disk.
package wire

import (
	"encoding/json"
	"time"
)

// Types of message. The names and the fields of the first group are fixed by
// wrappers that are in the field; the second group is negotiated as features.
const (
	TypeConnect      = "connect"
	TypeStart        = "start"
	TypeHeartbeat    = "heartbeat"
	TypeOutput       = "output"
	TypeSyncRequest  = "sync_request"
	TypeSyncResponse = "sync_response"
	TypeKilled       = "killed"
	TypeComplete     = "complete"
	TypeError        = "error"
	TypeAck          = "ack"
	TypeNack         = "nack"
	TypeKill         = "kill"

	TypeSignal = "signal"
	TypePause  = "pause"
	TypeResume = "resume"
	TypeReport = "report"
	TypeMark   = "mark"
)

// Features that both sides name before either uses them.
const (
	FeatureBytes    = "bytes"    // output as binary frames with offsets
	FeatureSignal   = "signal"   // the signal message
	FeaturePause    = "pause"    // the pause and resume messages
	FeatureIdentity = "identity" // connect and start carry an Identity
	FeatureReport   = "report"   // report messages and the detail of complete
)

// Features lists everything this build speaks.
func Features() []string {
	return []string{FeatureBytes, FeatureSignal, FeaturePause, FeatureIdentity, FeatureReport}
}

// Error codes that a server puts into an error message.
const CodeJobNotFound = "JOB_NOT_FOUND"

// NackOutOfOrder is the one reason for a nack.
const NackOutOfOrder = "out_of_order"

// Message is one JSON frame of the machines listener in either direction. Only
// the fields that its type names are set; the rest stay absent on the wire.
type Message struct {
	Type        string `json:"type"`
	JobName     string `json:"job_name,omitempty"`
	JobInstance string `json:"job_instance,omitempty"`
	Machine     string `json:"machine,omitempty"`
	Timestamp   string `json:"timestamp,omitempty"` // see FormatTime and ParseTime

	// connect, and its ack
	Features []string  `json:"features,omitempty"`
	Version  string    `json:"version,omitempty"`
	Identity *Identity `json:"identity,omitempty"` // connect and start
	Resume   *int64    `json:"resume,omitempty"`   // ack of connect: byte offset to go on from
	Token    string    `json:"token,omitempty"`    // ack of connect on a run token: the task's own token

	// start
	PID int `json:"pid,omitempty"`

	// output as text, and the sequence numbers of the second generation
	Stream       string `json:"stream,omitempty"`
	Data         string `json:"data,omitempty"`
	Seq          *int64 `json:"seq,omitempty"`
	LastAckedSeq *int64 `json:"last_acked_seq,omitempty"`
	NextSeq      *int64 `json:"next_seq,omitempty"`
	LastSeq      *int64 `json:"last_seq,omitempty"`

	// ack and nack
	AckType     string `json:"ack_type,omitempty"`
	NackType    string `json:"nack_type,omitempty"`
	ExpectedSeq *int64 `json:"expected_seq,omitempty"`
	ReceivedSeq *int64 `json:"received_seq,omitempty"`

	// Offset is, in an ack of output with bytes, the length stored without a
	// hole; in a mark, the byte whose time the mark tells.
	Offset *int64 `json:"offset,omitempty"`

	// complete
	RetCode *int   `json:"retcode,omitempty"`
	Output  string `json:"output,omitempty"` // first generation: the whole text again
	// End is the detail that ours adds to complete; its fields lie flat in the
	// frame, beside retcode.
	*End

	// error, from either side
	Error string `json:"error,omitempty"`
	Code  string `json:"code,omitempty"`
	Text  string `json:"message,omitempty"`

	// kill, signal, pause, resume; the answers carry the same id
	ID     string   `json:"id,omitempty"`
	Signal string   `json:"signal,omitempty"` // a name without SIG: "TERM"
	Grace  *float64 `json:"grace,omitempty"`  // seconds
	Scope  string   `json:"scope,omitempty"`  // signal: "main" (default) or "all"
	TTL    *float64 `json:"ttl,omitempty"`    // pause: seconds until it thaws by itself

	// report
	Report *Report `json:"report,omitempty"`
}

// ForServer reports whether the type is one that a wrapper sends.
func (m *Message) ForServer() bool {
	switch m.Type {
	case TypeConnect, TypeStart, TypeHeartbeat, TypeOutput, TypeSyncRequest, TypeKilled,
		TypeComplete, TypeError, TypeReport, TypeMark:
		return true
	}
	return false
}

// Has reports whether a list of features names one.
func Has(features []string, feature string) bool {
	for _, f := range features {
		if f == feature {
			return true
		}
	}
	return false
}

// Common returns the features that both lists name, in our own order.
func Common(theirs []string) []string {
	var both []string
	for _, f := range Features() {
		if Has(theirs, f) {
			both = append(both, f)
		}
	}
	return both
}

// Encode renders a message as one JSON text frame.
func (m *Message) Encode() ([]byte, error) { return json.Marshal(m) }

// FormatTime renders an instant as every generation writes it: ISO 8601 with
// microseconds and an offset.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000-07:00") }

// ParseTime reads a frame's timestamp. A missing or unreadable one means now,
// which the caller passes in; it is never an error.
func ParseTime(s string, now time.Time) time.Time {
	for _, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t
		}
	}
	return now
}

// layouts of ISO 8601 that are taken; without an offset it is UTC.
var layouts = []string{
	time.RFC3339Nano,
	"2006-01-02T15:04:05.999999999Z0700",
	"2006-01-02T15:04:05.999999999",
	"2006-01-02 15:04:05.999999999Z07:00",
	"2006-01-02 15:04:05.999999999",
}

// Ptr returns a pointer to a copy of v, for the optional fields of a Message.
func Ptr[T any](v T) *T { return &v }
