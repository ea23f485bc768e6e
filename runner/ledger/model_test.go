package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"saltpeter/wsx/wire"
)

// someEvent draws an event of any kind for a task.
func someEvent(rt *rapid.T, id TaskID) Event {
	when := at(rapid.IntRange(0, 30).Draw(rt, "at"))
	count := rapid.IntRange(0, 2).Draw(rt, "count")
	end := wire.End{Leftover: count, Cause: rapid.SampledFrom([]string{"", wire.CauseExit, wire.CauseKill}).Draw(rt, "cause")}
	return rapid.SampledFrom([]Event{
		Launched{Task: id, At: when, Transport: "ssh", Cookie: fmt.Sprint("cookie", count), TokenHash: fmt.Sprint(id, count)},
		Launched{Task: id, At: when},
		Identified{Task: id, Identity: wire.Identity{PID: count, Weak: []string{"cgroup"}}, Version: "2", Features: []string{"bytes"}},
		Started{Task: id, At: when, PID: count},
		Started{Task: id, At: when},
		PausedAt{Task: id, At: when},
		ResumedAt{Task: id, At: when},
		KillAsked{Task: id, Kill: Kill{ID: fmt.Sprint("k", count), Asked: when, By: "alice", Cause: wire.CauseKill, Signal: "INT", Grace: wire.Ptr(0.25)}},
		KillAsked{Task: id, Kill: Kill{ID: "t", Asked: when, Cause: wire.CauseTimeout}},
		KillSettled{Task: id, At: when, Receipt: []byte(`{"outcome":"alive"}`)},
		KillSettled{Task: id, At: when, Receipt: []byte(`{"outcome":"gone"}`), Final: true},
		KillWithdrawn{Task: id, At: when, By: "bob"},
		Ended{Task: id, At: when, State: Succeeded, End: end},
		Ended{Task: id, At: when, State: Failed, ExitCode: 7, Reason: "exit 7", End: end},
		Ended{Task: id, At: when, State: Unknown, ExitCode: 253},
		Ended{Task: id, At: when, State: Skipped, Reason: ReasonCancelled},
		Amended{Task: id, ExitCode: wire.Ptr(count), End: end},
		LostAt{Task: id, At: when, Reason: "silent"},
		FoundAt{Task: id, At: when},
		LeftoverNow{Task: id, Count: count},
		NoteAdded{Task: id, Note: Note{At: when, Text: "note"}},
		TokenAdded{Task: id, Hash: fmt.Sprint("more", id, count)},
		NonceBound{Task: id, Nonce: "n"},
	}).Draw(rt, "event")
}

// TestRapidEvents holds the book against the pure change, event by event and after
// a restart.
func TestRapidEvents(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		r := runOf("job", at(round), "a", "b", "c")
		model := map[TaskID]Task{}
		for _, task := range apply(t, l, Begun{r}) {
			if task.State != Queued || task.Kill != nil || task.ExitCode != nil {
				rt.Fatalf("begun as %+v", task)
			}
			model[task.TaskID] = task
		}
		for range rapid.IntRange(1, 25).Draw(rt, "calls") {
			after := map[TaskID]Task{}
			var events []Event
			var want error
			var order []TaskID
			for range rapid.IntRange(1, 3).Draw(rt, "events") {
				id := TaskID{r.ID, rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "machine")}
				e := someEvent(rt, id)
				events = append(events, e)
				if want != nil {
					continue
				}
				task, ok := after[id]
				if !ok {
					task = model[id]
					order = append(order, id)
				}
				after[id], want = change(task, e)
			}
			got, err := l.Apply(t.Context(), events...)
			if want != nil {
				if !errors.Is(err, ErrUnlawful) || len(got) != 0 {
					rt.Fatalf("%T: %v, want %v", events, err, want)
				}
				continue
			}
			if err != nil || len(got) != len(order) {
				rt.Fatalf("%T: %d tasks, %v", events, len(got), err)
			}
			for i, id := range order {
				model[id] = after[id]
				if text(rt, got[i]) != text(rt, after[id]) {
					rt.Fatalf("answer\n%s, want\n%s", text(rt, got[i]), text(rt, after[id]))
				}
			}
		}
		if round%10 == 0 {
			if err := l.Close(); err != nil {
				rt.Fatal(err)
			}
			l = openTest(t, dir)
		}
		open, err := l.Unfinished(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		var finish []Event
		for id, want := range model {
			got, err := l.Task(t.Context(), id)
			if err != nil || text(rt, *got) != text(rt, want) {
				rt.Fatalf("stored\n%s, want\n%s (%v)", text(rt, *got), text(rt, want), err)
			}
			listed := slices.ContainsFunc(open, func(task Task) bool { return task.TaskID == id })
			if listed != want.unfinished() {
				rt.Fatalf("listed as unfinished: %v, is %s", listed, text(rt, want))
			}
			if !want.State.Done() || want.State == Lost {
				finish = append(finish, Ended{Task: id, At: noon, State: Succeeded})
			}
		}
		apply(t, l, finish...)
	})
}

// text shows everything of a task, hidden fields too.
func text(rt *rapid.T, task Task) string {
	data, err := json.Marshal(struct {
		Task
		Hidden []any
	}{task, []any{task.Cookie, task.Notes}})
	if err != nil {
		rt.Fatal(err)
	}
	return string(data)
}
