package runner

import (
	"container/heap"
	"fmt"
	"sync"
	"time"

	"saltpeter/config"
)

// timetable knows which job is due next. It reads no clock: its callers bring
// the time. Its lock is held for memory work only.
type timetable struct {
	mu      sync.Mutex
	entries map[string]*entry
	heap    dueHeap
	late    []dueJob // due before a reload changed or removed them, and not taken yet
}

// entry is one job's place in the timetable.
type entry struct {
	job   *config.Job
	key   string    // what decides when it is due; equal keys keep next
	dues  *dues     // nil without a schedule
	next  time.Time // zero = never
	index int       // in the heap, -1 outside
}

// dueJob is a job whose time has come. Where the server was held up for so long
// that several of its times have passed, last is the one that counts.
type dueJob struct {
	job    *config.Job
	first  time.Time
	before time.Time // the last one of those that were missed; zero if none
	last   time.Time
	missed int64
}

func newTimetable() *timetable { return &timetable{entries: map[string]*entry{}} }

// timetableKey tells two definitions of a job apart as far as its times go.
func timetableKey(j *config.Job) string {
	return fmt.Sprintf("%q %s %t", j.Fields, j.Location, j.Enabled)
}

// load puts a new Set in force. Entries whose times did not change keep their
// place, and what of the others is due already is still taken: a reload between a
// due time and its firing loses nothing. It returns the jobs whose times begin
// now.
func (t *timetable) load(set *config.Set, now time.Time) (fresh []*config.Job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, e := range t.entries {
		if set.Jobs[name] == nil {
			t.keepDue(e, now)
			t.place(e, time.Time{})
			delete(t.entries, name)
		}
	}
	for _, name := range set.Order {
		job := set.Jobs[name]
		key := timetableKey(job)
		e := t.entries[name]
		if e != nil && e.key == key {
			e.job = job
			continue
		}
		if e == nil {
			e = &entry{index: -1}
			t.entries[name] = e
		}
		t.keepDue(e, now)
		e.job, e.key, e.dues = job, key, nil
		if job.Schedule != nil {
			e.dues = duesOf(job)
		}
		t.place(e, nextOf(job, now))
		fresh = append(fresh, job)
	}
	return fresh
}

// nextOf is a job's first due time after t, the zero time where there is none.
func nextOf(job *config.Job, t time.Time) time.Time {
	if job.Schedule == nil || !job.Enabled {
		return time.Time{}
	}
	return job.Schedule.Next(t)
}

// place moves an entry to where its next time belongs.
func (t *timetable) place(e *entry, next time.Time) {
	e.next = next
	switch {
	case next.IsZero() && e.index >= 0:
		heap.Remove(&t.heap, e.index)
	case next.IsZero():
	case e.index >= 0:
		heap.Fix(&t.heap, e.index)
	default:
		heap.Push(&t.heap, e)
	}
}

// take returns the jobs that are due at now, each moved on to its next time.
func (t *timetable) take(now time.Time) []dueJob {
	t.mu.Lock()
	defer t.mu.Unlock()
	due := t.late
	t.late = nil
	for len(t.heap) > 0 && !t.heap[0].next.After(now) {
		e := t.heap[0]
		d := e.due(now)
		due = append(due, d)
		t.place(e, e.job.Schedule.Next(d.last))
	}
	return due
}

// due is what an entry whose time has come is due for at now.
func (e *entry) due(now time.Time) dueJob {
	d := dueJob{job: e.job, first: e.next, last: e.next}
	if n := e.job.Schedule.Next(e.next); n.IsZero() || n.After(now) {
		return d
	}
	span := e.dues.in(e.next, now)
	d.last, d.missed, d.before = span.last, span.count, span.beforeLast
	if d.before.IsZero() {
		d.before = e.next
	}
	return d
}

// keepDue keeps what an entry is due for already before it changes. The lock is
// held.
func (t *timetable) keepDue(e *entry, now time.Time) {
	if e.index >= 0 && !e.next.After(now) {
		t.late = append(t.late, e.due(now))
	}
}

// restart computes every next time anew from now: the wall clock has gone back
// by so much that the old ones mean nothing any more.
func (t *timetable) restart(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		t.place(e, nextOf(e.job, now))
	}
}

// earliest is the next due time of all, the zero time where there is none.
func (t *timetable) earliest() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heap) == 0 {
		return time.Time{}
	}
	return t.heap[0].next
}

// nexts is every job's next due time; jobs that are never due are left out.
func (t *timetable) nexts() map[string]time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[string]time.Time, len(t.heap))
	for _, e := range t.heap {
		all[e.job.Name] = e.next
	}
	return all
}

// dueHeap orders entries by their next time.
type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].next.Before(h[j].next) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *dueHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.index = -1
	return e
}
