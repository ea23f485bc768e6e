package runner

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// noWant says that no complete message waits for output.
const noWant = int64(1<<63 - 1)

// task is one run on one machine, as long as something can come of it.
type task struct {
	ts *tasks
	id ledger.TaskID

	// serial orders everything that changes the task's state. Whoever holds it
	// may write to the ledger. later is what is done once it is given back:
	// answers that may block, and calls to the other half.
	serial sync.Mutex
	later  []func()
	hash   string // of the token of the last start

	// outMu owns the output file. It is not serial: a kill never waits for
	// output, and output never for a kill.
	outMu   sync.Mutex
	out     *ledger.Output
	outUsed time.Time
	unsaved bool // something was appended since the last fsync

	length atomic.Int64 // bytes of output stored
	wants  atomic.Int64 // the length that a held complete waits for, or noWant

	mu      sync.Mutex
	rec     ledger.Task // as the ledger last returned it
	spec    taskSpec
	hasSpec bool

	session   *session      // the newest connection
	contact   time.Time     // of the last frame; zero before the first
	skew      time.Duration // of the machine's clock, seen at the last connect: ours minus theirs
	skewKnown bool
	quiet     time.Time // since when silence counts: the last frame, launch or adoption
	expected  time.Time // a connection was let in and has not been opened yet
	cut       bool      // told as disconnected

	holding  bool   // it runs without a wrapper, over a connection of the transport's
	starting bool   // Transport.Start is under way, or about to be
	endWait  func() // ends the wait for the turn to start; nil: it does not wait
	unsure   int    // how many questions found nothing of a start that was not confirmed

	kill *killing // the kill that stands, or the last one
	held *held    // a complete that waits for its output
	asks map[string]chan wire.Report

	checkAt    time.Time // when the other road is asked next; zero: not at all
	checkWait  time.Duration
	checking   bool
	orphan     bool // the wrapper is dead
	alive      []LeftProcess
	timeKnown  bool      // it was launched by this server and never paused since
	thawAt     time.Time // when the server ends a pause that its wrapper cannot end
	closing    string    // the wrapper's own last line, of those that give no cause
	fetched    bool      // what a dead wrapper left was fetched
	doomed     bool      // a kill came while it was queued: it is not launched any more
	enqueued   bool      // launch was called
	olderStart bool      // what was started is a wrapper of an older generation
	startErr   string    // why it is not known whether it started

	deaf     *session // the connection that carried an order and brought no answer in time
	restarts int      // how often a start was repeated that had come to nothing
}

// lock takes the task for a change of its state.
func (t *task) lock() { t.serial.Lock() }

// unlock gives the task back and then does what was put off with after.
func (t *task) unlock() {
	later := t.later
	t.later = nil
	t.serial.Unlock()
	for _, f := range later {
		f()
	}
}

// after puts f off until serial is given back. serial is held.
func (t *task) after(f func()) { t.later = append(t.later, f) }

// record is the task as the ledger last returned it.
func (t *task) record() ledger.Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec
}

// apply writes events of this task down. When it returns nil they are durable.
// serial is held.
func (t *task) apply(events ...ledger.Event) error {
	recs, err := t.ts.o.Ledger.Apply(t.ts.write, events...)
	if err != nil {
		return err
	}
	for i := range recs {
		if recs[i].TaskID == t.id {
			t.took(recs[i])
		}
	}
	return nil
}

// took puts a new record in force and tells those who must know. serial is held.
func (t *task) took(rec ledger.Task) {
	t.mu.Lock()
	was := t.rec.State
	t.rec = rec
	k := t.kill
	t.mu.Unlock()
	t.changed()
	if over(was) || !over(rec.State) {
		return
	}
	t.log().Info("ended", "state", rec.State, "exit_code", code(&rec), "reason", rec.Reason)
	t.after(func() {
		if k != nil {
			k.look()
		}
		if t.ts.o.OnEnd != nil {
			t.ts.o.OnEnd(rec)
		}
	})
}

// code is a task's exit code for logs; -1 while it has none.
func code(rec *ledger.Task) int {
	if rec.ExitCode == nil {
		return -1
	}
	return *rec.ExitCode
}

// changed tells the watchers how the task is now.
func (t *task) changed() {
	now := time.Now()
	status := t.status(now)
	t.ts.o.Hub.publish(Change{Kind: ChangeTask, At: now, Task: &status})
}

// log is the server's log with this task's name.
func (t *task) log() *slog.Logger {
	return t.ts.o.Log.With("job", t.job(), "run", t.id.Run, "machine", t.id.Machine)
}

func (t *task) job() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec.Job
}

// road is the transport that reaches the task's machine, nil if there is none.
func (t *task) road() (launch.Transport, launch.Machine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.spec.Machine
	if !t.hasSpec {
		m = launch.Machine{Name: t.id.Machine, Transport: t.rec.Transport}
	}
	return t.ts.o.Transports[m.Transport], m
}

// plan is how the task was defined; empty where that is not known.
func (t *task) plan() taskSpec {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spec
}

// bare reports whether the task runs without a wrapper. The lock is held.
func (t *task) bare() bool { return t.hasSpec && t.spec.NoWrapper }

// link is the newest connection, nil while there is none.
func (t *task) link() *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.session
}

// note adds text of the server's own to the output. It is not worth failing for.
// serial is held.
func (t *task) note(text string) {
	if err := t.apply(t.noteEvent(text)); err != nil {
		t.log().Warn("cannot add a note to the output", "err", err)
	}
}

func (t *task) noteEvent(text string) ledger.Event {
	return ledger.NoteAdded{Task: t.id, Note: ledger.Note{At: time.Now(), Text: text}}
}

// grace and hard are how long a kill may take until SIGKILL, and from there to
// the answer "alive".
func (t *task) patience(grace *float64) (g, hard time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g, hard = seconds(wire.DefaultKillGrace), seconds(wire.DefaultHardLimit)
	if t.hasSpec {
		g = seconds(t.spec.Order.KillGrace)
		if t.spec.Order.HardLimit > 0 {
			hard = seconds(t.spec.Order.HardLimit)
		}
	}
	if grace != nil {
		g = seconds(wire.Seconds(*grace))
	}
	return g, hard
}

func seconds(s wire.Seconds) time.Duration { return s.Duration() }

// status is the task as people see it.
func (t *task) status(now time.Time) TaskStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := TaskStatus{Task: t.rec, LastContact: t.contact}
	s.Length = max(s.Length, t.length.Load())
	s.Connected = t.session != nil
	live := !t.rec.State.Done() && t.rec.State != ledger.Queued
	s.Disconnected = live && now.Sub(t.quiet) > t.ts.pace.silence && !t.starting
	s.Overdue = live && t.overdue(now)
	if k := t.kill; k != nil && !k.settled {
		s.KillPending = k.why
	}
	s.Alive = t.alive
	s.StartUnsure = t.startErr
	s.Unwatched = live && t.bare()
	s.Road = t.roadNow(s.Disconnected)
	return s
}

// roadNow is how the task can be reached, as far as is known: a road is named only
// if it answered when it was last tried. The lock is held.
func (t *task) roadNow(disconnected bool) string {
	if t.session != nil && t.session != t.deaf && !disconnected {
		return roadWebSocket
	}
	w := way{t.rec.Transport, t.id.Machine}
	if t.ts.o.Transports[w.transport] == nil {
		return roadNone
	}
	switch t.ts.reach.state(w) {
	case answers:
		return w.transport
	case untried:
		return w.transport + roadUntried
	}
	return roadNone
}

// overdue reports whether timeout, grace and hard limit have passed. The lock is
// held.
func (t *task) overdue(now time.Time) bool {
	if !t.hasSpec || t.spec.Order.Timeout <= 0 || t.rec.Started.IsZero() {
		return false
	}
	o := &t.spec.Order
	limit := seconds(o.Timeout) + seconds(o.KillGrace) + max(seconds(o.HardLimit), seconds(wire.DefaultHardLimit))
	return now.Sub(t.rec.Started) > limit
}
