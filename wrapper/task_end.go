package wrapper

import (
	"time"

	"saltpeter/wsx/wire"
)

// mayClose: the shell's exit has fixed code and time; the task is over when its
// output has ended or was waited for long enough, and no kill is under way.
func (t *task) mayClose(now time.Time) bool {
	if t.gone {
		return t.eof || !now.Before(t.drainBy)
	}
	if t.order.Leftover == "wait" || t.killing() {
		return false
	}
	if t.eof {
		// Nobody holds the pipe, so most likely nobody is left: the engine
		// says so any moment, and with the proof the record is better.
		return t.leftover > 0 || !now.Before(t.settleBy)
	}
	return !now.Before(t.drainBy)
}

// closeBy is when mayClose may change its mind by time alone.
func (t *task) closeBy() time.Time {
	switch {
	case t.gone:
		return t.drainBy
	case t.order.Leftover == "wait" || t.killing():
		return time.Time{}
	case t.eof:
		return t.settleBy
	}
	return t.drainBy
}

func (t *task) killing() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting) > 0
}

// close ends the output with the line that belongs there, writes the end record
// and then owes the end to the server: recorded first, told second. What is told
// is on the server's disk in a moment; until saveEnd the record outlives this
// process, though not the machine.
func (t *task) close(now time.Time) {
	t.closed = true
	t.timeoutAt = time.Time{}
	switch t.end.Cause {
	case wire.CauseKill, wire.CauseNever, wire.CauseTerminated:
		t.spool.Append(wire.Stderr, []byte(wire.KilledLine), now)
	case wire.CauseTimeout:
		t.spool.Append(wire.Stderr, []byte(wire.TimeoutLine(t.order.Timeout)), now)
	}
	t.spool.MarkEnd()
	t.end.Leftover = t.leftover
	t.end.Length = wire.Ptr(t.spool.End())
	e := owedEnd{code: exitCode(t.end), end: t.end, at: t.endedAt}
	t.saveBy = now.Add(saveWait)
	if !t.rep.Up() {
		t.saveBy = now
	}
	t.writeEnd(&e)
	if lost, why := t.spool.lostBytes(); lost > 0 {
		t.log.Printf("%d bytes of output were given up: %s", lost, why)
	}
	t.log.Debugf("the job has ended: code %d, cause %s, leftover %d", e.code, t.end.Cause, t.leftover)
	t.rep.Finish(e)
}

// saveEnd brings the end record to the disk, where the server's word that it has
// it on its own does not come at once.
func (t *task) saveEnd() {
	t.saveBy = time.Time{}
	if t.dir == nil {
		return
	}
	if err := t.dir.saveEnd(); err != nil {
		t.log.Printf("cannot bring the end record to the disk: %v", err)
	}
}

// writeEnd writes the end record, for which output has to give way if the disk is
// full.
func (t *task) writeEnd(e *owedEnd) {
	if t.dir == nil {
		return
	}
	err := t.dir.writeEnd(endRecord(t.order, *e, &t.identity))
	for err != nil && t.spool.makeRoomAfter(err) { // the end is worth more than output
		e.end.Length = wire.Ptr(t.spool.End())
		err = t.dir.writeEnd(endRecord(t.order, *e, &t.identity))
	}
	if err != nil {
		t.log.Printf("cannot write the end record: %v", err)
	}
}

// exitCode derives the one number for an end. A code that nobody could see is not
// taken for success.
func exitCode(end wire.End) int {
	realCode := wire.ExitLost
	if end.RealCode != nil {
		realCode = *end.RealCode
	}
	return wire.ExitCode(end.Cause, realCode, end.RealSignal)
}

func endRecord(o *wire.Order, e owedEnd, id *wire.Identity) wire.EndRecord {
	return wire.EndRecord{
		Job: o.Job, Run: o.Run, Machine: o.Machine, Task: o.Task,
		RetCode: e.code, Ended: wire.FormatTime(e.at), End: e.end, Error: e.err, Identity: id,
	}
}
