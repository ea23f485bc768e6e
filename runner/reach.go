package runner

import (
	"context"
	"errors"
	"sync"
	"time"

	"saltpeter/runner/launch"
)

// reach is what this server knows of its ways to machines: which have answered,
// and which failed when they were last tried. Nothing of it outlives the server: a
// way that has not been tried since the start is not claimed to be open.
type reach struct {
	mu   sync.Mutex
	ways map[way]*news
}

// way is one transport to one machine.
type way struct{ transport, machine string }

func wayTo(m launch.Machine) way { return way{m.Transport, m.Name} }

type news struct {
	answered time.Time // when it last did; zero: never
	failed   time.Time // since when it has not; zero: it does
}

// State of a way.
type reachable int

const (
	untried reachable = iota
	answers
	fails
)

func (r *reach) state(w way) reachable {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.ways[w]
	switch {
	case n == nil && w.transport == "local":
		return answers // nothing lies in between
	case n == nil:
		return untried
	case !n.failed.IsZero():
		return fails
	}
	return answers
}

// note takes what came of a call and reports whether a way is open again that had
// failed.
func (r *reach) note(w way, ok bool, now time.Time) (reopened bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.ways[w]
	if n == nil {
		n = &news{}
		if r.ways == nil {
			r.ways = map[way]*news{}
		}
		r.ways[w] = n
	}
	if ok {
		reopened = !n.failed.IsZero()
		n.answered, n.failed = now, time.Time{}
		return reopened
	}
	if n.failed.IsZero() {
		n.failed = now
	}
	return false
}

// tried takes what came of a call to a machine. A road that opens is news for
// everybody who waits for it: kills that stand, and questions that were put off.
func (ts *tasks) tried(ctx context.Context, m launch.Machine, err error) {
	if err != nil && (ctx.Err() != nil && !errors.Is(err, launch.ErrUnreachable) ||
		errors.Is(err, launch.ErrClosed) || errors.Is(err, launch.ErrNoTransport)) {
		return // we gave up, which says nothing about the road
	}
	if !ts.reach.note(wayTo(m), err == nil, time.Now()) {
		return
	}
	ts.o.Log.Info("the machine can be reached again", "machine", m.Name, "via", m.Transport)
	for _, t := range ts.every() {
		if transport, machine := t.road(); transport != nil && wayTo(machine) == wayTo(m) {
			t.roadOpened(time.Now())
		}
	}
}

// roadOpened goes on with what waits for the other road.
func (t *task) roadOpened(now time.Time) {
	t.mu.Lock()
	if !t.checkAt.IsZero() && t.checkAt.After(now) {
		t.checkAt, t.checkWait = now, t.ts.pace.recheck
	}
	k := t.kill
	if k != nil && !k.settled {
		k.nextTry, k.wait = time.Time{}, t.ts.pace.retry
	}
	t.mu.Unlock()
	if k != nil {
		k.look()
	}
}

// places bounds how many calls of one kind are under way. Those to machines that
// did not answer last time have places of their own: each of them may last until
// its deadline, and however many there are, the others are not held up. No machine
// takes more than a few, so that even those that fell silent a moment ago cannot
// take them all.
type places struct {
	local, far, silent slots
	each               int // for one machine; 0 = as many as there are

	mu  sync.Mutex
	own map[way]*ownSlots
}

type ownSlots struct {
	slots slots
	users int
}

func newPlaces(local, far, silent, each int) *places {
	return &places{local: make(slots, local), far: make(slots, far), silent: make(slots, silent), each: each, own: map[way]*ownSlots{}}
}

// take waits for a place and returns what gives it back; false if ctx ends first.
func (p *places) take(ctx context.Context, m launch.Machine, r *reach) (give func(), ok bool) {
	w := wayTo(m)
	if w.transport == "local" {
		return p.local.give, p.local.take(ctx)
	}
	own := p.use(w)
	if !own.slots.take(ctx) {
		p.leave(w)
		return nil, false
	}
	shared := p.far
	if r.state(w) == fails {
		shared = p.silent
	}
	if !shared.take(ctx) {
		own.slots.give()
		p.leave(w)
		return nil, false
	}
	return func() {
		shared.give()
		own.slots.give()
		p.leave(w)
	}, true
}

func (p *places) use(w way) *ownSlots {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.own[w]
	if own == nil {
		own = &ownSlots{slots: make(slots, p.each)}
		p.own[w] = own
	}
	own.users++
	return own
}

func (p *places) leave(w way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.own[w]
	if own.users--; own.users == 0 {
		delete(p.own, w)
	}
}
