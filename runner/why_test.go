package runner

import (
	"strings"
	"testing"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

func TestWhyDecides(t *testing.T) {
	at := time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)
	daily, err := config.ParseCrontab("0 3 * * *", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	hourly, err := config.ParseCrontab("@every 1h", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	job := &config.Job{Name: "j", Schedule: daily, Location: time.UTC, Enabled: true}
	off := &config.Job{Name: "j", Schedule: daily, Location: time.UTC}
	steps := &config.Job{Name: "j", Schedule: hourly, Location: time.UTC, Enabled: true, Fields: config.FieldTexts{Crontab: "@every 1h"}}
	run := ledger.Run{ID: "j_1", Due: at, Tasks: []ledger.Task{{State: ledger.Succeeded}}}
	skip := func(from, to time.Time, reason string) []ledger.Skip {
		return []ledger.Skip{{Job: "j", From: from, To: to, Count: 2, Reason: reason, Detail: "x"}}
	}
	for _, c := range []struct {
		name          string
		job           *config.Job
		from          time.Time
		runs          []ledger.Run
		skips         []ledger.Skip
		known, now    time.Time
		blocked       string
		verdict, text string
	}{
		{name: "a run", job: job, from: at, runs: []ledger.Run{run}, now: at.Add(time.Hour), verdict: WhyRan},
		{name: "a run that nobody knows the job of any more", from: at, runs: []ledger.Run{run}, now: at.Add(time.Hour), verdict: WhyRan},
		{name: "no machines", job: job, from: at, runs: []ledger.Run{{Reason: ledger.ReasonNoMachines}}, now: at.Add(time.Hour), verdict: WhyNotRun, text: "named no machine"},
		{name: "in a range", job: job, from: at, skips: skip(at.Add(-24*time.Hour), at.Add(24*time.Hour), ledger.ReasonServerDown), now: at.Add(48 * time.Hour), verdict: WhyNotRun, text: "no server was there"},
		{name: "at a range's end", job: job, from: at, skips: skip(at.Add(-24*time.Hour), at, ledger.ReasonOverlap), now: at.Add(time.Hour), verdict: WhyNotRun, text: "not over"},
		{name: "between the times of a range", job: job, from: at.Add(time.Hour), skips: skip(at, at.Add(24*time.Hour), ledger.ReasonOverlap), now: at.Add(48 * time.Hour), verdict: WhyNotDue},
		{name: "not due", job: job, from: at.Add(time.Minute), now: at.Add(time.Hour), verdict: WhyNotDue, text: "no such time"},
		{name: "steps", job: steps, from: at, now: at.Add(time.Hour), verdict: WhyNotDue, text: "@every"},
		{name: "before it was known", job: job, from: at, known: at.Add(time.Hour), now: at.Add(2 * time.Hour), verdict: WhyNoRecord, text: "by the files as they are now"},
		{name: "right now", job: job, from: at, known: at.Add(-24 * time.Hour), now: at.Add(time.Millisecond), verdict: WhyNoRecord, text: "being decided"},
		{name: "disabled", job: off, from: at, known: at.Add(-time.Hour), now: at.Add(time.Hour), verdict: WhyNoRecord, text: "disabled"},
		{name: "to come", job: job, from: at, now: at.Add(-time.Hour), verdict: WhyWill},
		{name: "to come while it runs", job: job, from: at, now: at.Add(-time.Hour), blocked: ledger.ReasonOverlap, verdict: WhyWill},
		{name: "to come, disabled", job: off, from: at, now: at.Add(-time.Hour), blocked: ledger.ReasonDisabled, verdict: WhyHeldBack, text: "disabled"},
	} {
		w := Why{From: c.from, Until: c.from.Add(time.Second), Runs: c.runs}
		w.schedule(c.job)
		w.decide(c.job, c.skips, c.known, c.now, c.blocked)
		if w.Verdict != c.verdict || !strings.Contains(w.Text, c.text) {
			t.Errorf("%s: %s, %q", c.name, w.Verdict, w.Text)
		}
	}
}

func TestWhyFindsTheLastDueTime(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 30, 0, 0, time.UTC)
	for crontab, want := range map[string]time.Time{
		"* * * * *":    now,
		"0 3 * * *":    time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC),
		"0 0 1 1 *":    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		"0 0 29 2 *":   time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
		"0 0 30 2 *":   {},
		"@every 10m":   {},
		"31 12 2 3 *":  time.Date(2025, 3, 2, 12, 31, 0, 0, time.UTC),
		"0 12 * * sun": time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	} {
		s, err := config.ParseCrontab(crontab, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		job := &config.Job{Schedule: s, Location: time.UTC, Fields: config.FieldTexts{Crontab: crontab}}
		if got := lastDue(job, now); !got.Equal(want) {
			t.Errorf("%s was last due %s, should be %s", crontab, got, want)
		}
	}
}
