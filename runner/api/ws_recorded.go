package api

import (
	"context"
	"slices"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// Jobs that are not in the job files, but of which runs are recorded: another server
// began them, or their job was taken out since. Status names them while they run, so
// a page can be asked to show one; its newest run stays in sight from then on.

// bring has a job shown that is not in the job files; an error if nothing is recorded
// of it.
func (b *board) bring(ctx context.Context, job string) error {
	b.mu.Lock()
	there := slices.Contains(b.beyond, job)
	b.mu.Unlock()
	if there {
		return nil
	}
	run, err := b.newest(ctx, job)
	if err != nil {
		return err
	}
	if run == nil {
		return noSuchJob(job)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.beyond, job) {
		b.beyond = append(b.beyond, job)
	}
	b.show(run)
	b.poke()
	return nil
}

// newest is the newest recorded run of a job, nil if there is none.
func (b *board) newest(ctx context.Context, job string) (*ledger.Run, error) {
	page, err := b.book.Runs(ctx, ledger.RunFilter{Job: job, Limit: 1})
	if err != nil || len(page.Runs) == 0 {
		return nil, err
	}
	return &page.Runs[0], nil
}

// newestBeyond is what load needs of the jobs that were brought.
func (b *board) newestBeyond(ctx context.Context) (map[string]*ledger.Run, error) {
	b.mu.Lock()
	jobs := slices.Clone(b.beyond)
	b.mu.Unlock()
	runs := map[string]*ledger.Run{}
	for _, job := range jobs {
		run, err := b.newest(ctx, job)
		if err != nil {
			return nil, err
		}
		runs[job] = run // nil if it was pruned
	}
	return runs, nil
}

// bringBack makes them known again after the board was emptied. What was brought since
// they were looked up is as it was then. The lock is held.
func (b *board) bringBack(runs map[string]*ledger.Run, heads map[string]*ledger.Run, tasks map[string]map[ledger.TaskID]*runner.TaskStatus) {
	for _, job := range b.beyond {
		run, looked := runs[job]
		if was := heads[job]; !looked && was != nil {
			head := *was
			for _, t := range tasks[job] {
				if t.Run == head.ID {
					head.Tasks = append(head.Tasks, t.Task)
				}
			}
			run = &head
		}
		if run != nil {
			b.show(run)
		}
	}
}

// show makes a run known whose job is not in the files. What is known of its tasks is
// at least as new. The lock is held.
func (b *board) show(r *ledger.Run) {
	if head := b.heads[r.Job]; head == nil || !r.Due.Before(head.Due) {
		head := *r
		head.Tasks = nil
		b.heads[r.Job] = &head
	}
	for _, t := range r.Tasks {
		if b.tasks[r.Job][t.TaskID] == nil {
			b.put(&runner.TaskStatus{Task: t})
		}
	}
	delete(b.views, r.Job)
	b.rev++
	b.change[r.Job]++
}
