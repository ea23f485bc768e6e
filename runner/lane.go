package runner

import (
	"runtime"
	"slices"
)

// lane is where the tasks of one transport wait for their launch: so many are
// started at a time, in the order in which they came. Machines that did not answer
// last time have a lane of their own, since each start there may last until its
// deadline. It has goroutines only while somebody waits. Its fields belong to
// tasks.mu.
//
// On this machine a start takes less time than an fsync by itself costs, so launches
// are recorded ahead of their turn, many by one fsync; see waitTurn.
type lane struct {
	waiting []*task
	busy    int
	on      map[string]int // machines that are being launched on, and how often; nil: that is no matter
	turns   slots          // to start; nil: who is recorded is started
}

// launchesAtOnce is how many starts of one transport are under way together.
func launchesAtOnce(transport string) int {
	if transport == "local" {
		return max(4, 4*runtime.NumCPU())
	}
	return 128
}

const (
	launchesToSilent = 16  // on machines that did not answer
	launchesEach     = 8   // on one machine: sshd takes about ten commands on one connection
	launchesAhead    = 128 // recorded on this machine and waiting for their turn: a moment's work
)

// enqueue gives a task its place in the lane of its transport.
func (ts *tasks) enqueue(t *task) {
	_, machine := t.road()
	name, most := machine.Transport, launchesAtOnce(machine.Transport)
	if ts.reach.state(wayTo(machine)) == fails {
		name, most = name+" to silent machines", launchesToSilent
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.mu.Lock()
	t.enqueued = true
	t.mu.Unlock()
	if ts.closed {
		return // it stays queued: the next server finds it so
	}
	l := ts.lanes[name]
	if l == nil {
		l = &lane{}
		if machine.Transport != "local" {
			l.on = map[string]int{}
		} else {
			l.turns = make(slots, most)
		}
		ts.lanes[name] = l
	}
	if l.turns != nil {
		most += launchesAhead
	}
	l.waiting = append(l.waiting, t)
	if l.busy < most {
		l.busy++
		ts.wg.Go(func() { ts.work(l) })
	}
}

// work launches what waits in a lane until nothing does.
func (ts *tasks) work(l *lane) {
	for {
		ts.mu.Lock()
		t := l.next()
		if t == nil || ts.closed {
			l.busy--
			ts.mu.Unlock()
			return
		}
		ts.mu.Unlock()
		t.launch(ts.life, l.turns)
		ts.mu.Lock()
		l.done(t)
		ts.mu.Unlock()
	}
}

// next takes the first task whose machine has room; nil if there is none. Who
// launches on a machine without room comes back for what waits for it. The lock of
// tasks is held.
func (l *lane) next() *task {
	for i, t := range l.waiting {
		if l.on == nil {
			l.waiting[0] = nil
			l.waiting = l.waiting[1:]
			return t
		}
		if l.on[t.id.Machine] < launchesEach {
			l.on[t.id.Machine]++
			l.waiting = slices.Delete(l.waiting, i, i+1)
			return t
		}
	}
	return nil
}

// done gives the machine's room back. The lock of tasks is held.
func (l *lane) done(t *task) {
	if l.on == nil {
		return
	}
	if l.on[t.id.Machine]--; l.on[t.id.Machine] == 0 {
		delete(l.on, t.id.Machine)
	}
}
