package runner

import (
	"context"
	"time"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

// Verdicts of a Why.
const (
	WhyRan      = "ran"
	WhyNotRun   = "not_run"   // it was due, and the book says why it has no run
	WhyNotDue   = "not_due"   // the schedule has no such time
	WhyNoRecord = "no_record" // by today's files it would have been due, and the book knows nothing
	WhyWill     = "will_run"
	WhyHeldBack = "held_back" // it is due in the future, and would not fire as things stand
)

// Why is what is known about a job at a time: whether it fired, and what for.
type Why struct {
	Job     string       `json:"job"`
	From    time.Time    `json:"from"`  // what was asked about: from then
	Until   time.Time    `json:"until"` // to then, itself excluded
	Verdict string       `json:"verdict"`
	Text    string       `json:"text"`
	Due     time.Time    `json:"due,omitzero"`
	Before  time.Time    `json:"before,omitzero"` // due before it, by the schedule in force
	After   time.Time    `json:"after,omitzero"`  // due after it
	Runs    []ledger.Run `json:"runs"`
	Skip    *ledger.Skip `json:"skip,omitempty"`
}

// lookBack is how far back a due time is looked for, near before far.
var lookBack = []time.Duration{time.Hour, 25 * time.Hour, 32 * 24 * time.Hour, 367 * 24 * time.Hour, 9 * 366 * 24 * time.Hour}

// Why looks up what became of a job's due times in [from, until). A zero from is
// the last due time up to now.
func (r *Runner) Why(ctx context.Context, name string, from, until time.Time) (Why, error) {
	now := wallNow()
	job := r.Config().Jobs[name]
	if from.IsZero() {
		last, err := r.lastTime(ctx, job, name, now)
		if err != nil {
			return Why{}, err
		}
		from, until = last, last.Add(time.Second)
	}
	w := Why{Job: name, From: from, Until: until, Runs: []ledger.Run{}}
	page, err := r.o.Ledger.Runs(ctx, ledger.RunFilter{Job: name, Since: from, Until: until})
	if err != nil {
		return w, err
	}
	skips, err := r.o.Ledger.Skips(ctx, name, from, until, 0)
	if err != nil {
		return w, err
	}
	marks, err := r.o.Ledger.Watermarks(ctx)
	if err != nil {
		return w, err
	}
	if job == nil && len(page.Runs) == 0 && len(skips) == 0 {
		return w, noSuchJob(r.Config(), name)
	}
	if len(page.Runs) > 0 {
		w.Runs = page.Runs
	}
	w.schedule(job)
	w.decide(job, skips, marks[name], now, r.firing.blockedNow(job))
	return w, nil
}

// blockedNow says what keeps a job from firing now, or "".
func (f *firing) blockedNow(job *config.Job) string {
	if job == nil {
		return ""
	}
	return f.blocked(f.set.Load(), job)
}

// lastTime is the last due time of a job, or else now.
func (r *Runner) lastTime(ctx context.Context, job *config.Job, name string, now time.Time) (time.Time, error) {
	if last := lastDue(job, now); !last.IsZero() {
		return last, nil
	}
	page, err := r.o.Ledger.Runs(ctx, ledger.RunFilter{Job: name, Limit: 1})
	if err != nil || len(page.Runs) == 0 {
		return now.Truncate(time.Second), err
	}
	return page.Runs[0].Due, nil
}

// stepping reports whether a job is due at equal steps from one time to the next,
// so that its schedule alone names no time.
func stepping(job *config.Job) bool { return job != nil && job.Schedule != nil && duesOf(job).every }

// lastDue is the last due time up to now, by the schedule in force.
func lastDue(job *config.Job, now time.Time) time.Time {
	if job == nil || job.Schedule == nil || stepping(job) {
		return time.Time{}
	}
	for _, back := range lookBack {
		if first := job.Schedule.Next(now.Add(-back)); !first.IsZero() && !first.After(now) {
			return duesOf(job).lastUntil(first, now)
		}
	}
	return time.Time{}
}

// schedule fills in what the schedule in force says about the time.
func (w *Why) schedule(job *config.Job) {
	if job == nil || job.Schedule == nil || stepping(job) {
		return
	}
	w.Before = lastDue(job, w.From.Add(-time.Second))
	w.After = job.Schedule.Next(w.Until.Add(-time.Second))
	if due := job.Schedule.Next(w.From.Add(-time.Second)); !due.IsZero() && due.Before(w.Until) {
		w.Due = due
	}
}

// decide finds the verdict: first what the book says, then what the schedule does.
func (w *Why) decide(job *config.Job, skips []ledger.Skip, known, now time.Time, blocked string) {
	for i, s := range skips {
		// A range may span the time without having it as one of its own.
		within := !s.From.Before(w.From) && s.From.Before(w.Until) || !s.To.Before(w.From) && s.To.Before(w.Until)
		if within || !w.Due.IsZero() && !w.Due.Before(s.From) && !w.Due.After(s.To) {
			w.Skip = &skips[i]
			break
		}
	}
	switch {
	case len(w.Runs) > 0:
		w.Verdict, w.Text = WhyRan, "it ran"
		if run := w.Runs[0]; len(run.Tasks) == 0 && run.Reason != "" {
			w.Verdict, w.Text = WhyNotRun, reasonWords(run.Reason, run.Detail)
		}
	case w.Skip != nil:
		w.Verdict, w.Text = WhyNotRun, reasonWords(w.Skip.Reason, w.Skip.Detail)
	case w.Due.IsZero() && stepping(job):
		w.Verdict, w.Text = WhyNotDue, "nothing was due then: @every counts from one time to the next"
	case w.Due.IsZero():
		w.Verdict, w.Text = WhyNotDue, "the schedule has no such time"
	case w.Due.After(now):
		w.Verdict, w.Text = WhyWill, "it is due then"
		if blocked != "" && blocked != ledger.ReasonOverlap { // what runs now may be over by then
			w.Verdict, w.Text = WhyHeldBack, "it is due then, but as things stand "+reasonWords(blocked, "")
		}
	default:
		w.Verdict, w.Text = WhyNoRecord, noRecord(job, w.Due, known)
	}
}

// noRecord says why the book may know nothing of a time that has passed.
func noRecord(job *config.Job, due, known time.Time) string {
	switch {
	case job != nil && !job.Enabled:
		return "the job is disabled (enabled: false), and nothing is recorded of a disabled job"
	case known.IsZero() || due.Before(known):
		return "no record: by the files as they are now it was due, but not by those in force then, or its record is older than is kept"
	}
	return "no record yet: it is being decided right now"
}

// reasonWords says a reason of the book in a sentence.
func reasonWords(reason, detail string) string {
	text := map[string]string{
		ledger.ReasonOverlap:     "a run before it was not over (on_overlap: allow starts it all the same)",
		ledger.ReasonMaintenance: "maintenance held it back",
		ledger.ReasonNoMachines:  "its targets named no machine that it could run on",
		ledger.ReasonMissed:      "several due times passed while the server was held up; the last of them ran",
		ledger.ReasonServerDown:  "no server was there (catch_up: one, or all, makes up for such times)",
		ledger.ReasonDisabled:    "it is disabled",
		ledger.ReasonError:       "it could not be recorded or launched",
		ledger.ReasonCancelled:   "a kill ended what would have come",
	}[reason]
	if text == "" {
		text = reason
	}
	if detail != "" {
		text += ": " + detail
	}
	return text
}
