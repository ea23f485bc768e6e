package ledger

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func skip(from int, reason string) SkippedDue {
	return SkippedDue{Skip{Job: "job", Group: "g", From: at(from), To: at(from), Count: 1, Reason: reason}}
}

func firing(due int, trigger string) Begun {
	r := runOf("job", at(due), "m")
	r.Trigger = trigger
	if trigger != TriggerSchedule {
		r.ID += "-" + trigger
	}
	return Begun{r}
}

// ranges renders the skips of a job, oldest first.
func ranges(t testing.TB, l *Ledger) string {
	t.Helper()
	skips, err := l.Skips(t.Context(), "job", time.Time{}, time.Time{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for _, s := range skips {
		parts = append([]string{fmt.Sprintf("%d..%d*%d %s", s.From.Unix()-noon.Unix(), s.To.Unix()-noon.Unix(), s.Count, s.Reason)}, parts...)
	}
	return strings.Join(parts, ", ")
}

func TestSkipsBecomeRanges(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	want := func(text string) {
		t.Helper()
		if got := ranges(t, l); got != text {
			t.Fatalf("got  %s\nwant %s", got, text)
		}
	}
	apply(t, l, skip(1, ReasonOverlap))
	apply(t, l, skip(2, ReasonOverlap), skip(5, ReasonOverlap))
	want("1..5*3 overlap")
	apply(t, l, skip(6, ReasonMaintenance))
	apply(t, l, firing(7, TriggerSchedule))
	apply(t, l, skip(8, ReasonMaintenance))
	apply(t, l, firing(8, TriggerManual)) // no record of a due time
	apply(t, l, skip(9, ReasonMaintenance))
	want("1..5*3 overlap, 6..6*1 maintenance, 8..9*2 maintenance")
	l.Close()
	l = openTest(t, dir) // goes on with the range that is stored
	apply(t, l, skip(10, ReasonMaintenance))
	apply(t, l, SkippedDue{Skip{Job: "job", Group: "g", From: at(11), To: at(2000), Count: 1990, Reason: ReasonServerDown}})
	apply(t, l, SkippedDue{Skip{Job: "job", Group: "g", From: at(2001), To: at(2010), Count: 10, Reason: ReasonServerDown}})
	apply(t, l, SkippedDue{Skip{Job: "job", Group: "g", From: at(2011), Reason: ReasonServerDown, Detail: "differs"}})
	want("1..5*3 overlap, 6..6*1 maintenance, 8..10*3 maintenance, 11..2010*2000 server_down, 2011..2011*1 server_down")
	refused(t, l, ErrUnlawful, SkippedDue{Skip{Job: "", From: at(1)}})
	refused(t, l, ErrUnlawful, SkippedDue{Skip{Job: "job", From: at(9000), To: at(8000)}})

	got, err := l.Skips(t.Context(), "job", at(5), at(9), 0) // touches 5, and not 9
	if err != nil || len(got) != 3 || got[0].From != at(8) {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := l.Skips(t.Context(), "", time.Time{}, time.Time{}, 1); err != nil || len(got) != 1 || got[0].Detail != "differs" {
		t.Errorf("%+v %v", got, err)
	}
}

func TestOneRecordForADueTime(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	apply(t, l, firing(1, TriggerSchedule), skip(2, ReasonOverlap), skip(3, ReasonOverlap))
	taken := func(events ...Event) {
		t.Helper()
		refused(t, l, ErrDueTaken, events...)
		refused(t, l, ErrExists, events...)
	}
	for range 2 { // remembered, and read back
		taken(firing(1, TriggerCatchUp))
		taken(firing(2, TriggerSchedule))
		taken(firing(3, TriggerCatchUp))
		taken(skip(1, ReasonMissed))
		taken(skip(2, ReasonOverlap))
		taken(skip(3, ReasonOverlap))
		taken(SkippedDue{Skip{Job: "job", From: at(-5), To: at(9), Count: 15, Reason: ReasonServerDown}})
		taken(skip(50, ReasonOverlap), skip(50, ReasonOverlap)) // within one call
		l.Close()
		l = openTest(t, dir)
	}
	apply(t, l, firing(2, TriggerManual))
	apply(t, l, firing(3, TriggerRetry))
	apply(t, l, firing(0, TriggerCatchUp)) // before all others
	other := firing(1, TriggerSchedule)
	other.Run.Job, other.Run.ID = "another", "another_1"
	apply(t, l, other)
	// The name is taken: another kind of refusal.
	same := firing(60, TriggerSchedule)
	same.Run.ID = other.Run.ID
	if _, err := l.Apply(t.Context(), same); !errors.Is(err, ErrExists) || errors.Is(err, ErrDueTaken) {
		t.Error(err)
	}
	same.Run.ID = "free"
	apply(t, l, same) // and the refusal has not taken the due time
}

// Records that come a little out of order are each counted once.
func TestLateRecordCutsARange(t *testing.T) {
	l := openTest(t, t.TempDir())
	for _, due := range []int{1, 2, 3, 5, 6, 8} {
		apply(t, l, skip(due, ReasonOverlap))
	}
	apply(t, l, skip(4, ReasonOverlap)) // belongs into it
	if got := ranges(t, l); got != "1..8*7 overlap" {
		t.Fatal(got)
	}
	refused(t, l, ErrDueTaken, skip(4, ReasonOverlap))
	apply(t, l, firing(7, TriggerSchedule))
	if got := ranges(t, l); got != "1..6*6 overlap, 8..8*1 overlap" {
		t.Fatal(got)
	}
	refused(t, l, ErrDueTaken, firing(8, TriggerSchedule))
	refused(t, l, ErrDueTaken, firing(6, TriggerCatchUp))
	refused(t, l, ErrDueTaken, skip(7, ReasonOverlap))
	apply(t, l, skip(10, ReasonOverlap))
	apply(t, l, skip(9, ReasonMissed))
	if got := ranges(t, l); got != "1..6*6 overlap, 8..8*1 overlap, 9..9*1 missed, 10..10*1 overlap" {
		t.Fatal(got)
	}
}

// Whatever is recorded in whatever nearby order, with refusals between: each
// due time ends up with the one record that was accepted, and the counts add up.
func TestRapidOneRecordEach(t *testing.T) {
	l := openTest(t, t.TempDir())
	jobs := 0
	rapid.Check(t, func(rt *rapid.T) {
		const span = 40
		jobs++
		job := fmt.Sprintf("job%d", jobs)
		var has [span]string
		base := 0
		for range rapid.IntRange(5, 35).Draw(rt, "steps") {
			due := min(span-1, base+rapid.IntRange(0, 5).Draw(rt, "ahead"))
			if rapid.Bool().Draw(rt, "on") {
				base = min(base+1, span-1)
			}
			reason := rapid.SampledFrom([]string{"run", "run", ReasonOverlap, ReasonOverlap, ReasonOverlap, ReasonMissed}).Draw(rt, "what")
			missed := skip(due, reason)
			missed.Skip.Job = job
			var e Event = missed
			if reason == "run" {
				e = Begun{runOf(job, at(due), "m")}
			}
			events := []Event{e}
			spoiled := rapid.IntRange(0, 9).Draw(rt, "spoil") == 0
			if spoiled { // all or none: the due time stays free
				events = append(events, Started{Task: TaskID{"no", "m"}})
			}
			_, err := l.Apply(t.Context(), events...)
			switch {
			case spoiled && err == nil:
				rt.Fatal("took a task that does not exist")
			case spoiled:
			case has[due] != "":
				if !errors.Is(err, ErrExists) {
					rt.Fatalf("%d: %v, has %s", due, err, has[due])
				}
			case err == nil:
				has[due] = reason
			default:
				rt.Fatalf("%d is free: %v", due, err)
			}
		}
		runs, err := l.Runs(t.Context(), RunFilter{Job: job, Limit: 1000})
		if err != nil {
			rt.Fatal(err)
		}
		count := map[string]int64{"run": int64(len(runs.Runs))}
		skips, err := l.Skips(t.Context(), job, time.Time{}, time.Time{}, 1000)
		if err != nil {
			rt.Fatal(err)
		}
		for _, s := range skips {
			count[s.Reason] += s.Count
			for due := range span {
				inside := !at(due).Before(s.From) && !at(due).After(s.To)
				if inside && has[due] != "" && has[due] != s.Reason {
					rt.Fatalf("%d is %s but lies in %v", due, has[due], s)
				}
			}
		}
		for _, reason := range has {
			if reason != "" {
				count[reason]--
			}
		}
		for reason, left := range count {
			if left != 0 {
				rt.Fatalf("%s: %+d; has %v, skips %v", reason, left, has, skips)
			}
		}
	})
}
