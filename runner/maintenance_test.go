package runner

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

// maintained is a switch of maintenance that must succeed.
func maintained(t *testing.T) func(MaintenanceChange, error) MaintenanceChange {
	return func(c MaintenanceChange, err error) MaintenanceChange {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// What people switch on holds beside the files, over a reload and a restart, until
// they switch it off.
func TestMaintenanceSwitched(t *testing.T) {
	ok := maintained(t)
	job, wide := byHand(t, "j"), byHand(t, "wide")
	set := on(setOf(job, wide), "a", "b")
	h := newHouse(t, set, newFleet(ends)).start()
	watch := h.runner.Watch(t.Context(), 10)
	c := ok(h.runner.MaintenanceOn(t.Context(), person, nil, "disks"))
	if !c.Global || len(c.Changed) != 1 || c.Changed[0].By != "alice" || c.Changed[0].Reason != "disks" || c.Changed[0].Since.IsZero() || len(c.Still) != 0 {
		t.Errorf("%+v", c)
	}
	if change := <-watch; change.Kind != ChangeConfig || h.runner.Config().Serial == set.Serial || !h.runner.Config().Maintenance.Global || h.runner.Files() != set {
		t.Errorf("%+v", change)
	}
	refused := func(job, hint string) {
		t.Helper()
		if r := h.refused(StartRequest{Job: job}); r.Code != CodeMaintenance || !strings.Contains(r.Hint, hint) {
			t.Errorf("%+v", r)
		}
	}
	refused("j", "`saltpeter maintenance off`")
	due := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	h.runner.firing.fire(t.Context(), h.runner.Config(), dueJob{job: job, first: due, last: due}, due)
	if s := h.skips("j"); len(s) != 1 || s[0].Reason != ledger.ReasonMaintenance || s[0].Detail != "switched on by alice: disks" {
		t.Errorf("%+v", s)
	}
	h.runner.SetConfig(on(setOf(job, wide), "a", "b", "c"))
	refused("j", "maintenance off")
	h.stop()
	h.start()
	refused("j", "maintenance off")
	if again := ok(h.runner.MaintenanceOn(t.Context(), person, nil, "")); again.Changed[0].Reason != "disks" || !again.Changed[0].Since.Equal(c.Changed[0].Since) {
		t.Errorf("said again: %+v, at first %+v", again.Changed, c.Changed)
	}
	if c = ok(h.runner.MaintenanceOff(t.Context(), person, nil)); c.Global || len(c.Changed) != 1 || len(c.Still) != 0 || h.runner.Config() != set {
		t.Errorf("%+v", c)
	}
	h.begin(StartRequest{Job: "j"})
	h.stop()
	h.start()
	if m := h.runner.Maintenance(); m.Global || len(m.Machines)+len(m.Sources) != 0 {
		t.Errorf("it came back: %+v", m)
	}
	audit, err := h.book.Audit(t.Context(), time.Time{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	var log []string
	for _, e := range audit {
		if strings.HasPrefix(e.What, "maintenance") {
			log = append(log, e.Who+" "+e.What+" "+e.Target+" "+e.Outcome)
		}
	}
	if want := []string{"alice maintenance off everything done: disks", "alice maintenance on everything done: disks", "alice maintenance on everything done: disks"}; !slices.Equal(log, want) {
		t.Errorf("audit %q", log)
	}
}

// Machines are held back by name or glob; what the files say cannot be lifted.
func TestMaintenanceOfMachines(t *testing.T) {
	ok := maintained(t)
	set := on(setOf(byHand(t, "j")), "web1", "web2", "db1")
	set.Dir = "/jobs"
	set.Maintenance.Machines = []string{"web2"}
	set.Maintenance.Places = []config.Place{{Machine: "web2", File: "a.yaml", Line: 7}}
	h := newHouse(t, set, newFleet(ends)).start()
	c := ok(h.runner.MaintenanceOn(t.Context(), person, []string{"web*"}, ""))
	if len(c.Changed) != 2 || !slices.Equal(c.Machines, []string{"web2", "web1"}) || c.Global || len(c.Sources) != 3 {
		t.Errorf("%+v", c)
	}
	run := h.begin(StartRequest{Job: "j"})
	if h.task(run.ID, "web1").Reason != ledger.ReasonMaintenance || h.task(run.ID, "db1").State == ledger.Skipped {
		t.Errorf("%+v", run)
	}
	h.await("its end", func() bool { return len(h.runner.tasks.live("j")) == 0 })
	ok(h.runner.MaintenanceOn(t.Context(), person, []string{"db1"}, ""))
	if r := h.refused(StartRequest{Job: "j"}); r.Code != CodeMaintenance || !strings.Contains(r.Hint, "/jobs/a.yaml:7") || !strings.Contains(r.Hint, "--machine web1") {
		t.Errorf("%+v", r)
	}
	if s, err := h.runner.Status(t.Context()); err != nil || s.Jobs[0].Blocked != ledger.ReasonMaintenance {
		t.Errorf("%+v, %v", s, err)
	}
	if c = ok(h.runner.MaintenanceOff(t.Context(), person, []string{"web1"})); len(c.Changed) != 1 || len(c.Still) != 0 || !slices.Equal(c.Machines, []string{"web2", "db1"}) {
		t.Errorf("%+v", c)
	}
	c = ok(h.runner.MaintenanceOff(t.Context(), person, nil))
	if len(c.Changed) != 2 || len(c.Still) != 1 || c.Still[0].File != "/jobs/a.yaml" || c.Still[0].Line != 7 || !slices.Equal(c.Machines, []string{"web2"}) {
		t.Errorf("%+v", c)
	}
	ok(h.runner.MaintenanceOn(t.Context(), person, nil, ""))
	if c = ok(h.runner.MaintenanceOff(t.Context(), person, []string{"db1"})); len(c.Changed) != 0 || len(c.Still) != 1 || c.Still[0].Machine != "" {
		t.Errorf("everything still rests: %+v", c)
	}
	for _, names := range [][]string{{"nosuch"}, {"web1", "nosuch*"}} {
		var r *Refusal
		if _, err := h.runner.MaintenanceOn(t.Context(), person, names, ""); !errors.As(err, &r) || r.Code != CodeNoMachines {
			t.Errorf("%v: %v", names, err)
		}
	}
	var r *Refusal
	if _, err := h.runner.MaintenanceOn(t.Context(), person, nil, strings.Repeat("x", longestReason+1)); !errors.As(err, &r) || r.Code != CodeBadRequest {
		t.Error(err)
	}
}

// Reloads and switches at once lose nothing of each other.
func TestMaintenanceBesideReloads(t *testing.T) {
	ok := maintained(t)
	job := byHand(t, "j")
	h := newHouse(t, on(setOf(job), "a", "b"), newFleet(ends)).start()
	var wg sync.WaitGroup
	for _, machine := range []string{"a", "b"} {
		wg.Go(func() {
			for range 20 {
				ok(h.runner.MaintenanceOff(t.Context(), person, []string{machine}))
				ok(h.runner.MaintenanceOn(t.Context(), person, []string{machine}, ""))
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			h.runner.SetConfig(on(setOf(job), "a", "b"))
		}
	})
	wg.Wait()
	if m := h.runner.Config().Maintenance.Machines; len(m) != 2 {
		t.Errorf("%v", m)
	}
	if holds, err := h.book.Holds(t.Context()); err != nil || len(holds) != 2 {
		t.Errorf("%v, %v", holds, err)
	}
}
