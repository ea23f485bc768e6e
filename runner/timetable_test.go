package runner

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"saltpeter/config"
)

// scheduled makes a job of fields, or with crontab set of that.
func scheduled(t testing.TB, name string, f config.FieldTexts, zone string) *config.Job {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	var s config.Schedule
	if f.Crontab != "" {
		s, err = config.ParseCrontab(f.Crontab, loc)
	} else {
		s, err = config.ParseFields(f, loc)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &config.Job{Name: name, Group: "test", Schedule: s, Fields: f, Location: loc, Enabled: true,
		Command: "true", Targets: "*", TargetType: "glob", OnOverlap: "skip", OnLost: "wait", CatchUp: "none",
		UseWrapper: true, KillGrace: time.Second, Drain: time.Second, LostAfter: 5 * time.Minute}
}

var everySecond = config.FieldTexts{Sec: "*", Min: "*", Hour: "*", Dom: "*", Mon: "*", Dow: "*", Year: "*"}

func everyMinute() config.FieldTexts {
	f := everySecond
	f.Sec = "0"
	return f
}

func setOf(jobs ...*config.Job) *config.Set {
	s := &config.Set{Jobs: map[string]*config.Job{}, Machines: []config.Machine{{Name: "m1", Local: true, Enabled: true}}}
	s.Settings.DefaultLocation = time.UTC
	for _, j := range jobs {
		s.Jobs[j.Name] = j
		s.Order = append(s.Order, j.Name)
	}
	return s
}

// walk is the slow truth about a span.
func walk(s config.Schedule, after, until time.Time) (all []time.Time) {
	for t := s.Next(after); !t.IsZero() && !t.After(until); t = s.Next(t) {
		all = append(all, t)
	}
	return all
}

func checkSpan(t interface{ Fatalf(string, ...any) }, job *config.Job, after, until time.Time, n int) {
	want := walk(job.Schedule, after, until)
	d := duesOf(job)
	got := d.in(after, until)
	what := fmt.Sprintf("%+v in %s (%s, %s]", job.Fields, job.Location, after, until)
	if got.count != int64(len(want)) {
		t.Fatalf("%s: %d due times, counted %d", what, len(want), got.count)
	}
	if len(want) == 0 {
		return
	}
	if !got.first.Equal(want[0]) || !got.last.Equal(want[len(want)-1]) {
		t.Fatalf("%s: from %s to %s, got %s to %s", what, want[0], want[len(want)-1], got.first, got.last)
	}
	if len(want) > 1 && !got.beforeLast.Equal(want[len(want)-2]) || len(want) == 1 && !got.beforeLast.IsZero() {
		t.Fatalf("%s: before the last: %s", what, got.beforeLast)
	}
	latest, tail := d.latest(after, until, n), want[max(0, len(want)-n):]
	if len(latest) != len(tail) {
		t.Fatalf("%s: the last %d are %d, got %d", what, n, len(tail), len(latest))
	}
	for i := range latest {
		if !latest[i].Equal(tail[i]) {
			t.Fatalf("%s: of the last %d, number %d is %s, got %s", what, n, i, tail[i], latest[i])
		}
	}
}

// Counting by blocks agrees with walking from one due time to the next, above all
// where clocks change.
func TestDuesAgreeWithWalking(t *testing.T) {
	pick := func(t *rapid.T, label string, texts ...string) string { return rapid.SampledFrom(texts).Draw(t, label) }
	// The edges: an ordinary day, clocks forward and back in both hemispheres, half
	// an hour of summer time, a day that was left out, the last day of a leap year.
	around := []time.Time{
		time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC),
		time.Date(2026, 4, 4, 15, 0, 0, 0, time.UTC), time.Date(2026, 10, 3, 15, 30, 0, 0, time.UTC), time.Date(2011, 12, 30, 10, 0, 0, 0, time.UTC),
		time.Date(2028, 12, 31, 12, 0, 0, 0, time.UTC), time.Date(2026, 2, 28, 23, 59, 59, 0, time.UTC),
	}
	rapid.Check(t, func(rt *rapid.T) {
		f := config.FieldTexts{
			Sec: pick(rt, "sec", "*", "0", "*/7", "5,59"), Min: pick(rt, "min", "*", "0", "*/15", "30", "59"), Hour: pick(rt, "hour", "*", "2", "0,23", "1-3", "*/5"),
			Dom: pick(rt, "dom", "*", "*", "L", "1,30"), Mon: "*", Dow: pick(rt, "dow", "*", "*", "sun", "1-5"), Year: "*",
		}
		switch pick(rt, "kind", "fields", "fields", "crontab", "every") {
		case "crontab":
			f = config.FieldTexts{Crontab: pick(rt, "crontab", "* * * * * *", "*/3 30 1-3 * * *", "15 2 13 * fri", "@hourly")}
		case "every":
			f = config.FieldTexts{Crontab: pick(rt, "every", "@every 1s", "@every 7s", "@every 10m", "@every 30h")}
		}
		job := scheduled(t, "j", f, pick(rt, "zone", "UTC", "Europe/Bucharest", "Australia/Lord_Howe", "America/New_York", "Pacific/Apia"))
		edge := rapid.SampledFrom(around).Draw(rt, "edge")
		after := edge.Add(-time.Duration(rapid.Int64Range(0, int64(30*time.Hour)).Draw(rt, "before")))
		until := edge.Add(time.Duration(rapid.Int64Range(-int64(10*time.Hour), int64(30*time.Hour)).Draw(rt, "behind")))
		checkSpan(rt, job, after, until, rapid.IntRange(1, 50).Draw(rt, "n"))
	})
}

// A month of every second is counted without walking it.
func TestDuesOfAMonth(t *testing.T) {
	job := scheduled(t, "j", everySecond, "Europe/Bucharest")
	until := time.Date(2026, 4, 15, 12, 34, 56, 789, time.UTC) // with a change of the clocks in between
	after := until.Add(-31 * 24 * time.Hour)
	asked := 0
	d := duesOf(job)
	next := d.next
	d.next = func(t time.Time) time.Time { asked++; return next(t) }
	span := d.in(after, until)
	if span.count != 31*86400 || !span.last.Equal(until.Truncate(time.Second)) || !span.first.Equal(after.Truncate(time.Second).Add(time.Second)) {
		t.Errorf("%+v", span)
	}
	if asked > 8000 { // an hour around the change is walked
		t.Errorf("asked the schedule %d times", asked)
	}
}

// take tells of each due time once, in whatever steps the clock is looked at.
func TestTakeCoversEveryDueTime(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := rapid.SampledFrom([]config.FieldTexts{everySecond, everyMinute(), {Crontab: "@every 3s"}, {Crontab: "*/5 * * * *"}}).Draw(rt, "schedule")
		job := scheduled(t, "j", f, "UTC")
		start := time.Date(2026, 11, 22, 10, 0, 0, 250_000_000, time.UTC)
		table := newTimetable()
		table.load(setOf(job), start)
		now := start
		var got []time.Time
		count := int64(0)
		for range rapid.IntRange(1, 30).Draw(rt, "looks") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(40*time.Second)).Draw(rt, "step")))
			if rapid.IntRange(0, 4).Draw(rt, "reload") == 0 {
				again := *job // read again, unchanged
				table.load(setOf(&again), now)
			}
			for _, d := range table.take(now) {
				if d.last.After(now) || d.first.After(d.last) || (d.missed == 0) != d.before.IsZero() {
					rt.Fatalf("at %s: %+v", now, d)
				}
				if d.missed > 0 {
					missed := walk(job.Schedule, d.first.Add(-time.Second), d.before)
					if f.Crontab == "@every 3s" { // it counts from the due time before
						missed = walk(job.Schedule, d.first, d.before)
						missed = append([]time.Time{d.first}, missed...)
					}
					if int64(len(missed)) != d.missed {
						rt.Fatalf("missed %d, says %d", len(missed), d.missed)
					}
					got = append(got, missed...)
				}
				got = append(got, d.last)
				count += d.missed + 1
			}
			if next := table.earliest(); !next.After(now) {
				rt.Fatalf("next is %s at %s", next, now)
			}
		}
		want := walk(job.Schedule, start, now)
		if len(got) != len(want) || count != int64(len(want)) {
			rt.Fatalf("%d due times, %d taken", len(want), len(got))
		}
		for i := range want {
			if !got[i].Equal(want[i]) {
				rt.Fatalf("due time %d is %s, taken %s", i, want[i], got[i])
			}
		}
	})
}

func TestReloadTouchesOnlyWhatChanged(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 11, 22, 10, 0, s, 0, time.UTC) }
	same, other, gone := scheduled(t, "same", everySecond, "UTC"), scheduled(t, "other", everySecond, "UTC"), scheduled(t, "gone", everySecond, "UTC")
	table := newTimetable()
	if fresh := table.load(setOf(same, other, gone), at(0)); len(fresh) != 3 {
		t.Fatalf("fresh %v", fresh)
	}
	// All are due at 1. The reload at 2 comes before anybody has looked.
	edited := *same
	edited.Command = "false"
	changed := scheduled(t, "other", everyMinute(), "UTC")
	added := scheduled(t, "added", everySecond, "UTC")
	if fresh := table.load(setOf(&edited, changed, added), at(2)); len(fresh) != 2 || fresh[0].Name != "other" || fresh[1].Name != "added" {
		t.Fatalf("fresh %v", fresh)
	}
	got := map[string]dueJob{}
	for _, d := range table.take(at(2)) {
		got[d.job.Name] = d
	}
	for _, name := range []string{"same", "other", "gone"} {
		if d := got[name]; !d.first.Equal(at(1)) || !d.last.Equal(at(2)) || d.missed != 1 || !d.before.Equal(at(1)) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if got["same"].job.Command != "false" {
		t.Error("the job that fires is not the one in force")
	}
	if len(got) != 3 {
		t.Errorf("due: %v", got)
	}
	nexts := table.nexts()
	if len(nexts) != 3 || !nexts["same"].Equal(at(3)) || !nexts["added"].Equal(at(3)) || !nexts["other"].Equal(at(60)) {
		t.Errorf("nexts: %v", nexts)
	}
	disabled := *changed
	disabled.Enabled = false
	never := *added
	never.Schedule, never.Fields = nil, config.FieldTexts{}
	table.load(setOf(&disabled, &never), at(2))
	if len(table.nexts()) != 0 || !table.earliest().IsZero() || len(table.take(at(3600))) != 0 {
		t.Errorf("nexts: %v", table.nexts())
	}
}

// The clock went back by a lot: everything is due anew from there.
func TestRestartOfTheTimetable(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	table := newTimetable()
	table.load(setOf(scheduled(t, "a", everySecond, "UTC"), scheduled(t, "b", everyMinute(), "UTC")), now)
	back := now.Add(-24 * time.Hour)
	table.restart(back)
	nexts := table.nexts()
	if !nexts["a"].Equal(back.Add(time.Second)) || !nexts["b"].Equal(back.Add(time.Minute)) || !table.earliest().Equal(nexts["a"]) {
		t.Errorf("nexts: %v", nexts)
	}
}
