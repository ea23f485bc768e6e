package api

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"saltpeter/config"
	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// uiTick is how often every page gets a status.
const uiTick = 2 * time.Second

// board is what all pages look at: the newest run of each job, and everything that
// runs. It follows the runner's changes while there are clients, in one goroutine,
// which pokes them; they fetch what they need themselves, so that nobody waits for
// anybody. Lock order: board.mu, then text.mu.
type board struct {
	runner  *runner.Runner
	book    *ledger.Ledger
	version string
	log     *slog.Logger

	mu      sync.Mutex
	clients map[*uiClient]bool
	stop    context.CancelFunc // of the goroutine; nil while there is none
	done    chan struct{}      // closed when it has ended
	ready   chan struct{}      // closed once everything is known

	// What is known; it belongs to mu.
	set    *config.Set
	rev    int64
	setRev int64
	heads  map[string]*ledger.Run
	tasks  map[string]map[ledger.TaskID]*runner.TaskStatus
	failed map[string]bool // jobs whose last run that ended, beside the newest one, failed
	unsure map[string]bool // jobs of which that is to be looked up
	change map[string]int64
	views  map[string]*jobView // those that are not out of date
	texts  map[ledger.TaskID]*text
	snap   *snapshot
	beyond []string // jobs that are shown though they are not in the job files
}

func newBoard(o *Options) *board {
	return &board{runner: o.Runner, book: o.Ledger, version: o.Version, log: o.Log, clients: map[*uiClient]bool{}}
}

// join makes a client known; the first one sets the board going.
func (b *board) join(c *uiClient) (ready <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clients[c] = true
	if b.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		b.stop, b.done, b.ready = cancel, make(chan struct{}), make(chan struct{})
		b.forget()
		go b.run(ctx, b.done, b.ready)
	}
	return b.ready
}

// leave takes a client away; with the last one the board stops.
func (b *board) leave(c *uiClient) {
	b.mu.Lock()
	delete(b.clients, c)
	var done chan struct{}
	if len(b.clients) == 0 && b.stop != nil {
		b.stop()
		done = b.done
		b.stop = nil
		b.beyond = nil
	}
	b.mu.Unlock()
	if done != nil {
		<-done
	}
}

// forget empties the board. The lock is held.
func (b *board) forget() {
	b.newSet()
	b.snap = nil
	b.heads, b.tasks = map[string]*ledger.Run{}, map[string]map[ledger.TaskID]*runner.TaskStatus{}
	b.failed, b.unsure = map[string]bool{}, map[string]bool{}
	b.views = map[string]*jobView{}
	if b.texts == nil {
		b.texts = map[ledger.TaskID]*text{}
		b.change = map[string]int64{}
	}
	b.rev++
}

// newSet puts the job files in force. The lock is held.
func (b *board) newSet() {
	if set := b.runner.Config(); set != b.set {
		b.set = set
		b.rev++
		b.setRev++
	}
}

// run follows the runner until ctx ends.
func (b *board) run(ctx context.Context, done, ready chan struct{}) {
	defer close(done)
	defer b.closeAll()
	first := true
	for ctx.Err() == nil {
		watching, stop := context.WithCancel(ctx)
		changes := b.runner.Watch(watching, 4*watchBuffer) // before the look, so that nothing falls between
		if err := b.load(ctx); err != nil {
			if ctx.Err() == nil {
				b.log.Error("cannot look at the runs for the pages", "err", err)
			}
		} else {
			b.settle(ctx)
			if first {
				close(ready)
				first = false
			}
			b.follow(ctx, changes)
		}
		stop()
		pause(ctx, 200*time.Millisecond)
	}
}

// follow takes changes until there are no more, or it fell behind.
func (b *board) follow(ctx context.Context, changes <-chan runner.Change) {
	tick := time.NewTicker(uiTick)
	defer tick.Stop()
	for {
		select {
		case c, open := <-changes:
			if !open {
				return
			}
			b.apply(c)
			b.settle(ctx)
		case <-tick.C:
			b.refresh()
			b.restAll(readerIdle)
		case <-ctx.Done():
			return
		}
	}
}

// load looks at everything.
func (b *board) load(ctx context.Context) error {
	status, err := b.runner.Status(ctx)
	if err != nil {
		return err
	}
	beyond, err := b.newestBeyond(ctx)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	heads, had := b.heads, b.tasks
	b.forget()
	for _, j := range status.Jobs {
		if j.Last == nil {
			continue
		}
		head := *j.Last
		head.Tasks = nil
		b.heads[j.Name] = &head
		for _, t := range j.Last.Tasks {
			b.put(&runner.TaskStatus{Task: t})
		}
	}
	for i := range status.Tasks {
		b.put(&status.Tasks[i])
	}
	for job, head := range b.heads {
		if ended, _ := wentWell(head.Reason, tasksOf(head.ID, b.tasks[job])); !ended {
			b.unsure[job] = true
		}
	}
	b.bringBack(beyond, heads, had)
	for job := range had {
		b.change[job]++
	}
	for job := range b.tasks {
		b.change[job]++
	}
	for _, t := range b.texts {
		t.stale.Store(true)
	}
	b.poke()
	return nil
}

// put makes a task known as it is now. The lock is held.
func (b *board) put(t *runner.TaskStatus) {
	tasks := b.tasks[t.Job]
	if tasks == nil {
		tasks = map[ledger.TaskID]*runner.TaskStatus{}
		b.tasks[t.Job] = tasks
	}
	tasks[t.TaskID] = t
	delete(b.views, t.Job)
	b.rev++
}

// apply takes one change.
func (b *board) apply(c runner.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case c.Kind == runner.ChangeConfig:
		b.newSet()
	case c.Run != nil:
		b.began(c.Run)
	case c.Task != nil:
		b.news(c.Task)
	case c.Kind == runner.ChangeOutput:
		if t := b.texts[c.ID]; t != nil {
			t.tell(c.Length)
		}
	default:
		return
	}
	b.poke()
}

// began takes a new run: what was over of the job's earlier ones is shown no more.
func (b *board) began(r *ledger.Run) {
	if head := b.heads[r.Job]; head == nil || !r.Due.Before(head.Due) {
		if head != nil && head.ID != r.ID {
			if ended, ok := wentWell(head.Reason, tasksOf(head.ID, b.tasks[r.Job])); ended {
				b.failed[r.Job] = !ok
			}
		}
		head := *r
		head.Tasks = nil
		b.heads[r.Job] = &head
		for id, t := range b.tasks[r.Job] {
			if id.Run != r.ID && over(t) {
				delete(b.tasks[r.Job], id)
				b.drop(id)
			}
		}
	}
	for _, t := range r.Tasks {
		if b.tasks[r.Job][t.TaskID] == nil { // else later news of it came first
			b.put(&runner.TaskStatus{Task: t})
		}
	}
	delete(b.views, r.Job)
	b.rev++
	b.change[r.Job]++
}

// drop lets go of a text. A client that still shows it keeps its own hold.
func (b *board) drop(id ledger.TaskID) {
	if t := b.texts[id]; t != nil {
		delete(b.texts, id)
		t.rest(0)
	}
}

// news takes what a task is now. Old news (the look was later) change nothing.
func (b *board) news(t *runner.TaskStatus) {
	was := b.tasks[t.Job][t.TaskID]
	if was != nil && was.State.Done() && was.State != ledger.Lost && !t.State.Done() {
		return
	}
	b.put(t)
	if head := b.heads[t.Job]; head != nil && head.ID != t.Run && t.State.Done() && (was == nil || !was.State.Done()) {
		b.unsure[t.Job] = true
	}
	if was == nil || live(was.State) != live(t.State) || was.State.Done() != t.State.Done() || over(was) != over(t) || len(was.Notes) != len(t.Notes) {
		b.change[t.Job]++
		if text := b.texts[t.TaskID]; text != nil {
			text.stale.Store(true)
		}
	}
}

// refresh takes what only memory knows of the tasks: when they were last heard of.
func (b *board) refresh() {
	tasks := b.runner.Tasks()
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range tasks {
		if was := b.tasks[tasks[i].Job][tasks[i].TaskID]; was != nil {
			b.news(&tasks[i])
		}
	}
}

// restAll closes files that nobody reads.
func (b *board) restAll(idle time.Duration) {
	b.mu.Lock()
	texts := slices.Collect(maps.Values(b.texts))
	b.mu.Unlock()
	for _, t := range texts {
		t.rest(idle)
	}
}

// closeAll lets go of every text, unless somebody has joined again meanwhile.
func (b *board) closeAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop != nil {
		return
	}
	for id := range b.texts {
		b.drop(id)
	}
}

// poke wakes every client. The lock is held.
func (b *board) poke() {
	for c := range b.clients {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// textOf is the shared text of a task. The lock is held.
func (b *board) textOf(id ledger.TaskID) *text {
	t := b.texts[id]
	if t == nil {
		t = newText(b.book, id)
		b.texts[id] = t
	}
	return t
}

// now is everything at this moment. seen takes how far its jobs have come.
func (b *board) now(seen map[string]int64) *snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	for job := range seen {
		seen[job] = b.change[job]
	}
	if b.snap != nil && b.snap.rev == b.rev {
		return b.snap
	}
	s := &snapshot{rev: b.rev, set: b.set, jobs: make(map[string]*jobView, len(b.heads))}
	add := func(job string) {
		v := b.views[job]
		if v == nil {
			v = viewJob(b.heads[job], b.tasks[job], b.failed[job], b.change[job], b.textOf)
			b.views[job] = v
		}
		s.jobs[job] = v
		s.running = append(s.running, v.running...)
	}
	for job := range b.heads {
		add(job)
	}
	for job, tasks := range b.tasks {
		if s.jobs[job] == nil && len(tasks) > 0 {
			add(job)
		}
	}
	slices.SortFunc(s.running, func(a, c runView) int { return slices.Compare([]string{a.Started, a.id}, []string{c.Started, c.id}) })
	s.status = s.statusFrame(b.version, s.running)
	b.snap = s
	return s
}

// since reports whether something that a client watches has changed since.
func (b *board) since(setRev int64, seen map[string]int64) (reloaded, changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for job, change := range seen {
		changed = changed || b.change[job] != change
	}
	return b.setRev != setRev, changed
}

// config is the job files in force, and which they are.
func (b *board) config() (*config.Set, int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.set, b.setRev
}
