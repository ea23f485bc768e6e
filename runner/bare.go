package runner

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// Tasks without a wrapper (use_wrapper: false). The transport runs the command over a
// connection that lasts as long as that, and its result is what that connection tells.
// Nobody watches on the machine: kill and timeout go the other road, and a result that
// was told to nobody (the server was down, the link was cut) is not known.

const (
	reasonUnwatched = "ended, exit code unknown (it runs without a wrapper, and nobody was there for its result)"
	reasonUnheard   = "ended, exit code and last output unknown (it runs without a wrapper, and nobody was there for them)"
)

// runBare runs the task's command until its end. It is called in a goroutine of its
// own, which the life of the tasks half bounds.
func (t *task) runBare(ctx context.Context, road launch.Bare, m launch.Machine, order []byte) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	waiting := time.AfterFunc(t.ts.pace.start, cancel)
	defer waiting.Stop()
	res := road.Run(ctx, m, order, launch.BareTask{
		Started: func(id wire.Identity) bool { waiting.Stop(); return t.bareStarted(id) },
		Output:  t.bareOutput,
	})
	t.bareEnded(res)
}

// bareStarted records who the command is going to be; only then it begins.
func (t *task) bareStarted(id wire.Identity) bool {
	t.lock()
	defer t.unlock()
	rec, k := t.record(), t.killing()
	t.mu.Lock()
	t.starting = false
	t.mu.Unlock()
	if k != nil {
		t.after(k.look)
	}
	if k != nil || over(rec.State) {
		return false
	}
	now := time.Now()
	err := t.apply(
		ledger.Identified{Task: t.id, Identity: id, Features: []string{}},
		ledger.Started{Task: t.id, At: now, PID: id.PID},
	)
	if err != nil {
		t.log().Error("cannot record the start, so it is not begun", "err", err)
		return false
	}
	t.mu.Lock()
	t.holding, t.orphan, t.quiet = true, true, now // no wrapper enforces its timeout
	t.mu.Unlock()
	t.changed()
	return true
}

func (t *task) bareOutput(stream byte, data []byte) {
	now := time.Now()
	_, err := t.store(func(o *ledger.Output) error {
		_, err := o.Append(now, o.Length(), stream, data)
		return err
	})
	if err != nil {
		t.log().Error("cannot store output", "err", err)
	}
}

// bareEnded takes what came of it.
func (t *task) bareEnded(res launch.BareResult) {
	t.lock()
	defer t.unlock()
	now := time.Now()
	t.mu.Lock()
	t.holding, t.starting, t.quiet = false, false, now
	t.mu.Unlock()
	rec, k := t.record(), t.killing()
	if k != nil {
		t.after(k.look)
	}
	switch {
	case t.ts.life.Err() != nil && res.Certainty == launch.Unsure:
		t.outputLost("the server was stopped") // it goes on; the next server asks for it
	case res.Certainty == launch.Unsure:
		t.log().Warn("it runs without a wrapper, and its result is not known: the machine is asked for it", "err", res.Err)
		if res.Cut {
			t.outputLost(res.Err.Error())
		}
		t.askLater(now)
	case over(rec.State):
		if res.Certainty == launch.Started {
			if err := t.amend(t.bareVerdict(res, now, nil)); err != nil {
				t.log().Error("cannot complete the end", "err", err)
			}
		}
	case res.Certainty == launch.CertainlyNot && k != nil:
		e := ledger.Ended{Task: t.id, At: now, End: wire.End{Cause: wire.CauseNever}}
		judge(&e)
		if err := t.apply(e); err != nil { // which settles the kill
			t.log().Error("cannot record the end", "err", err)
		}
	case res.Certainty == launch.CertainlyNot:
		t.failedStart(res.Err)
	default:
		t.endBare(t.bareVerdict(res, now, k), k)
	}
}

// lostOutput begins the note that stands in the output where nobody received what
// came next.
const lostOutput = "[what it printed from here on was not received: "

// outputLost says in the output why the rest of it is missing; once, since nothing
// comes after what is lost. serial is held.
func (t *task) outputLost(why string) {
	if rec := t.record(); unheard(&rec) || rec.Started.IsZero() || over(rec.State) {
		return
	}
	if err := t.saveOutput(); err != nil { // the note is of what is stored
		t.log().Error("cannot keep the output", "err", err)
	}
	t.note("\n" + lostOutput + why + "]\n")
}

// unheard reports whether the output of a task says that its end is missing.
func unheard(rec *ledger.Task) bool {
	return slices.ContainsFunc(rec.Notes, func(n ledger.Note) bool { return strings.Contains(n.Text, lostOutput) })
}

// bareAdopted takes over a task of an earlier server: its connection is gone, and
// with it what it has printed since. Nobody comes back by himself, so the machine is
// asked at once.
func (t *task) bareAdopted() {
	t.lock()
	t.outputLost("the server was restarted")
	t.unlock()
	t.askLater(time.Now())
}

func (t *task) bareVerdict(res launch.BareResult, at time.Time, k *killing) ledger.Ended {
	e := ledger.Ended{Task: t.id, At: at, End: wire.End{Cause: wire.CauseExit, RealCode: res.Code, RealSignal: res.Signal}}
	if k != nil {
		t.mu.Lock()
		e.End.Cause = k.cause
		t.mu.Unlock()
	}
	judge(&e)
	return e
}

// endBare records the end that the connection told. A kill that stands is settled by
// the other road: only the main process is known to have ended. serial is held.
func (t *task) endBare(e ledger.Ended, k *killing) {
	if err := t.saveOutput(); err != nil {
		t.log().Error("cannot keep the output", "err", err)
	}
	events := []ledger.Event{e}
	if k != nil {
		t.mu.Lock()
		k.verify = true
		cause := k.cause
		t.mu.Unlock()
		events = append(events, t.noteEvent(t.closingLine(cause)))
	}
	if err := t.apply(events...); err != nil {
		t.log().Error("cannot record the end", "err", err)
		t.askLater(time.Now().Add(t.ts.pace.recheck))
		return
	}
	t.logCompleted()
}

// launchBare starts a task without a wrapper; the rest is not waited for.
func (t *task) launchBare(order []byte) {
	transport, m := t.road()
	road, ok := transport.(launch.Bare)
	if !ok {
		t.started(launch.StartResult{Certainty: launch.CertainlyNot,
			Err: fmt.Errorf("cannot run without a wrapper by %q: %w", m.Transport, launch.ErrNoTransport)})
		return
	}
	t.ts.spawn(func() { t.runBare(t.ts.life, road, m, order) })
}

// lostReason is why the exit code of a task that vanished is not known.
func (t *task) lostReason() string {
	rec := t.record()
	switch {
	case !t.plan().NoWrapper:
		return reasonLost
	case unheard(&rec):
		return reasonUnheard
	}
	return reasonUnwatched
}
