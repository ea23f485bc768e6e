package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"saltpeter/wsx/wire"
)

func TestAllOrNone(t *testing.T) {
	l := openTest(t, t.TempDir())
	id := begunTask(t, l, "m")
	next := runOf("job", at(60), "a", "b")
	refused(t, l, ErrNoTask,
		Begun{next},
		Launched{Task: id, At: at(1), TokenHash: "h1"},
		Launched{Task: TaskID{next.ID, "a"}, At: at(1), TokenHash: "h2"},
		SkippedDue{Skip{Job: "job", From: at(61)}},
		Started{Task: TaskID{next.ID, "nobody"}})
	if _, err := l.Run(t.Context(), next.ID); !errors.Is(err, ErrNoRun) {
		t.Error(err)
	}
	for _, hash := range []string{"h1", "h2"} {
		if _, err := l.TaskByToken(hash); !errors.Is(err, ErrNoToken) {
			t.Error(hash, err)
		}
	}
	if task, err := l.Task(t.Context(), id); err != nil || task.State != Queued {
		t.Errorf("%+v %v", task, err)
	}
	// What was refused can be done, with everything that depends on it at once.
	got := apply(t, l,
		TokenAdded{Hash: "h0", Task: id},
		Begun{next},
		Launched{Task: TaskID{next.ID, "b"}, At: at(1), TokenHash: "h2"},
		SkippedDue{Skip{Job: "job", From: at(61)}},
		Started{Task: TaskID{next.ID, "b"}, At: at(2), PID: 9},
		Watermark{Job: "job", At: at(61)},
		Audited{AuditEntry{At: at(1), Who: "alice", What: "run"}})
	var names []string
	for _, task := range got {
		names = append(names, task.Machine+" "+string(task.State))
	}
	if fmt.Sprint(names) != "[m queued a queued b running]" {
		t.Error(names)
	}
	if who, err := l.TaskByToken("h2"); err != nil || who != (TaskID{next.ID, "b"}) {
		t.Error(who, err)
	}
	if got[2].Identity.PID != 9 {
		t.Errorf("%+v", got[2].Identity)
	}
	if got := apply(t, l); len(got) != 0 {
		t.Error(got)
	}
}

// A refusal leaves nothing of its request, wherever in it the event stands that is
// refused, and nothing of its neighbours is missing.
func TestRefusedAnywhere(t *testing.T) {
	l := openTest(t, t.TempDir())
	run := runOf("job", at(60), "a")
	said := Audited{AuditEntry{At: at(1), Who: "alice", What: "run"}}
	apply(t, l, Begun{run}, Watermark{Job: "job", At: at(60)}, said)
	again, later := Begun{run}, Watermark{Job: "job", At: at(99)}
	refused(t, l, ErrExists, again, later, said)
	refused(t, l, ErrExists, later, said, again)
	refused(t, l, ErrExists, later, again, said)
	refused(t, l, ErrDueTaken, SkippedDue{Skip{Job: "job", From: at(60)}}, later)
	audit, err := l.Audit(t.Context(), time.Time{}, 10)
	if err != nil || len(audit) != 1 {
		t.Error(audit, err)
	}
	if marks, err := l.Watermarks(t.Context()); err != nil || !marks["job"].Equal(at(60)) {
		t.Error(marks, err)
	}
}

func TestRefusals(t *testing.T) {
	l := openTest(t, t.TempDir())
	id := begunTask(t, l, "m")
	twice := runOf("job", at(5), "m", "m")
	refused(t, l, ErrUnlawful, Begun{twice})
	refused(t, l, ErrUnlawful, Begun{Run{ID: "x"}})
	refused(t, l, ErrUnlawful, Begun{Run{Job: "x"}})
	live := runOf("job", at(5), "m")
	live.Tasks[0].State = Running
	refused(t, l, ErrUnlawful, Begun{live})
	refused(t, l, ErrUnlawful, &Started{Task: id})
	refused(t, l, ErrNoTask, Started{Task: TaskID{id.Run, "other"}})
	apply(t, l, NonceBound{Task: id, Nonce: "a"}, NonceBound{Task: id, Nonce: "a"})
	refused(t, l, ErrUnlawful, NonceBound{Task: id, Nonce: "b"})
	refused(t, l, ErrUnlawful, KillSettled{Task: id})
	apply(t, l, TokenDropped{"nobody's"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // either is lawful, but the answer must be true
		_, err := l.Apply(ctx, Watermark{Job: "cancelled", At: at(1)})
		marks, err2 := l.Watermarks(t.Context())
		if err2 != nil {
			t.Fatal(err2)
		}
		if _, there := marks["cancelled"]; err == nil && !there {
			t.Fatal("said recorded, is not")
		}
	}
	// A task that begins at its end: over the limit of targets, say.
	r := runOf("limited", noon, "a", "b")
	r.Tasks[1].State, r.Tasks[1].Reason = Skipped, "over the limit"
	if got := apply(t, l, Begun{r}); got[1].State != Skipped || got[1].Ended.IsZero() || got[1].ExitCode != nil {
		t.Errorf("%+v", got[1])
	}
}

// A failing call among many that share a commit fails alone.
func TestNeighboursInAGroup(t *testing.T) {
	l := openTest(t, t.TempDir())
	const n = 200
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r := runOf(fmt.Sprintf("job%d", i), noon, "m")
			id := TaskID{r.ID, "m"}
			_, err := l.Apply(t.Context(), Begun{r}, Launched{Task: id, At: noon, TokenHash: r.ID})
			if err != nil {
				t.Errorf("%d: %v", i, err)
				return
			}
			switch i % 4 {
			case 0: // refused after it has written something
				_, err = l.Apply(t.Context(), NoteAdded{Task: id}, Ended{Task: id, State: Running})
				if !errors.Is(err, ErrUnlawful) {
					t.Errorf("%d: %v", i, err)
				}
			case 1: // refused by the store itself: no JSON for it
				events := []Event{Ended{Task: id, At: noon, State: Failed, End: wire.End{ElapsedMS: nan()}}}
				if i%8 == 1 { // which takes the whole commit along, and each is tried by itself
					events = append(events, Audited{AuditEntry{At: noon, What: "nothing"}})
				}
				_, err = l.Apply(t.Context(), events...)
				if err == nil {
					t.Errorf("%d: stored what cannot be", i)
				}
			default:
				if _, err = l.Apply(t.Context(), Ended{Task: id, At: noon, State: Succeeded}); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	states := map[State]int{}
	page, err := l.Runs(t.Context(), RunFilter{Limit: n + 1})
	if err != nil || len(page.Runs) != n {
		t.Fatal(len(page.Runs), err)
	}
	for _, r := range page.Runs {
		states[r.Tasks[0].State]++
		if len(r.Tasks[0].Notes) != 0 {
			t.Errorf("%s keeps a note of a refused call", r.ID)
		}
	}
	if states[Launching] != n/2 || states[Succeeded] != n/2 {
		t.Error(states)
	}
	if audit, err := l.Audit(t.Context(), time.Time{}, n); err != nil || len(audit) != 0 {
		t.Error(audit, err)
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

func TestFinishedTasksAreForgottenAndFound(t *testing.T) {
	l := openTest(t, t.TempDir())
	first := begunTask(t, l, "m")
	apply(t, l, TokenAdded{Hash: "h", Task: first}, Ended{Task: first, At: noon, State: Unknown, ExitCode: 253})
	var events []Event
	for i := range maxSettled + 10 {
		r := runOf("job", at(i+1), "m")
		events = append(events, Begun{r}, Ended{Task: TaskID{r.ID, "m"}, At: noon, State: Succeeded})
		if len(events) >= 1000 {
			apply(t, l, events...)
			events = nil
		}
	}
	apply(t, l, events...)
	got := apply(t, l, Amended{Task: first, ExitCode: wire.Ptr(7)}, TokenDropped{"h"})
	if got[0].State != Failed || *got[0].ExitCode != 7 {
		t.Errorf("%+v", got[0])
	}
	refused(t, l, ErrUnlawful, Amended{Task: first})
	if _, err := l.TaskByToken("h"); !errors.Is(err, ErrNoToken) {
		t.Error(err)
	}
}

func TestUnfinished(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	r := runOf("job", noon, "live", "lost", "kill", "left", "done")
	for i := range r.Tasks {
		r.Tasks[i].Queued = at(10 - i)
	}
	apply(t, l, Begun{r})
	id := func(m string) TaskID { return TaskID{r.ID, m} }
	for _, m := range []string{"lost", "kill", "left", "done"} {
		apply(t, l, Launched{Task: id(m), At: noon, TokenHash: "token of " + m}, Started{Task: id(m), At: noon})
	}
	apply(t, l, LostAt{Task: id("lost")},
		Ended{Task: id("kill"), At: noon, State: Succeeded}, KillAsked{Task: id("kill"), Kill: Kill{ID: "k"}},
		Ended{Task: id("left"), At: noon, State: Failed, End: wire.End{Leftover: 3}}, Ended{Task: id("done"), At: noon, State: Succeeded})
	for range 2 {
		got, err := l.Unfinished(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, task := range got {
			names = append(names, task.Machine)
		}
		if fmt.Sprint(names) != "[left kill lost live]" { // in the order of queueing
			t.Fatal(names)
		}
		if who, err := l.TaskByToken("token of left"); err != nil || who != id("left") {
			t.Fatal(who, err)
		}
		l.Close()
		l = openTest(t, dir)
	}
	apply(t, l, LeftoverNow{Task: id("left")}, KillSettled{Task: id("kill"), Final: true, At: noon},
		Ended{Task: id("lost"), At: noon, State: Succeeded}, KillAsked{Task: id("live"), Kill: Kill{ID: "k"}})
	if got, err := l.Unfinished(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestAuditAndWatermarks(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	for i := range 5 {
		apply(t, l, Audited{AuditEntry{ID: 99, At: at(i), Who: "alice", From: "uid 0", What: "kill", Target: fmt.Sprint(i), Outcome: "gone"}})
	}
	l.Close()
	l = openTest(t, dir)
	apply(t, l, Audited{AuditEntry{At: at(5), Who: "bob"}}, Watermark{Job: "job", At: at(1)}, Watermark{At: at(2)}, Watermark{Job: "job", At: at(3)})
	got, err := l.Audit(t.Context(), at(3), 2)
	if err != nil || len(got) != 2 || got[0].Who != "bob" || got[0].ID != 6 || got[1] != (AuditEntry{5, at(4), "alice", "uid 0", "kill", "4", "gone"}) {
		t.Errorf("%+v %v", got, err)
	}
	marks, err := l.Watermarks(t.Context())
	if err != nil || len(marks) != 2 || !marks["job"].Equal(at(3)) || !marks[""].Equal(at(2)) {
		t.Errorf("%v %v", marks, err)
	}
}

// Pages of every filter against a model, with runs added in any order of due.
func TestRapidHistory(t *testing.T) {
	l := openTest(t, t.TempDir())
	var all []Run // as the ledger should list them
	states := []State{Queued, Running, Succeeded, Succeeded, Failed, Killed, Skipped, Lost}
	var events []Event
	for i := range 120 {
		r := runOf(fmt.Sprintf("job%d", i%3), at((i*37)%41), "m0", fmt.Sprintf("m%d", 1+i%2))
		r.ID, r.Trigger = fmt.Sprintf("r%d", i), TriggerManual
		events = append(events, Begun{r})
		r.Tasks = slices.Clone(r.Tasks)
		for j := range r.Tasks {
			id := TaskID{r.ID, r.Tasks[j].Machine}
			s := states[(i*7+j*3+i/11)%len(states)]
			r.Tasks[j].State = s
			switch {
			case s == Queued:
			case s == Running:
				events = append(events, Launched{Task: id}, Started{Task: id})
			case s == Lost:
				events = append(events, LostAt{Task: id})
			default:
				events = append(events, Ended{Task: id, At: noon, State: s})
			}
		}
		all = append(all, r)
	}
	apply(t, l, events...)
	slices.SortStableFunc(all, func(a, b Run) int { return a.Due.Compare(b.Due) })
	slices.Reverse(all) // newest first; of equal ones the last recorded
	rapid.Check(t, func(rt *rapid.T) {
		f := RunFilter{
			Job:     rapid.SampledFrom([]string{"", "job0", "job2", "none"}).Draw(rt, "job"),
			Machine: rapid.SampledFrom([]string{"", "", "m0", "m1", "none"}).Draw(rt, "machine"),
			States:  rapid.SliceOfNDistinct(rapid.SampledFrom(states), 0, 3, rapid.ID).Draw(rt, "states"),
			Limit:   rapid.IntRange(5, 60).Draw(rt, "limit"),
		}
		if rapid.Bool().Draw(rt, "bounded") {
			f.Since, f.Until = at(rapid.IntRange(0, 20).Draw(rt, "since")), at(rapid.IntRange(21, 42).Draw(rt, "until"))
		}
		var want []string
		for _, r := range all {
			ok := (f.Job == "" || r.Job == f.Job) && !r.Due.Before(f.Since) && (f.Until.IsZero() || r.Due.Before(f.Until))
			some := slices.ContainsFunc(r.Tasks, func(task Task) bool {
				return (f.Machine == "" || task.Machine == f.Machine) && (len(f.States) == 0 || slices.Contains(f.States, task.State))
			})
			if ok && some {
				want = append(want, r.ID)
			}
		}
		var got []string
		for {
			page, err := l.Runs(t.Context(), f)
			if err != nil {
				rt.Fatal(err)
			}
			for _, r := range page.Runs {
				got = append(got, r.ID)
				if len(r.Tasks) != 2 || r.Tasks[0].Machine != "m0" || r.Tasks[0].Run != r.ID || r.Definition != nil {
					rt.Fatalf("%+v", r)
				}
			}
			if len(page.Runs) > f.Limit || page.Next != "" && len(page.Runs) < f.Limit {
				rt.Fatalf("a page of %d, limit %d, next %q", len(page.Runs), f.Limit, page.Next)
			}
			if f.Cursor = page.Next; f.Cursor == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("%+v:\ngot  %v\nwant %v", f, got, want)
		}
	})
	last, err := l.LastRuns(t.Context())
	if err != nil || len(last) != 3 {
		t.Fatal(last, err)
	}
	for job, r := range last {
		i := slices.IndexFunc(all, func(r Run) bool { return r.Job == job })
		if r.ID != all[i].ID || len(r.Tasks) != 2 {
			t.Errorf("last of %s: %s, want %s", job, r.ID, all[i].ID)
		}
	}
	if _, err := l.Runs(t.Context(), RunFilter{Cursor: "x"}); err == nil {
		t.Error("took a cursor that is none")
	}
}

// Every filter follows an index: none may read a history through or sort it.
func TestHistoryFollowsIndexes(t *testing.T) {
	l := openTest(t, t.TempDir())
	after := &spot{nanos(noon), 5}
	for name, f := range map[string]RunFilter{
		"all": {}, "job": {Job: "j"}, "machine": {Machine: "m"}, "job machine": {Job: "j", Machine: "m"},
		"failed": {States: []State{Failed}}, "job failed": {Job: "j", States: []State{Failed}}, "live": {States: []State{Running}},
		"succeeded": {States: []State{Succeeded}}, "job succeeded": {Job: "j", States: []State{Succeeded}}, "since": {Since: noon},
	} {
		for _, from := range []*spot{nil, after} {
			plans := plansOf(t, l, f, from)
			if len(plans) == 0 {
				t.Fatal("no plan")
			}
			for _, step := range plans {
				scan := strings.Contains(step, "SCAN") && !strings.Contains(step, "USING COVERING INDEX runs_due") && !strings.Contains(step, "USING INDEX runs_due")
				sorts := strings.Contains(step, "B-TREE") && name != "live"
				if scan && name != "live" || sorts {
					t.Errorf("%s: %s", name, step)
				}
			}
		}
	}
}

// plansOf asks the database how it finds a page. This is SQLite's own language.
func plansOf(t *testing.T, l *Ledger, f RunFilter, after *spot) []string {
	t.Helper()
	explained := &Ledger{dir: l.dir}
	db, err := sql.Open(driverName, "file:"+bookPath(l.dir)+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	explained.read = db
	var plans []string
	explained.trace = func(query string, args []any) {
		err := eachRow(func(rows *sql.Rows) error {
			var a, b, c int
			var text string
			err := rows.Scan(&a, &b, &c, &text)
			plans = append(plans, text)
			return err
		})(db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...))
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := explained.find(t.Context(), f, after, 20); err != nil {
		t.Fatal(err)
	}
	return plans
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	var events []Event
	for i := range 2*pruneAtOnce + 50 {
		r := runOf("job", at(i), "m")
		id := TaskID{r.ID, "m"}
		events = append(events, Begun{r}, Launched{Task: id, TokenHash: r.ID}, Audited{AuditEntry{At: at(i)}},
			SkippedDue{Skip{Job: "other", Group: "g", From: at(i), Reason: fmt.Sprint(i)}})
		if i != 7 {
			events = append(events, Ended{Task: id, At: at(i), State: Succeeded})
		}
	}
	apply(t, l, events...)
	name := func(i int) TaskID { return TaskID{runOf("job", at(i)).ID, "m"} }
	for _, i := range []int{3, 7, 9, 2*pruneAtOnce + 20} {
		o := outputOf(t, l, name(i))
		if err := o.AppendText(noon, wire.Stdout, []byte("kept")); err != nil {
			t.Fatal(err)
		}
		if i != 9 { // somebody still writes to that one
			o.Close()
		}
	}
	gone := fmt.Sprint(outputBase(dir, 4), ".out")
	if !exists(gone) {
		t.Fatal("the test looks at the wrong file")
	}
	n, err := l.Prune(t.Context(), at(2*pruneAtOnce))
	if err != nil || n != 2*pruneAtOnce-2 {
		t.Fatal(n, err)
	}
	if exists(gone) {
		t.Error("its output is still there")
	}
	page, err := l.Runs(t.Context(), RunFilter{Limit: 1000})
	if err != nil || len(page.Runs) != 52 || page.Runs[51].ID != name(7).Run || page.Runs[50].ID != name(9).Run {
		t.Error(len(page.Runs), err)
	}
	for i, want := range map[int]error{3: ErrNoToken, 7: nil, 2*pruneAtOnce + 20: nil} {
		if _, err := l.TaskByToken(name(i).Run); !errors.Is(err, want) {
			t.Errorf("token %d: %v", i, err)
		}
	}
	if _, err := l.Task(t.Context(), name(3)); !errors.Is(err, ErrNoTask) {
		t.Error(err)
	}
	refused(t, l, ErrNoTask, NoteAdded{Task: name(3)})
	if stored(t, l, name(2*pruneAtOnce+20)) != "kept" || stored(t, l, name(7)) != "kept" {
		t.Error("the wrong output went")
	}
	skips, err := l.Skips(t.Context(), "", time.Time{}, time.Time{}, 1000)
	if err != nil || len(skips) != 50 {
		t.Error(len(skips), err)
	}
	if audit, err := l.Audit(t.Context(), time.Time{}, 1000); err != nil || len(audit) != 50 {
		t.Error(len(audit), err)
	}
	if r, err := l.Run(t.Context(), name(7).Run); err != nil || len(r.Definition) == 0 {
		t.Errorf("%+v %v", r, err)
	}
	apply(t, l, Ended{Task: name(7), At: noon, State: Succeeded})
	if n, err := l.Prune(t.Context(), at(2*pruneAtOnce)); n != 1 || err != nil {
		t.Error(n, err)
	}
	apply(t, l, Begun{runOf("job", at(5000), "m")}) // whose definition may have gone with the others
	if r, err := l.Run(t.Context(), name(5000).Run); err != nil || len(r.Definition) == 0 {
		t.Errorf("%+v %v", r, err)
	}
}
