package runner

import (
	"context"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// What is particular about tasks whose wrapper is of an older generation. Such a
// wrapper says only the PID of what it started, and hands its whole environment
// down: its jobs carry SP_JOB_INSTANCE, and no SP_TASK. Who looks for them by the
// cookie finds nobody, and would call them gone.

// olderIdentity is all that the start message of an older wrapper tells of who runs.
// It has no cookie: that is how an older task is known from then on.
func olderIdentity(pid int) wire.Identity { return wire.Identity{PID: pid} }

// older reports whether the task's wrapper is, or may be, of an older generation.
func (t *task) older() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.isOlder()
}

// isOlder is older for those who hold the lock.
func (t *task) isOlder() bool {
	if id := t.rec.Identity; id != nil {
		return id.Task == ""
	}
	// Nobody has said who runs. A program that the job names as its wrapper may be
	// anything; jobs of either generation can be found by their run.
	return t.hasSpec && t.spec.Machine.WrapperPath != "" && !t.spec.NoWrapper || t.olderStart
}

// question is a request of kill.sh about this task.
func (t *task) question(op launch.Op) launch.ScriptRequest {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := launch.ScriptRequest{Op: op, Run: t.id.Run, Task: t.rec.Cookie, Identity: t.rec.Identity}
	if t.isOlder() {
		q.Task = ""
	}
	return q
}

// learn looks who an older wrapper's PID is, while it is certainly the job's: when
// the job's main process has ended, its start time still tells the wrapper, which was
// born before it, from what the job has left. Without a road nothing is learned.
func (t *task) learn() {
	transport, m := t.road()
	if transport == nil {
		return
	}
	t.ts.spawn(func() {
		ctx := t.ts.life
		give, ok := t.ts.checks.take(ctx, m, &t.ts.reach)
		if !ok {
			return
		}
		defer give()
		rec := t.record()
		if over(rec.State) || rec.Identity == nil || rec.Identity.BootID != "" {
			return
		}
		limit, cancel := context.WithTimeout(ctx, t.ts.pace.ask)
		defer cancel()
		res, err := transport.Script(limit, m, t.question(launch.OpCheck))
		t.ts.tried(ctx, m, err)
		if err != nil {
			t.log().Debug("cannot look who an older wrapper's process is", "err", err)
			return
		}
		if res.Found != nil && res.Found.PID == rec.Identity.PID {
			t.found(*res.Found)
		}
	})
}

// olderNeverSeen ends a task that an older wrapper was started for and of which
// nothing was ever seen. Such a wrapper runs its job without a server too: nobody
// can say that the job did not run, so it is not started a second time.
func (t *task) olderNeverSeen() {
	t.lock()
	defer t.unlock()
	if rec := t.record(); over(rec.State) || !rec.Started.IsZero() || t.link() != nil {
		return
	}
	t.mu.Lock()
	reason := pick(t.startErr, "its wrapper never connected, and nothing of it is on the machine: whether it ran is not known")
	t.mu.Unlock()
	err := t.apply(
		ledger.Ended{Task: t.id, At: time.Now(), State: ledger.Unknown, ExitCode: wire.ExitLost, Reason: reason, End: wire.End{Cause: wire.CauseLost}},
		t.noteEvent(reason+"\n"),
	)
	if err != nil {
		t.log().Error("cannot record the end", "err", err)
		t.askAgain()
	}
}
