package api

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// The ways in which the old page loses output, each for every kind that it may be
// of. What it shows in the end is what the job wrote.

const uiJobs = `
talker: # says another thing each time
  command: 'echo "run $SP_JOB_INSTANCE says é😀"; printf "\377"'
  schedule: '@yearly'
  targets: '*'
steps: # goes on when there are files
  command: 'n=0; echo begin $SP_JOB_INSTANCE; for i in 1 2 3; do while [ ! -e "$GO.$i" ]; do sleep 0.05; done; echo "step $i 😀"; done'
  schedule: '@yearly'
  targets: '*'
  env: {GO: GOFILE}
long: # more than one chunk
  command: 'seq 1 40000; echo $SP_JOB_INSTANCE; while [ ! -e "$GO.long" ]; do sleep 0.05; done; echo end'
  schedule: '@yearly'
  targets: '*'
  env: {GO: GOFILE}
`

// eachKind runs a test for every kind of page, one after the other on one server.
func eachKind(t *testing.T, f func(t *testing.T, r *rig, kind pageKind)) {
	r := newRig(t)
	r.configure(jobFiles + uiJobs)
	for _, kind := range pageKinds {
		t.Run(kind.name, func(t *testing.T) {
			defer func(outer *testing.T) { r.t = outer }(r.t)
			r.t = t
			r.ungo()
			f(t, r, kind)
		})
	}
}

// goOn lets a job go on, ungo takes that back.
func (r *rig) goOn(step string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, "go."+step), nil, 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) ungo() {
	files, _ := filepath.Glob(filepath.Join(r.dir, "go.*"))
	for _, f := range files {
		os.Remove(f)
	}
}

// next starts a job whose last run may just be over.
func (r *rig) next(job string, state ledger.State) ledger.TaskID {
	r.t.Helper()
	r.await("the last run of "+job+" to be over", func() bool {
		return !slices.ContainsFunc(r.runner.Tasks(), func(t runner.TaskStatus) bool { return t.Job == job })
	})
	return r.run(job, state)
}

// text is what a page must show of a task.
func (r *rig) text(id ledger.TaskID) string { return rendered([]byte(r.output(id))) }

// 1: a run that is shorter than the time between two statuses is seen to begin and
// to end. 2: its output never comes before the status that empties the text.
func TestOldPageShortRuns(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind pageKind) {
		v := r.view(kind)
		v.open("talker")
		v.until("details", func(p *oldPage) bool { return p.details != nil })
		for range 4 {
			id := r.next("talker", ledger.Succeeded)
			v.shows(spot{"talker", id.Machine}, id.Run, r.text(id))
			v.until("the run among the running and then not any more", func(p *oldPage) bool {
				return p.seen[id.Run][id.Machine] && !p.runNow[id.Run] && p.done[spot{"talker", id.Machine}]
			})
		}
	})
}

// 3: a job runs again while nobody looks at it.
func TestOldPageLeavesAndComesBack(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind pageKind) {
		v := r.view(kind)
		v.open("talker")
		first := r.next("talker", ledger.Succeeded)
		at := spot{"talker", first.Machine}
		v.shows(at, first.Run, r.text(first))
		v.leave("talker")
		second := r.next("talker", ledger.Succeeded)
		v.open("talker")
		v.shows(at, second.Run, r.text(second))

		// The same with a run that still goes on, and one that comes after it.
		v.leave("talker")
		v.open("steps")
		v.until("details", func(p *oldPage) bool { return p.details != nil })
		v.leave("steps")
		one := r.next("steps", ledger.Running)
		at.job = "steps"
		v.open("steps")
		v.until("the beginning", func(p *oldPage) bool { return strings.HasPrefix(p.texts[at], "begin "+one.Run) })
		v.leave("steps")
		r.killed(KillRequest{Selection: Selection{Job: "steps"}})
		two := r.next("steps", ledger.Running)
		v.open("steps")
		r.goOn("1")
		v.shows(at, two.Run, "begin "+two.Run+"\nstep 1 😀\n")
		r.goOn("2")
		r.goOn("3")
		r.await("its end", func() bool { return r.task(two).State == ledger.Succeeded })
		v.shows(at, two.Run, r.text(two))
	})
}

// 4: on a second visit each status empties the texts.
func TestOldPageSecondVisit(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind pageKind) {
		v := r.view(kind)
		id := r.next("long", ledger.Running)
		at := spot{"long", id.Machine}
		ends := id.Run + "\n"
		for range 2 { // two visits
			v.open("long")
			v.until("all there is", func(p *oldPage) bool { return strings.HasSuffix(p.texts[at], ends) })
			v.leave("long")
		}
		v.open("long")
		// Through some statuses the text is always there again, and goes on.
		for range 2 {
			n := v.count("status")
			v.until("the text, after another status", func(p *oldPage) bool {
				statuses := 0
				for _, kind := range v.types {
					if kind == "status" {
						statuses++
					}
				}
				return statuses > n && strings.HasSuffix(p.texts[at], ends)
			})
		}
		r.goOn("long")
		r.await("its end", func() bool { return r.task(id).State == ledger.Succeeded })
		v.shows(at, id.Run, r.text(id))
		v.until("that this is all", func(p *oldPage) bool { return p.done[at] })
	})
}

// Several pages and runs on top of each other.
func TestOldPageQuickRuns(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind pageKind) {
		v, again := r.view(kind), r.view(kind)
		again.open("talker")
		again.leave("talker")
		v.open("talker")
		again.open("talker")
		var last ledger.TaskID
		for range 5 {
			last = r.next("talker", ledger.Succeeded) // pages may lag behind
		}
		for _, page := range []*viewer{v, again} {
			page.shows(spot{"talker", last.Machine}, last.Run, r.text(last))
		}
	})
}
