package api

import (
	"context"
	"slices"
	"time"

	"saltpeter/config"
	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// detailsKeep is how long the details of a job are sent to one page after the
// other without being made anew.
const detailsKeep = time.Second

// resultView is one machine in a details frame. RetCode is a number, or "" while
// the task runs.
type resultView struct {
	Ret       string `json:"ret"`
	RetCode   any    `json:"retcode"`
	Start     string `json:"starttime"`
	End       string `json:"endtime"`
	Heartbeat string `json:"last_heartbeat,omitempty"`
	Version   string `json:"wrapper_version,omitempty"`
	Length    int64  `json:"output_length"`
	Run       string `json:"run_id"`
	State     string `json:"state"`
}

// detailsView is the data of a details frame.
type detailsView struct {
	NextRun string                `json:"next_run,omitempty"`
	LastRun string                `json:"last_run,omitempty"`
	Targets []string              `json:"targets"`
	Results map[string]resultView `json:"results"`
	Overlap bool                  `json:"overlap"`
	Group   string                `json:"group"`
}

// details makes the frame for one job.
func (b *board) details(snap *snapshot, job string) []byte {
	view := snap.jobs[job]
	if view == nil {
		view = &jobView{}
	}
	view.frameMu.Lock()
	defer view.frameMu.Unlock()
	if view.frame != nil && time.Since(view.frameAt) < detailsKeep {
		return view.frame
	}
	d := detailsOf(snap.set, job, view)
	for i := range view.texts {
		t := &view.texts[i]
		r := resultOf(t.status)
		if w, err := t.text.now(t.status); err == nil {
			r.Length = w.units
		}
		d.Results[t.status.Machine] = r
	}
	d.Overlap = b.overlaps(job, view)
	view.frame, view.frameAt = frameOf(map[string]any{"type": "details", "cron": job, "data": d}), time.Now()
	return view.frame
}

// detailsOf is what a job's details say beside its results.
func detailsOf(set *config.Set, job string, view *jobView) detailsView {
	d := detailsView{Targets: list(view.targets), Results: map[string]resultView{}}
	if view.last != nil {
		d.LastRun = view.last.LastRun
	}
	j := set.Jobs[job]
	if j == nil {
		return d
	}
	d.Group = j.Group
	if j.Enabled && j.Schedule != nil {
		if next := j.Schedule.Next(time.Now()); !next.IsZero() {
			d.NextRun = stampOf(next)
		}
	}
	if view.head != nil || len(view.targets) > 0 {
		return d
	}
	// It has never run: what it would run on.
	if match, _, err := set.Matching(j); err == nil {
		for _, m := range match {
			d.Targets = append(d.Targets, m.Name)
		}
		slices.Sort(d.Targets)
	}
	return d
}

// resultOf is one task as details tell it, but for the length of its output.
func resultOf(t *runner.TaskStatus) resultView {
	r := resultView{RetCode: "", Version: t.Version, Run: t.Run, State: string(t.State)}
	for _, at := range []time.Time{t.Started, t.Launched, t.Queued} {
		if !at.IsZero() {
			r.Start = stampOf(at)
			break
		}
	}
	if !t.LastContact.IsZero() {
		r.Heartbeat = stampOf(t.LastContact)
	}
	if !t.State.Done() {
		return r
	}
	r.RetCode = 255
	if t.ExitCode != nil {
		r.RetCode = *t.ExitCode
	}
	switch {
	case !t.Ended.IsZero():
		r.End = stampOf(t.Ended)
	case !t.LastContact.IsZero(): // lost: nothing was heard since
		r.End = r.Heartbeat
	default:
		r.End = r.Start
	}
	return r
}

// overlaps reports whether a due time was held back since the newest run began, or
// two runs go on at once.
func (b *board) overlaps(job string, view *jobView) bool {
	if len(view.running) > 1 {
		return true
	}
	if view.head == nil || len(view.running) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	skips, err := b.book.Skips(ctx, job, view.head.Due, time.Time{}, 1)
	return err == nil && len(skips) > 0 && skips[0].Reason == ledger.ReasonOverlap
}
