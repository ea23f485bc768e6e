package runner

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// Acks of output are merged: one for each of these, whichever comes first.
const (
	ackBytes = 1 << 20
	ackDelay = 50 * time.Millisecond
)

// acks tells a wrapper how much of its output is stored, not for each frame.
type acks struct {
	session *session
	mu      sync.Mutex
	sent    int64 // the last length told
	sentAt  time.Time
	stored  int64
	timer   *time.Timer // tells what was put off; nil if nothing is
	closed  bool
}

// grew says that everything below length is stored now. The ack goes out at once
// when enough came, or when none went out for a while; otherwise soon.
func (a *acks) grew(length int64) {
	a.mu.Lock()
	a.stored = max(a.stored, length)
	now := time.Now()
	if a.stored-a.sent >= ackBytes || now.Sub(a.sentAt) >= ackDelay {
		a.mu.Unlock()
		a.flush()
		return
	}
	if a.timer == nil && !a.closed {
		a.timer = time.AfterFunc(ackDelay, a.flush)
	}
	a.mu.Unlock()
}

// flush tells what is stored, at once.
func (a *acks) flush() {
	a.mu.Lock()
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	if a.closed || a.stored == a.sent && !a.sentAt.IsZero() {
		a.mu.Unlock()
		return
	}
	a.sent, a.sentAt = a.stored, time.Now()
	offset := a.sent
	a.mu.Unlock()
	a.session.send(wire.Message{Type: wire.TypeAck, AckType: wire.TypeOutput, Offset: &offset})
}

func (a *acks) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

// openOutput opens the output for writing, if it is not, and returns its length.
func (t *task) openOutput() (int64, error) {
	t.outMu.Lock()
	defer t.outMu.Unlock()
	if err := t.needOutput(); err != nil {
		return 0, err
	}
	return t.out.Length(), nil
}

// needOutput makes t.out usable. outMu is held.
func (t *task) needOutput() error {
	t.outUsed = time.Now()
	if t.out != nil {
		return nil
	}
	out, err := t.ts.o.Ledger.Output(t.id)
	if err != nil {
		return fmt.Errorf("cannot open the output: %w", err)
	}
	t.out = out
	t.length.Store(out.Length())
	return nil
}

// saveOutput makes everything that was stored survive a crash of the machine.
func (t *task) saveOutput() error {
	t.outMu.Lock()
	defer t.outMu.Unlock()
	if t.out == nil || !t.unsaved {
		return nil
	}
	if err := t.out.Sync(); err != nil {
		return fmt.Errorf("cannot make the output durable: %w", err)
	}
	t.unsaved = false
	return nil
}

// closeOutput gives the file back; the next bytes open it again.
func (t *task) closeOutput() {
	t.outMu.Lock()
	defer t.outMu.Unlock()
	if t.out == nil {
		return
	}
	if err := t.out.Close(); err != nil {
		t.log().Warn("cannot close the output", "err", err)
	}
	t.out = nil
}

// closeIdleOutput gives the file back if nothing came for a while: thousands of
// quiet tasks must not hold thousands of files.
func (t *task) closeIdleOutput(now time.Time) {
	if !t.outMu.TryLock() {
		return
	}
	idle := t.out != nil && now.Sub(t.outUsed) > t.ts.pace.outputs
	t.outMu.Unlock()
	if idle && t.saveOutput() == nil {
		t.closeOutput()
	}
}

// store appends with f under the output's lock and returns the length after it.
func (t *task) store(f func(*ledger.Output) error) (int64, error) {
	t.outMu.Lock()
	defer t.outMu.Unlock()
	if err := t.needOutput(); err != nil {
		return 0, err
	}
	before := t.out.Length()
	err := f(t.out)
	length := t.out.Length()
	if length != before {
		t.unsaved = true
		t.length.Store(length)
		t.ts.o.Hub.output(t.id, length)
	}
	return length, err
}

// Output takes one binary frame. Bytes that are stored already are dropped, and
// what leaves a hole is asked for again, so a frame can come any number of times.
func (s *session) Output(offset int64, stream byte, data []byte) error {
	if err := s.touch(); err != nil {
		return err
	}
	if s.second { // the line that closes what never ran
		s.acks.grew(offset + int64(len(data)))
		return nil
	}
	if !s.has(wire.FeatureBytes) {
		return errors.New("binary output was not agreed on")
	}
	t := s.t
	now := time.Now()
	length, err := t.store(func(o *ledger.Output) error {
		_, err := o.Append(now, offset, stream, data)
		return err
	})
	if errors.Is(err, ledger.ErrGap) {
		s.again(length, now)
		return nil
	}
	if err != nil {
		t.log().Error("cannot store output", "err", err)
		return err
	}
	s.acks.grew(length)
	if length >= t.wants.Load() {
		return t.released(s)
	}
	return nil
}

// again tells the sender where to go on from after a gap: once for each length,
// since many frames may be under way, and again if that is to no avail.
func (s *session) again(length int64, now time.Time) {
	if s.stored == length && now.Sub(s.storedAt) < time.Second {
		return
	}
	s.stored, s.storedAt = length, now
	s.send(wire.Message{Type: wire.TypeNack, NackType: wire.NackOutOfOrder, Offset: &length})
}

// text takes one output frame of the JSON generations.
func (s *session) text(m *wire.Message) error {
	t := s.t
	at, stream := s.at(m), wire.StreamNumber(m.Stream)
	if t.tooMuch(m.Data) {
		m.Data = ""
	}
	t.mu.Lock()
	if stream == wire.Stderr {
		t.closing = m.Data // the wrapper's own lines come this way, the job's are merged into stdout
	}
	t.mu.Unlock()
	if m.Seq == nil {
		_, err := t.store(func(o *ledger.Output) error { return o.AppendText(at, stream, []byte(m.Data)) })
		return err
	}
	seq, last := *m.Seq, int64(-1)
	_, err := t.store(func(o *ledger.Output) error {
		err := o.AppendSeq(at, seq, stream, []byte(m.Data))
		last = o.LastSeq()
		return err
	})
	if errors.Is(err, ledger.ErrGap) {
		expected := last + 1
		return s.send(wire.Message{Type: wire.TypeNack, NackType: wire.NackOutOfOrder, ExpectedSeq: &expected, ReceivedSeq: &seq})
	}
	if err != nil {
		return err
	}
	if err := s.send(wire.Message{Type: wire.TypeAck, AckType: wire.TypeOutput, Seq: &seq}); err != nil {
		return err
	}
	if t.holds() {
		return t.released(s)
	}
	return nil
}

// sync tells a wrapper of the second generation how far it was heard.
func (s *session) sync() error {
	last := int64(-1)
	_, err := s.t.store(func(o *ledger.Output) error { last = o.LastSeq(); return nil })
	if err != nil {
		return err
	}
	return s.send(wire.Message{Type: wire.TypeSyncResponse, LastSeq: &last})
}

// mark gives a time to binary output.
func (s *session) mark(m *wire.Message) error {
	if m.Offset == nil || *m.Offset < 0 {
		return nil
	}
	_, err := s.t.store(func(o *ledger.Output) error { return o.Mark(s.at(m), *m.Offset) })
	if err != nil {
		s.t.log().Debug("cannot store a mark", "err", err)
	}
	return nil
}
