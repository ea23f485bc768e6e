package ledger

import (
	"context"
	"io"
	"time"
)

// STUB: signatures fixed, bodies to be built, file to be replaced by real ones.

type Options struct {
	Dir string // state directory; created 0700 if missing
}

type Ledger struct{}

// Open takes the state directory's lock and opens the book for writing.
// ErrLocked (names the holder's pid), ErrVersion.
func Open(ctx context.Context, o Options) (*Ledger, error) { panic("stub") }

// OpenReadOnly reads a book whose server is down; ErrLocked if one runs.
func OpenReadOnly(ctx context.Context, dir string) (*Ledger, error) { panic("stub") }

func (l *Ledger) Close() error { panic("stub") }

// ServerID is the random id of this state directory, made once.
func (l *Ledger) ServerID() string { panic("stub") }

// Apply writes events down, all or none, durable when it returns. Events of one
// task are applied in the order of the calls. It returns the tasks as they are
// after it, one per task that an event names, in the order of first mention.
func (l *Ledger) Apply(ctx context.Context, events ...Event) ([]Task, error) { panic("stub") }

func (l *Ledger) Run(ctx context.Context, id string) (*Run, error)   { panic("stub") }
func (l *Ledger) Task(ctx context.Context, id TaskID) (*Task, error) { panic("stub") }
func (l *Ledger) Unfinished(ctx context.Context) ([]Task, error)     { panic("stub") } // live, lost, or with a standing kill or leftovers; in order of queueing

// RunFilter selects runs; zero fields do not restrict.
type RunFilter struct {
	Job, Machine string
	States       []State   // a run matches when one of its tasks does
	Since, Until time.Time // of Due
	Limit        int       // 0 = 100
	Cursor       string    // from RunPage.Next
}
type RunPage struct {
	Runs []Run // newest first, with tasks, without Definition
	Next string
}

func (l *Ledger) Runs(ctx context.Context, f RunFilter) (RunPage, error) { panic("stub") }
func (l *Ledger) LastRuns(ctx context.Context) (map[string]Run, error)   { panic("stub") } // newest run of each job
func (l *Ledger) Skips(ctx context.Context, job string, since, until time.Time, limit int) ([]Skip, error) {
	panic("stub")
}
func (l *Ledger) Watermarks(ctx context.Context) (map[string]time.Time, error) { panic("stub") }
func (l *Ledger) Audit(ctx context.Context, since time.Time, limit int) ([]AuditEntry, error) {
	panic("stub")
}

// TaskByToken is answered from memory: whose token hash this is. ErrNoToken.
func (l *Ledger) TaskByToken(hash string) (TaskID, error)              { panic("stub") }
func (l *Ledger) Nonce(ctx context.Context, id TaskID) (string, error) { panic("stub") }

// Prune removes ended runs whose Due is before the given time, with their output.
func (l *Ledger) Prune(ctx context.Context, before time.Time) (runs int, err error) { panic("stub") }

// Output is the writing end of one task's output. Not for concurrent use.
type Output struct{}

// Output opens (creating) a task's output for appending.
func (l *Ledger) Output(id TaskID) (*Output, error) { panic("stub") }

// Append stores data that begins at offset: what lies below Length is dropped,
// what would leave a hole is ErrGap and stores nothing. It returns the length
// after it. Written (survives SIGKILL of the server), not fsynced.
func (o *Output) Append(at time.Time, offset int64, stream byte, data []byte) (int64, error) {
	panic("stub")
}

// AppendSeq stores the text of a second-generation frame: a seq at or below
// LastSeq is dropped, one above LastSeq+1 is ErrGap.
func (o *Output) AppendSeq(at time.Time, seq int64, stream byte, data []byte) error { panic("stub") }

// AppendText stores text without seq (first generation): always new.
func (o *Output) AppendText(at time.Time, stream byte, data []byte) error { panic("stub") }

// Mark tells the time of the byte at offset.
func (o *Output) Mark(at time.Time, offset int64) error { panic("stub") }
func (o *Output) Length() int64                         { panic("stub") }
func (o *Output) LastSeq() int64                        { panic("stub") } // -1: none
func (o *Output) Sync() error                           { panic("stub") } // fsync of both files
func (o *Output) Close() error                          { panic("stub") }

// Reader reads a task's stored bytes; it may be open while they grow.
type Reader struct{}

func (l *Ledger) OpenOutput(id TaskID) (*Reader, error) { panic("stub") }

var _ io.ReaderAt = (*Reader)(nil)

func (r *Reader) ReadAt(p []byte, off int64) (int, error) { panic("stub") }
func (r *Reader) Length() (int64, error)                  { panic("stub") }
func (r *Reader) Close() error                            { panic("stub") }

// Row is one line of the sidecar: from Offset on, bytes are of Stream and came at At.
type Row struct {
	Offset int64
	At     time.Time
	Stream byte
	Seq    int64 // -1 where the frame had none
}

func (r *Reader) Rows() ([]Row, error) { panic("stub") }
