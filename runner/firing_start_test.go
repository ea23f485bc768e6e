package runner

import (
	"strings"
	"testing"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

func TestStartByHand(t *testing.T) {
	job, stay := byHand(t, "j"), byHand(t, "stay")
	f := newFleet(nil)
	f.play = f.gated
	h := newHouse(t, on(setOf(job, stay), "a", "b", "-c"), f).start()
	if r := h.refused(StartRequest{Job: "jj"}); r.Code != CodeNoSuchJob || !strings.Contains(r.Hint, `"j"`) {
		t.Errorf("%+v", r)
	}
	if r := h.refused(StartRequest{Job: "j", Machines: []string{"x*"}}); r.Code != CodeNoMachines {
		t.Errorf("%+v", r)
	}
	if r := h.refused(StartRequest{Job: "j", Machines: []string{"c"}}); r.Code != CodeNoMachines {
		t.Errorf("%+v", r)
	}
	run := h.begin(StartRequest{Job: "j", Machines: []string{"[ac]"}})
	if run.Trigger != ledger.TriggerManual || run.By != "alice" || len(run.Tasks) != 2 || h.task(run.ID, "c").Reason != ledger.ReasonDisabled {
		t.Errorf("%+v", run)
	}
	if r := h.refused(StartRequest{Job: "j", Machines: []string{"b"}}); r.Code != CodeOverlap || !strings.Contains(r.Text, run.ID) {
		t.Errorf("%+v", r)
	}
	var forced []*ledger.Run // several in one second have names of their own
	for range 4 {
		forced = append(forced, h.begin(StartRequest{Job: "j", Force: true}))
	}
	names := map[string]bool{run.ID: true}
	suffixed := 0
	for _, r := range forced {
		if names[r.ID] {
			t.Errorf("%s twice", r.ID)
		}
		names[r.ID] = true
		if strings.Contains(strings.TrimPrefix(r.ID, "j_"), "-") {
			suffixed++
		}
	}
	if suffixed == 0 {
		t.Errorf("no name was taken: %v", names)
	}
	f.open("a")
	f.open("b")
	h.await("all ends", func() bool { return len(h.runner.tasks.live("j")) == 0 })
	audit, err := h.book.Audit(t.Context(), time.Time{}, 100)
	if err != nil || len(audit) != 9 || audit[8].Target != "jj" || !strings.Contains(audit[8].Outcome, "no job") || audit[0].Who != "alice" {
		t.Errorf("audit %+v, %v", audit, err)
	}
	marks, err := h.book.Watermarks(t.Context())
	if err != nil || marks["j"].After(run.Fired) {
		t.Errorf("a run by hand moved the schedule on: %v, %v", marks["j"], err)
	}
}

func TestMaintenance(t *testing.T) {
	job := byHand(t, "j")
	set := on(setOf(job), "a", "b")
	set.Maintenance.Machines = []string{"b"}
	f := newFleet(ends)
	h := newHouse(t, set, f).start()
	run := h.begin(StartRequest{Job: "j"})
	task := h.task(run.ID, "b")
	if task.State != ledger.Skipped || task.Reason != ledger.ReasonMaintenance || task.ExitCode != nil || task.Ended.IsZero() || !task.Launched.IsZero() {
		t.Errorf("%+v", task)
	}
	h.await("the end of the other", func() bool {
		return h.task(run.ID, "a").State == ledger.LaunchFailed && len(h.runner.tasks.live("j")) == 0
	})
	if unfinished, err := h.book.Unfinished(t.Context()); err != nil || len(unfinished) != 0 {
		t.Errorf("unfinished %v, %v", unfinished, err)
	}
	if r := h.refused(StartRequest{Job: "j", Machines: []string{"b"}}); r.Code != CodeMaintenance {
		t.Errorf("%+v", r)
	}
	all := on(setOf(job), "a", "b")
	all.Maintenance.Global = true
	h.runner.SetConfig(all)
	if r := h.refused(StartRequest{Job: "j"}); r.Code != CodeMaintenance {
		t.Errorf("%+v", r)
	}
	if s, err := h.runner.Status(t.Context()); err != nil || s.Jobs[0].Blocked != ledger.ReasonMaintenance {
		t.Errorf("%+v, %v", s, err)
	}
	forced := h.begin(StartRequest{Job: "j", Force: true})
	h.await("it runs on both", func() bool { return len(f.machines(forced.ID)) == 2 })
	// What fires by the schedule is skipped as one range.
	due := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 3 {
		at := due.Add(time.Duration(i) * time.Minute)
		h.runner.firing.fire(t.Context(), all, dueJob{job: job, first: at, last: at}, at)
	}
	if skips := h.skips("j"); len(skips) != 1 || skips[0].Count != 3 || skips[0].Reason != ledger.ReasonMaintenance {
		t.Errorf("%+v", skips)
	}
}

func TestRetryOnTheFailedMachinesOnly(t *testing.T) {
	job, other := byHand(t, "j"), byHand(t, "other")
	f := newFleet(ends)
	h := newHouse(t, on(setOf(job, other), "a", "b", "c", "d"), f)
	ran := &ledger.Run{ID: "j_1", Job: "j", Due: time.Unix(1, 0), Fired: time.Unix(1, 0), Trigger: ledger.TriggerManual}
	for m, state := range map[string]ledger.State{"a": ledger.Succeeded, "b": ledger.Failed, "c": ledger.TimedOut, "d": ledger.Skipped} {
		ran.Tasks = append(ran.Tasks, ledger.Task{TaskID: ledger.TaskID{Machine: m}, State: state})
	}
	good := *ran
	good.ID, good.Tasks = "j_2", []ledger.Task{{TaskID: ledger.TaskID{Machine: "a"}, State: ledger.Succeeded}}
	h.apply(ledger.Begun{Run: *ran}, ledger.Begun{Run: good})
	h.start()
	run := h.begin(StartRequest{RetryOf: "j_1"})
	if run.RetryOf != "j_1" || run.Trigger != ledger.TriggerRetry || run.Job != "j" || len(run.Tasks) != 2 {
		t.Errorf("%+v", run)
	}
	h.await("b and c", func() bool { return len(f.machines(run.ID)) == 2 && len(h.runner.tasks.live("j")) == 0 })
	for _, m := range f.machines(run.ID) {
		if m != "b" && m != "c" {
			t.Errorf("it went to %s", m)
		}
	}
	if run := h.begin(StartRequest{Job: "j", RetryOf: "j_1", Machines: []string{"a", "b"}}); len(run.Tasks) != 1 || run.Tasks[0].Machine != "b" {
		t.Errorf("%+v", run)
	}
	for _, c := range []struct {
		q    StartRequest
		code string
	}{
		{StartRequest{Job: "j", RetryOf: "j_9"}, CodeNoSuchRun},
		{StartRequest{Job: "j", RetryOf: "j_2"}, CodeNoMachines},
		{StartRequest{Job: "other", RetryOf: "j_1"}, CodeBadRequest},
	} {
		if r := h.refused(c.q); r.Code != c.code {
			t.Errorf("%+v: %+v", c.q, r)
		}
	}
	marks, err := h.book.Watermarks(t.Context())
	if err != nil || marks["j"].After(run.Fired) {
		t.Errorf("a retry moved the schedule on: %v, %v", marks["j"], err)
	}
}

// A transport that this build lacks fails the run, and says so; it never runs
// somewhere else.
func TestUnknownTransportFailsLoudly(t *testing.T) {
	set := setOf(byHand(t, "away"), byHand(t, "salted"), byHand(t, "forced"))
	set.Jobs["salted"].Transport, set.Jobs["forced"].Transport = "salt", "local"
	set.Machines = []config.Machine{{Name: "web1", SSH: "web1.example", Enabled: true}}
	f := newFleet(ends)
	h := newHouse(t, set, f).start()
	for job, word := range map[string]string{"away": "ssh", "salted": "salt", "forced": "ssh"} {
		run := h.begin(StartRequest{Job: job})
		h.await("its end", func() bool { return h.task(run.ID, "web1").State.Done() })
		task := h.task(run.ID, "web1")
		if task.State != ledger.LaunchFailed || exitCode(task) != 255 || !strings.Contains(task.Reason, word) || !strings.Contains(task.Reason, "not available") {
			t.Errorf("%s: %+v", job, task)
		}
		if len(task.Notes) != 1 || !strings.Contains(task.Notes[0].Text, word) {
			t.Errorf("%s: notes %+v", job, task.Notes)
		}
	}
	if n := len(f.began()); n != 0 {
		t.Errorf("%d ran here", n)
	}
}

func TestRunWithoutMachines(t *testing.T) {
	job := byHand(t, "j")
	job.Targets = "nowhere*"
	h := newHouse(t, setOf(job), newFleet(ends)).start()
	changes := h.runner.Watch(t.Context(), 10)
	run := h.begin(StartRequest{Job: "j"})
	if run.Reason != ledger.ReasonNoMachines || len(run.Tasks) != 0 || !strings.Contains(run.Detail, "nowhere*") {
		t.Errorf("%+v", run)
	}
	if c := <-changes; c.Kind != ChangeRun || c.Run.ID != run.ID || c.Run.Definition != nil {
		t.Errorf("%+v", c)
	}
	if len(h.runs("j")) != 1 {
		t.Error("it is not in the book")
	}
}

// overlap skip and allow, fired by the schedule.
func TestOverlap(t *testing.T) {
	t.Parallel()
	skip, allow := scheduled(t, "skip", everySecond, "UTC"), scheduled(t, "allow", everySecond, "UTC")
	allow.OnOverlap = "allow"
	f := newFleet(stays)
	h := newHouse(t, setOf(skip, allow), f).start()
	h.await("three runs of one, and skips of the other", func() bool {
		skips := h.skips("skip")
		return len(h.runs("allow")) >= 3 && len(skips) > 0 && skips[len(skips)-1].Count >= 2
	})
	if runs, skips := h.runs("skip"), h.skips("skip"); len(runs) != 1 || len(skips) != 1 || skips[0].Reason != ledger.ReasonOverlap || !strings.Contains(skips[0].Detail, runs[0].ID) {
		t.Errorf("runs %d, skips %+v", len(runs), skips)
	}
	if skips := h.skips("allow"); len(skips) != 0 {
		t.Errorf("skips %+v", skips)
	}
	s, err := h.runner.Status(t.Context())
	if err != nil || s.Jobs[0].Blocked != ledger.ReasonOverlap || s.Jobs[1].Blocked != "" || s.Jobs[0].Last == nil || s.Jobs[0].Next.IsZero() {
		t.Errorf("%+v, %v", s.Jobs, err)
	}
}
