package runner

import (
	"strings"
	"testing"
	"time"

	"saltpeter/config"
	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// byHand is a job that is never due.
func byHand(t testing.TB, name string) *config.Job {
	return scheduled(t, name, config.FieldTexts{Min: "0", Hour: "0", Dom: "1", Mon: "1", Dow: "*", Year: "2090"}, "UTC")
}

func on(set *config.Set, machines ...string) *config.Set {
	set.Machines = inventory(machines...)
	return set
}

// The next batch starts when the one before has ended, as a whole.
func TestBatchesOneAfterTheOther(t *testing.T) {
	t.Parallel()
	job := byHand(t, "j")
	job.Batch = config.Size{N: 2}
	f := newFleet(nil)
	f.play = f.gated
	h := newHouse(t, on(setOf(job), "a", "b", "c", "d", "e"), f).start()
	run := h.begin(StartRequest{Job: "j"})
	started := func() string {
		all := f.machines(run.ID)
		return strings.Join(all, "")
	}
	h.await("the first two", func() bool { return len(started()) == 2 })
	f.open("a")
	h.await("the end of one", func() bool { return h.task(run.ID, "a").State.Done() })
	time.Sleep(50 * time.Millisecond)
	if s := started(); len(s) != 2 || strings.ContainsAny(s, "cde") {
		t.Fatalf("started %q", s)
	}
	f.open("b")
	h.await("the second two", func() bool { return len(started()) == 4 })
	if s := started()[2:]; strings.Contains(s, "e") {
		t.Fatalf("started %q", s)
	}
	f.open("c")
	f.open("d")
	h.await("the last", func() bool { return strings.HasSuffix(started(), "e") })
	f.open("e")
	h.await("its end", func() bool { return h.task(run.ID, "e").State == ledger.LaunchFailed })
	if why := h.task(run.ID, "e").Reason; why != errPlayed.Error() {
		t.Errorf("reason %q", why)
	}
}

// A kill of the run cuts the later batches; one of a machine does not.
func TestKillCutsLaterBatches(t *testing.T) {
	t.Parallel()
	job := byHand(t, "j")
	job.Batch = config.Size{N: 1}
	f := newFleet(stays)
	h := newHouse(t, on(setOf(job), "a", "b", "c", "d"), f).start()
	run := h.begin(StartRequest{Job: "j"})
	kill := func(s Selector) map[string]Receipt {
		t.Helper()
		receipts, err := h.runner.Kill(t.Context(), person, s, KillOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]Receipt{}
		for r := range receipts {
			all[r.Machine] = r
		}
		return all
	}
	h.await("a", func() bool { return h.task(run.ID, "a").State == ledger.Launching && len(f.began()) == 1 })
	kill(Selector{Run: run.ID, Machine: "a"})
	h.await("b", func() bool { return strings.Join(f.machines(run.ID), "") == "ab" })
	receipts := kill(Selector{Run: run.ID})
	for _, m := range []string{"c", "d"} {
		if receipts[m].Outcome != wire.OutcomeNeverStarted {
			t.Errorf("%s: %+v", m, receipts[m])
		}
		if task := h.task(run.ID, m); task.State != ledger.Skipped || task.Reason != ledger.ReasonCancelled || task.ExitCode != nil {
			t.Errorf("%s: %+v", m, task)
		}
	}
	for _, m := range []string{"a", "b"} {
		h.await("the end of "+m, func() bool { return h.task(run.ID, m).State == ledger.Killed })
	}
	if s := strings.Join(f.machines(run.ID), ""); s != "ab" {
		t.Errorf("started %q", s)
	}
	if _, err := h.runner.Kill(t.Context(), person, Selector{Run: run.ID}, KillOptions{}); err == nil {
		t.Error("there is still something to kill")
	}
}

// A lost task is a provisional end: later batches go on past it, and it holds back
// the next run on its own machine only.
func TestLostHoldsBackItsOwnMachineOnly(t *testing.T) {
	t.Parallel()
	job := byHand(t, "j")
	job.Batch, job.LostAfter = config.Size{N: 1}, 300*time.Millisecond
	f := newFleet(func(o wire.Order) launch.StartResult {
		if o.Machine == "a" {
			return stays(o)
		}
		return ends(o)
	})
	h := newHouse(t, on(setOf(job), "a", "b"), f, func(h *house) { h.pace = hurried() }).start()
	run := h.begin(StartRequest{Job: "j"})
	h.await("lost", func() bool { return h.task(run.ID, "a").State == ledger.Lost })
	h.await("the second batch", func() bool { return h.task(run.ID, "b").State == ledger.LaunchFailed })
	// What the book says is in force a moment later.
	h.await("the news of both", func() bool { return len(h.runner.tasks.live("j")) == 0 })
	again := h.begin(StartRequest{Job: "j"})
	h.await("its end", func() bool { return h.task(again.ID, "b").State == ledger.LaunchFailed })
	h.await("the news of it", func() bool { return len(h.runner.tasks.live("j")) == 0 })
	if task := h.task(again.ID, "a"); task.State != ledger.Skipped || task.Reason != ledger.ReasonOverlap || task.ExitCode != nil {
		t.Errorf("%+v", task)
	}
	if r := h.refused(StartRequest{Job: "j", Machines: []string{"a"}}); r.Code != CodeOverlap {
		t.Errorf("%+v", r)
	}
	forced := h.begin(StartRequest{Job: "j", Machines: []string{"a"}, Force: true})
	h.await("its start", func() bool { return len(f.machines(forced.ID)) == 1 })
	if err := h.runner.Forget(t.Context(), person, run.ID); err != nil {
		t.Error(err)
	}
}

// Runs that make up for something wait while maintenance is on, and go on after.
func TestHeldRunsRestInMaintenance(t *testing.T) {
	t.Parallel()
	job := byHand(t, "j")
	f := newFleet(nil)
	f.play = f.gated
	set := on(setOf(job), "a")
	h := newHouse(t, set, f).start()
	first := h.begin(StartRequest{Job: "j"})
	h.await("its start", func() bool { return len(f.machines(first.ID)) == 1 })
	due := time.Now().Add(-time.Hour)
	held, err := h.runner.firing.begin(t.Context(), set, job, beginning{due: due, now: time.Now(), trigger: ledger.TriggerCatchUp})
	if err != nil {
		t.Fatal(err)
	}
	resting := on(setOf(job), "a")
	resting.Maintenance.Global = true
	h.runner.SetConfig(resting)
	f.open("a")
	h.await("the end of the first", func() bool { return h.task(first.ID, "a").State.Done() })
	time.Sleep(1500 * time.Millisecond) // longer than a sweep
	if len(f.machines(held.ID)) != 0 || h.task(held.ID, "a").State != ledger.Queued {
		t.Error("it was started in maintenance")
	}
	h.runner.SetConfig(set)
	h.await("its turn", func() bool { return h.task(held.ID, "a").State == ledger.LaunchFailed })
}

// A task that ends while its run is being read after a restart is not waited for.
func TestEndWhileResuming(t *testing.T) {
	p := newProgress(newTasks(taskOptions{Hub: newHub()}), func() bool { return false })
	run := &ledger.Run{ID: "j_1", Job: "j", Tasks: []ledger.Task{
		{TaskID: ledger.TaskID{Run: "j_1", Machine: "a"}, State: ledger.Running},
		{TaskID: ledger.TaskID{Run: "j_1", Machine: "b"}, State: ledger.Running},
	}}
	p.expect("j_1")
	p.taskEnded(t.Context(), run.Tasks[0])
	p.resume(run, definition{})
	if r := p.runs["j_1"]; r == nil || len(r.live) != 1 || !r.live["b"] {
		t.Fatalf("%+v", r)
	}
	p.taskEnded(t.Context(), run.Tasks[1])
	if len(p.runs) != 0 {
		t.Errorf("%v", p.runs)
	}
}
