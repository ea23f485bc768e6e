package runner

import (
	"fmt"
	"testing"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// fullLane fills the turns of this machine's lane with starts that do not return
// before the test says so, and lets one more task wait behind them.
func fullLane(t *testing.T) (r *rig, f *fakeRoad, behind ledger.TaskID, release chan struct{}) {
	f = newFakeRoad()
	release = make(chan struct{})
	f.onGo = func(wire.Order) launch.StartResult {
		<-release
		return launch.StartResult{Certainty: launch.Started}
	}
	r = newRig(t, func(r *rig) { r.roads["local"] = f })
	most := launchesAtOnce("local")
	var specs []taskSpec
	for i := range most + 1 {
		specs = append(specs, r.specOf("crowd", fmt.Sprintf("crowd_%d", i), "here", "local", "true"))
	}
	for _, s := range specs {
		r.begin(s)
		r.tasks.launch(t.Context(), []taskSpec{s})
	}
	r.await("all turns are taken", func() bool { return f.started() == most })
	waits := func(s taskSpec) bool {
		task := r.tasks.find(s.Task.TaskID)
		task.mu.Lock()
		defer task.mu.Unlock()
		return task.endWait != nil
	}
	r.await("the last waits for its turn", func() bool {
		for _, s := range specs {
			if waits(s) {
				behind = s.Task.TaskID
				return true
			}
		}
		return false
	})
	return r, f, behind, release
}

// A kill does not wait for a turn: whose launch is recorded and whose start has not
// begun never starts.
func TestKillBeforeTheTurn(t *testing.T) {
	r, f, behind, release := fullLane(t)
	if rec := r.task(behind); rec.State != ledger.Launching {
		t.Fatalf("record %+v", rec)
	}
	receipts := r.kill(Selector{Run: behind.Run}, KillOptions{})
	if len(receipts) != 1 || receipts[0].Outcome != wire.OutcomeNeverStarted || receipts[0].Pending || *receipts[0].ExitCode != 143 {
		t.Errorf("receipts %+v", receipts)
	}
	rec := r.awaitState(behind, ledger.Killed)
	if exitCode(rec) != 143 || rec.Reason != ledger.ReasonNever || rec.Kill.Standing() {
		t.Errorf("record %+v", rec)
	}
	close(release)
	r.await("the turns are given back", func() bool {
		r.tasks.mu.Lock()
		defer r.tasks.mu.Unlock()
		return r.tasks.lanes["local"].busy == 0
	})
	if n := f.started(); n != launchesAtOnce("local") {
		t.Errorf("%d were started", n)
	}
	if n := r.endings(behind); n != 1 {
		t.Errorf("its end was told %d times", n)
	}
}

// A turn that is given back starts who waits for it, once.
func TestTurnsGoOn(t *testing.T) {
	r, f, behind, release := fullLane(t)
	release <- struct{}{}
	r.await("the last one starts", func() bool { return f.started() == launchesAtOnce("local")+1 })
	if rec := r.task(behind); rec.State != ledger.Launching {
		t.Errorf("record %+v", rec)
	}
	close(release)
}
