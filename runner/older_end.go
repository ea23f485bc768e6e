package runner

import (
	"io"
	"strings"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// How an older wrapper ends its task: it says a code and, in the output, a line of
// its own. Nothing else tells a kill or a timeout from a death by signal.

const timeoutLineStart = "\n[Job exceeded timeout of "

// olderEnd reads the end of a wrapper that says only a code. A code that it had before
// a kill was asked for is the job's own; a signal may be that of another kill.
func (t *task) olderEnd(m *wire.Message, at time.Time) wire.End {
	var end wire.End
	if m.End != nil {
		end = *m.End
	}
	end.Cause = wire.CauseExit
	if m.RetCode == nil {
		return end
	}
	if *m.RetCode < 0 {
		end.RealSignal = -*m.RetCode
	} else {
		end.RealCode = m.RetCode
	}
	t.mu.Lock()
	standing, timed := t.kill != nil && !t.kill.settled, t.hasSpec && t.spec.Order.Timeout > 0 || t.rec.Transport == transportForeign
	var cause string
	if standing {
		cause = t.kill.cause
		standing = end.RealSignal != 0 || t.kill.struck || !at.Before(t.kill.asked)
	}
	t.mu.Unlock()
	switch {
	case standing:
		end.Cause = cause
	case timed && t.closedWith(m, timeoutLineStart):
		end.Cause = wire.CauseTimeout
	}
	return end
}

// closedWith reports whether the wrapper's last line begins like that. It comes as
// standard error, which the job's own is merged out of. What an earlier server heard
// is looked up in the output, where a job that died of a signal can't have written it
// after its death.
func (t *task) closedWith(m *wire.Message, start string) bool {
	t.mu.Lock()
	line := t.closing
	t.mu.Unlock()
	if line != "" {
		return strings.HasPrefix(line, start)
	}
	text := m.Output
	if text == "" {
		text = t.tail()
	}
	at := strings.LastIndex(text, start)
	return at >= 0 && strings.HasSuffix(text, "]\n") && strings.Count(text[at+1:], "\n") == 1 && m.RetCode != nil && *m.RetCode != 0
}

// tail is the last of the stored output, as far as it can be read.
func (t *task) tail() string {
	data, err := t.stored(256)
	if err != nil {
		t.log().Debug("cannot read the output", "err", err)
	}
	return string(data)
}

// stored reads the last bytes of the output, at most so many.
func (t *task) stored(most int64) ([]byte, error) {
	r, err := t.ts.o.Ledger.OpenOutput(t.id)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	length, err := r.Length()
	if err != nil {
		return nil, err
	}
	data := make([]byte, min(length, most))
	n, err := r.ReadAt(data, length-int64(len(data)))
	if err == io.EOF {
		err = nil
	}
	return data[:n], err
}

// olderClosing is the closing line of a killed task whose wrapper did not write it:
// the kill came by another road, or was lost on the way. serial is held.
func (t *task) olderClosing(cause string) []ledger.Event {
	line := t.closingLine(cause)
	if strings.HasSuffix(t.tail(), strings.TrimLeft(line, "\n")) {
		return nil
	}
	return []ledger.Event{t.noteEvent(line)}
}

// wholeText stores what the oldest wrappers send with their end, the whole text
// again, as far as it did not come before: they send nothing a second time that was
// cut off on its way. What is missing comes at the end then, in its own order.
// serial is held.
func (t *task) wholeText(m *wire.Message, s *session) error {
	if m.Output == "" || over(t.record().State) {
		return nil
	}
	length, err := t.openOutput()
	if err != nil || length > 2*int64(len(m.Output)) {
		return err
	}
	rest := m.Output
	if length > 0 {
		had, err := t.stored(length)
		if err != nil {
			return err
		}
		rest = missing(string(had), m.Output)
	}
	_, err = t.store(func(o *ledger.Output) error { return o.AppendText(s.at(m), wire.Stdout, []byte(rest)) })
	return err
}

// missing is those lines of the whole text that are not among the lines that came.
// Lines, since standard output and error may stand in another order in it.
func missing(had, whole string) string {
	if rest, ok := strings.CutPrefix(whole, had); ok {
		return rest
	}
	if joined := func(s string) string { return strings.ReplaceAll(s, "\n", "") }; joined(had) == joined(whole) {
		return "" // its frames were lines without their ends
	}
	came := map[string]int{}
	for line := range strings.Lines(had) {
		came[strings.TrimSuffix(line, "\n")]++
	}
	var rest strings.Builder
	for line := range strings.Lines(whole) {
		text := strings.TrimSuffix(line, "\n")
		if came[text] > 0 {
			came[text]--
			continue
		}
		rest.WriteString(line)
	}
	if rest.Len() > 0 && had != "" && !strings.HasSuffix(had, "\n") {
		return "\n" + rest.String()
	}
	return rest.String()
}

// heldSeq is how long the end of an older wrapper waits for output that was asked
// for again. Those give up reporting after a minute: then the end would be lost
// for the sake of its output.
const heldSeq = 20 * time.Second

// olderReady reports whether all output before an older wrapper's end is stored. If
// not, the end is held, and the output asked for. serial is held.
func (t *task) olderReady(s *session, m *wire.Message) (bool, error) {
	if m.Seq == nil {
		return true, t.wholeText(m, s)
	}
	last := int64(-1)
	if _, err := t.store(func(o *ledger.Output) error { last = o.LastSeq(); return nil }); err != nil {
		return false, err
	}
	if *m.Seq <= last+1 {
		return true, nil
	}
	if h := t.hold(m, noWant); time.Since(h.at) > heldSeq {
		t.note("\n[some output was not received]\n")
		return true, nil
	}
	expected, received := last+1, *m.Seq
	t.after(func() {
		s.send(wire.Message{Type: wire.TypeNack, NackType: wire.NackOutOfOrder, ExpectedSeq: &expected, ReceivedSeq: &received})
	})
	return false, nil
}
