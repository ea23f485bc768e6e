package runner

import (
	"errors"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// session is one connection of a task's wrapper. wsx calls its methods from one
// goroutine; other goroutines only send through it.
type session struct {
	t        *task
	hash     string // of its token
	conn     *wsx.Conn
	opened   time.Time     // before it is in force
	arrived  bool          // a frame has come
	skew     time.Duration // of the machine's clock, seen at connect: ours minus theirs
	refused  int
	second   bool // of a task that has run with another wrapper: see second.go
	features atomic.Pointer[[]string]
	acks     acks
	stored   int64 // the length that was last asked for again after a gap
	storedAt time.Time
}

// errReplaced ends a connection that a newer one of the same task replaced.
var errReplaced = errors.New("a newer connection of this task replaced it")

// has reports whether both sides have a feature.
func (s *session) has(feature string) bool {
	if f := s.features.Load(); f != nil {
		return wire.Has(*f, feature)
	}
	return false
}

// Open puts the connection in force. The newest wins: after a cut the wrapper
// knows earlier than we do.
func (s *session) Open(c *wsx.Conn) {
	s.conn, s.opened = c, time.Now()
	s.acks.session = s
	t := s.t
	t.mu.Lock()
	old := t.session
	t.session = s
	now := time.Now()
	if t.contact.IsZero() && t.quiet.IsZero() {
		t.quiet = now
	}
	returning := !t.rec.Started.IsZero() && !wire.Has(t.rec.Features, wire.FeatureReport)
	k := t.kill
	t.mu.Unlock()
	if old != nil {
		t.ts.spawn(func() { old.conn.Close(errReplaced.Error()) }) // a dead peer may hold it up for a while
	}
	if returning {
		// An older wrapper that returns may have nothing to say for a while.
		s.features.Store(&[]string{})
		if k != nil {
			k.look()
		}
	}
	t.changed()
}

// Closed takes the connection out of force.
func (s *session) Closed(err error) {
	t := s.t
	s.acks.close()
	t.mu.Lock()
	t.expected = time.Time{}
	mine := t.session == s
	if mine {
		t.session = nil
		if !t.rec.State.Done() || t.rec.State == ledger.Lost || t.rec.Leftover > 0 {
			t.checkAt = t.quiet.Add(t.ts.pace.silence)
			t.checkWait = t.ts.pace.recheck
		}
	}
	k, done := t.kill, over(t.rec.State)
	t.mu.Unlock()
	if !mine {
		return
	}
	if k != nil {
		k.look()
	}
	if !done {
		t.log().Info("connection lost", "err", err)
	}
	t.changed()
	t.ts.forgetIdle(t)
}

// send writes one message to the wrapper, named and timed. Errors close the
// connection sooner or later; until then the message counts as not delivered.
func (s *session) send(m wire.Message) error {
	m.Timestamp = wire.FormatTime(time.Now())
	err := s.conn.Send(&m)
	if err != nil {
		s.t.log().Debug("cannot send", "type", m.Type, "err", err)
	}
	return err
}

// order addresses a message that asks for something.
func (s *session) order(m wire.Message) error {
	m.JobName, m.JobInstance, m.Machine = s.t.job(), s.t.id.Run, s.t.id.Machine
	return s.send(m)
}

// touch notes that the wrapper is there, and on the first frame of a connection
// what that changes.
func (s *session) touch() error {
	t := s.t
	now := time.Now()
	t.mu.Lock()
	if t.session != s {
		t.mu.Unlock()
		return errReplaced
	}
	t.contact, t.quiet = now, now
	t.checkAt, t.orphan, t.unsure = time.Time{}, false, 0
	wasCut := t.cut
	t.cut, t.startErr = false, ""
	lost := t.rec.State == ledger.Lost
	k := t.kill
	t.mu.Unlock()
	if wasCut {
		t.changed()
	}
	if s.arrived && !lost {
		return nil
	}
	s.arrived = true
	if lost {
		t.lock()
		defer t.unlock()
		if t.record().State == ledger.Lost {
			if err := t.apply(ledger.FoundAt{Task: t.id, At: now}); err != nil {
				return err
			}
			t.log().Info("lost no more: its wrapper is back")
		}
	}
	if k != nil && s.features.Load() != nil {
		k.look()
	}
	return nil
}

// Message takes one text frame. An error closes the connection: the wrapper comes
// back and says again what was not acknowledged.
func (s *session) Message(m *wire.Message) error {
	if !s.mine(m) {
		return nil
	}
	if err := s.touch(); err != nil {
		return err
	}
	if s.second {
		return s.fromSecond(m)
	}
	if m.Type != wire.TypeConnect {
		s.older()
	}
	switch m.Type {
	case wire.TypeConnect:
		return s.connect(m)
	case wire.TypeStart:
		return s.start(m)
	case wire.TypeHeartbeat:
		return nil
	case wire.TypeOutput:
		return s.text(m)
	case wire.TypeSyncRequest:
		return s.sync()
	case wire.TypeKilled:
		s.t.killHeard(s, m.ID)
		return nil
	case wire.TypeComplete:
		return s.complete(m)
	case wire.TypeError:
		return s.failed(m)
	case wire.TypeReport:
		return s.report(m)
	case wire.TypeMark:
		return s.mark(m)
	}
	s.t.log().Debug("a frame of an unknown type", "type", m.Type)
	return nil
}

// mine refuses frames that speak of another task than the token's: they change
// nothing. The log is told of the first ones only, since there may be many.
func (s *session) mine(m *wire.Message) bool {
	if m.JobInstance == s.t.id.Run && m.Machine == s.t.id.Machine {
		return true
	}
	if s.refused++; s.refused <= 5 {
		s.t.log().Warn("refused a frame that speaks of another task than its token", "type", m.Type,
			"frame_run", m.JobInstance, "frame_machine", m.Machine, "remote", s.conn.Remote())
	}
	return false
}

// older notes that a connection that has not introduced itself is one of an older
// wrapper, which does so only once in its life.
func (s *session) older() {
	if s.features.Load() != nil {
		return
	}
	s.features.Store(&[]string{})
	if k := s.t.killing(); k != nil {
		k.look()
	}
}

// at is when the machine says something happened, by our clock.
func (s *session) at(m *wire.Message) time.Time {
	now := time.Now()
	at := wire.ParseTime(m.Timestamp, now.Add(-s.skew)).Add(s.skew)
	if at.After(now) {
		return now
	}
	return at
}

// connect introduces a wrapper.
func (s *session) connect(m *wire.Message) error {
	t := s.t
	now := time.Now()
	s.skew = now.Sub(wire.ParseTime(m.Timestamp, now))
	t.mu.Lock()
	t.skew, t.skewKnown = s.skew, m.Timestamp != ""
	t.mu.Unlock()
	common := wire.Common(m.Features)
	if common == nil {
		common = []string{}
	}
	t.lock()
	defer t.unlock()
	if rec := t.record(); comesSecond(&rec, m.Identity) {
		s.turnAway(m, common)
		return nil
	}
	if err := s.identify(m, common); err != nil {
		return err
	}
	ack := wire.Message{Type: wire.TypeAck, AckType: wire.TypeConnect, Features: common}
	if wire.Has(common, wire.FeatureBytes) {
		length, err := t.openOutput()
		if err != nil {
			return err
		}
		ack.Resume = &length
	}
	s.features.Store(&common)
	t.after(func() {
		s.send(ack)
		if k := t.killing(); k != nil {
			k.look()
		}
		t.changed()
	})
	return nil
}

// identify records who the wrapper says that it is, if that is news. serial is
// held.
func (s *session) identify(m *wire.Message, features []string) error {
	if m.Identity == nil {
		return nil
	}
	rec := s.t.record()
	version := m.Version
	if version == "" {
		version = rec.Version
	}
	if rec.Started.IsZero() && len(features) > 0 {
		// Who a new wrapper is and what it can do is written down with its start,
		// which comes next: each write is an fsync that the command waits for.
		return nil
	}
	if rec.Identity != nil && sameIdentity(rec.Identity, m.Identity) && rec.Version == version && slices.Equal(rec.Features, features) {
		return nil
	}
	if rec.Identity != nil && rec.Identity.PID != m.Identity.PID {
		s.t.log().Warn("the wrapper names another process than before", "pid", m.Identity.PID, "before", rec.Identity.PID)
	}
	return s.t.apply(ledger.Identified{Task: s.t.id, Identity: *m.Identity, Version: version, Features: features})
}

// start says that the gate is about to open.
func (s *session) start(m *wire.Message) error {
	t := s.t
	t.lock()
	defer t.unlock()
	rec := t.record()
	if over(rec.State) && rec.Started.IsZero() {
		// It was recorded as ended before it began: it must not run.
		t.log().Warn("a task that has ended wants to start: it is told to end", "state", rec.State)
		t.after(func() { s.order(wire.Message{Type: wire.TypeKill, ID: randomHex(8)}) })
		return nil
	}
	features := rec.Features
	if can := s.features.Load(); can != nil {
		features = *can
	}
	var events []ledger.Event
	if m.Identity != nil && (rec.Identity == nil || !sameIdentity(rec.Identity, m.Identity)) {
		events = append(events, ledger.Identified{Task: t.id, Identity: *m.Identity, Version: pick(m.Version, rec.Version), Features: features})
	} else if rec.Identity == nil && m.PID > 0 {
		events = append(events, ledger.Identified{Task: t.id, Identity: olderIdentity(m.PID), Version: m.Version})
		t.after(t.learn)
	} else if rec.Identity != nil && !slices.Equal(rec.Features, features) {
		events = append(events, ledger.Identified{Task: t.id, Identity: *rec.Identity, Version: rec.Version, Features: features})
	}
	if rec.Started.IsZero() {
		events = append(events, ledger.Started{Task: t.id, At: s.at(m), PID: m.PID})
	}
	if len(events) > 0 {
		if err := t.apply(events...); err != nil {
			return err
		}
	}
	if k := t.killing(); k != nil {
		// The ack would open the gate. The kill is on its way; the wrapper waits
		// for one of the two.
		t.after(k.look)
		return nil
	}
	t.after(func() { s.send(wire.Message{Type: wire.TypeAck, AckType: wire.TypeStart}) })
	return nil
}

// failed ends a task whose wrapper could not run it.
func (s *session) failed(m *wire.Message) error {
	t := s.t
	t.lock()
	defer t.unlock()
	rec := t.record()
	if over(rec.State) {
		return nil
	}
	if err := t.saveOutput(); err != nil {
		return err
	}
	state, cause := ledger.Failed, wire.CauseExit
	if rec.Started.IsZero() {
		state, cause = ledger.LaunchFailed, wire.CauseLaunch
	}
	err := t.apply(
		ledger.Ended{Task: t.id, At: s.at(m), State: state, ExitCode: wire.ExitUnreachable, Reason: m.Error, End: wire.End{Cause: cause}},
		t.noteEvent(m.Error+"\n"),
	)
	if err != nil {
		return err
	}
	t.ts.expire(s.hash, t.id, time.Now())
	t.logCompleted()
	return nil
}

func pick(first, second string) string {
	if first != "" {
		return first
	}
	return second
}

// sameIdentity reports whether two identities name the same processes.
func sameIdentity(a, b *wire.Identity) bool {
	return reflect.DeepEqual(a, b)
}
