package runner

import (
	"errors"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// started takes what a start came to.
func (t *task) started(res launch.StartResult) {
	t.lock()
	defer t.unlock()
	now := time.Now()
	t.mu.Lock()
	t.starting, t.olderStart, t.startErr = false, res.Older, ""
	if res.Certainty == launch.Unsure && res.Err != nil {
		t.startErr = res.Err.Error()
	}
	t.quiet = now
	rec, linked, k := t.rec, t.session != nil, t.kill
	t.mu.Unlock()
	if k != nil {
		t.after(k.look)
	}
	switch res.Certainty {
	case launch.Started:
		t.identifyLater(res)
		if !linked {
			t.askLater(now.Add(t.ts.pace.silence))
		}
	case launch.CertainlyNot:
		if linked || !rec.Started.IsZero() || over(rec.State) {
			t.log().Warn("the start failed, yet the wrapper has connected", "err", res.Err)
			return
		}
		t.failedStart(res.Err)
	default:
		t.log().Warn("it is not known whether it started", "err", res.Err)
		t.after(t.changed)
		if !linked {
			t.askLater(now.Add(t.ts.pace.recheck))
		}
	}
}

// identifyLater records the identity that a start returned, unless the wrapper's own
// word comes first: that is recorded together with the start, by one fsync, which
// the command waits for. The gate is shut until then, so nothing runs unrecorded.
// serial is held.
func (t *task) identifyLater(res launch.StartResult) {
	record := func() {
		rec := t.record()
		t.identified(res, &rec)
	}
	if res.Identity == nil {
		return
	}
	waits := !res.Older && t.ts.spawn(func() {
		pause(t.ts.life, t.ts.pace.identity)
		t.lock()
		defer t.unlock()
		record()
	})
	if !waits {
		record()
	}
}

// identified records the identity that a start returned. serial is held.
func (t *task) identified(res launch.StartResult, rec *ledger.Task) {
	if over(rec.State) && rec.Identity != nil {
		return
	}
	if rec.Identity != nil && sameIdentity(rec.Identity, res.Identity) && rec.Version == res.Version {
		return // its connection was faster
	}
	features := rec.Features
	err := t.apply(ledger.Identified{Task: t.id, Identity: *res.Identity, Version: res.Version, Features: features})
	if err != nil {
		t.log().Error("cannot record who the task's processes are", "err", err)
	}
}

// failedStart ends a task that certainly did not start. serial is held.
func (t *task) failedStart(err error) {
	why := "it could not be started"
	if err != nil {
		why = err.Error()
	}
	state := ledger.LaunchFailed
	if errors.Is(err, launch.ErrUnreachable) {
		state = ledger.Unreachable
	}
	if err := t.fail(state, why); err != nil {
		t.log().Error("cannot record that the launch failed", "err", err)
		t.askLater(time.Now().Add(t.ts.pace.recheck)) // it is found again there
	}
}

// fail ends the task with 255, its reason in the output. serial is held.
func (t *task) fail(state ledger.State, why string) error {
	now := time.Now()
	err := t.apply(
		ledger.Ended{Task: t.id, At: now, State: state, ExitCode: wire.ExitUnreachable, Reason: why, End: wire.End{Cause: wire.CauseLaunch}},
		t.noteEvent(why+"\n"),
	)
	if err == nil && t.hash != "" {
		t.ts.expire(t.hash, t.id, now)
	}
	return err
}
