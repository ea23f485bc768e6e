package runner

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// Wrappers that another server started, taken over with adopt_unknown: the cut-over
// of a live fleet. They carry no token: what they say of themselves is all that is
// known of them. So their runs are kept apart (trigger and transport "foreign"): they
// are shown, counted for overlap, recorded to their end and killed by message, and
// nothing that is said without a token ever touches a run of ours.

// transportForeign is how the ledger knows such a task: no road of ours leads there.
const transportForeign = "foreign"

const (
	foreignMost   = 1000    // such tasks at a time
	foreignADay   = 10_000  // new ones
	foreignOutput = 1 << 30 // bytes of output of one
)

var errForeign = errors.New("a wrapper without a token is refused")

// errOnlyMessage is why a kill of such a task does not get through.
var errOnlyMessage = errors.New("its wrapper has not answered, and a job of another server has no other road")

// foreigner is a connection without a token. Its first frame says whose it is; from
// then on it is a session of that task like any other.
type foreigner struct {
	ts     *tasks
	remote string
	s      *session // nil until the first frame

	// What the door needs to know; it belongs to foreigners.mu.
	from  string // whom it shares its room with
	since time.Time
	late  *time.Timer
	named bool
	conn  *wsx.Conn // nil before the upgrade
}

func (n *foreigner) Open(c *wsx.Conn) { n.ts.foreigners.opened(n, c) }

func (n *foreigner) Message(m *wire.Message) error {
	if n.s == nil {
		if !foreignFirst(m.Type) {
			return nil // unknown types are ignored, and do not say who comes
		}
		t, err := n.enter(m)
		if err != nil {
			if !errors.Is(err, errForeign) {
				n.ts.foreigners.refusedFrame(n.ts.o.Log, n.remote, m, err)
			}
			return errForeign
		}
		n.s = &session{t: t, stored: -1}
		n.s.Open(n.conn)
	}
	n.s.t.begins(m)
	return n.s.Message(m)
}

// enter finds the task that the first frame speaks of.
func (n *foreigner) enter(m *wire.Message) (*task, error) {
	if err := foreignNames(m); err != nil {
		return nil, err
	}
	if err := n.ts.foreigners.name(n); err != nil {
		return nil, err
	}
	return n.ts.adoptForeign(m, n.remote)
}

// Unreadable ends a connection that does not begin with a frame.
func (n *foreigner) Unreadable(err error) error {
	if n.s != nil {
		return nil
	}
	n.ts.foreigners.refusedFrame(n.ts.o.Log, n.remote, &wire.Message{}, err)
	return errForeign
}

func (n *foreigner) Output(int64, byte, []byte) error { return errForeign } // they know no binary frames

func (n *foreigner) Closed(err error) {
	n.ts.foreigners.left(n)
	if n.s != nil {
		n.s.Closed(err)
	}
}

// foreignFirst reports whether a wrapper may begin with a frame of that type: those of
// the second generation introduce themselves only once in their life.
func foreignFirst(kind string) bool {
	switch kind {
	case wire.TypeConnect, wire.TypeStart, wire.TypeHeartbeat, wire.TypeOutput, wire.TypeSyncRequest, wire.TypeKilled, wire.TypeComplete, wire.TypeError:
		return true
	}
	return false
}

func clipName(s string) string { return s[:min(len(s), 100)] }

// foreignNames checks what a frame without a token calls itself: it becomes a name in
// the ledger, in logs and in files.
func foreignNames(m *wire.Message) error {
	for what, name := range map[string]string{"job_name": m.JobName, "job_instance": m.JobInstance, "machine": m.Machine} {
		odd := func(r rune) bool {
			return r < ' ' || r == 0x7f || r == '/' || r >= 0x80 && r < 0xa0 || r == utf8.RuneError
		}
		if name == "" || len(name) > 230 || name == "." || name == ".." || strings.ContainsFunc(name, odd) {
			return fmt.Errorf("%s is no name", what)
		}
	}
	return nil
}

// adoptForeign finds the task that a connection without a token speaks of, and begins
// it if it is new. Its names have been looked at.
func (ts *tasks) adoptForeign(m *wire.Message, remote string) (*task, error) {
	id := ledger.TaskID{Run: m.JobInstance, Machine: m.Machine}
	ts.foreigners.adopting.Lock()
	defer ts.foreigners.adopting.Unlock()
	run, err := ts.o.Ledger.Run(ts.write, id.Run)
	isNew := errors.Is(err, ledger.ErrNoRun)
	switch {
	case isNew:
	case err != nil:
		return nil, err
	case run.Trigger != ledger.TriggerForeign:
		return nil, errors.New("it names a run of this server, whose wrappers have tokens")
	case run.Job != m.JobName:
		return nil, fmt.Errorf("that run is one of job %q", run.Job)
	}
	if !isNew {
		for i := range run.Tasks {
			if run.Tasks[i].Machine == id.Machine {
				return ts.load(ts.write, id)
			}
		}
	}
	if err := ts.roomForForeign(); err != nil {
		return nil, err
	}
	return ts.beginForeign(m, run, isNew, remote)
}

// roomForForeign bounds what anybody who reaches the port can make us keep.
func (ts *tasks) roomForForeign() error {
	live := 0
	for _, t := range ts.every() {
		if t.isForeign() && !over(t.record().State) {
			live++
		}
	}
	f := &ts.foreigners
	if time.Since(f.since) > 24*time.Hour {
		f.since, f.adopted = time.Now(), 0
	}
	if live >= foreignMost || f.adopted >= foreignADay {
		return fmt.Errorf("%d of them live, %d came today: that is the limit", live, f.adopted)
	}
	f.adopted++
	return nil
}

// beginForeign records a task that another server began. adopting is held.
func (ts *tasks) beginForeign(m *wire.Message, run *ledger.Run, isNew bool, remote string) (*task, error) {
	now := time.Now()
	task := ledger.Task{
		TaskID: ledger.TaskID{Run: m.JobInstance, Machine: m.Machine}, Job: m.JobName,
		State: ledger.Queued, Transport: transportForeign, Queued: now,
	}
	events := []ledger.Event{ledger.Joined{Task: task}}
	if isNew {
		d := definition{Version: definitionVersion, Order: wire.Order{Version: wire.OrderVersion, Job: m.JobName}, Machines: map[string]launch.Machine{
			m.Machine: {Name: m.Machine, Transport: transportForeign},
		}}
		raw, err := d.encode()
		if err != nil {
			return nil, err
		}
		run = &ledger.Run{
			ID: m.JobInstance, Job: m.JobName, Due: foreignDue(m.JobInstance, now), Fired: now, Trigger: ledger.TriggerForeign,
			Definition: raw, Tasks: []ledger.Task{task},
		}
		if ts.o.Group != nil {
			run.Group = ts.o.Group(m.JobName)
		}
		events = []ledger.Event{ledger.Begun{Run: *run}}
	}
	events = append(events, ledger.Launched{Task: task.TaskID, At: now, Transport: transportForeign})
	if m.Type != wire.TypeConnect && m.Type != wire.TypeStart {
		events = append(events, ledger.Started{Task: task.TaskID, At: now}) // it introduced itself to that other server
	}
	if _, err := ts.o.Ledger.Apply(ts.write, events...); err != nil {
		return nil, err
	}
	rec, err := ts.o.Ledger.Task(ts.write, task.TaskID)
	if err != nil {
		return nil, err
	}
	t := ts.put(taskSpec{Task: *rec, Machine: launch.Machine{Name: m.Machine, Transport: transportForeign}})
	t.log().Info("taken over: a job that another server started", "remote", remote)
	if isNew {
		shown := *run
		shown.Definition = nil
		ts.o.Hub.publish(Change{Kind: ChangeRun, At: now, Run: &shown})
	}
	t.changed()
	return t, nil
}

// foreignDue reads the due time that stands at the end of a run's name.
func foreignDue(run string, now time.Time) time.Time {
	_, text, _ := cutLast(run, "_")
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 1e9 && n <= now.Unix() {
		return time.Unix(n, 0)
	}
	return now.Truncate(time.Second)
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (t *task) isForeign() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec.Transport == transportForeign
}

// foreignBegins is the first line of an output whose beginning is not here.
const foreignBegins = "[what it printed before was received by another server]\n"

// begins says where the numbers of a foreign task begin: what its other server had
// acknowledged, its wrapper does not have any more.
func (t *task) begins(m *wire.Message) {
	var first int64
	switch {
	case (m.Type == wire.TypeOutput || m.Type == wire.TypeComplete) && m.Seq != nil:
		first = *m.Seq
	case m.Type == wire.TypeSyncRequest && m.LastAckedSeq != nil:
		first = *m.LastAckedSeq + 1
	}
	if first <= 0 || over(t.record().State) {
		return
	}
	_, err := t.store(func(o *ledger.Output) error { return o.BeginAt(time.Now(), first, foreignBegins) })
	if err != nil {
		t.log().Warn("cannot record where its output begins", "err", err)
	}
}

// tooMuch reports whether a foreign task has printed all that is kept of one: the rest
// is acknowledged, so that its wrapper goes on, and counts as given up.
func (t *task) tooMuch(data string) bool {
	return t.isForeign() && t.length.Load()+int64(len(data)) > foreignOutput
}

// unfollow ends a foreign task that was followed for as long as such are.
func (t *task) unfollow() {
	t.lock()
	defer t.unlock()
	if over(t.record().State) {
		return
	}
	err := t.apply(ledger.Ended{Task: t.id, At: time.Now(), State: ledger.Unknown, ExitCode: wire.ExitLost, End: wire.End{Cause: wire.CauseLost},
		Reason: fmt.Sprintf("another server's job: followed for %s, and no longer", t.ts.pace.foreign)})
	if err != nil {
		t.log().Error("cannot record that it is not followed any more", "err", err)
		return
	}
	if s := t.link(); s != nil {
		t.after(func() { s.conn.Close("it is not followed any more") })
	}
}
