package api

import (
	"context"
	"iter"
	"maps"
	"slices"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// wentWell is what is to be said of a run by its tasks: whether it has ended, and
// whether nothing of it failed so far.
func wentWell(reason string, tasks iter.Seq[*ledger.Task]) (ended, ok bool) {
	ended, ok = true, reason != ledger.ReasonError
	for t := range tasks {
		switch {
		case !t.State.Done():
			ended = false
		case t.State != ledger.Succeeded && t.State != ledger.Skipped:
			ok = false
		}
	}
	return ended, ok
}

// verdictOf is the verdict over a job: that of its newest run, or, as long as that
// goes on and nothing of it has failed, of the last one that has ended.
func verdictOf(head *ledger.Run, tasks map[ledger.TaskID]*runner.TaskStatus, failedBefore bool) bool {
	ended, ok := wentWell(head.Reason, tasksOf(head.ID, tasks))
	return ok && (ended || !failedBefore)
}

// tasksOf is the tasks of one run among those of a job.
func tasksOf(run string, tasks map[ledger.TaskID]*runner.TaskStatus) iter.Seq[*ledger.Task] {
	return func(yield func(*ledger.Task) bool) {
		for id, t := range tasks {
			if id.Run == run && !yield(&t.Task) {
				return
			}
		}
	}
}

// pointers is a list's elements where they are.
func pointers[T any](list []T) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for i := range list {
			if !yield(&list[i]) {
				return
			}
		}
	}
}

// settle looks up what came of the last run that ended, where more runs than one
// went on at once, or the newest was there before the board looked.
func (b *board) settle(ctx context.Context) {
	b.mu.Lock()
	jobs := slices.Collect(maps.Keys(b.unsure))
	b.mu.Unlock()
	for _, job := range jobs {
		page, err := b.book.Runs(ctx, ledger.RunFilter{Job: job, Limit: 50})
		if err != nil {
			if ctx.Err() == nil {
				b.log.Error("cannot look at a job's last runs for the pages", "job", job, "err", err)
			}
			return // with the next change
		}
		b.mu.Lock()
		delete(b.unsure, job)
		if failed := lastFailed(page.Runs, b.heads[job]); failed != b.failed[job] {
			b.failed[job] = failed
			delete(b.views, job)
			b.rev++
			b.change[job]++
			b.poke()
		}
		b.mu.Unlock()
	}
}

// lastFailed reports whether the newest run that has ended, beside the head, failed.
func lastFailed(runs []ledger.Run, head *ledger.Run) bool {
	for _, r := range runs {
		if head != nil && r.ID == head.ID {
			continue
		}
		if ended, ok := wentWell(r.Reason, pointers(r.Tasks)); ended {
			return !ok
		}
	}
	return false
}
